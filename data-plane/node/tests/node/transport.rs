//! The whole suite over each transport. Tests ask what theirs is; it is one for a process.

use std::process::{Command, Output};
use std::thread;

use crate::support::transport::{TRANSPORTS, Transport, VARIABLE};

/// What does not concern clients, and what starts processes itself.
const ELSEWHERE: [&str; 5] = ["admin::", "driver::everything", "quic::", "transport::", "tls::"];

#[test]
fn everything_holds_over_every_other_transport() {
    if std::env::var(VARIABLE).is_ok() {
        return;
    }
    let others = TRANSPORTS.iter().copied().filter(|&transport| transport != Transport::here());
    // Beside each other: they wait more than they work.
    let running: Vec<_> = others.map(|transport| (transport, thread::spawn(move || run(transport)))).collect();
    for (transport, output) in running {
        let output = output.join().expect("start");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}\n{}", transport.name(), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("messages::"), "{}: {text}", transport.name());
    }
}

fn run(transport: Transport) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.arg("--test-threads=2").env(VARIABLE, transport.name());
    let elsewhere = ELSEWHERE.iter().chain(transport.skips());
    command.args(elsewhere.flat_map(|part| ["--skip", part])).output().expect("start")
}
