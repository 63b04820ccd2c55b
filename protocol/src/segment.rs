//! One Cap'n Proto message of exactly one segment: what frames of both wires are made of, read without a copy and written
//! from a scratch buffer. Knows nothing of what a message means.

use std::cell::RefCell;

use capnp::message::{Builder, Reader, ReaderOptions, SingleSegmentAllocator};
use capnp::serialize::{NoAllocSliceSegments, read_message_from_flat_slice_no_alloc};
use capnp::{data, text};

use crate::error::{FrameError, Stop};

/// Bytes of a segment table with one entry: count minus one, then words of the segment; little-endian `u32` each.
const TABLE_BYTES: usize = 8;
const WORD_BYTES: usize = 8;
/// Deepest nesting of any frame is 5 (frame, hello, list, subscribe, position); the rest is room for later versions.
const NESTING_MAX: i32 = 16;
/// Scratch larger than this is given back after use.
const SCRATCH_BYTES_KEPT: usize = 256 << 10;

/// Opens a frame. Nothing is copied or allocated, and `input` need not be aligned.
///
/// Each word of a well-formed frame is read at most once, so traversal is limited to the length of the frame: pointers
/// that overlap cannot make it look larger than it is.
///
/// # Errors
/// [`FrameError::FrameTooLarge`] over `bytes_max`; [`FrameError::NotOneSegment`] unless the table announces one segment
/// that is all of the rest.
pub(crate) fn open(input: &[u8], bytes_max: usize) -> Result<Reader<NoAllocSliceSegments<'_>>, FrameError> {
    if input.len() > bytes_max {
        return Err(FrameError::FrameTooLarge { bytes: input.len(), bytes_max });
    }
    let not_one_segment = FrameError::NotOneSegment { bytes: input.len() };
    let Some((table, segment)) = input.split_first_chunk::<TABLE_BYTES>() else { return Err(not_one_segment) };
    let [c0, c1, c2, c3, w0, w1, w2, w3] = *table;
    let more_segments = u32::from_le_bytes([c0, c1, c2, c3]);
    let words = u32::from_le_bytes([w0, w1, w2, w3]);
    let whole = segment.len() % WORD_BYTES == 0 && usize::try_from(words) == Ok(segment.len() / WORD_BYTES);
    if more_segments != 0 || words == 0 || !whole {
        return Err(not_one_segment);
    }
    let options =
        ReaderOptions { traversal_limit_in_words: Some(segment.len() / WORD_BYTES), nesting_limit: NESTING_MAX };
    let mut rest = input;
    Ok(read_message_from_flat_slice_no_alloc(&mut rest, options)?)
}

/// The same bytes as `part`, borrowed from `input` instead of from the reader over it.
pub(crate) fn share<'a>(input: &'a [u8], part: data::Reader<'_>) -> &'a [u8] {
    if part.is_empty() {
        return &[];
    }
    let start = part.as_ptr().addr().wrapping_sub(input.as_ptr().addr());
    // A reader gives no bytes but those of the message, or of a default value, and our schemas have none but empty ones.
    input.get(start..start + part.len()).expect("a reader's bytes lie in its message")
}

/// A text as `&str`, borrowed from `input`.
pub(crate) fn share_text<'a>(
    input: &'a [u8],
    what: &'static str,
    text: capnp::Result<text::Reader<'_>>,
) -> Result<&'a str, Stop> {
    let bytes = share(input, text?.as_bytes());
    Ok(simdutf8::basic::from_utf8(bytes).map_err(|source| FrameError::NotUtf8 { what, source })?)
}

/// Refuses a size over its limit.
pub(crate) fn limit(what: &'static str, size: usize, size_max: usize) -> Result<(), FrameError> {
    if size > size_max { Err(FrameError::TooLarge { what, size, size_max }) } else { Ok(()) }
}

/// Words that a text takes: its bytes, a closing zero, padding.
pub(crate) const fn text_words(text: &str) -> usize {
    text.len() / WORD_BYTES + 1
}

/// Words that data take: their bytes and padding.
pub(crate) const fn data_words(data: &[u8]) -> usize {
    data.len().div_ceil(WORD_BYTES)
}

/// The length of a list or of data as Cap'n Proto counts it.
///
/// # Panics
/// Over 2^29 - 1, which no frame within its limit reaches.
pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).ok().filter(|&len| len < 1 << 29).expect("no list of a frame has 2^29 items")
}

/// Bytes of a frame whose segment has at most `words_max` words.
pub(crate) const fn frame_bytes(words_max: usize) -> usize {
    TABLE_BYTES + words_max * WORD_BYTES
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Builds a message of at most `words_max` words and appends it to `out` as a frame; `out` grows by just what is needed.
///
/// The builder wipes its buffer when it goes, so the message is built in a buffer of this thread and copied once.
///
/// # Panics
/// If `build` needs more than `words_max` words.
pub(crate) fn write(words_max: usize, out: &mut Vec<u8>, build: impl FnOnce(&mut Builder<SingleSegmentAllocator<'_>>)) {
    SCRATCH.with_borrow_mut(|scratch| {
        let bytes_max = words_max * WORD_BYTES;
        if scratch.len() < bytes_max {
            scratch.resize(bytes_max, 0);
        }
        {
            let mut message = Builder::new(SingleSegmentAllocator::new(&mut scratch[..bytes_max]));
            build(&mut message);
            let segments = message.get_segments_for_output();
            let segment: &[u8] = segments[0];
            out.reserve(TABLE_BYTES + segment.len());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&count(segment.len() / WORD_BYTES).to_le_bytes());
            out.extend_from_slice(segment);
        }
        if scratch.len() > SCRATCH_BYTES_KEPT {
            *scratch = Vec::new();
        }
    });
}
