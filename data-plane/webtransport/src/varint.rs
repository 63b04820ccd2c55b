//! QUIC's numbers of 1, 2, 4 or 8 bytes, which HTTP/3 and WebTransport use throughout.
//!
//! Source: RFC 9000 §16.

/// The largest number.
pub const MAX: u64 = (1 << 62) - 1;

/// Reads a number from the front: it, and how many bytes it took. `None` if it is not whole.
pub fn decode(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let len = 1_usize << (first >> 6);
    let (number, _) = input.split_at_checked(len)?;
    let value = number[1..].iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, len))
}

/// Appends a number, in as few bytes as it takes. Numbers above [`MAX`] have no form: of them the largest is written.
pub fn encode(value: u64, out: &mut Vec<u8>) {
    debug_assert!(value <= MAX, "numbers have 62 bits");
    let value = value.min(MAX);
    let bytes = value.to_be_bytes();
    let (tag, len) = match value {
        0..0x40 => (0, 1),
        0x40..0x4000 => (1, 2),
        0x4000..0x4000_0000 => (2, 4),
        _ => (3, 8),
    };
    let at = out.len();
    out.extend_from_slice(&bytes[8 - len..]);
    out[at] |= tag << 6;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_the_standard() {
        let check = |bytes: &[u8], expect: u64| {
            assert_eq!(decode(bytes), Some((expect, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None);
            }
        };
        check(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652);
        check(&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333);
        check(&[0x7b, 0xbd], 15_293);
        check(&[0x25], 37);
        // Longer than it need be is allowed.
        check(&[0x40, 0x25], 37);
    }

    proptest! {
        #[test]
        fn numbers_come_back(value in 0..=MAX, rest: [u8; 3]) {
            let mut bytes = Vec::new();
            encode(value, &mut bytes);
            let len = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(decode(&bytes), Some((value, len)));
        }
    }
}
