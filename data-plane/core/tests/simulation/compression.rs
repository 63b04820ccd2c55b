//! Compression as far as a shard sees it: frames of other bytes, some shorter, for who agreed to it.

use millrace_core::Compress;
use millrace_protocol::ws::deflate::Window;

/// Leaves out what every frame of the protocol begins with.
pub(crate) struct Beheads;

/// One segment, in little-endian.
const HEAD: [u8; 4] = [0; 4];
/// Final, RSV1, binary.
pub(crate) const FLAGS: u8 = 0xc2;

impl Compress for Beheads {
    fn compress(&mut self, _window: Window, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(rest) = payload.strip_prefix(&HEAD) else { return false };
        // Some things do not shrink.
        if payload.len().is_multiple_of(5) {
            return false;
        }
        out.push(FLAGS);
        match rest.len() {
            short @ 0..126 => out.push(short.try_into().unwrap()),
            medium => {
                out.push(126);
                out.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
        }
        out.extend_from_slice(rest);
        true
    }
}

pub(crate) fn restored(rest: &[u8]) -> Vec<u8> {
    [&HEAD, rest].concat()
}
