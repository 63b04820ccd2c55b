//! Beginnings and ends: of clients, of handles, of futures.

use std::time::Duration;

use millrace_client::{Awaited, Error, Event, State};

use crate::server::{Server, Transport};
use crate::{builder, in_time, next_message};

on_every_transport! {
    the_state_can_be_watched,
    a_client_answers_pings_and_leaves_when_it_is_told,
    a_silent_connection_is_replaced,
    closing_flushes_and_ends_everything,
    closing_does_not_wait_for_ever,
    the_last_handle_ends_the_client,
    a_dropped_channel_is_unsubscribed_and_its_senders_go_on,
    dropped_futures_lose_nothing,
    a_session_that_is_ended_ends_its_subscriptions,
}

async fn the_state_can_be_watched(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect_lazy().unwrap();
    let mut watch = client.watch_state();
    // It connects in another thread, and may be there by now.
    let state = match watch.current() {
        State::Connecting => in_time(watch.changed()).await.unwrap(),
        state => state,
    };
    assert!(state.is_connected(), "{state:?}");
    // It is let in again when it has been seen outside.
    server.stall(true);
    server.hang_up();
    assert!(matches!(in_time(watch.changed()).await, Some(State::Reconnecting { .. })));
    server.stall(false);
    while !in_time(watch.changed()).await.unwrap().is_connected() {}
    client.close().await.unwrap();
    assert!(matches!(in_time(watch.changed()).await, Some(State::Closed { error: None })));
    assert!(in_time(watch.changed()).await.is_none());
}

async fn a_client_answers_pings_and_leaves_when_it_is_told(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    // Over QUIC its acknowledgement is the answer.
    let is_acknowledged = matches!(transport, Transport::Quic);
    server.node(|node| node.ping());
    in_time(server.until(|node| is_acknowledged || node.pongs == 1)).await;
    server.node(|node| node.go_away(0));
    in_time(server.until(|node| node.hellos == 2 && (node.pongs == 0) == is_acknowledged)).await;
    in_time(channel.send("x")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "x");
}

/// A node whose machine is gone sends nothing, not even an end.
async fn a_silent_connection_is_replaced(transport: Transport) {
    let server = Server::start(1, transport).await;
    server.node(|node| node.heartbeat_ms = 50);
    let client = builder(&server).connect().await.unwrap();
    let mut watch = client.watch_state();
    watch.current();
    // Who looks away for long finds it connected again, to a node that is silent again.
    let error = loop {
        match in_time(watch.changed()).await {
            Some(State::Reconnecting { error, .. }) => break error,
            Some(State::Connected { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(error, Error::TimedOut(Awaited::Heartbeat)), "{error:?}");
    server.node(|node| node.heartbeat_ms = 60_000);
    while !in_time(watch.changed()).await.unwrap().is_connected() {}
}

async fn closing_flushes_and_ends_everything(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    let sender = client.sender("news").await.unwrap();
    let mut tickets = vec![];
    for _ in 0..200 {
        tickets.push(sender.submit("x").await.unwrap());
    }
    in_time(client.close()).await.unwrap();
    for ticket in tickets {
        in_time(ticket).await.unwrap();
    }
    assert_eq!(server.node(|node| node.channels["news"].stored.len()), 200);
    assert!(in_time(channel.next()).await.is_none(), "no event: the application wanted it");
    assert!(matches!(sender.submit("x").await, Err(Error::Closed)));
    assert!(matches!(client.subscribe("general").await, Err(Error::Closed)));
    in_time(client.close()).await.unwrap();
}

async fn closing_does_not_wait_for_ever(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).close_timeout(Duration::from_millis(50)).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    server.stall(true);
    let ticket = sender.submit("x").await.unwrap();
    assert!(matches!(in_time(client.close()).await, Err(Error::TimedOut(Awaited::Flush))));
    assert!(matches!(in_time(ticket).await, Err(Error::Unconfirmed { .. })));
}

async fn the_last_handle_ends_the_client(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut watch = client.watch_state();
    watch.current();
    let sender = client.sender("general").await.unwrap();
    drop(client);
    let ticket = in_time(sender.submit("last words")).await.unwrap();
    drop(sender);
    in_time(ticket).await.unwrap();
    while let Some(state) = in_time(watch.changed()).await {
        assert!(matches!(state, State::Closed { error: None }), "{state:?}");
    }
}

async fn a_dropped_channel_is_unsubscribed_and_its_senders_go_on(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let channel = client.subscribe("general").await.unwrap();
    let sender = channel.sender();
    drop(channel);
    in_time(server.until(|node| node.session.get("general") == Some(&false))).await;
    in_time(sender.send("x")).await.unwrap();
    drop(sender);
    in_time(server.until(|node| node.session.is_empty())).await;
    // And it can be opened again.
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("y")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "y");
}

async fn dropped_futures_lose_nothing(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    server.stall(true);
    // A subscription that nobody waits for any more does not stay.
    assert!(tokio::time::timeout(Duration::from_millis(20), client.subscribe("news")).await.is_err());
    server.stall(false);
    // And does not stand in the way of another.
    drop(in_time(client.subscribe("news")).await.unwrap());
    let mut channel = in_time(client.subscribe("general")).await.unwrap();
    in_time(server.until(|node| !node.session.contains_key("news"))).await;
    for offset in 1..=20 {
        // A reader that looks elsewhere between any two polls.
        assert!(tokio::time::timeout(Duration::ZERO, channel.next()).await.is_err());
        server.node(|node| node.publish("general", b"x"));
        assert_eq!(next_message(&mut channel).await.position.offset, offset);
    }
    let news = in_time(client.subscribe("news")).await;
    assert!(news.is_ok(), "{news:?}");
}

async fn a_session_that_is_ended_ends_its_subscriptions(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    server.node(|node| node.closing = Some(millrace_client::Code::Ended));
    match in_time(channel.next()).await {
        Some(Event::Ended(error)) => assert_eq!(error.code(), Some(millrace_client::Code::Ended)),
        other => panic!("{other:?}"),
    }
    assert!(in_time(channel.next()).await.is_none());
    assert_eq!(in_time(client.close()).await.unwrap_err().code(), Some(millrace_client::Code::Ended));
}
