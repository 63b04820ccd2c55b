//! Where a client connects: URLs as people write them.

use std::fmt;
use std::sync::Arc;

/// Where a node takes WebSocket connections.
const PATH: &str = "/v1/connect";

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It has no scheme.
    #[error("{url:?} has no scheme; write wss://host, quic://host or ws://host:port")]
    NoScheme {
        /// What was given.
        url: String,
    },
    /// Any other scheme than `wss`, `quic` and `ws`.
    #[error("{scheme:?} is no scheme for a connection; use wss://, quic:// or ws://")]
    UnknownScheme {
        /// The scheme.
        scheme: String,
    },
    /// No host, or one with characters that a host cannot have.
    #[error("{host:?} is no host")]
    Host {
        /// What stands in its place.
        host: String,
    },
    /// The port is no number from 1 to 65535.
    #[error("{port:?} is no port")]
    Port {
        /// What stands in its place.
        port: String,
    },
    /// Credentials in a URL; a token belongs into the builder.
    #[error("a URL must not carry credentials; use a token")]
    Credentials,
    /// A `quic` URL with a path or a query; there is nothing that could be asked for.
    #[error("a quic:// URL has no path, and this one has {target:?}")]
    Path {
        /// What was given.
        target: String,
    },
    /// A path or query with characters that a request cannot have.
    #[error("{target:?} is no path")]
    Target {
        /// What stands in its place.
        target: String,
    },
}

/// What is spoken with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// WebSocket in the clear.
    Ws,
    /// WebSocket on TLS.
    Wss,
    Quic,
}

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As it was written.
    pub(crate) url: Arc<str>,
    pub(crate) scheme: Scheme,
    /// A name in lower case or an address, IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as the `Host` field names them.
    pub(crate) authority: String,
    /// Path and query of a WebSocket URL.
    pub(crate) target: String,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            "quic" => Some(Self::Quic),
            _ => None,
        }
    }

    /// As URLs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// Of URLs that name none.
    fn port(self) -> u16 {
        match self {
            Self::Ws => 80,
            Self::Wss | Self::Quic => 443,
        }
    }

    /// Whether nobody on the way can read a token.
    pub(crate) fn is_secure(self) -> bool {
        self != Self::Ws
    }
}

impl std::str::FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(UrlError::NoScheme { url: url.into() });
        };
        let scheme = Scheme::of(scheme).ok_or_else(|| UrlError::UnknownScheme { scheme: scheme.into() })?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlError::Host { host: authority.into() })?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_address = authority.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = !authority.starts_with('[')
            && !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !is_address && !is_name {
            return Err(UrlError::Host { host: host.into() });
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => scheme.port(),
            port => {
                let port = port.unwrap_or_default();
                let number = port.parse().ok().filter(|&number| number != 0 && !port.starts_with('+'));
                number.ok_or_else(|| UrlError::Port { port: port.into() })?
            }
        };
        let target = match target {
            "" | "/" => PATH.into(),
            _ if !target.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(UrlError::Target { target: target.into() });
            }
            _ if scheme == Scheme::Quic => return Err(UrlError::Path { target: target.into() }),
            _ if target.starts_with('/') => target.into(),
            query => format!("{PATH}{query}"),
        };
        let host = host.to_ascii_lowercase();
        Ok(Self { url: url.into(), scheme, host, port, authority: authority.into(), target })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let check = |url: &str, scheme: Scheme, host: &str, port: u16, target: &str| {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!(
                (endpoint.scheme, endpoint.host.as_str(), endpoint.port, endpoint.target.as_str()),
                (scheme, host, port, target),
                "{url}"
            );
        };
        check("ws://127.0.0.1:7400", Scheme::Ws, "127.0.0.1", 7400, "/v1/connect");
        check("WS://Chat.example", Scheme::Ws, "chat.example", 80, "/v1/connect");
        check("ws://localhost:1/a/b?c=d#e", Scheme::Ws, "localhost", 1, "/a/b?c=d");
        check("ws://[::1]:7400/", Scheme::Ws, "::1", 7400, "/v1/connect");
        check("ws://host?x", Scheme::Ws, "host", 80, "/v1/connect?x");
        check("wss://host", Scheme::Wss, "host", 443, "/v1/connect");
        check("quic://host/", Scheme::Quic, "host", 443, "/v1/connect");
        check("quic://[::1]:7443", Scheme::Quic, "::1", 7443, "/v1/connect");
    }

    #[test]
    fn what_cannot_be_a_url_is_refused() {
        let check = |url: &str, text: &str| {
            assert_eq!(url.parse::<Endpoint>().map_err(|error| error.to_string()), Err(text.into()), "{url}");
        };
        check("127.0.0.1:7400", "\"127.0.0.1:7400\" has no scheme; write wss://host, quic://host or ws://host:port");
        check("https://host", "\"https\" is no scheme for a connection; use wss://, quic:// or ws://");
        check("ws://", "\"\" is no host");
        check("ws://[::1", "\"[::1\" is no host");
        check("ws://[host]:1", "\"host\" is no host");
        check("ws://ho st", "\"ho st\" is no host");
        check("ws://host:0", "\"0\" is no port");
        check("ws://host:99999", "\"99999\" is no port");
        check("ws://host:+1", "\"+1\" is no port");
        check("ws://[::1]x", "\"\" is no port");
        check("ws://user:password@host", "a URL must not carry credentials; use a token");
        check("ws://host/a b", "\"/a b\" is no path");
        check("quic://host/a", "a quic:// URL has no path, and this one has \"/a\"");
    }
}
