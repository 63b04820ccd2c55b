//! The link against a control plane that misbehaves, in paused time: minutes take milliseconds.

use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_protocol::Code;
use millrace_protocol::node::CloseHome;
use tokio::sync::mpsc::{Receiver, Sender};

use super::*;

const HEARTBEAT_MS: u32 = 1000;

/// The control plane's end of one link.
struct Peer {
    write: tokio::io::WriteHalf<DuplexStream>,
    read: tokio::io::ReadHalf<DuplexStream>,
    frames: FrameReader,
}

impl Peer {
    async fn send(&mut self, id: u64, body: NodeBody) {
        let mut bytes = Vec::new();
        node::encode_delimited(&NodeFrame { id, body }, &mut bytes).expect("small");
        self.write.write_all(&bytes).await.expect("write");
    }

    /// The next frame that is no heartbeat; `None` at the end.
    async fn receive(&mut self) -> Option<NodeFrame> {
        loop {
            while let Some(frame) = self.frames.next_frame().expect("well formed") {
                let frame = node::decode(frame).expect("well formed");
                if frame.body != NodeBody::Ping {
                    return Some(frame);
                }
            }
            if self.read.read_buf(self.frames.buffer()).await.expect("read") == 0 {
                return None;
            }
        }
    }

    async fn challenge(&mut self) -> LinkHello {
        self.send(0, NodeBody::Challenge { nonce: [3; 32], version: node::VERSION }).await;
        match self.receive().await.expect("a hello").body {
            NodeBody::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    async fn welcome(&mut self, term: u64) {
        self.challenge().await;
        self.accept(term).await;
    }

    async fn accept(&mut self, term: u64) {
        self.send(0, NodeBody::Welcome { term: Term(term), heartbeat_ms: HEARTBEAT_MS }).await;
    }
}

struct World {
    dials: Arc<AtomicUsize>,
    peers: Receiver<Peer>,
    events: Receiver<LinkEvent>,
    outgoing: Sender<Outgoing>,
    /// Hashes of the certificate that the node shows.
    shown: watch::Sender<Vec<[u8; 32]>>,
}

/// A link that is kept open for as long as the world is there.
fn world(refuse: impl Fn(usize) -> bool + Send + Sync + 'static) -> World {
    let dials = Arc::new(AtomicUsize::new(0));
    let (to_peers, peers) = mpsc::channel(16);
    let count = Arc::clone(&dials);
    let dial = move || {
        if refuse(count.fetch_add(1, Ordering::Relaxed)) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (read, write) = tokio::io::split(theirs);
        to_peers.try_send(Peer { write, read, frames: FrameReader::default() }).map_err(io::Error::other)?;
        Ok(ours)
    };
    let (shown, certificate_hashes) = watch::channel(vec![[1; 32]]);
    let identity = Identity {
        node: "n1".into(),
        endpoints: vec!["ws://n1".into()],
        certificate_hashes,
        secret: b"secret".to_vec(),
    };
    let (to_events, events) = mpsc::channel(16);
    let (outgoing, from_outgoing) = mpsc::channel(16);
    let target = LinkTarget::InProcess { dial: Arc::new(dial) };
    tokio::spawn(keep_open(target, identity, to_events, from_outgoing));
    World { dials, peers, events, outgoing, shown }
}

impl World {
    async fn peer(&mut self) -> Peer {
        self.peers.recv().await.expect("a link")
    }

    async fn up(&mut self, expect: u64) {
        match self.events.recv().await.expect("an event") {
            LinkEvent::Up(term) => assert_eq!(term, Term(expect)),
            other => panic!("{other:?}"),
        }
    }

    async fn down(&mut self) {
        assert!(matches!(self.events.recv().await, Some(LinkEvent::Down)));
    }
}

fn request(term: u64, id: u64) -> Outgoing {
    Outgoing { term: Term(term), frame: NodeFrame { id, body: NodeBody::OpenHomes(Vec::new()) } }
}

#[tokio::test(start_paused = true)]
async fn the_proof_is_of_the_nonce_and_the_name() {
    let mut world = world(|_| false);
    let hello = world.peer().await.challenge().await;
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    assert_eq!(hmac::verify(&key, &[&[3; 32][..], b"n1"].concat(), &hello.proof), Ok(()));
    assert_eq!((hello.node.as_str(), hello.version), ("n1", node::VERSION));
    assert_eq!(hello.endpoints, ["ws://n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_told() {
    let mut world = world(|_| false);
    let mut peer = world.peer().await;
    assert_eq!(peer.challenge().await.certificate_hashes, [[1; 32]]);
    // While the link is not up yet it is not told; it is when the link is.
    world.shown.send_replace(vec![[2; 32]]);
    peer.accept(7).await;
    world.up(7).await;
    assert_eq!(peer.receive().await.expect("a frame").body, NodeBody::CertificateHashes(vec![[2; 32]]));
    world.shown.send_replace(Vec::new());
    assert_eq!(peer.receive().await.expect("a frame").body, NodeBody::CertificateHashes(Vec::new()));
    drop(peer);
    world.down().await;
    world.shown.send_replace(vec![[3; 32]]);
    assert_eq!(world.peer().await.challenge().await.certificate_hashes, [[3; 32]]);
}

#[tokio::test(start_paused = true)]
async fn frames_go_both_ways_and_stale_ones_nowhere() {
    let mut world = world(|_| false);
    let mut peer = world.peer().await;
    peer.welcome(7).await;
    world.up(7).await;
    for outgoing in [request(6, 1), request(7, 2), request(8, 3), request(7, 4)] {
        world.outgoing.send(outgoing).await.expect("room");
    }
    let ids = [peer.receive().await.expect("a frame").id, peer.receive().await.expect("a frame").id];
    assert_eq!(ids, [2, 4]);
    peer.send(2, NodeBody::HomesOpened(Vec::new())).await;
    match world.events.recv().await {
        Some(LinkEvent::Frame(frame)) => assert_eq!(frame.id, 2),
        other => panic!("{other:?}"),
    }
    drop(peer);
    world.down().await;
    // What waits for the old link does not reach the new one.
    world.outgoing.send(request(7, 5)).await.expect("room");
    let mut peer = world.peer().await;
    peer.welcome(8).await;
    world.up(8).await;
    world.outgoing.send(request(8, 6)).await.expect("room");
    assert_eq!(peer.receive().await.expect("a frame").id, 6);
}

#[tokio::test(start_paused = true)]
async fn a_link_lives_by_heartbeats_and_ends_without() {
    let mut world = world(|_| false);
    let mut peer = world.peer().await;
    peer.welcome(1).await;
    world.up(1).await;
    let heartbeat = Duration::from_millis(HEARTBEAT_MS.into());
    for _ in 0..10 {
        tokio::time::advance(heartbeat * 2).await;
        peer.send(0, NodeBody::Ping).await;
        assert_eq!(peer.receive().await.expect("an answer").body, NodeBody::Pong);
    }
    let silent_from = Instant::now();
    world.down().await;
    let silence = silent_from.elapsed();
    assert!(silence <= heartbeat * SILENT_HEARTBEATS_MAX, "{silence:?}");
    assert!(silence > heartbeat * (SILENT_HEARTBEATS_MAX - 1), "{silence:?}");
}

/// A peer that is alive but takes nothing off the wire is as useless as a silent one.
#[tokio::test(start_paused = true)]
async fn a_link_whose_peer_does_not_read_ends() {
    let mut world = world(|_| false);
    let mut peer = world.peer().await;
    peer.welcome(1).await;
    world.up(1).await;
    let homes = vec![
        CloseHome {
            channel: millrace_protocol::ChannelId::new(1).expect("not 0"),
            term: Term(1),
            epoch: millrace_protocol::Epoch::FIRST,
            next_offset: millrace_protocol::Offset::FIRST,
        };
        10_000
    ];
    let mut beats = tokio::time::interval(Duration::from_millis(500));
    let talking = async {
        loop {
            peer.send(0, NodeBody::Pong).await;
            beats.tick().await;
        }
    };
    let filling = async {
        loop {
            let frame = NodeFrame { id: 1, body: NodeBody::CloseHomes(homes.clone()) };
            if world.outgoing.send(Outgoing { term: Term(1), frame }).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = talking => unreachable!("it talks for ever"),
        () = filling => panic!("the link is kept open"),
        event = world.events.recv() => assert!(matches!(event, Some(LinkEvent::Down))),
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_back_off_with_jitter_and_never_end() {
    let mut world = world(|dial| dial < 12);
    let begin = Instant::now();
    let mut peer = world.peer().await;
    let waited = begin.elapsed();
    // 50, 100, 200, 400, 800, 1600 ms and six times 2 s, each between a half and the whole.
    let longest = Duration::from_millis(3150 + 12_000);
    assert!(waited <= longest + Duration::from_millis(100) && waited >= longest / 2, "{waited:?}");
    assert_eq!(world.dials.load(Ordering::Relaxed), 13);
    peer.welcome(1).await;
    world.up(1).await;
    // A link that was up begins with the shortest wait again.
    let begin = Instant::now();
    drop(peer);
    world.down().await;
    world.peer().await;
    assert!(begin.elapsed() <= BACKOFF.0 + Duration::from_millis(10), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_goes_wrong_is_tried_again() {
    let mut world = world(|_| false);
    let mut refusing = world.peer().await;
    refusing.challenge().await;
    refusing.send(0, NodeBody::Refused(Refusal::new(Code::Busy, "another node is linked"))).await;
    let mut newer = world.peer().await;
    newer.send(0, NodeBody::Challenge { nonce: [0; 32], version: node::VERSION + 1 }).await;
    let mut confused = world.peer().await;
    confused.send(0, NodeBody::Ping).await;
    let mut garbage = world.peer().await;
    garbage.write.write_all(&[0xff; 64]).await.expect("write");
    // Says nothing: 10 s.
    let begin = Instant::now();
    let silent = world.peer().await;
    let mut good = world.peer().await;
    assert!(begin.elapsed() >= HANDSHAKE_LIMIT);
    drop(silent);
    good.welcome(9).await;
    world.up(9).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_queue_ends_the_link_after_what_is_in_it() {
    let mut world = world(|_| false);
    let mut peer = world.peer().await;
    peer.welcome(1).await;
    world.up(1).await;
    for id in 1..=10 {
        world.outgoing.send(request(1, id)).await.expect("room");
    }
    drop(world.outgoing);
    for id in 1..=10 {
        assert_eq!(peer.receive().await.map(|frame| frame.id), Some(id));
    }
    assert_eq!(peer.receive().await, None);
    assert!(world.events.recv().await.is_none(), "the link is gone, without a word");
}
