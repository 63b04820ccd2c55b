//! Checks of the source: format, lints, dependencies.

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    source(workspace, tally)?;
    deny(workspace, tally)
}

/// What needs no tool but Rust's own.
pub(crate) fn source(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let fmt = workspace.step("fmt", workspace.cargo().args(["fmt", "--all", "--check"]));
    tally.check("fmt", &fmt);
    let clippy = workspace.step(
        "clippy",
        workspace.cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    );
    tally.check("clippy", &clippy);
    tally.check("cores are pure", &cores_are_pure(workspace));
    Ok(())
}

/// Licences, bans and sources need nothing but the lock file. Advisories need the RustSec database, which is fetched; where it
/// cannot be, that is said aloud and is no failure of the code.
pub(crate) fn deny(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let binary = workspace.tools().join("bin/cargo-deny");
    let checked = workspace.step(
        "deny: bans, licenses, sources",
        workspace.command(&binary).args([
            "--offline",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]),
    );
    tally.check("deny", &checked);

    let fetched = workspace.step("deny: fetch the advisory database", workspace.command(&binary).args(["fetch", "db"]));
    if fetched.is_err() {
        println!("deny: ADVISORIES NOT CHECKED: the RustSec database cannot be reached from here");
        return Ok(());
    }
    let advisories = workspace.step("deny: advisories", workspace.command(&binary).args(["check", "advisories"]));
    tally.check("advisories", &advisories);
    Ok(())
}

/// What a core may never depend on, whatever depth: a runtime would bring clocks and sockets with it.
const RUNTIMES: &[&str] = &["tokio", "monoio", "mio", "rustix", "socket2"];
const CORES: &[&str] = &["millrace-protocol", "millrace-token", "millrace-domain", "millrace-core"];

/// Holds the invariant that cores name no runtime, from the dependency graph itself.
fn cores_are_pure(workspace: &Workspace) -> Result<()> {
    for core in CORES {
        let mut tree = workspace.cargo();
        tree.args(["tree", "--edges", "normal", "--prefix", "none", "--package", core]);
        let output = tree.output().context("run cargo tree")?;
        ensure!(output.status.success(), "cargo tree --package {core}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().filter_map(|line| line.split(' ').next()).find(|name| RUNTIMES.contains(name));
        ensure!(found.is_none(), "{core} is a core, but depends on {}", found.unwrap_or_default());
    }
    Ok(())
}
