//! From TCP to a session: what is refused, how, and how long it may take.

use std::io::{Read, Write};
use std::time::Duration;

use millrace_protocol::Code;
use millrace_protocol::client::{ClientBody, ClientFrame, Hello, VERSION, encode_client};
use millrace_protocol::ws::{Opcode, encode};

use crate::support::{Client, Control, config, dial, door, exchange, metric, node, parse_answer, stop};

const UPGRADE: &str = "GET /v1/connect HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\
    Sec-WebSocket-Protocol: millrace.v1\r\n\r\n";

#[test]
fn requests_that_are_no_upgrade_get_a_helpful_answer() {
    let control = Control::new();
    let node = node(&control, config());
    let check = |request: &str, status: u16, hint: &str| {
        let (got, body) = parse_answer(&exchange(door(&node), request.as_bytes()));
        assert_eq!(got, status, "{request:?}: {body}");
        assert!(body.contains(hint), "{request:?}: {body}");
    };
    check("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "/v1/connect");
    check("GET /v1/connect HTTP/1.1\r\nHost: x\r\n\r\n", 426, "WebSocket");
    check("POST /v1/connect HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 405, "GET");
    check(&UPGRADE.replace("millrace.v1", "other.v1"), 400, "millrace.v1");
    check(&UPGRADE.replace("Sec-WebSocket-Protocol: millrace.v1\r\n", ""), 400, "millrace.v1");
    check(&UPGRADE.replace("Version: 13", "Version: 8"), 426, "13");
    check(&UPGRADE.replace("MDEyMzQ1Njc4OWFiY2RlZg==", "short"), 400, "Sec-WebSocket-Key");
    check(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), 431, "limit");
    check("\x16\x03\x01\x02\0\x01\0\x01", 400, "TLS");
    assert_eq!(metric(&node, "millrace_data_http_refused_total"), 9.0);
    assert_eq!(metric(&node, "millrace_data_upgrades_total"), 0.0);
    stop(node);
}

/// The head may come in pieces, and the first frame with its end.
#[test]
fn a_handshake_may_come_in_any_pieces() {
    let control = Control::new();
    let node = node(&control, config());
    let token = control.token("ann");
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        token: &token,
        agent: "",
        subscriptions: vec![],
    };
    let mut payload = Vec::new();
    encode_client(&ClientFrame { request: 1, body: ClientBody::Hello(hello) }, &mut payload);
    let mut frame = Vec::new();
    encode::frame(Opcode::Binary, &payload, Some([1, 2, 3, 4]), &mut frame);
    let all = [UPGRADE.as_bytes(), &frame].concat();
    for piece in [1, 7, 64, all.len()] {
        let mut stream = dial(door(&node));
        for part in all.chunks(piece) {
            stream.write_all(part).expect("write");
        }
        // The answer's head, then the binary frame that is the welcome.
        let mut answer = Vec::new();
        while !answer.windows(5).any(|window| window == b"\r\n\r\n\x82") {
            let mut buffer = [0; 1024];
            let bytes = stream.read(&mut buffer).expect("read");
            assert!(bytes > 0, "the node closed on pieces of {piece}: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..bytes]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
    }
    stop(node);
}

#[test]
fn silence_in_the_handshake_ends_the_connection() {
    let control = Control::new();
    let mut config = config();
    config.core.handshake_timeout = Duration::from_millis(600);
    let node = node(&control, config);

    let mut upgraded = Client::open(door(&node));
    let mut silent = dial(door(&node));
    // Over TLS the handshake comes before the silence: a client that began one with a node that has gone would be reset.
    silent.flush().expect("a connection");
    let mut slow = dial(door(&node));
    slow.write_all(&UPGRADE.as_bytes()[..40]).expect("write");
    assert_eq!(upgraded.closed_with(), Some(Code::HandshakeTimeout));
    for stream in [&mut silent, &mut slow] {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("a plain end");
        assert_eq!(answer, b"");
    }
    assert_eq!(metric(&node, "millrace_data_handshake_timeouts_total"), 3.0);
    stop(node);
}
