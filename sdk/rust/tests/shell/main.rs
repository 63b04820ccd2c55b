//! The SDK as an application sees it, over real sockets on a port of the system's choice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the model fails a test by failing")]

/// Tests that hold whatever carries the frames: each is run over every transport.
macro_rules! on_every_transport {
    ($($test:ident),* $(,)?) => {
        on_every_transport!(ws Ws: $($test)*);
        on_every_transport!(wss Wss: $($test)*);
        on_every_transport!(quic Quic: $($test)*);
    };
    ($module:ident $transport:ident: $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::server::Transport::$transport).await;
                }
            )*
        }
    };
}

mod backpressure;
mod certificate;
mod chat;
mod compression;
mod lifecycle;
mod nat;
mod node;
mod quic;
mod refusals;
mod resume;
mod server;
mod tls;

use std::time::Duration;

use millrace_client::{Builder, Client, Error, Event, Message};

use crate::server::Server;

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(server: &Server) -> Builder {
    let builder = Client::builder(server.url()).ca(server.ca());
    builder.token("token").backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// An error with all that is behind it.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
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
