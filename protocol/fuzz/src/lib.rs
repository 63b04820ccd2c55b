//! What the fuzz targets share: how an input is cut into reads.
#![forbid(unsafe_code)]

/// The first bytes of an input say how the rest is cut.
const SIZES: usize = 4;

/// Splits an input into a stream and the sizes of the reads in which it arrives: 1 to 256 bytes, four sizes in turn.
pub fn stream_and_reads(input: &[u8]) -> Option<(&[u8], impl Iterator<Item = &[u8]>)> {
    let (sizes, stream) = input.split_first_chunk::<SIZES>()?;
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    let reads = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = usize::from(*sizes.next()?) + 1;
        let (read, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        Some(read)
    });
    Some((stream, reads))
}
