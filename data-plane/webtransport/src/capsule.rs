//! Capsules: what is said about a session on the stream of its request.
//!
//! Source: RFC 9297 §3.2, draft-ietf-webtrans-http3 §6.

use crate::error::{Error, ErrorCode};
use crate::items::{self, Items, Part, Treat};
use crate::request::DATA;

/// CLOSE_WEBTRANSPORT_SESSION.
const CLOSE: u64 = 0x2843;
/// Longest reason that a close may give.
pub const CLOSE_REASON_BYTES_MAX: usize = 1024;
const CODE_BYTES: usize = 4;

/// A session's end, in the words of the one who ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// A number of the application's.
    pub code: u32,
    /// For a person; at most [`CLOSE_REASON_BYTES_MAX`].
    pub reason: String,
}

impl Close {
    /// As a frame of the request's stream. A reason that is too long is cut.
    pub(crate) fn encoded(code: u32, reason: &str) -> Vec<u8> {
        let mut value = code.to_be_bytes().to_vec();
        value.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)]);
        let (mut capsule, mut frame) = (Vec::new(), Vec::new());
        items::encode(CLOSE, &value, &mut capsule);
        items::encode(DATA, &capsule, &mut frame);
        frame
    }

    fn decode(value: &[u8]) -> Result<Self, Error> {
        let malformed = Error::new(ErrorCode::Message, "a close that cannot be read");
        let (code, reason) = value.split_first_chunk::<CODE_BYTES>().ok_or(malformed)?;
        let reason = str::from_utf8(reason).map_err(|_not_text| malformed)?;
        Ok(Self { code: u32::from_be_bytes(*code), reason: reason.to_owned() })
    }
}

/// Reads what came of capsules; `Some` once the client has closed the session. All others are passed over: those that
/// limit flows were not agreed to, and that the client drains is heard from its frames.
pub(crate) fn read(capsules: &mut Items, mut input: &[u8]) -> Result<Option<Close>, Error> {
    let treat = |kind: u64, len: u64| match kind {
        CLOSE if len > (CODE_BYTES + CLOSE_REASON_BYTES_MAX) as u64 => {
            Err(Error::new(ErrorCode::Message, "the reason of a close is too long"))
        }
        CLOSE => Ok(Treat::Keep),
        _ => Ok(Treat::Skip),
    };
    match capsules.next(&mut input, treat)? {
        Some(Part::Whole(_, value)) => Close::decode(&value).map(Some),
        Some(Part::Bytes(_)) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(frame: &[u8]) -> Result<Option<Close>, Error> {
        let mut capsules = Items::default();
        for byte in frame {
            if let Some(close) = read(&mut capsules, std::slice::from_ref(byte))? {
                return Ok(Some(close));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_close_comes_back_however_long_its_reason() {
        let check = |code: u32, reason: &str, expect: &str| {
            let frame = Close::encoded(code, reason);
            // A frame's kind of one byte, its length of one or two.
            let capsule = &frame[if frame[1] < 0x40 { 2 } else { 3 }..];
            assert_eq!(read_all(capsule), Ok(Some(Close { code, reason: expect.to_owned() })));
        };
        check(0, "", "");
        check(4401, "the token has expired", "the token has expired");
        check(u32::MAX, &"ä".repeat(600), &"ä".repeat(512));
        check(1, &format!("x{}", "ä".repeat(600)), &format!("x{}", "ä".repeat(511)));
    }

    #[test]
    fn other_capsules_are_passed_over() {
        let mut stream = Vec::new();
        items::encode(0x78ae, b"", &mut stream);
        items::encode(0x190b_4d3d, &[0x40, 0xff], &mut stream);
        items::encode(0x17, &[7; 5000], &mut stream);
        assert_eq!(read_all(&stream), Ok(None));
        items::encode(CLOSE, b"\0\0\0\x07bye", &mut stream);
        assert_eq!(read_all(&stream), Ok(Some(Close { code: 7, reason: "bye".to_owned() })));
    }

    #[test]
    fn a_close_that_is_none_is_refused() {
        let check = |value: &[u8]| {
            let mut stream = Vec::new();
            items::encode(CLOSE, value, &mut stream);
            assert_eq!(read_all(&stream).unwrap_err().code, ErrorCode::Message);
        };
        check(b"");
        check(b"\0\0\0");
        check(b"\0\0\0\0\xff");
        check(&[b'x'; CODE_BYTES + CLOSE_REASON_BYTES_MAX + 1]);
    }
}
