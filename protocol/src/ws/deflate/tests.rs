use proptest::prelude::*;

use super::*;
use crate::ws::{Decoder, Event, Header, Limits, MaskKey, MessageKind, Opcode, Role, encode, mask};

const WINDOWS: [Window; Window::COUNT] = [Window::Small, Window::Medium, Window::Large];

fn inflate(payload: &[u8], bytes_max: u32) -> Result<Vec<u8>, WsError> {
    Inflater::new().inflate(payload, bytes_max).map(<[u8]>::to_vec)
}

/// The second opinion: miniz_oxide, of which nothing here is made.
fn miniz_inflate(payload: &[u8]) -> Vec<u8> {
    let stream = [payload, &END].concat();
    miniz_oxide::inflate::decompress_to_vec(&stream).expect("a whole stream")
}

/// The same from the other side, flushed as a sender of §7.2.1 does.
fn miniz_deflate(payload: &[u8], level: u8) -> Vec<u8> {
    use miniz_oxide::deflate::core::{
        CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
    };
    let mut state = CompressorOxide::new(create_comp_flags_from_zip_params(level.into(), 0, 0));
    let mut out = vec![0; payload.len() * 2 + 512];
    let (status, taken, made) = compress(&mut state, payload, &mut out, TDEFLFlush::Sync);
    assert_eq!((status, taken), (TDEFLStatus::Okay, payload.len()));
    out.truncate(made);
    out.strip_suffix(&FLUSH_TAIL).expect("a flush ends with an empty block").to_vec()
}

/// RFC 7692 §7.2.3, and the cases between blocks.
#[test]
fn messages_of_the_rfc_are_inflated() {
    let check = |payload: &[u8], expect: Result<&[u8], WsError>| {
        assert_eq!(inflate(payload, 100), expect.map(<[u8]>::to_vec), "{payload:x?}");
    };
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    check(&hello, Ok(b"Hello"));
    // §7.2.3.3: not compressed at all.
    check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], Ok(b"Hello"));
    // §7.2.3.4: a last block, and an empty one to fill it up.
    check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], Ok(b"Hello"));
    check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    // §7.2.3.5: two blocks.
    check(&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    // §7.2.3.6: nothing.
    check(&[0x00], Ok(b""));
    // A message after a last block.
    check(&[&hello[..], &FLUSH_TAIL, &[0x03, 0x00], &hello].concat(), Ok(b"HelloHello"));

    // §7.2.3.2: the second message of a sender that took over context refers to what nobody kept.
    check(&[0xf2, 0x00, 0x11, 0x00, 0x00], Err(WsError::Deflate));
    check(&[], Err(WsError::Deflate));
    check(&hello[..4], Err(WsError::Deflate));
    check(&[0xff; 9], Err(WsError::Deflate));
    check(&[0x00, 0x05, 0x00, 0xfb, 0xff], Err(WsError::Deflate));
}

/// The one thing that a compressed message must not do: cost more than it may.
#[test]
fn a_bomb_goes_off_before_memory_grows() {
    let bomb = miniz_deflate(&vec![0; 64 << 20], 9);
    assert!(bomb.len() < 100 << 10);
    let mut inflater = Inflater::new();
    for max in [0, 1, 4095, 4096, 100_000] {
        let outcome = inflater.inflate(&bomb, max).map(<[u8]>::len);
        assert_eq!(outcome, Err(WsError::MessageTooBig { bytes: u64::from(max) + 1, max }));
        assert!(inflater.output.capacity() <= max.max(4096) as usize + 1, "{}", inflater.output.capacity());
    }
    assert_eq!(inflater.inflated_bytes(), [1, 2, 4096, 4097, 100_001].iter().sum::<u64>());
    for (len, max) in [(0, 0), (1, 1), (4096, 4096), (4097, 4097)] {
        let exact = miniz_deflate(&vec![1; len], 1);
        assert_eq!(inflater.inflate(&exact, max).map(<[u8]>::len), Ok(len), "a message may be as long as the limit");
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = 7_u32;
    let next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Each costs a copy of the window: a frame full of them would hold up everybody on the shard.
#[test]
fn last_blocks_without_end_are_refused() {
    let blocks = |count: usize| [0x03, 0x00].repeat(count);
    assert_eq!(inflate(&blocks(16), 100), Ok(Vec::new()));
    assert_eq!(inflate(&blocks(18), 100), Err(WsError::Deflate));
    assert_eq!(inflate(&blocks(100_000), 100), Err(WsError::Deflate));
}

#[test]
fn what_does_not_shrink_is_left() {
    let noise = noise(5_000);
    for window in WINDOWS {
        let mut deflater = Deflater::new(window);
        for payload in [&[][..], b"a", b"abcdefg", &noise] {
            assert_eq!(deflater.deflate(payload), None, "{} bytes", payload.len());
        }
        assert!(deflater.deflate(&[b'a'; 40]).is_some_and(|payload| payload.len() < 10));
    }
}

/// A receiver that keeps no more than was agreed can read it.
#[test]
fn the_window_is_kept_to() {
    // Repeats itself a little within each window, and beyond it.
    let mut payload = noise(60_000);
    for (at, back) in (100..59_900).step_by(100).zip([100, 450, 550, 3_900, 4_200, 30_000, 33_000].into_iter().cycle())
    {
        payload.copy_within(at - at.min(back)..at - at.min(back) + 80, at);
    }
    for window in WINDOWS {
        let mut deflater = Deflater::new(window);
        let sent = deflater.deflate(&payload).expect("it repeats itself").to_vec();
        let sent = [&sent[..], &END].concat();
        let mut small = Inflate::new(false, window.bits());
        let (mut rest, mut found, mut piece) = (&sent[..], Vec::new(), [0; 64]);
        loop {
            let (taken, made) = (small.total_in(), small.total_out());
            let status = small.decompress(rest, &mut piece, InflateFlush::NoFlush).expect("within the window");
            rest = &rest[usize::try_from(small.total_in() - taken).unwrap()..];
            found.extend_from_slice(&piece[..usize::try_from(small.total_out() - made).unwrap()]);
            if status == Status::StreamEnd {
                break;
            }
        }
        assert!(found == payload, "{window:?}");
    }
}

/// A compressed message as a client sends it, in frames of the given sizes.
fn frames(kind: Opcode, payload: &[u8], sizes: &[usize], key: Option<MaskKey>, out: &mut Vec<u8>) {
    let (mut rest, mut first) = (payload, true);
    let mut sizes = sizes.iter();
    loop {
        let size = sizes.next().map_or(rest.len(), |&size| size.min(rest.len()));
        let (piece, after) = rest.split_at(size);
        let fin = after.is_empty();
        let opcode = if first { kind } else { Opcode::Continuation };
        let header = Header { fin, compressed: first, ..Header::whole(opcode, piece.len(), key) };
        out.extend_from_slice(&header.encode());
        let start = out.len();
        out.extend_from_slice(piece);
        if let Some(key) = key {
            mask(&mut out[start..], key, 0);
        }
        (rest, first) = (after, false);
        if fin {
            return;
        }
    }
}

fn decode(wire: &[u8], read: usize, inflater: &mut Inflater) -> Result<Vec<(MessageKind, Vec<u8>)>, WsError> {
    let mut decoder = Decoder::new(Role::Server, Limits { message_bytes_max: 100_000 });
    let mut seen = Vec::new();
    for input in wire.to_vec().chunks_mut(read) {
        let mut feed = decoder.feed_deflated(input, inflater);
        while let Some(event) = feed.next_event()? {
            if let Event::Message { kind, payload } = event {
                seen.push((kind, payload.to_vec()));
            }
        }
    }
    assert_eq!(decoder.heap_bytes(), 0);
    Ok(seen)
}

#[test]
fn text_is_checked_after_it_is_inflated() {
    let check = |payload: &[u8], expect: Result<Vec<(MessageKind, Vec<u8>)>, WsError>| {
        for read in [1, 7, 1 << 16] {
            let mut wire = Vec::new();
            frames(Opcode::Text, &miniz_deflate(payload, 6), &[3], Some([1, 2, 3, 4]), &mut wire);
            assert_eq!(decode(&wire, read, &mut Inflater::new()), expect, "{read}");
        }
    };
    check("grüß".as_bytes(), Ok(vec![(MessageKind::Text, "grüß".into())]));
    check(b"gr\xff", Err(WsError::InvalidUtf8));
    check(b"gr\xc3", Err(WsError::InvalidUtf8));
}

#[test]
fn a_connection_that_agreed_to_nothing_takes_nothing_compressed() {
    let mut wire = Vec::new();
    frames(Opcode::Binary, &[0], &[], Some([0; 4]), &mut wire);
    let mut decoder = Decoder::new(Role::Server, Limits { message_bytes_max: 10 });
    assert_eq!(decoder.feed(&mut wire).next_event(), Err(WsError::ReservedBits));
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        prop::collection::vec(0_u8..4, 0..3_000),
        ("[a-d ]{1,20}", 1_usize..3_000).prop_map(|(text, times)| text.repeat(times).into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_we_deflate_others_inflate(payloads in prop::collection::vec(any_payload(), 1..4)) {
        for window in WINDOWS {
            let mut deflater = Deflater::new(window);
            for payload in &payloads {
                if let Some(sent) = deflater.deflate(payload) {
                    prop_assert!(sent.len() < payload.len());
                    prop_assert_eq!(&miniz_inflate(sent), payload);
                    prop_assert_eq!(&inflate(sent, 100_000).unwrap(), payload);
                }
            }
        }
    }

    #[test]
    fn what_others_deflate_we_inflate(
        payloads in prop::collection::vec((any_payload(), 0_u8..10), 1..4),
        sizes in prop::collection::vec(0_usize..50, 0..4),
        read in 1_usize..300,
    ) {
        let (mut wire, mut expect) = (Vec::new(), Vec::new());
        for (payload, level) in payloads {
            frames(Opcode::Binary, &miniz_deflate(&payload, level), &sizes, Some([9, 8, 7, 6]), &mut wire);
            // One that is not compressed may stand between.
            encode::frame(Opcode::Ping, b"p", Some([1; 4]), &mut wire);
            encode::frame(Opcode::Text, b"plain", Some([1; 4]), &mut wire);
            expect.extend([(MessageKind::Binary, payload), (MessageKind::Text, b"plain".to_vec())]);
        }
        prop_assert_eq!(decode(&wire, read, &mut Inflater::new()).unwrap(), expect);
    }

    #[test]
    fn noise_is_refused_or_inflated_within_the_limit(noise in prop::collection::vec(any::<u8>(), 0..200), max in 0_u32..5_000) {
        let mut inflater = Inflater::new();
        if let Ok(found) = inflater.inflate(&noise, max) {
            prop_assert!(found.len() <= max as usize);
        }
        prop_assert_eq!(inflater.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5).unwrap(), b"Hello");
    }
}
