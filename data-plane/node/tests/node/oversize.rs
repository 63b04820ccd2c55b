//! Bodies and names over their limits: the request is refused, the session goes on, and the answer stays small.

use millrace_protocol::Code;
use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, PAYLOAD_BYTES_CAP, Start};
use millrace_protocol::node::HistoryClass;

use crate::support::{Client, Control, config, door, metric, node, stop};

/// What a publish or a subscribe takes beside its body or name.
const REST_BYTES: usize = 128;

#[test]
fn a_body_too_large_costs_the_publish_alone() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    let mut limits = config();
    limits.core.payload_bytes_max = 1_000;
    let node = node(&control, limits);
    let mut client = Client::connect(door(&node), &control.token("ann"));
    client.subscribe("general", Start::Attach);
    for bytes in [1_001, PAYLOAD_BYTES_CAP, PAYLOAD_BYTES_CAP + 1, CLIENT_FRAME_BYTES_MAX - REST_BYTES] {
        let asked = client.publish(channel, 7, 1, &vec![b'x'; bytes]);
        assert_eq!(client.answered(asked), Err(Code::TooLarge.number()), "{bytes} bytes");
    }
    // No number was used up.
    let asked = client.publish(channel, 7, 1, &[b'x'; 1_000]);
    assert_eq!(client.acknowledged(asked).position.offset, 1);
    stop(node);
}

/// Replies are bounded in count: they must not be as long as a stranger likes.
#[test]
fn a_name_too_long_is_not_sent_back_whole() {
    const TRIES: usize = 20;
    let control = Control::new();
    let node = node(&control, config());
    let mut client = Client::connect(door(&node), &control.token("ann"));
    let before = metric(&node, "millrace_data_outbound_bytes_total");
    let name = "ü".repeat((CLIENT_FRAME_BYTES_MAX - REST_BYTES) / 2);
    for _ in 0..TRIES {
        client.subscribe_refused(&name, Code::TooLarge);
    }
    let answered = metric(&node, "millrace_data_outbound_bytes_total") - before;
    assert!(answered > 0.0 && answered < (TRIES * 512) as f64, "{answered} bytes for {TRIES} errors");
    stop(node);
}
