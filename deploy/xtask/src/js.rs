//! The TypeScript SDK: its checks, and its tests against the server of this tree.

use anyhow::{Context, Result};

use crate::run::Workspace;
use crate::tally::Tally;

const FOLDER: &str = "sdk/js";

/// Installs what the SDK is built and tested with; it needs nothing to run.
///
/// # Errors
/// If npm cannot.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let folder = workspace.path(FOLDER);
    let lock = std::fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let mut npm = workspace.command("npm");
    npm.current_dir(&folder).args(["ci", "--silent", "--no-audit", "--no-fund"]);
    workspace.step("install: npm packages of the TypeScript SDK", &mut npm)?;
    std::fs::write(stamp, lock).context("note what is installed")
}

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    workspace.build("build millrace", &["--package", "millrace"])?;
    let check = workspace.step("sdk/js: format, lints, types", &mut npm(workspace, "check"));
    tally.check("sdk/js: npm run check", &check);
    let before = tally.failed();
    let outcome = workspace.each_line("sdk/js: tests", &mut npm(workspace, "test"), |line| tally.line(line));
    // A failed test is counted by the closing line; one that dies before it has counted fails as one.
    if outcome.is_err() && tally.failed() == before {
        tally.check("sdk/js: npm test", &outcome);
    }
    Ok(())
}

fn npm(workspace: &Workspace, script: &str) -> std::process::Command {
    let mut npm = workspace.command("npm");
    npm.current_dir(workspace.path(FOLDER)).args(["run", "--silent", script]);
    npm.env("MILLRACE_BIN", workspace.target().join("debug/millrace"));
    npm
}
