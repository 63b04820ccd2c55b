//! Where browsers and other clients reach the data nodes, as seen by whoever asks.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

use crate::data_plane::DataPlane;

/// The data plane's endpoints for the sender of these headers. What is no `ws`, `wss`, `quic` or `https` URL of a plain host is left out: it
/// comes from another process and goes into headers.
pub(crate) fn of(data_plane: &dyn DataPlane, headers: &HeaderMap) -> Vec<String> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    data_plane.endpoints().iter().filter_map(|endpoint| seen_from(endpoint, host)).collect()
}

/// An endpoint for a client who came by `host`: a node that listens on every address is wherever the client came to.
fn seen_from(endpoint: &str, host: Option<&str>) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    if !["ws", "wss", "quic", "https"].contains(&scheme) {
        return None;
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (name, port) = split(authority)?;
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte)) {
        return None;
    }
    let is_anywhere = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    let name = if is_anywhere { split(host?)?.0 } else { name };
    Some(format!("{scheme}://{name}{port}{path}"))
}

/// Host and `:port` (or nothing) of an authority; `None` unless both are of the plain kind.
fn split(authority: &str) -> Option<(&str, &str)> {
    let at = match authority.rfind([':', ']']) {
        Some(at) if authority.as_bytes()[at] == b':' => at,
        _ => authority.len(),
    };
    let (name, port) = authority.split_at(at);
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_plain = match inner {
        Some(address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte)),
        None => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    let is_port = port.is_empty() || port.get(1..).is_some_and(|digits| digits.parse::<u16>().is_ok());
    (is_plain && is_port && !name.is_empty()).then_some((name, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_named_as_the_client_can_reach_them() {
        let check = |endpoint, host, expect: Option<&str>| {
            assert_eq!(seen_from(endpoint, host).as_deref(), expect, "{endpoint} from {host:?}");
        };
        check("ws://127.0.0.1:7400", Some("elsewhere:1"), Some("ws://127.0.0.1:7400"));
        check("wss://chat.example", None, Some("wss://chat.example"));
        check("wss://chat.example/v1/connect", None, Some("wss://chat.example/v1/connect"));
        check("ws://0.0.0.0:7400", Some("box.local:7410"), Some("ws://box.local:7400"));
        check("ws://[::]:7400", Some("[fe80::1]:7410"), Some("ws://[fe80::1]:7400"));
        check("ws://[::]:7400", Some("10.1.2.3"), Some("ws://10.1.2.3:7400"));
        check("ws://[2001:db8::1]:7400", None, Some("ws://[2001:db8::1]:7400"));
        check("ws://0.0.0.0:7400", None, None);
        check("ws://0.0.0.0:7400", Some("a; script-src *"), None);
        check("ws://0.0.0.0:7400", Some("a b"), None);
        check("ws://a b", None, None);
        check("ws://a;b", None, None);
        check("ws://a:65536", None, None);
        check("ws://a:port", None, None);
        check("ws://a/;b", None, None);
        check("ws://:1", None, None);
        check("quic://a:1", None, Some("quic://a:1"));
        check("quic://[::]:7443", Some("10.1.2.3"), Some("quic://10.1.2.3:7443"));
        check("https://a:1", None, Some("https://a:1"));
        check("http://a:1", None, None);
        check("a:1", None, None);
    }
}
