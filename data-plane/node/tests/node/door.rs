//! Strangers at the door: how many places they have, who gives one up, and that nobody inside notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU16;

use millrace_data::{AdmissionLimits, Config, DataNode};
use millrace_protocol::client::{SUBPROTOCOL, Start};
use millrace_protocol::node::HistoryClass;
use millrace_protocol::ws::Opcode;

use crate::support::{Client, Control, Got, Hello, admin, config, dial_tcp, door, metric, node, stop, until};

fn one_shard(admission: AdmissionLimits) -> Config {
    Config { shards: NonZeroU16::new(1), admission, ..config() }
}

/// In clear, whatever the others speak: what comes back of a request, or nothing.
fn knock(node: &DataNode) -> (TcpStream, String) {
    let mut stream = dial_tcp(node.client_address);
    let request = format!(
        "GET /v1/connect HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    let mut answer = [0; 1024];
    // One that is refused may be gone before it has asked.
    let _ = stream.write_all(request.as_bytes());
    let bytes = stream.read(&mut answer).unwrap_or(0);
    let line = String::from_utf8_lossy(&answer[..bytes]).lines().next().unwrap_or_default().to_owned();
    (stream, line)
}

#[test]
fn who_dawdles_at_the_door_makes_room_for_who_does_not() {
    let control = Control::new();
    let node = node(&control, one_shard(AdmissionLimits { places_max: 100, address_places_max: 4 }));
    let mut inside: Vec<Client> = (0..6).map(|_| Client::connect(door(&node), &control.token("ann"))).collect();
    assert_eq!(metric(&node, "millrace_data_strangers"), 0.0, "who has signed in takes no place");

    let mut silent: Vec<TcpStream> = (0..4).map(|_| dial_tcp(node.client_address)).collect();
    until("all are counted", || metric(&node, "millrace_data_strangers") == 4.0);
    // Those four are young at first: until they dawdle, the address has no place left.
    let mut refused = 0;
    until("a newcomer gets in", || match knock(&node) {
        (_, line) if line == "HTTP/1.1 101 Switching Protocols" => true,
        (_, line) => {
            assert!(line.is_empty() || line == "HTTP/1.1 503 Service Unavailable", "{line}");
            refused += 1;
            false
        }
    });
    assert_eq!(metric(&node, "millrace_data_strangers_refused_total"), f64::from(refused));
    assert!(metric(&node, "millrace_data_strangers_ended_total") >= 1.0);
    assert_eq!(silent[0].read(&mut [0; 16]).unwrap_or(0), 0, "the first of them is gone");
    for client in &mut inside {
        client.send_ws(Opcode::Ping, b"still here");
        assert_eq!(client.next(), Got::Pong(b"still here".to_vec()));
    }
    drop(silent);
    until("nobody is at the door", || metric(&node, "millrace_data_strangers") == 0.0);
    stop(node);
}

/// Hundreds of sessions are cut at once and come back; one that stays gets every message meanwhile.
#[test]
fn sessions_that_were_cut_come_back_whole_and_the_others_are_served() {
    const SESSIONS: usize = 400;
    let control = Control::new();
    let channel = control.channel("room", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let token = control.token("ann");
    let mut stays = Client::connect(door(&node), &token);
    stays.subscribe("room", Start::Live);
    let mut positions = Vec::new();
    let mut cut: Vec<Client> = (0..SESSIONS)
        .map(|_| {
            let mut client = Client::connect(door(&node), &token);
            positions.push(client.subscribe("room", Start::Live).1);
            client
        })
        .collect();
    cut.clear();
    let mut sequence = 0;
    let mut served = |stays: &mut Client| {
        sequence += 1;
        let asked = stays.publish(channel, 7, sequence, b"on and on");
        stays.acknowledged(asked);
        assert_eq!(stays.message().position.offset, sequence);
    };
    served(&mut stays);
    // All ask before any is answered.
    let subscribe = |position| millrace_protocol::client::Subscribe { channel: "room", start: Start::After(position) };
    let mut back: Vec<Client> = positions
        .iter()
        .map(|&position| {
            let mut client = Client::open(door(&node));
            client.hello(Hello { token: &token, subscriptions: vec![subscribe(position)] });
            client
        })
        .collect();
    served(&mut stays);
    for client in &mut back {
        assert_eq!(client.message().position.offset, 1, "what was missed comes first");
        assert_eq!(client.message().position.offset, 2);
    }
    served(&mut stays);
    assert_eq!(metric(&node, "millrace_data_hellos_resume_total"), SESSIONS as f64);
    until("all have begun", || metric(&node, "millrace_data_beginning") == 0.0);
    assert_eq!(metric(&node, "millrace_data_strangers"), 0.0);
    stop(node);
}

/// A hello in two reads finds room, whatever sessions hold that send the beginnings of large frames.
#[test]
fn a_hello_in_two_pieces_finds_room_beside_hogs() {
    let control = Control::new();
    let config = Config { unfinished_bytes_max: 1 << 20, ..one_shard(AdmissionLimits::default()) };
    let node = node(&control, config);
    let token = control.token("ann");
    let mut begun = vec![0x82, 0xff];
    begun.extend_from_slice(&(200_u64 << 10).to_be_bytes());
    begun.extend_from_slice(&[1; 4 + (150 << 10)]);
    let mut hogs: Vec<Client> = (0..12).map(|_| Client::connect(door(&node), &token)).collect();
    hogs.iter_mut().for_each(|hog| hog.send_raw(&begun));
    until("most are sent away", || metric(&node, "millrace_data_input_room_ends_total") >= 9.0);

    let mut newcomer = Client::open(door(&node));
    let mut hello = Vec::new();
    let frame = millrace_protocol::client::ClientFrame {
        request: 1,
        body: millrace_protocol::client::ClientBody::Hello(millrace_protocol::client::Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            token: &token,
            agent: "",
            subscriptions: Vec::new(),
        }),
    };
    millrace_protocol::client::encode_client(&frame, &mut hello);
    let mut wire = Vec::new();
    millrace_protocol::ws::encode::frame(Opcode::Binary, &hello, Some([1, 2, 3, 4]), &mut wire);
    let before = metric(&node, "millrace_data_unfinished_bytes");
    newcomer.send_raw(&wire[..wire.len() / 2]);
    until("the first half is kept", || metric(&node, "millrace_data_unfinished_bytes") > before);
    newcomer.send_raw(&wire[wire.len() / 2..]);
    newcomer.wait("welcome", |frame| matches!(frame, crate::support::Frame::Welcome { .. }).then_some(()));
    drop(hogs);
    until("nothing is kept", || metric(&node, "millrace_data_unfinished_bytes") == 0.0);
    stop(node);
}

/// Whoever connects to the admin port and says nothing keeps nobody from asking.
#[test]
fn silent_connections_do_not_starve_the_admin_port() {
    let control = Control::new();
    let node = node(&control, config());
    let silent: Vec<TcpStream> = (0..200).map(|_| dial_tcp(node.admin_address)).collect();
    assert_eq!(admin(&node, "/readyz").0, 200);
    drop(silent);
    stop(node);
}
