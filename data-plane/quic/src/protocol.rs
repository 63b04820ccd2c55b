//! What a connection speaks, as its client chose it in the handshake (ALPN).

use millrace_protocol::client::SUBPROTOCOL;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Frames of Millrace on its streams.
    Millrace,
    /// HTTP/3, for the sake of WebTransport.
    Http3,
}

const HTTP3: &[u8] = b"h3";

impl Protocol {
    /// Names of what is offered, most wanted first.
    pub const OFFERED: &'static [&'static [u8]] = &[SUBPROTOCOL.as_bytes(), HTTP3];

    /// By the name that was chosen.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        match name {
            HTTP3 => Some(Self::Http3),
            name if name == SUBPROTOCOL.as_bytes() => Some(Self::Millrace),
            _ => None,
        }
    }
}
