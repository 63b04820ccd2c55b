//! What the handshake says of compression (RFC 7692 §5 and §7.1): the `Sec-WebSocket-Extensions` of both sides.

use super::Window;

/// The name of the extension.
const NAME: &str = "permessage-deflate";
/// What a client of ours asks for: that neither side takes over context.
pub(crate) const CLIENT_OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What a server agrees to. Neither side takes over context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// What the server keeps to when it compresses.
    pub window: Window,
    /// The client asked for a bound, so the answer must say ours.
    told: bool,
}

/// The parameters of one offer or answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// The inner one is `None` where an offer only says that the client understands it.
    client_max_window_bits: Option<Option<u8>>,
}

impl Agreement {
    /// The first offer of a client that a server can keep to, of the elements of its `Sec-WebSocket-Extensions`, in order.
    /// An offer with a parameter that is unknown, repeated or has a wrong value is declined, as is one of another extension.
    ///
    /// Source: RFC 7692 §5.1 and §7.1.
    pub fn first_of<'a>(offers: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        offers.into_iter().find_map(|offer| {
            let Parameters { server_max_window_bits: asked, .. } = parse(offer)?;
            let window = asked.map_or(Some(Window::Large), Window::within)?;
            Some(Self { window, told: asked.is_some() })
        })
    }

    /// The server's answer: the value of its `Sec-WebSocket-Extensions`. A client that may compress with any window needs
    /// none of ours for longer than a message, so its window is left to it.
    ///
    /// Source: RFC 7692 §7.1.1 and §7.1.2.
    pub fn answer(&self) -> String {
        let mut answer = CLIENT_OFFER.to_owned();
        if self.told {
            answer.push_str(&format!("; server_max_window_bits={}", self.window.bits()));
        }
        answer
    }
}

/// Whether an answer to [`CLIENT_OFFER`] is one that a client of ours can go on with: the server takes over no context, and
/// asks for nothing that was not offered.
///
/// Source: RFC 7692 §5.1 and §7.1.
pub(crate) fn is_agreed(answer: &[u8]) -> bool {
    parse(answer).is_some_and(|answer| answer.server_no_context_takeover && answer.client_max_window_bits.is_none())
}

/// The parameters of one element, if it is this extension and well formed.
fn parse(element: &[u8]) -> Option<Parameters> {
    let element = std::str::from_utf8(element).ok()?;
    let mut pieces = element.split(';').map(str::trim);
    if pieces.next() != Some(NAME) {
        return None;
    }
    let mut found = Parameters::default();
    for piece in pieces {
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (piece, None),
        };
        match (name, value) {
            ("server_no_context_takeover", None) if !found.server_no_context_takeover => {
                found.server_no_context_takeover = true;
            }
            ("client_no_context_takeover", None) if !found.client_no_context_takeover => {
                found.client_no_context_takeover = true;
            }
            ("server_max_window_bits", Some(value)) if found.server_max_window_bits.is_none() => {
                found.server_max_window_bits = Some(window_bits(value)?);
            }
            ("client_max_window_bits", None) if found.client_max_window_bits.is_none() => {
                found.client_max_window_bits = Some(None);
            }
            ("client_max_window_bits", Some(value)) if found.client_max_window_bits.is_none() => {
                found.client_max_window_bits = Some(Some(window_bits(value)?));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// A value may stand in quotes; within them it is the same token (RFC 6455 §9.1).
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
        None => Some(value),
    }
}

/// 8 to 15, without a zero in front.
fn window_bits(value: &str) -> Option<u8> {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15").then(|| value.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_offer_that_can_be_kept_is_taken() {
        let check = |offers: &str, expect: Option<&str>| {
            let agreed = Agreement::first_of(offers.split(',').map(|offer| offer.trim().as_bytes()));
            let expect = expect.map(|more| format!("{CLIENT_OFFER}{more}"));
            assert_eq!(agreed.map(|agreed| agreed.answer()), expect, "{offers}");
        };
        check("permessage-deflate", Some(""));
        check("permessage-deflate; client_max_window_bits", Some(""));
        check("permessage-deflate; client_max_window_bits=8", Some(""));
        check("permessage-deflate;server_no_context_takeover;client_no_context_takeover", Some(""));
        check("permessage-deflate; server_max_window_bits=15", Some("; server_max_window_bits=15"));
        check(
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            Some("; server_max_window_bits=12"),
        );
        check("permessage-deflate; server_max_window_bits=\"14\"", Some("; server_max_window_bits=12"));
        check("permessage-deflate; server_max_window_bits = 10", Some("; server_max_window_bits=9"));
        check("x-other, permessage-deflate", Some(""));
        // The compressor cannot keep to 256 bytes; the client falls back to what it offered next.
        check("permessage-deflate; server_max_window_bits=8", None);
        check("permessage-deflate; server_max_window_bits=8, permessage-deflate", Some(""));
        check("permessage-deflate; server_max_window_bits=12, permessage-deflate", Some("; server_max_window_bits=12"));
        for wrong in [
            "",
            "permessage-deflat",
            "Permessage-Deflate",
            "permessage-deflate;",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=\"9",
            "permessage-deflate; client_max_window_bits=\"\\9\"",
            "permessage-deflate server_no_context_takeover",
        ] {
            check(wrong, None);
        }
        assert_eq!(Agreement::first_of([&b"permessage-deflate; \xff"[..]]), None);
    }

    #[test]
    fn an_answer_must_fit_the_offer() {
        let check = |answer: &str, expect: bool| assert_eq!(is_agreed(answer.as_bytes()), expect, "{answer}");
        check(CLIENT_OFFER, true);
        check("permessage-deflate; server_no_context_takeover", true);
        check("permessage-deflate; server_no_context_takeover; server_max_window_bits=10", true);
        check("permessage-deflate", false);
        check("permessage-deflate; client_no_context_takeover", false);
        check("permessage-deflate; server_no_context_takeover; client_max_window_bits=10", false);
        check("permessage-deflate; server_no_context_takeover; client_max_window_bits", false);
        check("permessage-deflate; server_no_context_takeover; more", false);
        check("x-other; server_no_context_takeover", false);
    }
}
