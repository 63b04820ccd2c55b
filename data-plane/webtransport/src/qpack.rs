//! Fields of a request and of an answer. Only the static table: we offer no other, so whoever refers to one is wrong.
//!
//! Of a request only the fields are told apart that decide about it; the others are checked for their form and passed over.
//!
//! Source: RFC 9204 §4.5.

use crate::error::{Error, ErrorCode};
use crate::huffman;

/// The name of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    /// Begins with a colon and is none of those, or is no name at all.
    Wrong,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            [] | [b':', ..] => Self::Wrong,
            // RFC 9114 §4.2: names are in lower case.
            other if other.iter().any(|byte| byte.is_ascii_uppercase() || *byte <= b' ') => Self::Wrong,
            _ => Self::Other,
        }
    }

    /// The entry of the static table, with its value where that matters.
    fn at(index: usize) -> Option<(Self, &'static [u8])> {
        Some(match index {
            0 => (Self::Authority, b""),
            1 => (Self::Path, b"/"),
            15 => (Self::Method, b"CONNECT"),
            16 => (Self::Method, b"DELETE"),
            17 => (Self::Method, b"GET"),
            18 => (Self::Method, b"HEAD"),
            19 => (Self::Method, b"OPTIONS"),
            20 => (Self::Method, b"POST"),
            21 => (Self::Method, b"PUT"),
            22 => (Self::Scheme, b"http"),
            23 => (Self::Scheme, b"https"),
            // `:status`, which a request does not have.
            24..=28 | 63..=71 => (Self::Wrong, b""),
            2..=98 => (Self::Other, b""),
            _ => return None,
        })
    }
}

/// Reads a section of fields, which is whole.
///
/// # Errors
/// [`ErrorCode::Decompression`], which ends the connection: the state of compression would not be shared any more.
pub(crate) fn decode(section: &[u8], mut on_field: impl FnMut(Name, &[u8])) -> Result<(), Error> {
    let mut input = section;
    // The required insert count and the base: 0 without a dynamic table. A base has no meaning then.
    if integer(&mut input, 8)? != 0 {
        return Err(failed("fields refer to a table that was not offered"));
    }
    integer(&mut input, 7)?;
    while let Some(&first) = input.first() {
        match first {
            // Indexed.
            0xc0..=0xff => {
                let (name, value) = Name::at(integer(&mut input, 6)?).ok_or(failed("a field without a name"))?;
                on_field(name, value);
            }
            // A literal, its name in the static table.
            0x50..=0x5f | 0x70..=0x7f => {
                let (name, _) = Name::at(integer(&mut input, 4)?).ok_or(failed("a field without a name"))?;
                value(&mut input, name, &mut on_field)?;
            }
            // A literal with its name.
            0x20..=0x3f => {
                let coded = first & 0x08 != 0;
                let len = integer(&mut input, 3)?;
                let name = Name::of(&string(&mut input, len, coded)?);
                value(&mut input, name, &mut on_field)?;
            }
            _ => return Err(failed("fields refer to a table that was not offered")),
        }
    }
    Ok(())
}

fn value(input: &mut &[u8], name: Name, on_field: &mut impl FnMut(Name, &[u8])) -> Result<(), Error> {
    let coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(input, 7)?;
    if name == Name::Other {
        take(input, len)?;
        on_field(name, b"");
    } else {
        on_field(name, &string(input, len, coded)?);
    }
    Ok(())
}

fn string(input: &mut &[u8], len: usize, coded: bool) -> Result<Vec<u8>, Error> {
    let bytes = take(input, len)?;
    if coded { huffman::decode(bytes).ok_or(failed("a string that cannot be decoded")) } else { Ok(bytes.to_vec()) }
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (taken, rest) = input.split_at_checked(len).ok_or(failed("fields are cut off"))?;
    *input = rest;
    Ok(taken)
}

/// A number whose first `bits` are the last of the first byte (RFC 7541 §5.1).
fn integer(input: &mut &[u8], bits: u32) -> Result<usize, Error> {
    let cut = || failed("fields are cut off");
    let (&first, rest) = input.split_first().ok_or(cut())?;
    *input = rest;
    let full = usize::from(u8::MAX >> (8 - bits));
    let mut value = usize::from(first) & full;
    if value < full {
        return Ok(value);
    }
    // More than four further bytes make no length of anything that fits.
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = input.split_first().ok_or(cut())?;
        *input = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(failed("a number in fields is too large"))
}

const fn failed(reason: &'static str) -> Error {
    Error::new(ErrorCode::Decompression, reason)
}

/// Checks what the client's encoder says. Of a table that has no room it can say that alone: every entry is too large, and none is there
/// to be repeated (RFC 9204 §3.2.3, §4.3).
pub(crate) fn check_encoder(instructions: &[u8]) -> Result<(), Error> {
    const NO_CAPACITY: u8 = 0x20;
    if instructions.iter().all(|&byte| byte == NO_CAPACITY) {
        Ok(())
    } else {
        Err(Error::new(ErrorCode::EncoderStream, "entries for a table that was not offered"))
    }
}

/// Checks what the client's decoder says, however it is cut: that it reads a stream no more. Our fields refer to no entries, so there are
/// none that it could have got (RFC 9204 §4.4).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cancellations {
    /// Bytes of a stream's number that may still come.
    left: u8,
}

impl Cancellations {
    pub(crate) fn check(&mut self, instructions: &[u8]) -> Result<(), Error> {
        // Behind the first byte of a number of 62 bits.
        const NUMBER_BYTES_MAX: u8 = 9;
        for &byte in instructions {
            self.left = match (self.left, byte) {
                (0, 0x7f) => NUMBER_BYTES_MAX,
                (0, 0x40..0x7f) => 0,
                (0, _) => return Err(Error::new(ErrorCode::DecoderStream, "word of entries that nobody sent")),
                (_, 0..0x80) => 0,
                (1, _) => return Err(Error::new(ErrorCode::DecoderStream, "a stream's number is too large")),
                (left, _) => left - 1,
            };
        }
        Ok(())
    }
}

/// Begins a section of fields.
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends a number whose first byte has `flags` above its last `bits`.
fn put(flags: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let full = usize::from(u8::MAX >> (8 - bits));
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    if value < full {
        out.push(flags | byte(value));
        return;
    }
    out.push(flags | byte(full));
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(byte(rest & 0x7f | 0x80));
        rest >>= 7;
    }
    out.push(byte(rest));
}

/// Appends an entry of the static table.
pub(crate) fn indexed(index: usize, out: &mut Vec<u8>) {
    put(0xc0, 6, index, out);
}

/// Appends a field whose name is in the static table.
pub(crate) fn named(index: usize, value: &str, out: &mut Vec<u8>) {
    put(0x50, 4, index, out);
    put(0, 7, value.len(), out);
    out.extend_from_slice(value.as_bytes());
}

/// Appends a field with its name, which is in lower case.
pub(crate) fn literal(name: &str, value: &str, out: &mut Vec<u8>) {
    put(0x20, 3, name.len(), out);
    out.extend_from_slice(name.as_bytes());
    put(0, 7, value.len(), out);
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(section: &[u8]) -> Result<Vec<(Name, String)>, Error> {
        let mut fields = Vec::new();
        decode(section, |name, value| fields.push((name, String::from_utf8_lossy(value).into_owned())))?;
        Ok(fields)
    }

    #[test]
    fn fields_in_all_their_forms() {
        let mut section = Vec::new();
        begin(&mut section);
        indexed(15, &mut section);
        indexed(23, &mut section);
        named(0, "chat.example", &mut section);
        named(1, "/v1/connect", &mut section);
        literal(":protocol", "webtransport", &mut section);
        literal("sec-fetch-mode", &"x".repeat(300), &mut section);
        named(95, "somebody", &mut section);
        literal("Upper", "", &mut section);
        literal(":colour", "red", &mut section);
        // A name and a value in Huffman's code: `custom-key: custom-value`.
        section.extend([0x2f, 0x01, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f]);
        section.extend([0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]);
        // A path in Huffman's code: `/sample/path` would do, `no-cache` is at hand.
        section.extend([0x51, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
        let expect = [
            (Name::Method, "CONNECT"),
            (Name::Scheme, "https"),
            (Name::Authority, "chat.example"),
            (Name::Path, "/v1/connect"),
            (Name::Protocol, "webtransport"),
            (Name::Other, ""),
            (Name::Other, ""),
            (Name::Wrong, ""),
            (Name::Wrong, "red"),
            (Name::Other, ""),
            (Name::Path, "no-cache"),
        ];
        let found = fields(&section).unwrap();
        assert_eq!(found.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let check = |section: &[u8]| {
            assert_eq!(fields(section).unwrap_err().code, ErrorCode::Decompression, "{section:x?}");
        };
        check(&[]);
        check(&[0]);
        // An insert count; dynamic entries, indexed, by name, behind the base.
        check(&[1, 0]);
        check(&[0, 0, 0x80]);
        check(&[0, 0, 0x40, 0]);
        check(&[0, 0, 0x60, 0]);
        check(&[0, 0, 0x10]);
        check(&[0, 0, 0x00, 0]);
        // Beyond the static table, cut off, numbers without end.
        check(&[0, 0, 0xff, 36]);
        check(&[0, 0, 0x51, 5, b'a']);
        check(&[0, 0, 0x27]);
        check(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        // A string that is none.
        check(&[0, 0, 0x51, 0x81, 0x18]);
    }

    #[test]
    fn an_encoder_without_a_table_has_nothing_to_say() {
        assert_eq!(check_encoder(&[0x20, 0x20]), Ok(()));
        // A capacity of 4,096; inserts with the name of another entry and with their own; a duplicate.
        for instruction in [&[0x3f, 0xe1, 0x1f][..], &[0x20, 0xc0, 0x01, b'x'], &[0x41, b'a', 0x01, b'x'], &[0x00]] {
            let code = check_encoder(instruction).map_err(|error| error.code);
            assert_eq!(code, Err(ErrorCode::EncoderStream), "{instruction:x?}");
        }
    }

    #[test]
    fn a_decoder_may_cancel_streams_and_knows_of_no_entries() {
        let check = |instructions: &[u8], expect: Option<ErrorCode>| {
            for cut in [1, instructions.len()] {
                let mut decoder = Cancellations::default();
                let error = instructions.chunks(cut).find_map(|piece| decoder.check(piece).err());
                assert_eq!(error.map(|error| error.code), expect, "{instructions:x?}");
            }
        };
        check(&[0x40, 0x44, 0x7f, 0x00, 0x7f, 0xff, 0x80, 0x01, 0x48], None);
        check(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0x40], None);
        check(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(ErrorCode::DecoderStream));
        // An acknowledgement; counts of 0 and of 1.
        for instruction in [0x80, 0x00, 0x01] {
            check(&[0x44, instruction], Some(ErrorCode::DecoderStream));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(section: Vec<u8>) {
            let _ = fields(&section);
        }

        #[test]
        fn numbers_come_back(bits in 3..=8_u32, value in 0..200_000_usize) {
            let mut bytes = Vec::new();
            put(0, bits, value, &mut bytes);
            prop_assert_eq!(integer(&mut &bytes[..], bits), Ok(value));
        }
    }
}
