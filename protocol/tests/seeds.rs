//! The seeds of the fuzz targets in `fuzz/corpus/`: one frame of each kind, so that a short run starts deep. `BLESS=1` writes them.

#[path = "vectors/frames.rs"]
mod frames;
#[path = "vectors/invalid.rs"]
#[expect(dead_code, reason = "what is expected of the bytes is checked with the vectors")]
mod invalid;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_protocol::client::{HistoryClass, HistoryRange, encode_client, encode_server};
use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::{
    ChannelId, ChannelName, Epoch, Offset, Position, Producer, ProducerSequence, SessionId, TenantId, Term, UserId,
};
use millrace_protocol::node::{
    AppendOutcome, Authorize, ChannelAppend, ChannelAppended, ChannelKind, ChannelRef, CloseHome, Grant, Head, History,
    HomeState, HomeView, Incident, IncidentChannel, IncidentKind, Inspect, InspectSubject, Inspected, KeyAlgorithm,
    LinkHello, MemberChanged, NewMessage, NodeBody, NodeFigures, NodeFrame, ProducerState, PublishOrder, PublishedAt,
    ReadHistory, ReadMark, RevokedTokens, Role, SessionView, ShardFigures, SlowConsumer, StoredMessage,
    SubscriptionState, SubscriptionView, TenantKey, TokensRevoked, Transport, encode, encode_delimited,
};
use millrace_protocol::ws::handshake::{ClientRequest, Endpoint, ServerHandshake};
use millrace_protocol::ws::{self, Opcode, handshake::ClientHandshake};

type Seeds = BTreeMap<String, Vec<u8>>;

/// Longer ones only slow a run down.
const SEED_BYTES_MAX: usize = 1_200;

fn check(target: &str, seeds: Seeds) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let seeds: Seeds = seeds
        .into_iter()
        .filter(|(_, bytes)| bytes.len() <= SEED_BYTES_MAX)
        .map(|(name, bytes)| (format!("{name}.seed"), bytes))
        .collect();
    let read = || -> Seeds {
        std::fs::read_dir(&folder)
            .expect("list seeds")
            .map(|entry| entry.expect("list seeds").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seed"))
            .map(|path| {
                let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
                (name, std::fs::read(&path).expect("read a seed"))
            })
            .collect()
    };
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(&folder).expect("make the folder");
        for old in read().into_keys().filter(|name| !seeds.contains_key(name)) {
            std::fs::remove_file(folder.join(old)).expect("remove a seed");
        }
        for (name, bytes) in &seeds {
            std::fs::write(folder.join(name), bytes).expect("write a seed");
        }
    }
    assert!(read() == seeds, "the seeds of {target} are old: `BLESS=1 cargo test -p millrace-protocol --test seeds`");
}

fn vectors<'a>(
    good: impl Iterator<Item = (&'static str, Vec<u8>)> + 'a,
    bad: Vec<(&'static str, Vec<u8>, invalid::Expect)>,
) -> Seeds {
    let bad = bad.into_iter().filter(|(_, bytes, _)| !bytes.is_empty()).map(|(name, bytes, _)| (name, bytes));
    good.chain(bad).map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

#[test]
fn client_frames_are_the_vectors() {
    let good = frames::client().into_iter().map(|(name, frame)| {
        let mut bytes = Vec::new();
        encode_client(&frame, &mut bytes);
        (name, bytes)
    });
    check("client_frame", vectors(good, invalid::client()));
}

#[test]
fn server_frames_are_the_vectors() {
    let good = frames::server().into_iter().map(|(name, frame)| {
        let mut bytes = Vec::new();
        encode_server(&frame, &mut bytes);
        (name, bytes)
    });
    check("server_frame", vectors(good, invalid::server()));
}

/// What operators ask of a node, and hear.
fn operate_frames() -> Vec<(&'static str, NodeBody)> {
    let tenant = TenantId::new(1).expect("not 0");
    let channel = ChannelId::new(0x0102_0304_0506_0708).expect("not 0");
    let user = UserId::new("alice").expect("a name");
    let name = ChannelName::new("general").expect("a name");
    let shard = ShardFigures { answers: true, sessions: 3, turns: 9, ..ShardFigures::default() };
    let figures =
        NodeFigures { version: "0.1.0".into(), connections: 3, shards: vec![shard; 2], ..NodeFigures::default() };
    let inspect = |subject| NodeBody::Inspect(Inspect { tenant, rows_max: 50, subject });
    let id = SessionId([0x5a; 16]);
    let (state, can_publish) = (SubscriptionState::Live, true);
    let subscription = SubscriptionView { channel, name: name.clone(), state, epoch: 1, offset: 42, can_publish };
    let session = SessionView {
        id,
        user: user.clone(),
        remote: "192.0.2.1:7".into(),
        agent: "sdk/1".into(),
        shard: 1,
        transport: Transport::WebSocket,
        connected_ms: 1_767_225_600_000,
        heard_ms: 1_767_225_600_123,
        token_expires_ms: 1_767_229_200_000,
        queued_bytes: 7,
        stalled_ms: 0,
        subscriptions: vec![subscription],
        subscriptions_total: 1,
    };
    let of =
        IncidentChannel { channel: Some(channel), name: "general".into(), epoch: 1, first_offset: 40, last_offset: 41 };
    let incident = Incident {
        time_ms: 1_767_225_600_123,
        kind: IncidentKind::Skipped,
        code: 0,
        session: id,
        user: user.clone(),
        reason: "it reads too slowly".into(),
        count: 1,
        channels: vec![of],
    };
    let home = HomeView {
        shard: 0,
        state: HomeState::Open,
        history: HistoryClass::Durable,
        epoch: 1,
        next_offset: 43,
        first_offset: 1,
        waiting: 0,
        shards: 2,
    };
    let inspected = Inspected {
        sessions: vec![session],
        sessions_total: 1,
        incidents: vec![incident],
        home: Some(home),
        ..Inspected::default()
    };
    vec![
        ("report", NodeBody::Report),
        ("reported", NodeBody::Reported(figures)),
        ("inspect-user", inspect(InspectSubject::User(user))),
        ("inspect-channel", inspect(InspectSubject::Channel(channel, name))),
        ("inspected", NodeBody::Inspected(inspected)),
        ("drain", NodeBody::Drain { over_ms: 5_000 }),
        ("draining", NodeBody::Draining),
    ]
}

/// One frame of each member of the control link, and of each way within it.
fn node_frames() -> Vec<(&'static str, NodeBody)> {
    let tenant = TenantId::new(1).expect("not 0");
    let channel = ChannelId::new(0x0102_0304_0506_0708).expect("not 0");
    let user = UserId::new("alice").expect("a name");
    let name = ChannelName::new("general").expect("a name");
    let (epoch, offset) = (Epoch::FIRST, Offset::new(42).expect("not 0"));
    let (producer, sequence) = (Producer::new(7).expect("not 0"), ProducerSequence::new(3).expect("not 0"));
    let term = Term(9);
    let refusal = || Refusal::new(Code::Busy, "too much work").after(Duration::from_millis(250));
    let body = Bytes::from_static(b"hello");
    let message = NewMessage { user: user.clone(), producer, sequence, time_ms: 1_767_225_600_123, body };
    let grant = Grant {
        channel,
        name: name.clone(),
        kind: ChannelKind::Group,
        history: HistoryClass::Durable,
        role: Role::Moderator,
        can_publish: true,
        slow_consumer: SlowConsumer::Skip,
        read: Some(Position::behind(epoch, offset)),
    };
    let head = Head {
        epoch,
        next_offset: offset,
        first_offset: Offset::FIRST,
        epoch_first_offset: Offset::FIRST,
        history: HistoryClass::Windowed,
        producers: vec![ProducerState { user: user.clone(), producer, sequence, offset }],
    };
    let append = ChannelAppend {
        channel,
        term,
        epoch,
        expected_offset: offset,
        messages: vec![message.clone(), NewMessage { sequence: sequence.next(), ..message.clone() }],
    };
    let outcomes = vec![
        AppendOutcome::Stored(offset),
        AppendOutcome::Duplicate(None),
        AppendOutcome::OutOfOrder { expected: sequence },
    ];
    let stored = Arc::new(StoredMessage { epoch, offset, message: message.clone() });
    let by_name = Authorize { tenant, user: user.clone(), channel: ChannelRef::Name(name.clone()) };
    let by_number = Authorize { tenant, user: user.clone(), channel: ChannelRef::Id(channel) };
    let read = |range| NodeBody::ReadHistory(ReadHistory { channel, messages_max: 50, bytes_max: 65_536, range });
    let hello = LinkHello {
        version: 1,
        node: "node-1".into(),
        proof: [0xa5; 32],
        endpoints: vec!["ws://a:1".into(); 2],
        certificate_hashes: vec![[0xc3; 32]],
    };
    let key = |algorithm, bytes: &'static [u8]| Some((algorithm, Bytes::from_static(bytes)));
    let keys = [key(KeyAlgorithm::Hs256, &[1; 32]), key(KeyAlgorithm::EdDsa, &[2; 32]), None];
    let keys = keys.map(|key| TenantKey { tenant, id: "k1".into(), key }).into();
    let member =
        |membership| NodeBody::MemberChanged(MemberChanged { tenant, channel, user: user.clone(), membership });
    let revoked = |which| NodeBody::TokensRevoked(TokensRevoked { tenant, which, forget_after_ms: 1_767_229_200_000 });
    let mark = ReadMark { tenant, user: user.clone(), channel, position: Position::behind(epoch, offset) };
    let mut frames = operate_frames();
    let placed = PublishedAt { position: Position::behind(epoch, offset), time_ms: 1, duplicate: false };
    frames.extend([
        ("challenge", NodeBody::Challenge { nonce: [0x5a; 32], version: 1 }),
        ("hello", NodeBody::Hello(hello)),
        ("welcome", NodeBody::Welcome { term, heartbeat_ms: 1_000 }),
        ("ping", NodeBody::Ping),
        ("pong", NodeBody::Pong),
        ("refused", NodeBody::Refused(refusal())),
        ("authorize", NodeBody::Authorize(vec![by_name, by_number])),
        ("authorized", NodeBody::Authorized(vec![Ok(grant), Err(refusal())])),
        ("open-homes", NodeBody::OpenHomes(vec![channel; 3])),
        ("homes-opened", NodeBody::HomesOpened(vec![(channel, Ok(head)), (channel, Err(refusal()))])),
        ("append", NodeBody::Append(vec![append])),
        (
            "appended",
            NodeBody::Appended(vec![
                ChannelAppended { channel, result: Ok(outcomes) },
                ChannelAppended { channel, result: Err(refusal()) },
            ]),
        ),
        ("read-history-newest", read(HistoryRange::Newest)),
        ("read-history-before", read(HistoryRange::Before(offset))),
        ("read-history-after", read(HistoryRange::After(0))),
        ("history", NodeBody::History(History { channel, messages: vec![stored; 2], more: true })),
        ("close-homes", NodeBody::CloseHomes(vec![CloseHome { channel, term, epoch, next_offset: offset }; 2])),
        ("homes-closed", NodeBody::HomesClosed),
        ("mark-reads", NodeBody::MarkReads(vec![mark.clone(); 2])),
        ("reads-marked", NodeBody::ReadsMarked(vec![Ok(mark.position), Err(refusal())])),
        ("reads-moved", NodeBody::ReadsMoved(vec![mark])),
        ("certificate-hashes", NodeBody::CertificateHashes(vec![[0xc3; 32]; 2])),
        ("synced", NodeBody::Synced),
        ("publish", NodeBody::Publish(PublishOrder { tenant, channel, history: HistoryClass::None, message })),
        ("published", NodeBody::Published(Ok(placed))),
        ("published-refused", NodeBody::Published(Err(refusal()))),
        ("keys", NodeBody::Keys(keys)),
        ("member-changed", member(Some((Role::Reader, false)))),
        ("member-removed", member(None)),
        ("channel-changed", NodeBody::ChannelChanged { tenant, channel, name, archived: true }),
        ("tokens-revoked-one", revoked(RevokedTokens::Token("t1".into()))),
        ("tokens-revoked-user", revoked(RevokedTokens::UserBefore(user.clone(), 1_767_225_600_000))),
    ]);
    frames
}

#[test]
fn node_frames_are_one_of_each_member() {
    let seeds = node_frames().into_iter().map(|(name, body)| {
        let mut bytes = Vec::new();
        encode(&NodeFrame { id: 1, body }, &mut bytes);
        (name.to_owned(), bytes)
    });
    check("node_frame", seeds.collect());
}

#[test]
fn node_streams_are_small_frames_in_a_row() {
    let mut stream = Vec::new();
    for (_, body) in node_frames() {
        let mut frame = Vec::new();
        encode_delimited(&NodeFrame { id: 1, body }, &mut frame).expect("small frames fit");
        if frame.len() <= 72 {
            stream.extend(frame);
        }
    }
    let with = |sizes: [u8; 4], rest: &[u8]| [&sizes, rest].concat();
    let seeds = [
        ("large-reads", with([255; 4], &stream)),
        ("single-bytes", with([0; 4], &stream)),
        ("mixed-reads", with([2, 4, 30, 0], &stream)),
        ("empty-frames", with([7; 4], &[0; 12])),
        ("too-large", with([7; 4], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1])),
        ("cut-short", with([7; 4], &stream[..stream.len() - 3])),
    ];
    check("node_stream", seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into());
}

#[test]
fn ws_streams_are_frames_of_both_sides() {
    let key = Some([1, 2, 3, 4]);
    // Role and limit, then the sizes of the reads.
    let with = |role: u8, rest: &[u8]| [&[role | 6 << 1, 200, 0, 3, 90], rest].concat();
    let frame = |opcode, payload: &[u8], key| {
        let mut out = Vec::new();
        ws::encode::frame(opcode, payload, key, &mut out);
        out
    };
    let mut close = Vec::new();
    ws::encode::close(Some(1000), "bye", key, &mut close);
    let mut fragmented = frame(Opcode::Text, "größe".as_bytes(), key);
    fragmented[0] &= 0x7f;
    fragmented.extend(frame(Opcode::Ping, b"between", key));
    let mut last = frame(Opcode::Text, b"the rest", key);
    last[0] = 0x80;
    fragmented.extend(last);
    let seeds = [
        ("from-client-text", with(0, &frame(Opcode::Text, "größe".as_bytes(), key))),
        ("from-client-binary", with(0, &frame(Opcode::Binary, &[7; 300], key))),
        ("from-client-ping", with(0, &frame(Opcode::Ping, b"are you there", key))),
        ("from-client-close", with(0, &close)),
        ("from-client-fragments", with(0, &fragmented)),
        ("from-client-unmasked", with(0, &frame(Opcode::Binary, b"x", None))),
        ("from-server-binary", with(1, &frame(Opcode::Binary, &[7; 126], None))),
        ("from-server-pong", with(1, &frame(Opcode::Pong, b"", None))),
        ("from-server-masked", with(1, &frame(Opcode::Binary, b"x", key))),
    ];
    check("ws_frame", seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into());
}

#[test]
fn ws_handshakes_are_requests_and_responses() {
    // Which side and which endpoint, then the sizes of the reads. The client's nonce is the choice, 16 times.
    let with = |choice: u8, rest: &[u8]| [&[choice, 200, 0, 3, 90], rest].concat();
    let request = |target, subprotocols| {
        let request = ClientRequest { host: "localhost", target, subprotocols, nonce: [1; 16] };
        ClientHandshake::new(&request).expect("the request can be written").1
    };
    let connect = request("/v1/connect", &["millrace.v1", "echo"][..]);
    let endpoint = Endpoint { path: Some("/v1/connect"), subprotocols: &["millrace.v1"] };
    let accepted = ServerHandshake::new().feed(&connect, &endpoint).expect("it is a request").expect("it is whole");
    let other = request("/other?x=1", &[]);
    let refused = ServerHandshake::new().feed(&other, &endpoint).expect_err("nothing is served there");
    let seeds = [
        ("request", with(0, &connect)),
        ("request-any-path", with(6, &other)),
        ("request-other-path", with(0, &other)),
        ("request-plain-http", with(0, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        ("request-tls", with(0, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc])),
        ("response-accepted", with(1, &accepted.response())),
        ("response-refused", with(1, &refused.response())),
    ];
    check("ws_handshake", seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into());
}
