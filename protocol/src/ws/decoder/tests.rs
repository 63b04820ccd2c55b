use proptest::prelude::*;

use super::super::{decode_header, encode};
use super::*;

const LIMITS: Limits = Limits { message_bytes_max: 1000 };
const KEY: MaskKey = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as it is sent: last of its message, what it is, payload.
type Sent = (bool, Opcode, Vec<u8>);

/// An event that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(WsError),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind, payload } => Self::Message(kind, payload.into()),
            Event::Ping(payload) => Self::Ping(payload.into()),
            Event::Pong(payload) => Self::Pong(payload.into()),
            Event::Close { code, reason } => Self::Close(code, reason.into()),
        }
    }
}

/// Feeds `wire` in reads of the given sizes, over and over, and collects what comes out.
fn decode(role: Role, wire: &[u8], reads: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new(role, LIMITS);
    let mut seen = vec![];
    let mut rest = wire.to_vec();
    let mut sizes = reads.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.clamp(1, rest.len()));
        let after = rest.split_off(size);
        let mut feed = decoder.feed(&mut rest);
        loop {
            match feed.next_event() {
                Ok(Some(event)) => seen.push(event.into()),
                Ok(None) => break,
                Err(error) => seen.push(Seen::Error(error)),
            }
        }
        assert_eq!(feed.consumed(), size);
        drop(feed);
        assert!(decoder.heap_bytes() <= 1000 + CONTROL_BYTES_MAX);
        rest = after;
    }
    seen
}

/// The same, slowly and from one piece: RFC 6455 §5 in the order of its sentences.
fn model(role: Role, mut wire: &[u8]) -> Vec<Seen> {
    let mut seen = vec![];
    let mut message: Option<(MessageKind, Vec<u8>)> = None;
    let fail = |mut seen: Vec<Seen>, error| {
        seen.push(Seen::Error(error));
        seen
    };
    loop {
        let (header, len) = match decode_header(wire, role, &LIMITS) {
            Ok(Some(found)) => found,
            Ok(None) => return seen,
            Err(error) => return fail(seen, error),
        };
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap();
        let whole = wire.len() >= len + payload_bytes;
        let mut payload = wire[len..(len + payload_bytes).min(wire.len())].to_vec();
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= header.mask_key.map_or(0, |key| key[index % 4]);
        }
        match header.opcode {
            Opcode::Continuation if message.is_none() => return fail(seen, WsError::ContinuationUnexpected),
            Opcode::Text | Opcode::Binary if message.is_some() => return fail(seen, WsError::ContinuationExpected),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let kind = if header.opcode == Opcode::Text { MessageKind::Text } else { MessageKind::Binary };
                let (kind, bytes) = message.get_or_insert((kind, vec![]));
                let total = (bytes.len() + payload_bytes) as u64;
                if total > 1000 {
                    return fail(seen, WsError::MessageTooBig { bytes: total, max: 1000 });
                }
                bytes.extend(payload);
                let unfinished = std::str::from_utf8(bytes).err();
                let last = header.fin && whole;
                if *kind == MessageKind::Text && unfinished.is_some_and(|error| last || error.error_len().is_some()) {
                    return fail(seen, WsError::InvalidUtf8);
                }
                if last {
                    seen.extend(message.take().map(|(kind, bytes)| Seen::Message(kind, bytes)));
                }
            }
            _ if !whole => {}
            Opcode::Ping => seen.push(Seen::Ping(payload)),
            Opcode::Pong => seen.push(Seen::Pong(payload)),
            Opcode::Close => {
                seen.push(match close::parse(&payload) {
                    Ok((code, reason)) => Seen::Close(code, reason.into()),
                    Err(error) => Seen::Error(error),
                });
                return seen;
            }
        }
        if !whole {
            return seen;
        }
        wire = &wire[len + payload_bytes..];
    }
}

fn text(text: &str) -> Seen {
    Seen::Message(MessageKind::Text, text.into())
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8], mask_key: Option<MaskKey>) -> Vec<u8> {
    let mut out = Header { fin, ..Header::whole(opcode, payload.len(), mask_key) }.encode().to_vec();
    let start = out.len();
    out.extend(payload);
    mask(&mut out[start..], mask_key.unwrap_or_default(), 0);
    out
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
}

/// RFC 6455 §5.7.
#[test]
fn the_examples_of_the_rfc() {
    let check = |role, wire: &[u8], expect: &[Seen]| {
        for reads in [&[][..], &[1], &[2], &[3, 1]] {
            assert_eq!(decode(role, wire, reads), expect, "{wire:x?} in {reads:?}");
        }
    };
    check(Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], &[text("Hello")]);
    check(Role::Server, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], &[text("Hello")]);
    check(Role::Client, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f], &[text("Hello")]);
    check(Role::Client, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], &[Seen::Ping(b"Hello".into())]);
    check(
        Role::Server,
        &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
        &[Seen::Pong(b"Hello".into())],
    );
    let binary = |len: usize| Seen::Message(MessageKind::Binary, vec![7; len]);
    check(Role::Client, &[&[0x82, 0x7e, 0x01, 0x00][..], &[7; 256]].concat(), &[binary(256)]);

    let mut wire = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65_536]].concat();
    let mut decoder = Decoder::new(Role::Client, Limits { message_bytes_max: 65_536 });
    let payload: &[u8] = &[7; 65_536];
    let event = Event::Message { kind: MessageKind::Binary, payload };
    assert_eq!(decoder.feed(&mut wire).next_event(), Ok(Some(event)));
}

#[test]
fn rules_between_frames() {
    use Opcode::{Binary, Close, Continuation, Ping, Text};
    let check = |frames: &[(bool, Opcode, &[u8])], expect: &[Seen]| {
        let wire: Vec<u8> =
            frames.iter().flat_map(|&(fin, opcode, bytes)| frame(fin, opcode, bytes, Some(KEY))).collect();
        for reads in [&[][..], &[1], &[7], &[64]] {
            assert_eq!(decode(Role::Server, &wire, reads), expect, "{frames:?} in {reads:?}");
        }
    };
    let error = Seen::Error;
    let check_mark = "✓".as_bytes();
    let (first, rest) = check_mark.split_at(1);
    let too_big = |bytes| error(WsError::MessageTooBig { bytes, max: 1000 });

    check(
        &[(false, Text, first), (true, Ping, b"p"), (false, Continuation, b""), (true, Continuation, rest)],
        &[Seen::Ping(b"p".into()), text("✓")],
    );
    check(&[(true, Text, b""), (true, Binary, b"")], &[text(""), Seen::Message(MessageKind::Binary, vec![])]);
    check(&[(true, Continuation, b"x"), (true, Text, b"x")], &[error(WsError::ContinuationUnexpected)]);
    check(&[(false, Text, b"x"), (true, Text, b"x")], &[error(WsError::ContinuationExpected)]);
    check(&[(false, Binary, b"x"), (false, Text, b"x")], &[error(WsError::ContinuationExpected)]);
    check(&[(true, Text, first)], &[error(WsError::InvalidUtf8)]);
    check(&[(false, Text, first), (true, Continuation, b"")], &[error(WsError::InvalidUtf8)]);
    check(&[(false, Text, b"\xff")], &[error(WsError::InvalidUtf8)]);
    check(&[(false, Text, first), (false, Continuation, b"x")], &[error(WsError::InvalidUtf8)]);
    check(&[(true, Binary, &[1; 1000])], &[Seen::Message(MessageKind::Binary, vec![1; 1000])]);
    check(&[(true, Binary, &[1; 1001])], &[too_big(1001)]);
    check(
        &[(false, Binary, &[1; 600]), (true, Ping, &[2; 125]), (true, Continuation, &[1; 401])],
        &[Seen::Ping(vec![2; 125]), too_big(1001)],
    );
    check(&[(true, Close, b""), (true, Text, b"x")], &[Seen::Close(None, String::new())]);
    check(&[(false, Text, b"x"), (true, Close, b"\x03\xe8bye")], &[Seen::Close(Some(1000), "bye".into())]);
    check(&[(true, Close, b"\x03")], &[error(WsError::CloseTooShort)]);
    check(&[(true, Close, b"\x03\xed")], &[error(WsError::CloseCode { code: 1005 })]);
    check(&[(true, Close, b"\x03\xe8\xff")], &[error(WsError::InvalidUtf8)]);
}

/// Text that can no longer become valid is refused at the first read that shows it, not at the end of its frame.
#[test]
fn bad_text_fails_fast() {
    let mut wire = frame(true, Opcode::Text, &[b"ok \xf4\x90".as_slice(), &[b'x'; 200]].concat(), Some(KEY));
    let mut decoder = Decoder::new(Role::Server, LIMITS);
    assert_eq!(decoder.feed(&mut wire[..11]).next_event(), Ok(None));
    assert_eq!(decoder.feed(&mut wire[11..12]).next_event(), Ok(None));
    assert_eq!(decoder.feed(&mut wire[12..13]).next_event(), Err(WsError::InvalidUtf8));
    assert_eq!(decoder.feed(&mut wire[13..]).next_event(), Ok(None));
}

#[test]
fn errors_have_their_close_codes() {
    assert_eq!(WsError::NotMasked.close_code(), 1002);
    assert_eq!(WsError::CloseCode { code: 1005 }.close_code(), 1002);
    assert_eq!(WsError::InvalidUtf8.close_code(), 1007);
    assert_eq!(WsError::MessageTooBig { bytes: 2, max: 1 }.close_code(), 1009);
}

/// The spill exists only while something is partly here, and is never more than twice what has come.
#[test]
fn idle_costs_no_heap() {
    let mut decoder = Decoder::new(Role::Server, LIMITS);
    let mut wire = frame(true, Opcode::Binary, &[1; 900], Some(KEY));
    for (index, byte) in wire.chunks_mut(1).enumerate() {
        let mut feed = decoder.feed(byte);
        let whole = feed.next_event().unwrap().is_some();
        drop(feed);
        if whole {
            assert_eq!(index, 907);
            assert_eq!(decoder.heap_bytes(), 0);
        } else {
            // Just behind the header there is nothing to keep.
            assert!((usize::from(index != 7)..=(2 * (index + 1)).min(900)).contains(&decoder.heap_bytes()), "{index}");
        }
    }
    let mut two = [frame(false, Opcode::Text, b"a", Some(KEY)), frame(true, Opcode::Close, b"", Some(KEY))].concat();
    assert_eq!(decoder.feed(&mut two).next_event(), Ok(Some(Event::Close { code: None, reason: "" })));
    assert_eq!(decoder.heap_bytes(), 0);
}

/// A caller may stop between events and feed the rest later.
#[test]
fn a_feed_can_be_left_early() {
    let mut wire = vec![];
    encode::frame(Opcode::Text, b"one", Some(KEY), &mut wire);
    encode::frame(Opcode::Text, b"two", Some(KEY), &mut wire);
    let mut decoder = Decoder::new(Role::Server, LIMITS);
    let mut feed = decoder.feed(&mut wire);
    assert_eq!(feed.next_event(), Ok(Some(Event::Message { kind: MessageKind::Text, payload: b"one" })));
    let consumed = feed.consumed();
    drop(feed);
    let mut feed = decoder.feed(&mut wire[consumed..]);
    assert_eq!(feed.next_event(), Ok(Some(Event::Message { kind: MessageKind::Text, payload: b"two" })));
    assert_eq!(feed.next_event(), Ok(None));
}

fn any_frame() -> impl Strategy<Value = Sent> {
    let chunk = prop_oneof![
        4 => "\\PC{0,20}".prop_map(String::into_bytes),
        1 => Just("✓".as_bytes()[..1].to_vec()),
        1 => Just("✓".as_bytes()[1..].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(vec![b'x'; 400]),
    ];
    let data = prop::sample::select(vec![Opcode::Continuation, Opcode::Continuation, Opcode::Text, Opcode::Binary]);
    let control = (prop::sample::select(vec![Opcode::Ping, Opcode::Pong]), prop::collection::vec(any::<u8>(), 0..126));
    prop_oneof![
        6 => (any::<bool>(), data, chunk),
        2 => control.prop_map(|(opcode, payload)| (true, opcode, payload)),
        1 => (0u16..5000, "[a-z✓]{0,20}").prop_map(|(code, reason)| {
            (true, Opcode::Close, [&code.to_be_bytes(), reason.as_bytes()].concat())
        }),
    ]
}

/// A stream of messages as an honest peer sends them: fragmented at will, control frames in between.
fn honest() -> impl Strategy<Value = (Vec<Sent>, Vec<Seen>)> {
    let message = ("\\PC{0,40}", any::<bool>(), prop::collection::vec((0usize..160, any::<Option<u8>>()), 0..5));
    prop::collection::vec(message, 0..6).prop_map(|messages| {
        let (mut frames, mut seen) = (vec![], vec![]);
        for (content, binary, cuts) in messages {
            let kind = if binary { MessageKind::Binary } else { MessageKind::Text };
            let mut opcode = if binary { Opcode::Binary } else { Opcode::Text };
            let mut rest = content.as_bytes();
            for (cut, ping) in cuts {
                let (fragment, after) = rest.split_at(cut.min(rest.len()));
                frames.push((false, opcode, fragment.to_vec()));
                (opcode, rest) = (Opcode::Continuation, after);
                if let Some(byte) = ping {
                    frames.push((true, Opcode::Ping, vec![byte]));
                    seen.push(Seen::Ping(vec![byte]));
                }
            }
            frames.push((true, opcode, rest.to_vec()));
            seen.push(Seen::Message(kind, content.into_bytes()));
        }
        (frames, seen)
    })
}

fn wire(frames: &[Sent], keys: &[MaskKey], role: Role) -> Vec<u8> {
    let mut keys = keys.iter().cycle();
    let mut key = || if role == Role::Server { keys.next().copied() } else { None };
    frames.iter().flat_map(|(fin, opcode, payload)| frame(*fin, *opcode, payload, key())).collect()
}

fn any_role() -> impl Strategy<Value = Role> {
    prop::sample::select(vec![Role::Server, Role::Client])
}

proptest! {
    #[test]
    fn honest_streams_come_out_as_they_went_in(
        (frames, expect) in honest(), role in any_role(),
        keys in prop::collection::vec(any::<MaskKey>(), 1..4), reads in prop::collection::vec(1usize..60, 0..8),
    ) {
        let wire = wire(&frames, &keys, role);
        prop_assert_eq!(decode(role, &wire, &[]), expect.clone());
        prop_assert_eq!(decode(role, &wire, &reads), expect);
    }

    #[test]
    fn any_stream_is_decoded_as_the_model_does(
        frames in prop::collection::vec(any_frame(), 0..12), role in any_role(),
        keys in prop::collection::vec(any::<MaskKey>(), 1..4), reads in prop::collection::vec(1usize..300, 0..8),
        cut in 0usize..2000, flip in any::<Option<(u16, u8)>>(),
    ) {
        let mut wire = wire(&frames, &keys, role);
        if let Some((at, bits)) = flip && !wire.is_empty() {
            let at = usize::from(at) % wire.len();
            wire[at] ^= bits;
        }
        wire.truncate(wire.len().saturating_sub(cut.saturating_sub(1000)));
        let expect = model(role, &wire);
        prop_assert_eq!(decode(role, &wire, &[]), expect.clone());
        prop_assert_eq!(decode(role, &wire, &reads), expect.clone());
        prop_assert_eq!(decode(role, &wire, &[1]), expect);
    }

    #[test]
    fn strangers_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), role in any_role()) {
        prop_assert_eq!(decode(role, &bytes, &[5]), model(role, &bytes));
    }
}
