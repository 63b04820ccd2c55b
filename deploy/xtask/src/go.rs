//! The Go SDK: format, vet, staticcheck, and its tests under the race detector, against a real server.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

/// Gets what the module needs, and builds the linter that `sdk/go/tools` pins.
pub(crate) fn setup(workspace: &Workspace) -> Result<()> {
    let found = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(found.is_ok_and(|status| status.success()), "tests need Go 1.25 or newer: install it and run again");
    workspace.step("install: Go modules", go(workspace).args(["mod", "download"]))?;
    let mut peer = go(workspace);
    peer.current_dir(workspace.path("sdk/conformance/clients/quicgo")).args(["mod", "download"]);
    workspace.step("install: Go modules of the QUIC peer", &mut peer)?;
    let mut build = go(workspace);
    build.current_dir(workspace.path("sdk/go/tools"));
    build.arg("build").arg("-o").arg(staticcheck(workspace)).arg("honnef.co/go/tools/cmd/staticcheck");
    workspace.step("install: staticcheck", &mut build)
}

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    tally.check("go: gofmt", &gofmt(workspace));
    let vet = workspace.step("go: vet", go(workspace).args(["vet", "./..."]));
    tally.check("go: vet", &vet);
    let mut lint = workspace.command(staticcheck(workspace));
    let lint = workspace.step("go: staticcheck", lint.current_dir(workspace.path("sdk/go")).arg("./..."));
    tally.check("go: staticcheck", &lint);
    workspace.build("build millrace", &["--package", "millrace"])?;
    test(workspace, tally);
    Ok(())
}

/// Counts every test and subtest, and shows what is not a success.
fn test(workspace: &Workspace, tally: &mut Tally) {
    let title = "go: tests";
    let mut command = go(workspace);
    command.args(["test", "-race", "-count=1", "-v", "./..."]);
    command.env("MILLRACE_BIN", workspace.target().join("debug/millrace"));
    let mut counts = Counts::default();
    let outcome = workspace.filtered(title, &mut command, |line| counts.line(line));
    let before = tally.failed();
    println!("{title}: {counts}");
    tally.line(&counts.to_string());
    // A package that cannot be built has no test that fails.
    if outcome.is_err() && tally.failed() == before {
        tally.check(title, &outcome);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Takes a line of `go test -v`; whether a reader wants to see it.
    fn line(&mut self, line: &str) -> bool {
        match line.trim_start() {
            rest if rest.starts_with("--- PASS: ") => self.passed += 1,
            rest if rest.starts_with("--- FAIL: ") => {
                self.failed += 1;
                return true;
            }
            rest if rest.starts_with("--- SKIP: ") => {
                self.skipped += 1;
                return true;
            }
            rest => return !rest.starts_with("=== "),
        }
        false
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

fn gofmt(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.command("gofmt");
    let output = command.current_dir(workspace.path("sdk/go")).args(["-l", "-s", "."]).output();
    let output = output.context("run gofmt")?;
    ensure!(output.status.success(), "gofmt: {}", String::from_utf8_lossy(&output.stderr));
    let unformatted = String::from_utf8_lossy(&output.stdout);
    ensure!(unformatted.is_empty(), "these files are not as gofmt writes them: {}", unformatted.trim());
    Ok(())
}

fn go(workspace: &Workspace) -> Command {
    let mut command = workspace.command("go");
    command.current_dir(workspace.path("sdk/go"));
    command
}

fn staticcheck(workspace: &Workspace) -> std::path::PathBuf {
    workspace.tools().join("bin/staticcheck")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_go_test_are_counted() {
        let mut counts = Counts::default();
        let mut check = |line, shown| assert_eq!(counts.line(line), shown, "{line}");
        check("=== RUN   TestA", false);
        check("    a_test.go:1: 3 is not 4", true);
        check("    --- PASS: TestA/one (0.00s)", false);
        check("--- FAIL: TestA (0.00s)", true);
        check("--- SKIP: TestB (0.00s)", true);
        check("FAIL", true);
        check("ok  \tmillrace.dev/go\t1.199s", true);
        assert_eq!(counts.to_string(), "1 passed, 1 failed, 1 skipped");
    }
}
