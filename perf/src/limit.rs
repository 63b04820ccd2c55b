//! What this machine can do at best, one thing at a time: the limits that figures are read beside. The bare senders are limits too, but of
//! a whole scenario, so they are subjects.
//!
//! CPU time is read from the same books as a subject's. Each probe runs in rounds: the figure is their middle, the spread their extremes.

mod clock;
mod disk;
mod seal;
mod socket;
mod wake;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::machine::Cores;
use crate::print;
use crate::report::{Figure, Report, median};
use crate::transport::OVER_QUIC;

/// Rounds of a probe.
const ROUNDS: usize = 5;

const SYSTEM_CALL: &str = "system call";
const TCP_SEND: &str = "tcp send, 170 B";
const UDP_SEND: &str = "udp send, 1200 B";
const UDP_SEND_GSO: &str = "udp send, 1200 B, GSO";
const UDP_SEND_SEALED: &str = "udp send, 250 B, sealed";
const ACCEPT: &str = "accept and close";
const WAKE_COST: &str = "wake another core";
const WAKE_DELAY: &str = "woken after";
const SEAL_MESSAGE: &str = "AES-128-GCM seal, 170 B";
const SEAL_PACKET: &str = "AES-128-GCM seal, 1200 B";
const FLUSH_P50: &str = "fdatasync of 4 KiB, p50";
const FLUSH_P99: &str = "fdatasync of 4 KiB, p99";

/// One limit of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) name: String,
    /// The middle of the rounds.
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// The lowest and the highest round.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Where limits are measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Cores of what is measured.
    pub(crate) subject: &'a Cores,
    /// Cores of the other end.
    pub(crate) load: &'a Cores,
    /// A folder on the disk that is measured.
    pub(crate) folder: &'a Path,
}

/// Values of rounds, one list for each name.
type Rounds = Vec<(&'static str, &'static str, Vec<f64>)>;

/// Measures one or more limits, on a thread of its own that runs on the subject's cores.
type Probe = fn(Place<'_>) -> Result<Rounds>;

/// Probes in the order of the report. Together they take about 2 s, or 3 on a slow disk.
const PROBES: &[(&str, Probe)] = &[
    (SYSTEM_CALL, clock::system_call),
    (TCP_SEND, socket::tcp_send),
    (UDP_SEND, socket::udp_send),
    (UDP_SEND_GSO, socket::udp_send_gso),
    (UDP_SEND_SEALED, socket::udp_send_sealed),
    (ACCEPT, socket::accept),
    (WAKE_COST, wake::wake),
    (SEAL_MESSAGE, seal::seal),
    (FLUSH_P50, disk::flush),
];

/// Measures all limits. One that cannot be measured here is left out, and told with its reason.
pub(crate) fn measure(place: Place<'_>, told: &dyn Fn(&str)) -> Vec<Limit> {
    let mut limits = Vec::new();
    for (name, probe) in PROBES {
        // A thread of its own: its cores and its CPU time are then the probe's.
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                place.subject.pin()?;
                probe(place)
            });
            thread.join().unwrap_or_else(|_| Err(anyhow!("the probe panicked")))
        });
        match outcome {
            Ok(rounds) => limits.extend(rounds.into_iter().filter_map(Limit::of)),
            Err(error) => told(&format!("the limit {name:?} cannot be measured here: {error:#}")),
        }
    }
    limits
}

impl Limit {
    fn of((name, unit, rounds): (&str, &str, Vec<f64>)) -> Option<Self> {
        let low = rounds.iter().copied().reduce(f64::min)?;
        let high = rounds.iter().copied().reduce(f64::max)?;
        Some(Self { name: name.to_owned(), value: median(&rounds), unit: unit.to_owned(), low, high })
    }
}

/// What a figure is of the limit that it has by nature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beside<'a> {
    pub(crate) limit: &'a Limit,
    /// Of a time: the figure by the limit. Of a rate: how many of it come in the time of one of the limit.
    pub(crate) ratio: f64,
    is_rate: bool,
}

impl fmt::Display for Beside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = print::number(self.ratio);
        let of = if self.is_rate { "per" } else { "×" };
        write!(f, "{ratio} {of} {}", self.limit.name)
    }
}

/// The limit of the machine that a figure has by nature; the bare sender's figures are in [`Report::limit_of`].
pub(crate) fn beside<'a>(report: &'a Report, figure: &Figure) -> Option<Beside<'a>> {
    // Only those who promise it wait for the disk.
    let is_durable = figure.guarantee.contains("disk") || figure.guarantee.contains("durable");
    let is_quic = figure.point.contains_key(OVER_QUIC);
    let name = match figure.metric.as_str() {
        // A packet of its own for each is all that QUIC could do with less.
        "cpu per delivery" | "cpu per echo" if is_quic => UDP_SEND_SEALED,
        // Nothing is accepted there but datagrams.
        "cpu per connect" | "cpu per resume" if is_quic => return None,
        "cpu per connect" | "cpu per resume" => ACCEPT,
        "cpu per delivery" | "cpu per echo" if report.limit_of(figure).is_none() => TCP_SEND,
        "acknowledged" | "latency p50" if is_durable => FLUSH_P50,
        "latency p99" if is_durable => FLUSH_P99,
        _ => return None,
    };
    if figure.subject.starts_with("bare") {
        return None;
    }
    let limit = report.limits.iter().find(|limit| limit.name == name)?;
    let (value, limit_ns) = (figure.median(), ns_of(&limit.unit)? * limit.value);
    let is_rate = figure.unit == "/s";
    let ratio = if is_rate { value * limit_ns / 1e9 } else { value * ns_of(&figure.unit)? / limit_ns };
    ratio.is_finite().then_some(Beside { limit, ratio, is_rate })
}

/// Nanoseconds of a unit of time.
fn ns_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        _ => return None,
    })
}

/// What `limits` needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Cores that are measured, such as 0 or 0,2 or 0-3
    #[arg(long, value_name = "CORES")]
    subject_cores: Option<Cores>,
    /// Cores of the other end
    #[arg(long, value_name = "CORES")]
    load_cores: Option<Cores>,
    /// A folder on the disk to measure
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Print a JSON list, and no table
    #[arg(long)]
    json: bool,
}

/// Measures the limits of this machine and prints them.
///
/// # Errors
/// When the machine does not tell its cores.
pub(crate) fn main(arguments: &Arguments) -> Result<()> {
    let (subject, load) = Cores::sensible()?;
    let subject = arguments.subject_cores.as_ref().unwrap_or(&subject);
    let load = arguments.load_cores.as_ref().unwrap_or(&load);
    let limits = measure(Place { subject, load, folder: &arguments.folder }, &|what| eprintln!("{what}"));
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&limits).context("write limits as JSON")?);
    } else {
        print::limits(&limits);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
