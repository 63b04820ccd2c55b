//! The web console at `/`: files that `cargo xtask console` built and that are part of this binary.
//!
//! It is a page like any other: it uses the REST API and the SDK, and nothing that is not open to every client.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::rest::{Shared, endpoints};

/// A built file, as it is and compressed.
struct File {
    path: &'static str,
    media_type: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

macro_rules! file {
    ($path:literal, $name:literal, $media_type:literal) => {
        File {
            path: $path,
            media_type: $media_type,
            plain: include_bytes!(concat!("../../console/dist/", $name)),
            gzip: include_bytes!(concat!("../../console/dist/", $name, ".gz")),
        }
    };
}

/// The page; its places are fragments, so that it has no other path.
static PAGE: File = file!("/", "index.html", "text/html; charset=utf-8");
static PARTS: [File; 3] = [
    file!("/console/console.js", "console.js", "text/javascript; charset=utf-8"),
    file!("/console/console.css", "console.css", "text/css; charset=utf-8"),
    file!("/console/icon.svg", "icon.svg", "image/svg+xml"),
];

/// What names a file's content: one tag for each form of it, because strong tags compare bytes (RFC 9110 §8.8.3).
struct Tags {
    plain: String,
    gzip: String,
}

impl Tags {
    fn of(file: &File) -> Self {
        let version = version_of(file);
        Self { plain: format!("\"{version}\""), gzip: format!("\"{version}-gzip\"") }
    }
}

/// The page names each part with the beginning of its SHA-256: what came by that name never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";
/// Hex digits of a version.
const VERSION_LEN: usize = 16;

/// Serves the console.
pub(crate) fn routes() -> Router<Shared> {
    let tags = Arc::new(Tags::of(&PAGE));
    let page = async move |State(rest): State<Shared>, headers: HeaderMap| {
        let policy = policy(&endpoints::of(&*rest.data_plane, &headers));
        let answer = answer(&PAGE, &tags, ASK_AGAIN, &headers);
        let of_the_page = [
            (header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy)),
            (HeaderName::from_static("cross-origin-opener-policy"), Ok(HeaderValue::from_static("same-origin"))),
        ];
        match of_the_page {
            [(policy, Ok(value)), (opener, Ok(same_origin))] => {
                ([(policy, value), (opener, same_origin)], answer).into_response()
            }
            // The endpoints are of the plain kind: not reached.
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    PARTS.iter().fold(Router::new().route(PAGE.path, get(page)), |router, file| {
        let (this, tags): (Arc<str>, _) = (version_of(file).into(), Arc::new(Tags::of(file)));
        let part = async move |RawQuery(query): RawQuery, headers: HeaderMap| {
            let version = query.as_deref().and_then(|query| query.strip_prefix("v="));
            let is_this = version.is_some_and(|version| version == &*this);
            answer(file, &tags, if is_this { FOREVER } else { ASK_AGAIN }, &headers)
        };
        router.route(file.path, get(part))
    })
}

/// Scripts and styles of our own, and connections to this API and to the data nodes, by WebSocket and WebTransport. Before the first of them is
/// known, to any.
fn policy(endpoints: &[String]) -> String {
    let mut connect = String::new();
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.starts_with("quic:")) {
        let end = endpoint.find("://").map_or(0, |at| at + 3);
        let origin = endpoint[end..].find('/').map_or(&endpoint[..], |at| &endpoint[..end + at]);
        connect.push(' ');
        connect.push_str(origin);
    }
    if connect.is_empty() {
        connect.push_str(" ws: wss: https:");
    }
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{connect}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

fn version_of(file: &File) -> String {
    let digest = digest::digest(&digest::SHA256, file.plain);
    let mut hex = digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    hex.truncate(VERSION_LEN);
    hex
}

fn answer(file: &File, tags: &Tags, caching: &'static str, request: &HeaderMap) -> Response {
    let is_small = takes_gzip(request);
    let etag = if is_small { &*tags.gzip } else { &*tags.plain };
    let headers = [
        (header::CONTENT_TYPE, file.media_type),
        (header::CACHE_CONTROL, caching),
        (header::ETAG, etag),
        (header::VARY, "accept-encoding"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let is_known = |tags: &HeaderValue| {
        let tags = tags.to_str().unwrap_or_default();
        tags.split(',').any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag)
    };
    if request.get_all(header::IF_NONE_MATCH).iter().any(is_known) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    if is_small {
        (headers, [(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response()
    } else {
        (headers, file.plain).into_response()
    }
}

/// Whether a client wants gzip (RFC 9110 §12.5.3); a weight of zero says no.
fn takes_gzip(request: &HeaderMap) -> bool {
    let all = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = None;
    for coding in all.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_wanted = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        match name.as_str() {
            "gzip" | "x-gzip" => return is_wanted,
            "*" => any = Some(is_wanted),
            _ => {}
        }
    }
    any.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_parts_by_their_versions() {
        let page = std::str::from_utf8(PAGE.plain).unwrap();
        for part in &PARTS {
            let name = format!("\"{}?v={}\"", part.path, version_of(part));
            assert!(page.contains(&name), "the page does not name {name}");
        }
    }

    #[test]
    fn the_policy_lets_the_page_connect_where_the_data_nodes_are() {
        let check = |endpoints: &[&str], expect: &str| {
            let endpoints: Vec<_> = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            let policy = policy(&endpoints);
            let connect = policy.split("; ").find_map(|part| part.strip_prefix("connect-src ")).unwrap();
            assert_eq!(connect, expect);
            assert!(!policy.contains("unsafe"), "{policy}");
        };
        check(&[], "'self' ws: wss: https:");
        check(&["ws://127.0.0.1:7400"], "'self' ws://127.0.0.1:7400");
        check(&["wss://a.example/v1/connect", "wss://b.example:1"], "'self' wss://a.example wss://b.example:1");
        check(&["quic://a.example", "wss://a.example"], "'self' wss://a.example");
        check(&["wss://a.example", "https://a.example:7443"], "'self' wss://a.example https://a.example:7443");
    }

    #[test]
    fn gzip_is_for_whoever_takes_it() {
        let check = |value: &str, expect| {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::try_from(value).unwrap())]);
            assert_eq!(takes_gzip(&headers), expect, "{value}");
        };
        check("gzip, deflate, br", true);
        check("br;q=1.0, GZIP;q=0.5", true);
        check("*", true);
        check("*;q=0", false);
        check("gzip;q=0, *", false);
        check("identity", false);
        check("", false);
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
