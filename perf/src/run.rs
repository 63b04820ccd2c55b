//! `millrace-perf run`: scenarios by subjects, in turns, into one report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::machine::{Cores, Machine};
use crate::report::{FORMAT, MissingSubject, Report};
use crate::scenario::{BUILT_IN, Scenario};
use crate::subject::millrace::{Cluster, ClusterArguments};
use crate::subject::{self, Subject};
use crate::{limit, print, report, workload};

/// What to measure, and where.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Names of scenarios (see `list`), or paths of scenario files
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Only these subjects (see `list`); all that are installed otherwise
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    subject: Vec<String>,
    /// As little as can be, once: to see that everything runs, and nothing to quote
    #[arg(long)]
    quick: bool,
    /// Times that everything is measured, in place of the scenario's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// The millrace binary to measure; the one beside this program otherwise
    #[arg(long, value_name = "BINARY")]
    server: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Cores that subjects run on, such as 0 or 0,2 or 0-3
    #[arg(long, value_name = "CORES")]
    subject_cores: Option<Cores>,
    /// Cores that the load generator runs on
    #[arg(long, value_name = "CORES")]
    load_cores: Option<Cores>,
    /// Folder for report.json and report.html
    #[arg(long, value_name = "FOLDER", default_value = "perf-results")]
    out: PathBuf,
    /// Print the report as JSON, and no table
    #[arg(long)]
    json: bool,
}

/// What `list` needs.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// The millrace binary; the one beside this program otherwise
    #[arg(long, value_name = "BINARY")]
    server: Option<PathBuf>,
}

/// Measures.
///
/// # Errors
/// When nothing could be measured, or the report cannot be written. What one subject did wrong is in the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut scenarios = arguments.scenarios.iter().map(|name| Scenario::load(name)).collect::<Result<Vec<_>>>()?;
    if arguments.quick {
        for scenario in &mut scenarios {
            scenario.workload.shrink();
            scenario.runs = 1;
        }
    }
    let (subject_cores, load_cores) = Cores::sensible()?;
    let subject_cores = arguments.subject_cores.clone().unwrap_or(subject_cores);
    let load_cores = arguments.load_cores.clone().unwrap_or(load_cores);
    if subject_cores.overlaps(&load_cores) {
        eprintln!("note: subject and load share core {load_cores}: only CPU time says something of the subject");
    }
    load_cores.pin()?;
    let mut report = Report {
        format: FORMAT,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: Machine::this(),
        subject_cores: subject_cores.to_string(),
        load_cores: load_cores.to_string(),
        interrupted: false,
        scenarios: scenarios.iter().map(|scenario| (scenario.name.clone(), scenario.title.clone())).collect(),
        subjects: Vec::new(),
        missing: Vec::new(),
        limits: Vec::new(),
        figures: Vec::new(),
        failures: Vec::new(),
    };
    let subjects = chosen(arguments, &subject_cores, &mut report)?;
    more_descriptors();
    let stop = stop_flag()?;
    let began = Instant::now();
    make_folder(&arguments.out)?;
    eprintln!("    0 s  limits of this machine");
    let place = limit::Place { subject: &subject_cores, load: &load_cores, folder: &arguments.out };
    report.limits = limit::measure(place, &|what| eprintln!("note: {what}"));
    for scenario in &scenarios {
        for number in 0..arguments.runs.unwrap_or(scenario.runs) {
            // Every other run the other way round, and never apart: the limit and Millrace are neighbours, so that they share a minute.
            let in_turn: Vec<_> =
                if number % 2 == 0 { subjects.iter().collect() } else { subjects.iter().rev().collect() };
            for subject in in_turn {
                if stop.load(Ordering::Relaxed) {
                    report.interrupted = true;
                    continue;
                }
                // A cluster is Millrace, too.
                let is_meant = |name: &str| name == subject.name() || name == "millrace" && subject.name() == "cluster";
                if !scenario.subjects.is_empty() && !scenario.subjects.iter().any(|name| is_meant(name)) {
                    continue;
                }
                let (name, subject_name) = (&scenario.name, subject.name());
                let progress = |what: &str| {
                    eprintln!(
                        "{:>5.0} s  {name}, run {}, {subject_name}: {what}",
                        began.elapsed().as_secs_f64(),
                        number + 1
                    );
                };
                let measured = workload::run(&mut workload::Run {
                    scenario,
                    subject: subject.as_ref(),
                    cores: &subject_cores,
                    report: &mut report,
                    progress: &progress,
                    stop: &|| stop.load(Ordering::Relaxed),
                });
                if let Err(error) = measured {
                    let failure = format!("{name}, run {}, {subject_name}: {error:#}", number + 1);
                    eprintln!("failed: {failure}");
                    report.failures.push(failure);
                }
            }
        }
    }
    write(arguments, &report)?;
    ensure!(!report.figures.is_empty(), "nothing was measured");
    ensure!(report.failures.is_empty(), "{} of the runs failed; the report says which and why", report.failures.len());
    Ok(())
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    let path = arguments.out.join("report.json");
    std::fs::write(&path, &text).with_context(|| format!("write {}", path.display()))?;
    report::page(report, &arguments.out)?;
    if arguments.json {
        println!("{text}");
    } else {
        print::table(report);
    }
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The subjects that were asked for and can run; the others are noted as missing.
fn chosen(arguments: &Arguments, cores: &Cores, report: &mut Report) -> Result<Vec<Box<dyn Subject>>> {
    let mut all = subject::all(&subject::server_binary(arguments.server.clone()), cores);
    if let Some(cluster) = Cluster::new(&arguments.cluster)? {
        // What is here and what is there do not share a machine: nothing else is compared unless it is asked for.
        if arguments.subject.is_empty() {
            all.clear();
        }
        all.push(Box::new(cluster));
    }
    for name in &arguments.subject {
        let known = || all.iter().map(|subject| subject.name()).collect::<Vec<_>>().join(", ");
        ensure!(all.iter().any(|subject| subject.name() == name), "no subject {name:?}; there are {}", known());
    }
    let is_asked = |subject: &dyn Subject| {
        arguments.subject.is_empty() || arguments.subject.iter().any(|name| name == subject.name())
    };
    let mut subjects = Vec::new();
    for subject in all.into_iter().filter(|subject| is_asked(subject.as_ref())) {
        match subject.missing() {
            Some(missing) => {
                eprintln!("missing: {} ({}); install it with: {}", subject.name(), missing.why, missing.install);
                report.missing.push(MissingSubject { name: subject.name().to_owned(), missing });
            }
            None => subjects.push(subject),
        }
    }
    ensure!(!subjects.is_empty(), "none of the subjects is installed");
    Ok(subjects)
}

/// As many open files as the system allows, here and in what is started from here: each client and each session is one.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, what runs out of them says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Set by Ctrl-C or SIGTERM: what is measured by then is still written. A second one ends the program and all that it started.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("listen for Ctrl-C")?;
    let told = Arc::clone(&flag);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if told.swap(true, Ordering::Relaxed) {
                    crate::process::end_all();
                    std::process::exit(130);
                }
                eprintln!("stopping; what is measured is written. Once more ends at once");
            }
        })
        .context("start the thread that listens for Ctrl-C")?;
    Ok(flag)
}

/// Prints scenarios and subjects.
///
/// # Errors
/// When a scenario that comes with the program makes no sense.
pub(crate) fn list(arguments: &ListArguments) -> Result<()> {
    println!("Scenarios:");
    for (name, _) in BUILT_IN {
        println!("  {name:20} {}", Scenario::load(name)?.title);
    }
    println!("\nSubjects:");
    let (cores, _) = Cores::sensible()?;
    for subject in subject::all(&subject::server_binary(arguments.server.clone()), &cores) {
        match subject.missing() {
            None => println!("  {:20} ready", subject.name()),
            Some(missing) => println!("  {:20} missing ({}): {}", subject.name(), missing.why, missing.install),
        }
    }
    Ok(())
}
