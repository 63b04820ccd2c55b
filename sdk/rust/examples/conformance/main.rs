//! The conformance driver of the Rust SDK: commands on standard input, events on standard output, as `sdk/conformance/DRIVER.md` says.
//! It decides nothing.

mod command;
mod driver;
mod report;

use std::io::Write;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// What this SDK has beyond what every SDK must.
const CAPABILITIES: &[&str] = &[
    "fail-fast",
    "lazy",
    "token-provider",
    "endpoints",
    "pause",
    "after-offset",
    "queue",
    "window",
    "read-positions",
    "timeouts",
    "backoff",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    emit(&json!({
        "event": "ready", "protocol": 1, "sdk": "rust", "version": env!("CARGO_PKG_VERSION"), "capabilities": CAPABILITIES,
    }));
    tokio::task::LocalSet::new()
        .run_until(async {
            let driver = driver::Driver::default();
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) = lines.next_line().await? {
                driver.begin(&line);
            }
            // Nobody listens any more: end without a word, whatever is open.
            std::process::exit(0)
        })
        .await
}

/// Writes one event. The runner always reads, so that this does not wait for long.
fn emit(event: &Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{event}").and_then(|()| out.flush()).is_err() {
        // The runner has gone.
        std::process::exit(0);
    }
}
