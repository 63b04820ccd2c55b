//! Whole frames into a buffer. A frame that many connections share is [`Header::encode`] and the payload, side by side.

use super::{Header, MaskKey, Opcode, close, mask};

/// Appends one unfragmented frame to `out`: header and payload, masked if there is a key.
///
/// A server passes no key. A client passes four fresh bytes from a strong source for every frame (RFC 6455 §5.3).
/// The payload of a control frame is at most 125 bytes; text is UTF-8.
///
/// # Panics
/// In debug builds, if a control frame's payload is longer than 125 bytes.
pub fn frame(opcode: Opcode, payload: &[u8], mask_key: Option<MaskKey>, out: &mut Vec<u8>) {
    debug_assert!(!opcode.is_control() || payload.len() <= super::header::CONTROL_BYTES_MAX, "control frame too long");
    let header = Header::whole(opcode, payload.len(), mask_key).encode();
    out.reserve(header.len() + payload.len());
    out.extend_from_slice(&header);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask_key {
        mask(&mut out[start..], key, 0);
    }
}

/// Appends a close frame to `out`. Without a code it has no payload and `reason` is not sent; a reason that does not fit
/// is cut at a character.
///
/// # Panics
/// In debug builds, if `code` must not be sent ([`close::is_sendable`]).
///
/// Source: RFC 6455 §5.5.1.
pub fn close(code: Option<u16>, reason: &str, mask_key: Option<MaskKey>, out: &mut Vec<u8>) {
    let mut payload = [0; 2 + close::REASON_BYTES_MAX];
    let len = match code {
        None => 0,
        Some(code) => {
            debug_assert!(close::is_sendable(code), "close code {code} must not be sent");
            let reason = close::fitting_reason(reason).as_bytes();
            payload[..2].copy_from_slice(&code.to_be_bytes());
            payload[2..2 + reason.len()].copy_from_slice(reason);
            2 + reason.len()
        }
    };
    frame(Opcode::Close, &payload[..len], mask_key, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6455 §5.7.
    #[test]
    fn frames_are_encoded() {
        let check = |opcode, payload: &[u8], key, expect: &[u8]| {
            let mut out = vec![];
            frame(opcode, payload, key, &mut out);
            assert!(out.starts_with(expect), "{out:x?}");
            assert_eq!(
                out.len(),
                expect.len().max(Header::whole(opcode, payload.len(), key).encode().len() + payload.len())
            );
        };
        let key = Some([0x37, 0xfa, 0x21, 0x3d]);
        check(Opcode::Text, b"Hello", None, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        check(Opcode::Text, b"Hello", key, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        check(Opcode::Ping, b"Hello", None, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        check(Opcode::Pong, b"Hello", key, &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        check(Opcode::Binary, &[7; 256], None, &[0x82, 0x7e, 0x01, 0x00, 7]);
        check(Opcode::Binary, &[7; 65_536], None, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0, 7]);
    }

    #[test]
    fn close_frames_are_encoded() {
        let check = |code, reason: &str, expect: &[u8]| {
            let mut out = vec![];
            close(code, reason, None, &mut out);
            assert_eq!(out, expect);
        };
        check(None, "ignored", &[0x88, 0]);
        check(Some(1000), "", &[0x88, 2, 0x03, 0xe8]);
        check(Some(4201), "slow", &[0x88, 6, 0x10, 0x69, b's', b'l', b'o', b'w']);
        let mut out = vec![];
        close(Some(1002), &"x".repeat(500), None, &mut out);
        assert_eq!(out.len(), 2 + 125);
    }
}
