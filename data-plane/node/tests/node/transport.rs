//! The whole suite over each transport. Tests ask what theirs is; it is one for a process.

use std::process::Command;

use crate::support::transport::{TRANSPORTS, Transport, VARIABLE};

/// What does not concern clients, and what starts processes itself.
const ELSEWHERE: [&str; 6] = ["admin::", "driver::everything", "hostile::", "quic::", "transport::", "tls::"];

#[test]
fn everything_holds_over_every_other_transport() {
    if std::env::var(VARIABLE).is_ok() {
        return;
    }
    for transport in TRANSPORTS.iter().filter(|&&transport| transport != Transport::here()) {
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg("--test-threads=2").env(VARIABLE, transport.name());
        let elsewhere = ELSEWHERE.iter().chain(transport.skips());
        let output = command.args(elsewhere.flat_map(|part| ["--skip", part])).output().expect("start");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}\n{}", transport.name(), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("messages::"), "{}: {text}", transport.name());
    }
}
