//! Benchmarks of real-time servers from outside: real processes, real sockets, CPU time and memory from the kernel's books, peers and the
//! bare limit in the same run. `perf/README.md` says how to read what it prints.
#![deny(unsafe_code)]

mod brake;
mod compare;
mod dialect;
mod limit;
mod load;
mod machine;
mod print;
mod process;
#[expect(unsafe_code, reason = "its buffers and options have no safe wrapper in the dependency graph")]
mod raw;
mod report;
mod run;
mod scenario;
mod stamp;
mod subject;
mod transport;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Benchmarks of Millrace, its peers and the limit of the machine.
#[derive(Debug, Parser)]
#[command(
    name = "millrace-perf",
    version,
    after_help = "Examples:\n  \
        millrace-perf list\n  \
        millrace-perf run fanout --subject millrace\n  \
        millrace-perf run fanout rooms --out results      results/report.json and results/report.html\n  \
        millrace-perf compare before/report.json after/report.json\n  \
        millrace-perf report results/report.json --svg plots\n  \
        millrace-perf run my-scenario.toml --runs 7 --server target/release/millrace"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures subjects with scenarios and writes a report
    Run(run::Arguments),
    /// Compares two reports: what got worse beyond noise (exit code 1), and what cannot be told
    Compare(compare::Arguments),
    /// Makes a page, plots or a table from a report
    Report(report::Arguments),
    /// Lists scenarios and subjects, and what is missing to run them
    List(run::ListArguments),
    /// Measures the limits of this machine alone: system calls, a disk's flush, a seal
    Limits(limit::Arguments),
    /// The bare sender: a subject of `run`, which starts it
    #[command(hide = true)]
    Bare {
        /// How it sends
        #[arg(long, value_enum)]
        ring: subject::bare::Ring,
    },
    /// Rooms over quinn: a subject of `run`, which starts it
    #[command(hide = true)]
    Quinn {
        /// Its certificate, PEM
        #[arg(long)]
        certificate: std::path::PathBuf,
        /// The key of it, PEM
        #[arg(long)]
        key: std::path::PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(arguments) => run::run(&arguments)?,
        Command::Compare(arguments) => return Ok(compare::run(&arguments)),
        Command::Report(arguments) => report::render(&arguments)?,
        Command::List(arguments) => run::list(&arguments)?,
        Command::Limits(arguments) => limit::main(&arguments)?,
        Command::Bare { ring } => subject::bare::serve(ring)?,
        Command::Quinn { certificate, key } => subject::quinn::serve(&certificate, &key)?,
    }
    Ok(ExitCode::SUCCESS)
}
