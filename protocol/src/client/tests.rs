use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const TEXTS: [&str; 8] = [
    "",
    "a",
    "general",
    "seven77",
    "eight888",
    "größe-世界",
    "dm:alice~bob",
    "a text\nof several lines, \0 and \u{10ffff}",
];

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=250).cycle().take(PAYLOAD_BYTES_CAP).collect());

fn text() -> impl Strategy<Value = &'static str> {
    select(&TEXTS[..])
}

fn body() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![
        4 => (0..300usize).prop_map(|end| &POOL[..end]),
        1 => (0..=PAYLOAD_BYTES_CAP).prop_map(|end| &POOL[..end]),
    ]
}

fn channel() -> impl Strategy<Value = ChannelId> {
    (1..=u64::MAX).prop_map(|number| ChannelId::new(number).unwrap())
}

fn producer() -> impl Strategy<Value = Producer> {
    (1..=u64::MAX).prop_map(|number| Producer::new(number).unwrap())
}

fn sequence() -> impl Strategy<Value = ProducerSequence> {
    (1..=u64::MAX).prop_map(|number| ProducerSequence::new(number).unwrap())
}

fn position() -> impl Strategy<Value = Position> {
    (1..=u32::MAX, any::<u64>()).prop_map(|(epoch, offset)| Position { epoch: Epoch::new(epoch).unwrap(), offset })
}

fn subscribe() -> impl Strategy<Value = Subscribe<'static>> {
    let start = prop_oneof![Just(Start::Live), position().prop_map(Start::After), Just(Start::Attach)];
    (text(), start).prop_map(|(channel, start)| Subscribe { channel, start })
}

fn client_frame() -> impl Strategy<Value = ClientFrame<'static>> {
    let hello = (any::<(u16, u16, u64)>(), text(), text(), vec(subscribe(), 0..20)).prop_map(
        |((version_min, version_max, features), token, agent, subscriptions)| {
            ClientBody::Hello(Hello { version_min, version_max, features, token, agent, subscriptions })
        },
    );
    let publish = (channel(), producer(), sequence(), body()).prop_map(|(channel, producer, sequence, body)| {
        ClientBody::Publish(Publish { channel, producer, sequence, body })
    });
    let range = prop_oneof![
        Just(HistoryRange::Newest),
        (1..=u64::MAX).prop_map(|offset| HistoryRange::Before(Offset::new(offset).unwrap())),
        any::<u64>().prop_map(HistoryRange::After),
    ];
    let history = (channel(), any::<u32>(), range).prop_map(|(channel, messages_max, range)| {
        ClientBody::History(HistoryRequest { channel, messages_max, range })
    });
    let body = prop_oneof![
        hello,
        subscribe().prop_map(ClientBody::Subscribe),
        channel().prop_map(|channel| ClientBody::Unsubscribe { channel }),
        publish,
        history,
        text().prop_map(|token| ClientBody::Refresh { token }),
        Just(ClientBody::Pong),
        (channel(), position()).prop_map(|(channel, position)| ClientBody::MarkRead { channel, position }),
    ];
    (any::<u32>(), body).prop_map(|(request, body)| ClientFrame { request, body })
}

fn message() -> impl Strategy<Value = Message<'static>> {
    (channel(), position(), any::<i64>(), text(), producer(), sequence(), body()).prop_map(
        |(channel, position, time_ms, user, producer, sequence, body)| Message {
            channel,
            position,
            time_ms,
            user,
            producer,
            sequence,
            body,
        },
    )
}

fn server_frame() -> impl Strategy<Value = ServerFrame<'static>> {
    let welcome = (any::<(u16, u32, u64, [u8; 16])>(), any::<(i64, u32, u32)>(), text()).prop_map(
        |(
            (version, heartbeat_ms, features, session),
            (token_expires_ms, payload_bytes_max, subscriptions_max),
            node,
        )| {
            ServerBody::Welcome(Welcome {
                version,
                heartbeat_ms,
                features,
                session: SessionId(session),
                token_expires_ms,
                payload_bytes_max,
                subscriptions_max,
                node,
            })
        },
    );
    let history = select(vec![HistoryClass::Durable, HistoryClass::Windowed, HistoryClass::None]);
    let recovery = prop_oneof![Just(Recovery::None), Just(Recovery::Whole), any::<u16>().prop_map(Recovery::Reload)];
    let subscribed = (text(), channel(), position(), history, any::<bool>(), recovery).prop_map(
        |(name, channel, position, history, can_publish, recovery)| {
            ServerBody::Subscribed(Subscribed { name, channel, position, history, can_publish, recovery })
        },
    );
    let published = (channel(), producer(), sequence(), position(), any::<bool>()).prop_map(
        |(channel, producer, sequence, position, duplicate)| {
            ServerBody::Published(Published { channel, producer, sequence, position, duplicate })
        },
    );
    let body = prop_oneof![
        welcome,
        subscribed,
        (channel(), any::<u16>(), text()).prop_map(|(channel, code, reason)| ServerBody::Unsubscribed {
            channel,
            code,
            reason
        }),
        published,
        message().prop_map(ServerBody::Message),
        (channel(), vec(message(), 0..8), any::<bool>()).prop_map(|(channel, messages, more)| ServerBody::Page {
            channel,
            messages,
            more
        }),
        any::<i64>().prop_map(|token_expires_ms| ServerBody::Refreshed { token_expires_ms }),
        (any::<u16>(), text(), any::<u32>(), text()).prop_map(|(code, message, retry_after_ms, channel)| {
            ServerBody::Error { code, message, retry_after_ms, channel }
        }),
        Just(ServerBody::Ping),
        (any::<u16>(), any::<u32>(), vec(text(), 0..=ENDPOINTS_MAX))
            .prop_map(|(code, after_ms, endpoints)| ServerBody::GoAway { code, after_ms, endpoints }),
        (channel(), position(), position()).prop_map(|(channel, first, last)| ServerBody::Skipped {
            channel,
            first,
            last
        }),
        (channel(), position()).prop_map(|(channel, position)| ServerBody::Read { channel, position }),
    ];
    (any::<u32>(), body).prop_map(|(request, body)| ServerFrame { request, body })
}

fn client_bytes(frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_client(frame, &mut bytes);
    bytes
}

fn server_bytes(frame: &ServerFrame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_server(frame, &mut bytes);
    bytes
}

/// The same bytes at an address that no word starts at.
fn unaligned(bytes: &[u8], store: &mut Vec<u8>) -> std::ops::Range<usize> {
    store.clear();
    store.resize(8 + bytes.len(), 0);
    let start = 1 + (8 - store.as_ptr().addr() % 8) % 8;
    store.resize(start + bytes.len(), 0);
    store[start..].copy_from_slice(bytes);
    start..start + bytes.len()
}

proptest! {
    #[test]
    fn client_frames_survive_the_round_trip(frame in client_frame()) {
        let bytes = client_bytes(&frame);
        prop_assert_eq!(bytes.len(), bytes.capacity(), "one allocation, of just the right size");
        prop_assert_eq!(&decode_client(&bytes).unwrap(), &frame);
        let mut store = Vec::new();
        let range = unaligned(&bytes, &mut store);
        prop_assert_eq!(&decode_client(&store[range]).unwrap(), &frame);
        let mut after = b"before".to_vec();
        encode_client(&frame, &mut after);
        prop_assert_eq!(&after[6..], &bytes[..], "appended, and the same each time");
    }

    #[test]
    fn server_frames_survive_the_round_trip(frame in server_frame()) {
        let bytes = server_bytes(&frame);
        prop_assert_eq!(bytes.len(), bytes.capacity(), "one allocation, of just the right size");
        prop_assert_eq!(&decode_server(&bytes).unwrap(), &frame);
        let mut store = Vec::new();
        let range = unaligned(&bytes, &mut store);
        prop_assert_eq!(&decode_server(&store[range]).unwrap(), &frame);
    }

    #[test]
    fn a_frame_cut_short_or_followed_by_anything_is_refused(frame in client_frame(), cut in any::<prop::sample::Index>()) {
        let bytes = client_bytes(&frame);
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(decode_client(short).unwrap_err().code(), Code::BadFrame);
        for extra in [1, 8] {
            let mut long = bytes.clone();
            long.resize(bytes.len() + extra, 0);
            prop_assert_eq!(decode_client(&long).unwrap_err().code(), Code::BadFrame);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode_client(&bytes);
        let _ = decode_server(&bytes);
        // As one segment of the right length, so that more than the table is looked at.
        let segment = &bytes[..bytes.len() / 8 * 8];
        let words = u32::try_from(segment.len() / 8).unwrap().to_le_bytes();
        let framed = [&[0; 4], &words[..], segment].concat();
        let _ = decode_client(&framed);
        let _ = decode_server(&framed);
    }

    #[test]
    fn mutated_client_frames_keep_the_limits(
        frame in client_frame(),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = client_bytes(&frame);
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(frame) = decode_client(&bytes) {
            keeps_client_limits(&frame, bytes.len());
        }
    }

    #[test]
    fn mutated_server_frames_keep_the_limits(
        frame in server_frame(),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = server_bytes(&frame);
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(frame) = decode_server(&bytes) {
            keeps_server_limits(&frame, bytes.len());
        }
    }
}

/// What decodes never shows more bytes than the frame had, and encodes to a frame of the same meaning.
fn keeps_client_limits(frame: &ClientFrame<'_>, bytes: usize) {
    match &frame.body {
        ClientBody::Hello(hello) => {
            assert!(hello.subscriptions.len() <= SUBSCRIPTIONS_CAP);
            assert!(hello.token.len() <= TOKEN_BYTES_MAX && hello.agent.len() <= AGENT_BYTES_MAX);
            let names: usize = hello.subscriptions.iter().map(|subscribe| subscribe.channel.len()).sum();
            assert!(hello.token.len() + hello.agent.len() + names <= bytes);
        }
        ClientBody::Publish(publish) => assert!(publish.body.len() <= bytes),
        ClientBody::Unknown => return,
        _ => {}
    }
    assert_eq!(&decode_client(&client_bytes(frame)).unwrap(), frame);
}

fn keeps_server_limits(frame: &ServerFrame<'_>, bytes: usize) {
    match &frame.body {
        ServerBody::Page { messages, .. } => {
            assert!(messages.len() <= PAGE_MESSAGES_MAX);
            assert!(messages.iter().map(|message| message.body.len() + message.user.len()).sum::<usize>() <= bytes);
        }
        ServerBody::GoAway { endpoints, .. } => {
            assert!(endpoints.len() <= ENDPOINTS_MAX);
            assert!(endpoints.iter().map(|endpoint| endpoint.len()).sum::<usize>() <= bytes);
        }
        ServerBody::Unknown => return,
        _ => {}
    }
    assert_eq!(&decode_server(&server_bytes(frame)).unwrap(), frame);
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    let hello = ClientBody::Hello(Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        token: "token",
        agent: "agent",
        subscriptions: vec![Subscribe {
            channel: "general",
            start: Start::After(Position { epoch: Epoch::FIRST, offset: 7 }),
        }],
    });
    let bytes = client_bytes(&ClientFrame { request: 1, body: hello });
    for end in 0..bytes.len() {
        assert_eq!(decode_client(&bytes[..end]).unwrap_err().code(), Code::BadFrame, "cut at {end}");
        // A table that fits what is left does not help where something is missing.
        if end >= 16 && end % 8 == 0 {
            let mut shorter = bytes[..end].to_vec();
            shorter[4..8].copy_from_slice(&u32::try_from(end / 8 - 1).unwrap().to_le_bytes());
            assert_eq!(decode_client(&shorter).unwrap_err().code(), Code::BadFrame, "shortened to {end}");
        }
    }
}

#[test]
fn the_largest_frames_fit_their_limits() {
    let name = "n".repeat(crate::id::NAME_BYTES_MAX);
    let token = "t".repeat(TOKEN_BYTES_MAX);
    let agent = "a".repeat(AGENT_BYTES_MAX);
    let start = Start::After(Position { epoch: Epoch::FIRST, offset: u64::MAX });
    let hello = |subscriptions| {
        let subscriptions = vec![Subscribe { channel: &name, start }; subscriptions];
        let hello = Hello { version_min: 1, version_max: 1, features: 0, token: &token, agent: &agent, subscriptions };
        client_bytes(&ClientFrame { request: 1, body: ClientBody::Hello(hello) })
    };
    assert!(hello(SUBSCRIPTIONS_CAP).len() <= CLIENT_FRAME_BYTES_MAX);
    assert!(decode_client(&hello(SUBSCRIPTIONS_CAP)).is_ok());
    assert_eq!(decode_client(&hello(SUBSCRIPTIONS_CAP + 1)).unwrap_err().code(), Code::TooLarge);

    let page = |messages, body: &[u8]| {
        let message = Message {
            channel: ChannelId::new(1).unwrap(),
            position: Position::behind(Epoch::FIRST, Offset::FIRST),
            time_ms: i64::MAX,
            user: &name,
            producer: Producer::new(1).unwrap(),
            sequence: ProducerSequence::FIRST,
            body,
        };
        let body = ServerBody::Page { channel: message.channel, messages: vec![message; messages], more: true };
        server_bytes(&ServerFrame { request: 1, body })
    };
    let body = vec![b'b'; PAGE_BODY_BYTES_MAX / PAGE_MESSAGES_MAX];
    assert!(decode_server(&page(PAGE_MESSAGES_MAX, &body)).is_ok());
    assert_eq!(decode_server(&page(PAGE_MESSAGES_MAX + 1, b"")).unwrap_err().code(), Code::TooLarge);
    assert!(decode_server(&page(PAGE_BODY_BYTES_MAX / PAYLOAD_BYTES_CAP, &POOL)).is_ok());
}

#[test]
fn sizes_over_a_limit_are_refused() {
    let check = |body: ClientBody<'_>, expect: Result<(), Code>| {
        let bytes = client_bytes(&ClientFrame { request: 1, body });
        assert_eq!(decode_client(&bytes).map(drop).map_err(|error| error.code()), expect);
    };
    let publish = |body| {
        ClientBody::Publish(Publish {
            channel: ChannelId::new(1).unwrap(),
            producer: Producer::new(1).unwrap(),
            sequence: ProducerSequence::FIRST,
            body,
        })
    };
    let longer = vec![0; PAYLOAD_BYTES_CAP + 1];
    check(publish(&POOL), Ok(()));
    // Its session must go on: who takes the publish refuses it.
    check(publish(&longer), Ok(()));
    check(publish(&vec![0; CLIENT_FRAME_BYTES_MAX]), Err(Code::TooLarge));
    let token = "t".repeat(TOKEN_BYTES_MAX + 1);
    check(ClientBody::Refresh { token: &token[1..] }, Ok(()));
    check(ClientBody::Refresh { token: &token }, Err(Code::TooLarge));
    let hello = |agent| {
        let subscriptions = Vec::new();
        ClientBody::Hello(Hello { version_min: 1, version_max: 1, features: 0, token: "", agent, subscriptions })
    };
    check(hello(&token[..AGENT_BYTES_MAX]), Ok(()));
    check(hello(&token[..=AGENT_BYTES_MAX]), Err(Code::TooLarge));
}

/// Frames that no encoder of ours writes: each is made of a good one by changing what the comment says.
#[test]
fn frames_that_cannot_stand_are_refused() {
    let bytes = client_bytes(&ClientFrame {
        request: 7,
        body: ClientBody::Publish(Publish {
            channel: ChannelId::new(1).unwrap(),
            producer: Producer::new(2).unwrap(),
            sequence: ProducerSequence::new(3).unwrap(),
            body: b"hello",
        }),
    });
    // Words: table, root pointer, request and member, pointer to the publish, channel, producer, sequence, pointer to the
    // body, body.
    assert_eq!(bytes.len(), 9 * 8);
    let check = |at: usize, with: &[u8], expect: Result<(), Code>| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        assert_eq!(decode_client(&bytes).map(drop).map_err(|error| error.code()), expect, "{with:?} at {at}");
    };
    check(0, &[0], Ok(()));
    check(0, &[1], Err(Code::BadFrame)); // two segments
    check(3, &[0xff], Err(Code::BadFrame)); // very many segments
    check(4, &[7], Err(Code::BadFrame)); // a word after the segment
    check(4, &[9], Err(Code::BadFrame)); // a word is missing
    check(4, &[0; 4], Err(Code::BadFrame)); // no word at all
    check(8, &[0; 8], Ok(())); // no root: an empty hello, whose versions are then found wanting
    check(8, &[1], Err(Code::BadFrame)); // the root is a list
    check(8, &[2], Err(Code::BadFrame)); // the root is in another segment
    check(8, &[0xfc, 0xff, 0xff, 0xff], Err(Code::BadFrame)); // the root holds itself: its member overlaps and runs over
    check(20, &[200], Ok(())); // a member to come: unknown
    check(24, &[0; 8], Err(Code::Invalid)); // no publish: all zero
    check(32, &[0], Err(Code::Invalid)); // channel 0
    check(40, &[0], Err(Code::Invalid)); // producer 0
    check(48, &[0], Err(Code::Invalid)); // sequence 0
    check(56, &[0; 8], Ok(())); // no body: an empty one
    check(60, &[0xfa, 0xff], Err(Code::BadFrame)); // a body longer than the frame
    check(60, &[0x2e], Err(Code::BadFrame)); // a body of words, not of bytes
}

#[test]
fn an_unknown_member_is_told_apart_with_its_request() {
    let mut bytes = client_bytes(&ClientFrame { request: 7, body: ClientBody::Pong });
    bytes[20..22].copy_from_slice(&u16::MAX.to_le_bytes());
    assert_eq!(decode_client(&bytes).unwrap(), ClientFrame { request: 7, body: ClientBody::Unknown });
    let mut bytes = server_bytes(&ServerFrame { request: 8, body: ServerBody::Ping });
    bytes[20..22].copy_from_slice(&13u16.to_le_bytes());
    assert_eq!(decode_server(&bytes).unwrap(), ServerFrame { request: 8, body: ServerBody::Unknown });
    // A value inside a member that only a later version knows makes all of it unknown: here how to start.
    let subscribe = ClientBody::Subscribe(Subscribe { channel: "general", start: Start::Attach });
    let mut bytes = client_bytes(&ClientFrame { request: 9, body: subscribe });
    assert_eq!(bytes[32], 2);
    bytes[32] = 3;
    assert_eq!(decode_client(&bytes).unwrap(), ClientFrame { request: 9, body: ClientBody::Unknown });
}

#[test]
fn overlapping_pointers_do_not_make_a_frame_larger() {
    let subscribe = Subscribe { channel: "a name of some length", start: Start::Live };
    let hello = ClientBody::Hello(Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        token: "",
        agent: "",
        subscriptions: vec![subscribe, subscribe],
    });
    let mut bytes = client_bytes(&ClientFrame { request: 1, body: hello });
    assert!(decode_client(&bytes).is_ok());
    // Both names are the same 22 bytes: look for the pointers, and turn the second one's to the first one's text.
    let pointer = |text_word: usize, at_word: usize| {
        let offset = u32::try_from(text_word - at_word - 1).unwrap();
        [((offset << 2) | 1).to_le_bytes(), ((22 << 3) | 2u32).to_le_bytes()].concat()
    };
    let words = bytes.len() / 8;
    let (first, second) = (words - 6, words - 3);
    let at = (0..second).find(|&at| bytes[at * 8..at * 8 + 8] == pointer(second, at)).unwrap();
    bytes[at * 8..at * 8 + 8].copy_from_slice(&pointer(first, at));
    // Reading the one text twice takes no more words than the frame has; without those of the second text it does.
    let shared = decode_client(&bytes);
    assert!(shared.is_ok());
    let without_second = &bytes[..second * 8];
    let mut shorter = without_second.to_vec();
    shorter[4..8].copy_from_slice(&u32::try_from(second - 1).unwrap().to_le_bytes());
    assert_eq!(decode_client(&shorter).unwrap_err().code(), Code::BadFrame);
}

#[test]
#[should_panic(expected = "only ever received")]
fn an_unknown_frame_cannot_be_sent() {
    server_bytes(&ServerFrame { request: 0, body: ServerBody::Unknown });
}

#[test]
fn frames_share_the_bytes_that_they_came_in() {
    let publish = Publish {
        channel: ChannelId::new(1).unwrap(),
        producer: Producer::new(1).unwrap(),
        sequence: ProducerSequence::FIRST,
        body: b"not copied",
    };
    let bytes = client_bytes(&ClientFrame { request: 1, body: ClientBody::Publish(publish) });
    let ClientBody::Publish(decoded) = decode_client(&bytes).unwrap().body else { panic!("another member") };
    assert!(bytes.as_ptr_range().contains(&decoded.body.as_ptr()));
}
