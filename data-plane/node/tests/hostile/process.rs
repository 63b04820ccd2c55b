//! A node in a process of its own: this binary again, of which only the test in here runs.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::{Child, ChildStdout, Command, Stdio};

use millrace_data::{AdmissionLimits, Config, LinkConfig, LinkTarget, QuicAddress, QuicLimits, start};

use crate::support::{Control, SECRET, admin_at, config, metric_at, until};

/// Where the control plane of the node is that a process is to be.
const CONTROL: &str = "MILLRACE_HOSTILE_CONTROL";
/// Its [`QuicLimits::retry_above_half_open`].
const RETRY_ABOVE: &str = "MILLRACE_HOSTILE_RETRY_ABOVE";
/// What the process says before its addresses.
const TOLD: &str = "a node listens at";

/// The node, and its process, which ends with this.
pub(crate) struct Node {
    process: Child,
    /// Somebody has to hold it: the process says something at its end.
    _said: Lines<BufReader<ChildStdout>>,
    pub(crate) ws: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) quic: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(control: &Control, quic: &QuicLimits) -> Self {
        let LinkTarget::Tcp { address } = control.tcp_target() else { unreachable!("it is behind a TCP port") };
        let mut process = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "process::the_node_of_an_attack", "--nocapture"])
            .env(CONTROL, address)
            .env(RETRY_ABOVE, quic.retry_above_half_open.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let told = lines.by_ref().find_map(|line| Some(line.expect("text").strip_prefix(TOLD)?.to_owned()));
        let told = told.expect("the node starts");
        let mut addresses = told.split_whitespace().map(|address| address.parse().expect("an address"));
        let mut next = || addresses.next().expect("an address");
        let node = Self { process, _said: lines, ws: next(), tls: next(), quic: next(), admin: next() };
        until("the node is ready", || admin_at(node.admin, "/readyz").0 == 200);
        node
    }

    /// A number of the node.
    pub(crate) fn of(&self, name: &str) -> f64 {
        metric_at(self.admin, &format!("millrace_data_{name}"))
    }

    /// What it has in memory.
    pub(crate) fn resident_bytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process that has not ended");
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024.0
    }

    /// Stops it, which must go as well as ever.
    pub(crate) fn stop(mut self) {
        assert_eq!(self.process.try_wait().expect("a child"), None, "it ended by itself");
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("a child").success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // There is nothing left to end where it was stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is the node of another test, in a process that was started for that; until nobody holds its standard input any more.
#[test]
fn the_node_of_an_attack() {
    let Ok(address) = std::env::var(CONTROL) else { return };
    let retry_above_half_open = std::env::var(RETRY_ABOVE).expect("told").parse().expect("a number");
    let config = Config {
        // So that everybody meets everybody.
        shards: NonZeroU16::new(1),
        // All attackers have the address of the witnesses.
        admission: AdmissionLimits { places_max: 8_192, address_places_max: u32::MAX },
        quic: QuicLimits { retry_above_half_open, ..QuicLimits::default() },
        client_quic_address: QuicAddress::At(([127, 0, 0, 1], 0).into()),
        ..config()
    };
    let link = LinkConfig { target: LinkTarget::Tcp { address }, secret: SECRET.to_vec() };
    let node = start(config, link).expect("start");
    let (tls, quic) = (node.client_tls_address.expect("TLS"), node.client_quic_address.expect("QUIC"));
    // The harness has not ended its line.
    println!("\n{TOLD} {} {tls} {quic} {}", node.client_address, node.admin_address);
    std::io::stdout().flush().expect("somebody listens");
    std::io::stdin().lines().for_each(drop);
    crate::support::stop(node);
}
