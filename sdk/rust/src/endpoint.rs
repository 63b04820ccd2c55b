//! Where a client connects: URLs as people write them, and which of several is next.

use std::fmt;
use std::sync::Arc;

/// Port of `ws` URLs that name none.
const WS_PORT: u16 = 80;
/// Where a node takes connections.
const PATH: &str = "/v1/connect";

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It has no scheme.
    #[error("{url:?} has no scheme; write ws://host:port")]
    NoScheme {
        /// What was given.
        url: String,
    },
    /// A scheme of this platform that this version of the SDK does not speak.
    #[error("{scheme}:// is not supported by this version; use ws://")]
    Unsupported {
        /// The scheme.
        scheme: String,
    },
    /// Any other scheme.
    #[error("{scheme:?} is no scheme for a connection; use ws://")]
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
    /// A path or query with characters that a request cannot have.
    #[error("{target:?} is no path")]
    Target {
        /// What stands in its place.
        target: String,
    },
}

/// A parsed `ws` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A name or address, IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as the `Host` field names them.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
}

impl std::str::FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(UrlError::NoScheme { url: url.into() });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "ws" => {}
            scheme @ ("wss" | "quic" | "https") => return Err(UrlError::Unsupported { scheme: scheme.into() }),
            _ => return Err(UrlError::UnknownScheme { scheme: scheme.into() }),
        }
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
            None if port.is_empty() => WS_PORT,
            port => {
                let port = port.unwrap_or_default();
                let number = port.parse().ok().filter(|&number| number != 0 && !port.starts_with('+'));
                number.ok_or_else(|| UrlError::Port { port: port.into() })?
            }
        };
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Target { target: target.into() });
        }
        let target = match target {
            "" | "/" => PATH.into(),
            _ if target.starts_with('/') => target.into(),
            query => format!("{PATH}{query}"),
        };
        Ok(Self { host: host.into(), port, authority: authority.into(), target })
    }
}

/// The URLs of a deployment, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Endpoints {
    configured: Vec<Arc<str>>,
    /// From a node that goes away; tried once each, before the others.
    advised: Vec<Arc<str>>,
    /// The last that worked.
    preferred: Option<Arc<str>>,
    last: Option<Arc<str>>,
    next: usize,
}

impl Endpoints {
    /// At least one URL.
    pub(crate) fn new(configured: Vec<Arc<str>>) -> Self {
        assert!(!configured.is_empty(), "a client has at least one endpoint");
        Self { configured, advised: Vec::new(), preferred: None, last: None, next: 0 }
    }

    /// The one to try now; each call names the next.
    pub(crate) fn next(&mut self) -> Arc<str> {
        let endpoint = self.advised.pop().or_else(|| self.preferred.take()).unwrap_or_else(|| {
            let index = self.next % self.configured.len();
            self.next = index + 1;
            self.configured[index].clone()
        });
        self.last = Some(endpoint.clone());
        endpoint
    }

    /// The one named last has worked: it is tried first again.
    pub(crate) fn worked(&mut self) {
        self.advised.clear();
        self.preferred = self.last.clone();
    }

    /// Takes a node's word on where to go, beginning at a place that spreads its clients. A bare `host:port` is of
    /// the same scheme; what cannot be used is left out.
    pub(crate) fn advise(&mut self, endpoints: &[&str], spread: u64) {
        let url = |endpoint: &&str| {
            let url = if endpoint.contains("://") { (*endpoint).to_owned() } else { format!("ws://{endpoint}") };
            url.parse::<Endpoint>().is_ok().then(|| url.into())
        };
        self.advised = endpoints.iter().filter_map(url).collect();
        if !self.advised.is_empty() {
            let len = self.advised.len();
            self.advised.rotate_left(usize::try_from(spread % (len as u64)).unwrap_or(0));
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.authority, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let check = |url: &str, host: &str, port: u16, target: &str| {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!(
                (endpoint.host.as_str(), endpoint.port, endpoint.target.as_str()),
                (host, port, target),
                "{url}"
            );
        };
        check("ws://127.0.0.1:7400", "127.0.0.1", 7400, "/v1/connect");
        check("WS://chat.example", "chat.example", 80, "/v1/connect");
        check("ws://localhost:1/a/b?c=d#e", "localhost", 1, "/a/b?c=d");
        check("ws://[::1]:7400/", "::1", 7400, "/v1/connect");
        check("ws://host?x", "host", 80, "/v1/connect?x");
    }

    #[test]
    fn what_cannot_be_a_url_is_refused() {
        let check = |url: &str, text: &str| {
            assert_eq!(url.parse::<Endpoint>().map_err(|error| error.to_string()), Err(text.into()), "{url}");
        };
        check("127.0.0.1:7400", "\"127.0.0.1:7400\" has no scheme; write ws://host:port");
        check("wss://host", "wss:// is not supported by this version; use ws://");
        check("quic://host", "quic:// is not supported by this version; use ws://");
        check("ftp://host", "\"ftp\" is no scheme for a connection; use ws://");
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
    }

    #[test]
    fn the_one_that_worked_is_tried_first() {
        let mut endpoints = Endpoints::new(vec!["ws://a".into(), "ws://b".into()]);
        let next = |endpoints: &mut Endpoints| endpoints.next().to_string();
        assert_eq!(next(&mut endpoints), "ws://a");
        assert_eq!(next(&mut endpoints), "ws://b");
        endpoints.worked();
        assert_eq!(next(&mut endpoints), "ws://b");
        assert_eq!(next(&mut endpoints), "ws://a");
        endpoints.advise(&["c:1", "wss://no", "ws://d:2", "no host"], 1);
        assert_eq!(next(&mut endpoints), "ws://c:1");
        assert_eq!(next(&mut endpoints), "ws://d:2");
        assert_eq!(next(&mut endpoints), "ws://b");
    }
}
