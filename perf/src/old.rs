//! The benchmarks of before: ported one after the other.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::bench;
use crate::figure::{self, Figure};
use crate::server::Server;

/// Benchmarks of a Millrace node.
#[derive(Debug, Parser)]
#[command(
    name = "millrace-perf",
    after_help = "Examples:\n  cargo run --release -p millrace-perf -- --server target/release/millrace\n  \
        cargo run --release -p millrace-perf -- --server target/release/millrace --only fanout --json fanout.json"
)]
pub(crate) struct Cli {
    /// The millrace binary to measure; build it with `cargo build --release`
    #[arg(long, value_name = "BINARY")]
    server: PathBuf,
    /// Only these
    #[arg(long, value_enum)]
    only: Vec<Name>,
    /// Shards of the server
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// A tenth of the work: to see that everything runs, not to quote
    #[arg(long)]
    quick: bool,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// One message to 1,000 subscribers, at a steady rate
    Fanout,
    /// Durable publishes, one at a time and pipelined
    Publish,
    /// Connect, authenticate, subscribe, close
    Connect,
    /// Memory of sessions that only wait
    Idle,
    /// Sessions that come back with a position in ten channels
    Resume,
    /// One subscriber that never reads, among 1,000 that do
    Slow,
}

/// How much work: all of it, or enough to see that it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    divisor: usize,
}

impl Scale {
    pub(crate) fn of(self, full: usize) -> usize {
        (full / self.divisor).max(2)
    }
}

pub(crate) fn main(cli: &Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let scale = Scale { divisor: if cli.quick { 10 } else { 1 } };
    let chosen: &[Name] = if cli.only.is_empty() { Name::value_variants() } else { &cli.only };
    let (mut figures, mut failures): (Vec<Figure>, Vec<String>) = (Vec::new(), Vec::new());
    for name in chosen {
        eprintln!("{name:?} …");
        // A server of its own for each: what one leaves behind is not what the next one measures.
        let server = Server::start(&cli.server, cli.shards)?;
        let measured = runtime.block_on(async {
            match name {
                Name::Fanout => bench::fanout::run(&server, scale).await,
                Name::Publish => bench::publish::run(&server, scale).await,
                Name::Connect => bench::connect::run(&server, scale).await,
                Name::Idle => bench::idle::run(&server, scale).await,
                Name::Resume => bench::resume::run(&server, scale).await,
                Name::Slow => bench::slow::run(&server, scale).await,
            }
        });
        // What the others found is worth having all the same.
        match measured.with_context(|| format!("benchmark {name:?}")) {
            Ok(found) => figures.extend(found),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    figure::print(&figures);
    if let Some(path) = &cli.json {
        let text = serde_json::to_string_pretty(&figures).context("write figures as JSON")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
