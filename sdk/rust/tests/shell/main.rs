//! The SDK as an application sees it, over real sockets on a port of the system's choice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the model fails a test by failing")]

mod backpressure;
mod chat;
mod lifecycle;
mod node;
mod refusals;
mod resume;
mod server;

use std::time::Duration;

use millrace_client::{Builder, Client, Event, Message};

use crate::server::Server;

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(server: &Server) -> Builder {
    Client::builder(server.url()).token("token").backoff(Duration::from_millis(1), Duration::from_millis(20))
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// The next event, which must be a message.
async fn next_message(channel: &mut millrace_client::Channel) -> Message {
    match in_time(channel.next()).await {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}
