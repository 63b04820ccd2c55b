//! Drivers and clients in one thread, over a network that loses, delays and reorders by a seed. Time is counted, not waited for.

mod heard;
mod loss;
mod world;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millrace_core::{Lanes, Place, Taken};
use millrace_protocol::ChannelId;
use millrace_protocol::client::{ClientBody, ClientFrame, Hello, Publish, VERSION, encode_client};
use quinn_proto::Dir;

use self::heard::sign_in;
use self::world::{Link, World, frame, number};
use super::*;
use crate::Limits;

fn channel(number: u64) -> ChannelId {
    ChannelId::new(number).unwrap()
}

fn client_frame(body: ClientBody<'_>) -> Bytes {
    let mut bytes = Vec::new();
    encode_client(&ClientFrame { request: 1, body }, &mut bytes);
    bytes.into()
}

fn hello() -> Bytes {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        token: "t",
        agent: "a",
        subscriptions: vec![],
    };
    client_frame(ClientBody::Hello(hello))
}

/// The main thing: whatever the network does and wherever the client moves, all frames come, in order on each stream.
#[test]
fn frames_survive_loss_reordering_and_a_client_that_moves() {
    for seed in 0..12 {
        let link = Link { loss_percent: 4, jitter: Duration::from_millis(15), ..Link::default() };
        let mut world = World::new(seed, 3, Limits::default(), link);
        world.connect();
        world.client_writes(&hello());
        world.run_until("the hello came", |world| world.server.frames.len() == 1);
        if seed % 4 < 2 {
            sign_in(&mut world);
        }
        let mut sent = [0_u64; 3];
        let mut asked = 0_u64;
        for round in 0..40 {
            for (place, sent) in (1..).zip(&mut sent) {
                if *sent == 0 {
                    assert!(world.offer(Place::Opening(channel(place)), frame(0, 5)));
                    *sent = 1;
                }
                for _ in 0..(round % 5) {
                    if world.offer(Place::Channel(channel(place)), frame(*sent, 20 + round)) {
                        *sent += 1;
                    }
                }
            }
            asked += 1;
            world.client_writes(&frame(asked, 30));
            world.run_for(Duration::from_millis(40));
            if round % 3 == 0 {
                world.move_client();
            }
            if round % 10 == 4 {
                world.client.inner.force_key_update();
            }
        }
        let streams = |world: &World| -> Vec<usize> { world.client.streams.values().map(Vec::len).collect() };
        let expect: Vec<usize> = sent.iter().map(|&sent| usize::try_from(sent).unwrap()).collect();
        // A client that has moved and says nothing is not found: its heartbeat tells.
        for _ in 0..20 {
            if streams(&world) != expect {
                asked += 1;
                world.client_writes(&frame(asked, 30));
                world.run_for(Duration::from_secs(1));
            }
        }
        world.run_until("all frames came", |world| {
            streams(world) == expect && world.server.frames.len() as u64 == asked + 1
        });
        for frames in world.client.streams.values() {
            assert!(frames.iter().map(|frame| number(frame)).eq(0..frames.len() as u64), "seed {seed}");
        }
        let asked_in_order = world.server.frames[1..].iter().map(|frame| number(frame)).eq(1..=asked);
        assert!(asked_in_order, "seed {seed}");
        let stats = world.stats();
        assert!(stats.migrations >= 10, "seed {seed}: {stats:?}");
        assert!(world.forwarded > 0, "seed {seed}: nothing came to the wrong shard");
        assert_eq!((stats.resets, stats.handshakes, world.server.ended.len()), (0, 1, 0), "seed {seed}");
    }
}

/// A stream that its reader leaves alone holds up nothing but itself.
#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let mut world = World::new(1, 1, Limits::default(), Link::default());
    world.client_stream_window = 8 << 10;
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    assert!(world.offer(Place::Opening(channel(1)), frame(0, 5)));
    assert!(world.offer(Place::Opening(channel(2)), frame(0, 5)));
    world.run_until("both streams are there", |world| world.client.streams.len() == 2);
    let first = *world.client.streams.keys().next().unwrap();
    world.client.unread = Some(first);
    let mut taken = [0, 0];
    for _ in 0..100 {
        for place in [1, 2] {
            let fits = world.offer(Place::Channel(channel(place)), frame(1, 100));
            taken[usize::try_from(place - 1).unwrap()] += u32::from(fits);
        }
        world.run_for(Duration::from_millis(100));
    }
    // 808 bytes each: the window, and the frame that goes over it.
    assert!(taken[0] <= 11, "{taken:?}");
    assert_eq!(taken[1], 100);
    // When it is read again it goes on where it stood.
    world.client.unread = None;
    world.client_reads();
    world.run_for(Duration::from_secs(1));
    assert!(world.offer(Place::Channel(channel(1)), frame(1, 100)));
    world.run_until("the rest came", |world| {
        world.client.streams[&first].len() == usize::try_from(taken[0]).unwrap() + 2
    });
}

/// What one stream has not taken counts as that channel's, also for those who find no room because of it.
#[test]
fn who_finds_no_room_is_told_because_of_whom() {
    let mut world = World::new(2, 1, Limits::default(), Link::default());
    world.client_stream_window = 8 << 10;
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    for place in [1, 2] {
        assert!(world.offer(Place::Opening(channel(place)), frame(0, 5)));
    }
    // 80 KB, of which the client takes 8: more than all that may wait.
    assert_eq!(world.offered(Place::Channel(channel(1)), frame(1, 10_000)), Taken::Whole);
    assert_eq!(world.offered(Place::Channel(channel(1)), frame(2, 1)), Taken::LaneFull);
    assert_eq!(world.offered(Place::Channel(channel(2)), frame(1, 1)), Taken::FullOf(Some(channel(1))));
    assert_eq!(world.offered(Place::Control, frame(1, 1)), Taken::FullOf(Some(channel(1))));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.offered(Place::Channel(channel(2)), frame(1, 1)), Taken::Whole);
}

#[test]
fn streams_end_and_begin_with_their_subscription() {
    let mut world = World::new(3, 1, Limits::default(), Link::default());
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    for (place, n) in [
        (Place::Control, 1),
        (Place::Opening(channel(7)), 2),
        (Place::Channel(channel(7)), 3),
        // Subscribed again: a new stream.
        (Place::Opening(channel(7)), 4),
        (Place::Closing(channel(7)), 5),
        // No stream is left: it goes on the control stream.
        (Place::Closing(channel(7)), 6),
        (Place::Opening(channel(8)), 7),
        (Place::Attached(channel(8)), 8),
    ] {
        assert!(world.offer(place, frame(n, 3)), "{place:?}");
    }
    world.run_until("all came", |world| world.client.control.len() == 3 && world.client.finished.len() == 3);
    let numbers = |frames: &[Vec<u8>]| frames.iter().map(|frame| number(frame)).collect::<Vec<_>>();
    assert_eq!(numbers(&world.client.control), [1, 6, 8]);
    let streams: Vec<_> = world.client.streams.values().map(|frames| numbers(frames)).collect();
    assert_eq!(streams, [vec![2, 3], vec![4, 5], vec![7]]);
    // The client wants to go, and says so.
    world.client_finishes();
    world.run_until("the goodbye came", |world| world.server.goodbyes == 1);
}

#[test]
fn early_frames_that_do_something_wait_for_the_handshake() {
    let mut world = World::new(5, 1, Limits::default(), Link::default());
    world.connect();
    world.run_for(Duration::from_secs(1));
    world.close_client();
    world.run_until("the first connection is gone", |world| world.open() == 0);

    world.server.frames.clear();
    world.reconnect();
    assert!(world.client.inner.has_0rtt(), "the ticket was kept");
    let (producer, sequence) =
        (millrace_protocol::Producer::new(1).unwrap(), millrace_protocol::ProducerSequence::FIRST);
    let publish = client_frame(ClientBody::Publish(Publish { channel: channel(1), producer, sequence, body: b"x" }));
    for bytes in [hello(), client_frame(ClientBody::Pong), publish, client_frame(ClientBody::Pong)] {
        world.client_writes(&bytes);
    }
    world.run_until("the hello came", |world| !world.server.frames.is_empty());
    assert_eq!(world.server.frames.len(), 2, "the publish waits, and what is behind it");
    assert!(!world.server.connected);
    world.run_until("the rest came", |world| world.server.frames.len() == 4);
    assert!(world.server.connected && world.client.inner.accepted_0rtt());

    // A ticket counts once: the same first flight again begins a handshake without early data.
    world.server.frames.clear();
    let recorded = world.client.first_flight.clone();
    for datagram in recorded {
        world.datagram(([192, 0, 2, 77], 7), &datagram);
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.server.frames.len(), 0);
}

#[test]
fn after_a_restart_clients_learn_that_their_connection_is_gone() {
    let mut world = World::new(6, 2, Limits::default(), Link::default());
    world.connect();
    world.run_for(Duration::from_secs(1));
    world.restart();
    world.client_writes(&frame(1, 4));
    world.run_until("the client knows", |world| world.client.lost.is_some());
    assert_eq!(world.client.lost, Some(quinn_proto::ConnectionError::Reset));
    assert_eq!(world.stats().resets, 1);
}

#[test]
fn a_flood_of_first_packets_is_answered_and_not_kept() {
    let limits = Limits { retry_above_half_open: 20, half_open_max: 40, ..Limits::default() };
    let mut world = World::new(7, 1, limits, Link::default());
    let flood = |world: &mut World| {
        let before = world.stats().retries;
        for n in 0..300_u16 {
            let [high, low] = n.to_be_bytes();
            let first = world.first_packets();
            world.datagram(([10, 1, high, low], 4000), &first);
        }
        world.stats().retries - before
    };
    assert_eq!((flood(&mut world), world.half_open()), (280, 20));
    // A client that is there gets through.
    world.connect();
    // Those that were given up still take memory, and nobody takes their places.
    world.run_for(Duration::from_millis(10_500));
    assert_eq!((world.stats().handshakes_failed, world.open(), flood(&mut world)), (20, 21, 300));
    world.run_for(Duration::from_secs(15));
    assert_eq!((world.half_open(), world.open()), (0, 1), "silent ones are gone");
}

#[test]
fn handshakes_that_do_not_come_to_an_end_are_ended() {
    let limits = Limits { retry_above_half_open: 0, ..Limits::default() };
    let mut world = World::new(8, 1, limits, Link::default());
    world.connect();
    assert_eq!(world.stats().retries, 1, "it had to show its address");
    let mut silent = World::new(9, 1, Limits::default(), Link::default());
    let first = silent.first_packets();
    silent.datagram(([10, 1, 1, 1], 1), &first);
    assert_eq!((silent.half_open(), silent.open()), (1, 1));
    silent.run_for(Duration::from_secs(9));
    assert_eq!(silent.half_open(), 1);
    silent.run_for(Duration::from_secs(20));
    assert_eq!((silent.half_open(), silent.open(), silent.stats().handshakes_failed), (0, 0, 1));
}

#[test]
fn no_datagram_from_a_stranger_does_harm() {
    let mut world = World::new(10, 2, Limits::default(), Link::default());
    let first = world.first_packets();
    let mut random = world::Random(3);
    for n in 0..4000_usize {
        let mut datagram = first.clone();
        match n % 5 {
            0 => datagram.truncate(n % 1200),
            1 => datagram[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]),
            2 => datagram.iter_mut().for_each(|byte| *byte = u8::try_from(random.below(256)).unwrap()),
            3 => datagram[n % 40] ^= u8::try_from(1 + random.below(255)).unwrap(),
            _ => datagram[0] = u8::try_from(random.below(256)).unwrap(),
        }
        world.datagram(([10, 9, 8, u8::try_from(n % 256).unwrap()], 9), &datagram);
    }
    world.run_for(Duration::from_secs(1));
    assert!(world.stats().strays > 0);
    world.connect();
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.open(), 1);
}

/// A connection that lingers is told of once it is closed: by the client, when its time is over, or when its place is needed.
#[test]
fn who_lingers_is_gone_in_the_end() {
    let lingering = || {
        let mut world = World::new(13, 1, Limits::default(), Link::default());
        world.connect();
        let key = world.server.session.as_ref().unwrap().key();
        world.drivers[0].linger(world.now, key, 256);
        world.run_for(Duration::from_millis(100));
        let driver = &world.drivers[0];
        assert_eq!((driver.lingering(), driver.parting(), driver.lingers(key)), (1, 1, true));
        assert!(world.server.parted.is_empty());
        (world, key)
    };
    let check = |world: &mut World, key: Key| {
        let driver = &world.drivers[0];
        assert_eq!((driver.lingering(), driver.lingers(key), &world.server.parted[..]), (0, false, &[key][..]));
        world.run_for(Duration::from_secs(10));
        let driver = &world.drivers[0];
        assert_eq!((world.server.parted.len(), world.server.ended.len()), (1, 0));
        assert_eq!((driver.parting(), driver.open()), (0, 0));
    };
    let (mut world, key) = lingering();
    world.run_for(Limits::default().linger);
    assert_eq!(world.client.closed_with(), Some(256));
    check(&mut world, key);
    let (mut world, key) = lingering();
    world.close_client();
    check(&mut world, key);
    let (mut world, key) = lingering();
    world.drivers[0].part_now(key);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.client.closed_with(), Some(256));
    check(&mut world, key);
}

/// What a stranger sends on streams that nobody reads is bounded by less than what a session may have on its way.
#[test]
fn a_stranger_may_send_less_at_a_time() {
    let mut world = World::new(14, 1, Limits::default(), Link::default());
    world.connect();
    world.hears_nobody = true;
    let mut open = || world.client.inner.streams().open(Dir::Uni).expect("room for it");
    let streams = [open(), open(), open()];
    let fill = |world: &mut World| -> usize {
        let mut write = |stream| world.client.inner.send_stream(stream).write(&[0; 64 << 10]).unwrap_or(0);
        streams.iter().map(|&stream| write(stream)).sum()
    };
    let before = fill(&mut world);
    world.run_for(Duration::from_secs(1));
    assert_eq!((before, fill(&mut world)), (24 << 10, 0));
    let key = world.server.session.as_ref().unwrap().key();
    world.drivers[0].signed_in(key);
    world.server.session = None;
    world.run_for(Duration::from_secs(1));
    assert_eq!(before + fill(&mut world), 48 << 10);
}

#[test]
fn a_client_that_breaks_the_rules_is_told() {
    let check = |act: fn(&mut World), expect: u32| {
        let mut world = World::new(11, 1, Limits::default(), Link::default());
        world.connect();
        world.client_writes(&hello());
        world.run_until("the hello came", |world| world.server.frames.len() == 1);
        act(&mut world);
        world.run_until("the client is told", |world| world.client.lost.is_some());
        assert_eq!(world.client.closed_with(), Some(u64::from(expect)), "{:?}", world.client.lost);
    };
    check(|world| world.client_writes(&[1; 16]), 4000);
    check(|world| world.client_writes(&[0, 0, 0, 0, 0, 0, 1, 0]), 4003);
    check(World::client_resets, 4000);
    check(
        |world| {
            world.client_writes(&[0, 0, 0, 0, 9]);
            world.client_finishes();
        },
        4000,
    );
    check(
        |world| {
            let stream = world.client.inner.streams().open(Dir::Uni).expect("HTTP/3 would need it");
            world.client.inner.send_stream(stream).write(b"x").expect("room");
        },
        4000,
    );
    // Rapid reset: it may have one stream, and no other after it.
    let mut world = World::new(12, 1, Limits::default(), Link::default());
    world.connect();
    // The control stream is open, and it may have that one.
    assert!(world.client.inner.streams().open(Dir::Bi).is_none());
}

#[test]
fn a_node_that_stops_refuses_new_clients() {
    let mut world = World::new(13, 1, Limits::default(), Link::default());
    world.drivers[0].stop_accepting();
    world.begin();
    world.run_until("it is refused", |world| world.client.lost.is_some());
    assert_eq!((world.open(), world.stats().refused), (0, 1));
}

/// What a client does not acknowledge is kept, so there is an end to it.
#[test]
fn a_client_that_acknowledges_nothing_is_given_no_more_than_its_window() {
    let mut world = World::new(14, 1, Limits::default(), Link::default());
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    assert!(world.offer(Place::Opening(channel(1)), frame(0, 5)));
    world.run_for(Duration::from_secs(1));
    world.client.is_mute = true;
    let mut taken = 0;
    for _ in 0..2000 {
        taken += u32::from(world.offer(Place::Channel(channel(1)), frame(1, 125)));
    }
    // 1,008 bytes each; 128 KiB, and the one that goes over.
    assert!((120..135).contains(&taken), "{taken}");
    world.run_for(Duration::from_secs(200));
    assert_eq!((world.open(), world.stats().timed_out), (0, 1));
}

/// A crowd of strangers must not hold up who has signed in.
#[test]
fn strangers_are_heard_when_there_is_time_for_them() {
    let mut world = World::new(17, 1, Limits::default(), Link::default());
    world.connect();
    world.hears_nobody = true;
    world.client_writes(&hello());
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.server.frames.len(), world.drivers[0].has_work()), (0, true));
    let key = world.server.session.as_ref().unwrap().key();
    world.drivers[0].signed_in(key);
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    world.client_writes(&frame(1, 4));
    world.run_until("so did the next frame", |world| world.server.frames.len() == 2);
}

/// What comes behind the end of a handshake cannot be read before that: whoever deals with handshakes later has to know.
#[test]
fn datagrams_behind_a_handshake_are_told_from_those_of_open_connections() {
    let stages = |world: &World| world.to_server().map(|data| world.drivers[0].stage(data)).collect::<Vec<_>>();
    let mut world = World::new(21, 1, Limits::default(), Link::default());
    world.begin();
    world.run_for(Duration::ZERO);
    assert_eq!(stages(&world), [Stage::First]);
    world.run_until("the client is done", |world| !world.client.inner.is_handshaking());
    world.client_writes(&hello());
    world.run_for(Duration::ZERO);
    let (sent, found): (Vec<_>, _) = (world.to_server().map(<[u8]>::to_vec).collect(), stages(&world));
    let Some(&Stage::Begun(cid)) = found.first() else { panic!("{found:?}") };
    assert!(found.iter().all(|&stage| stage == Stage::Begun(cid)), "{found:?}");
    let is_short = |data: &&Vec<u8>| data[0] & 0x80 == 0;
    assert!(sent.iter().any(|data| !is_short(&data)) && sent.iter().any(|data| is_short(&data)), "{sent:x?}");

    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    // The same once more: the handshake is over.
    for data in &sent {
        let expect = if is_short(&data) { Stage::Open(cid) } else { Stage::Claimed };
        assert_eq!(world.drivers[0].stage(data), expect);
    }
    assert_eq!(world.half_open(), 0);

    // One that comes to nothing leaves nothing behind.
    let first = world.first_packets();
    world.datagram(([10, 1, 1, 1], 1), &first);
    assert_eq!(world.half_open(), 1);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.half_open(), 0);
}

/// A datagram can hold hundreds of frames that are news and say nothing.
#[test]
fn what_came_together_is_told_once() {
    let mut world = World::new(22, 1, Limits::default(), Link::default());
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    world.run_for(Duration::from_millis(200));
    let before = world.server.told;
    for n in 1..=6_u32 {
        world.client_writes(&frame(n.into(), 1));
        world.client.inner.set_max_concurrent_streams(Dir::Uni, VarInt::from_u32(100 + 100 * n));
        world.run_for(Duration::ZERO);
    }
    assert_eq!(world.to_server().count(), 6);
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.server.frames.len(), 7);
    assert_eq!((world.server.told.0 - before.0, world.server.told.1 - before.1), (1, 1));
    // And again for what comes next.
    world.client_writes(&frame(7, 1));
    world.run_until("the next frame came", |world| world.server.frames.len() == 8);
}

/// Whatever is sent to a stranger may bring news; mostly it does not, and then nobody else has to wait for it.
#[test]
fn strangers_with_nothing_to_tell_take_nobodys_turn() {
    let mut world = World::new(23, 1, Limits::default(), Link::default());
    for n in 0..50 {
        let first = world.first_packets();
        world.datagram(([10, 1, 1, n], 4000), &first);
    }
    world.hears_nobody = true;
    // They get the same again, as they do not answer.
    world.run_for(Duration::from_secs(3));
    assert_eq!((world.half_open(), world.drivers[0].has_work()), (50, true));
    let now = world.now;
    assert!(!world.drivers[0].hear_stranger(now), "nobody has anything to tell");
    assert!(!world.drivers[0].has_work());
}

/// Before the handshake is complete the code could not be told: the close waits for that.
#[test]
fn who_is_refused_for_early_data_hears_the_code() {
    let come_back = |seed| {
        let mut world = World::new(seed, 1, Limits::default(), Link::default());
        world.connect();
        world.run_for(Duration::from_secs(1));
        world.close_client();
        world.run_until("the first connection is gone", |world| world.open() == 0);
        world.reconnect();
        assert!(world.client.inner.has_0rtt(), "the ticket was kept");
        world.client_writes(&[1; 16]);
        world
    };
    let mut world = come_back(18);
    world.run_until("the end waits for the handshake", |world| world.drivers[0].parting() == 1);
    assert_eq!((world.client.lost.is_some(), world.half_open()), (false, 1));
    world.run_until("the client is told", |world| world.client.lost.is_some());
    assert_eq!(world.client.closed_with(), Some(4000), "{:?}", world.client.lost);
    assert!(!world.server.connected, "no event comes of a connection that is being closed");
    world.run_for(Duration::from_secs(10));
    assert_eq!((world.open(), world.half_open(), world.drivers[0].parting()), (0, 0, 0));

    // One that never completes its handshake is not waited for without end.
    let mut world = come_back(19);
    world.client.is_mute = true;
    world.run_for(Duration::ZERO);
    for datagram in world.client.first_flight.clone() {
        world.datagram(([203, 0, 113, 5], 5000), &datagram);
    }
    assert_eq!((world.half_open(), world.server.session.is_some()), (1, true));
    assert_eq!(world.drivers[0].parting(), 1);
    world.run_for(Duration::from_secs(30));
    assert_eq!((world.open(), world.half_open(), world.drivers[0].parting()), (0, 0, 0));
}

/// What was written before the end arrives before it, however little the turn could send.
#[test]
fn last_words_are_sent_before_the_end() {
    let mut world = World::new(19, 1, Limits::default(), Link::default());
    world.connect();
    world.client_writes(&hello());
    world.run_until("the hello came", |world| world.server.frames.len() == 1);
    for number in 1..=5 {
        assert!(world.offer(Place::Control, frame(number, 100)));
    }
    let key = world.server.session.as_ref().unwrap().key();
    world.drivers[0].close(key, 4007, "enough");
    // Whoever stops has to wait for it.
    assert_eq!(world.drivers[0].parting(), 1);
    world.run_until("the client is told", |world| world.client.lost.is_some());
    assert_eq!((world.client.closed_with(), world.drivers[0].parting()), (Some(4007), 0));
    assert!(world.client.control.iter().map(|frame| number(frame)).eq(1..=5));
}

/// Timers move with every packet; what was set before does not stay behind.
#[test]
fn a_connection_has_one_timer() {
    let mut world = World::new(20, 1, Limits::default(), Link::default());
    world.connect();
    for number in 0..200 {
        world.client_writes(&frame(number, 20));
        world.run_for(Duration::from_millis(50));
        assert!(world.drivers[0].wheel.len() <= 1, "{} after {number}", world.drivers[0].wheel.len());
    }
    world.close_client();
    world.run_until("it is gone", |world| world.open() == 0);
    assert_eq!(world.drivers[0].wheel.len(), 0);
}

#[test]
fn bytes_of_no_length_are_nobodys() {
    let mut world = World::new(15, 1, Limits::default(), Link::default());
    let now = world.now;
    assert_eq!(world.drivers[0].route(&[]), Route::Nobody);
    world.drivers[0].handle_datagram(now, ([10, 0, 0, 1], 1).into(), None, None, BytesMut::new());
    assert_eq!(world.open(), 0);
}

#[test]
fn lanes_are_offered_nothing_before_the_control_stream_is_there() {
    let mut world = World::new(16, 1, Limits::default(), Link::default());
    world.connect();
    let key = world.server.session.as_ref().unwrap().key();
    let mut session = crate::Session::new(key, crate::Protocol::Millrace);
    let mut lanes = session.lanes(&mut world.drivers[0]);
    assert_eq!(lanes.take(Place::Control, || panic!("it is not asked for")), Taken::LaneFull);
}
