//! From the hello to the end, whatever carries it.

use std::io::Write;
use std::net::{Shutdown, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

use millrace_data::Config;
use millrace_protocol::client::{Start, Subscribe};
use millrace_protocol::node::HistoryClass;
use millrace_protocol::{Code, Epoch, Position};

use crate::support::quic::{QuicClient, Trust};
use crate::support::transport::Transport;
use crate::support::{Client, Control, Frame, Got, Hello, admin, config, door, metric, node, stop, until};

#[test]
fn a_bad_token_is_told_as_such() {
    let control = Control::new();
    let node = node(&control, config());
    let stranger = Control::new();
    for token in ["", "no token", &stranger.token("ann")] {
        let mut client = Client::open(door(&node));
        client.hello(Hello { token, subscriptions: Vec::new() });
        assert_eq!(client.closed_with(), Some(Code::BadToken), "{token:?}");
    }
    stop(node);
}

#[test]
fn who_says_no_hello_is_told_so() {
    let control = Control::new();
    let mut config = config();
    config.core.handshake_timeout = Duration::from_millis(300);
    let node = node(&control, config);
    let mut silent = Client::open(door(&node));
    assert_eq!(silent.closed_with(), Some(Code::HandshakeTimeout));
    assert_eq!(metric(&node, "millrace_data_handshake_timeouts_total"), 1.0);
    stop(node);
}

#[test]
fn a_session_says_what_it_may_do() {
    let control = Control::new();
    let node = node(&control, config());
    let mut client = Client::open(door(&node));
    client.hello(Hello { token: &control.token("ann"), subscriptions: Vec::new() });
    let first = client.next();
    assert!(matches!(first, Got::Frame(Frame::Welcome { subscriptions_max: 1000, .. })), "{first:?}");
    let (status, json) = admin(&node, "/v1/node");
    assert_eq!(status, 200);
    let shown: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let sessions: u64 = (0..2).filter_map(|shard| shown["shards"][shard]["sessions"].as_u64()).sum();
    assert_eq!(sessions, 1, "{json}");
    stop(node);
}

/// The node pings who says nothing, and ends who does not answer. Over QUIC, what a client acknowledges is an answer: there only who is gone
/// is dead.
#[test]
fn heartbeats_keep_the_living_and_end_the_dead() {
    let control = Control::new();
    let mut config = config();
    config.core.heartbeat = Duration::from_millis(400);
    let node = node(&control, config);
    let mut living = Client::connect(door(&node), &control.token("ann"));
    let mut dead = Client::connect(door(&node), &control.token("ann"));
    let gone = (Transport::here() == Transport::Quic).then(|| {
        let gone = QuicClient::connect(&Trust::of_the_table(), door(&node), &control.token("ann"));
        // From there no way leads to the node.
        gone.go_on_from(UdpSocket::bind("[::1]:0").expect("socket"));
        gone
    });
    // Answers pings as it reads, and is read from for as long as the other one is given.
    until("the dead one is ended", || {
        assert_eq!(living.closed_within(Duration::from_millis(10)), None);
        metric(&node, "millrace_data_heartbeat_timeouts_total") == 1.0
    });
    match gone {
        Some(_) => dead.is_served(),
        None => assert_eq!(dead.closed_with(), Some(Code::HeartbeatTimeout)),
    }
    assert!(metric(&node, "millrace_data_frames_in_total") >= 3.0, "two hellos and an answer");
    living.is_served();
    stop(node);
}

/// While a crowd comes back, a newcomer's hello waits. Then it is let in, and is no stranger any more.
#[test]
fn a_login_that_had_to_wait_is_let_in() {
    let control = Control::new();
    control.channel("room", HistoryClass::Durable, &["ann"]);
    let node = node(&control, Config { shards: NonZeroU16::new(1), ..config() });
    let token = control.token("ann");
    let back = || Subscribe { channel: "room", start: Start::After(Position { epoch: Epoch::FIRST, offset: 0 }) };
    let put_off = || metric(&node, "millrace_data_hellos_put_off_total") > 0.0;
    // So many have to come within a quarter of a second, which is up to the machine.
    for _ in 0..20 {
        let mut crowd: Vec<Client> = (0..40).map(|_| Client::open(door(&node))).collect();
        let mut newcomer = Client::open(door(&node));
        for client in &mut crowd {
            client.hello(Hello { token: &token, subscriptions: vec![back()] });
        }
        newcomer.hello(Hello { token: &token, subscriptions: Vec::new() });
        let first = newcomer.next();
        assert!(matches!(first, Got::Frame(Frame::Welcome { .. })), "{first:?}");
        until("nobody is at the door", || metric(&node, "millrace_data_strangers") == 0.0);
        newcomer.is_served();
        crowd.iter_mut().for_each(Client::is_served);
        if put_off() {
            break;
        }
    }
    assert!(put_off(), "no crowd in twenty tries");
    stop(node);
}

#[test]
fn a_client_that_just_goes_is_forgotten() {
    let control = Control::new();
    let node = node(&control, config());
    let clients: Vec<Client> = (0..20).map(|_| Client::connect(door(&node), &control.token("ann"))).collect();
    assert_eq!(metric(&node, "millrace_data_sessions"), 20.0);
    for (index, mut client) in clients.into_iter().enumerate() {
        match index % 3 {
            0 => drop(client),
            1 => client.stream.shutdown(Shutdown::Write).expect("shutdown"),
            _ => {
                // In the middle of a frame.
                client.stream.write_all(&[0x82, 0xfe, 1]).expect("write");
                drop(client);
            }
        }
    }
    let none = |of: &str| metric(&node, &format!("millrace_data_{of}")) == 0.0;
    until("every session is gone", || none("sessions"));
    until("every connection is gone", || none("connections") && none("quic_connections"));
    stop(node);
}
