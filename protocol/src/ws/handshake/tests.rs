use proptest::prelude::*;

use super::*;
use crate::ws::deflate::Window;

const ENDPOINT: Endpoint<'static> =
    Endpoint { path: Some("/v1/connect"), subprotocols: &["millrace.v2", "millrace.v1"] };

fn request(change: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut fields = vec![
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Origin", "http://example.com"),
        ("Sec-WebSocket-Protocol", "chat, millrace.v1"),
        ("Sec-WebSocket-Version", "13"),
        ("Cookie", "secret=1"),
    ];
    let mut line = "GET /v1/connect?a=b HTTP/1.1";
    for &(name, value) in change {
        match (name, value) {
            ("", Some(value)) => line = value,
            (name, Some(value)) if name.starts_with('+') => fields.push((&name[1..], value)),
            (name, value) => {
                fields.retain(|&(one, _)| one != name);
                fields.extend(value.map(|value| (name, value)));
            }
        }
    }
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line}\r\n{fields}\r\n").into_bytes()
}

fn answer(input: &[u8]) -> Result<Option<Request>, RequestError> {
    ServerHandshake::new().feed(input, &ENDPOINT)
}

/// RFC 6455 §1.3.
#[test]
fn the_key_of_the_rfc() {
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_request_is_accepted() {
    let mut input = request(&[]);
    let head = input.len();
    input.extend(b"\x81\x80frames");
    let request = answer(&input).unwrap().unwrap();
    assert_eq!(request.path, "/v1/connect");
    assert_eq!(request.query.as_deref(), Some("a=b"));
    assert_eq!(request.host, "server.example.com");
    assert_eq!(request.origin.as_deref(), Some("http://example.com"));
    assert_eq!(request.subprotocol.as_deref(), Some("millrace.v1"));
    assert_eq!(request.consumed, head);
    assert_eq!(
        String::from_utf8(request.response()).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: millrace.v1\r\n\r\n"
    );
}

#[test]
fn unusual_requests_are_accepted_too() {
    let check = |change: &[(&str, Option<&str>)]| {
        let request = answer(&request(change)).unwrap().unwrap();
        assert_eq!((&*request.path, request.query.as_deref()), ("/v1/connect", Some("a=b")), "{change:?}");
    };
    check(&[("Connection", Some("keep-alive, upgrade")), ("Upgrade", Some("h2c, WebSocket"))]);
    check(&[("Connection", Some("keep-alive")), ("+Connection", Some("Upgrade"))]);
    check(&[("", Some("GET ws://server.example.com/v1/connect?a=b HTTP/1.1"))]);
    check(&[("Origin", None), ("Content-Length", Some("0"))]);
    check(&[("Sec-WebSocket-Protocol", Some("a,millrace.v1")), ("+sec-websocket-protocol", Some("millrace.v2"))]);
    check(&[("Sec-WebSocket-Extensions", Some("permessage-deflate; client_max_window_bits"))]);
    let bare = String::from_utf8(request(&[])).unwrap().replace("\r\n", "\n");
    assert_eq!(answer(bare.as_bytes()).unwrap().unwrap().consumed, bare.len());
}

#[test]
fn ours_is_chosen_by_our_order_or_not_at_all() {
    let both = request(&[("Sec-WebSocket-Protocol", Some("millrace.v1, millrace.v2"))]);
    assert_eq!(answer(&both).unwrap().unwrap().subprotocol.as_deref(), Some("millrace.v2"));
    let any = Endpoint { path: None, subprotocols: &[] };
    let request = ServerHandshake::new().feed(&both, &any).unwrap().unwrap();
    assert_eq!(request.subprotocol, None);
    assert!(!String::from_utf8(request.response()).unwrap().contains("Sec-WebSocket-Protocol"));
}

#[test]
fn wrong_requests_are_refused_with_a_status() {
    let check = |change: &[(&str, Option<&str>)], status: u16, has: &str| {
        let error = answer(&request(change)).expect_err(&format!("{change:?}"));
        let response = String::from_utf8(error.response()).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{change:?}: {response}");
        assert!(response.contains(has), "{change:?}: {response}");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{response}");
    };
    check(&[("", Some("POST /v1/connect HTTP/1.1"))], 405, "Allow: GET");
    check(&[("", Some("GET / HTTP/1.1"))], 404, "/v1/connect");
    check(&[("", Some("GET /v1/connect/ HTTP/1.1"))], 404, "/v1/connect");
    check(&[("", Some("GET /v1/connect#x HTTP/1.1"))], 400, "target");
    check(&[("", Some("GET v1 HTTP/1.1"))], 400, "target");
    check(&[("", Some("GET /v1/connect HTTP/1.0"))], 400, "version");
    check(&[("", Some("PRI * HTTP/2.0"))], 400, "version");
    check(&[("", Some("GET"))], 400, "request line");
    check(&[("Upgrade", None)], 426, "Sec-WebSocket-Version: 13");
    check(&[("Upgrade", Some("h2c"))], 426, "Upgrade: websocket");
    check(&[("Sec-WebSocket-Version", Some("8"))], 426, "Sec-WebSocket-Version: 13");
    check(&[("Sec-WebSocket-Version", None)], 400, "Sec-WebSocket-Version");
    check(&[("Connection", Some("close"))], 400, "Connection");
    check(&[("Connection", Some("xupgrade"))], 400, "Connection");
    check(&[("Host", None)], 400, "Host");
    check(&[("Host", Some(""))], 400, "Host");
    check(&[("+Host", Some("other"))], 400, "Host");
    check(&[("Sec-WebSocket-Key", None)], 400, "Sec-WebSocket-Key");
    check(&[("+Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ=="))], 400, "Sec-WebSocket-Key");
    check(&[("Sec-WebSocket-Key", Some("short"))], 400, "Sec-WebSocket-Key");
    check(&[("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZTE="))], 400, "Sec-WebSocket-Key");
    check(&[("Sec-WebSocket-Key", Some("dGhl!HNhbXBsZSBub25jZQ=="))], 400, "Sec-WebSocket-Key");
    check(&[("Sec-WebSocket-Protocol", None)], 400, "millrace.v2, millrace.v1");
    check(&[("Sec-WebSocket-Protocol", Some("Millrace.v1"))], 400, "millrace.v1");
    check(&[("Content-Length", Some("5"))], 400, "no body");
    check(&[("Transfer-Encoding", Some("chunked"))], 400, "no body");
    check(&[("Bad Name", Some("x"))], 400, "header field");
    check(&[("Long", Some(&"x".repeat(HEAD_BYTES_MAX)))], 431, "8192");
    let many: Vec<_> = (0..HEADERS_MAX).map(|_| ("+X", Some("y"))).collect();
    check(&many, 431, "64");
}

#[test]
fn nonsense_is_refused_at_once_and_floods_early() {
    assert_eq!(answer(b"\x16\x03\x01\x02\x00").unwrap_err().status(), 400);
    assert_eq!(answer(b"\r\n").unwrap_err().status(), 400);
    let mut handshake = ServerHandshake::new();
    let flood = [b'a'; 1024];
    for _ in 0..8 {
        assert_eq!(handshake.feed(&flood, &ENDPOINT), Ok(None));
    }
    assert_eq!(handshake.feed(&flood, &ENDPOINT), Err(RequestError::HeadTooLong));
}

fn client(subprotocols: &[&str]) -> (ClientHandshake, Vec<u8>) {
    let nonce = *b"the sample nonce";
    ClientHandshake::new(&ClientRequest { host: "a.example", target: "/v1/connect", subprotocols, nonce }).unwrap()
}

#[test]
fn both_sides_understand_each_other() {
    let (mut client, request) = client(&["millrace.v1"]);
    let accepted = answer(&request).unwrap().unwrap();
    assert_eq!(accepted.consumed, request.len());
    let mut response = accepted.response();
    let consumed = response.len();
    response.extend(b"\x82\x01x");
    let subprotocol = Some("millrace.v1".into());
    assert_eq!(client.feed(&response), Ok(Some(Accepted { subprotocol, deflate: false, consumed })));
}

#[test]
fn compression_is_in_force_when_both_ask_for_it() {
    let nonce = *b"the sample nonce";
    let request = ClientRequest { host: "a.example", target: "/v1/connect", subprotocols: &["millrace.v1"], nonce };
    let agreed = |answers: bool| {
        let (mut client, request) = ClientHandshake::offering_deflate(&request).unwrap();
        let mut accepted = answer(&request).unwrap().unwrap();
        if answers {
            assert_eq!(accepted.agree().map(|agreement| agreement.window), Some(Window::Large));
        }
        client.feed(&accepted.response()).unwrap().unwrap().deflate
    };
    assert!(agreed(true));
    assert!(!agreed(false), "the server decides");

    let mut without = answer(&self::request(&[])).unwrap().unwrap();
    assert_eq!(without.agree(), None);
    assert!(!String::from_utf8(without.response()).unwrap().contains("Extensions"));
    let offers =
        "x-one; a=\"b\", permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=13";
    let mut offered = answer(&self::request(&[("Sec-WebSocket-Extensions", Some(offers))])).unwrap().unwrap();
    offered.agree();
    let response = String::from_utf8(offered.response()).unwrap();
    let agreed = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                  server_max_window_bits=12\r\n";
    assert!(response.contains(agreed), "{response}");
}

#[test]
fn an_answer_on_compression_that_does_not_fit_is_refused() {
    let nonce = *b"the sample nonce";
    let request = ClientRequest { host: "a.example", target: "/v1/connect", subprotocols: &[], nonce };
    let check = |fields: &str, expect: bool| {
        let (mut client, sent) = ClientHandshake::offering_deflate(&request).unwrap();
        let plain = String::from_utf8(
            ServerHandshake::new()
                .feed(&sent, &Endpoint { path: None, subprotocols: &[] })
                .unwrap()
                .unwrap()
                .response(),
        )
        .unwrap();
        let response = plain.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        let wrong = ResponseError::Header { name: "Sec-WebSocket-Extensions" };
        let found = client.feed(response.as_bytes()).map(|accepted| accepted.unwrap().deflate);
        assert_eq!(found, if expect { Ok(true) } else { Err(wrong) }, "{fields}");
    };
    let good = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    check(good, true);
    check(&good.repeat(2), false);
    check("Sec-WebSocket-Extensions: permessage-deflate\r\n", false);
    check("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover, x-other\r\n", false);
}

#[test]
fn wrong_responses_are_refused() {
    let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: millrace.v1\r\n\r\n";
    let feed = |response: &str| client(&["millrace.v1"]).0.feed(response.as_bytes());
    assert!(matches!(feed(good), Ok(Some(_))));
    assert_eq!(feed(&good.replace("Sec-WebSocket-Protocol: millrace.v1\r\n", "")).unwrap().unwrap().subprotocol, None);

    let check =
        |from: &str, to: &str, expect: ResponseError| assert_eq!(feed(&good.replace(from, to)), Err(expect), "{to}");
    let wrong = |name| ResponseError::Header { name };
    check("Upgrade: WebSocket", "Upgrade: h2c", wrong("Upgrade"));
    check("keep-alive, upgrade", "keep-alive", wrong("Connection"));
    check("s3pPL", "S3pPL", wrong("Sec-WebSocket-Accept"));
    check("Sec-WebSocket-Accept", "X", wrong("Sec-WebSocket-Accept"));
    check("millrace.v1", "millrace.v2", wrong("Sec-WebSocket-Protocol"));
    check("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n", wrong("Sec-WebSocket-Extensions"));
    check("HTTP/1.1", "HTTP/1.0", ResponseError::Malformed);
    check("HTTP/1.1", "SSH-2.0", ResponseError::Malformed);
    let text = "connect to /v1/connect".to_owned();
    let refused = "HTTP/1.1 404 Not Found\r\nContent-Length: 23\r\n\r\nconnect to /v1/connect\n";
    assert_eq!(feed(refused), Err(ResponseError::Refused { status: 404, text }));
    let text = "Bad Gateway".to_owned();
    assert_eq!(feed("HTTP/1.1 502 Bad Gateway\r\n\r\n"), Err(ResponseError::Refused { status: 502, text }));
    assert_eq!(feed(&format!("HTTP/1.1 101 {}", "x".repeat(9000))), Err(ResponseError::HeadTooLong));
}

#[test]
fn a_client_cannot_be_made_to_write_another_request() {
    let check = |host, target, subprotocols: &[&str], field: &str| {
        let error = ClientHandshake::new(&ClientRequest { host, target, subprotocols, nonce: [0; 16] }).unwrap_err();
        assert!(matches!(error, ResponseError::Request { field: found, .. } if found == field), "{error}");
    };
    check("", "/", &[], "host");
    check("a\r\nX: y", "/", &[], "host");
    check("user@a", "/", &[], "host");
    check("a", "", &[], "target");
    check("a", "v1", &[], "target");
    check("a", "/ HTTP/1.1\r\n", &[], "target");
    check("a", "/#x", &[], "target");
    check("a", "/", &["a,b"], "subprotocols");
    check("a", "/", &[""], "subprotocols");
}

proptest! {
    /// However a head is cut, it is found whole and ends at the same place.
    #[test]
    fn reads_do_not_matter(cuts in prop::collection::vec(0usize..400, 0..8), bare: bool) {
        let mut input = request(&[]);
        if bare {
            input.retain(|&byte| byte != b'\r');
        }
        let head = input.len();
        let whole = answer(&input).unwrap().unwrap();
        input.extend(b"\n\r\n\r\nmore");
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(input.len())).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let mut handshake = ServerHandshake::new();
        for pair in cuts.windows(2) {
            if let Some(mut found) = handshake.feed(&input[pair[0]..pair[1]], &ENDPOINT).unwrap() {
                prop_assert_eq!(pair[0] + found.consumed, head);
                found.consumed = head;
                prop_assert_eq!(found, whole);
                return Ok(());
            }
        }
        prop_assert!(false, "the head was not found");
    }

    #[test]
    fn strangers_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = answer(&input);
        let line = [b"GET /", &input[..], b"\r\n\r\n"].concat();
        let _ = answer(&line);
        let _ = client(&["a"]).0.feed(&[b"HTTP/1.1 101 ", &input[..], b"\r\n\r\n"].concat());
    }
}
