//! Proxies of QUIC between a client and a server of quinn.

use std::time::Duration;

use bytes::Bytes;
use millrace_protocol::client::{ServerBody, ServerFrame, encode_server};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, VarInt};
use tokio::time::timeout;

use super::super::*;
use super::{address, frame};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client and a server with a proxy between them.
struct World {
    proxy: Proxy,
    client: Endpoint,
    server: Endpoint,
}

impl World {
    fn new(transport: Transport, touch: Touch) -> Self {
        let trust = Arc::new(Trust::new().unwrap());
        let here = (Ipv4Addr::LOCALHOST, 0).into();
        let server = Endpoint::server(trust.quic_server(transport).unwrap(), here).unwrap();
        let mut client = Endpoint::client(here).unwrap();
        client.set_default_client_config(trust.quic_client(transport).unwrap());
        let to = server.local_addr().unwrap();
        let proxy = Proxy::start(transport, touch, Arc::new(move || Some(to)), &trust).unwrap();
        Self { proxy, client, server }
    }

    async fn try_connect(&self) -> Result<Connection, ConnectionError> {
        self.client.connect(address(&self.proxy), "127.0.0.1").unwrap().await
    }

    /// Both ends of a new connection.
    async fn connect(&self) -> (Connection, Connection) {
        let accepted = async { self.server.accept().await.unwrap().await.unwrap() };
        let both = async { tokio::join!(async { self.try_connect().await.unwrap() }, accepted) };
        timeout(PATIENCE, both).await.unwrap()
    }
}

/// Reads until so many frames have come, and gives their texts.
async fn texts(stream: &mut RecvStream, count: usize) -> Vec<String> {
    let mut frames = Frames::stream();
    let mut texts = Vec::new();
    while texts.len() < count {
        let chunk = timeout(PATIENCE, stream.read_chunk(1_000, true)).await.unwrap().unwrap().unwrap();
        texts.extend(frames.feed(&chunk.bytes).into_iter().map(|unit| unit.text.unwrap()));
    }
    texts
}

async fn closed(connection: &Connection) -> ConnectionError {
    timeout(PATIENCE, connection.closed()).await.unwrap()
}

#[tokio::test]
async fn messages_are_lost_doubled_and_reordered_on_their_stream() {
    let world = World::new(Transport::Quic, Touch::Frames);
    let (client, server) = world.connect().await;
    for (text, how) in [("two", How::Drop), ("three", How::Double), ("four", How::Swap)] {
        world.proxy.tamper(text, how);
    }
    let mut down = server.open_uni().await.unwrap();
    for text in ["one", "two", "three", "four", "five", "two"] {
        down.write_all(&frame(text)).await.unwrap();
    }
    let mut stream = client.accept_uni().await.unwrap();
    assert_eq!(texts(&mut stream, 6).await, ["one", "three", "three", "five", "four", "two"]);
    world.proxy.until_seen("message", 6, Instant::now()).unwrap();
    down.finish().unwrap();
    assert_eq!(stream.read_chunk(1, true).await.unwrap().map(|chunk| chunk.bytes), None);
}

#[tokio::test]
async fn streams_keep_their_numbers_and_end_as_they_ended() {
    let world = World::new(Transport::WebTransport, Touch::Frames);
    let (client, server) = world.connect().await;
    for number in 0..3_u8 {
        let (mut to_server, mut from_server) = client.open_bi().await.unwrap();
        to_server.write_all(&[number; 40]).await.unwrap();
        let (mut to_client, mut from_client) = server.accept_bi().await.unwrap();
        assert_eq!(to_client.id(), to_server.id());
        let mut read = [0; 40];
        from_client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [number; 40]);
        match number {
            0 => {
                to_server.finish().unwrap();
                assert_eq!(from_client.read(&mut read).await.unwrap(), None);
                // The request's answer is HTTP, and no frames.
                to_client.write_all(b"an answer").await.unwrap();
                to_client.finish().unwrap();
                assert_eq!(from_server.read_to_end(100).await.unwrap(), b"an answer");
            }
            1 => {
                to_server.reset(VarInt::from_u32(7)).unwrap();
                assert_eq!(from_client.received_reset().await.unwrap(), Some(VarInt::from_u32(7)));
            }
            _ => {
                from_client.stop(VarInt::from_u32(8)).unwrap();
                assert_eq!(to_server.stopped().await.unwrap(), Some(VarInt::from_u32(8)));
            }
        }
    }
    let mut up = client.open_uni().await.unwrap();
    up.write_all(b"settings").await.unwrap();
    let mut settings = [0; 8];
    server.accept_uni().await.unwrap().read_exact(&mut settings).await.unwrap();
    assert_eq!(&settings, b"settings");
}

#[tokio::test]
async fn datagrams_pass_both_ways_and_are_counted() {
    let world = World::new(Transport::Quic, Touch::Frames);
    let (client, server) = world.connect().await;
    let mut ping = Vec::new();
    encode_server(&ServerFrame { request: 0, body: ServerBody::Ping }, &mut ping);
    server.send_datagram(ping.clone().into()).unwrap();
    assert_eq!(timeout(PATIENCE, client.read_datagram()).await.unwrap().unwrap(), ping);
    world.proxy.until_seen("ping", 1, Instant::now()).unwrap();
    client.send_datagram(Bytes::from_static(b"pong")).unwrap();
    assert_eq!(timeout(PATIENCE, server.read_datagram()).await.unwrap().unwrap(), b"pong"[..]);
}

#[tokio::test]
async fn a_cut_ends_both_sides_and_a_network_that_is_down_takes_nobody() {
    let world = World::new(Transport::Quic, Touch::Connections);
    let (client, server) = world.connect().await;
    // Whoever has carried something is known to be there.
    server.send_datagram(Bytes::from_static(b"x")).unwrap();
    timeout(PATIENCE, client.read_datagram()).await.unwrap().unwrap();
    world.proxy.set(Condition::Down).unwrap();
    closed(&client).await;
    closed(&server).await;
    assert!(timeout(PATIENCE, world.try_connect()).await.unwrap().is_err());
    world.proxy.set(Condition::Up).unwrap();
    let (client, server) = world.connect().await;
    client.send_datagram(Bytes::from_static(b"again")).unwrap();
    assert_eq!(timeout(PATIENCE, server.read_datagram()).await.unwrap().unwrap(), b"again"[..]);
}

#[tokio::test]
async fn what_is_held_comes_after_the_release_and_so_does_the_end() {
    let world = World::new(Transport::Quic, Touch::Connections);
    let (client, server) = world.connect().await;
    let (mut to_server, mut from_server) = client.open_bi().await.unwrap();
    to_server.write_all(b"hello").await.unwrap();
    let (mut to_client, mut from_client) = server.accept_bi().await.unwrap();
    let mut hello = [0; 5];
    from_client.read_exact(&mut hello).await.unwrap();
    to_client.write_all(&frame("before")).await.unwrap();
    assert_eq!(texts(&mut from_server, 1).await, ["before"]);
    world.proxy.set(Condition::HoldAnswers).unwrap();
    // More than the way holds: the server feels that nobody takes it.
    let large = frame(&"x".repeat(1_000_000));
    let (held, up) = tokio::join!(timeout(Duration::from_millis(200), to_client.write_all(&large)), async {
        // The other direction is free.
        to_server.write_all(b"still").await.unwrap();
        from_client.read_exact(&mut hello).await
    });
    assert!(held.is_err(), "it went through");
    up.unwrap();
    assert_eq!(&hello, b"still");
    server.close(VarInt::from_u32(4201), b"slow");
    assert!(timeout(Duration::from_millis(50), client.closed()).await.is_err(), "the end came before what was held");
    world.proxy.set(Condition::Release).unwrap();
    match closed(&client).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!((close.error_code, &*close.reason), (VarInt::from_u32(4201), &b"slow"[..]));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_frame_is_put_in_between() {
    let world = World::new(Transport::WebTransport, Touch::Frames);
    assert!(world.proxy.inject(b"x").is_err());
    let (client, server) = world.connect().await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (mut to_server, from_server) = client.open_bi().await.unwrap();
        to_server.write_all(b"begin").await.unwrap();
        answers.push((to_server, from_server, server.accept_bi().await.unwrap()));
    }
    let (_up, from_server, (to_client, _)) = &mut answers[1];
    to_client.write_all(&frame("one")).await.unwrap();
    assert_eq!(texts(from_server, 1).await, ["one"]);
    world.proxy.inject(&frame("injected")).unwrap();
    assert_eq!(texts(from_server, 1).await, ["injected"]);
}

/// The relay is no end of a connection, which goes on from another address.
#[tokio::test]
async fn a_client_that_moves_keeps_its_connection() {
    let world = World::new(Transport::Quic, Touch::Nothing);
    let (client, server) = world.connect().await;
    let before = server.remote_address();
    let (mut to_server, _from_server) = client.open_bi().await.unwrap();
    to_server.write_all(b"here").await.unwrap();
    let (_to_client, mut from_client) = server.accept_bi().await.unwrap();
    let mut read = [0; 4];
    from_client.read_exact(&mut read).await.unwrap();
    world.proxy.set(Condition::Move).unwrap();
    to_server.write_all(b"or there").await.unwrap();
    let mut read = [0; 8];
    timeout(PATIENCE, from_client.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read, b"or there");
    assert_ne!(server.remote_address(), before);
    assert!(world.proxy.set(Condition::Cut).is_err());
    assert!(world.proxy.inject(b"x").is_err());
}

/// A client that tries TCP at a proxy's port must find nobody, whoever else runs here.
#[tokio::test]
async fn nobody_takes_the_same_port_of_tcp() {
    for touch in [Touch::Nothing, Touch::Connections] {
        let world = World::new(Transport::WebTransport, touch);
        assert!(world.proxy.url().starts_with("https://127.0.0.1:"));
        let address = address(&world.proxy);
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(std::net::TcpListener::bind(address).is_err());
    }
}
