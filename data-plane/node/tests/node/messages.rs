//! Messages through a node of two shards: accepted, acknowledged, delivered, read again.

use millrace_data::Config;
use millrace_protocol::Code;
use millrace_protocol::client::{HistoryRange, Start};
use millrace_protocol::node::HistoryClass;

use crate::support::{Client, Control, Frame, Hello, admin, config, door, metric, node, stop};

/// Offsets and bodies of a channel.
type Stored = Vec<(u64, Vec<u8>)>;

/// Connects clients until both shards have some: the kernel places them by a hash of their addresses.
fn clients_on_both_shards(node: &millrace_data::DataNode, control: &Control) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        clients.push(Client::connect(door(node), &control.token("ann")));
        assert!(clients.len() < 64, "64 connections on one shard of two");
        let (_, json) = admin(node, "/v1/node");
        let shown: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let shards = shown["shards"].as_array().expect("a list");
        if shards.iter().all(|shard| shard["sessions"].as_u64() > Some(0)) {
            return clients;
        }
    }
}

#[test]
fn everyone_on_every_shard_sees_the_same_messages_in_the_same_order() {
    same_for_all(config());
}

/// With hardly any room between shards hops wait, and live interest lags and catches up.
#[test]
fn full_rings_lose_nothing() {
    assert!(same_for_all(Config { ring_slots: 16, ..config() }) > 0.0, "no ring was ever full");
}

/// Returns how often a ring was full.
fn same_for_all(config: Config) -> f64 {
    const MESSAGES: u64 = 200;
    let control = Control::new();
    // Neighbouring numbers: one home on each shard.
    let channels = [
        control.channel("one", HistoryClass::Durable, &["ann"]),
        control.channel("two", HistoryClass::Windowed, &["ann"]),
    ];
    let node = node(&control, config);
    let mut clients = clients_on_both_shards(&node, &control);
    for client in &mut clients {
        client.subscribe("one", Start::Live);
        client.subscribe("two", Start::Live);
    }
    let body = |client: usize, sequence: u64| format!("{client}:{sequence}").into_bytes();
    let mut asked = Vec::new();
    for sequence in 1..=MESSAGES {
        for (index, client) in clients.iter_mut().enumerate().take(2) {
            for channel in channels {
                let request = client.publish(channel, 77 + index as u64, sequence, &body(index, sequence));
                asked.push((index, request));
            }
        }
    }
    for (index, request) in asked {
        assert!(!clients[index].acknowledged(request).duplicate);
    }
    // Each client sees each channel's messages from 1 without a gap, the same for all.
    let mut seen: Option<[Stored; 2]> = None;
    for client in &mut clients {
        let mut by_channel = [Vec::new(), Vec::new()];
        for _ in 0..4 * MESSAGES {
            let message = client.message();
            by_channel[usize::from(message.channel == channels[1])].push((message.position.offset, message.body));
        }
        for messages in &by_channel {
            let offsets: Vec<u64> = messages.iter().map(|(offset, _)| *offset).collect();
            assert_eq!(offsets, (1..=2 * MESSAGES).collect::<Vec<_>>());
        }
        match &seen {
            None => seen = Some(by_channel),
            Some(seen) => assert_eq!(&by_channel, seen),
        }
    }
    let full = metric(&node, "millrace_data_ring_full_total");
    let seen = seen.expect("there are clients");
    assert_eq!(control.stored(channels[0]), seen[0], "what is stored is what was seen");
    stop(node);
    assert_eq!(control.stored(channels[1]), seen[1], "a clean stop writes behind what was delivered");
    full
}

#[test]
fn a_publish_that_is_sent_again_is_accepted_once() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.subscribe("general", Start::Live);
    let first = client.publish(channel, 5, 1, b"one");
    let first = client.acknowledged(first);
    let again = client.publish(channel, 5, 1, b"one");
    let again = client.acknowledged(again);
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(first.position, again.position);

    // Another connection of the same producer, as after a reconnect.
    let mut other = Client::connect(door(&node), &control.token("ann"));
    other.subscribe("general", Start::Attach);
    let third = other.publish(channel, 5, 1, b"one");
    assert!(other.acknowledged(third).duplicate);
    let gap = other.publish(channel, 5, 3, b"three");
    let code = other.wait("an error", |frame| match frame {
        Frame::Error { request, code } if *request == gap => Some(*code),
        _ => None,
    });
    assert_eq!(code, Code::OutOfOrder.number());
    assert_eq!(control.stored(channel), [(1, b"one".to_vec())]);
    stop(node);
}

#[test]
fn history_is_read_in_pages_both_ways() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.subscribe("general", Start::Attach);
    let asked: Vec<u32> = (1..=25).map(|sequence| client.publish(channel, 5, sequence, b"x")).collect();
    for request in asked {
        client.acknowledged(request);
    }
    let offset = |offset| millrace_protocol::Offset::new(offset).expect("not 0");
    let mut check = |range, max, expect: std::ops::RangeInclusive<u64>, more| {
        assert_eq!(client.history(channel, range, max), (expect.collect(), more), "{range:?}");
    };
    check(HistoryRange::Newest, 10, 16..=25, true);
    check(HistoryRange::Before(offset(16)), 10, 6..=15, true);
    check(HistoryRange::Before(offset(6)), 10, 1..=5, false);
    check(HistoryRange::After(0), 20, 1..=20, true);
    check(HistoryRange::After(20), 20, 21..=25, false);
    stop(node);
}

#[test]
fn a_member_who_is_removed_hears_no_more() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann", "bob"]);
    let node = node(&control, config());
    let mut ann = Client::connect(door(&node), &control.token("ann"));
    let mut bob = Client::connect(door(&node), &control.token("bob"));
    ann.subscribe("general", Start::Live);
    bob.subscribe("general", Start::Live);
    control.remove_member(channel, "bob");
    let code = bob.wait("unsubscribed", |frame| match frame {
        Frame::Unsubscribed { code } => Some(*code),
        _ => None,
    });
    assert_eq!(code, Code::Removed.number());
    let request = ann.publish(channel, 5, 1, b"without bob");
    ann.acknowledged(request);
    assert_eq!(ann.message().body, b"without bob");
    // Bob's next answer comes after whatever had been sent to him before.
    bob.subscribe_refused("general", Code::NoAccess);
    stop(node);
}

/// Whole on a second connection, whatever was missed in between.
#[test]
fn who_comes_back_gets_what_was_missed() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut ann = Client::connect(door(&node), &control.token("ann"));
    ann.subscribe("general", Start::Live);
    let mut reader = Client::connect(door(&node), &control.token("ann"));
    reader.subscribe("general", Start::Live);
    let first = ann.publish(channel, 5, 1, b"1");
    ann.acknowledged(first);
    let seen = reader.message().position;
    drop(reader);
    for sequence in 2..=700_u64 {
        let request = ann.publish(channel, 5, sequence, sequence.to_string().as_bytes());
        if sequence % 100 == 0 {
            ann.acknowledged(request);
        }
    }
    let mut reader = Client::connect(door(&node), &control.token("ann"));
    reader.subscribe("general", Start::After(seen));
    for sequence in 2..=700_u64 {
        assert_eq!(reader.message().body, sequence.to_string().as_bytes());
    }
    stop(node);
}

#[test]
fn an_order_of_the_control_plane_reaches_the_channel() {
    let control = Control::new();
    // Homes on both shards.
    let channels = [
        control.channel("one", HistoryClass::Durable, &["ann"]),
        control.channel("two", HistoryClass::Durable, &["ann"]),
    ];
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.subscribe("one", Start::Live);
    client.subscribe("two", Start::Live);
    for channel in channels {
        let first = control.order(channel, 1, b"from rest").expect("accepted");
        assert_eq!((first.position.offset, first.duplicate), (1, false));
        let message = client.message();
        assert_eq!(
            (message.channel, message.position, &message.body[..]),
            (channel, first.position, &b"from rest"[..])
        );
        let again = control.order(channel, 1, b"from rest").expect("accepted");
        assert_eq!((again.position, again.duplicate), (first.position, true));
        let refusal = control.order(channel, 9, b"a gap").expect_err("refused");
        assert_eq!(refusal.code, Code::OutOfOrder);
    }
    stop(node);
}

#[test]
fn sessions_end_with_the_key_of_their_token() {
    let check = |remove: fn(&Control)| {
        let control = Control::new();
        let node = node(&control, config());
        let mut clients = clients_on_both_shards(&node, &control);
        remove(&control);
        for client in &mut clients {
            assert_eq!(client.closed_with(), Some(Code::TokenRevoked));
        }
        stop(node);
    };
    check(Control::remove_keys);
    check(Control::remove_keys_unheard);
}

#[test]
fn revoked_tokens_end_their_sessions_on_every_shard() {
    let control = Control::new();
    let node = node(&control, config());
    let old = control.token("ann");
    let mut clients = clients_on_both_shards(&node, &control);
    let mut bob = Client::connect(door(&node), &control.token("bob"));
    control.revoke_tokens_of("ann");
    for client in &mut clients {
        assert_eq!(client.closed_with(), Some(Code::TokenRevoked));
    }
    let mut back = Client::open(door(&node));
    back.hello(Hello { token: &old, subscriptions: Vec::new() });
    assert_eq!(back.closed_with(), Some(Code::TokenRevoked));
    bob.is_served();
    stop(node);
}
