//! Both of monoio's drivers: the choice is made once for a process, so the other one runs in a process of its own.

use std::process::Command;

use millrace_protocol::client::Start;
use millrace_protocol::node::HistoryClass;

use crate::support::{Client, Control, admin, config, door, node, stop};

const FORCE_EPOLL: &str = "MONOIO_FORCE_LEGACY_DRIVER";

/// The driver is the one that the environment and the machine lead to, and it carries messages.
#[test]
fn messages_flow_on_the_driver_of_this_process() {
    let forced = std::env::var(FORCE_EPOLL).is_ok();
    let expect = if forced || !monoio::utils::detect_uring() { "epoll" } else { "io_uring" };
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let (_, json) = admin(&node, "/v1/node");
    let shown: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    for shard in 0..2 {
        assert_eq!(shown["shards"][shard]["driver"], expect, "{json}");
    }
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(door(&node), &control.token("ann"))).collect();
    for client in &mut clients {
        client.subscribe("general", Start::Live);
    }
    for round in 1..=50_u64 {
        let request = clients[0].publish(channel, 5, round, &round.to_le_bytes());
        clients[0].acknowledged(request);
        for client in &mut clients {
            assert_eq!(client.message().body, round.to_le_bytes());
        }
    }
    stop(node);
}

/// Everything in this file's neighbours that depends on readiness, with io_uring forbidden.
#[test]
fn everything_holds_without_io_uring() {
    if std::env::var(FORCE_EPOLL).is_ok() {
        // This is the process that the test below started.
        return;
    }
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["driver::messages", "websocket::", "handshake::", "slow_reader::", "link::", "--test-threads=2"])
        .env(FORCE_EPOLL, "1")
        .output()
        .expect("start");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("driver::messages_flow_on_the_driver_of_this_process ... ok"), "{text}");
}
