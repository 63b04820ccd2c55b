//! Fuzz targets, on stable Rust: `protocol/fuzz` is a workspace of its own, whose configuration turns coverage on.

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

/// Runs each target for so many seconds; all of them if none is named.
///
/// # Errors
/// If a named target does not exist. A target that crashes is counted as failed.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally, seconds: u32, named: &[String]) -> Result<()> {
    let known = targets(workspace)?;
    for name in named {
        ensure!(known.contains(name), "there is no fuzz target {name}; there are {}", known.join(", "));
    }
    let chosen = if named.is_empty() { &known } else { named };
    let folder = workspace.path("protocol/fuzz");
    let build = workspace.step(
        "fuzz: build",
        workspace.cargo().current_dir(&folder).env("CARGO_TARGET_DIR", target(workspace)).args([
            "build",
            "--quiet",
            "--release",
            "--bins",
        ]),
    );
    if build.is_err() {
        tally.check("fuzz: build", &build);
        return Ok(());
    }
    for name in chosen {
        let findings = workspace.tools().join("fuzz").join(name);
        std::fs::create_dir_all(&findings).with_context(|| format!("create {}", findings.display()))?;
        let mut cargo = workspace.cargo();
        cargo.current_dir(&folder).env("CARGO_TARGET_DIR", target(workspace));
        cargo.args(["run", "--quiet", "--release", "--bin", name, "--"]).arg(&findings);
        let corpus = folder.join("corpus").join(name);
        if corpus.is_dir() {
            cargo.arg(corpus);
        }
        cargo.arg(format!("-max_total_time={seconds}")).args([
            "-rss_limit_mb=2048",
            "-timeout=5",
            "-print_final_stats=1",
        ]);
        cargo.arg(format!("-artifact_prefix={}/crash-", findings.display()));
        let outcome = workspace.step(&format!("fuzz: {name}, {seconds} s"), &mut cargo);
        tally.check(&format!("fuzz {name}"), &outcome);
    }
    Ok(())
}

fn target(workspace: &Workspace) -> std::path::PathBuf {
    workspace.tools().join("fuzz-build")
}

fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.path("protocol/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list fuzz targets")?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
