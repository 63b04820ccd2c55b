//! The web console: served whole, cached well, and with a policy that lets nothing else in.

use serde_json::json;

use crate::World;

#[test]
fn the_page_is_served_with_a_policy_of_its_own() {
    let world = World::new();
    world.plane.reached_at(&["ws://127.0.0.1:7400", "no endpoint"]);
    let page = world.request("GET", "/").send();
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text.contains("<script type=\"module\" src=\"/console/console.js?v="), "{}", page.text);
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(policy.contains("connect-src 'self' ws://127.0.0.1:7400;"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("cache-control"), "no-cache");
    assert_eq!(world.request("GET", "/index.html").send().status, 404);
    world.request("POST", "/").send().problem(405, "method-not-allowed");
}

#[test]
fn parts_are_kept_by_their_version_and_asked_for_again_without() {
    let world = World::new();
    let page = world.request("GET", "/").send().text;
    let name = |part: &str| {
        let at = page.find(part).unwrap_or_else(|| panic!("the page does not name {part}"));
        page[at..].split('"').next().unwrap().to_owned()
    };
    for (part, media_type) in [
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let named = world.request("GET", &name(part)).send();
        assert_eq!((named.status, named.header("content-type")), (200, media_type), "{part}");
        assert_eq!(named.header("cache-control"), "public, max-age=31536000, immutable");
        let other = world.request("GET", &format!("{part}?v=0000000000000000")).send();
        assert_eq!((other.header("cache-control"), &other.text), ("no-cache", &named.text));

        let etag = named.header("etag");
        let again = world.request("GET", part).header("if-none-match", &format!("\"x\", W/{etag}")).send();
        assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", etag));
        assert_eq!(world.request("GET", part).header("if-none-match", "\"x\"").send().status, 200);

        let small = world.request("HEAD", part).header("accept-encoding", "br, gzip").send();
        assert_eq!((small.header("content-encoding"), small.header("vary")), ("gzip", "accept-encoding"));
        let tag = small.header("etag");
        assert_ne!(tag, etag, "other bytes are not the same file");
        let ask = |tag: &str| {
            let request = world.request("HEAD", part).header("accept-encoding", "gzip");
            request.header("if-none-match", tag).send()
        };
        let (same, other) = (ask(tag), ask(etag));
        assert_eq!((same.status, same.header("etag"), same.header("vary")), (304, tag, "accept-encoding"));
        assert_eq!((other.status, other.header("content-encoding")), (200, "gzip"));
        let length = |header: &str| header.parse::<usize>().unwrap();
        assert!(length(small.header("content-length")) < named.text.len(), "{part}");
    }
}

#[test]
fn clients_learn_where_to_connect() {
    let world = World::new();
    let endpoints = || world.request("GET", "/v1/endpoints").send();
    assert_eq!(endpoints().expect(200), json!({"endpoints": []}));
    world.plane.reached_at(&["wss://chat.example", "ws://0.0.0.0:7400", "quic://chat.example:443", "ftp://elsewhere"]);
    let answer = endpoints();
    let expect = ["wss://chat.example", "ws://127.0.0.1:7400", "quic://chat.example:443"];
    assert_eq!(answer.expect(200), json!({ "endpoints": expect }));
    assert_eq!(answer.header("cache-control"), "no-store");
    world.plane.shows(&[[0; 32]]);
    let hash = json!({"algorithm": "sha-256", "value": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="});
    assert_eq!(endpoints().expect(200), json!({"endpoints": expect, "certificate_hashes": [hash]}));
    // The page connects by WebSocket alone.
    let page = world.request("GET", "/").send();
    let policy = page.header("content-security-policy");
    assert!(policy.contains("connect-src 'self' wss://chat.example ws://127.0.0.1:7400;"), "{policy}");
}
