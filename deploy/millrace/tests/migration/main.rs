//! A client in a network of its own whose address changes in the middle of messages, and one behind a router that forgets it: 100 times
//! each, by QUIC, with the Rust SDK. Nothing is lost, and there is no second connection.
//!
//! Server and client are in network namespaces with a cable between them, which takes root. Where that is not permitted it says so and
//! counts as skipped. This program is all three: who makes the namespaces, the `driver` in the server's, and the `client` in its own.

mod client;
mod driver;
mod nat;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

/// The cases, by the names that the last line counts.
const CASES: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["driver", client_namespace] => driver::run(client_namespace),
        ["client", url, ca, token, way] => client::run(url, ca, token, way),
        // Whatever `cargo test` was given beside: filters and flags of a harness that this is not.
        _ => all(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("migration: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the namespaces and runs the driver in one of them.
fn all() -> Result<()> {
    let network = match Network::make() {
        Ok(network) => network,
        Err(error) => {
            println!("SKIPPED: network namespaces are not permitted here: {error:#}");
            println!("0 passed, 0 failed, {CASES} skipped");
            return Ok(());
        }
    };
    let program = std::env::current_exe().context("find this program")?;
    let mut driver = Command::new("ip");
    driver.args(["netns", "exec", &network.server]).arg(program).args(["driver", &network.client]);
    let status = driver.stdin(Stdio::null()).status().context("run the driver")?;
    if status.success() {
        println!("{CASES} passed, 0 failed");
    } else {
        println!("0 passed, 1 failed");
    }
    ensure!(status.success(), "it failed ({status})");
    Ok(())
}

/// Two namespaces and a cable between them; they go with this value.
struct Network {
    server: String,
    client: String,
}

impl Network {
    fn make() -> Result<Self> {
        let own = std::process::id();
        let network = Self { server: format!("millrace-{own}-s"), client: format!("millrace-{own}-c") };
        let Self { server, client } = &network;
        ip(&["netns", "add", server])?;
        ip(&["netns", "add", client])?;
        let (far, near) = (driver::CLIENT_DEVICE, driver::SERVER_DEVICE);
        ip(&["-n", server, "link", "add", near, "type", "veth", "peer", "name", far, "netns", client])?;
        for (namespace, device) in [(server, "lo"), (client, "lo"), (server, near), (client, far)] {
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        ip(&["-n", server, "address", "add", &driver::with_prefix(driver::SERVER), "dev", near])?;
        ip(&["-n", client, "address", "add", &driver::with_prefix(driver::client(0)), "dev", far])?;
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            // One that was not made cannot be deleted.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.context("run ip, of Debian's package iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
