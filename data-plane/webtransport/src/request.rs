//! Who is let in: a request's fields, judged, and how a refusal is put.

use std::fmt::Write as _;

use crate::error::Error;
use crate::items;
use crate::qpack::{self, Name};

/// Longest section of fields of a request, as it comes. WebSocket's limit for a head.
pub const FIELDS_BYTES_MAX: u32 = 8 * 1024;

/// Kinds of frames.
pub(crate) const DATA: u64 = 0x0;
pub(crate) const HEADERS: u64 = 0x1;

/// Places in the static table.
const CONTENT_LENGTH: usize = 4;
const STATUS: usize = 24;
const STATUS_200: usize = 25;
const TEXT_PLAIN: usize = 53;

/// Why a request opens no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 400: no request, or one for something that is not `https`.
    Malformed,
    /// 404: nothing is served at its path.
    Path,
    /// 405: the path is right, and it asks for a document.
    Method,
    /// 429: the connection has its session.
    Second,
    /// 431: more fields than [`FIELDS_BYTES_MAX`].
    TooLarge,
    /// 501: a CONNECT for something else.
    Protocol,
}

impl Refusal {
    /// The status and its text.
    fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "this is no request for https\n"),
            Self::Path => (404, "nothing is served here\n"),
            Self::Method => (405, "open a WebTransport session here, or a WebSocket over TCP\n"),
            Self::Second => (429, "a connection has one session\n"),
            Self::TooLarge => (431, "too many or too long fields\n"),
            Self::Protocol => (501, "this connects to nothing but WebTransport\n"),
        }
    }

    /// The whole answer, as frames.
    pub(crate) fn encoded(self) -> Vec<u8> {
        let (status, text) = self.answer();
        let mut fields = Vec::new();
        qpack::begin(&mut fields);
        let mut number = String::new();
        // Writing to a string does not fail.
        let _ = write!(number, "{status}");
        qpack::named(STATUS, &number, &mut fields);
        qpack::indexed(TEXT_PLAIN, &mut fields);
        qpack::named(CONTENT_LENGTH, &text.len().to_string(), &mut fields);
        if self == Self::Method {
            qpack::literal("allow", "CONNECT", &mut fields);
        }
        let mut answer = Vec::new();
        items::encode(HEADERS, &fields, &mut answer);
        items::encode(DATA, text.as_bytes(), &mut answer);
        answer
    }
}

/// The answer that opens a session, as a frame.
pub(crate) fn welcome() -> Vec<u8> {
    let mut fields = Vec::new();
    qpack::begin(&mut fields);
    qpack::indexed(STATUS_200, &mut fields);
    // Clients of draft 2 ask for it.
    qpack::literal("sec-webtransport-http3-draft", "draft02", &mut fields);
    let mut answer = Vec::new();
    items::encode(HEADERS, &fields, &mut answer);
    answer
}

/// What a field that must come once has said.
#[derive(Default)]
enum Once {
    #[default]
    Missing,
    Said(Vec<u8>),
}

impl Once {
    fn said(&self) -> Option<&[u8]> {
        match self {
            Self::Missing => None,
            Self::Said(value) => Some(value),
        }
    }
}

/// Judges a request's fields: `Ok(None)` opens a session at `path`. Neither origin nor authority is looked at: who may do what is said by
/// the token in the session's first frame, and a browser sends nothing else that would count.
///
/// # Errors
/// If the fields cannot be read, which ends the connection.
pub(crate) fn judge(section: &[u8], path: &str) -> Result<Option<Refusal>, Error> {
    let (mut method, mut scheme, mut authority, mut target, mut protocol) =
        (Once::default(), Once::default(), Once::default(), Once::default(), Once::default());
    let (mut malformed, mut others) = (false, false);
    qpack::decode(section, |name, value| {
        let once = match name {
            Name::Method => &mut method,
            Name::Scheme => &mut scheme,
            Name::Authority => &mut authority,
            Name::Path => &mut target,
            Name::Protocol => &mut protocol,
            Name::Wrong => return malformed = true,
            Name::Other => return others = true,
        };
        // RFC 9114 §4.3: once each, and before all others.
        malformed |= others || once.said().is_some();
        *once = Once::Said(value.to_vec());
    })?;
    let is_connect = method.said() == Some(b"CONNECT");
    Ok(match (method.said(), protocol.said()) {
        _ if malformed => Some(Refusal::Malformed),
        (None, _) => Some(Refusal::Malformed),
        (Some(_), Some(_)) if !is_connect => Some(Refusal::Malformed),
        (Some(_), None) if is_connect => Some(Refusal::Protocol),
        _ => match (scheme.said(), authority.said(), target.said()) {
            (Some(b"https"), Some(authority), Some(target)) if !authority.is_empty() => {
                let at = target.split(|&byte| byte == b'?').next();
                match protocol.said() {
                    _ if at != Some(path.as_bytes()) => Some(Refusal::Path),
                    None => Some(Refusal::Method),
                    // The second name is that of later drafts.
                    Some(b"webtransport" | b"webtransport-h3") => None,
                    Some(_) => Some(Refusal::Protocol),
                }
            }
            _ => Some(Refusal::Malformed),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::{Items, Part, Treat};

    fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut section = Vec::new();
        qpack::begin(&mut section);
        for (name, value) in fields {
            qpack::literal(name, value, &mut section);
        }
        section
    }

    #[test]
    fn requests_are_judged_as_a_websocket_would_be() {
        const CONNECT: [(&str, &str); 5] = [
            (":method", "CONNECT"),
            (":scheme", "https"),
            (":authority", "localhost:7443"),
            (":path", "/v1/connect"),
            (":protocol", "webtransport"),
        ];
        let check = |change: &[(&str, Option<&str>)], expect: Option<Refusal>| {
            let mut fields = CONNECT.to_vec();
            for (name, value) in change {
                let at = fields.iter().position(|(other, _)| other == name);
                match (at, value) {
                    (Some(at), Some(value)) => fields[at].1 = value,
                    (Some(at), None) => drop(fields.remove(at)),
                    (None, value) => fields.push((name, value.unwrap())),
                }
            }
            assert_eq!(judge(&section(&fields), "/v1/connect"), Ok(expect), "{fields:?}");
        };
        check(&[], None);
        check(&[("origin", Some("https://elsewhere.example"))], None);
        check(&[(":path", Some("/v1/connect?room=1"))], None);
        check(&[(":protocol", Some("webtransport-h3"))], None);
        check(&[(":path", Some("/"))], Some(Refusal::Path));
        check(&[(":path", Some("/v1/connect/"))], Some(Refusal::Path));
        check(&[(":method", Some("GET")), (":protocol", None)], Some(Refusal::Method));
        check(&[(":method", Some("GET")), (":protocol", None), (":path", Some("/x"))], Some(Refusal::Path));
        check(&[(":method", Some("GET"))], Some(Refusal::Malformed));
        check(&[(":protocol", None)], Some(Refusal::Protocol));
        check(&[(":protocol", Some("websocket"))], Some(Refusal::Protocol));
        check(&[(":scheme", Some("http"))], Some(Refusal::Malformed));
        check(&[(":scheme", None)], Some(Refusal::Malformed));
        check(&[(":authority", None)], Some(Refusal::Malformed));
        check(&[(":path", None)], Some(Refusal::Malformed));
        check(&[(":method", None)], Some(Refusal::Malformed));
        check(&[(":colour", Some("red"))], Some(Refusal::Malformed));
        check(&[("Origin", Some("x"))], Some(Refusal::Malformed));
        // Twice, and behind a field that is none of those.
        let mut twice = CONNECT.to_vec();
        twice.push((":path", "/v1/connect"));
        assert_eq!(judge(&section(&twice), "/v1/connect"), Ok(Some(Refusal::Malformed)));
        let mut behind = vec![("accept", "*/*")];
        behind.extend(CONNECT);
        assert_eq!(judge(&section(&behind), "/v1/connect"), Ok(Some(Refusal::Malformed)));
    }

    #[test]
    fn a_refusal_is_an_answer_with_text() {
        for refusal in [Refusal::Malformed, Refusal::Path, Refusal::Method, Refusal::Second, Refusal::TooLarge] {
            let (status, text) = refusal.answer();
            let answer = refusal.encoded();
            let (mut input, mut items, mut parts) = (&answer[..], Items::default(), Vec::new());
            while let Some(part) = items.next(&mut input, |_, _| Ok::<_, Error>(Treat::Keep)).unwrap() {
                parts.push(part);
            }
            let [Part::Whole(HEADERS, fields), Part::Whole(DATA, body)] = &parts[..] else { panic!("{parts:?}") };
            assert_eq!(body, text.as_bytes());
            let mut expect = Vec::new();
            qpack::named(STATUS, &status.to_string(), &mut expect);
            assert!(fields[2..].starts_with(&expect));
        }
    }
}
