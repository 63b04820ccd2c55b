//! The payload that every subject carries: when it was meant to be sent, in a form that survives text, JSON and XML untouched.
//!
//! Shape: `mr:~`, 16 hex digits of nanoseconds since the run began, then `x` up to the payload's size. Subscribers look for the first four
//! bytes in whatever they receive, so that the load generator need not parse what a peer wraps around them.

use memchr::memmem::Finder;

/// The smallest payload: marker and time.
pub(crate) const BYTES_MIN: usize = 20;

const MARKER: &[u8; 4] = b"mr:~";
const DIGITS: usize = BYTES_MIN - MARKER.len();

/// Writes a payload of `size` bytes, at least [`BYTES_MIN`], with its intended time.
pub(crate) fn write(size: usize, intended_ns: u64, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(MARKER);
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    out.extend(intended_ns.to_be_bytes().into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    out.resize(size.max(BYTES_MIN), b'x');
}

/// Finds stamps in received messages.
pub(crate) struct Stamps {
    finder: Finder<'static>,
}

impl Stamps {
    pub(crate) fn new() -> Self {
        Self { finder: Finder::new(MARKER) }
    }

    /// Calls `found` with the intended time of each payload in a message; how many there were.
    pub(crate) fn each(&self, mut message: &[u8], mut found: impl FnMut(u64)) -> u32 {
        let mut count = 0;
        while let Some(place) = self.finder.find(message) {
            let rest = &message[place + MARKER.len()..];
            if let Some(intended) = rest.get(..DIGITS).and_then(parse) {
                found(intended);
                count += 1;
            }
            message = rest;
        }
        count
    }
}

fn parse(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_in_a_message_is_found() {
        let mut one = Vec::new();
        write(BYTES_MIN, 0x0123_4567_89ab_cdef, &mut one);
        assert_eq!(one.len(), BYTES_MIN);
        let mut two = Vec::new();
        write(170, 7, &mut two);
        assert_eq!(two.len(), 170);
        let message = [br#"{"data":""#, &one[..], br#""}"#, b"\n", &two[..]].concat();
        let mut found = Vec::new();
        assert_eq!(Stamps::new().each(&message, |intended| found.push(intended)), 2);
        assert_eq!(found, [0x0123_4567_89ab_cdef, 7]);
    }

    #[test]
    fn what_only_looks_like_one_is_not_counted() {
        for message in [&b"mr:~"[..], b"mr:~000000000000000", b"mr:~00000000000000zz", b""] {
            assert_eq!(Stamps::new().each(message, |_| panic!("no stamp")), 0, "{message:?}");
        }
    }
}
