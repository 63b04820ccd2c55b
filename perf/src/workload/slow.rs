//! One subscriber that never reads, among many that do: what it costs the others and the subject, how it ends, and whether it gets
//! everything when it comes back.
//!
//! A round has one session more than the others. In half of the rounds it reads and in the other half it never does; nothing else differs.
//! Rounds of both kinds come in pairs, every other pair the other way round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Mark, Plan};
use crate::load::{Fleet, Options, Sink};
use crate::process;
use crate::report::{self, Metric};
use crate::scenario::Slow;
use crate::subject::{Algorithm, Needs, Running};

/// So small that the system hides little of not reading.
const RECEIVE_BYTES: usize = 4096;
/// The subject's memory is read each time so many messages are out.
const MEMORY_EVERY: u32 = 20;

pub(crate) fn run(slow: &Slow, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: 1,
        history: slow.history,
        clients: slow.subscribers + 2,
        tokens: 1,
        algorithm: Algorithm::default(),
        cores: run.cores.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    (run.progress)(&format!("{} subscribers join", slow.subscribers));
    let mut room = Room::fill(slow, &running)?;
    // The first warms up: buffers grow to what a round needs.
    room.round(Reader::Reads)?;
    room.round(Reader::Reads)?;
    for pair in 0..slow.pairs {
        let first = if pair % 2 == 0 { Reader::Silent } else { Reader::Reads };
        for reader in [first, first.other()] {
            if (run.stop)() {
                return Ok(());
            }
            let round = room.round(reader)?;
            let p99 = quantile_ms(&round.latencies, 0.99);
            let grown = count_f64(round.grown_bytes) / 1024.0;
            (run.progress)(&format!(
                "pair {}, one {}: p99 {p99:.2} ms, memory +{grown:.0} KiB",
                pair + 1,
                reader.name()
            ));
            let point = [("subscribers", f64::from(slow.subscribers)), (reader.name(), 1.0)];
            let mut values: Vec<(Metric, f64)> = report::LATENCY
                .iter()
                .map(|&(metric, quantile)| (metric, quantile_ms(&round.latencies, quantile)))
                .collect();
            values.push((report::MEMORY_GROWN, grown));
            run.record(guarantee, &point, false, &values);
        }
    }
    Ok(())
}

/// What the one more session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Reads,
    Silent,
}

impl Reader {
    fn other(self) -> Self {
        match self {
            Self::Reads => Self::Silent,
            Self::Silent => Self::Reads,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Silent => "never reads",
        }
    }
}

struct Round {
    latencies: Histogram<u64>,
    /// The most that the memory of the processes with the sessions stood above where it was before.
    grown_bytes: u64,
}

struct Room<'a> {
    slow: &'a Slow,
    running: &'a Running,
    fleet: Fleet,
    sink: Arrivals,
    publisher: usize,
    published: u32,
}

impl<'a> Room<'a> {
    fn fill(slow: &'a Slow, running: &'a Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.address, running.dialect.clone())?;
        let mut sink =
            Arrivals { latencies: histogram(), delivered: 0, ready: 0, extra: None, extra_got: 0, ended: None };
        for number in 0..slow.subscribers as usize {
            fleet.open(Plan { subscribe: vec![0], ..Plan::default() })?;
            fleet.until(&mut sink, PATIENCE, "subscribers join", |_, sink| sink.ready + 64 > number)?;
        }
        let publisher = fleet.open(Plan { publish: vec![0], ..Plan::default() })?;
        let all = slow.subscribers as usize + 1;
        fleet.until(&mut sink, PATIENCE, "all join", |_, sink| sink.ready == all)?;
        Ok(Self { slow, running, fleet, sink, publisher, published: 0 })
    }

    fn round(&mut self, reader: Reader) -> Result<Round> {
        self.sink.ready = 0;
        let options = Options { receive_bytes: Some(RECEIVE_BYTES) };
        let extra = self.fleet.open_with(Plan { subscribe: vec![0], ..Plan::default() }, options)?;
        self.sink.extra = Some(extra);
        (self.sink.extra_got, self.sink.ended) = (0, None);
        self.fleet.until(&mut self.sink, PATIENCE, "one more joins", |_, sink| sink.ready == 1)?;
        let mark = self.fleet.session(extra).marks[0];
        if reader == Reader::Silent {
            self.fleet.set_reading(extra, false)?;
        }
        let round = self.publish()?;
        match reader {
            Reader::Reads => {
                let all = u64::from(self.slow.messages);
                let wait = |_: &Fleet, sink: &Arrivals| sink.extra_got == all;
                self.fleet.until(&mut self.sink, PATIENCE, "the one that reads has everything", wait)?;
                self.fleet.close(extra);
            }
            Reader::Silent => self.ends_and_comes_back(extra, mark)?,
        }
        self.sink.extra = None;
        Ok(round)
    }

    /// Publishes at the steady rate until every subscriber that reads has everything.
    fn publish(&mut self) -> Result<Round> {
        self.sink.latencies.reset();
        self.sink.delivered = 0;
        let memory = || process::private_bytes(&self.running.session_processes);
        let before = memory()?;
        let mut most = before;
        let interval = Duration::from_secs_f64(1.0 / self.slow.rate);
        let (first_ns, first) = (self.fleet.now_ns() + 1_000_000, Instant::now() + Duration::from_millis(1));
        for number in 0..self.slow.messages {
            let due = first + interval * number;
            while Instant::now() < due {
                self.fleet.turn(due, &mut self.sink)?;
            }
            let due_ns = first_ns + u64::try_from((interval * number).as_nanos())?;
            self.published += 1;
            self.fleet.publish(self.publisher, 0, self.published, self.slow.payload, due_ns);
            if number % MEMORY_EVERY == MEMORY_EVERY - 1 {
                most = most.max(memory()?);
            }
        }
        let all = u64::from(self.slow.subscribers) * u64::from(self.slow.messages);
        self.fleet.until(&mut self.sink, PATIENCE, "everything arrives", |_, sink| sink.delivered >= all)?;
        ensure!(self.sink.delivered == all, "{} deliveries, {all} expected", self.sink.delivered);
        Ok(Round { latencies: self.sink.latencies.clone(), grown_bytes: most - before })
    }

    /// The silent one reads at last: it finds the end that it was given, and a new session gets what came after its last message.
    fn ends_and_comes_back(&mut self, extra: usize, mark: Mark) -> Result<()> {
        self.fleet.set_reading(extra, true)?;
        let ended = |_: &Fleet, sink: &Arrivals| sink.ended.is_some();
        self.fleet.until(&mut self.sink, PATIENCE, "the one that never reads is ended", ended)?;
        let (code, got) = (self.sink.ended.flatten(), self.sink.extra_got);
        let all = u64::from(self.slow.messages);
        ensure!(got < all, "it was ended with {code:?}, but has all {all} messages: they were buffered somewhere");
        if let Some(expected) = self.slow.close_code {
            ensure!(code == Some(expected), "it was ended with {code:?}, not with {expected}");
        }
        let offset = mark.offset + got;
        let plan = Plan { subscribe: vec![0], resume: vec![Mark { offset, ..mark }], ..Plan::default() };
        let back = self.fleet.open(plan)?;
        self.sink.extra = Some(back);
        self.sink.extra_got = 0;
        let whole = |_: &Fleet, sink: &Arrivals| sink.extra_got >= all - got;
        self.fleet.until(&mut self.sink, PATIENCE, "it comes back and gets the rest", whole).context("resume")?;
        ensure!(
            self.sink.extra_got == all - got,
            "{} messages came again, {} were missed",
            self.sink.extra_got,
            all - got
        );
        self.fleet.close(back);
        Ok(())
    }
}

struct Arrivals {
    latencies: Histogram<u64>,
    delivered: u64,
    ready: usize,
    /// The one more session, whose messages do not count with the others'.
    extra: Option<usize>,
    extra_got: u64,
    /// How it ended: the close code, if there was one.
    ended: Option<Option<u16>>,
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        if self.extra == Some(client) {
            self.extra_got += 1;
        } else {
            self.latencies.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
            self.delivered += 1;
        }
    }

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        self.ready += usize::from(event == Event::Ready);
        Ok(())
    }

    fn closed(&mut self, client: usize, code: Option<u16>, reason: &str) -> Result<()> {
        ensure!(self.extra == Some(client), "client {client} was closed with {code:?} {reason}");
        self.ended = Some(code);
        Ok(())
    }
}
