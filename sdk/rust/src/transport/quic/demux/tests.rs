use millrace_protocol::client::{HistoryClass, Message, Recovery, ServerFrame, Subscribed, Welcome, encode_server};
use millrace_protocol::id::{Epoch, Position, Producer, ProducerSequence, SessionId};
use proptest::prelude::*;

use super::*;

fn frame(body: ServerBody<'_>) -> Vec<u8> {
    let mut out = vec![];
    encode_server(&ServerFrame { request: 0, body }, &mut out);
    out
}

fn welcome() -> Vec<u8> {
    frame(ServerBody::Welcome(Welcome {
        version: 1,
        heartbeat_ms: 1,
        features: 0,
        session: SessionId([1; 16]),
        token_expires_ms: 1,
        payload_bytes_max: 1,
        subscriptions_max: 1,
        node: "n",
    }))
}

fn subscribed(channel: u64) -> Vec<u8> {
    frame(ServerBody::Subscribed(Subscribed {
        name: "c",
        channel: ChannelId::new(channel).unwrap(),
        position: position(0),
        history: HistoryClass::Durable,
        can_publish: true,
        recovery: Recovery::None,
    }))
}

fn message(channel: u64, offset: u64) -> Vec<u8> {
    frame(ServerBody::Message(Message {
        channel: ChannelId::new(channel).unwrap(),
        position: position(offset),
        time_ms: 1,
        user: "u",
        producer: Producer::new(1).unwrap(),
        sequence: ProducerSequence::FIRST,
        body: b"body",
    }))
}

fn position(offset: u64) -> Position {
    Position { epoch: Epoch::FIRST, offset }
}

/// A connection as its shell has it: what each stream carries, and how far it was read.
struct Bench {
    demux: Demux,
    heard: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Self { demux: Demux::new(), heard: vec![] }
    }

    fn greeted() -> Self {
        let mut bench = Self::new();
        bench.feed(CONTROL, &welcome()).unwrap();
        bench.heard.clear();
        bench
    }

    fn feed(&mut self, key: Key, bytes: &[u8]) -> Result<(), Error> {
        let heard = &mut self.heard;
        self.demux.feed(key, Bytes::copy_from_slice(bytes), &mut |frame: &[u8]| heard.push(describe(frame)))
    }

    fn finish(&mut self, key: Key) -> Result<(), Error> {
        let heard = &mut self.heard;
        self.demux.finish(key, &mut |frame: &[u8]| heard.push(describe(frame)))
    }

    fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.heard)
    }
}

fn describe(frame: &[u8]) -> String {
    match decode_server(frame).unwrap().body {
        ServerBody::Welcome(_) => "welcome".into(),
        ServerBody::Subscribed(subscribed) => format!("subscribed {}", subscribed.channel.get()),
        ServerBody::Message(message) => format!("{}:{}", message.channel.get(), message.position.offset),
        ServerBody::Ping => "ping".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn channels_wait_for_the_welcome() {
    let mut bench = Bench::new();
    let stream = bench.demux.open();
    assert!(!bench.demux.may_read(stream));
    bench.feed(stream, &subscribed(7)).unwrap();
    assert_eq!(bench.heard(), [""; 0]);
    bench.feed(CONTROL, &welcome()).unwrap();
    assert_eq!(bench.heard(), ["welcome", "subscribed 7"]);
    assert_eq!(bench.demux.poll_released(), Some(stream));
    assert!(bench.demux.may_read(stream));
}

#[test]
fn streams_of_one_channel_are_read_one_after_the_other() {
    let mut bench = Bench::greeted();
    let (first, second, other) = (bench.demux.open(), bench.demux.open(), bench.demux.open());
    bench.feed(first, &subscribed(7)).unwrap();
    bench.feed(second, &[subscribed(7), message(7, 3)].concat()).unwrap();
    bench.feed(other, &[subscribed(8), message(8, 1)].concat()).unwrap();
    assert_eq!(bench.heard(), ["subscribed 7", "subscribed 8", "8:1"]);
    assert!(!bench.demux.may_read(second), "its sender has to wait");
    bench.finish(second).unwrap();
    bench.feed(first, &message(7, 2)).unwrap();
    assert_eq!(bench.heard(), ["7:2"]);
    bench.finish(first).unwrap();
    assert_eq!(bench.heard(), ["subscribed 7", "7:3"]);
    assert_eq!(bench.demux.open_streams(), 1);
    let third = bench.demux.open();
    bench.feed(third, &subscribed(7)).unwrap();
    assert_eq!(bench.heard(), ["subscribed 7"], "the channel is free again");
}

#[test]
fn streams_that_are_not_as_they_must_be_end_the_connection() {
    let check = |expect: &str, act: &dyn Fn(&mut Bench) -> Result<(), Error>| {
        let error = act(&mut Bench::greeted()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, expect);
    };
    check("a channel's stream does not begin with the answer to a subscription", &|bench| {
        let stream = bench.demux.open();
        bench.feed(stream, &message(7, 1))
    });
    check("the control stream ended", &|bench| bench.finish(CONTROL));
    check("a stream ended within a frame", &|bench| {
        let stream = bench.demux.open();
        bench.feed(stream, &subscribed(7)[..20])?;
        bench.finish(stream)
    });
    check("a frame begins with the table of one segment that is not empty", &|bench| bench.feed(CONTROL, &[1; 8]));
}

proptest! {
    /// However the bytes of the streams are cut and interleaved, each channel's frames come whole and in order, those of an earlier
    /// stream of it first, and the welcome before all.
    #[test]
    fn every_interleaving_keeps_each_channel_in_order(cuts in prop::collection::vec((0..5usize, 1..200usize), 0..400)) {
        let mut bench = Bench::new();
        let keys: Vec<Key> = std::iter::once(CONTROL).chain((0..4).map(|_| bench.demux.open())).collect();
        let channel = |of: u64, range: std::ops::Range<u64>| {
            std::iter::once(subscribed(of)).chain(range.map(|offset| message(of, offset))).collect::<Vec<_>>().concat()
        };
        // Two streams for channel 1; the node opened them in this order, and named them in this order.
        let mut left = vec![
            [welcome(), frame(ServerBody::Ping)].concat(),
            channel(1, 1..5),
            channel(2, 1..9),
            channel(3, 1..3),
            channel(1, 5..9),
        ];
        let mut finished = [false; 5];
        let step = |bench: &mut Bench, left: &mut Vec<Vec<u8>>, finished: &mut [bool; 5], stream: usize, len: usize| {
            // A client subscribes again when it has the answer to the first time.
            if stream == 4 && !bench.heard.iter().any(|heard| heard == "subscribed 1") { return; }
            if !bench.demux.may_read(keys[stream]) || finished[stream] { return; }
            let len = len.min(left[stream].len());
            let chunk: Vec<u8> = left[stream].drain(..len).collect();
            if !chunk.is_empty() {
                bench.feed(keys[stream], &chunk).unwrap();
            }
            if left[stream].is_empty() && stream != 0 && bench.demux.may_read(keys[stream]) {
                finished[stream] = true;
                bench.finish(keys[stream]).unwrap();
            }
        };
        for (stream, len) in cuts {
            step(&mut bench, &mut left, &mut finished, stream, len);
        }
        for _ in 0..6 {
            for stream in 0..5 {
                step(&mut bench, &mut left, &mut finished, stream, usize::MAX);
            }
        }
        let heard = bench.heard();
        prop_assert_eq!(&heard[0], "welcome");
        let of = |name: &str| heard.iter().filter(|it| it.starts_with(name)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(of("1:"), (1..9).map(|offset| format!("1:{offset}")).collect::<Vec<_>>());
        prop_assert_eq!(of("2:"), (1..9).map(|offset| format!("2:{offset}")).collect::<Vec<_>>());
        prop_assert_eq!(of("3:"), (1..3).map(|offset| format!("3:{offset}")).collect::<Vec<_>>());
        prop_assert_eq!(of("subscribed 1").len(), 2);
        prop_assert_eq!(bench.demux.open_streams(), 0);
    }
}
