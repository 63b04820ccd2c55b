use std::sync::LazyLock;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::client::PAYLOAD_BYTES_CAP;
use crate::error::FrameError;

mod operate;

static POOL: LazyLock<Bytes> = LazyLock::new(|| (0..=250).cycle().take(PAYLOAD_BYTES_CAP).collect());

fn body() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => 0..100usize, 1 => 0..=PAYLOAD_BYTES_CAP].prop_map(|end| POOL.slice(..end))
}

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "seven77", "eight888", "node-1.example:8080", "größe\n世界\u{10ffff}"]).prop_map(str::to_owned)
}

fn user() -> impl Strategy<Value = UserId> {
    select(vec!["alice", "bob", "größe"]).prop_map(|name| UserId::new(name).unwrap())
}

fn name() -> impl Strategy<Value = ChannelName> {
    select(vec!["general", "dm:alice~bob"]).prop_map(|name| ChannelName::new(name).unwrap())
}

fn tenant() -> impl Strategy<Value = TenantId> {
    (1..=u32::MAX).prop_map(|number| TenantId::new(number).unwrap())
}

fn channel() -> impl Strategy<Value = ChannelId> {
    (1..=u64::MAX).prop_map(|number| ChannelId::new(number).unwrap())
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1..=u32::MAX).prop_map(|number| Epoch::new(number).unwrap())
}

fn offset() -> impl Strategy<Value = Offset> {
    (1..=u64::MAX).prop_map(|number| Offset::new(number).unwrap())
}

fn producer() -> impl Strategy<Value = Producer> {
    (1..=u64::MAX).prop_map(|number| Producer::new(number).unwrap())
}

fn sequence() -> impl Strategy<Value = ProducerSequence> {
    (1..=u64::MAX).prop_map(|number| ProducerSequence::new(number).unwrap())
}

fn history_class() -> impl Strategy<Value = HistoryClass> {
    select(vec![HistoryClass::Durable, HistoryClass::Windowed, HistoryClass::None])
}

fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Owner, Role::Moderator, Role::Member, Role::Reader])
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (select(Code::ALL), text(), any::<u32>())
        .prop_map(|(code, message, ms)| Refusal::new(code, message).after(Duration::from_millis(ms.into())))
}

fn or_refusal<T: std::fmt::Debug>(ok: impl Strategy<Value = T>) -> impl Strategy<Value = Result<T, Refusal>> {
    (ok, option::weighted(0.3, refusal())).prop_map(|(ok, refusal)| match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(ok),
    })
}

fn range() -> impl Strategy<Value = HistoryRange> {
    prop_oneof![
        Just(HistoryRange::Newest),
        offset().prop_map(HistoryRange::Before),
        any::<u64>().prop_map(HistoryRange::After)
    ]
}

fn new_message() -> impl Strategy<Value = NewMessage> {
    (user(), producer(), sequence(), any::<i64>(), body())
        .prop_map(|(user, producer, sequence, time_ms, body)| NewMessage { user, producer, sequence, time_ms, body })
}

fn position() -> impl Strategy<Value = Position> {
    (epoch(), any::<u64>()).prop_map(|(epoch, offset)| Position { epoch, offset })
}

fn read_mark() -> impl Strategy<Value = ReadMark> {
    (tenant(), user(), channel(), position()).prop_map(|(tenant, user, channel, position)| ReadMark {
        tenant,
        user,
        channel,
        position,
    })
}

fn requests() -> impl Strategy<Value = NodeBody> {
    let which = prop_oneof![name().prop_map(ChannelRef::Name), channel().prop_map(ChannelRef::Id)];
    let authorize = (tenant(), user(), which).prop_map(|(tenant, user, channel)| Authorize { tenant, user, channel });
    let append = (channel(), any::<u64>(), epoch(), offset(), vec(new_message(), 0..6)).prop_map(
        |(channel, term, epoch, expected_offset, messages)| ChannelAppend {
            channel,
            term: Term(term),
            epoch,
            expected_offset,
            messages,
        },
    );
    let close = (channel(), any::<u64>(), epoch(), offset())
        .prop_map(|(channel, term, epoch, next_offset)| CloseHome { channel, term: Term(term), epoch, next_offset });
    let order =
        (tenant(), channel(), history_class(), new_message()).prop_map(|(tenant, channel, history, message)| {
            NodeBody::Publish(PublishOrder { tenant, channel, history, message })
        });
    let hello = (any::<(u16, [u8; 32])>(), text(), vec(text(), 0..8), vec(any::<[u8; 32]>(), 0..4)).prop_map(
        |((version, proof), node, endpoints, certificate_hashes)| {
            NodeBody::Hello(LinkHello { version, node, proof, endpoints, certificate_hashes })
        },
    );
    prop_oneof![
        any::<([u8; 32], u16)>().prop_map(|(nonce, version)| NodeBody::Challenge { nonce, version }),
        hello,
        any::<(u64, u32)>().prop_map(|(term, heartbeat_ms)| NodeBody::Welcome { term: Term(term), heartbeat_ms }),
        Just(NodeBody::Ping),
        Just(NodeBody::Pong),
        vec(authorize, 0..10).prop_map(NodeBody::Authorize),
        vec(channel(), 0..100).prop_map(NodeBody::OpenHomes),
        vec(append, 0..5).prop_map(NodeBody::Append),
        (channel(), any::<(u32, u32)>(), range()).prop_map(|(channel, (messages_max, bytes_max), range)| {
            NodeBody::ReadHistory(ReadHistory { channel, messages_max, bytes_max, range })
        }),
        vec(close, 0..10).prop_map(NodeBody::CloseHomes),
        order,
        vec(read_mark(), 0..10).prop_map(NodeBody::MarkReads),
    ]
}

fn replies() -> impl Strategy<Value = NodeBody> {
    let kind = select(vec![ChannelKind::Dm, ChannelKind::Group, ChannelKind::Broadcast]);
    let slow = select(vec![SlowConsumer::Disconnect, SlowConsumer::Skip]);
    let read = option::of(position());
    let grant = (channel(), name(), kind, history_class(), role(), any::<bool>(), slow, read).prop_map(
        |(channel, name, kind, history, role, can_publish, slow_consumer, read)| Grant {
            channel,
            name,
            kind,
            history,
            role,
            can_publish,
            slow_consumer,
            read,
        },
    );
    let state = (user(), producer(), sequence(), offset())
        .prop_map(|(user, producer, sequence, offset)| ProducerState { user, producer, sequence, offset });
    let head = (epoch(), offset(), offset(), offset(), history_class(), vec(state, 0..6)).prop_map(
        |(epoch, next_offset, first_offset, epoch_first_offset, history, producers)| Head {
            epoch,
            next_offset,
            first_offset,
            epoch_first_offset,
            history,
            producers,
        },
    );
    let outcome = prop_oneof![
        offset().prop_map(AppendOutcome::Stored),
        option::of(offset()).prop_map(AppendOutcome::Duplicate),
        sequence().prop_map(|expected| AppendOutcome::OutOfOrder { expected }),
    ];
    let appended =
        (channel(), or_refusal(vec(outcome, 0..20))).prop_map(|(channel, result)| ChannelAppended { channel, result });
    let stored = (epoch(), offset(), new_message())
        .prop_map(|(epoch, offset, message)| Arc::new(StoredMessage { epoch, offset, message }));
    let published = (epoch(), any::<(u64, i64, bool)>()).prop_map(|(epoch, (offset, time_ms, duplicate))| {
        PublishedAt { position: Position { epoch, offset }, time_ms, duplicate }
    });
    prop_oneof![
        refusal().prop_map(NodeBody::Refused),
        vec(or_refusal(grant), 0..10).prop_map(NodeBody::Authorized),
        vec((channel(), or_refusal(head)), 0..6).prop_map(NodeBody::HomesOpened),
        vec(appended, 0..6).prop_map(NodeBody::Appended),
        (channel(), vec(stored, 0..8), any::<bool>())
            .prop_map(|(channel, messages, more)| NodeBody::History(History { channel, messages, more })),
        Just(NodeBody::HomesClosed),
        Just(NodeBody::Synced),
        or_refusal(published).prop_map(NodeBody::Published),
        vec(or_refusal(position()), 0..10).prop_map(NodeBody::ReadsMarked),
    ]
}

fn notices() -> impl Strategy<Value = NodeBody> {
    let algorithm = select(vec![KeyAlgorithm::Hs256, KeyAlgorithm::Es256, KeyAlgorithm::EdDsa]);
    let material = vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    let key = (tenant(), text(), option::of((algorithm, material))).prop_map(|(tenant, id, key)| TenantKey {
        tenant,
        id,
        key,
    });
    let which = prop_oneof![
        text().prop_map(RevokedTokens::Token),
        (user(), any::<i64>()).prop_map(|(user, before_ms)| RevokedTokens::UserBefore(user, before_ms)),
    ];
    prop_oneof![
        vec(key, 0..10).prop_map(NodeBody::Keys),
        vec(read_mark(), 0..10).prop_map(NodeBody::ReadsMoved),
        vec(any::<[u8; 32]>(), 0..4).prop_map(NodeBody::CertificateHashes),
        (tenant(), channel(), user(), option::of((role(), any::<bool>()))).prop_map(
            |(tenant, channel, user, membership)| {
                NodeBody::MemberChanged(MemberChanged { tenant, channel, user, membership })
            }
        ),
        (tenant(), channel(), name(), any::<bool>()).prop_map(|(tenant, channel, name, archived)| {
            NodeBody::ChannelChanged { tenant, channel, name, archived }
        }),
        (tenant(), which, any::<i64>()).prop_map(|(tenant, which, forget_after_ms)| {
            NodeBody::TokensRevoked(TokensRevoked { tenant, which, forget_after_ms })
        }),
    ]
}

fn frame() -> impl Strategy<Value = NodeFrame> {
    (any::<u64>(), prop_oneof![requests(), replies(), notices(), operate::bodies()])
        .prop_map(|(id, body)| NodeFrame { id, body })
}

fn bytes_of(frame: &NodeFrame) -> Bytes {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    bytes.into()
}

proptest! {
    #[test]
    fn frames_survive_the_round_trip(frame in frame()) {
        let bytes = bytes_of(&frame);
        prop_assert!(bytes.len() <= encoded_bytes_max(&frame));
        prop_assert!(encoded_bytes_max(&frame) <= bytes.len() + 24 * 8);
        prop_assert_eq!(decode(bytes).unwrap(), frame);
    }

    #[test]
    fn a_stream_gives_its_frames_however_it_is_cut(frames in vec(frame(), 0..5), cuts in vec(any::<Index>(), 0..20)) {
        let mut stream = Vec::new();
        for frame in &frames {
            encode_delimited(frame, &mut stream).unwrap();
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut reader = FrameReader::default();
        let mut got = Vec::new();
        let mut start = 0;
        for end in cuts {
            reader.feed(&stream[start..end]);
            start = end;
            while let Some(frame) = reader.next_frame().unwrap() {
                got.push(decode(frame).unwrap());
            }
        }
        prop_assert_eq!(got, frames);
        prop_assert_eq!(reader.buffered_bytes(), 0);
    }

    #[test]
    fn a_frame_cut_short_is_refused(frame in frame(), cut in any::<Index>()) {
        let bytes = bytes_of(&frame);
        let short = bytes.slice(..cut.index(bytes.len()));
        prop_assert_eq!(decode(short).unwrap_err().code(), Code::BadFrame);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let segment = &bytes[..bytes.len() / 8 * 8];
        let words = u32::try_from(segment.len() / 8).unwrap().to_le_bytes();
        let _ = decode([&[0; 4], &words[..], segment].concat().into());
        let _ = decode(bytes.into());
    }

    #[test]
    fn mutated_frames_decode_to_something_that_encodes(
        frame in frame(),
        mutations in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes_of(&frame).to_vec();
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(frame) = decode(bytes.into()) && frame.body != NodeBody::Unknown {
            prop_assert_eq!(decode(bytes_of(&frame)).unwrap(), frame);
        }
    }
}

fn publish(body: Bytes) -> NodeFrame {
    let message = NewMessage {
        user: UserId::new("alice").unwrap(),
        producer: Producer::new(1).unwrap(),
        sequence: ProducerSequence::FIRST,
        time_ms: 1,
        body,
    };
    let (tenant, channel) = (TenantId::new(1).unwrap(), ChannelId::new(1).unwrap());
    let order = PublishOrder { tenant, channel, history: HistoryClass::Durable, message };
    NodeFrame { id: 1, body: NodeBody::Publish(order) }
}

#[test]
fn bodies_share_the_frame_and_key_material_does_not() {
    let bytes = bytes_of(&publish(Bytes::from_static(b"not copied")));
    let NodeBody::Publish(order) = decode(bytes.clone()).unwrap().body else { panic!("another member") };
    assert!(bytes.as_ptr_range().contains(&order.message.body.as_ptr()));

    let key = Some((KeyAlgorithm::Hs256, Bytes::from_static(b"a secret of thirty-two bytes....")));
    let keys = NodeBody::Keys(vec![TenantKey { tenant: TenantId::new(1).unwrap(), id: "k1".into(), key }]);
    let bytes = bytes_of(&NodeFrame { id: 0, body: keys });
    let NodeBody::Keys(keys) = decode(bytes.clone()).unwrap().body else { panic!("another member") };
    assert!(!bytes.as_ptr_range().contains(&keys[0].key.as_ref().unwrap().1.as_ptr()));
}

#[test]
fn a_run_of_messages_of_one_user_shares_one_name() {
    let NodeBody::Publish(order) = publish(Bytes::new()).body else { unreachable!() };
    let append = ChannelAppend {
        channel: order.channel,
        term: Term(1),
        epoch: Epoch::FIRST,
        expected_offset: Offset::FIRST,
        messages: vec![order.message; 2],
    };
    let decoded = decode(bytes_of(&NodeFrame { id: 1, body: NodeBody::Append(vec![append]) })).unwrap();
    let NodeBody::Append(appends) = decoded.body else { panic!("another member") };
    let [first, second] = &appends[0].messages[..] else { panic!("another number of messages") };
    assert_eq!(first.user.as_str().as_ptr(), second.user.as_str().as_ptr());
}

#[test]
fn sizes_over_a_limit_are_refused() {
    let check = |body: NodeBody, expect: Result<(), Code>| {
        let decoded = decode(bytes_of(&NodeFrame { id: 1, body }));
        assert_eq!(decoded.map(drop).map_err(|error| error.code()), expect);
    };
    check(publish(POOL.clone()).body, Ok(()));
    check(publish(vec![0; PAYLOAD_BYTES_CAP + 1].into()).body, Err(Code::TooLarge));
    let channels = |count| NodeBody::OpenHomes(vec![ChannelId::new(1).unwrap(); count]);
    check(channels(LIST_ITEMS_MAX), Ok(()));
    check(channels(LIST_ITEMS_MAX + 1), Err(Code::TooLarge));
    let hello = |endpoints| {
        let endpoints = vec!["a:1".into(); endpoints];
        let certificate_hashes = Vec::new();
        NodeBody::Hello(LinkHello { version: 1, node: "n".into(), proof: [0; 32], endpoints, certificate_hashes })
    };
    check(hello(16), Ok(()));
    check(hello(17), Err(Code::TooLarge));
    let hashes = |count| NodeBody::CertificateHashes(vec![[7; 32]; count]);
    check(hashes(CERTIFICATE_HASHES_MAX), Ok(()));
    check(hashes(CERTIFICATE_HASHES_MAX + 1), Err(Code::TooLarge));
}

#[test]
fn a_frame_over_the_limit_is_not_sent() {
    let NodeBody::Publish(order) = publish(POOL.clone()).body else { unreachable!() };
    let append = |messages: usize| {
        NodeBody::Append(vec![ChannelAppend {
            channel: order.channel,
            term: Term(1),
            epoch: Epoch::FIRST,
            expected_offset: Offset::FIRST,
            messages: vec![order.message.clone(); messages],
        }])
    };
    let fitting = (FRAME_BYTES_MAX - 24 * 8) / message_bytes_max(&order.message);
    let mut out = b"before".to_vec();
    encode_delimited(&NodeFrame { id: 1, body: append(fitting) }, &mut out).unwrap();
    let len = out.len();
    let error = encode_delimited(&NodeFrame { id: 1, body: append(fitting + 1) }, &mut out).unwrap_err();
    assert!(matches!(error, FrameError::FrameTooLarge { .. }), "{error}");
    assert_eq!(out.len(), len, "nothing was added");
    let mut reader = FrameReader::default();
    reader.feed(&out[6..]);
    assert!(decode(reader.next_frame().unwrap().unwrap()).is_ok());
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_its_bytes_come() {
    let check = |limit: usize, announced: usize, refused: bool| {
        let mut reader = FrameReader::new(limit);
        let length = u32::try_from(announced).unwrap().to_le_bytes();
        for byte in &length[..3] {
            reader.feed(std::slice::from_ref(byte));
            assert_eq!(reader.next_frame().unwrap(), None);
        }
        reader.feed(&length[3..]);
        for _ in 0..2 {
            assert_eq!(reader.next_frame().is_err(), refused, "{announced} of {limit}");
        }
        assert!(reader.buffer().capacity() < 1_024, "no room is taken for what is only announced");
    };
    check(1_000, 1_000, false);
    check(1_000, 1_001, true);
    check(FRAME_BYTES_MAX, FRAME_BYTES_MAX, false);
    check(FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, true);
    check(usize::MAX, FRAME_BYTES_MAX + 1, true);
    check(1_000, u32::MAX as usize, true);
}

#[test]
fn the_limit_can_be_raised_once_the_peer_is_known() {
    let mut reader = FrameReader::new(8);
    reader.feed(&16u32.to_le_bytes());
    assert!(reader.next_frame().is_err());
    reader.set_frame_bytes_max(16);
    reader.feed(&[7; 16]);
    assert_eq!(reader.next_frame().unwrap().unwrap(), &[7; 16][..]);
}

#[test]
fn what_cannot_stand_is_refused() {
    let refused = |body: NodeBody, find: &[u8], with: &[u8], expect: Code| {
        let mut bytes = bytes_of(&NodeFrame { id: 1, body }).to_vec();
        let at = bytes.windows(find.len()).position(|window| window == find).expect("the bytes to change");
        bytes[at..at + with.len()].copy_from_slice(with);
        assert_eq!(decode(bytes.into()).unwrap_err().code(), expect, "{with:?} for {find:?}");
    };
    let message = publish(Bytes::from_static(b"body")).body;
    refused(message.clone(), b"alice", b"ali e", Code::Invalid);
    refused(message.clone(), b"alice", b"ali\xffe", Code::BadFrame);
    let homes = || NodeBody::OpenHomes(vec![ChannelId::new(0x1122_3344_5566_7788).unwrap()]);
    refused(homes(), &0x1122_3344_5566_7788u64.to_le_bytes(), &[0; 8], Code::Invalid);
    let changed = NodeBody::ChannelChanged {
        tenant: TenantId::new(0x0102_0304).unwrap(),
        channel: ChannelId::new(1).unwrap(),
        name: ChannelName::new("general").unwrap(),
        archived: true,
    };
    refused(changed.clone(), &[4, 3, 2, 1], &[0; 4], Code::Invalid);
    refused(changed, b"general", b"g neral", Code::Invalid);
    // The nonce is a list of 32 bytes: (32 << 3) | 2. Of 24 it is refused.
    let challenge = NodeBody::Challenge { nonce: [9; 32], version: 1 };
    refused(challenge, &[0x02, 0x01, 0, 0, 9, 9], &[0xc2, 0], Code::Invalid);
}

#[test]
fn later_members_and_codes_are_not_an_error() {
    let mut bytes = bytes_of(&NodeFrame { id: 7, body: NodeBody::Ping }).to_vec();
    // Words: table, root pointer, id, member.
    bytes[24..26].copy_from_slice(&999u16.to_le_bytes());
    assert_eq!(decode(bytes.into()).unwrap(), NodeFrame { id: 7, body: NodeBody::Unknown });

    let check = |number: u16, expect: Code| {
        let refused = NodeBody::Refused(Refusal::new(Code::Busy, "later"));
        let mut bytes = bytes_of(&NodeFrame { id: 1, body: refused }).to_vec();
        let at = bytes.windows(2).position(|pair| pair == Code::Busy.number().to_le_bytes()).unwrap();
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
        let NodeBody::Refused(refusal) = decode(bytes.into()).unwrap().body else { panic!("another member") };
        assert_eq!(refusal, Refusal::new(expect, "later"), "{number}");
    };
    check(4101, Code::Busy);
    check(4099, Code::Invalid);
    check(4199, Code::Unavailable);
    check(4299, Code::Internal);
    check(4399, Code::EpochChanged);
    check(4499, Code::BadToken);
}

#[test]
fn a_delay_too_long_for_the_wire_becomes_the_longest() {
    let body = NodeBody::Refused(Refusal::new(Code::Busy, "").after(Duration::from_secs(u64::MAX)));
    let NodeBody::Refused(refusal) = decode(bytes_of(&NodeFrame { id: 1, body })).unwrap().body else {
        panic!("another member")
    };
    assert_eq!(refusal.retry_after, Duration::from_millis(u32::MAX.into()));
}
