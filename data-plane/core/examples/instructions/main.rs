//! The hot paths, each in a function of its own, for `cargo xtask counts`: it runs this program under callgrind and counts the
//! instructions of every function whose name begins with `counted_`. Everything else is preparation and not counted.
//!
//! Prints a line for each path: its name, how often it ran, and what of. Run alone it shows that the paths still hold together.

use std::hint::black_box;

use millrace_core::{Action, ControlEvent, SessionKey};
use millrace_protocol::client::{
    CLIENT_FRAME_BYTES_MAX, ClientBody, Message, ServerBody, ServerFrame, Start, decode_client, encode_server,
};
use millrace_protocol::node::NodeFrame;
use millrace_protocol::ws::{self, Decoder, Event, Limits, MessageKind, Opcode, Role};
use millrace_protocol::{Epoch, Offset, Position, Producer, ProducerSequence};

mod desk;

use desk::{Desk, Publishes, channel, hello};

/// A chat message.
const BODY_BYTES: usize = 100;
/// Turns that are counted, after as many and more that fill windows and caches of memory.
const TURNS: u32 = 50;
/// More than a home's window holds.
const WARM_UP: u32 = 600;
const SUBSCRIBERS: usize = 1_000;
const ROOMS: usize = 100;
const MEMBERS: usize = 10;

/// A masked frame of a client becomes a publish.
#[inline(never)]
fn counted_decode_publish(decoder: &mut Decoder, input: &mut [u8]) -> usize {
    let mut feed = decoder.feed(input);
    let mut bytes = 0;
    while let Ok(Some(event)) = feed.next_event() {
        let Event::Message { kind: MessageKind::Binary, payload } = event else { continue };
        if let Ok(frame) = decode_client(payload)
            && let ClientBody::Publish(publish) = black_box(frame).body
        {
            bytes += publish.body.len();
        }
    }
    bytes
}

/// A message becomes the frame that all subscribers share.
#[inline(never)]
fn counted_encode_message(frame: &ServerFrame<'_>, out: &mut Vec<u8>) {
    out.clear();
    encode_server(frame, out);
}

/// A publish is checked and reaches its home.
#[inline(never)]
fn counted_publish(desk: &mut Desk, session: SessionKey, frame: &[u8]) {
    desk.shard.handle_frame(desk.now, session, frame);
}

/// The turn ends: the home of a durable channel asks for its append.
#[inline(never)]
fn counted_append(desk: &mut Desk) -> Option<Action> {
    desk.shard.end_turn(desk.now);
    desk.shard.poll_action()
}

/// The append is stored: the message is encoded once and enters the queue of each subscriber; the publisher is answered.
#[inline(never)]
fn counted_deliver(desk: &mut Desk, stored: NodeFrame) {
    desk.shard.handle_control(desk.now, ControlEvent::Frame(stored));
    desk.shard.end_turn(desk.now);
}

/// Each session with something to say is named once, and its queue is walked and emptied.
#[inline(never)]
fn counted_flush(desk: &mut Desk) -> usize {
    let mut flushed = 0;
    while let Some(action) = desk.shard.poll_action() {
        let Action::Flush(session) = action else { continue };
        desk.write(session);
        flushed += 1;
    }
    flushed
}

/// A turn of a windowed channel: the home assigns the offset, encodes once, fans out and answers.
#[inline(never)]
fn counted_windowed(desk: &mut Desk, session: SessionKey, frame: &[u8]) {
    desk.shard.handle_frame(desk.now, session, frame);
    desk.shard.end_turn(desk.now);
}

/// A turn with one message for each of many small rooms, flushed.
#[inline(never)]
fn counted_small_rooms(desk: &mut Desk, publishes: &[(SessionKey, Vec<u8>)]) {
    for (session, frame) in publishes {
        desk.shard.handle_frame(desk.now, *session, frame);
    }
    desk.shard.end_turn(desk.now);
    while let Some(action) = desk.shard.poll_action() {
        let Action::Flush(session) = action else { continue };
        desk.write(session);
    }
}

/// A session begins with one subscription, or resumes with one, and what it is told is flushed; its user is known.
#[inline(never)]
fn counted_connect(desk: &mut Desk, hello: &[u8]) -> SessionKey {
    // Two functions that do the same would be made one.
    black_box("connect");
    connected(desk, hello)
}

/// The same with a position: one message was missed, and is in the home's window.
#[inline(never)]
fn counted_resume(desk: &mut Desk, hello: &[u8]) -> SessionKey {
    black_box("a resume");
    connected(desk, hello)
}

#[inline(always)]
fn connected(desk: &mut Desk, hello: &[u8]) -> SessionKey {
    let session = desk.shard.handle_connected(desk.now).expect("there is room");
    desk.shard.handle_frame(desk.now, session, hello);
    desk.settle();
    session
}

fn main() {
    codec();
    durable();
    windowed();
    small_rooms();
    sessions();
}

/// One line for `cargo xtask counts`.
fn ran(name: &str, times: u32, of: &str) {
    println!("{name} {times} {of}");
}

fn codec() {
    let mut publishes = Publishes::to("a-2");
    let mut decoder =
        Decoder::new(Role::Server, Limits { message_bytes_max: u32::try_from(CLIENT_FRAME_BYTES_MAX).expect("short") });
    for _ in 0..TURNS {
        let mut input = Vec::new();
        ws::encode::frame(Opcode::Binary, &publishes.next(BODY_BYTES), Some([1, 2, 3, 4]), &mut input);
        assert_eq!(counted_decode_publish(&mut decoder, &mut input), BODY_BYTES);
    }
    ran("decode_publish", TURNS, "publish");

    let position = Position { epoch: Epoch::FIRST, offset: Offset::FIRST.get() };
    let (producer, sequence) = (Producer::new(9).expect("not 0"), ProducerSequence::FIRST);
    let body = [b'x'; BODY_BYTES];
    let message =
        Message { channel: channel("a-2"), position, time_ms: 1, user: "alice", producer, sequence, body: &body };
    let frame = ServerFrame { request: 0, body: ServerBody::Message(message) };
    let mut out = Vec::with_capacity(1 << 10);
    for _ in 0..TURNS {
        counted_encode_message(black_box(&frame), &mut out);
        assert!(out.len() > BODY_BYTES);
    }
    ran("encode_message", TURNS, "message");
}

/// A room with [`SUBSCRIBERS`], and who publishes to it.
fn room(name: &str) -> (Desk, SessionKey) {
    let mut desk = Desk::new();
    for n in 0..SUBSCRIBERS {
        desk.connect(&format!("user-{n}"), &[name], Start::Live);
    }
    let publisher = desk.connect("publisher", &[name], Start::Attach);
    (desk, publisher)
}

fn durable() {
    let (mut desk, publisher) = room("durable-1024");
    let mut publishes = Publishes::to("durable-1024");
    for _ in 0..WARM_UP {
        let frame = publishes.next(BODY_BYTES);
        desk.shard.handle_frame(desk.now, publisher, &frame);
        desk.settle();
    }
    for _ in 0..TURNS {
        let frame = publishes.next(BODY_BYTES);
        counted_publish(&mut desk, publisher, &frame);
        let Some(Action::Control(append)) = counted_append(&mut desk) else {
            panic!("a durable message is stored first")
        };
        let stored = desk.answer(append);
        counted_deliver(&mut desk, stored);
        assert_eq!(counted_flush(&mut desk), SUBSCRIBERS + 1);
        desk.settle();
    }
    ran("publish", TURNS, "publish");
    ran("append", TURNS, "turn of one publish");
    ran("deliver", TURNS, "message to 1,000 queues");
    ran("flush", TURNS, "turn of 1,001 sessions");
}

fn windowed() {
    let (mut desk, publisher) = room("windowed-1025");
    let mut publishes = Publishes::to("windowed-1025");
    for _ in 0..WARM_UP {
        let frame = publishes.next(BODY_BYTES);
        desk.shard.handle_frame(desk.now, publisher, &frame);
        desk.settle();
    }
    for _ in 0..TURNS {
        let frame = publishes.next(BODY_BYTES);
        let before = desk.shard.stats().deliveries_total;
        counted_windowed(&mut desk, publisher, &frame);
        assert_eq!(desk.shard.stats().deliveries_total - before, SUBSCRIBERS as u64);
        desk.settle();
    }
    ran("windowed", TURNS, "message to 1,000 queues");
}

fn small_rooms() {
    let mut desk = Desk::new();
    let mut rooms = Vec::new();
    for n in 0..ROOMS {
        let name = format!("small-{}", 1025 + 2 * n);
        for member in 0..MEMBERS {
            desk.connect(&format!("user-{n}-{member}"), &[&name], Start::Live);
        }
        rooms.push((desk.connect(&format!("publisher-{n}"), &[&name], Start::Attach), Publishes::to(&name)));
    }
    // The first turns make room in each queue.
    for turn in 0..2 * TURNS {
        let publishes: Vec<_> = rooms.iter_mut().map(|(session, next)| (*session, next.next(BODY_BYTES))).collect();
        if turn < TURNS {
            for (session, frame) in publishes {
                desk.shard.handle_frame(desk.now, session, &frame);
            }
        } else {
            let before = desk.shard.stats().deliveries_total;
            counted_small_rooms(&mut desk, &publishes);
            assert_eq!(desk.shard.stats().deliveries_total - before, (ROOMS * MEMBERS) as u64);
        }
        desk.settle();
    }
    ran("small_rooms", TURNS, "turn of a message in each of 100 rooms of 10");
}

fn sessions() {
    let name = "windowed-1025";
    let mut desk = Desk::new();
    let publisher = desk.connect("publisher", &[name], Start::Attach);
    let mut publishes = Publishes::to(name);
    for _ in 0..2 {
        let frame = publishes.next(BODY_BYTES);
        desk.shard.handle_frame(desk.now, publisher, &frame);
        desk.settle();
    }
    let missed = Position { epoch: Epoch::FIRST, offset: Offset::FIRST.get() };
    for (counted, start) in
        [(counted_connect as fn(&mut Desk, &[u8]) -> SessionKey, Start::Live), (counted_resume, Start::After(missed))]
    {
        let frame = hello("alice", &[name], start);
        for turn in 0..2 * TURNS {
            let before = desk.shard.stats().subscriptions;
            let session = if turn < TURNS { connected(&mut desk, &frame) } else { counted(&mut desk, &frame) };
            assert_eq!(desk.shard.stats().subscriptions, before + 1);
            desk.shard.handle_disconnected(desk.now, session);
            desk.settle();
        }
    }
    ran("connect", TURNS, "session");
    ran("resume", TURNS, "session");
}
