//! Where a webhook goes: `https` or `http`, a host, a port, a path. Nothing in it may mean one thing here and another elsewhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// Longest name of a host, in bytes. Source: RFC 1035 §2.3.4.
const HOST_BYTES_MAX: usize = 253;

/// Why a text is no URL that a webhook may have. The caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookUrlError {
    /// Over its limit.
    #[error("is {len} bytes, limit is {URL_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Neither `https://` nor `http://`.
    #[error("begins neither with https:// nor with http://")]
    Scheme,
    /// A blank, a control character or one beyond ASCII, which a URL has percent-encoded.
    #[error("has {found:?}, which a URL has percent-encoded")]
    Character {
        /// The first such character.
        found: char,
    },
    /// A user name or password: requests are signed instead.
    #[error("has a user name or password; requests are signed instead")]
    Credentials,
    /// A part after `#`, which never leaves a browser.
    #[error("has a fragment (#)")]
    Fragment,
    /// No host, or what is none.
    #[error("names no host")]
    Host,
    /// A port that is none.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WebhookHost {
    /// A name to be resolved, in lower case.
    Name(String),
    /// An address as it is.
    Address(IpAddr),
}

impl WebhookHost {
    /// Whether it means this machine by itself, without being resolved.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Address(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for WebhookHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A URL of at most 2048 bytes of visible ASCII, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebhookUrl {
    text: String,
    is_secure: bool,
    host: WebhookHost,
    port: u16,
    target: String,
}

impl WebhookUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is `https`.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Whom to ask for.
    pub fn host(&self) -> &WebhookHost {
        &self.host
    }

    /// The port, also if it is not written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What stands in the request line: path and query, at least `/`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What stands in the header `Host`: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let own = if self.is_secure { 443 } else { 80 };
        if self.port == own { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, WebhookUrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(WebhookUrlError::TooLong { len: text.len() });
        }
        // A backslash is a slash to browsers, and none to others.
        let is_plain = |c: &char| c.is_ascii_graphic() && !"\\\"<>^`{|}".contains(*c);
        if let Some(found) = text.chars().find(|c| !is_plain(c)) {
            return Err(WebhookUrlError::Character { found });
        }
        let (scheme, rest) = text.split_once("://").ok_or(WebhookUrlError::Scheme)?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(WebhookUrlError::Scheme),
        };
        if rest.contains('#') {
            return Err(WebhookUrlError::Fragment);
        }
        let (authority, target) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(WebhookUrlError::Credentials);
        }
        let (host, port) = split_port(authority)?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { text: text.to_owned(), is_secure, host: parse_host(host)?, port, target })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), WebhookUrlError> {
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[after_address..].find(':').map(|at| at + after_address) else {
        return Ok((authority, None));
    };
    let digits = &authority[colon + 1..];
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|&port| is_number && port > 0).ok_or(WebhookUrlError::Port)?;
    Ok((&authority[..colon], Some(port)))
}

fn parse_host(host: &str) -> Result<WebhookHost, WebhookUrlError> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Option<Ipv6Addr> = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
        return address.map(|address| WebhookHost::Address(address.into())).ok_or(WebhookUrlError::Host);
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(WebhookHost::Address(address.into()));
    }
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    // `127.1` and `0x7f000001` are addresses to some and names to others.
    let ends_in_digits = labels.clone().next_back().is_some_and(|last| {
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X")
    });
    if host.len() > HOST_BYTES_MAX || ends_in_digits || !labels.clone().all(is_label) {
        return Err(WebhookUrlError::Host);
    }
    Ok(WebhookHost::Name(host.to_ascii_lowercase()))
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let check = |text: &str, authority: &str, port: u16, target: &str| {
            let url: WebhookUrl = text.parse().unwrap();
            assert_eq!((url.authority().as_str(), url.port(), url.target()), (authority, port, target), "{text}");
            assert_eq!(url.to_string(), text);
        };
        check("https://example.com", "example.com", 443, "/");
        check("HTTPS://Example.COM:443/a?b=c", "example.com", 443, "/a?b=c");
        check("https://example.com?x", "example.com", 443, "/?x");
        check("http://localhost:8080/hook", "localhost:8080", 8080, "/hook");
        check("http://127.0.0.1/", "127.0.0.1", 80, "/");
        check("https://[2001:db8::1]:8443/x", "[2001:db8::1]:8443", 8443, "/x");
        check("https://a_b.example./%20", "a_b.example.", 443, "/%20");
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let check = |text: &str, expect: WebhookUrlError| {
            assert_eq!(text.parse::<WebhookUrl>(), Err(expect), "{text}");
        };
        check("ftp://example.com", WebhookUrlError::Scheme);
        check("example.com", WebhookUrlError::Scheme);
        check("https://example.com/a b", WebhookUrlError::Character { found: ' ' });
        check("https://example.com\\@other.example", WebhookUrlError::Character { found: '\\' });
        check("https://exämple.com", WebhookUrlError::Character { found: 'ä' });
        check("https://a\r\nb.example", WebhookUrlError::Character { found: '\r' });
        check("https://me:secret@example.com/", WebhookUrlError::Credentials);
        check("https://example.com@10.0.0.1/", WebhookUrlError::Credentials);
        check("https://example.com/#part", WebhookUrlError::Fragment);
        for host in ["", ".", "a..b", "127.1", "2130706433", "0x7f000001", "a.0x1", "[::1]x", "[nonsense]", "a%20b"] {
            check(&format!("https://{host}/"), WebhookUrlError::Host);
        }
        check(&format!("https://{}/", "a".repeat(64)), WebhookUrlError::Host);
        for port in ["", "0", "65536", "+1", "x"] {
            check(&format!("https://example.com:{port}/"), WebhookUrlError::Port);
        }
        check("https://::1/", WebhookUrlError::Port);
        check("https://[::1/", WebhookUrlError::Port);
        check(&format!("https://a/{}", "x".repeat(2048)), WebhookUrlError::TooLong { len: 2058 });
    }

    #[test]
    fn loopback_is_known_without_asking_anybody() {
        let check = |text: &str, expect: bool| {
            assert_eq!(text.parse::<WebhookUrl>().unwrap().host().is_loopback(), expect, "{text}");
        };
        check("http://localhost/", true);
        check("http://a.localhost/", true);
        check("http://127.9.9.9/", true);
        check("http://[::1]/", true);
        check("http://localhost.example/", false);
        check("http://10.0.0.1/", false);
    }

    proptest! {
        #[test]
        fn strangers_texts_are_refused_or_read_back(text in "(https?://)?[a-z0-9.:/@#?\\[\\]%_-]{0,60}") {
            if let Ok(url) = text.parse::<WebhookUrl>() {
                prop_assert_eq!(url.to_string(), text);
                prop_assert!(url.port() > 0 && url.target().starts_with('/'));
            }
        }
    }
}
