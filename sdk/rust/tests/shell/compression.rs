//! Messages that are compressed on a WebSocket, where both sides want that.

use millrace_client::{Compression, Start};

use crate::server::{Compressed, Server, Transport};
use crate::{builder, in_time, next_message};

/// Text that shrinks, kilobytes of it.
fn long(number: u64) -> String {
    format!("{number}: ").repeat(2_000)
}

#[tokio::test]
async fn large_messages_are_compressed_both_ways_and_small_ones_are_not_sent_so() {
    for transport in [Transport::Ws, Transport::Wss] {
        let server = Server::start(1, transport).await;
        let client = builder(&server).compression(Compression::Offered).connect().await.unwrap();
        let mut channel = client.subscribe("general").await.unwrap();
        in_time(channel.send("a small one")).await.unwrap();
        assert_eq!(next_message(&mut channel).await.text(), "a small one");
        assert_eq!(server.compressed().received_to, 0);
        for number in 0..3 {
            in_time(channel.send(long(number))).await.unwrap();
            assert_eq!(next_message(&mut channel).await.text(), long(number));
        }
        let Compressed { sent, sent_from, received_to } = server.compressed();
        assert!(received_to > 3 * long(0).len() as u64, "{transport:?}: {received_to} bytes came compressed");
        assert!(sent_from > 3 * long(0).len() && sent < sent_from / 4, "{transport:?}: {sent_from} became {sent}");
        client.close().await.unwrap();
    }
}

/// Whatever the bytes are cut into, and whatever breaks.
#[tokio::test]
async fn a_connection_that_breaks_at_any_byte_loses_nothing_that_is_compressed() {
    const MESSAGES: u64 = 60;
    for seed in 0..4 {
        let server = Server::start(seed, Transport::Ws).await;
        server.cut_below(Some(2_000));
        let builder = builder(&server).compression(Compression::Offered);
        let client = builder.window(8, 1 << 20).connect_lazy().unwrap();
        let mut channel = in_time(client.subscribe_from("general", Start::AfterOffset(0))).await.unwrap();
        let sender = channel.sender();
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                sender.send(long(number)).await.unwrap();
            }
        });
        for number in 0..MESSAGES {
            assert_eq!(next_message(&mut channel).await.text(), long(number), "seed {seed}");
        }
        in_time(sending).await.unwrap();
        assert!(server.connections() > 3, "seed {seed}: only {} connections", server.connections());
        server.cut_below(None);
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_compressed_that_nobody_asked_for() {
    let server = Server::start(1, Transport::Ws).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send(long(1))).await.unwrap();
    assert_eq!(next_message(&mut channel).await.text(), long(1));
    assert_eq!(server.compressed(), Compressed::default());
    client.close().await.unwrap();
}
