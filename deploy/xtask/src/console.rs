//! The web console: its build, which is checked in, and its tests in a browser against the server of this tree.

use anyhow::{Context, Result};

use crate::js;
use crate::run::Workspace;
use crate::tally::Tally;

const FOLDER: &str = "control-plane/console";

/// What is asked of the console.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct What {
    /// Builds nothing; fails unless what is checked in is what would be built.
    #[arg(long, conflicts_with_all = ["test", "screenshots"])]
    check: bool,
    /// Runs format, lints, types and the tests in Chromium.
    #[arg(long, conflicts_with = "screenshots")]
    test: bool,
    /// Makes the pictures of the documentation anew.
    #[arg(long)]
    screenshots: bool,
}

/// Installs what the console is built and tested with.
///
/// # Errors
/// If npm cannot.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    // Its types are checked with the SDK's sources.
    js::install(workspace)?;
    let folder = workspace.path(FOLDER);
    let lock = std::fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let mut npm = workspace.command("npm");
    npm.current_dir(&folder).args(["ci", "--silent", "--no-audit", "--no-fund"]);
    // The browser is Debian's.
    npm.env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
    workspace.step("install: npm packages of the console", &mut npm)?;
    std::fs::write(stamp, lock).context("note what is installed")
}

/// The command: without flags, it builds.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally, what: What) -> Result<()> {
    install(workspace)?;
    if what.check {
        check(workspace, tally);
    } else if what.test {
        tests(workspace, tally)?;
    } else if what.screenshots {
        build_server(workspace)?;
        workspace.step("console: screenshots", &mut npm(workspace, "screenshots"))?;
    } else {
        workspace.step("console: build", &mut npm(workspace, "build"))?;
    }
    Ok(())
}

/// What CI runs.
pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    check(workspace, tally);
    tests(workspace, tally)
}

fn check(workspace: &Workspace, tally: &mut Tally) {
    let mut build = npm(workspace, "build");
    let built = workspace.step("console: what is checked in is what the source makes", build.args(["--", "--check"]));
    tally.check("console: dist", &built);
}

fn tests(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    build_server(workspace)?;
    let check = workspace.step("console: format, lints, types", &mut npm(workspace, "check"));
    tally.check("console: npm run check", &check);
    let before = tally.failed();
    let outcome =
        workspace.each_line("console: tests in Chromium", &mut npm(workspace, "test"), |line| tally.line(line));
    // A failed test is counted by the closing line; one that dies before it has counted fails as one.
    if outcome.is_err() && tally.failed() == before {
        tally.check("console: npm test", &outcome);
    }
    Ok(())
}

fn build_server(workspace: &Workspace) -> Result<()> {
    workspace.build("build millrace", &["--package", "millrace"])
}

fn npm(workspace: &Workspace, script: &str) -> std::process::Command {
    let mut npm = workspace.command("npm");
    npm.current_dir(workspace.path(FOLDER)).args(["run", "--silent", script]);
    npm.env("MILLRACE_BIN", workspace.target().join("debug/millrace"));
    npm
}
