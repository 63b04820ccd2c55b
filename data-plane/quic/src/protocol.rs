//! What a connection speaks, as its client chose it in the handshake (ALPN).

use millrace_protocol::client::SUBPROTOCOL;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Frames of Millrace on its streams.
    Millrace,
}

impl Protocol {
    /// Names of what is offered, most wanted first.
    pub const OFFERED: &'static [&'static [u8]] = &[SUBPROTOCOL.as_bytes()];

    /// By the name that was chosen.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        (name == SUBPROTOCOL.as_bytes()).then_some(Self::Millrace)
    }
}
