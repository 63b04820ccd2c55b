//! The control link: proven, cut, back again.

use millrace_data::{LinkConfig, start};
use millrace_protocol::Code;
use millrace_protocol::client::Start;
use millrace_protocol::code::Advice;
use millrace_protocol::node::HistoryClass;

use crate::support::{Client, Control, Hello, admin, config, door, link, metric, node, stop, until};

#[test]
fn a_node_without_the_secret_is_not_ready() {
    let control = Control::new();
    let link = LinkConfig { secret: b"another secret".to_vec(), ..link(&control) };
    let node = start(config(), link).expect("start");
    until("the proof was refused twice", || control.hellos().1 >= 2);
    let (status, text) = admin(&node, "/readyz");
    assert_eq!((status, text.as_str()), (503, "the control link is down\n"));
    assert_eq!(admin(&node, "/healthz").0, 200, "a node that waits is healthy");
    // Not `BadToken`: who is told to log in again because a node has just started would do so in vain.
    let mut client = Client::open(door(&node));
    client.hello(Hello { token: &control.token("ann"), subscriptions: Vec::new() });
    assert_eq!(client.closed_with(), Some(Code::Unavailable));
    assert_eq!(control.hellos().0, 0);
    stop(node);
}

#[test]
fn sessions_outlive_a_cut_link() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.subscribe("general", Start::Live);
    let request = client.publish(channel, 5, 1, b"before");
    client.acknowledged(request);
    let term = metric(&node, "millrace_data_link_term");

    control.cut();
    until("the node knows", || admin(&node, "/readyz").0 == 503);
    let request = client.publish(channel, 5, 2, b"during");
    assert_eq!(client.answered(request), Err(Code::Unavailable.number()));
    let mut newcomer = Client::connect(door(&node), &control.token("ann"));

    control.mend();
    until("the node is ready", || admin(&node, "/readyz").0 == 200);
    assert!(metric(&node, "millrace_data_link_term") > term);
    let request = client.publish(channel, 5, 2, b"after");
    assert_eq!(client.acknowledged(request).position.offset, 2);
    newcomer.subscribe("general", Start::Live);
    let request = newcomer.publish(channel, 6, 1, b"new");
    assert_eq!(newcomer.acknowledged(request).position.offset, 3);
    for body in [&b"before"[..], b"after", b"new"] {
        assert_eq!(client.message().body, body);
    }
    stop(node);
}

/// A key that is made while a node cannot hear of it is not called bad: who shows a token of it comes again, and is let in.
#[test]
fn a_key_made_while_the_link_is_cut_is_good_when_it_is_back() {
    let mut control = Control::new();
    let node = node(&control, config());
    let shown = |token: &str| {
        let mut client = Client::open(door(&node));
        client.hello(Hello { token, subscriptions: Vec::new() });
        client.closed_with()
    };
    let known = control.token("ann");
    control.cut();
    until("the node knows", || admin(&node, "/readyz").0 == 503);
    control.renew_key();
    let made = control.token("ann");
    assert_eq!(shown(&made), Some(Code::Unavailable));
    Client::connect(door(&node), &known);
    control.mend();
    until("the node is ready", || admin(&node, "/readyz").0 == 200);
    for token in [&known, &made] {
        Client::connect(door(&node), token);
    }
    control.renew_key();
    assert_eq!(shown(&control.token("ann")), Some(Code::BadToken), "nobody tells the node of this one");
    stop(node);
}

/// Cuts at any moment of a running stream: whoever sends again what was refused finds everything accepted once, in order.
#[test]
fn a_stream_survives_cuts_at_any_moment() {
    const MESSAGES: u64 = 3_000;
    const WINDOW: u64 = 64;
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut reader = Client::connect(door(&node), &control.token("ann"));
    reader.subscribe("general", Start::Live);
    let mut writer = Client::connect(door(&node), &control.token("ann"));
    writer.subscribe("general", Start::Attach);
    let (mut accepted, mut refusals, mut cut_at) = (0, 0, 300);
    while accepted < MESSAGES {
        let window: Vec<(u64, u32)> = (accepted + 1..=MESSAGES.min(accepted + WINDOW))
            .map(|sequence| (sequence, writer.publish(channel, 5, sequence, &sequence.to_le_bytes())))
            .collect();
        if accepted >= cut_at {
            // With a window under way.
            cut_at += 300;
            control.cut();
            control.mend();
        }
        let mut whole = true;
        for (sequence, request) in window {
            match writer.answered(request) {
                // A gap would have been refused, so what is accepted is everything up to here.
                Ok(published) => {
                    assert!(whole, "{sequence} was accepted behind one that was refused");
                    assert_eq!(published.position.offset, sequence);
                    accepted = sequence;
                }
                Err(code) => {
                    assert!(matches!(Advice::of(code), Advice::Retry) || code == Code::OutOfOrder.number(), "{code}");
                    whole = false;
                    refusals += 1;
                }
            }
        }
        if !whole {
            until("the node is ready", || admin(&node, "/readyz").0 == 200);
        }
    }
    for sequence in 1..=MESSAGES {
        let message = reader.message();
        assert_eq!((message.position.offset, message.body), (sequence, sequence.to_le_bytes().to_vec()));
    }
    let stored = control.stored(channel);
    assert_eq!(stored, (1..=MESSAGES).map(|n| (n, n.to_le_bytes().to_vec())).collect::<Vec<_>>());
    assert!(metric(&node, "millrace_data_link_term") > 9.0, "it was cut (and {refusals} publishes were refused)");
    stop(node);
}

/// Between processes the link is TCP; a cut is the end of the connection.
#[test]
fn the_link_over_tcp_comes_back_too() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let target = control.tcp_target();
    let node = start(config(), LinkConfig { target, ..link(&control) }).expect("start");
    for round in 1..=3_u32 {
        let linked = || metric(&node, "millrace_data_link_term") >= f64::from(round);
        until("the node is ready", || linked() && admin(&node, "/readyz").0 == 200);
        let mut client = Client::connect(door(&node), &control.token("ann"));
        client.subscribe("general", Start::Live);
        let request = client.publish(channel, 5, round.into(), b"x");
        assert_eq!(client.acknowledged(request).position.offset, u64::from(round));
        control.cut();
        control.mend();
    }
    stop(node);
}
