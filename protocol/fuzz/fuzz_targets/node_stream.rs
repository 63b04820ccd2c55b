//! The byte stream of the control link, in reads of any size: the same frames and the same end as when cut by hand.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_protocol::node::{FrameReader, decode, encode_delimited};
use millrace_protocol_fuzz::stream_and_reads;

const FRAME_BYTES_MAX: usize = 600;

/// Frames of a whole stream, what is left of it, and whether that begins with a length over the limit.
fn cut(mut stream: &[u8]) -> (Vec<&[u8]>, usize, bool) {
    let mut frames = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return (frames, stream.len(), true);
        }
        let Some((frame, rest)) = rest.split_at_checked(length) else { break };
        frames.push(frame);
        stream = rest;
    }
    (frames, stream.len(), false)
}

fuzz_target!(|input: &[u8]| {
    let Some((stream, reads)) = stream_and_reads(input) else { return };
    let (expect, rest, too_large) = cut(stream);
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    let mut refused = false;
    for read in reads {
        reader.feed(read);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => {
                    refused = true;
                    break;
                }
            }
        }
        if !refused {
            assert!(reader.buffered_bytes() < FRAME_BYTES_MAX + 4, "less than a frame waits");
        }
    }
    assert_eq!(frames, expect);
    assert_eq!(refused, too_large);
    assert_eq!(reader.buffered_bytes(), rest);
    let mut again = Vec::new();
    let mut sent = 0;
    for frame in frames.into_iter().filter_map(|frame| decode(frame).ok()) {
        if frame.body != millrace_protocol::node::NodeBody::Unknown {
            encode_delimited(&frame, &mut again).expect("small frames fit");
            sent += 1;
        }
    }
    let mut reader = FrameReader::default();
    reader.feed(&again);
    while let Some(frame) = reader.next_frame().expect("our own frames fit") {
        decode(frame).expect("our own frames decode");
        sent -= 1;
    }
    assert_eq!(sent, 0);
});
