//! Slow readers, slow nodes: every queue has an end.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use crate::server::{Server, Transport};
use crate::{builder, in_time, next_message};

on_every_transport! {
    a_channel_that_is_not_read_costs_its_queue_and_nobody_else,
    a_fast_sender_waits_for_its_window,
    a_node_that_does_not_read_stops_the_sender,
}

fn is_pending<T>(future: impl Future<Output = T>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

async fn a_channel_that_is_not_read_costs_its_queue_and_nobody_else(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).queue(8, 1 << 20).connect().await.unwrap();
    let mut general = client.subscribe("general").await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    server.node(|node| (0..100).for_each(|_| node.publish("general", b"flood")));
    // The client stops taking messages of this channel, and says so.
    in_time(server.until(|node| node.session.get("general") == Some(&false))).await;
    for offset in 1..=50 {
        server.node(|node| {
            node.publish("general", b"flood");
            node.publish("news", b"n");
        });
        assert_eq!(next_message(&mut news).await.position.offset, offset);
    }
    // It still publishes there.
    in_time(general.send("mine")).await.unwrap();
    for offset in 1..=151 {
        assert_eq!(next_message(&mut general).await.position.offset, offset);
    }
    // Once it has caught up it is live again.
    in_time(server.until(|node| node.session.get("general") == Some(&true))).await;
}

async fn a_fast_sender_waits_for_its_window(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).window(4, 100).connect().await.unwrap();
    let general = client.sender("general").await.unwrap();
    let news = client.sender("news").await.unwrap();
    server.stall(true);
    let mut tickets = vec![];
    for _ in 0..4 {
        tickets.push(in_time(general.submit("x")).await.unwrap());
    }
    assert!(is_pending(general.submit("x")), "four messages are under way");
    let large = in_time(news.submit(vec![0; 1_000])).await.unwrap();
    assert!(is_pending(news.submit("x")), "as many bytes are under way as may be");
    server.stall(false);
    for ticket in tickets {
        in_time(ticket).await.unwrap();
    }
    in_time(large).await.unwrap();
    in_time(news.send("x")).await.unwrap();
}

/// What the node does not read stays within the window and the socket; heartbeats go on.
async fn a_node_that_does_not_read_stops_the_sender(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).window(1_000_000, u32::MAX >> 4).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    let mut channel = client.subscribe("news").await.unwrap();
    server.stall(true);
    let mut tickets = vec![];
    for _ in 0..1_000 {
        tickets.push(in_time(sender.submit(vec![7; 16_000])).await.unwrap());
    }
    for offset in 1..=20 {
        server.node(|node| node.publish("news", b"n"));
        assert_eq!(next_message(&mut channel).await.position.offset, offset);
    }
    server.stall(false);
    for ticket in tickets {
        in_time(ticket).await.unwrap();
    }
}
