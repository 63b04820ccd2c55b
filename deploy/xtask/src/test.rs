//! Tests that cargo runs, and what they compare with.

use anyhow::Result;

use crate::run::Workspace;
use crate::tally::Tally;

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    // A failed test is counted by its own line; the outcome of the runner adds the case that nothing was run at all.
    let outcome = workspace.each_line("unit, property and integration tests", &mut cargo, |line| tally.line(line));
    if outcome.is_err() && tally.failed() == 0 {
        tally.check("cargo test", &outcome);
    }
    Ok(())
}

/// Writes what tests compare with: generated code and golden vectors.
pub(crate) fn generate(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--package", "millrace-protocol"]).env("BLESS", "1");
    workspace.step("generate code and vectors", &mut cargo)
}
