//! A clean stop: clients hear when to come back, what was delivered is stored, and it ends in time.

use std::time::{Duration, Instant};

use millrace_protocol::Code;
use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;

use crate::support::{Client, Control, Frame, PATIENCE, admin, config, door, node};

#[test]
fn clients_are_told_when_to_come_back() {
    let control = Control::new();
    let channel = control.channel("stream", HistoryClass::Windowed, &["ann"]);
    let node = node(&control, config());
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(door(&node), &control.token("ann"))).collect();
    clients[0].subscribe("stream", Start::Live);
    for sequence in 1..=10 {
        clients[0].publish(channel, 5, sequence, b"x");
    }
    for _ in 1..=10 {
        clients[0].message();
    }
    let grace = Duration::from_millis(300);
    node.drain(grace);
    for client in &mut clients {
        let (code, after_ms) = client.wait("go away", |frame| match frame {
            Frame::GoAway { code, after_ms } => Some((*code, *after_ms)),
            _ => None,
        });
        assert_eq!(Code::from_number(code), Some(Code::GoingAway));
        assert!(u128::from(after_ms) <= grace.as_millis());
    }
    let (status, text) = admin(&node, "/readyz");
    assert_eq!((status, text.as_str()), (503, "the node is stopping\n"));
    for client in &mut clients {
        assert_eq!(client.closed_with(), Some(Code::GoingAway));
    }
    let asked = Instant::now();
    node.join();
    assert!(asked.elapsed() < PATIENCE);
    assert_eq!(control.stored(channel).len(), 10, "what was delivered is stored");
}

#[test]
fn a_node_without_a_control_plane_stops_all_the_same() {
    let control = Control::new();
    control.cut();
    let mut config = config();
    config.linger = Duration::from_millis(50);
    let node = millrace_data::start(config, crate::support::link(&control)).expect("start");
    node.drain(Duration::ZERO);
    node.drain(Duration::ZERO);
    node.join();
}

#[test]
fn a_node_that_is_dropped_lets_its_port_go() {
    let control = Control::new();
    let node = node(&control, config());
    let address = door(&node);
    let mut client = Client::connect(address, &control.token("ann"));
    drop(node);
    assert_eq!(client.next(), crate::support::Got::End);
    crate::support::until("the port is free", || std::net::TcpListener::bind(address).is_ok());
}
