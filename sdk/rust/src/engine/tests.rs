//! The engine as a whole: a simulation against a model of a node, and scripts for what the simulation does not reach.

mod bench;
#[path = "../../tests/shell/node.rs"]
mod node;
mod reads;
mod script;
mod simulation;

use super::*;

fn config() -> Config {
    Config {
        agent: "test".into(),
        endpoints: vec!["ws://a".into()],
        tokens_renew: true,
        fail_fast: false,
        queue: QueueLimits { messages_max: 1_024, bytes_max: 1 << 20 },
        backoff: BackoffLimits { first: Duration::from_millis(100), max: Duration::from_secs(20) },
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(30),
        send_timeout: None,
        close_timeout: Duration::from_secs(5),
    }
}

fn engine_at(config: Config, seed: u64, now: Instant) -> Engine {
    Engine::new(config, seed, now, 1_700_000_000_000)
}
