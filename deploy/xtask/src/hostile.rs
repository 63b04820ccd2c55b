//! Clients that mean harm, for longer than the tests have time for.

use anyhow::Result;

use crate::run::Workspace;

/// How long, and which.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct How {
    /// Seconds that each attack lasts.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Those whose name contains this, such as `quic::` or `half_open`; all of them by default.
    attacks: Vec<String>,
}

/// Runs the attacks of `data-plane/node/tests/hostile`, built as a release is, and shows what the clients beside them saw and what the node
/// came to.
///
/// # Errors
/// If the node fell, grew beyond its bounds, or let its clients wait.
pub(crate) fn run(workspace: &Workspace, how: &How) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--release", "--package", "millrace-data", "--test", "hostile", "--"]);
    cargo.args(["--nocapture", "--test-threads=1"]).args(&how.attacks);
    cargo.env("MILLRACE_HOSTILE_SECONDS", how.seconds.to_string());
    workspace.step("hostile: attacks, one after the other", &mut cargo)
}
