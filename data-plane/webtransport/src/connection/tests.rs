//! Clients of all kinds, as bytes.

use proptest::prelude::*;

use super::*;
use crate::items;
use crate::qpack;

const PATH: &str = "/v1/connect";

fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::encode(value, &mut bytes);
    bytes
}

fn frame(kind: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items::encode(kind, value, &mut bytes);
    bytes
}

/// A client's control stream.
fn control() -> Vec<u8> {
    let settings = [number(0x33), number(1), number(0x2b60_3742), number(1), number(0x21), number(77)].concat();
    [number(CONTROL), frame(SETTINGS, &settings)].concat()
}

fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::begin(&mut section);
    for (name, value) in fields {
        qpack::literal(name, value, &mut section);
    }
    frame(HEADERS, &section)
}

fn connect() -> Vec<u8> {
    request(&[
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", PATH),
        (":protocol", "webtransport"),
        ("origin", "https://app.example"),
    ])
}

fn get(path: &str) -> Vec<u8> {
    request(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)])
}

fn data_stream(session: u64, bytes: &[u8]) -> Vec<u8> {
    [number(SESSION_BIDI), number(session), bytes.to_vec()].concat()
}

fn close(code: u32, reason: &str) -> Vec<u8> {
    Close::encoded(code, reason)
}

fn actions(connection: &mut Connection) -> Vec<Action> {
    std::iter::from_fn(|| connection.poll_action()).collect()
}

/// A client whose session is open on stream 0.
fn opened() -> Connection {
    let mut connection = Connection::new(PATH);
    connection.handle_bytes(2, control().into()).unwrap();
    connection.handle_bytes(0, connect().into()).unwrap();
    let expect = [Action::Write { stream: 0, bytes: request::welcome().into(), last: false }, Action::Open];
    assert_eq!(actions(&mut connection), expect);
    assert_eq!(connection.session(), Some(0));
    connection
}

#[test]
fn a_session_is_opened_and_closed() {
    let mut connection = opened();
    connection.handle_bytes(4, data_stream(0, b"hello").into()).unwrap();
    assert_eq!(actions(&mut connection), [Action::Stream { stream: 4, first: Bytes::from_static(b"hello") }]);
    assert_eq!(connection.held_bytes(), 0);
    // Its streams and datagrams bear its number.
    assert_eq!(Connection::stream_prefix(0)[..], [0x40, 0x54, 0]);
    let datagram = |bytes: &'static [u8]| connection.datagram(&Bytes::from_static(bytes));
    assert_eq!(datagram(b"\0pong"), Ok(Some(Bytes::from_static(b"pong"))));
    assert_eq!(datagram(b"\0"), Ok(Some(Bytes::new())));
    assert_eq!(datagram(b"\x01pong"), Ok(None));
    // Another draft's capsules, grease, and the end.
    let capsules = [frame(0x78ae, b""), frame(0x17, b"grease")].concat();
    let stream = [frame(DATA, &capsules), frame(0x21, b"grease"), close(3, "enough")].concat();
    for byte in stream {
        connection.handle_bytes(0, Bytes::copy_from_slice(&[byte])).unwrap();
    }
    let close = Close { code: 3, reason: "enough".to_owned() };
    assert_eq!(actions(&mut connection), [Action::Closed(Some(close))]);
    assert_eq!((connection.session(), connection.close(0, "")), (None, None));
}

#[test]
fn a_session_is_closed_by_us_once() {
    let mut connection = opened();
    assert_eq!(connection.close(4401, "expired"), Some((0, close(4401, "expired").into())));
    assert_eq!(connection.close(4401, "expired"), None);
    connection.handle_end(0).unwrap();
    connection.handle_bytes(4, data_stream(0, b"late").into()).unwrap();
    assert_eq!(actions(&mut connection), [Action::Reject { stream: 4, code: ErrorCode::SessionGone }]);
}

#[test]
fn the_ways_in_which_a_client_ends_its_session() {
    let check = |act: fn(&mut Connection), expect: Option<(u32, &str)>| {
        let mut connection = opened();
        act(&mut connection);
        let close = expect.map(|(code, reason)| Close { code, reason: reason.to_owned() });
        assert_eq!(actions(&mut connection), [Action::Closed(close)]);
    };
    check(|connection| connection.handle_end(0).unwrap(), Some((0, "")));
    check(|connection| connection.handle_reset(0).unwrap(), None);
    check(|connection| connection.handle_stopped(0), None);
    check(|connection| connection.handle_bytes(0, close(0, "").into()).unwrap(), Some((0, "")));
    // What is stopped besides is an answer that nobody reads.
    let mut connection = opened();
    connection.handle_stopped(8);
    assert_eq!(actions(&mut connection), []);
}

/// Packets come in any order: the session's stream before its request, the request before the settings.
#[test]
fn whatever_comes_first_waits() {
    let streams = [(2, control()), (0, connect()), (4, data_stream(0, b"hello"))];
    let expect = [
        Action::Write { stream: 0, bytes: request::welcome().into(), last: false },
        Action::Open,
        Action::Stream { stream: 4, first: Bytes::from_static(b"hello") },
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut connection = Connection::new(PATH);
        for place in order {
            let (stream, bytes) = &streams[place];
            assert!(connection.wants(*stream));
            connection.handle_bytes(*stream, Bytes::copy_from_slice(bytes)).unwrap();
        }
        assert_eq!(actions(&mut connection), expect, "{order:?}");
        assert!(connection.wants(0) && connection.wants(4));
    }
    let mut connection = Connection::new(PATH);
    connection.handle_bytes(4, data_stream(0, b"hello").into()).unwrap();
    connection.handle_bytes(0, [connect(), close(9, "changed my mind")].concat().into()).unwrap();
    assert!(!connection.wants(0) && !connection.wants(4));
    assert!(connection.held_bytes() > 20, "{}", connection.held_bytes());
    connection.handle_bytes(2, control().into()).unwrap();
    let found = actions(&mut connection);
    assert_eq!(found[..3], expect);
    assert!(matches!(&found[3..], [Action::Closed(Some(Close { code: 9, .. }))]), "{found:?}");
}

#[test]
fn a_stream_of_a_session_that_there_will_not_be_is_given_back() {
    let mut connection = Connection::new(PATH);
    connection.handle_bytes(8, data_stream(12, b"x").into()).unwrap();
    connection.handle_bytes(4, data_stream(0, b"y").into()).unwrap();
    connection.handle_bytes(2, control().into()).unwrap();
    connection.handle_bytes(0, connect().into()).unwrap();
    let rejected = |stream| Action::Reject { stream, code: ErrorCode::StreamRejected };
    assert_eq!(
        actions(&mut connection)[2..],
        [Action::Stream { stream: 4, first: Bytes::from_static(b"y") }, rejected(8)]
    );
    connection.handle_bytes(16, data_stream(20, b"").into()).unwrap();
    assert_eq!(actions(&mut connection), [rejected(16)]);
}

#[test]
fn requests_that_open_nothing_are_answered() {
    let check = |mut connection: Connection, bytes: Vec<u8>, refusal: Refusal| {
        for (stream, cut) in [(4, 1), (8, 7), (12, bytes.len())] {
            for piece in bytes.chunks(cut) {
                if connection.handle_bytes(stream, Bytes::copy_from_slice(piece)).is_err() {
                    panic!("{refusal:?}");
                }
                let found = actions(&mut connection);
                if !found.is_empty() {
                    let expect = [
                        Action::Refused(refusal),
                        Action::Write { stream, bytes: refusal.encoded().into(), last: true },
                        Action::Stop { stream, code: ErrorCode::NoError },
                    ];
                    assert_eq!(found, expect);
                    break;
                }
            }
            assert_eq!(connection.held_bytes(), 0, "{refusal:?}");
        }
    };
    // Not only of those that have said their settings.
    check(Connection::new(PATH), get("/"), Refusal::Path);
    check(Connection::new(PATH), get(PATH), Refusal::Method);
    check(opened(), get(PATH), Refusal::Method);
    check(opened(), connect(), Refusal::Second);
    check(opened(), [frame(0x40, b"unknown"), frame(0x21, b"grease"), get("/x")].concat(), Refusal::Path);
    check(opened(), [number(HEADERS), number(8193)].concat(), Refusal::TooLarge);
    check(opened(), [number(HEADERS), number(1 << 60)].concat(), Refusal::TooLarge);
    check(opened(), [frame(HEADERS, &[0; 9000]), frame(DATA, b"x")].concat(), Refusal::TooLarge);
    check(opened(), request(&[(":method", "GET")]), Refusal::Malformed);
}

/// QUIC tells of each piece that came, also of those that came before the request was refused: they do not break off the answer.
#[test]
fn what_came_before_a_refusal_does_not_break_off_the_answer() {
    for bytes in [get("/"), [number(HEADERS), number(9000), vec![0; 100]].concat(), number(0x21)] {
        // Two requests, and a stream of an unknown kind.
        let stream = if bytes == number(0x21) { 6 } else { 4 };
        let mut connection = Connection::new(PATH);
        connection.handle_bytes(stream, bytes.into()).unwrap();
        assert!(matches!(actions(&mut connection).last(), Some(Action::Stop { .. })));
        let counted = connection.others;
        assert!(!connection.wants(stream));
        connection.handle_bytes(stream, vec![0; 100].into()).unwrap();
        connection.handle_reset(stream).unwrap();
        connection.handle_end(stream).unwrap();
        assert_eq!((actions(&mut connection), connection.others), (vec![], counted));
    }
}

#[test]
fn streams_of_a_request_that_was_refused_are_given_back() {
    let rejected = |stream, code| Action::Reject { stream, code };
    let mut connection = Connection::new(PATH);
    connection.handle_bytes(4, data_stream(0, b"x").into()).unwrap();
    connection.handle_bytes(12, data_stream(8, b"y").into()).unwrap();
    connection.handle_bytes(0, get("/").into()).unwrap();
    // And one that comes behind the refusal.
    connection.handle_bytes(6, [number(SESSION_UNI), number(0)].concat().into()).unwrap();
    let expect = [rejected(4, ErrorCode::StreamRejected), rejected(6, ErrorCode::StreamRejected)];
    assert_eq!(actions(&mut connection)[3..], expect);
    // That of another one still waits: until its request is broken off while it waits itself.
    assert!(!connection.wants(12));
    connection.handle_bytes(8, connect().into()).unwrap();
    connection.handle_reset(8).unwrap();
    let expect = [rejected(12, ErrorCode::StreamRejected), rejected(8, ErrorCode::RequestIncomplete)];
    assert_eq!(actions(&mut connection), expect);
    assert_eq!((connection.streams.len(), connection.held_bytes()), (0, 0));
}

#[test]
fn requests_that_do_not_come_to_their_end_are_let_go() {
    let mut connection = Connection::new(PATH);
    connection.handle_bytes(0, connect().into()).unwrap();
    connection.handle_reset(0).unwrap();
    let rejected = |stream| Action::Reject { stream, code: ErrorCode::RequestIncomplete };
    assert_eq!(actions(&mut connection), [rejected(0)]);
    connection.handle_bytes(4, connect()[..9].to_vec().into()).unwrap();
    connection.handle_end(4).unwrap();
    connection.handle_end(8).unwrap();
    // One whose kind nobody will know.
    connection.handle_end(6).unwrap();
    assert_eq!(actions(&mut connection), [rejected(4), rejected(8)]);
    assert_eq!(connection.held_bytes(), 0);
    // The next one may open it.
    connection.handle_bytes(2, control().into()).unwrap();
    connection.handle_bytes(12, connect().into()).unwrap();
    assert_eq!(connection.session(), Some(12));
}

#[test]
fn streams_of_unknown_kinds_are_not_read_but_those_of_a_flood() {
    let mut connection = opened();
    for n in 0..u64::from(STREAMS_MAX) - 1 {
        let stream = 6 + 4 * n;
        connection.handle_bytes(stream, [number(0x21 + 0x1f * n), b"grease".to_vec()].concat().into()).unwrap();
        assert_eq!(actions(&mut connection), [Action::Stop { stream, code: ErrorCode::StreamCreation }]);
        assert!(connection.streams.len() <= 2, "nothing is kept of it");
    }
    let error = connection.handle_bytes(2000, get("/").into()).unwrap_err();
    assert_eq!(error.code, ErrorCode::ExcessiveLoad);
}

/// However a client begins streams that come to nothing: after 32 it is a flood, and no more is remembered than was counted.
#[test]
fn streams_that_end_before_they_are_anything_are_a_flood_too() {
    fn check(act: impl Fn(&mut Connection, u64) -> Result<(), Error>) {
        for mut connection in [Connection::new(PATH), opened()] {
            let failed = (2..1000).find_map(|n| {
                let result = act(&mut connection, 8 * n);
                actions(&mut connection);
                assert!(connection.done.len() <= STREAMS_MAX as usize && connection.streams.len() <= 3);
                result.err().map(|error| (n, error.code))
            });
            let (n, code) = failed.expect("it was taken for a flood");
            assert_eq!(code, ErrorCode::ExcessiveLoad);
            assert!((30..36).contains(&n), "{n}");
        }
    }
    for of_other_direction in [0, 2] {
        check(|connection, stream| connection.handle_end(stream + of_other_direction));
        check(|connection, stream| connection.handle_reset(stream + of_other_direction));
        // The first varint has begun.
        check(|connection, stream| {
            connection.handle_bytes(stream + of_other_direction, vec![0x40].into())?;
            connection.handle_reset(stream + of_other_direction)
        });
    }
    // Of a session that there is not, or not any more.
    check(|connection, stream| {
        connection.handle_bytes(stream, data_stream(800_000, b"").into())?;
        connection.handle_reset(stream)
    });
    check(|connection, stream| {
        connection.close(0, "");
        connection.handle_bytes(stream, data_stream(0, b"").into())?;
        connection.handle_reset(stream)
    });
}

#[test]
fn who_breaks_the_rules_is_told_by_which_code() {
    let check = |stream: u64, bytes: Vec<u8>, expect: ErrorCode| {
        for cut in [1, 5, bytes.len()] {
            let mut connection = opened();
            let mut pieces = bytes.chunks(cut);
            let error = pieces.find_map(|piece| connection.handle_bytes(stream, Bytes::copy_from_slice(piece)).err());
            assert_eq!(error.map(|error| error.code), Some(expect), "{bytes:x?} by {cut}");
        }
    };
    // Streams.
    check(6, number(CONTROL), ErrorCode::StreamCreation);
    check(6, number(PUSH), ErrorCode::StreamCreation);
    check(4, data_stream(1, b""), ErrorCode::Id);
    check(4, data_stream(2, b""), ErrorCode::Id);
    check(6, [number(SESSION_UNI), number(3)].concat(), ErrorCode::Id);
    // The control stream, behind its settings.
    for kind in [DATA, HEADERS, SETTINGS, 0x2, 0x5, 0x6, 0x8, 0x9, SESSION_BIDI] {
        check(2, frame(kind, b""), ErrorCode::FrameUnexpected);
    }
    // Requests.
    check(4, frame(DATA, b"x"), ErrorCode::FrameUnexpected);
    check(4, frame(SETTINGS, b""), ErrorCode::FrameUnexpected);
    check(4, frame(HEADERS, &[1, 0]), ErrorCode::Decompression);
    // QPACK's streams: a capacity of 4,096, and an entry received.
    check(6, [number(ENCODER), vec![0x3f, 0xe1, 0x1f]].concat(), ErrorCode::EncoderStream);
    check(6, [number(DECODER), vec![0x01]].concat(), ErrorCode::DecoderStream);
    // The session's stream.
    check(0, frame(HEADERS, b""), ErrorCode::FrameUnexpected);
    check(0, frame(DATA, &frame(0x2843, b"12")), ErrorCode::Message);
    check(0, frame(DATA, &[0x68, 0x43, 0x44, 0x05]), ErrorCode::Message);

    let begun = |bytes: &[u8]| Connection::new(PATH).handle_bytes(2, Bytes::copy_from_slice(bytes)).map_err(|e| e.code);
    assert_eq!(begun(&[0, 0x21, 0]), Err(ErrorCode::MissingSettings));
    assert_eq!(begun(&[0, 4, 0x60, 0]), Err(ErrorCode::ExcessiveLoad));
    assert_eq!(begun(&[0, 4, 2, 0x33, 7]), Err(ErrorCode::Settings));
    // A close is cut off, by the end of its frame and of the stream.
    let mut connection = opened();
    connection.handle_bytes(0, frame(DATA, &frame(0x2843, b"\0\0\0\0x")[..6]).into()).unwrap();
    assert_eq!(connection.handle_end(0).map_err(|e| e.code), Err(ErrorCode::Message));
    // Datagrams that belong to no stream that there could be.
    let datagram = |bytes: Vec<u8>| opened().datagram(&bytes.into()).map_err(|e| e.code);
    for bytes in [vec![], vec![0x40], number((varint::MAX >> 2) + 1)] {
        assert_eq!(datagram(bytes), Err(ErrorCode::Datagram));
    }
    assert_eq!(datagram(number(varint::MAX >> 2)), Ok(None));
    // Streams without an end.
    for (stream, bytes) in [(2, vec![]), (6, number(ENCODER)), (6, number(DECODER))] {
        let mut connection = opened();
        connection.handle_bytes(stream, bytes.into()).unwrap();
        assert_eq!(connection.handle_end(stream).map_err(|e| e.code), Err(ErrorCode::ClosedCriticalStream));
        let mut connection = opened();
        connection.handle_bytes(0, frame(DATA, b"cut")[..3].to_vec().into()).unwrap();
        assert_eq!(connection.handle_end(0).map_err(|e| e.code), Err(ErrorCode::Frame));
    }
    // Twice the same.
    for (kind, harmless) in [(ENCODER, 0x20), (DECODER, 0x44)] {
        let mut connection = opened();
        connection.handle_bytes(6, number(kind).into()).unwrap();
        connection.handle_bytes(6, vec![harmless; 100].into()).unwrap();
        let error = connection.handle_bytes(10, number(kind).into()).unwrap_err();
        assert_eq!(error.code, ErrorCode::StreamCreation);
    }
}

/// What a client of the property's sends on a stream.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(control()),
        Just(connect()),
        Just(get("/")),
        Just(data_stream(0, b"bytes")),
        Just(close(1, "x")),
        Just(number(ENCODER)),
        // More fields than there may be, and what may not follow at all.
        (8190..8200_usize).prop_map(|len| [frame(HEADERS, &vec![0; len]), frame(DATA, b"x")].concat()),
        (0..0x60_u64, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, value)| frame(kind, &value)),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    /// However bytes are cut, the same comes of them.
    #[test]
    fn cuts_change_nothing(
        streams in prop::collection::vec((0..8_u64, piece()), 1..8),
        cuts in prop::collection::vec(1..30_usize, 1..8),
    ) {
        let run = |cuts: &[usize]| {
            let (mut connection, mut cuts) = (Connection::new(PATH), cuts.iter().cycle());
            let (mut found, mut handed, mut bytes_of) = (Vec::new(), Vec::new(), Vec::<(u64, u8)>::new());
            let mut given_up = Vec::new();
            for (n, bytes) in &streams {
                // The client's: 0, 2, 4, …
                let stream = 2 * n;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                    rest = later;
                    if handed.contains(&stream) {
                        bytes_of.extend(now.iter().map(|&byte| (stream, byte)));
                        continue;
                    }
                    if let Err(error) = connection.handle_bytes(stream, Bytes::copy_from_slice(now)) {
                        bytes_of.sort_by_key(|&(stream, _)| stream);
                        return (found, handed, given_up, bytes_of, Some(error));
                    }
                    for action in actions(&mut connection) {
                        match action {
                            Action::Stream { stream, first } => {
                                handed.push(stream);
                                bytes_of.extend(first.iter().map(|&byte| (stream, byte)));
                            }
                            Action::Stop { stream, code } | Action::Reject { stream, code } => given_up.push((stream, code)),
                            other => found.push(other),
                        }
                    }
                    let received: usize = streams.iter().map(|(_, bytes)| bytes.len()).sum();
                    assert!(connection.held_bytes() <= received);
                }
            }
            bytes_of.sort_by_key(|&(stream, _)| stream);
            (found, handed, given_up, bytes_of, None)
        };
        prop_assert_eq!(run(&cuts), run(&[usize::MAX]));
    }
}
