//! Every scenario of the benchmark as small as can be, against the bare sender and a real server: that it runs, not how fast.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

const SCENARIOS: &[&str] = &[
    "fanout",
    "rooms",
    "connect",
    "resume",
    "idle",
    "publish",
    "echo",
    "slow-reader",
    "history",
    "chat",
    "storm",
    "head-of-line",
];

pub(crate) fn smoke(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let run = run(workspace);
    tally.check("perf: every scenario runs", &run);
    Ok(())
}

fn run(workspace: &Workspace) -> Result<()> {
    workspace.build("build millrace and millrace-perf", &["--package", "millrace", "--package", "millrace-perf"])?;
    let out = workspace.target().join("perf-smoke");
    let began = Instant::now();
    let mut perf = workspace.command(workspace.target().join("debug/millrace-perf"));
    perf.arg("run").args(SCENARIOS).args(["--quick", "--subject", "bare send,millrace,quinn", "--out"]).arg(&out);
    workspace.step("perf: every scenario, small", &mut perf)?;
    let report = std::fs::read_to_string(out.join("report.json")).context("read the report")?;
    for scenario in SCENARIOS {
        let figure = format!("\"scenario\": \"{scenario}\"");
        ensure!(report.contains(&figure), "the report has no figure of {scenario}");
    }
    println!("perf: {} scenarios in {:.0} s", SCENARIOS.len(), began.elapsed().as_secs_f64());
    Ok(())
}
