//! A subscriber that does not read: bounded, told, closed, and whole again when it comes back.

use std::io::Read;

use millrace_data::{Config, DataNode};
use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;
use millrace_protocol::ws::Opcode;
use millrace_protocol::{ChannelId, Code, Position};

use crate::support::{Client, Control, Frame, Got, PATIENCE, config, door, metric, node, stop, until};

const BODY: [u8; 8 << 10] = [7; 8 << 10];

/// Publishes until the kernel's buffers and a session's queue are full; `each` sees every message. Gives the last sequence.
fn publish_until_one_is_slow(
    node: &DataNode,
    writer: &mut Client,
    channel: ChannelId,
    mut each: impl FnMut(&mut Client, u64),
) -> u64 {
    let mut sequence = 0;
    while metric(node, "millrace_data_slow_consumers_total") == 0.0 {
        for _ in 0..64 {
            sequence += 1;
            let request = writer.publish(channel, 5, sequence, &BODY);
            writer.acknowledged(request);
            each(writer, sequence);
        }
        assert!(sequence < 20_000, "160 MB and nobody is slow");
    }
    sequence
}

#[test]
fn a_reader_that_stalls_is_closed_in_time_and_resumes_whole() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, Config { linger: PATIENCE, ..config() });
    let mut slow = Client::connect(door(&node), &control.token("ann"));
    slow.subscribe("general", Start::Live);
    let mut writer = Client::connect(door(&node), &control.token("ann"));
    writer.subscribe("general", Start::Live);
    let sequence = publish_until_one_is_slow(&node, &mut writer, channel, |writer, sequence| {
        assert_eq!(writer.message().position.offset, sequence);
        if sequence.is_multiple_of(64) {
            assert!(metric(&node, "millrace_data_queued_bytes") <= f64::from(256 << 10) + 16384.0);
        }
    });
    // It wakes up: everything that it got is in order, then it reads why it was closed.
    let mut last = None;
    let code = loop {
        match slow.next() {
            Got::Frame(Frame::Message(message)) => {
                assert_eq!(message.position.offset, last.map_or(1, |last: Position| last.offset + 1));
                last = Some(message.position);
            }
            Got::Close(code, _) => break code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(Code::from_number(code), Some(Code::SlowConsumer));
    let last = last.expect("some messages came through");
    assert!(last.offset < sequence);

    let mut back = Client::connect(door(&node), &control.token("ann"));
    back.subscribe("general", Start::After(last));
    for offset in last.offset + 1..=sequence {
        assert_eq!(back.message().position.offset, offset);
    }
    drop((slow, writer, back));
    stop(node);
}

/// Who does not even read why it was closed is reset when the linger time is over, and its place is free again.
#[test]
fn a_reader_that_never_wakes_up_is_reset() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut slow = Client::connect(door(&node), &control.token("ann"));
    slow.subscribe("general", Start::Live);
    let mut writer = Client::connect(door(&node), &control.token("ann"));
    writer.subscribe("general", Start::Attach);
    publish_until_one_is_slow(&node, &mut writer, channel, |_, _| {});
    until("it is reset", || metric(&node, "millrace_data_resets_total") == 1.0);
    until("its place is free", || metric(&node, "millrace_data_connections") == 1.0);
    let mut rest = Vec::new();
    let end = slow.stream.read_to_end(&mut rest).expect_err("the end is a reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    stop(node);
}

/// Answers to pings go between frames, also when a frame is stuck half way in the socket.
#[test]
fn a_stuck_stream_stays_whole_around_pongs() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let mut reader = Client::connect(door(&node), &control.token("ann"));
    reader.subscribe("general", Start::Live);
    let mut writer = Client::connect(door(&node), &control.token("ann"));
    writer.subscribe("general", Start::Attach);
    let mut sequence = 0;
    let mut publish = |count: u64| {
        for _ in 0..count {
            sequence += 1;
            let request = writer.publish(channel, 5, sequence, &BODY);
            writer.acknowledged(request);
        }
        sequence
    };
    let mut waits = 0;
    while metric(&node, "millrace_data_short_writes_total") == 0.0 {
        publish(4);
        waits += 1;
        assert!(waits < 5_000, "160 MB and the socket takes more");
    }
    for ping in [b"1", b"2", b"3"] {
        reader.send_ws(Opcode::Ping, ping);
    }
    until("the pings are seen", || metric(&node, "millrace_data_ws_pings_total") == 3.0);
    let last = publish(8);
    let (mut next, mut pongs) = (1, Vec::new());
    while next <= last {
        match reader.next() {
            Got::Frame(Frame::Message(message)) => {
                assert_eq!((message.position.offset, &message.body[..]), (next, &BODY[..]));
                next += 1;
            }
            Got::Pong(payload) => pongs.push((next, payload)),
            other => panic!("{other:?}"),
        }
    }
    let (at, newest) = pongs.last().expect("an answer");
    assert_eq!(newest, b"3");
    assert!(*at <= last, "the answer came before what was queued after it");
    stop(node);
}
