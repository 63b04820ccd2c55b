//! Settings of both sides. A client says what it needs to know of us; of what it says itself nothing is needed but that it is sound.
//!
//! Source: RFC 9114 §7.2.4, RFC 9220 §5, RFC 9297 §2.1.1, and the drafts of WebTransport.

use crate::error::{Error, ErrorCode};
use crate::request::FIELDS_BYTES_MAX;
use crate::{items, varint};

/// SETTINGS.
pub(crate) const SETTINGS: u64 = 0x4;
/// Longest settings of a client.
pub(crate) const SETTINGS_BYTES_MAX: u64 = 4096;

const H3_DATAGRAM: u64 = 0x33;
const CONNECT_PROTOCOL: u64 = 0x8;

/// What we say. Every draft of WebTransport has a number of its own for "I serve it", and browsers of the same year know different ones:
/// all are said. A number of sessions that is not 1 would mean flow control within the session, which one session does not need.
pub const OFFERED: [(u64, u64); 9] = [
    // Extended CONNECT, datagrams (RFC 9297, and the draft that came before it), the longest fields.
    (CONNECT_PROTOCOL, 1),
    (H3_DATAGRAM, 1),
    (0xff_d277, 1),
    (0x6, FIELDS_BYTES_MAX as u64),
    // Draft 2, which Chromium speaks: served, and how many sessions.
    (0x2b60_3742, 1),
    (0x2b60_3743, 1),
    // Drafts 7 to 12; 13 and 14, which Safari speaks; 15.
    (0xc671_706a, 1),
    (0x14e9_cd29, 1),
    (0x2c7c_f000, 1),
];

/// What our control stream begins with: its kind, and the settings.
pub(crate) fn control_stream() -> Vec<u8> {
    let mut settings = Vec::new();
    for (setting, value) in OFFERED {
        varint::encode(setting, &mut settings);
        varint::encode(value, &mut settings);
    }
    let mut stream = Vec::new();
    varint::encode(crate::connection::CONTROL, &mut stream);
    items::encode(SETTINGS, &settings, &mut stream);
    stream
}

/// Checks a client's settings.
pub(crate) fn check(mut settings: &[u8]) -> Result<(), Error> {
    let wrong = |reason| Err(Error::new(ErrorCode::Settings, reason));
    let mut seen = Vec::new();
    while !settings.is_empty() {
        let pair = varint::decode(settings)
            .and_then(|(setting, a)| varint::decode(&settings[a..]).map(|(value, b)| (setting, value, a + b)));
        let Some((setting, value, len)) = pair else {
            return Err(Error::new(ErrorCode::Frame, "settings are cut off"));
        };
        settings = &settings[len..];
        match setting {
            // RFC 9114 §11.2.2.
            0x0 | 0x2..=0x5 => return wrong("a setting of HTTP/2"),
            H3_DATAGRAM | CONNECT_PROTOCOL if value > 1 => return wrong("a setting is 0 or 1"),
            _ => {}
        }
        seen.push(setting);
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) { wrong("a setting comes twice") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(settings: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(setting, value) in settings {
            varint::encode(setting, &mut bytes);
            varint::encode(value, &mut bytes);
        }
        bytes
    }

    #[test]
    fn settings_of_browsers_are_sound_and_others_are_told_why_not() {
        let check_of = |settings: &[(u64, u64)], expect: Option<ErrorCode>| {
            assert_eq!(check(&encoded(settings)).err().map(|error| error.code), expect, "{settings:x?}");
        };
        // Chromium's, with its grease.
        let chromium = [(0x1, 65536), (0x6, 16384), (0x7, 100), (0x33, 1), (0x2b60_3742, 1), (0x1_08fa_0c51, 454)];
        check_of(&chromium, None);
        check_of(&OFFERED, None);
        check_of(&[], None);
        check_of(&[(0x33, 2)], Some(ErrorCode::Settings));
        for reserved in [0x0, 0x2, 0x3, 0x4, 0x5] {
            check_of(&[(0x1, 0), (reserved, 0)], Some(ErrorCode::Settings));
        }
        check_of(&[(0x1, 0), (0x21, 0), (0x1, 0)], Some(ErrorCode::Settings));
        assert_eq!(check(&[0x33]).unwrap_err().code, ErrorCode::Frame);
    }

    #[test]
    fn ours_stand_in_one_frame_behind_the_streams_kind() {
        let stream = control_stream();
        assert_eq!(stream[..2], [0, 4]);
        let (len, at) = varint::decode(&stream[2..]).unwrap();
        assert_eq!(usize::try_from(len).unwrap(), stream.len() - 2 - at);
        assert_eq!(check(&stream[2 + at..]), Ok(()));
    }
}
