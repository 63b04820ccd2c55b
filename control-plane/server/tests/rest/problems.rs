//! Refusals: always a problem, always with what to mend.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::{World, text};

#[test]
fn bodies_that_are_no_json_are_refused() {
    let world = World::new();
    let send = |body: &[u8]| {
        let request = world.request("POST", "/v1/tokens").bearer(&world.api).header("content-type", "application/json");
        request.bytes(body.to_vec()).send()
    };
    for body in [&b""[..], b"{", b"{\"user\": \"ann\",}", b"nul", b"\xff\xfe", b"{\"user\":\"\xff\"}", b"{} x"] {
        let problem = send(body).problem(400, "malformed-json");
        assert!(text(&problem["detail"]).contains("line 1"), "{problem}");
    }
    send(b"[]").wrong_fields(&[""]);
    send(b"\"ann\"").wrong_fields(&[""]);
    send(&[b"[".repeat(5_000), b"]".repeat(5_000)].concat()).problem(400, "malformed-json");
    send(b"{}").wrong_fields(&["/user"]);
    // Which of two values counts differs between parsers, so neither does.
    send(br#"{"user": "ann", "user": "bob"}"#).wrong_fields(&["/user"]);
    send(br#"{"user": "ann", "ttl_seconds": "600"}"#).wrong_fields(&["/ttl_seconds"]);
    let nested = br#"{"name": "x", "kind": "group", "metadata": {"a": {"b": 1, "b": 2}}, "members": [{"user": "a", "user": "b"}]}"#;
    let request = world.request("POST", "/v1/channels").bearer(&world.api).header("content-type", "application/json");
    request.bytes(nested.to_vec()).send().wrong_fields(&["/metadata/a/b", "/members/0/user"]);
}

#[test]
fn bodies_of_other_types_are_refused() {
    let world = World::new();
    let send = |media_type: &str| {
        let request = world.request("POST", "/v1/tokens").bearer(&world.api).header("content-type", media_type);
        request.bytes(json!({"user": "ann"}).to_string().into_bytes()).send()
    };
    send("application/json; charset=utf-8").expect(201);
    send("application/vnd.acme+JSON").expect(201);
    send("text/plain").problem(415, "unsupported-media-type");
    send("application/x-www-form-urlencoded").problem(415, "unsupported-media-type");
    let none = world.request("POST", "/v1/tokens").bearer(&world.api).bytes(b"{}".to_vec()).send();
    none.problem(415, "unsupported-media-type");
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let world = World::with(|config| config.payload_bytes_max = 100);
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let publish = |text: String| world.post("/v1/channels/general/messages", &ann, &json!({"text": text}));
    publish("x".repeat(100)).expect(201);
    publish("x".repeat(101)).problem(413, "too-large");
    publish("é".repeat(51)).problem(413, "too-large");
    publish("\u{1}".repeat(100)).expect(201);
    publish("x".repeat(5_000)).problem(413, "too-large");
    let padded = world.request("PUT", "/v1/users/ann").bearer(&world.api).header("content-type", "application/json");
    padded.bytes(vec![b' '; 65 << 10]).send().problem(413, "too-large");
}

/// A body that does not say how long it is has the same limit.
#[test]
fn a_body_in_chunks_is_bounded_too() {
    let world = World::new();
    let mut stream = TcpStream::connect(world.base.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "PUT /v1/users/ann HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        world.api
    )
    .unwrap();
    for _ in 0..5 {
        // The server may have answered and closed already.
        let _ = write!(stream, "4000\r\n{}\r\n", " ".repeat(0x4000));
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn paths_and_methods_that_are_not_there() {
    let world = World::new();
    for path in ["/v1", "/v1/nothing", "/v2/channels", "/v1/channels/a/b/c"] {
        world.get(path, &world.api).problem(404, "no-route");
    }
    let wrong = world.request("PUT", "/v1/channels").bearer(&world.api).json(&json!({})).send();
    wrong.problem(405, "method-not-allowed");
    let mut allowed: Vec<_> = wrong.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    world.request("BREW", "/v1/version").send().problem(405, "method-not-allowed");
    world.get("/v1/channels/%FF", &world.api).problem(400, "bad-request");
}

#[test]
fn a_request_keeps_its_id() {
    let world = World::new();
    let named = world.request("GET", "/v1/channels").header("x-request-id", "my-id.7").send();
    assert_eq!(named.header("x-request-id"), "my-id.7");
    assert_eq!(named.problem(401, "unauthenticated")["instance"], "urn:millrace:request:my-id.7");
    let odd = world.request("GET", "/v1/version").header("x-request-id", "a b\"<script>").send();
    assert_eq!(odd.header("x-request-id").len(), 16, "an id of our own");
    assert_eq!(odd.header("x-content-type-options"), "nosniff");
}

#[test]
fn every_type_of_problem_is_explained() {
    let world = World::new();
    let problem = world.get("/v1/channels/none", &world.api).problem(404, "not-found");
    let explained = world.request("GET", &text(&problem["type"])).send();
    assert_eq!((explained.status, explained.header("location")), (303, "/v1/docs#problem-not-found"));
    let page = world.request("GET", "/v1/docs").send().text;
    assert!(page.contains("id=\"problem-not-found\""));
    world.request("GET", "/problems/none").send().problem(404, "not-found");
}

#[test]
fn headers_are_bounded() {
    let world = World::new();
    let answer = |headers: String| {
        let mut stream = TcpStream::connect(world.base.strip_prefix("http://").unwrap()).unwrap();
        let _ = write!(stream, "GET /v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(answer(String::new()), "HTTP/1.1 200 OK");
    assert_eq!(answer((0..62).map(|n| format!("x-{n}: 1\r\n")).collect()), "HTTP/1.1 200 OK");
    assert!(answer((0..80).map(|n| format!("x-{n}: 1\r\n")).collect()).starts_with("HTTP/1.1 431"));
    assert!(answer(format!("x: {}\r\n", "y".repeat(17 << 10))).starts_with("HTTP/1.1 431"));
}

/// Ids that no store could even look up.
#[test]
fn names_of_any_length_name_nothing() {
    let world = World::new();
    let long = "x".repeat(5_000);
    world.delete(&format!("/v1/keys/{long}"), &world.api).problem(404, "not-found");
    world.delete(&format!("/v1/signing-keys/7.{long}"), &world.api).problem(404, "not-found");
    world.get(&format!("/v1/channels/{long}"), &world.api).problem(404, "not-found");
    world.get(&format!("/v1/users/{long}"), &world.api).problem(404, "not-found");
    world.put(&format!("/v1/users/{long}"), &world.api, &json!({})).wrong_fields(&["user"]);
    world.get(&format!("/v1/keys?cursor=MQ{}", &long[..1_000]), &world.api).wrong_fields(&["?cursor"]);
    world.get(&format!("/v1/users?cursor={long}"), &world.api).wrong_fields(&["?cursor"]);
    let encode = |text: String| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let header = encode(json!({"alg": "EdDSA", "kid": format!("{}.{}", world.tenant, &long[..2_000])}).to_string());
    world.get("/v1/channels", &format!("{header}.e30.AAAA")).problem(401, "unauthenticated");
    world.get("/v1/channels", &format!("mr_{}_x", &long[..64])).problem(401, "unauthenticated");
    let refresh = json!({"refresh_token": format!("mrr_{}_x", &long[..64])});
    world.request("POST", "/v1/tokens/refresh").json(&refresh).send().problem(401, "unauthenticated");
}

/// Callers who say nothing, or half of it, give their place back.
#[test]
fn silence_is_not_waited_for() {
    // Long enough for a busy machine to set the world up.
    let world = World::with(|config| config.read_deadline = std::time::Duration::from_secs(1));
    let ended = |said: &str| {
        let mut stream = TcpStream::connect(world.base.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server ends the connection by itself");
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(ended(""), "");
    ended("GET /v1/version HTT");
    ended("GET /v1/version HTTP/1.1\r\nhost: x\r\nx-y: ");
    assert!(ended("GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").contains(" 200 OK"), "idle after an answer");
    let half = format!(
        "PUT /v1/users/ann HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 9\r\n\r\n{{",
        world.api
    );
    assert!(ended(&half).contains(" 408 "));
}
