//! What most applications do.

use futures_core::Stream;
use millrace_client::{HistoryClass, Position, Start, State};

use crate::server::{Server, Transport};
use crate::{builder, in_time, next_message};

on_every_transport! {
    what_is_sent_is_stored_and_read,
    messages_of_one_sender_keep_their_order,
    history_is_read_page_by_page,
    a_subscription_begins_where_it_is_told,
    a_channel_is_a_stream_and_a_client_reads_many,
}

async fn what_is_sent_is_stored_and_read(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    assert!(matches!(client.state(), State::Connected { node, .. } if &*node == "model"));
    let mut channel = client.subscribe("general").await.unwrap();
    assert_eq!(
        (channel.name(), channel.history_class(), channel.can_publish()),
        ("general", HistoryClass::Durable, true)
    );
    assert_eq!(channel.position().offset, 0);

    let position = in_time(channel.send("hi")).await.unwrap();
    assert_eq!(position.offset, 1);
    let message = next_message(&mut channel).await;
    assert_eq!((message.position, &message.text()[..], &*message.user), (position, "hi", "user"));
    server.node(|node| node.publish("general", "größe 世界".as_bytes()));
    assert_eq!(next_message(&mut channel).await.text(), "größe 世界");
    assert_eq!(channel.position().offset, 2);
    client.close().await.unwrap();
    assert!(in_time(channel.next()).await.is_none());
}

async fn messages_of_one_sender_keep_their_order(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).window(16, 1 << 20).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    let mut tickets = vec![];
    for number in 0..1_000 {
        tickets.push(in_time(sender.submit(number.to_string())).await.unwrap());
    }
    let mut offsets = vec![];
    for ticket in tickets {
        offsets.push(in_time(ticket).await.unwrap().offset);
    }
    assert_eq!(offsets, (1..=1_000).collect::<Vec<_>>());
    let bodies =
        server.node(|node| node.channels["general"].stored.iter().map(|it| it.body.clone()).collect::<Vec<_>>());
    assert_eq!(bodies, (0..1_000).map(|number: u32| number.to_string().into_bytes()).collect::<Vec<_>>());
}

async fn history_is_read_page_by_page(transport: Transport) {
    let server = Server::start(1, transport).await;
    server.node(|node| (0..12).for_each(|number: u8| node.publish("general", &[number])));
    let client = builder(&server).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    let offsets = |page: &millrace_client::Page| page.messages.iter().map(|it| it.position.offset).collect::<Vec<_>>();
    let page = sender.history().await.unwrap();
    assert_eq!((offsets(&page), page.more), (vec![8, 9, 10, 11, 12], true));
    let page = sender.history().before(8).limit(3).await.unwrap();
    assert_eq!((offsets(&page), page.more), (vec![5, 6, 7], true));
    let page = sender.history().before(0).await.unwrap();
    assert_eq!((offsets(&page), page.more), (vec![], false));
    let page = sender.history().after(10).await.unwrap();
    assert_eq!((offsets(&page), page.more), (vec![11, 12], false));
}

async fn a_subscription_begins_where_it_is_told(transport: Transport) {
    let server = Server::start(1, transport).await;
    server.node(|node| (0..30).for_each(|number: u8| node.publish("general", &[number])));
    let client = builder(&server).connect().await.unwrap();
    let mut starts: Vec<(Start, u64)> =
        vec![(Start::Live, 31), (Start::AfterOffset(0), 1), (Start::AfterOffset(25), 26)];
    let epoch = client.subscribe("general").await.unwrap().position().epoch;
    starts.push((Position { epoch, offset: 20 }.into(), 21));
    starts.push((Position { epoch, offset: 3 }.into(), 4));
    for (start, first) in starts {
        let mut channel = in_time(client.subscribe_from("general", start)).await.unwrap();
        if start == Start::Live {
            server.node(|node| node.publish("general", b"new"));
        }
        for offset in first..=31 {
            assert_eq!(next_message(&mut channel).await.position.offset, offset, "{start:?}");
        }
    }
}

async fn a_channel_is_a_stream_and_a_client_reads_many(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let mut general = client.subscribe("general").await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    server.node(|node| {
        node.publish("news", b"n");
        node.publish("general", b"g");
    });
    let next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut general).poll_next(cx));
    assert!(matches!(in_time(next).await, Some(millrace_client::Event::Message(message)) if message.body == "g"));
    assert_eq!(next_message(&mut news).await.body, "n");
}
