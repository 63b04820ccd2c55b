//! The frames of the vectors: every member, and the edges of their values.

use millrace_protocol::client::{
    ClientBody, ClientFrame, FEATURE_READ_POSITIONS, Hello, HistoryClass, HistoryRange, HistoryRequest, Message,
    NO_EPOCH, Publish, Published, Recovery, ServerBody, ServerFrame, Start, Subscribe, Subscribed, Welcome,
};
use millrace_protocol::code::Code;
use millrace_protocol::id::{ChannelId, Epoch, Offset, Position, Producer, ProducerSequence, SessionId};

/// A name of the greatest length, 128 bytes.
const LONGEST_NAME: &str = concat!(
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
);

/// Looks like a token; who checks it sees a signature of zeros.
const TOKEN: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0.",
    "eyJ0ZW5hbnQiOjEsInN1YiI6ImFsaWNlIiwiaWF0IjoxNzY3MjI1NjAwLCJleHAiOjE3NjcyMjkyMDAsImp0aSI6InQxIn0.",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
);

fn channel(number: u64) -> ChannelId {
    ChannelId::new(number).expect("not 0")
}

fn producer(number: u64) -> Producer {
    Producer::new(number).expect("not 0")
}

fn sequence(number: u64) -> ProducerSequence {
    ProducerSequence::new(number).expect("not 0")
}

fn at(epoch: u32, offset: u64) -> Position {
    Position { epoch: Epoch::new(epoch).expect("not 0"), offset }
}

pub(crate) fn client() -> Vec<(&'static str, ClientFrame<'static>)> {
    let hello = |token, agent, subscriptions| {
        ClientBody::Hello(Hello { version_min: 1, version_max: 1, features: 0, token, agent, subscriptions })
    };
    let subscribe = |channel, start| ClientBody::Subscribe(Subscribe { channel, start });
    let publish = |body| {
        let (channel, producer) = (channel(0x0102_0304_0506_0708), producer(0x1112_1314_1516_1718));
        ClientBody::Publish(Publish { channel, producer, sequence: sequence(1), body })
    };
    let history = |messages_max, range| {
        ClientBody::History(HistoryRequest { channel: channel(0x0102_0304_0506_0708), messages_max, range })
    };
    let resumed = vec![
        Subscribe { channel: "general", start: Start::After(at(1, 41)) },
        Subscribe { channel: "dm:alice~bob", start: Start::Live },
        Subscribe { channel: "größe-世界", start: Start::Attach },
    ];
    let highest = Hello {
        version_min: u16::MAX,
        version_max: u16::MAX,
        features: u64::MAX,
        token: "",
        agent: LONGEST_NAME,
        subscriptions: Vec::new(),
    };
    let reads = Hello {
        version_min: 1,
        version_max: 1,
        features: FEATURE_READ_POSITIONS,
        token: TOKEN,
        agent: "vectors/1",
        subscriptions: vec![Subscribe { channel: "general", start: Start::Live }],
    };
    let mark_read = |channel, position| ClientBody::MarkRead { channel, position };
    let highest_publish = Publish {
        channel: channel(u64::MAX),
        producer: producer(u64::MAX),
        sequence: sequence(u64::MAX),
        body: b"\xff",
    };
    [
        ("hello", 1, hello(TOKEN, "vectors/1", Vec::new())),
        ("hello-resumes", 2, hello(TOKEN, "vectors/1", resumed)),
        ("hello-empty", 0, hello("", "", Vec::new())),
        ("hello-highest", u32::MAX, ClientBody::Hello(highest)),
        ("subscribe-live", 2, subscribe("general", Start::Live)),
        ("subscribe-after", 3, subscribe("general", Start::After(at(1, 41)))),
        ("subscribe-after-the-beginning", 3, subscribe("general", Start::After(at(1, 0)))),
        ("subscribe-after-highest", 3, subscribe(LONGEST_NAME, Start::After(at(u32::MAX, u64::MAX)))),
        ("subscribe-attach", 4, subscribe("größe-世界", Start::Attach)),
        ("unsubscribe", 5, ClientBody::Unsubscribe { channel: channel(0x0102_0304_0506_0708) }),
        ("publish", 6, publish("hello, 世界".as_bytes())),
        ("publish-empty", 7, publish(b"")),
        ("publish-one-word", 8, publish(b"8 bytes.")),
        ("publish-without-reply", 0, publish(b"typing")),
        ("publish-zero-bytes", 9, publish(&[0; 24])),
        ("publish-highest", u32::MAX, ClientBody::Publish(highest_publish)),
        ("history-newest", 10, history(50, HistoryRange::Newest)),
        ("history-before", 11, history(1_000, HistoryRange::Before(Offset::new(42).expect("not 0")))),
        ("history-after-the-beginning", 12, history(0, HistoryRange::After(0))),
        ("history-after-highest", 13, history(u32::MAX, HistoryRange::After(u64::MAX))),
        ("refresh", 14, ClientBody::Refresh { token: TOKEN }),
        ("pong", 0, ClientBody::Pong),
        ("hello-read-positions", 1, ClientBody::Hello(reads)),
        ("mark-read", 15, mark_read(channel(0x0102_0304_0506_0708), at(1, 42))),
        ("mark-read-without-reply", 0, mark_read(channel(0x0102_0304_0506_0708), at(1, 43))),
        ("mark-read-highest", u32::MAX, mark_read(channel(u64::MAX), at(u32::MAX, u64::MAX))),
    ]
    .map(|(name, request, body)| (name, ClientFrame { request, body }))
    .into()
}

pub(crate) fn server() -> Vec<(&'static str, ServerFrame<'static>)> {
    let session = SessionId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
    let welcome = Welcome {
        version: 1,
        heartbeat_ms: 25_000,
        features: 0,
        session,
        token_expires_ms: 1_767_229_200_000,
        payload_bytes_max: 16_384,
        subscriptions_max: 1_000,
        node: "node-1",
    };
    let lowest = Welcome {
        version: 0,
        heartbeat_ms: 0,
        features: u64::MAX,
        session: SessionId([0; 16]),
        token_expires_ms: i64::MIN,
        payload_bytes_max: 0,
        subscriptions_max: 0,
        node: "",
    };
    let general = channel(0x0102_0304_0506_0708);
    let subscribed = |position, history, can_publish, recovery| {
        ServerBody::Subscribed(Subscribed {
            name: "general",
            channel: general,
            position,
            history,
            can_publish,
            recovery,
        })
    };
    let published = |position, duplicate| {
        let (producer, sequence) = (producer(0x1112_1314_1516_1718), sequence(1));
        ServerBody::Published(Published { channel: general, producer, sequence, position, duplicate })
    };
    let message = |offset, body: &'static [u8]| Message {
        channel: general,
        position: at(1, offset),
        time_ms: 1_767_225_600_123,
        user: "alice",
        producer: producer(0x1112_1314_1516_1718),
        sequence: sequence(offset.max(1)),
        body,
    };
    let highest = Message {
        channel: channel(u64::MAX),
        position: at(u32::MAX, u64::MAX),
        time_ms: i64::MAX,
        user: LONGEST_NAME,
        producer: producer(u64::MAX),
        sequence: sequence(u64::MAX),
        body: b"\xff\x00\xff",
    };
    let earliest = Message { time_ms: -1, user: "größe", position: at(1, 1), ..highest };
    let error = |code: Code, message, retry_after_ms, channel| {
        let code = code.number();
        ServerBody::Error { code, message, retry_after_ms, channel }
    };
    let page = |messages, more| ServerBody::Page { channel: general, messages, more };
    let unsubscribed = |code, reason| ServerBody::Unsubscribed { channel: general, code, reason };
    let go_away = |after_ms, endpoints| ServerBody::GoAway { code: Code::GoingAway.number(), after_ms, endpoints };
    [
        ("welcome", 1, ServerBody::Welcome(welcome)),
        ("welcome-lowest", u32::MAX, ServerBody::Welcome(lowest)),
        ("subscribed", 2, subscribed(at(1, 41), HistoryClass::Durable, true, Recovery::None)),
        ("subscribed-whole", 2, subscribed(at(1, 44), HistoryClass::Windowed, false, Recovery::Whole)),
        (
            "subscribed-reload",
            3,
            subscribed(at(2, 44), HistoryClass::Windowed, true, Recovery::Reload(Code::EpochChanged.number())),
        ),
        ("subscribed-no-history", 4, subscribed(at(NO_EPOCH.get(), 0), HistoryClass::None, true, Recovery::None)),
        ("unsubscribed", 5, unsubscribed(0, "")),
        ("unsubscribed-removed", 0, unsubscribed(Code::Removed.number(), "alice was removed from general")),
        ("published", 6, published(at(1, 42), false)),
        ("published-duplicate", 6, published(at(1, 42), true)),
        ("published-no-place", 7, published(at(NO_EPOCH.get(), 0), true)),
        ("message", 0, ServerBody::Message(message(42, "hello, 世界".as_bytes()))),
        ("message-empty", 0, ServerBody::Message(message(43, b""))),
        ("message-no-history", 0, ServerBody::Message(message(0, b"typing"))),
        ("message-highest", 0, ServerBody::Message(highest)),
        ("message-before-1970", 0, ServerBody::Message(earliest)),
        ("page", 10, page(vec![message(41, b"one"), message(42, b""), message(43, b"three")], true)),
        ("page-empty", 11, page(Vec::new(), false)),
        ("refreshed", 14, ServerBody::Refreshed { token_expires_ms: 1_767_232_800_000 }),
        ("error", 6, error(Code::NoAccess, "there is no channel general for alice", 0, "general")),
        ("error-retry", 6, error(Code::RateLimited, "publishing too fast", 1_500, "")),
        (
            "error-code-to-come",
            6,
            ServerBody::Error { code: 4_199, message: "größe\n\u{1f600}", retry_after_ms: u32::MAX, channel: "" },
        ),
        ("ping", 0, ServerBody::Ping),
        ("go-away", 0, go_away(2_500, vec!["wss://node-2.example/v1/connect", "wss://node-3.example/v1/connect"])),
        ("go-away-same-address", 0, go_away(0, Vec::new())),
        ("skipped", 0, ServerBody::Skipped { channel: general, first: at(1, 40), last: at(1, 95) }),
        ("read", 15, ServerBody::Read { channel: general, position: at(1, 42) }),
        ("read-moved", 0, ServerBody::Read { channel: general, position: at(2, 44) }),
        ("read-nothing-yet", 0, ServerBody::Read { channel: general, position: at(NO_EPOCH.get(), 0) }),
        ("read-highest", u32::MAX, ServerBody::Read { channel: channel(u64::MAX), position: at(u32::MAX, u64::MAX) }),
    ]
    .map(|(name, request, body)| (name, ServerFrame { request, body }))
    .into()
}
