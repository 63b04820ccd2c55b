//! Repository tasks. `cargo xtask test` is what CI runs: it installs what the tests need and runs all of them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod conformance;
mod console;
mod counts;
mod course;
mod fuzz;
mod go;
mod hostile;
mod js;
mod peers;
mod perf;
mod quickstart;
mod run;
mod sdk_conformance;
mod setup;
mod tally;
mod test;

use counts::Counts;
use course::Course;
use run::Workspace;
use tally::Tally;

/// Repository tasks of Millrace.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask fuzz --seconds 600 ws_frame\n  cargo xtask conformance\n  \
        cargo xtask sdk-conformance --sdk rust resume"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what tests need, then runs every check and test, as CI does.
    Test {
        /// Seconds for each fuzz target in the smoke run.
        #[arg(long, default_value_t = 5)]
        fuzz_seconds: u32,
    },
    /// The suites against a server, in two lanes, as `test` runs them: SDKs, console, quickstart, independent clients, benchmarks.
    Suites,
    /// Installs what tests need: Debian packages, Python and npm packages, Go modules, cargo-deny.
    Setup,
    /// fmt, clippy, deny.
    Check,
    /// Unit, property, integration and documentation tests.
    Unit,
    /// The Go SDK: format, vet, staticcheck, tests under the race detector.
    Go,
    /// Clients and codecs that nobody here wrote, against the WebSocket echo server and a real node.
    Conformance,
    /// The TypeScript SDK: format, lints, types, tests against a real server.
    Js,
    /// The web console: builds what the control node serves; with a flag, checks or tests it.
    Console(console::What),
    /// The scenarios that every SDK must hold, against a real server, with every SDK whose tools are there.
    SdkConformance {
        /// For the runner: `--sdk NAME`, `--short`, `--write`, names of scenarios; `--help` lists all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs fuzz targets; all of them unless named.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Targets, by file name in protocol/fuzz/fuzz_targets.
        targets: Vec<String>,
    },
    /// Attacks on a data node, each for so long: floods, fuzzed first packets, clients that acknowledge nothing. `test` has them short.
    Hostile(hostile::How),
    /// Counts the instructions of the hot paths under callgrind and compares them with perf/instructions.toml.
    Counts {
        /// Make the counts the new baseline.
        #[arg(long)]
        bless: bool,
    },
    /// Installs the servers that the benchmarks compare with, and lists which are there. Not part of `test`.
    Peers,
    /// Every block of docs/quickstart.md, executed, for each language.
    Quickstart,
    /// Every scenario of the benchmark, small: that it runs.
    PerfSmoke,
    /// Writes the generated Cap'n Proto code and the golden vectors anew.
    Generate,
}

fn main() -> ExitCode {
    let workspace = Workspace::find();
    let mut tally = Tally::default();
    let outcome = match Cli::parse().task {
        Task::Test { fuzz_seconds } => all(&workspace, &mut tally, fuzz_seconds),
        Task::Suites => {
            let mut course = Course::new(&workspace);
            suites(&mut course);
            course.finish(&mut tally)
        }
        Task::Setup => setup::everything(&workspace),
        Task::Check => check::everything(&workspace, &mut tally),
        Task::Unit => test::everything(&workspace, &mut tally),
        Task::Go => go::setup(&workspace).and_then(|()| go::everything(&workspace, &mut tally)),
        Task::Conformance => conformance::everything(&workspace, &mut tally),
        Task::Js => js::install(&workspace).and_then(|()| js::everything(&workspace, &mut tally)),
        Task::Console(what) => console::run(&workspace, &mut tally, what),
        Task::SdkConformance { arguments } => sdk_conformance::run(&workspace, &mut tally, &arguments),
        Task::Fuzz { seconds, targets } => fuzz::run(&workspace, &mut tally, seconds, &targets),
        Task::Hostile(how) => hostile::run(&workspace, &how),
        Task::Counts { bless: false } => counts::everything(&workspace, &mut tally, Counts::Compare),
        Task::Counts { bless: true } => counts::everything(&workspace, &mut tally, Counts::Bless),
        Task::Peers => peers::everything(&workspace),
        Task::Quickstart => {
            quickstart::install(&workspace).and_then(|()| quickstart::everything(&workspace, &mut tally))
        }
        Task::PerfSmoke => perf::smoke(&workspace, &mut tally),
        Task::Generate => test::generate(&workspace),
    };
    if let Err(error) = &outcome {
        eprintln!("\nerror: {error:#}");
    }
    tally.print();
    if outcome.is_ok() && tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every stage runs even if an earlier one failed: one run tells all that is wrong.
fn all(workspace: &Workspace, tally: &mut Tally, fuzz_seconds: u32) -> anyhow::Result<()> {
    let fuzz = |workspace: &Workspace, tally: &mut Tally| fuzz::run(workspace, tally, fuzz_seconds, &[]);
    let counts = |workspace: &Workspace, tally: &mut Tally| counts::everything(workspace, tally, Counts::Compare);
    let mut course = Course::new(workspace);
    // Without these, little would run.
    let is_ready = course.alone(("crates, packages", &|workspace, _| setup::sources(workspace)))
        // What waits for the network goes beside what waits for the compiler.
        && course.side_by_side(&[
            &[("tools", &|workspace, _| setup::tools(workspace))],
            &[("fmt, clippy", &check::source)],
        ]);
    if is_ready {
        // The second lane compiles with flags of its own; it has the machine when tests of the first wait.
        course.side_by_side(&[
            &[("deny", &check::deny), ("cargo test", &test::everything)],
            &[("counts", &counts), ("fuzz", &fuzz)],
        ]);
        suites(&mut course);
    }
    course.finish(tally)
}

/// What needs the programs of the workspace, or a browser.
fn suites(course: &mut Course<'_>) {
    let sdks = |workspace: &Workspace, tally: &mut Tally| sdk_conformance::run(workspace, tally, &[]);
    course.alone(("build all programs", &|workspace, _| workspace.build_all()));
    // What writes into sdk/js is all in one lane.
    course.side_by_side(&[
        &[
            ("sdk-conformance", &sdks),
            ("js", &js::everything),
            ("quickstart", &quickstart::everything),
            ("conformance", &conformance::everything),
        ],
        &[("console", &console::everything), ("go", &go::everything), ("perf smoke", &perf::smoke)],
    ]);
}
