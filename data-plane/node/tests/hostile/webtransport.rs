//! Attacks on HTTP/3 and WebTransport.

use std::collections::BTreeMap;

use quinn::{Connection, ConnectionError, SendStream};

use crate::support::quic::{QuicClient, runtime};
use crate::support::web;
use crate::world::{GROWTH_MAX, Random, World};

/// H3_EXCESSIVE_LOAD.
const EXCESSIVE_LOAD: u64 = 0x107;
/// Far more streams than a client may break.
const STREAMS_MAX: u64 = 1_000;

/// Streams in a session's connection that are opened and broken off before they have said what they are, and requests that are broken
/// off: until the node has had enough, on one connection after the other.
#[test]
fn a_flood_of_resets() {
    let world = World::new();
    let trust = world.trust.over_web();
    world.attacked("broken streams of WebTransport", GROWTH_MAX, || {
        let Ok(client) = QuicClient::try_open(&trust, world.node.quic, &[], false) else { return 0 };
        let (broken, end) = runtime().block_on(break_streams(&client.connection));
        assert_eq!(code(&end), Some(EXCESSIVE_LOAD), "{end} after {broken} streams");
        broken
    });
    world.end();
}

/// Gives how many there were, and why there are no more.
async fn break_streams(connection: &Connection) -> (u64, ConnectionError) {
    let request = web::request();
    for broken in 0..STREAMS_MAX {
        let opened = match broken % 2 {
            0 => connection.open_uni().await,
            _ => connection.open_bi().await.map(|(stream, _)| stream),
        };
        match opened {
            Ok(mut stream) => {
                // Whether the node reads it or not before it hears that there is no more, and whether it is still there: the first half
                // of what the stream is, or of a request.
                let _ = stream.write_all(if broken % 2 == 0 { &[0x40] } else { &request[..7] }).await;
                let _ = stream.reset(web::NO_ERROR);
            }
            Err(end) => return (broken, end),
        }
    }
    panic!("{STREAMS_MAX} streams were broken off on one connection, and the node has not had enough");
}

fn code(end: &ConnectionError) -> Option<u64> {
    match end {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// Datagrams of the session that hold no frame, and of sessions that there are not.
#[test]
fn a_flood_of_datagrams() {
    let world = World::new();
    let connect = || QuicClient::connect(&world.trust.over_web(), world.node.quic, &world.control.token("ann"));
    let mut client = connect();
    world.attacked("datagrams of WebTransport that say nothing", GROWTH_MAX, || {
        let session = client.request.as_ref().expect("a session").id;
        let send = |n: &u64| {
            if !n.is_multiple_of(4) {
                return client.send_datagram(vec![7; 64]).is_ok();
            }
            let datagram = [web::datagram_prefix(session + 4 * (n + 1)), vec![7; 64]].concat();
            runtime().block_on(client.connection.send_datagram_wait(datagram.into())).is_ok()
        };
        let sent = (0..64).take_while(send).count();
        if sent < 64 {
            // Who never answers a ping is ended after a while.
            client = connect();
        }
        sent as u64
    });
    println!("  {} came and were ignored", world.node.of("quic_datagrams_ignored_total"));
    assert!(world.node.of("quic_datagrams_ignored_total") > 0.0);
    drop(client);
    world.end();
}

/// What is sent on streams that should hold HTTP/3.
struct Garbage(Random);

impl Garbage {
    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.0.below(max + 1)).map(|_| self.0.byte()).collect()
    }

    /// Kinds that mean something, and others.
    fn kind(&mut self) -> u64 {
        let known = [0x0, 0x1, 0x3, 0x4, 0x7, 0xd, 0x21, 0x41, 0x54, 0x2843, 0x78ae, 0x190b_4d3d];
        if self.0.below(4) > 0 { known[self.0.below(known.len())] } else { self.0.next() >> 2 }
    }

    /// Frames or capsules, of which the last may be longer than it says, or shorter.
    fn items(&mut self) -> Vec<u8> {
        let mut items = Vec::new();
        for _ in 0..self.0.below(6) {
            let (kind, value) = (self.kind(), self.bytes(300));
            web::item(kind, &value, &mut items);
        }
        match self.0.below(4) {
            0 => {
                // As long as can be said.
                web::number(self.kind(), &mut items);
                web::number((1 << 62) - 1, &mut items);
                items.extend(self.bytes(1_000));
            }
            1 => items.truncate(self.0.below(items.len() + 1)),
            _ => {}
        }
        items
    }

    /// The request of a session in which something is wrong.
    fn request(&mut self) -> Vec<u8> {
        let mut request = web::request();
        match self.0.below(3) {
            0 => {
                let at = self.0.below(request.len());
                request[at] = self.0.byte();
            }
            1 => {
                let section = self.bytes(600);
                request.clear();
                web::item(1, &section, &mut request);
            }
            _ => request.truncate(self.0.below(request.len())),
        }
        request
    }

    /// Sends something on streams of a connection on which nothing was said.
    async fn throw(&mut self, connection: &Connection) -> Option<()> {
        let control = match self.0.below(3) {
            0 => web::CONTROL.to_vec(),
            1 => [&[0][..], &self.items()].concat(),
            _ => self.bytes(200),
        };
        send(connection.open_uni().await.ok()?, &control, End::Open).await?;
        let request = if self.0.below(2) > 0 { self.request() } else { self.items() };
        send(connection.open_bi().await.ok()?.0, &request, End::Finished).await
    }

    /// Sends something in a session: streams of it and of others, or what should be capsules.
    async fn throw_inside(&mut self, connection: &Connection, request: web::Request) -> Option<()> {
        for _ in 0..self.0.below(4) {
            let mut start = Vec::new();
            web::number(self.kind(), &mut start);
            web::number(self.0.next() >> (2 + self.0.below(60)), &mut start);
            start.extend(self.bytes(200));
            send(connection.open_uni().await.ok()?, &start, End::Finished).await?;
        }
        let mut frames = Vec::new();
        match self.0.below(4) {
            0 => frames = self.items(),
            _ => web::item(0, &self.items(), &mut frames),
        }
        send(request.stream, &frames, End::Finished).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    /// It goes on, as far as anybody knows.
    Open,
}

/// Sends it, and waits until the node has it or wants no more; `None` if it has ended the connection.
async fn send(mut stream: SendStream, bytes: &[u8], end: End) -> Option<()> {
    // The node may have stopped it.
    let _ = stream.write_all(bytes).await;
    if end == End::Open {
        // It is in the way of nothing, and its end would be a fault of its own.
        tokio::spawn(async move { stream.stopped().await });
        return Some(());
    }
    let _ = stream.finish();
    stream.stopped().await.ok().map(drop)
}

/// Whatever is said where HTTP/3 should be said, the node ends the connection in the words of HTTP/3, or does not.
#[test]
fn garbage_in_place_of_http3() {
    let world = World::new();
    let (raw, web) = (world.trust.speaking(b"h3"), world.trust.over_web());
    let (mut garbage, mut ends) = (Garbage(Random(5)), BTreeMap::<_, u64>::new());
    world.attacked("garbage in place of HTTP/3", GROWTH_MAX, || {
        let is_inside = garbage.0.below(2) > 0;
        let trust = if is_inside { &web } else { &raw };
        let Ok(mut client) = QuicClient::try_open(trust, world.node.quic, &[], false) else { return 0 };
        let connection = client.connection.clone();
        runtime().block_on(async {
            match client.request.take() {
                Some(request) => garbage.throw_inside(&connection, request).await,
                None => garbage.throw(&connection).await,
            }
        });
        let end = connection.close_reason().map(|end| match code(&end) {
            Some(code) => format!("{code:#x}"),
            None => format!("{end}"),
        });
        connection.close(web::NO_ERROR, &[]);
        *ends.entry(end.unwrap_or_else(|| "none yet".to_owned())).or_default() += 1;
        1
    });
    println!("  the ends of the connections: {ends:?}");
    // Of HTTP/3, of QPACK and of datagrams; or the connection was closed by its own client once the session was over, or the node's words
    // were lost, and it has forgotten the connection since.
    let is_known = |end: &str| {
        let code = end.strip_prefix("0x").and_then(|code| u64::from_str_radix(code, 16).ok());
        code.map_or(
            matches!(end, "none yet" | "closed" | "reset by peer"),
            |code| matches!(code, 0x33 | 0x100..=0x110 | 0x200..=0x202),
        )
    };
    assert!(ends.keys().all(|end| is_known(end)), "{ends:?}");
    assert!(ends.len() > 3, "most of it was not read: {ends:?}");
    world.end();
}
