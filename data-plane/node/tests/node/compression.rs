//! Compressed messages (RFC 7692): agreed to with who offers it, made once for all receivers, bounded both ways, and no memory of a
//! connection's own.

use std::io::Read;

use millrace_data::{Compressing, Config};
use millrace_protocol::client::{ClientBody, ClientFrame, HistoryRange, Publish, Start, encode_client};
use millrace_protocol::node::HistoryClass;
use millrace_protocol::ws::deflate::{Deflater, Window};
use millrace_protocol::ws::{Header, Opcode, mask};
use millrace_protocol::{ChannelId, Producer, ProducerSequence};

use crate::support::{Client, Control, Wire, config, dial_tcp, door, metric, node, stop};

/// Long enough to be worth it, and as repetitive as such things are.
fn body(number: u64) -> Vec<u8> {
    (0..60)
        .map(|row| format!("{{\"row\":{row},\"of\":{number},\"text\":\"as before\"}},"))
        .collect::<String>()
        .into_bytes()
}

/// A masked frame with RSV1 set.
fn compressed_frame(payload: &[u8]) -> Vec<u8> {
    let key = [9, 8, 7, 6];
    let header = Header { compressed: true, ..Header::whole(Opcode::Binary, payload.len(), Some(key)) };
    let mut frame = header.encode().to_vec();
    let start = frame.len();
    frame.extend_from_slice(payload);
    mask(&mut frame[start..], key, 0);
    frame
}

fn publish(channel: ChannelId, sequence: u64, body: &[u8]) -> Vec<u8> {
    let producer = Producer::new(5).expect("not 0");
    let sequence = ProducerSequence::new(sequence).expect("not 0");
    let mut frame = Vec::new();
    encode_client(
        &ClientFrame { request: 900, body: ClientBody::Publish(Publish { channel, producer, sequence, body }) },
        &mut frame,
    );
    frame
}

#[test]
fn a_broadcast_is_compressed_once_and_everyone_reads_the_same() {
    const AGREED: usize = 20;
    let control = Control::new();
    control.channel("room", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let token = control.token("ann");
    let mut clients: Vec<Client> = (0..AGREED + 5)
        .map(|n| if n < AGREED { Client::open_deflated(door(&node)) } else { Client::open(door(&node)) })
        .collect();
    let mut channel = None;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.inflater.is_some(), n < AGREED);
        client.hello(crate::support::Hello { token: &token, subscriptions: Vec::new() });
        channel = Some(client.subscribe("room", Start::Live).0);
    }
    let channel = channel.expect("clients");
    assert_eq!(metric(&node, "millrace_data_compression_agreed_total"), AGREED as f64);
    for number in 1..=3 {
        let asked = clients[0].publish(channel, 7, number, &body(number));
        clients[0].acknowledged(asked);
        for client in &mut clients {
            assert_eq!(client.message().body, body(number));
        }
    }
    let (frames, saved) = (
        metric(&node, "millrace_data_compressed_frames_total"),
        metric(&node, "millrace_data_outbound_saved_bytes_total"),
    );
    assert!((3.0..=6.0).contains(&frames), "once for each message and shard, not {frames} times");
    let least = AGREED * 3 * body(1).len() * 3 / 4;
    assert!(saved >= least as f64, "{saved} of {least}");
    let (plain, bytes) = (
        metric(&node, "millrace_data_compress_plain_bytes_total"),
        metric(&node, "millrace_data_compress_bytes_total"),
    );
    assert!(bytes > 0.0 && bytes * 4.0 < plain, "{bytes} of {plain}");

    // What is short is left as it is.
    let asked = clients[0].publish(channel, 7, 4, b"short");
    clients[0].acknowledged(asked);
    for client in &mut clients {
        assert_eq!(client.message().body, b"short");
    }
    assert_eq!(metric(&node, "millrace_data_compressed_frames_total"), frames);

    // Pages, of a resume and of history.
    let mut late = Client::open_deflated(door(&node));
    late.hello(crate::support::Hello { token: &token, subscriptions: Vec::new() });
    let start = Start::After(millrace_protocol::Position { epoch: millrace_protocol::Epoch::FIRST, offset: 0 });
    late.subscribe("room", start);
    for number in 1..=3 {
        assert_eq!(late.message().body, body(number));
    }
    assert_eq!(late.message().body, b"short");
    assert_eq!(metric(&node, "millrace_data_compressed_frames_total"), frames + 3.0);
    assert_eq!(late.history(channel, HistoryRange::Newest, 10).0, [1, 2, 3, 4]);
    assert_eq!(metric(&node, "millrace_data_compressed_frames_total"), frames + 4.0);
    stop(node);
}

#[test]
fn what_clients_compress_is_taken_within_its_limits() {
    let control = Control::new();
    let channel = control.channel("room", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let token = control.token("ann");
    let open = || {
        let mut client = Client::open_deflated(door(&node));
        client.hello(crate::support::Hello { token: &token, subscriptions: Vec::new() });
        client.subscribe("room", Start::Live);
        client
    };
    let mut deflater = Deflater::new(Window::Large);
    let mut client = open();
    client.send_raw(&compressed_frame(deflater.deflate(&publish(channel, 1, &body(1))).expect("it shrinks")));
    assert_eq!(client.message().body, body(1));
    assert!(metric(&node, "millrace_data_inflated_bytes_total") > body(1).len() as f64);

    // A bomb ends with 1009 when it is over the limit of a frame, not when it has gone off.
    let bomb = deflater.deflate(&vec![0; 64 << 20]).expect("it shrinks").to_vec();
    assert!(bomb.len() < 256 << 10);
    client.send_raw(&compressed_frame(&bomb));
    assert_eq!(client.closed().0, 1009);
    assert!(metric(&node, "millrace_data_inflated_bytes_total") < (600 << 10) as f64);

    let mut client = open();
    client.send_raw(&compressed_frame(&[0xff; 20]));
    assert_eq!(client.closed().0, 1007, "no deflate stream");
    let mut client = open();
    let mut ping = compressed_frame(b"");
    ping[0] = 0xc9;
    client.send_raw(&ping);
    assert_eq!(client.closed().0, 1002, "control frames are never compressed");
    stop(node);
}

#[test]
fn a_node_that_is_told_not_to_declines() {
    let control = Control::new();
    let node = node(&control, Config { compression: Compressing::Off, ..config() });
    let mut client = Client::open_deflated(door(&node));
    assert!(client.inflater.is_none());
    client.send_raw(&compressed_frame(&[0]));
    assert_eq!(client.closed().0, 1002);
    stop(node);
}

/// Peers of ours have paid a compressor for each connection, and grew from 3 to 30 GB at 60,000.
#[test]
fn memory_is_the_shards_and_not_the_connections() {
    const FEW: usize = 500;
    const MANY: usize = 5_000;
    let control = Control::new();
    control.channel("room", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let token = control.token("ann");
    let (mut streams, mut before, mut sequence) = (Vec::with_capacity(MANY), 0.0, 0);
    let mut publisher = Client::connect(door(&node), &token);
    let (channel, _) = publisher.subscribe("room", Start::Attach);
    let mut broadcast = |streams: &mut Vec<Wire>| {
        sequence += 1;
        let asked = publisher.publish(channel, 7, sequence, &body(sequence));
        publisher.acknowledged(asked);
        let mut head = [0; 4];
        for stream in streams {
            stream.read_exact(&mut head).expect("a message");
            assert_eq!(head[..2], [0xc2, 126], "it is compressed");
            let mut rest = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
            stream.read_exact(&mut rest).expect("all of it");
        }
        metric(&node, "process_resident_memory_bytes")
    };
    while streams.len() < MANY {
        // This side keeps its socket only, and in clear has no more: what grows is the node's.
        let mut client = Client::open_deflated_over(Wire::Clear(dial_tcp(node.client_address)));
        client.hello(crate::support::Hello { token: &token, subscriptions: Vec::new() });
        client.subscribe("room", Start::Live);
        streams.push(client.stream);
        if streams.len() == FEW {
            before = broadcast(&mut streams);
        }
    }
    let after = broadcast(&mut streams);
    let slope = (after - before) / (MANY - FEW) as f64;
    println!("{slope} bytes of resident memory for each further connection that agreed to compression");
    // The session, its socket's entry and what the allocator rounds; a compressor would be 380,000.
    assert!(slope < 4_096.0, "{slope} bytes for each connection");
    assert!(metric(&node, "millrace_data_compressed_frames_total") <= 4.0);
    stop(node);
}
