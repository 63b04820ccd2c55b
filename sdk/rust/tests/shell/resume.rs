//! Connections that break at any byte.

use millrace_client::{Event, Start};

use crate::server::{Server, Transport};
use crate::{builder, in_time, next_message};

on_every_transport! {
    a_connection_that_breaks_at_any_byte_loses_nothing,
    what_was_missed_comes_before_what_is_new,
    lost_history_is_told,
}

/// Nothing acknowledged is lost, nothing is stored twice, and the reader sees what is stored.
async fn a_connection_that_breaks_at_any_byte_loses_nothing(transport: Transport) {
    const MESSAGES: u64 = 400;
    for seed in 0..6 {
        let server = Server::start(seed, transport).await;
        server.cut_below(Some(12_000));
        let client = builder(&server).window(32, 1 << 20).connect_lazy().unwrap();
        let mut channel = in_time(client.subscribe_from("general", Start::AfterOffset(0))).await.unwrap();
        let sender = channel.sender();
        let sending = tokio::spawn(async move {
            let mut positions = vec![];
            let mut tickets = std::collections::VecDeque::new();
            for number in 0..MESSAGES {
                tickets.push_back(sender.submit(number.to_string()).await.unwrap());
                if tickets.len() == 8 {
                    positions.push(tickets.pop_front().unwrap().await.unwrap());
                }
            }
            for ticket in tickets {
                positions.push(ticket.await.unwrap());
            }
            positions
        });
        let mut seen = vec![];
        while seen.len() < usize::try_from(MESSAGES).unwrap() {
            let message = next_message(&mut channel).await;
            seen.push((message.position, message.text().parse::<u64>().unwrap()));
        }
        let positions = in_time(sending).await.unwrap();
        let expect: Vec<_> = positions.into_iter().zip(0..).collect();
        assert_eq!(seen, expect, "seed {seed}");
        assert_eq!(server.node(|node| node.channels["general"].stored.len() as u64), MESSAGES, "seed {seed}");
        assert!(server.connections() > 5, "seed {seed}: only {} connections", server.connections());
        server.cut_below(None);
        client.close().await.unwrap();
    }
}

async fn what_was_missed_comes_before_what_is_new(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut general = client.subscribe("general").await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    for round in 0..5_u64 {
        let connections = server.connections();
        server.node(|node| node.publish("general", b"before"));
        assert_eq!(next_message(&mut general).await.position.offset, round * 41 + 1);
        server.hang_up();
        // More than a resume replays, and less.
        server.node(|node| (0..40).for_each(|_| node.publish("general", b"missed")));
        server.node(|node| (0..4).for_each(|_| node.publish("news", b"missed")));
        for offset in 2..=41 {
            assert_eq!(next_message(&mut general).await.position.offset, round * 41 + offset);
        }
        for offset in 1..=4 {
            assert_eq!(next_message(&mut news).await.position.offset, round * 4 + offset);
        }
        assert!(server.connections() > connections);
    }
}

async fn lost_history_is_told(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    channel.send("a").await.unwrap();
    next_message(&mut channel).await;
    server.hang_up();
    server.node(|node| {
        let channel = node.channels.get_mut("general").unwrap();
        channel.epoch = channel.epoch.next();
    });
    match in_time(channel.next()).await {
        Some(Event::Reset { reason, position }) => {
            assert_eq!((reason, position.epoch.get(), position.offset), (millrace_client::Code::EpochChanged, 2, 1));
        }
        other => panic!("{other:?}"),
    }
    channel.send("b").await.unwrap();
    assert_eq!(next_message(&mut channel).await.position.offset, 2);
}
