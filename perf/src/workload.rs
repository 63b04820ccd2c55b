//! What is done to a subject, one file each, and what they share.

pub(crate) mod fanout;
pub(crate) mod history;
pub(crate) mod idle;
pub(crate) mod mix;
pub(crate) mod publish;
pub(crate) mod saturation;
pub(crate) mod slow;
pub(crate) mod storm;

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::machine::Cores;
use crate::process::{self, Cpu};
use crate::report::{self, Entry, Metric, Report};
use crate::scenario::{Scenario, Workload};
use crate::subject::{Needs, Running, Subject};

/// Longer than this without what was waited for is a fault, not a figure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One run of a scenario against one subject, and where its figures go.
pub(crate) struct Run<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) subject: &'a dyn Subject,
    pub(crate) cores: &'a Cores,
    pub(crate) report: &'a mut Report,
    /// Says what is being done, for those who watch.
    pub(crate) progress: &'a dyn Fn(&str),
    /// Asked between steps: a person wants to stop.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

/// Runs the scenario's workload once.
///
/// # Errors
/// When the subject does not start, refuses something or falls silent.
pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    let scenario = run.scenario;
    match &scenario.workload {
        Workload::Fanout(fanout) => fanout::run(fanout, run),
        Workload::Storm(storm) => storm::run(storm, run),
        Workload::Idle(idle) => idle::run(idle, run),
        Workload::Publish(publish) => publish::run(publish, run),
        Workload::Slow(slow) => slow::run(slow, run),
        Workload::History(paging) => history::run(paging, run),
        Workload::Mix(mix) => mix::run(mix, run),
    }
}

impl Run<'_> {
    /// Starts the subject; `None` if it has no such class of history.
    pub(crate) fn start(&mut self, needs: &Needs) -> Result<Option<(Running, &'static str)>> {
        let Some(guarantee) = self.subject.guarantee(needs.history) else { return Ok(None) };
        let running = self.subject.start(needs)?;
        let info = report::SubjectInfo { name: self.subject.name().to_owned(), version: running.version.clone() };
        if !self.report.subjects.contains(&info) {
            self.report.subjects.push(info);
        }
        Ok(Some((running, guarantee)))
    }

    /// Puts values of this run into the report.
    pub(crate) fn record(
        &mut self,
        guarantee: &str,
        point: &[(&str, f64)],
        load_bound: bool,
        values: &[(Metric, f64)],
    ) {
        let entry = Entry { scenario: &self.scenario.name, subject: self.subject.name(), guarantee, point, load_bound };
        for &(metric, value) in values {
            // Of a subject that runs elsewhere nothing is known.
            if metric == report::SUBJECT_BUSY && value <= 0.0 {
                continue;
            }
            self.report.record(&entry, metric, value);
        }
    }
}

/// What a stretch of time cost both sides.
pub(crate) struct Stopwatch<'a> {
    processes: &'a [u32],
    began: Instant,
    cpu: Cpu,
    load: Duration,
}

/// The reading of a [`Stopwatch`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of the subject; `None` if it runs elsewhere.
    pub(crate) cpu: Option<Cpu>,
    /// CPU time of the load generator's thread.
    pub(crate) load: Duration,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn start(processes: &'a [u32]) -> Result<Self> {
        let (cpu, load) = (process::cpu(processes)?, process::thread_cpu());
        Ok(Self { processes, began: Instant::now(), cpu, load })
    }

    pub(crate) fn read(&self) -> Result<Cost> {
        let wall = self.began.elapsed();
        let cpu = process::cpu(self.processes)?.since(self.cpu);
        let cpu = (!self.processes.is_empty()).then_some(cpu);
        Ok(Cost { wall, cpu, load: process::thread_cpu().saturating_sub(self.load) })
    }
}

impl Cost {
    /// Microseconds of the subject's CPU per one of `count`.
    pub(crate) fn cpu_us_per(&self, count: u64) -> Option<f64> {
        let cpu = self.cpu?;
        (count > 0).then(|| cpu.total.as_secs_f64() * 1e6 / count_f64(count))
    }

    /// Share of its core that the load generator was busy, 0 to 1.
    pub(crate) fn load_busy(&self) -> f64 {
        self.load.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// CPU time of the subject per time that passed; above 1 if it has several cores.
    pub(crate) fn subject_busy(&self) -> f64 {
        self.cpu.map_or(0.0, |cpu| cpu.total.as_secs_f64() / self.wall.as_secs_f64().max(1e-9))
    }
}

/// Times from a microsecond to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are right")
}

/// A quantile of a histogram of microseconds, in milliseconds.
pub(crate) fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    count_f64(histogram.value_at_quantile(quantile)) / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "figures are read to three digits")]
pub(crate) fn count_f64(count: u64) -> f64 {
    count as f64
}
