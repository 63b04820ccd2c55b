//! Clients that mean harm, for longer than the tests have time for.

use anyhow::Result;

use crate::run::Workspace;

/// How long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct How {
    /// Seconds that each attack lasts.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Runs each attack of `data-plane/node/tests/node/hostile.rs` by itself, and shows what the clients beside it saw.
///
/// # Errors
/// If the node fell, grew beyond its bounds, or let its clients wait.
pub(crate) fn run(workspace: &Workspace, how: How) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "test",
        "--package",
        "millrace-data",
        "--test",
        "node",
        "--",
        "hostile::",
        "--nocapture",
        "--test-threads=1",
    ]);
    cargo.env("MILLRACE_HOSTILE_SECONDS", how.seconds.to_string());
    workspace.step("hostile: attacks, one after the other", &mut cargo)
}
