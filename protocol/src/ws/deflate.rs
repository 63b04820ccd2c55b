//! Compressed messages (RFC 7692, permessage-deflate), without context takeover: nothing of one message is kept for the next.
//!
//! So a compressor and a decompressor belong to a thread and not to a connection, and a message that many receive is
//! compressed once for all of them that agreed to the same [`Window`]. Who offers the extension but insists on taking over
//! context is declined, and goes on without it.
//!
//! - [`offer`]: what is offered and agreed on in the handshake, §7.1;
//! - [`Deflater`], [`Inflater`]: a message's payload both ways, §7.2.

pub mod offer;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::WsError;

pub use offer::Agreement;

/// How far back a compressed message refers to itself at most: what its receiver must keep while it inflates. Of the sizes
/// that can be asked for, three are made, so that a broadcast is compressed three times at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// 512 bytes: 9 bits, for who asks for 9 to 11.
    Small,
    /// 4 KiB: 12 bits, for who asks for 12 to 14.
    Medium,
    /// 32 KiB: 15 bits, for who asks for that or for nothing.
    Large,
}

impl Window {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// The largest within so many bits; `None` below 9, where the compressor cannot keep it.
    pub const fn within(bits: u8) -> Option<Self> {
        match bits {
            0..=8 => None,
            9..=11 => Some(Self::Small),
            12..=14 => Some(Self::Medium),
            _ => Some(Self::Large),
        }
    }

    /// The base-2 logarithm of its size in bytes: 9, 12 or 15.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Small => 9,
            Self::Medium => 12,
            Self::Large => 15,
        }
    }

    /// Its place among all: 0 to [`COUNT`](Self::COUNT) - 1.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What ends a flushed block and is not sent (§7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// That, and an empty last block: if the payload was whole, the stream ends exactly here.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Second of zlib's ten: more saves a few percent of bytes for half as much time again (ADR 0017).
const LEVEL: i32 = 2;

/// Compresses messages for one [`Window`]. 250 to 380 KiB, which live as long as it.
pub struct Deflater {
    state: Deflate,
    output: Vec<u8>,
}

impl Deflater {
    /// Messages that it compresses are inflated with that window.
    pub fn new(window: Window) -> Self {
        let config = DeflateConfig { level: LEVEL, window_bits: -i32::from(window.bits()), ..DeflateConfig::default() };
        Self { state: Deflate::new_with_config(config), output: Vec::new() }
    }

    /// The payload of a frame that says the same in fewer bytes; `None` if there is none.
    ///
    /// Source: RFC 7692 §7.2.1.
    pub fn deflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if self.output.len() < payload.len() + FLUSH_TAIL.len() {
            self.output.resize(payload.len() + FLUSH_TAIL.len(), 0);
        }
        // Room for one byte less than would help nothing: output that fills it is cut off, and of no use.
        let room = &mut self.output[..payload.len() + FLUSH_TAIL.len() - 1];
        self.state.reset();
        self.state.compress(payload, room, DeflateFlush::SyncFlush).ok()?;
        let written = usize::try_from(self.state.total_out()).ok()?;
        let whole = self.state.total_in() == payload.len() as u64 && written < room.len();
        room[..written].strip_suffix(&FLUSH_TAIL).filter(|_| whole)
    }
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}

/// Inflates messages, one after the other, of any number of connections. 48 KiB, and the largest message so far up to its
/// limit.
pub struct Inflater {
    state: Inflate,
    output: Vec<u8>,
    /// How much of `output` is the last message.
    filled: usize,
    inflated_bytes: u64,
}

/// Last blocks in one message, most of which a compressor makes one.
const LAST_BLOCKS_MAX: u32 = 16;
/// Room for output at first; it doubles.
const OUTPUT_BYTES_MIN: usize = 4 << 10;

impl Inflater {
    /// It takes messages of every window.
    pub fn new() -> Self {
        Self { state: Inflate::new(false, 15), output: Vec::new(), filled: 0, inflated_bytes: 0 }
    }

    /// Inflates the payload of a message, its fragments joined.
    ///
    /// # Errors
    /// - [`WsError::Deflate`] if the bytes are no whole compressed message, or one of more than 16 last blocks.
    /// - [`WsError::MessageTooBig`] if it is of more than `bytes_max`; no more than one byte over that was written.
    ///
    /// Source: RFC 7692 §7.2.2.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: u32) -> Result<&[u8], WsError> {
        self.filled = 0;
        let outcome = self.run(payload, bytes_max);
        self.inflated_bytes += self.filled as u64;
        outcome.map(|()| self.inflated())
    }

    /// The last message that was inflated.
    pub fn inflated(&self) -> &[u8] {
        &self.output[..self.filled]
    }

    /// Bytes that it has made of all messages so far: what a shell weighs work by.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated_bytes
    }

    fn run(&mut self, payload: &[u8], bytes_max: u32) -> Result<(), WsError> {
        let room_max = bytes_max as usize + 1;
        let (mut rest, mut at_end) = (payload, false);
        let mut ends = 0;
        self.state.reset(false);
        loop {
            if self.filled == self.output.len().min(room_max) {
                if self.filled == room_max {
                    return Err(WsError::MessageTooBig { bytes: self.filled as u64, max: bytes_max });
                }
                let room = (self.output.len() * 2).max(OUTPUT_BYTES_MIN).min(room_max);
                self.output.reserve_exact(room - self.output.len());
                self.output.resize(room, 0);
            }
            let end = self.output.len().min(room_max);
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(rest, &mut self.output[self.filled..end], InflateFlush::NoFlush);
            let status = status.map_err(|_bad_data| WsError::Deflate)?;
            let taken = usize::try_from(self.state.total_in() - taken).unwrap_or(rest.len());
            let made = usize::try_from(self.state.total_out() - made).unwrap_or(0);
            rest = &rest[taken..];
            self.filled += made;
            match status {
                Status::StreamEnd if !rest.is_empty() && at_end => return Err(WsError::Deflate),
                Status::StreamEnd if rest.is_empty() && self.filled == room_max => {}
                Status::StreamEnd if rest.is_empty() => return Ok(()),
                // A last block, and more behind it, which may refer to what came before (§7.2.3.4).
                Status::StreamEnd => {
                    // Each costs a copy of the window, and an empty one is two bytes.
                    ends += 1;
                    if ends > LAST_BLOCKS_MAX {
                        return Err(WsError::Deflate);
                    }
                    self.state.reset(false);
                    let known = &self.output[self.filled.saturating_sub(1 << Window::Large.bits())..self.filled];
                    self.state.set_dictionary(known).map_err(|_| WsError::Deflate)?;
                }
                Status::Ok | Status::BufError if self.filled == end => {}
                Status::Ok | Status::BufError if rest.is_empty() && !at_end => (rest, at_end) = (&END, true),
                Status::Ok | Status::BufError if taken + made == 0 || rest.is_empty() => return Err(WsError::Deflate),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("inflated_bytes", &self.inflated_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
