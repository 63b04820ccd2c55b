//! One frame header, both ways (RFC 6455 §5.2). What must hold between frames is the [`decoder`](super::decoder)'s.

use super::{Limits, Role, WsError};

/// Longest frame header: flags and opcode 1, mask bit and length 9, masking key 4.
pub const HEADER_BYTES_MAX: usize = 14;

/// Longest payload of a control frame (§5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a client's payload is masked with: four bytes that nobody could have guessed (§5.3).
pub type MaskKey = [u8; 4];

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the message that is under way.
    Continuation = 0x0,
    /// Text in UTF-8, or its first fragment.
    Text = 0x1,
    /// Bytes, or their first fragment.
    Binary = 0x2,
    /// The sender closes.
    Close = 0x8,
    /// To be answered with a pong of the same payload.
    Ping = 0x9,
    /// The answer to a ping, or a sign of life.
    Pong = 0xa,
}

impl Opcode {
    /// `None` for the ten reserved ones.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether it is a control frame: short, never fragmented, allowed between fragments.
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// RSV1: the first frame of a message that is compressed (RFC 7692 §6).
    pub compressed: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, if the payload is masked.
    pub mask_key: Option<MaskKey>,
    /// Length of the payload, below 2^63.
    pub payload_bytes: u64,
}

/// Decodes one frame header from the front of `input`, and says how many bytes it takes.
///
/// Shape: flags and opcode (1 byte), mask bit and length (1, 3 or 9), masking key (0 or 4); integers big-endian.
/// Returns `None`, consuming nothing, when `input` holds less than a whole header; what is wrong with the bytes that are
/// there is found at once.
///
/// # Errors
/// - [`WsError::ReservedBits`] if RSV1 to RSV3 are set: whether an extension gives RSV1 a meaning, the [`Decoder`](super::Decoder) knows.
/// - [`WsError::ReservedOpcode`] if the opcode has no meaning.
/// - [`WsError::ControlFragmented`], [`WsError::ControlTooLong`] if a control frame is not one frame of at most 125 bytes.
/// - [`WsError::NotMasked`], [`WsError::Masked`] if the mask bit is not that of the other role.
/// - [`WsError::LengthNotMinimal`], [`WsError::LengthTooLarge`] if the length is not encoded as it must be.
/// - [`WsError::MessageTooBig`] if the payload exceeds `limits.message_bytes_max`.
///
/// Source: RFC 6455 §5.2.
pub fn decode_header(input: &[u8], role: Role, limits: &Limits) -> Result<Option<(Header, usize)>, WsError> {
    decode_header_with(input, role, limits, Extension::None)
}

/// What was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    /// Every reserved bit is an error.
    None,
    /// RSV1 marks the first frame of a compressed message (RFC 7692 §6).
    Deflate,
}

/// As [`decode_header`], with an extension in force.
pub(super) fn decode_header_with(
    input: &[u8],
    role: Role,
    limits: &Limits,
    extension: Extension,
) -> Result<Option<(Header, usize)>, WsError> {
    let [first, rest @ ..] = input else { return Ok(None) };
    let (fin, compressed, opcode) = decode_first(*first, extension)?;
    let [second, rest @ ..] = rest else { return Ok(None) };
    let masked = decode_mask_bit(*second, role)?;
    let length = second & 0x7f;
    if opcode.is_control() && usize::from(length) > CONTROL_BYTES_MAX {
        return Err(WsError::ControlTooLong);
    }

    let (payload_bytes, rest) = match length {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (shortest(u64::from(u16::from_be_bytes(*bytes)), 126)?, rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (shortest(u64::from_be_bytes(*bytes), 65_536)?, rest)
        }
        _ => (u64::from(length), rest),
    };
    if payload_bytes > i64::MAX.cast_unsigned() {
        return Err(WsError::LengthTooLarge);
    }
    if payload_bytes > u64::from(limits.message_bytes_max) && !opcode.is_control() {
        return Err(WsError::MessageTooBig { bytes: payload_bytes, max: limits.message_bytes_max });
    }

    let (mask_key, rest) = match rest.split_first_chunk::<4>() {
        Some((key, rest)) if masked => (Some(*key), rest),
        None if masked => return Ok(None),
        _ => (None, rest),
    };
    Ok(Some((Header { fin, compressed, opcode, mask_key, payload_bytes }, input.len() - rest.len())))
}

fn decode_first(byte: u8, extension: Extension) -> Result<(bool, bool, Opcode), WsError> {
    let compressed = byte & RSV1 != 0;
    if byte & 0x30 != 0 || compressed && extension == Extension::None {
        return Err(WsError::ReservedBits);
    }
    let bits = byte & 0x0f;
    let opcode = Opcode::from_bits(bits).ok_or(WsError::ReservedOpcode { opcode: bits })?;
    if compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(WsError::ReservedBits);
    }
    let fin = byte & 0x80 != 0;
    if opcode.is_control() && !fin {
        return Err(WsError::ControlFragmented);
    }
    Ok((fin, compressed, opcode))
}

/// The reserved bit that RFC 7692 gives a meaning.
const RSV1: u8 = 0x40;

fn decode_mask_bit(byte: u8, role: Role) -> Result<bool, WsError> {
    match (role, byte & 0x80 != 0) {
        (Role::Server, false) => Err(WsError::NotMasked),
        (Role::Client, true) => Err(WsError::Masked),
        (_, masked) => Ok(masked),
    }
}

/// `bytes`, if no shorter encoding would do.
fn shortest(bytes: u64, least: u64) -> Result<u64, WsError> {
    if bytes < least { Err(WsError::LengthNotMinimal { bytes }) } else { Ok(bytes) }
}

impl Header {
    /// The header of an unfragmented frame. A server passes no key, a client a fresh random one.
    pub fn whole(opcode: Opcode, payload_bytes: usize, mask_key: Option<MaskKey>) -> Self {
        Self { fin: true, compressed: false, opcode, mask_key, payload_bytes: payload_bytes as u64 }
    }

    /// Its bytes. A header without a key is the same for every connection, so the frame can be shared.
    ///
    /// Source: RFC 6455 §5.2.
    pub fn encode(&self) -> HeaderBytes {
        let mut out = HeaderBytes { bytes: [0; HEADER_BYTES_MAX], len: 0 };
        let rsv1 = if self.compressed { RSV1 } else { 0 };
        out.push(&[u8::from(self.fin) << 7 | rsv1 | self.opcode as u8]);
        let mask_bit = u8::from(self.mask_key.is_some()) << 7;
        let [.., a, b] = self.payload_bytes.to_be_bytes();
        match self.payload_bytes {
            0..126 => out.push(&[mask_bit | b]),
            126..65_536 => out.push(&[mask_bit | 126, a, b]),
            long => {
                out.push(&[mask_bit | 127]);
                out.push(&long.to_be_bytes());
            }
        }
        if let Some(key) = self.mask_key {
            out.push(&key);
        }
        out
    }
}

/// An encoded frame header: 2 to 14 bytes.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBytes {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
}

impl HeaderBytes {
    #[expect(clippy::cast_possible_truncation, reason = "the longest header has 14 bytes")]
    fn push(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl std::ops::Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { message_bytes_max: 1 << 20 };

    #[test]
    fn headers_are_decoded() {
        let check = |input: &[u8], fin, opcode, payload_bytes| {
            let header = Header { fin, compressed: false, opcode, mask_key: None, payload_bytes };
            assert_eq!(decode_header(input, Role::Client, &LIMITS), Ok(Some((header, input.len()))), "{input:x?}");
        };
        check(&[0x81, 0x05], true, Opcode::Text, 5);
        check(&[0x01, 0x03], false, Opcode::Text, 3);
        check(&[0x80, 0x02], true, Opcode::Continuation, 2);
        check(&[0x89, 0x05], true, Opcode::Ping, 5);
        check(&[0x8a, 0x7d], true, Opcode::Pong, 125);
        check(&[0x88, 0x00], true, Opcode::Close, 0);
        check(&[0x82, 0x7e, 0x01, 0x00], true, Opcode::Binary, 256);
        check(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0], true, Opcode::Binary, 65_536);
    }

    #[test]
    fn wrong_headers_are_refused_as_soon_as_it_shows() {
        let check = |role, input: &[u8], expect| {
            assert_eq!(decode_header(input, role, &LIMITS), Err(expect), "{input:x?}");
        };
        for first in [0xc1, 0xa1, 0x91, 0xf1, 0x71] {
            check(Role::Client, &[first], WsError::ReservedBits);
        }
        for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
            check(Role::Client, &[0x80 | opcode], WsError::ReservedOpcode { opcode });
        }
        for opcode in [0x8, 0x9, 0xa] {
            check(Role::Client, &[opcode], WsError::ControlFragmented);
            check(Role::Client, &[0x80 | opcode, 126], WsError::ControlTooLong);
            check(Role::Server, &[0x80 | opcode, 0xff], WsError::ControlTooLong);
        }
        check(Role::Server, &[0x81, 0x05], WsError::NotMasked);
        check(Role::Client, &[0x81, 0x85], WsError::Masked);
        check(Role::Client, &[0x82, 126, 0, 125], WsError::LengthNotMinimal { bytes: 125 });
        check(Role::Client, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], WsError::LengthNotMinimal { bytes: 65_535 });
        check(Role::Client, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], WsError::LengthTooLarge);
        let too_big = WsError::MessageTooBig { bytes: (1 << 20) + 1, max: 1 << 20 };
        check(Role::Server, &[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1], too_big);
        let biggest = WsError::MessageTooBig { bytes: i64::MAX.cast_unsigned(), max: 1 << 20 };
        check(Role::Client, &[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], biggest);
    }

    #[test]
    fn the_first_reserved_bit_marks_a_compressed_message_where_that_was_agreed() {
        let check = |first: u8, expect: Result<bool, WsError>| {
            let found = decode_header_with(&[first, 1], Role::Client, &LIMITS, Extension::Deflate);
            assert_eq!(found.map(|header| header.unwrap().0.compressed), expect, "{first:#x}");
        };
        check(0xc1, Ok(true));
        check(0x42, Ok(true));
        check(0x81, Ok(false));
        for first in [0xc0, 0x40, 0xc8, 0xc9, 0xca, 0xa1, 0x91, 0xe1, 0xf2] {
            check(first, Err(WsError::ReservedBits));
        }
        let header = Header { compressed: true, ..Header::whole(Opcode::Binary, 3, None) };
        assert_eq!(*header.encode(), [0xc2, 3]);
    }

    fn any_header() -> impl Strategy<Value = (Role, Header)> {
        let opcode = prop::sample::select(vec![Opcode::Continuation, Opcode::Text, Opcode::Binary]);
        let control = prop::sample::select(vec![Opcode::Close, Opcode::Ping, Opcode::Pong]);
        let length = prop_oneof![0u64..300, 65_500u64..65_600, 0u64..=1 << 20];
        let data = (any::<bool>(), opcode, length);
        let control = (Just(true), control, 0u64..126);
        (any::<Option<MaskKey>>(), prop_oneof![data, control]).prop_map(|(mask_key, (fin, opcode, payload_bytes))| {
            let role = if mask_key.is_some() { Role::Server } else { Role::Client };
            (role, Header { fin, compressed: false, opcode, mask_key, payload_bytes })
        })
    }

    proptest! {
        #[test]
        fn headers_round_trip_and_every_prefix_waits((role, header) in any_header(), tail: [u8; 3]) {
            let encoded = header.encode();
            let mut input = encoded.to_vec();
            input.extend(tail);
            prop_assert_eq!(decode_header(&input, role, &LIMITS), Ok(Some((header, encoded.len()))));
            for end in 0..encoded.len() {
                prop_assert_eq!(decode_header(&input[..end], role, &LIMITS), Ok(None));
            }
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(input in prop::collection::vec(any::<u8>(), 0..20)) {
            for role in [Role::Server, Role::Client] {
                if let Ok(Some((header, len))) = decode_header(&input, role, &LIMITS) {
                    prop_assert_eq!(&*header.encode(), &input[..len]);
                }
            }
        }
    }
}
