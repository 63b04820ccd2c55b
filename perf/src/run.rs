//! `millrace-perf run`: scenarios by subjects, in turns, into one report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;

use crate::machine::{Cores, Machine, Seats};
use crate::report::{FORMAT, MissingSubject, Report};
use crate::scenario::{BUILT_IN, Only, Scenario};
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
    /// Only this value of one of a scenario's lists, such as rate=20; as often as needed
    #[arg(long, value_name = "LIST=VALUE", value_delimiter = ',', conflicts_with = "quick")]
    only: Vec<Only>,
    /// As little as can be, once, the first scenario over all its transports and the others over one each: to see that everything runs,
    /// and nothing to quote
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
    /// Add to the report that is in the folder, which has to be of this machine: what is measured in parts is one report in the end
    #[arg(long)]
    append: bool,
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
    let scenarios = scenarios(arguments)?;
    let seats = Seats::new(arguments.subject_cores.as_ref(), arguments.load_cores.as_ref())?;
    if seats.subject.overlaps(&seats.load) {
        eprintln!("note: subject and load share core {}: only CPU time says something of the subject", seats.load);
    }
    seats.load.pin()?;
    let mut report = begin(arguments, &scenarios, &seats)?;
    let before = report.failures.len();
    let subjects = chosen(arguments, &mut report)?;
    more_descriptors();
    let stop = stop_flag()?;
    make_folder(&arguments.out)?;
    eprintln!("    0 s  limits of this machine");
    let place = limit::Place { subject: &seats.subject, load: &seats.load, folder: &arguments.out };
    report.limits = limit::measure(place, &|what| eprintln!("note: {what}"));
    measure(arguments, &scenarios, &subjects, &seats, &stop, &mut report);
    write(arguments, &scenarios, &report)?;
    ensure!(!report.figures.is_empty(), "nothing was measured");
    let failed = report.failures.len() - before;
    ensure!(failed == 0, "{failed} of the runs failed; the report says which and why");
    Ok(())
}

/// The scenarios that were asked for, as they were asked for.
fn scenarios(arguments: &Arguments) -> Result<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for name in &arguments.scenarios {
        let mut scenario = Scenario::load(name)?;
        let is_new = scenarios.iter().all(|other| other.name != scenario.name);
        ensure!(is_new, "two scenarios are called {}: their figures would be mixed up", scenario.name);
        scenario.narrow(&arguments.only)?;
        if arguments.quick {
            scenario.workload.shrink();
            scenario.runs = 1;
            // The first over all of its transports, the others over one each, in turn.
            let place = scenarios.len() % scenario.transports.len();
            if !scenarios.is_empty() {
                scenario.transports = vec![scenario.transports[place]];
            }
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

/// A report without figures, or the one that is to be added to.
fn begin(arguments: &Arguments, scenarios: &[Scenario], seats: &Seats) -> Result<Report> {
    let titles = scenarios.iter().map(|scenario| (scenario.name.clone(), scenario.title.clone()));
    let mut report = Report {
        format: FORMAT,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: Machine::this(),
        subject_cores: seats.subject.to_string(),
        load_cores: seats.load.to_string(),
        interrupted: false,
        scenarios: titles.clone().collect(),
        subjects: Vec::new(),
        missing: Vec::new(),
        limits: Vec::new(),
        figures: Vec::new(),
        failures: Vec::new(),
    };
    let path = arguments.out.join("report.json");
    if arguments.append && path.exists() {
        let earlier = report::read(&path)?;
        let is_same = earlier.machine == report.machine
            && earlier.subject_cores == report.subject_cores
            && earlier.load_cores == report.load_cores;
        ensure!(is_same, "{} is of another machine, or of other cores of it", path.display());
        ensure!(earlier.format == FORMAT, "{} has format {}: measure anew", path.display(), earlier.format);
        report = Report { command: format!("{}\n{}", earlier.command, report.command), ..earlier };
        report.scenarios.extend(titles);
    }
    Ok(report)
}

/// Every scenario, run by run, with all subjects in turns.
fn measure(
    arguments: &Arguments,
    scenarios: &[Scenario],
    subjects: &[Box<dyn Subject>],
    seats: &Seats,
    stop: &AtomicBool,
    report: &mut Report,
) {
    let began = Instant::now();
    for scenario in scenarios {
        // Runs of a report that is added to are of other minutes.
        let earlier = report.runs_of(&scenario.name);
        for number in 1..=arguments.runs.unwrap_or(scenario.runs) {
            // Every other run the other way round, and never apart: the limit and Millrace are neighbours, so that they share a minute.
            let in_turn: Vec<_> =
                if number % 2 == 1 { subjects.iter().collect() } else { subjects.iter().rev().collect() };
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
                let number = earlier + number;
                for &transport in &scenario.transports {
                    let what = format!("{}, run {number}, {} over {transport}", scenario.name, subject.name());
                    let progress =
                        |what_now: &str| eprintln!("{:>5.0} s  {what}: {what_now}", began.elapsed().as_secs_f64());
                    let measured = without_panic(|| {
                        workload::run(&mut workload::Run {
                            scenario,
                            subject: subject.as_ref(),
                            transport,
                            number,
                            seats,
                            report,
                            progress: &progress,
                            stop: &|| stop.load(Ordering::Relaxed),
                        })
                    });
                    if let Err(error) = measured {
                        let failure = format!("{what}: {error:#}");
                        eprintln!("failed: {failure}");
                        report.failures.push(failure);
                    }
                }
            }
        }
    }
}

/// Makes an error of a panic: a fault in one run must not cost the others their report. What was recorded until then is whole, as values
/// are recorded when they are measured.
fn without_panic(run: impl FnOnce() -> Result<()>) -> Result<()> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(anyhow!("this program panicked, which is a fault in it: {}", text.unwrap_or_default()))
    })
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

fn write(arguments: &Arguments, measured: &[Scenario], report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    let path = arguments.out.join("report.json");
    std::fs::write(&path, &text).with_context(|| format!("write {}", path.display()))?;
    report::page(report, &arguments.out)?;
    if arguments.json {
        println!("{text}");
    } else {
        // Of a report in parts only this one.
        let mut part = report.clone();
        part.figures.retain(|figure| measured.iter().any(|scenario| scenario.name == figure.scenario));
        print::table(&part);
    }
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The subjects that were asked for and can run; the others are noted as missing.
fn chosen(arguments: &Arguments, report: &mut Report) -> Result<Vec<Box<dyn Subject>>> {
    let mut all = subject::all(&subject::server_binary(arguments.server.clone()));
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
                let missing = MissingSubject { name: subject.name().to_owned(), missing };
                if !report.missing.contains(&missing) {
                    report.missing.push(missing);
                }
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

/// Set by Ctrl-C, by SIGTERM, or by the end of the terminal: what is measured by then is still written. A second one ends the program and all that it started.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).context("listen for Ctrl-C")?;
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
    for subject in subject::all(&subject::server_binary(arguments.server.clone())) {
        match subject.missing() {
            None => println!("  {:20} ready", subject.name()),
            Some(missing) => println!("  {:20} missing ({}): {}", subject.name(), missing.why, missing.install),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
