//! The Huffman code of HPACK and QPACK strings. Only decoding: what we send is shorter than worth coding.
//!
//! The code is canonical: of the lengths of its codes all else follows. Within a length, codes ascend with their symbols; the first of a
//! length is the one behind the last of the length before it, shifted.
//!
//! Source: RFC 7541 appendix B.

/// Length in bits of the code of each byte.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
const LENGTH_MAX: usize = 30;

/// Codes by their length.
struct Code {
    /// The first code of each length, and how many there are.
    first: [u32; LENGTH_MAX + 1],
    count: [u32; LENGTH_MAX + 1],
    /// Where those of a length begin in `symbols`.
    at: [usize; LENGTH_MAX + 1],
    /// Bytes by the length of their code, then by value.
    symbols: [u8; 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code =
        Code { first: [0; LENGTH_MAX + 1], count: [0; LENGTH_MAX + 1], at: [0; LENGTH_MAX + 1], symbols: [0; 256] };
    let (mut length, mut next, mut placed) = (1, 0, 0);
    while length <= LENGTH_MAX {
        next <<= 1;
        code.first[length] = next;
        code.at[length] = placed;
        let mut symbol: u8 = 0;
        loop {
            if LENGTHS[symbol as usize] as usize == length {
                code.symbols[placed] = symbol;
                placed += 1;
                code.count[length] += 1;
                next += 1;
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// The bytes that `input` stands for, at most eight fifths as many. `None` if it is no such string: a code that is none, the end of
/// string within it, or padding that is not the beginning of that, or longer than 7 bits.
pub(crate) fn decode(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(input.len() * 8 / 5);
    let (mut bits, mut length) = (0_u32, 0_usize);
    for &byte in input {
        for shift in (0..8).rev() {
            bits = bits << 1 | u32::from(byte >> shift & 1);
            length += 1;
            if length > LENGTH_MAX {
                return None;
            }
            let place = bits.wrapping_sub(CODE.first[length]);
            if bits >= CODE.first[length] && place < CODE.count[length] {
                out.push(CODE.symbols[CODE.at[length] + place as usize]);
                (bits, length) = (0, 0);
            }
        }
    }
    // What is left is the beginning of the end of string: ones.
    (length <= 7 && bits == (1 << length) - 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of RFC 7541 appendix C.
    #[test]
    fn strings_of_the_standard() {
        let check = |hex: &str, expect: &str| {
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            assert_eq!(decode(&bytes).as_deref(), Some(expect.as_bytes()), "{hex}");
        };
        check("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com");
        check("a8eb10649cbf", "no-cache");
        check("25a849e95ba97d7f", "custom-key");
        check("25a849e95bb8e8b4bf", "custom-value");
        check("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT");
        check("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com");
        check("", "");
    }

    #[test]
    fn what_is_no_string_is_refused() {
        let check = |bytes: &[u8]| assert_eq!(decode(bytes), None, "{bytes:x?}");
        // Padding of zeros, of a whole byte, and the end of string itself.
        check(&[0x18]);
        check(&[0xff]);
        check(&[0xff, 0xff, 0xff, 0xff]);
        check(&[0xff, 0xff, 0xff, 0xfc]);
    }

    /// Every code leads to its byte and is the beginning of no other.
    #[test]
    fn every_byte_has_its_code() {
        for symbol in 0..=u8::MAX {
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            let place = CODE.symbols[CODE.at[length]..].iter().position(|&other| other == symbol).unwrap();
            let code = u64::from(CODE.first[length]) + u64::try_from(place).unwrap();
            let padded = (code << (40 - length)) | ((1 << (40 - length)) - 1);
            let bytes = &padded.to_be_bytes()[3..3 + length.div_ceil(8)];
            assert_eq!(decode(bytes), Some(vec![symbol]), "{symbol}");
        }
    }
}
