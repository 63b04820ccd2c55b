//! What is done to a subject, one file each, and what they share.

pub(crate) mod cut;
pub(crate) mod fanout;
pub(crate) mod fill;
pub(crate) mod history;
pub(crate) mod idle;
pub(crate) mod ledger;
pub(crate) mod lossy;
pub(crate) mod mix;
pub(crate) mod publish;
pub(crate) mod saturation;
pub(crate) mod slow;
pub(crate) mod storm;

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::brake::Brake;
use crate::machine::{Cores, Seats};
use crate::process::{Books, Cpu, Family, Turns};
use crate::report::{self, Entry, Metric, MissingSubject, Report};
use crate::scenario::{Scenario, Workload};
use crate::subject::{Missing, Needs, Running, Subject};
use crate::transport::Transport;

/// Longer than this without what was waited for is a fault, not a figure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One run of a scenario against one subject, and where its figures go.
pub(crate) struct Run<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) subject: &'a dyn Subject,
    pub(crate) transport: Transport,
    /// Which of the scenario's runs it is, from 1.
    pub(crate) number: u32,
    /// Who may run where.
    pub(crate) seats: &'a Seats,
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
    let has = run.subject.transports();
    if !has.contains(&run.transport) {
        // One that takes part in another way is there to see.
        if !scenario.transports.iter().any(|transport| has.contains(transport)) {
            run.lacks_transport();
        }
        return Ok(());
    }
    match &scenario.workload {
        Workload::Fanout(fanout) => fanout::run(fanout, run),
        Workload::Storm(storm) => storm::run(storm, run),
        Workload::Idle(idle) => idle::run(idle, run),
        Workload::Publish(publish) => publish::run(publish, run),
        Workload::Slow(slow) => slow::run(slow, run),
        Workload::History(paging) => history::run(paging, run),
        Workload::Mix(mix) => mix::run(mix, run),
        Workload::Cut(cut) => cut::run(cut, run),
        Workload::Lossy(lossy) => lossy::run(lossy, run),
    }
}

impl Run<'_> {
    /// Starts the subject; `None` if it has no such class of history.
    pub(crate) fn start(&mut self, needs: &Needs) -> Result<Option<(Running, &'static str)>> {
        let Some(guarantee) = self.subject.guarantee(needs.history) else {
            self.cannot("it does not keep messages as this asks for");
            return Ok(None);
        };
        let mut running = self.subject.start(needs)?;
        if !running.family.is_empty() && !needs.cores.overlaps(&self.seats.load) {
            running.cores = Some(needs.cores.clone());
        }
        let info = report::SubjectInfo { name: self.subject.name().to_owned(), version: running.version.clone() };
        if !self.report.subjects.contains(&info) {
            self.report.subjects.push(info);
        }
        Ok(Some((running, guarantee)))
    }

    /// Cores for a subject with so many shards; `None`, and an entry of what is missing, if there are not so many.
    pub(crate) fn cores_for(&mut self, shards: Option<u16>) -> Option<Cores> {
        let Some(shards) = shards else { return Some(self.seats.subject.clone()) };
        let found = if self.subject.takes_shards() {
            self.seats.for_shards(shards)
        } else {
            Err(Missing { why: "how many shards it has is not for this run to say".to_owned(), install: String::new() })
        };
        match found {
            Ok(cores) => Some(cores),
            Err(missing) => {
                let name = format!("{} with {shards} shard{}", self.subject.name(), if shards == 1 { "" } else { "s" });
                self.is_missing(name, missing);
                None
            }
        }
    }

    /// The report names a subject that is not reached in this way, once for all scenarios.
    fn lacks_transport(&mut self) {
        let name = format!("{} over {}", self.subject.name(), self.transport);
        let has: Vec<&str> = self.subject.transports().iter().map(|transport| transport.word()).collect();
        let why = format!("here it is measured over {} only", has.join(", "));
        self.is_missing(name, Missing { why, install: String::new() });
    }

    /// The report names a subject that cannot do what the scenario asks for: silence would look like forgetting it.
    pub(crate) fn cannot(&mut self, why: &str) {
        let name = format!("{} in {}", self.subject.name(), self.scenario.name);
        self.is_missing(name, Missing { why: why.to_owned(), install: String::new() });
    }

    fn is_missing(&mut self, name: String, missing: Missing) {
        (self.progress)(&format!("missing: {name} ({})", missing.why));
        let missing = MissingSubject { name, missing };
        if !self.report.missing.contains(&missing) {
            self.report.missing.push(missing);
        }
    }

    /// Puts values of this run into the report.
    pub(crate) fn record(
        &mut self,
        guarantee: &str,
        point: &[(&str, f64)],
        load_bound: bool,
        values: &[(Metric, f64)],
    ) {
        let point: Vec<(&str, f64)> =
            point.iter().copied().chain(self.transport.flag().map(|flag| (flag, 1.0))).collect();
        let entry = Entry {
            scenario: &self.scenario.name,
            subject: self.subject.name(),
            guarantee,
            point: &point,
            number: self.number,
            load_bound,
        };
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
    family: &'a Family,
    cores: Option<&'a Cores>,
    brake: Option<(&'a Brake, Duration)>,
    books: Books,
    began: Instant,
    idle: Option<Duration>,
    load: Turns,
}

/// The reading of a [`Stopwatch`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of the subject; `None` if it runs elsewhere.
    pub(crate) cpu: Option<Cpu>,
    /// Share of its cores that others than the subject used, 0 to 1; `None` if they are not its own, or the system does not tell.
    pub(crate) others: Option<f64>,
    /// Share of its cores that the brake took, 0 to 1; `None` if there is no brake.
    pub(crate) braked: Option<f64>,
    /// Of the load generator's thread.
    pub(crate) load: Turns,
}

/// Others who use more than this share of the subject's cores make a figure that of a noisy minute.
const OTHERS_MAX: f64 = 0.1;

/// Above this share of the time the load generator's thread had nothing left to give.
pub(crate) const LOAD_FULL: f64 = 0.95;

impl<'a> Stopwatch<'a> {
    pub(crate) fn start(running: &'a Running) -> Result<Self> {
        let (family, cores) = (&running.family, running.cores.as_ref());
        let books = family.books()?;
        let idle = cores.and_then(Cores::idle);
        let brake = running.brake.as_ref().map(|brake| (brake, brake.spent()));
        Ok(Self { family, cores, brake, books, began: Instant::now(), idle, load: Turns::of_this_thread() })
    }

    pub(crate) fn read(&self) -> Result<Cost> {
        let (wall, load) = (self.began.elapsed(), Turns::of_this_thread().since(self.load));
        let idle = self.cores.and_then(Cores::idle);
        let cpu = self.family.books_after(&self.books)?.since(&self.books);
        let braked = self.brake.map(|(brake, before)| brake.spent().saturating_sub(before));
        let whole = |cores: &Cores| (count_f64(cores.count() as u64) * wall.as_secs_f64()).max(1e-9);
        let others = self.cores.zip(self.idle.zip(idle)).map(|(cores, (before, now))| {
            let known = now.saturating_sub(before) + cpu.total + braked.unwrap_or_default();
            1.0 - known.as_secs_f64() / whole(cores)
        });
        let others = others.map(|share| share.clamp(0.0, 1.0));
        let braked = self.cores.zip(braked).map(|(cores, braked)| braked.as_secs_f64() / whole(cores));
        Ok(Cost { wall, cpu: (!self.family.is_empty()).then_some(cpu), others, braked, load })
    }
}

impl Cost {
    /// Microseconds of the subject's CPU per one of `count`.
    pub(crate) fn cpu_us_per(&self, count: u64) -> Option<f64> {
        let cpu = self.cpu?;
        (count > 0).then(|| cpu.total.as_secs_f64() * 1e6 / count_f64(count))
    }

    /// Share of the time that the load generator ran, 0 to 1.
    pub(crate) fn load_busy(&self) -> f64 {
        self.load.ran.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// Share of the time that it could have run, but somebody else had its core.
    pub(crate) fn load_waited(&self) -> f64 {
        self.load.waited.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// The load generator had no time left: it ran, or waited for its core, nearly always.
    pub(crate) fn load_bound(&self) -> bool {
        self.load_busy() + self.load_waited() > LOAD_FULL
    }

    /// CPU time of the subject per time that passed; above 1 if it has several cores.
    pub(crate) fn subject_busy(&self) -> f64 {
        self.cpu.map_or(0.0, |cpu| cpu.total.as_secs_f64() / self.wall.as_secs_f64().max(1e-9))
    }

    /// Others were on the cores of the subject or of the load generator for so long that the figures are theirs, too.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.others.is_some_and(|others| others > OTHERS_MAX) || self.load_waited() > OTHERS_MAX
    }

    /// What explains the other figures.
    pub(crate) fn explains(&self) -> Vec<(Metric, f64)> {
        let mut explains = vec![
            (report::SUBJECT_BUSY, self.subject_busy() * 100.0),
            (report::LOAD_BUSY, self.load_busy() * 100.0),
            (report::LOAD_WAITED, self.load_waited() * 100.0),
        ];
        explains.extend(self.others.map(|others| (report::OTHERS, others * 100.0)));
        explains.extend(self.braked.map(|braked| (report::BRAKED, braked * 100.0)));
        explains
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_generator_that_waits_for_its_core_is_at_its_limit_too() {
        let cost = |ran_ms, waited_ms| Cost {
            wall: Duration::from_secs(1),
            cpu: None,
            others: None,
            braked: None,
            load: Turns { ran: Duration::from_millis(ran_ms), waited: Duration::from_millis(waited_ms) },
        };
        assert!(cost(960, 0).load_bound());
        assert!(cost(500, 460).load_bound());
        assert!(!cost(500, 0).load_bound() && !cost(300, 300).load_bound());
        assert!(cost(300, 300).is_disturbed() && !cost(500, 0).is_disturbed());
        assert!(Cost { others: Some(0.2), ..cost(500, 0) }.is_disturbed());
    }
}
