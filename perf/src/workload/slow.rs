//! One subscriber that never reads, among many that do: what it costs the others and the subject, how it ends, and whether it gets
//! everything when it comes back.
//!
//! A round has one session more than the others. In half of the rounds it reads and in the other half it never does; nothing else differs.
//! Rounds of both kinds come in pairs, every other pair the other way round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::ledger::Ledger;
use super::{PATIENCE, Run, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Mark, Plan};
use crate::load::{Fleet, Options, Sink};
use crate::process;
use crate::report::{self, Metric};
use crate::scenario::Slow;
use crate::subject::{Algorithm, Needs, Running, Users};

/// So small that the system hides little of not reading.
const RECEIVE_BYTES: usize = 4096;
/// The subject's memory is read each time so many messages are out.
const MEMORY_EVERY: u32 = 20;

pub(crate) fn run(slow: &Slow, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: 1,
        history: slow.history,
        clients: slow.subscribers + 2,
        // The last of them is the one more session's.
        users: Users::of(vec![vec![0]; slow.subscribers as usize + 1]),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
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
        let mut fleet = Fleet::new(running.target())?;
        let mut sink = Arrivals::new(slow)?;
        for number in 0..slow.subscribers {
            fleet.open(Plan { subscribe: vec![0], token: Some(number), ..Plan::default() })?;
            let wait = |_: &Fleet, sink: &Arrivals| sink.ready + 64 > number as usize;
            fleet.until(&mut sink, PATIENCE, "subscribers join", wait)?;
        }
        let publisher = fleet.open(Plan { publish: vec![0], ..Plan::default() })?;
        let all = slow.subscribers as usize + 1;
        fleet.until(&mut sink, PATIENCE, "all join", |_, sink| sink.ready == all)?;
        Ok(Self { slow, running, fleet, sink, publisher, published: 0 })
    }

    fn round(&mut self, reader: Reader) -> Result<Round> {
        self.sink.ready = 0;
        let options = Options { receive_bytes: Some(RECEIVE_BYTES) };
        let token = Some(self.slow.subscribers);
        let extra = self.fleet.open_with(Plan { subscribe: vec![0], token, ..Plan::default() }, options)?;
        self.sink.extra = Some(extra);
        self.sink.begin(self.slow)?;
        self.fleet.until(&mut self.sink, PATIENCE, "one more joins", |_, sink| sink.ready == 1)?;
        let mark = self.fleet.session(extra).marks[0];
        if reader == Reader::Silent {
            self.fleet.set_reading(extra, false, &mut self.sink)?;
        }
        let round = self.publish()?;
        match reader {
            Reader::Reads => {
                let wait = |_: &Fleet, sink: &Arrivals| sink.extra_ledger.lost() == 0;
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
        // They are looked for once: it takes a moment.
        let processes = self.running.session_family.members();
        let memory = || process::private_bytes(&processes);
        let before = memory()?;
        let mut most = before;
        let interval = Duration::from_secs_f64(1.0 / self.slow.rate);
        let (first_ns, first) = (self.fleet.now_ns() + 1_000_000, Instant::now() + Duration::from_millis(1));
        (self.sink.first_ns, self.sink.interval_ns) = (first_ns, u64::try_from(interval.as_nanos())?);
        for number in 0..self.slow.messages {
            let due = first + interval * number;
            while Instant::now() < due {
                self.fleet.turn(due, &mut self.sink)?;
            }
            let due_ns = first_ns + self.sink.interval_ns * u64::from(number);
            self.published += 1;
            self.fleet.publish(self.publisher, 0, self.published, self.slow.payload, due_ns);
            if number % MEMORY_EVERY == MEMORY_EVERY - 1 {
                most = most.max(memory()?);
            }
        }
        self.fleet.until(&mut self.sink, PATIENCE, "everything arrives", |_, sink| sink.ledger.lost() == 0)?;
        self.sink.ledger.check()?;
        ensure!(self.sink.ledger.again() == 0, "{} messages came twice", self.sink.ledger.again());
        Ok(Round { latencies: self.sink.latencies.clone(), grown_bytes: most - before })
    }

    /// The silent one reads at last: it finds the end that it was given, and a new session gets what came after its last message.
    fn ends_and_comes_back(&mut self, extra: usize, mark: Mark) -> Result<()> {
        // Over QUIC it learns of its end without reading any stream.
        if self.sink.ended.is_none() {
            self.fleet.set_reading(extra, true, &mut self.sink)?;
        }
        let ended = |_: &Fleet, sink: &Arrivals| sink.ended.is_some();
        self.fleet.until(&mut self.sink, PATIENCE, "the one that never reads is ended", ended)?;
        let (code, got) = (self.sink.ended.flatten(), self.sink.extra_ledger.came());
        let all = u64::from(self.slow.messages);
        ensure!(got < all, "it was ended with {code:?}, but has all {all} messages: they were buffered somewhere");
        if let Some(expected) = self.slow.close_code {
            ensure!(code == Some(expected), "it was ended with {code:?}, not with {expected}");
        }
        // What it got it got in order and without a gap, or what is missing does not come with what comes after.
        let offset = mark.offset + got;
        let resume = vec![Mark { offset, ..mark }];
        let back = self.fleet.open(Plan {
            subscribe: vec![0],
            resume,
            token: Some(self.slow.subscribers),
            ..Plan::default()
        })?;
        self.sink.extra = Some(back);
        let whole = |_: &Fleet, sink: &Arrivals| sink.extra_ledger.lost() == 0;
        self.fleet.until(&mut self.sink, PATIENCE, "it comes back and gets the rest", whole).context("resume")?;
        let ledger = &self.sink.extra_ledger;
        ledger.check()?;
        ensure!(ledger.again() == 0, "{} messages came to it twice", ledger.again());
        self.fleet.close(back);
        Ok(())
    }
}

struct Arrivals {
    latencies: Histogram<u64>,
    /// When the messages of this round are due.
    first_ns: u64,
    interval_ns: u64,
    /// What has reached each subscriber, and the one more session, of this round's messages.
    ledger: Ledger,
    extra_ledger: Ledger,
    ready: usize,
    extra: Option<usize>,
    /// How it ended: the close code, if there was one.
    ended: Option<Option<u16>>,
}

impl Arrivals {
    fn new(slow: &Slow) -> Result<Self> {
        let (ledger, extra_ledger) = ledgers(slow)?;
        let latencies = histogram();
        Ok(Self { latencies, first_ns: 0, interval_ns: 1, ledger, extra_ledger, ready: 0, extra: None, ended: None })
    }

    /// Before a round.
    fn begin(&mut self, slow: &Slow) -> Result<()> {
        self.latencies.reset();
        (self.ledger, self.extra_ledger) = ledgers(slow)?;
        self.ended = None;
        Ok(())
    }
}

fn ledgers(slow: &Slow) -> Result<(Ledger, Ledger)> {
    let messages = slow.messages.into();
    Ok((Ledger::new(slow.subscribers.into(), messages)?, Ledger::new(1, messages)?))
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        let after_ns = intended_ns.checked_sub(self.first_ns).filter(|after_ns| after_ns % self.interval_ns == 0);
        let message = after_ns.map_or(u64::MAX, |after_ns| after_ns / self.interval_ns);
        if self.extra == Some(client) {
            self.extra_ledger.enter(0, message);
        } else {
            // Subscribers are the first clients of the fleet.
            self.ledger.enter(client as u64, message);
            self.latencies.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_gets_twice_is_not_what_another_misses() {
        let slow = Slow {
            subscribers: 2,
            messages: 2,
            rate: 10.0,
            payload: 20,
            pairs: 1,
            close_code: None,
            history: crate::subject::History::None,
        };
        let mut sink = Arrivals::new(&slow).expect("small");
        (sink.first_ns, sink.interval_ns, sink.extra) = (100, 10, Some(2));
        for (client, intended_ns) in [(0, 100), (0, 110), (0, 110), (1, 100), (2, 110)] {
            sink.delivered(client, intended_ns, 500);
        }
        assert_eq!((sink.ledger.lost(), sink.ledger.again(), sink.extra_ledger.lost()), (1, 1, 1));
        sink.ledger.check().expect("all were meant");
        sink.delivered(1, 115, 500);
        sink.ledger.check().expect_err("no message is due then");
    }
}
