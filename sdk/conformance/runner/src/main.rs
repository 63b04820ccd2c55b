//! Runs the scenarios with the drivers that are there. `cargo xtask sdk-conformance` calls it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use millrace_conformance::drivers::{DriverSpec, Places};
use millrace_conformance::play::Outcome;
use millrace_conformance::scenario::Scenario;
use millrace_conformance::suite::{Report, Suite};
use millrace_conformance::table;
use millrace_conformance::transport::Transport;
use millrace_conformance::trust::Trust;

/// Runs the scenarios of `sdk/conformance` with every SDK whose tools are there.
#[derive(Parser)]
#[command(name = "millrace-conformance")]
struct Arguments {
    /// The server under test; the target folder's debug build if missing
    #[arg(long, value_name = "FILE")]
    millrace: Option<PathBuf>,
    /// Cargo's target folder
    #[arg(long, value_name = "FOLDER", env = "CARGO_TARGET_DIR")]
    target: Option<PathBuf>,
    /// Only these SDKs; all in drivers.toml if missing
    #[arg(long, value_name = "NAME")]
    sdk: Vec<String>,
    /// Only over these transports, such as `quic,wss`; all that an SDK has if missing
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    transport: Vec<Transport>,
    /// Only scenarios whose name contains one of these
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Leave out scenarios that need a server of their own
    #[arg(long)]
    short: bool,
    /// Scenarios at a time
    #[arg(long, default_value_t = 8)]
    jobs: usize,
    /// How often; the first failure ends it
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Write docs/sdk-conformance.md from this run
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many failed.
fn run(arguments: &Arguments) -> Result<usize> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(3).context("the repository")?.to_path_buf();
    let target = match &arguments.target {
        Some(folder) => root.join(folder),
        None => root.join("target"),
    };
    let millrace = arguments.millrace.clone().unwrap_or_else(|| target.join("debug/millrace"));
    ensure!(millrace.is_file(), "{} is not there: cargo build -p millrace", millrace.display());
    let folder = root.join("sdk/conformance");
    let all = Scenario::load_all(&folder.join("scenarios"))?;
    let declared = DriverSpec::load_all(&folder.join("drivers.toml"))?;
    for sdk in &arguments.sdk {
        ensure!(declared.contains_key(sdk), "drivers.toml has no {sdk}");
    }

    let trust = Arc::new(Trust::new()?);
    let places = Places { root: root.clone(), target, ca: trust.ca(), spki: trust.spki.clone() };
    let wanted = if arguments.transport.is_empty() { Transport::ALL.to_vec() } else { arguments.transport.clone() };
    let mut skipped = 0;
    let mut drivers = BTreeMap::new();
    let mut hosts = Vec::new();
    for (name, spec) in &declared {
        if !arguments.sdk.is_empty() && !arguments.sdk.contains(name) {
            continue;
        }
        if let Some(program) = spec.missing() {
            println!("{name:11} not run: this machine has no {program}");
            skipped += spec.transports.iter().map(|&transport| played(&all, transport)).sum::<usize>();
            continue;
        }
        spec.build(name, &places)?;
        let mut spec = spec.clone();
        hosts.extend(spec.start_host(name, &places)?);
        drivers.insert(name.clone(), spec);
    }
    let is_wanted = |scenario: &&Scenario| {
        let by_name = arguments.scenarios.is_empty()
            || arguments.scenarios.iter().any(|part| scenario.name.contains(part.as_str()));
        by_name && !(arguments.short && scenario.server.is_own())
    };
    let scenarios: Vec<Scenario> = all.iter().filter(is_wanted).cloned().collect();
    ensure!(!scenarios.is_empty(), "no scenario has such a name");
    for &transport in drivers.values().flat_map(|spec: &DriverSpec| &spec.transports) {
        let run = if wanted.contains(&transport) { played(&scenarios, transport) } else { 0 };
        skipped += played(&all, transport) - run;
    }

    let millrace = std::path::absolute(millrace)?;
    let suite = Suite { millrace, places, drivers, scenarios, transports: wanted, trust, jobs: arguments.jobs };
    let mut reports = Vec::new();
    for _ in 0..arguments.times {
        reports = suite.run(tell);
        if reports.iter().any(|report| matches!(report.outcome, Outcome::Failed { .. })) {
            break;
        }
    }
    drop(hosts);
    let page = root.join("docs/sdk-conformance.md");
    let mut failed = reports.iter().filter(|report| matches!(report.outcome, Outcome::Failed { .. })).count();
    if arguments.write {
        let text = table::page(&all, &declared, &reports)?;
        std::fs::write(&page, text).with_context(|| format!("write {}", page.display()))?;
    } else {
        let text = std::fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
        if let Err(error) = table::check(&text, &all, &declared, &reports) {
            println!("FAILED docs/sdk-conformance.md: {error:#}");
            failed += 1;
        }
    }
    let unsupported = reports.iter().filter(|report| matches!(report.outcome, Outcome::NotSupported(_))).count();
    let passed = reports.iter().filter(|report| report.outcome == Outcome::Passed).count();
    if skipped + unsupported > 0 {
        println!("{passed} passed, {failed} failed, {} skipped", skipped + unsupported);
    } else {
        println!("{passed} passed, {failed} failed");
    }
    Ok(failed)
}

/// How many of these are played over a transport.
fn played(scenarios: &[Scenario], transport: Transport) -> usize {
    scenarios.iter().filter(|scenario| !scenario.not_over.contains_key(&transport)).count()
}

fn tell(report: &Report) {
    let Report { sdk, transport, scenario, outcome, elapsed } = report;
    let seconds = elapsed.as_secs_f32();
    let of = format!("{sdk:11} {transport:12} {scenario}");
    match outcome {
        Outcome::Passed => println!("{of}: passed ({seconds:.1} s)"),
        Outcome::NotSupported(missing) => println!("{of}: not supported, lacks {}", missing.join(", ")),
        Outcome::Failed { faults, detail } => {
            let faults = faults.join("\n  ");
            println!("{of}: FAILED ({seconds:.1} s)\n  {faults}\n{detail}");
        }
    }
}
