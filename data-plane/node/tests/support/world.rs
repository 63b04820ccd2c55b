//! A world for a data node: a small control plane at the other end of its link, and clients made of our own codec.

mod client;
mod control;
pub(crate) mod quic;
pub(crate) mod transport;
pub(crate) mod web;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Frame, Got, Hello, exchange, exchange_tcp, parse_answer};
pub(crate) use control::{Control, SECRET};
use millrace_data::{Config, DataNode, LinkConfig, Pinning, QuicAddress, start};
pub(crate) use transport::{Transport, Wire, dial, dial_tcp, door, tls_config};

/// Nothing in these tests takes long; whoever waits longer waits for something that will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node of two shards on ports that the system chose, otherwise with the limits of production.
pub(crate) fn config() -> Config {
    Config {
        client_address: ([127, 0, 0, 1], 0).into(),
        client_tls_address: Some(([127, 0, 0, 1], 0).into()),
        tls: Some(tls_config()),
        // A port that the system chose for TCP may be somebody's for UDP.
        client_quic_address: match Transport::here() {
            Transport::Quic | Transport::Web => QuicAddress::At(([127, 0, 0, 1], 0).into()),
            Transport::Ws | Transport::Wss => QuicAddress::Off,
        },
        admin_address: ([127, 0, 0, 1], 0).into(),
        shards: NonZeroU16::new(2),
        // Tests of several nodes share the processors.
        pinning: Pinning::Floating,
        // Clients of these tests often just wait when their node stops.
        linger: Duration::from_millis(300),
        ..Config::default()
    }
}

/// Starts a node on this control plane and waits until it is ready.
pub(crate) fn node(control: &Control, config: Config) -> DataNode {
    let node = start(config, link(control)).expect("start");
    until("the node is ready", || admin(&node, "/readyz").0 == 200);
    node
}

pub(crate) fn link(control: &Control) -> LinkConfig {
    LinkConfig { target: control.target(), secret: SECRET.to_vec() }
}

/// Asks again until it holds; each time is a round trip or a lock, so others get their turn.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Asks the admin port: status and body.
pub(crate) fn admin(node: &DataNode, path: &str) -> (u16, String) {
    admin_at(node.admin_address, path)
}

/// The same of a node that may be in another process.
pub(crate) fn admin_at(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = client::exchange_tcp(address, request.as_bytes());
    client::parse_answer(&answer)
}

/// A number of the node, summed over its shards.
pub(crate) fn metric(node: &DataNode, name: &str) -> f64 {
    metric_at(node.admin_address, name)
}

/// The same of a node that may be in another process.
pub(crate) fn metric_at(address: SocketAddr, name: &str) -> f64 {
    let (status, text) = admin_at(address, "/metrics");
    assert_eq!(status, 200, "{text}");
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        (key.split('{').next() == Some(name)).then(|| value.parse::<f64>().expect("a number"))
    });
    values.reduce(|a, b| a + b).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
}

/// Stops a node and waits for its end.
pub(crate) fn stop(node: DataNode) {
    node.drain(Duration::ZERO);
    node.join();
}
