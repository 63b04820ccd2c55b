//! The scenarios of `sdk/conformance`, with every SDK that can be built here.

use anyhow::Result;

use crate::run::Workspace;
use crate::tally::Tally;

/// Builds the server and the runner, and runs it; it builds the SDKs' drivers.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally, arguments: &[String]) -> Result<()> {
    let packages = ["--package", "millrace", "--package", "millrace-conformance"];
    workspace.build("build millrace and the runner", &packages)?;
    let mut runner = workspace.command(workspace.target().join("debug/millrace-conformance"));
    runner.arg("--target").arg(workspace.target()).args(arguments);
    let before = tally.failed();
    let outcome = workspace.each_line("SDK conformance", &mut runner, |line| tally.line(line));
    // A runner that dies before it has counted fails as one.
    if outcome.is_err() && tally.failed() == before {
        tally.check("SDK conformance", &outcome);
    }
    Ok(())
}
