//! The admin port: numbers, health, and nothing a stranger could break.

use std::io::Write;

use millrace_data::start;

use crate::support::{Client, Control, admin, config, dial_tcp, door, exchange_tcp, link, node, parse_answer, stop};

#[test]
fn metrics_are_what_prometheus_reads() {
    let control = Control::new();
    let node = node(&control, config());
    let _client = Client::connect(door(&node), &control.token("ann"));
    let (status, text) = admin(&node, "/metrics");
    assert_eq!(status, 200);
    let mut types = std::collections::HashMap::new();
    let mut samples = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has two types");
        } else if !line.starts_with('#') {
            let (key, value) = line.rsplit_once(' ').expect("a value");
            let name = key.split('{').next().expect("a name");
            // A histogram has three kinds of samples, each under a name of its own.
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| types.get(name.strip_suffix(end)?));
            let histogram = of_histogram.filter(|kind| *kind == "histogram");
            let kind = types.get(name).or(histogram).unwrap_or_else(|| panic!("{name} has no type"));
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            samples += 1;
        }
    }
    assert!(samples > 100, "{samples} samples");
    for shard in ["0", "1"] {
        assert!(text.contains(&format!("millrace_data_turns_total{{shard=\"{shard}\"}}")));
    }
    stop(node);
}

#[test]
fn health_and_readiness_are_two_things() {
    let control = Control::new();
    control.cut();
    let node = start(config(), link(&control)).expect("start");
    assert_eq!(admin(&node, "/healthz"), (200, "ok\n".into()));
    assert_eq!(admin(&node, "/readyz"), (503, "the control link is down\n".into()));
    control.mend();
    crate::support::until("the node is ready", || admin(&node, "/readyz").0 == 200);
    stop(node);
}

#[test]
fn whatever_else_is_asked_is_answered_briefly() {
    let control = Control::new();
    let node = node(&control, config());
    let check = |request: &[u8], status: u16| {
        let (got, body) = parse_answer(&exchange_tcp(node.admin_address, request));
        assert_eq!(got, status, "{}: {body}", String::from_utf8_lossy(request));
        assert!(body.len() < 200);
    };
    check(b"GET / HTTP/1.1\r\n\r\n", 404);
    check(b"GET /metrics/../healthz HTTP/1.1\r\n\r\n", 404);
    check(b"GET /healthz?verbose HTTP/1.1\r\n\r\n", 200);
    check(b"POST /metrics HTTP/1.1\r\n\r\n", 405);
    check(b"\x16\x03\x01\r\n\r\n", 400);
    check(&[b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 8168]].concat(), 431);
    // Idle connections do not keep others out, and go with the node.
    let idle: Vec<_> = (0..8).map(|_| dial_tcp(node.admin_address)).collect();
    (&idle[0]).write_all(b"GET /met").expect("write");
    assert_eq!(admin(&node, "/healthz").0, 200);
    stop(node);
}
