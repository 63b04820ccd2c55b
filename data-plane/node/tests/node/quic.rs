//! Sessions over QUIC: the same frames, on streams.

use std::net::UdpSocket;
use std::num::NonZeroU16;

use millrace_data::{AdmissionLimits, Config, Steering, TurnLimits};
use millrace_protocol::Code;
use millrace_protocol::client::{ClientBody, ClientFrame, Start, encode_client};
use millrace_protocol::node::HistoryClass;
use quinn::ConnectionError;

use crate::support::quic::{Got, QuicClient, Trust, first_packets};
use crate::support::{Client, Control, Frame, metric, node, stop, until, web};

/// Nobody can tell over which transport a message came.
#[test]
fn messages_go_between_transports() {
    let (control, trust) = (Control::new(), Trust::new());
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, trust.config());
    let address = node.client_quic_address.expect("QUIC");
    let token = control.token("ann");
    let mut over_quic = [QuicClient::connect(&trust, address, &token), QuicClient::connect(&trust, address, &token)];
    let mut over_ws = Client::connect(node.client_address, &token);
    let streams: Vec<u64> = over_quic.iter_mut().map(|client| client.subscribe("general", Start::Live).2).collect();
    assert!(streams.iter().all(|&stream| stream % 4 == 3), "a stream that the node opened: {streams:?}");
    over_ws.subscribe("general", Start::Live);
    for sequence in 1..=50 {
        let asked = over_quic[0].publish(channel, 7, sequence, format!("quic {sequence}").as_bytes());
        assert_eq!(over_quic[0].acknowledged(asked).position.offset, 2 * sequence - 1);
        let asked = over_ws.publish(channel, 8, sequence, format!("ws {sequence}").as_bytes());
        assert_eq!(over_ws.acknowledged(asked).position.offset, 2 * sequence);
    }
    let expect: Vec<(u64, Vec<u8>)> = (1..=50)
        .flat_map(|n| [(2 * n - 1, format!("quic {n}").into_bytes()), (2 * n, format!("ws {n}").into_bytes())])
        .collect();
    for client in &mut over_quic {
        let got: Vec<_> = (0..100).map(|_| client.message()).map(|m| (m.position.offset, m.body)).collect();
        assert_eq!(got, expect);
    }
    let got: Vec<_> = (0..100).map(|_| over_ws.message()).map(|m| (m.position.offset, m.body)).collect();
    assert_eq!(got, expect);

    // A subscription's stream ends with it.
    over_quic[1].ask(ClientBody::Unsubscribe { channel });
    loop {
        match over_quic[1].next() {
            Got::End(stream) if stream == streams[1] => break,
            Got::Frame(Frame::Unsubscribed { code: 0 }, stream) => assert_eq!(stream, streams[1]),
            other => panic!("{other:?}"),
        }
    }
    // Nobody listens to attached channels, so it gets no stream.
    assert_eq!(over_quic[1].subscribe("general", Start::Attach).2, 0);
    // A goodbye is answered with the end.
    over_quic[1].finish();
    assert_eq!(over_quic[1].closed(), Ok((0, String::new())));
    until("both are gone", || metric(&node, "millrace_data_sessions") == 2.0);
    assert_eq!(metric(&node, "millrace_data_quic_handshakes_total"), 2.0);
    stop(node);
    assert_eq!(over_quic[0].closed_with(), Some(Code::GoingAway));
}

/// A client whose address changes a hundred times in the middle of messages keeps its session and misses nothing.
#[test]
fn a_client_that_moves_misses_nothing() {
    let moved = moves(Steering::Kernel);
    // A kernel that takes no program leaves it to the shards.
    assert!(moved.forwarded == 0.0 || moved.forwarded > 50.0, "{moved:?}");
}

/// The same where a datagram may land on any shard.
#[test]
fn a_client_that_moves_to_another_shards_socket_misses_nothing() {
    let moved = moves(Steering::Shards);
    assert!(moved.forwarded > 50.0, "{moved:?}");
}

#[derive(Debug)]
struct Moved {
    forwarded: f64,
}

fn moves(quic_steering: Steering) -> Moved {
    const MOVES: u64 = 100;
    let (control, trust) = (Control::new(), Trust::new());
    let channel = control.channel("general", HistoryClass::None, &["ann"]);
    let node = node(&control, Config { quic_steering, ..trust.config() });
    let address = node.client_quic_address.expect("QUIC");
    let token = control.token("ann");
    let mut mover = QuicClient::connect(&trust, address, &token);
    let mut sender = Client::connect(node.client_address, &token);
    // Nothing is kept of the channel, so what is lost stays lost.
    mover.subscribe("general", Start::Live);
    sender.subscribe("general", Start::Attach);
    let mut sequence = 0;
    for turn in 1..=MOVES {
        let mut asked = Vec::new();
        for _ in 0..5 {
            sequence += 1;
            sender.publish(channel, 7, sequence, format!("to {sequence}").as_bytes());
            asked.push(mover.publish(channel, 8, sequence, format!("from {sequence}").as_bytes()));
        }
        mover.move_on();
        for asked in asked {
            mover.acknowledged(asked);
        }
        assert!(mover.connection.close_reason().is_none(), "lost at move {turn}");
    }
    let (mut to, mut from) = (Vec::new(), Vec::new());
    while to.len() + from.len() < 10 * usize::try_from(MOVES).expect("small") {
        let body = String::from_utf8(mover.message().body).expect("text");
        match body.split_once(' ').expect("two words") {
            ("to", n) => to.push(n.parse::<u64>().expect("a number")),
            (_, n) => from.push(n.parse::<u64>().expect("a number")),
        }
    }
    assert!(to.iter().copied().eq(1..=sequence) && from.iter().copied().eq(1..=sequence));
    let of = |name: &str| metric(&node, &format!("millrace_data_{name}"));
    // A datagram that comes late may bear an id that is retired already, and is answered with a reset that nobody heeds.
    assert_eq!((of("quic_handshakes_total"), of("quic_timed_out_total"), of("quic_faults_total")), (1.0, 0.0, 0.0));
    assert!(of("quic_migrations_total") >= 50.0, "{}", of("quic_migrations_total"));
    let moved = Moved { forwarded: of("quic_forwarded_total") };
    stop(node);
    moved
}

#[test]
fn who_breaks_the_rules_is_told_the_code() {
    let (control, trust) = (Control::new(), Trust::new());
    let node = node(&control, trust.config());
    let address = node.client_quic_address.expect("QUIC");
    let check = |act: &dyn Fn(&mut QuicClient), expect: Code| {
        let mut client = QuicClient::connect(&trust, address, &control.token("ann"));
        act(&mut client);
        assert_eq!(client.closed_with(), Some(expect));
    };
    check(&|client| client.send_raw(&[7; 24]), Code::BadFrame);
    check(&|client| client.send_raw(&[0, 0, 0, 0, 0, 0, 1, 0]), Code::TooLarge);
    check(&|client| client.send_raw(&[0, 0, 0, 0, 1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]), Code::BadFrame);
    check(&QuicClient::break_off, Code::BadFrame);
    let mut stranger = QuicClient::open(&trust, address);
    let mut pong = Vec::new();
    encode_client(&ClientFrame { request: 0, body: ClientBody::Pong }, &mut pong);
    stranger.send_raw(&pong);
    assert_eq!(stranger.closed_with(), Some(Code::UnexpectedFrame));
    let trusting = QuicClient::try_open(&trust, address, &[], false).map(|mut client| {
        client.send_raw(&pong);
        client.closed_with()
    });
    assert_eq!(trusting, Ok(Some(Code::UnexpectedFrame)));
    // An error comes before the end; a client may hear of the end before it has read that.
    let mut refused = QuicClient::open(&trust, address);
    let mut hello = Vec::new();
    let body = ClientBody::Hello(millrace_protocol::client::Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        token: "no token",
        agent: "",
        subscriptions: Vec::new(),
    });
    encode_client(&ClientFrame { request: 1, body }, &mut hello);
    refused.send_raw(&hello);
    match refused.next() {
        Got::Frame(frame, 0) => assert_eq!(frame, Frame::Error { request: 1, code: Code::BadToken.number() }),
        Got::Closed(ConnectionError::ApplicationClosed(close)) => {
            assert_eq!(close.error_code.into_inner(), u64::from(Code::BadToken.number()));
            return stop(node);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(refused.closed_with(), Some(Code::BadToken));
    stop(node);
}

#[test]
fn who_comes_back_is_let_in_with_its_first_packet() {
    let (control, trust) = (Control::new(), Trust::new());
    let node = node(&control, trust.config());
    let address = node.client_quic_address.expect("QUIC");
    let mut first = QuicClient::connect_early(&trust, address, &control.token("ann"));
    assert!(!first.early, "it was not here before");
    first.finish();
    first.closed().expect("closed");
    let second = QuicClient::connect_early(&trust, address, &control.token("ann"));
    assert!(second.early);
    drop(second);
    stop(node);
}

#[test]
fn datagrams_hold_pongs_and_nothing_else() {
    let (control, trust) = (Control::new(), Trust::new());
    let node = node(&control, trust.config());
    let client = QuicClient::connect(&trust, node.client_quic_address.expect("QUIC"), &control.token("ann"));
    let frames = metric(&node, "millrace_data_frames_in_total");
    let mut pong = Vec::new();
    encode_client(&ClientFrame { request: 0, body: ClientBody::Pong }, &mut pong);
    for _ in 0..3 {
        client.send_datagram(pong.clone()).expect("datagram");
        client.send_datagram(b"no frame".to_vec()).expect("datagram");
    }
    until("all are counted", || {
        metric(&node, "millrace_data_quic_datagrams_ignored_total") == 3.0
            && metric(&node, "millrace_data_frames_in_total") == frames + 3.0
    });
    stop(node);
}

/// Whatever strangers send, clients are served, and nothing is kept.
#[test]
fn a_flood_of_garbage_harms_nobody() {
    let (control, trust) = (Control::new(), Trust::new());
    let channel = control.channel("general", HistoryClass::None, &["ann"]);
    let node = node(&control, trust.config());
    let address = node.client_quic_address.expect("QUIC");
    let mut client = QuicClient::connect(&trust, address, &control.token("ann"));
    client.subscribe("general", Start::Live);
    let mut state = 1_u64;
    for round in 1..=20 {
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("socket");
        for n in 0..200_usize {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut datagram = state.to_be_bytes().repeat(150);
            // Initial packets of version 1 with a length of the id that fits, packets of another version, and anything.
            match n % 4 {
                0 => datagram[..6].copy_from_slice(&[0xC3, 0, 0, 0, 1, 8]),
                1 => datagram[..6].copy_from_slice(&[0xC3, 0x1A, 0x2A, 0x3A, 0x4A, 8]),
                2 => datagram.truncate(n),
                _ => {}
            }
            stranger.send_to(&datagram, address).expect("send");
        }
        let asked = client.publish(channel, 9, round, b"still here");
        client.acknowledged(asked);
        assert_eq!(client.message().body, b"still here");
    }
    until("nothing is kept", || metric(&node, "millrace_data_quic_connections") == 1.0);
    assert!(metric(&node, "millrace_data_quic_strays_total") > 0.0);
    stop(node);
}

/// However many handshakes come at once, a turn takes its steps of them and no more, so sessions have theirs in between.
#[test]
fn a_storm_of_handshakes_is_spread_over_turns() {
    const CROWD: usize = 200;
    let (control, trust) = (Control::new(), Trust::new());
    let turn = TurnLimits { handshakes_max: 1, ..TurnLimits::default() };
    let node = node(&control, Config { shards: NonZeroU16::new(1), turn, ..trust.config() });
    let address = node.client_quic_address.expect("QUIC");
    let packets = first_packets(&trust, CROWD);
    let crowd = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let turns = metric(&node, "millrace_data_turns_total");
    packets.iter().for_each(|packet| assert_eq!(crowd.send_to(packet, address).expect("send"), packet.len()));
    until("all have begun", || metric(&node, "millrace_data_quic_half_open") == CROWD as f64);
    let turns = metric(&node, "millrace_data_turns_total") - turns;
    assert!(turns >= CROWD as f64, "{turns} turns for {CROWD} handshakes");
    assert_eq!(metric(&node, "millrace_data_quic_waiting"), 0.0);
    // A clean stop would give those handshakes time.
    drop(node);
}

/// First packets bear whatever address their sender likes: those whose addresses are used so lose no place at the door.
#[test]
fn who_has_not_shown_an_address_takes_no_place_of_it() {
    let (control, trust) = (Control::new(), Trust::new());
    let admission = AdmissionLimits { places_max: 100, address_places_max: 2 };
    let node = node(&control, Config { shards: NonZeroU16::new(1), admission, ..trust.config() });
    let address = node.client_quic_address.expect("QUIC");
    let crowd = UdpSocket::bind("127.0.0.1:0").expect("socket");
    for packet in first_packets(&trust, 20) {
        crowd.send_to(&packet, address).expect("send");
    }
    until("all have begun", || metric(&node, "millrace_data_quic_half_open") == 20.0);
    assert_eq!(metric(&node, "millrace_data_strangers"), 0.0);
    let mut client = QuicClient::connect(&trust, address, &control.token("ann"));
    let _silent = [QuicClient::open(&trust, address), QuicClient::open(&trust, address)];
    until("who is there takes a place", || metric(&node, "millrace_data_strangers") == 2.0);
    // It may hear of the end before it has opened its stream.
    let refused = QuicClient::try_open(&trust, address, &[], false).and_then(|mut refused| refused.closed());
    let code = match refused {
        Ok((code, _)) => code,
        Err(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(code, u64::from(Code::Busy.number()), "both are young");
    assert_eq!(metric(&node, "millrace_data_strangers_refused_total"), 1.0);
    client.finish();
    assert_eq!(client.closed(), Ok((0, String::new())));
    // A clean stop would give those handshakes time.
    drop(node);
}

/// A session over HTTP/3 that ends has time to be told why. Who has not signed in keeps the place at the door meanwhile.
#[test]
fn strangers_that_are_told_why_they_end_keep_their_places() {
    // Settings without any; a CONNECT for WebTransport; a second stream of the session, of which there may be one, and not of this kind.
    const CONTROL: &[u8] = &[0, 4, 0];
    const REQUEST: &[u8] = b"\x01\x2c\0\0\xcf\xd7\x50\x01a\x51\x0b/v1/connect\x27\x02:protocol\x0cwebtransport";
    const FAULT: &[u8] = &[0x40, 0x54, 0];
    let (control, trust) = (Control::new(), Trust::new());
    let admission = AdmissionLimits { places_max: 100, address_places_max: 2 };
    let node = node(&control, Config { shards: NonZeroU16::new(1), admission, ..trust.config() });
    let (browser, address) = (trust.speaking(b"h3"), node.client_quic_address.expect("QUIC"));
    let mut clients = Vec::new();
    let count = |name: &str| metric(&node, &format!("millrace_data_{name}"));
    for n in 1..=6 {
        // Who finds no place hears of it early or late.
        if let Ok(mut client) = QuicClient::try_open(&browser, address, &[], false) {
            client.send_beside(CONTROL);
            client.send_beside(FAULT);
            let _ = client.try_send(REQUEST);
            clients.push(client);
        }
        let over = || count("quic_faults_total") + count("strangers_refused_total");
        until("it is refused, or its session is over", || over() == f64::from(n));
    }
    // Two at a time, for two seconds.
    assert!(count("strangers_refused_total") + count("strangers_ended_total") > 0.0);
    drop(clients);
    until("places are free again", || count("strangers") == 0.0 && count("webtransport_connections") == 0.0);
    let _client = QuicClient::connect(&trust, address, &control.token("ann"));
    stop(node);
}

/// A session of WebTransport may end with its request, instead of a goodbye.
#[test]
fn a_browser_that_closes_its_session_is_gone() {
    let (control, trust) = (Control::new(), Trust::new());
    let node = node(&control, trust.config());
    let address = node.client_quic_address.expect("QUIC");
    let mut client = QuicClient::connect(&trust.over_web(), address, &control.token("ann"));
    assert_eq!(metric(&node, "millrace_data_webtransport_connections"), 1.0);
    let mut request = client.request.take().expect("a session");
    request.stream.finish().expect("finish");
    let (code, _) = client.closed().expect("closed by the node's application");
    assert_eq!(code, web::NO_ERROR.into_inner());
    until("it is gone", || metric(&node, "millrace_data_sessions") == 0.0);
    stop(node);
}

#[test]
fn a_connection_without_a_protocol_in_common_comes_to_nothing() {
    let (control, trust) = (Control::new(), Trust::new());
    let node = node(&control, trust.config());
    let other = trust.speaking(b"h3-29");
    let refused = QuicClient::try_open(&other, node.client_quic_address.expect("QUIC"), &[], false).err();
    // no_application_protocol, as a TLS alert in a transport error. Source: RFC 9001 §4.8, RFC 7301 §3.2.
    assert!(matches!(refused, Some(ConnectionError::ConnectionClosed(_))), "{refused:?}");
    stop(node);
}
