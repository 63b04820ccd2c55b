//! Close codes, and what a close frame carries (RFC 6455 §5.5.1, §7.4).

use super::WsError;

/// The purpose of the connection is fulfilled.
pub const NORMAL: u16 = 1000;
/// The endpoint goes away, such as a server that stops.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// The peer sent a kind of data that is not accepted here, such as text where only binary is.
pub const UNSUPPORTED_DATA: u16 = 1003;
/// Never sent: stands for a close frame without a code.
pub const NO_STATUS: u16 = 1005;
/// Never sent: stands for a connection that ended without a close frame.
pub const ABNORMAL: u16 = 1006;
/// Data that is not what its type says, such as text that is not UTF-8.
pub const INVALID_PAYLOAD: u16 = 1007;
/// The message is against a rule that no other code names.
pub const POLICY: u16 = 1008;
/// The message is too big.
pub const MESSAGE_TOO_BIG: u16 = 1009;
/// The server met a condition that it did not expect.
pub const INTERNAL: u16 = 1011;

/// Longest reason in a close frame, in bytes: a control frame's 125 less the code's 2.
pub const REASON_BYTES_MAX: usize = 123;

/// Whether an endpoint may put `code` in a close frame: 1000 to 1003 and 1007 to 1014 as registered with IANA, 3000 to
/// 3999 for libraries, 4000 to 4999 for applications. 1004, 1005, 1006 and 1015 stand for other things and are never sent.
///
/// Source: RFC 6455 §7.4.1 and §7.4.2, IANA WebSocket Close Code Number Registry.
pub const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the payload of a close frame: nothing, or a code (2 bytes, big-endian) and a reason.
///
/// # Errors
/// - [`WsError::CloseTooShort`] if the payload is one byte.
/// - [`WsError::CloseCode`] if the code must not be sent.
/// - [`WsError::InvalidUtf8`] if the reason is not UTF-8.
///
/// Source: RFC 6455 §5.5.1.
pub fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), WsError> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(WsError::CloseTooShort),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_sendable(code) {
                return Err(WsError::CloseCode { code });
            }
            match simdutf8::basic::from_utf8(reason) {
                Ok(reason) => Ok((Some(code), reason)),
                Err(simdutf8::basic::Utf8Error { .. }) => Err(WsError::InvalidUtf8),
            }
        }
    }
}

/// The longest part of `reason` that fits a close frame and ends with a whole character.
pub fn fitting_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_codes_may_be_sent() {
        let check = |codes: &[u16], expect: bool| {
            for &code in codes {
                assert_eq!(is_sendable(code), expect, "{code}");
            }
        };
        check(&[1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014], true);
        check(&[3000, 3999, 4000, 4203, 4999], true);
        check(&[0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535], false);
    }

    #[test]
    fn payloads_are_parsed() {
        let check = |payload: &[u8], expect| assert_eq!(parse(payload), expect, "{payload:?}");
        check(b"", Ok((None, "")));
        check(b"\x03", Err(WsError::CloseTooShort));
        check(b"\x03\xe8", Ok((Some(1000), "")));
        check(b"\x03\xe8bye \xe2\x9c\x93", Ok((Some(1000), "bye ✓")));
        check(b"\x03\xed", Err(WsError::CloseCode { code: 1005 }));
        check(b"\x03\xe8\xff", Err(WsError::InvalidUtf8));
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        assert_eq!(fitting_reason("short"), "short");
        assert_eq!(fitting_reason(&"x".repeat(124)), "x".repeat(123));
        assert_eq!(fitting_reason(&"é".repeat(70)), "é".repeat(61));
    }
}
