//! What carries a client's frames: a dimension of every run.

use clap::ValueEnum;
use millrace_protocol::client::SUBPROTOCOL;
use serde::Deserialize;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket in the clear.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// QUIC.
    Quic,
    /// WebTransport over HTTP/3.
    WebTransport,
}

impl Transport {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Ws, Self::Wss, Self::Quic, Self::WebTransport];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
            Self::WebTransport => "webtransport",
        }
    }

    /// Of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::WebTransport => "https",
            other => other.name(),
        }
    }

    /// What it negotiates by ALPN.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Ws | Self::Wss => "http/1.1",
            Self::Quic => SUBPROTOCOL,
            Self::WebTransport => "h3",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
