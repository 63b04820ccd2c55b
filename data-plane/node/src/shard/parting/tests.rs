//! Peers that read, that do not, and that talk on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use monoio::RuntimeBuilder;

use super::*;
use crate::poller::Ready;
use crate::shard::admission::{AdmissionLimits, Entry};

const LINGER: Duration = Duration::from_secs(5);

struct World {
    poller: Poller,
    parting: Parting,
    door: Admission,
    now: Instant,
    listener: TcpListener,
}

/// Runs a test where a poller can be.
fn world(test: impl FnOnce(World)) {
    let mut runtime = RuntimeBuilder::<monoio::LegacyDriver>::new().build().expect("epoll driver");
    runtime.block_on(async {
        test(World {
            poller: Poller::new(16).expect("poller"),
            parting: Parting::new(LINGER),
            door: Admission::new(AdmissionLimits { places_max: 10, address_places_max: 1 }),
            now: Instant::now(),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"),
        });
    });
}

impl World {
    fn pair(&self) -> (TcpStream, OwnedFd) {
        let peer = TcpStream::connect(self.listener.local_addr().expect("address")).expect("connect");
        let (ours, _) = self.listener.accept().expect("accept");
        ours.set_nonblocking(true).expect("non-blocking");
        (peer, ours.into())
    }

    fn part(&mut self, ours: OwnedFd, rest: Vec<u8>, origin: Origin) -> Gone {
        self.parting.insert(self.now, &self.poller, &mut self.door, ours, rest, origin, None)
    }

    /// Handles what is ready until nobody is left.
    fn until_gone(&mut self) -> Gone {
        let mut buffer = vec![0; 64 << 10];
        let mut all = Gone::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.parting.len() > 0 {
            assert!(Instant::now() < deadline, "somebody stays");
            let mut ready: Vec<Ready> = Vec::new();
            self.poller.take_ready(&mut ready).expect("epoll");
            for ready in ready {
                let gone = self.parting.handle_ready(&self.poller, &mut self.door, ready.token, &mut buffer);
                all.counted += gone.counted;
                all.resets += gone.resets;
            }
        }
        all
    }
}

#[test]
fn last_words_arrive_though_the_peer_talks_on() {
    world(|mut world| {
        let (mut peer, ours) = world.pair();
        // Unread input would turn a plain close into a reset.
        peer.write_all(&[1; 5000]).expect("write");
        let gone = world.part(ours, b"last words".to_vec(), Origin::Counted);
        assert_eq!((gone.counted, world.parting.len()), (0, 1));
        peer.write_all(&[2; 5000]).expect("write");
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("an orderly end");
        assert_eq!(heard, b"last words");
        drop(peer);
        assert_eq!(world.until_gone().counted, 1);
        assert_eq!(world.parting.poll_timeout(), None);
    });
}

#[test]
fn who_reads_late_still_hears_everything() {
    world(|mut world| {
        let (mut peer, ours) = world.pair();
        let words = vec![7; 16 << 20];
        world.part(ours, words.clone(), Origin::Counted);
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).map(|_| heard)
        });
        assert_eq!(world.until_gone().counted, 1);
        assert!(reader.join().expect("reader").expect("an orderly end") == words);
    });
}

#[test]
fn who_does_not_close_is_reset_when_the_time_is_over() {
    world(|mut world| {
        let (mut deaf, ours) = world.pair();
        world.part(ours, vec![7; 16 << 20], Origin::Counted);
        let (mut slow_to_close, ours) = world.pair();
        world.part(ours, b"bye".to_vec(), Origin::Refused);
        assert_eq!((world.parting.len(), world.parting.refused()), (2, 1));
        assert_eq!(world.parting.poll_timeout(), Some(world.now + LINGER));
        assert_eq!(world.parting.handle_timeout(world.now, &mut world.door).counted, 0);

        let gone = world.parting.handle_timeout(world.now + LINGER, &mut world.door);
        assert_eq!((gone.counted, gone.resets), (1, 2));
        assert_eq!((world.parting.len(), world.parting.refused()), (0, 0));
        let mut heard = Vec::new();
        slow_to_close.read_to_end(&mut heard).expect("an orderly end");
        assert_eq!(heard, b"bye");
        heard.clear();
        assert_eq!(deaf.read_to_end(&mut heard).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_old_token_names_nobody() {
    world(|mut world| {
        let (peer, ours) = world.pair();
        world.part(ours, Vec::new(), Origin::Counted);
        let (_, old) = *world.parting.deadlines.front().expect("one");
        drop(peer);
        world.until_gone();
        // The place is used again.
        let (_peer, ours) = world.pair();
        world.part(ours, Vec::new(), Origin::Counted);
        let (_, new) = *world.parting.deadlines.front().expect("one");
        assert_eq!(old << 32, new << 32, "the same place");
        assert_eq!(world.parting.handle_ready(&world.poller, &mut world.door, old, &mut [0; 16]).counted, 0);
        assert_eq!(world.parting.len(), 1);
    });
}

#[test]
fn who_is_gone_already_is_gone_at_once() {
    world(|mut world| {
        let (peer, ours) = world.pair();
        sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("linger");
        drop(peer);
        assert_eq!(world.part(ours, b"nobody hears".to_vec(), Origin::Counted).counted, 1);
        assert_eq!(world.parting.len(), 0);
    });
}

/// A stranger who was told why it ends, and holds on, still has its address's place: that is what others get room by.
#[test]
fn a_stranger_keeps_its_place_until_it_is_gone() {
    let address = Ipv4Addr::LOCALHOST.into();
    world(|mut world| {
        let Entry::In(place) = world.door.enter(world.now, address, 7) else { panic!("there is room") };
        let (mut peer, ours) = world.pair();
        world.part(ours, b"no".to_vec(), Origin::Stranger(place, 7));
        assert_eq!((world.door.len(), world.door.enter(world.now, address, 8)), (1, Entry::Refused));
        // The door names it when it dawdles, and it ends.
        let Entry::Instead(next, token) = world.door.enter(world.now + LINGER, address, 8) else {
            panic!("it dawdles")
        };
        assert!(Parting::is_token(token) && !Parting::is_token(7));
        let gone = world.parting.end(token, &mut world.door);
        assert_eq!((gone.counted, gone.resets, world.parting.len()), (1, 1, 0));
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("an orderly end");
        assert_eq!((heard.as_slice(), world.door.len()), (&b"no"[..], 1));
        // Who goes in time gives it back.
        world.door.leave(next, 8);
        let Entry::In(place) = world.door.enter(world.now, address, 9) else { panic!("there is room") };
        let (peer, ours) = world.pair();
        world.part(ours, b"no".to_vec(), Origin::Stranger(place, 9));
        drop(peer);
        assert_eq!((world.until_gone().counted, world.door.len()), (1, 0));
    });
}
