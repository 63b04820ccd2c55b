//! What a node does when there is no more room, and what it says when it cannot start.

use std::io::Read;

use millrace_data::{Config, StartError, start};
use millrace_protocol::ws::Opcode;

use crate::support::{Client, Control, config, dial, link, metric, node, parse_answer, stop, until};

#[test]
fn one_connection_too_many_is_refused_with_503() {
    let control = Control::new();
    let node = node(&control, Config { connections_max: Some(4), ..config() });
    let token = control.token("ann");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(node.client_address, &token)).collect();
    let mut refused = dial(node.client_address);
    let mut answer = Vec::new();
    refused.read_to_end(&mut answer).expect("an answer without a question");
    let (status, text) = parse_answer(&answer);
    assert_eq!(status, 503, "{text}");
    drop(refused);
    assert_eq!(metric(&node, "millrace_data_connections"), 4.0);

    let mut leaving = clients.pop().expect("four");
    leaving.send_ws(Opcode::Close, b"");
    leaving.closed();
    until("its place is free", || metric(&node, "millrace_data_connections") == 3.0);
    Client::connect(node.client_address, &token);
    stop(node);
}

/// A crowd above the limit: all get an end, most of them an answer, and the node goes on.
#[test]
fn a_crowd_at_the_door_does_not_hurt() {
    let control = Control::new();
    let node = node(&control, Config { connections_max: Some(2), ..config() });
    let token = control.token("ann");
    let mut inside: Vec<Client> = (0..2).map(|_| Client::connect(node.client_address, &token)).collect();
    let crowd: Vec<_> = (0..300).map(|_| dial(node.client_address)).collect();
    for mut stream in crowd {
        let mut answer = Vec::new();
        // A reset is an end too: more are refused at once than can be told so.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "));
    }
    assert_eq!(metric(&node, "millrace_data_connections_refused_full_total"), 300.0);
    for client in &mut inside {
        client.send_ws(Opcode::Ping, b"still here");
        assert_eq!(client.next(), crate::support::Got::Pong(b"still here".to_vec()));
    }
    stop(node);
}

#[test]
fn a_start_that_cannot_be_says_what_to_do() {
    let control = Control::new();
    let node = node(&control, config());
    let check = |config: Config, expect: &str| {
        let error = start(config, link(&control)).expect_err("a refusal");
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(Config { client_address: node.client_address, ..config() }, "stop what listens there");
    check(Config { admin_address: node.admin_address, ..config() }, "admin address");
    check(Config { client_address: ([192, 0, 2, 1], 0).into(), ..config() }, "choose one of this machine");
    check(Config { connections_max: Some(u32::MAX), ..config() }, "ulimit");
    let error = start(Config { ring_slots: 1, ..config() }, link(&control)).expect_err("a refusal");
    assert!(matches!(error, StartError::Limits(_)), "{error}");
    stop(node);
}
