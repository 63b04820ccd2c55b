mod quic;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use millrace_protocol::client::ServerBody;
use millrace_protocol::client::{Message, ServerFrame, encode_server};
use millrace_protocol::id::{ChannelId, Epoch, Position, Producer, ProducerSequence};
use millrace_protocol::ws;

use super::*;

const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// A message as it is on a stream.
fn frame(text: &str) -> Vec<u8> {
    let message = Message {
        channel: ChannelId::new(1).unwrap(),
        position: Position { epoch: Epoch::FIRST, offset: 1 },
        time_ms: 0,
        user: "u",
        producer: Producer::new(1).unwrap(),
        sequence: ProducerSequence::FIRST,
        body: text.as_bytes(),
    };
    let mut frame = Vec::new();
    encode_server(&ServerFrame { request: 0, body: ServerBody::Message(message) }, &mut frame);
    frame
}

/// The same on a WebSocket.
fn message(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    ws::encode::frame(ws::Opcode::Binary, &frame(text), None, &mut bytes);
    bytes
}

fn texts(bytes: &[u8]) -> Vec<String> {
    let mut frames = Frames::default();
    frames.feed(HEAD);
    frames.feed(bytes).into_iter().filter_map(|unit| unit.text).collect()
}

#[test]
fn frames_are_cut_wherever_the_bytes_are() {
    let mut bytes = HEAD.to_vec();
    for text in ["one", "two"] {
        bytes.extend(message(text));
    }
    ws::encode::close(Some(4200), "bye", None, &mut bytes);
    for size in 1..bytes.len() {
        let mut frames = Frames::default();
        let units: Vec<Unit> = bytes.chunks(size).flat_map(|chunk| frames.feed(chunk)).collect();
        let names: Vec<_> = units.iter().map(|unit| (unit.name, unit.text.as_deref())).collect();
        assert_eq!(names, [("other", None), ("message", Some("one")), ("message", Some("two")), ("other", None)]);
        assert_eq!(units.iter().flat_map(|unit| unit.bytes.clone()).collect::<Vec<u8>>(), bytes);
    }
}

#[test]
fn frames_on_streams_are_cut_wherever_the_bytes_are() {
    let web = [&[0x40, 0x54, 0x00][..], &frame("one"), &frame("two")].concat();
    for (cutter, bytes, expect) in [
        (Frames::stream as fn() -> Frames, &web[3..], &[Some("one"), Some("two")][..]),
        (Frames::web_stream, &web, &[None, Some("one"), Some("two")]),
        // A stream of QPACK, and one of ours with something else behind its frame.
        (Frames::web_stream, b"\x02 and more", &[None]),
        (Frames::raw, &web, &[None]),
    ] {
        for size in 1..=bytes.len() {
            let mut frames = cutter();
            let units: Vec<Unit> = bytes.chunks(size).flat_map(|chunk| frames.feed(chunk)).collect();
            assert_eq!([units.iter().flat_map(|unit| unit.bytes.clone()).collect(), frames.rest()].concat(), bytes);
            let texts: Vec<_> = units.iter().map(|unit| unit.text.as_deref()).collect();
            if expect.len() > 1 || size == bytes.len() {
                assert_eq!(texts, expect);
            }
        }
    }
    let mut frames = Frames::stream();
    let torn = [&frame("one")[..], b"no frame at all"].concat();
    assert_eq!(frames.feed(&torn).iter().flat_map(|unit| unit.bytes.clone()).collect::<Vec<u8>>(), torn);
}

#[test]
fn what_is_not_understood_goes_through() {
    for bytes in [&b"HTTP/1.1 404 Not Found\r\n\r\nnothing here"[..], &[HEAD, b"\xff\xff\xff and more"].concat()] {
        let mut frames = Frames::default();
        let units: Vec<u8> = bytes.chunks(3).flat_map(|chunk| frames.feed(chunk)).flat_map(|unit| unit.bytes).collect();
        assert_eq!(units, bytes);
    }
}

/// A proxy before a server of ours; gives each connection that arrives at the server.
fn proxied() -> (Proxy, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, arrivals) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if arrived.send(stream.unwrap()).is_err() {
                return;
            }
        }
    });
    let trust = Arc::new(Trust::new().unwrap());
    let upstream: Upstream = Arc::new(move || Some(address));
    (Proxy::start(Transport::Ws, Touch::Frames, upstream, &trust).unwrap(), arrivals)
}

fn address(proxy: &Proxy) -> SocketAddr {
    proxy.url().split_once("://").unwrap().1.parse().unwrap()
}

fn connect_to(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(address(proxy)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn messages_are_lost_doubled_and_reordered() {
    let (proxy, arrivals) = proxied();
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    proxy.tamper("two", How::Drop);
    proxy.tamper("three", How::Double);
    proxy.tamper("four", How::Swap);
    let mut bytes = HEAD.to_vec();
    for text in ["one", "two", "three", "four", "five", "two"] {
        bytes.extend(message(text));
    }
    server.write_all(&bytes).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    // Each is done once, so that what is sent again arrives.
    assert_eq!(texts(&received[HEAD.len()..]), ["one", "three", "three", "five", "four", "two"]);
    proxy.until_seen("message", 6, Instant::now() + PATIENCE).unwrap();
    assert!(proxy.until_seen("ping", 1, Instant::now()).is_err());
}

#[test]
fn a_close_frame_arrives_although_the_client_is_still_talking() {
    let (proxy, arrivals) = proxied();
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut server, 5), b"hello");
    let mut bytes = HEAD.to_vec();
    ws::encode::close(Some(4201), "slow", None, &mut bytes);
    server.write_all(&bytes).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    client.write_all(b"more").unwrap();
    assert_eq!(read_exactly(&mut client, bytes.len()), bytes);
    assert_eq!(read_exactly(&mut server, 4), b"more");
}

#[test]
fn a_cut_ends_both_sides_and_a_network_that_is_down_takes_nobody() {
    let (proxy, arrivals) = proxied();
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.set(Condition::Down).unwrap();
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(matches!(server.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(matches!(connect_to(&proxy).read(&mut [0; 8]), Ok(0) | Err(_)));
    proxy.set(Condition::Up).unwrap();
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    client.write_all(b"again").unwrap();
    assert_eq!(read_exactly(&mut server, 5), b"again");
}

#[test]
fn what_is_held_comes_after_the_release() {
    let (proxy, arrivals) = proxied();
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    proxy.set(Condition::HoldAnswers).unwrap();
    // The other direction is free, and one that goes round shows that this one is not.
    client.write_all(b"up").unwrap();
    assert_eq!(read_exactly(&mut server, 2), b"up");
    server.write_all(HEAD).unwrap();
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0; 8]).is_err());
    client.set_nonblocking(false).unwrap();
    // A connection that begins now is not held.
    let mut other = connect_to(&proxy);
    let mut other_server = arrivals.recv_timeout(PATIENCE).unwrap();
    other_server.write_all(HEAD).unwrap();
    assert_eq!(read_exactly(&mut other, HEAD.len()), HEAD);
    proxy.set(Condition::Release).unwrap();
    assert_eq!(read_exactly(&mut client, HEAD.len()), HEAD);
}

#[test]
fn a_client_over_tcp_does_not_move() {
    let (proxy, _arrivals) = proxied();
    assert!(proxy.set(Condition::Move).is_err());
}

/// Both ends of TLS are real: a client that trusts the run's authority, and a server with its certificate.
#[test]
fn what_is_sealed_is_read_on_its_way() {
    let trust = Arc::new(Trust::new().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let config = Arc::new(trust.server(Transport::Wss).unwrap());
    let server = std::thread::spawn(move || {
        let connection = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, listener.accept().unwrap().0);
        let mut asked = [0; 5];
        stream.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"hello");
        stream.write_all(&[HEAD, &message("one"), &message("two")].concat()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    for touch in [Touch::Nothing, Touch::Connections] {
        // Without frames to be touched, the two have their TLS to themselves.
        let proxy = Proxy::start(Transport::Wss, touch, Arc::new(move || Some(to)), &trust).unwrap();
        assert!(matches!(proxy.way, Way::Streams(_)));
    }
    let proxy = Proxy::start(Transport::Wss, Touch::Frames, Arc::new(move || Some(to)), &trust).unwrap();
    assert!(proxy.url().starts_with("wss://127.0.0.1:"));
    proxy.tamper("one", How::Double);
    let config = Arc::new(trust.client(Transport::Wss).unwrap());
    let connection = rustls::ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, connect_to(&proxy));
    stream.write_all(b"hello").unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(texts(&received[HEAD.len()..]), ["one", "one", "two"]);
    server.join().unwrap();
}

#[test]
fn a_frame_is_put_in_between() {
    let (proxy, arrivals) = proxied();
    assert!(proxy.inject(b"x").is_err());
    let mut client = connect_to(&proxy);
    let mut server = arrivals.recv_timeout(PATIENCE).unwrap();
    server.write_all(HEAD).unwrap();
    assert_eq!(read_exactly(&mut client, HEAD.len()), HEAD);
    proxy.inject(b"frame").unwrap();
    assert_eq!(read_exactly(&mut client, 7), b"\x82\x05frame");
}
