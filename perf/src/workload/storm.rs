//! Sessions that come, one after the other on many connections side by side: connect, authenticate, subscribe, close. With `channels-each`
//! and `missed` they come back instead, with a position in each channel and messages behind it that they have missed.
//!
//! Closed loop: as many are under way at any time as the scenario says. The figure is CPU time; the rate is what this machine gives both
//! sides together.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, Stopwatch, histogram, quantile_ms};
use crate::dialect::{Event, Mark, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::{Storm, Tokens};
use crate::stamp;
use crate::subject::{Algorithm, Needs, Running};

/// Sessions before those that count: caches, allocator and branch predictor settle.
const WARM_UP: u32 = 500;

pub(crate) fn run(storm: &Storm, run: &mut Run<'_>) -> Result<()> {
    if storm.missed > 0 && !run.subject.resumes() {
        return Ok(());
    }
    for (&tokens, &algorithm) in
        storm.tokens.iter().flat_map(|tokens| storm.algorithms.iter().map(move |one| (tokens, one)))
    {
        if (run.stop)() {
            return Ok(());
        }
        let needs = Needs {
            channels: storm.channels,
            history: storm.history,
            clients: storm.side_by_side * 2 + 1,
            tokens: match tokens {
                Tokens::New => storm.sessions + WARM_UP,
                Tokens::Known => 1,
            },
            algorithm,
            cores: run.cores.clone(),
        };
        let Some((running, guarantee)) = run.start(&needs)? else { continue };
        if running.dialect.channels_max() < storm.channels_each as usize {
            (run.progress)("cannot be in so many channels with one session");
            continue;
        }
        let mut gate = Gate::open(storm, &running)?;
        gate.pass(WARM_UP.min(storm.sessions))?;
        (run.progress)(&format!("{} sessions", storm.sessions));
        let watch = Stopwatch::start(&running.processes)?;
        gate.pass(storm.sessions)?;
        let cost = watch.read()?;
        let point = [
            ("channels each", f64::from(storm.channels_each)),
            ("missed in each", f64::from(storm.missed)),
            ("side by side", f64::from(storm.side_by_side)),
            (token_name(tokens, algorithm), 1.0),
        ];
        let (rate, cpu) = if storm.missed > 0 {
            (report::RESUMES, report::CPU_PER_RESUME)
        } else {
            (report::CONNECTS, report::CPU_PER_CONNECT)
        };
        let mut values = vec![(rate, f64::from(storm.sessions) / cost.wall.as_secs_f64())];
        values.extend(cost.cpu_us_per(storm.sessions.into()).map(|us| (cpu, us)));
        values.extend(cost.cpu.map(|cpu| (report::USER_SHARE, cpu.user_share() * 100.0)));
        values.extend(report::LATENCY.map(|(metric, quantile)| (metric, quantile_ms(&gate.sink.latencies, quantile))));
        values.push((report::SUBJECT_BUSY, cost.subject_busy() * 100.0));
        values.push((report::LOAD_BUSY, cost.load_busy() * 100.0));
        run.record(guarantee, &point, cost.load_busy() > 0.95, &values);
    }
    Ok(())
}

fn token_name(tokens: Tokens, algorithm: Algorithm) -> &'static str {
    match (tokens, algorithm) {
        (Tokens::New, Algorithm::EdDsa) => "new eddsa token",
        (Tokens::New, Algorithm::Hs256) => "new hs256 token",
        (Tokens::Known, Algorithm::EdDsa) => "known eddsa token",
        (Tokens::Known, Algorithm::Hs256) => "known hs256 token",
    }
}

/// Lets sessions in, so many at a time.
struct Gate<'a> {
    storm: &'a Storm,
    fleet: Fleet,
    sink: Arrivals,
    /// Where each channel stood before what is missed.
    marks: Vec<Mark>,
    /// Sessions so far: they take their channels in turn.
    passed: u32,
}

impl<'a> Gate<'a> {
    fn open(storm: &'a Storm, running: &Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.address, running.dialect.clone())?;
        let mut sink = Arrivals::default();
        let mut marks = Vec::new();
        if storm.missed > 0 {
            let publisher = fleet.open(Plan { publish: (0..storm.channels).collect(), ..Plan::default() })?;
            fleet.until(&mut sink, PATIENCE, "the publisher joins", |_, sink| sink.ready == 1)?;
            marks.clone_from(&fleet.session(publisher).marks);
            let mut number = 0;
            for _ in 0..storm.missed {
                for place in 0..storm.channels as usize {
                    number += 1;
                    fleet.publish(publisher, place, number, stamp::BYTES_MIN.max(storm.payload), 0);
                }
                let wanted = number as usize;
                fleet.until(&mut sink, PATIENCE, "messages to miss are accepted", |_, s| s.acknowledged >= wanted)?;
            }
            fleet.close(publisher);
        }
        sink.needed = (storm.channels_each * storm.missed) as usize;
        Ok(Self { storm, fleet, sink, marks, passed: 0 })
    }

    fn pass(&mut self, sessions: u32) -> Result<()> {
        self.sink.latencies.reset();
        let (mut opened, mut closed) = (0, 0);
        let mut last = Instant::now();
        while closed < sessions {
            while opened < sessions && self.fleet.len() < self.storm.side_by_side as usize {
                let plan = self.plan();
                let began_ns = self.fleet.now_ns();
                let client = self.fleet.open(plan)?;
                self.sink.begin(client, began_ns);
                opened += 1;
                self.passed += 1;
            }
            self.fleet.turn(Instant::now() + std::time::Duration::from_millis(100), &mut self.sink)?;
            for client in self.sink.done.drain(..) {
                self.fleet.close(client);
                closed += 1;
                last = Instant::now();
            }
            ensure!(last.elapsed() < PATIENCE, "after {closed} of {sessions} sessions none goes on");
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let first = self.passed * self.storm.channels_each;
        let subscribe: Vec<u32> =
            (0..self.storm.channels_each).map(|number| (first + number) % self.storm.channels).collect();
        let resume = if self.marks.is_empty() {
            Vec::new()
        } else {
            subscribe.iter().map(|&channel| self.marks[channel as usize]).collect()
        };
        Plan { subscribe, resume, ..Plan::default() }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Coming {
    began_ns: u64,
    is_ready: bool,
    arrived: usize,
}

struct Arrivals {
    /// By client.
    coming: Vec<Coming>,
    /// Missed messages that a session waits for.
    needed: usize,
    done: Vec<usize>,
    ready: usize,
    acknowledged: usize,
    latencies: Histogram<u64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let (coming, done) = (Vec::new(), Vec::new());
        Self { coming, needed: 0, done, ready: 0, acknowledged: 0, latencies: histogram() }
    }
}

impl Arrivals {
    fn begin(&mut self, client: usize, began_ns: u64) {
        if self.coming.len() <= client {
            self.coming.resize(client + 1, Coming::default());
        }
        self.coming[client] = Coming { began_ns, ..Coming::default() };
    }

    fn look(&mut self, client: usize, now_ns: u64) {
        let one = &self.coming[client];
        if one.is_ready && one.arrived == self.needed {
            self.latencies.saturating_record((now_ns.saturating_sub(one.began_ns) / 1000).max(1));
            self.done.push(client);
        }
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, _: u64, now_ns: u64) {
        self.coming[client].arrived += 1;
        self.look(client, now_ns);
    }

    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()> {
        match event {
            Event::Ready => {
                self.ready += 1;
                if let Some(one) = self.coming.get_mut(client) {
                    one.is_ready = true;
                    self.look(client, now_ns);
                }
            }
            Event::Acknowledged { .. } => self.acknowledged += 1,
            Event::Page { .. } => {}
        }
        Ok(())
    }

    fn closed(&mut self, client: usize, code: Option<u16>, reason: &str) -> Result<()> {
        Err(anyhow::anyhow!("session {client} was closed with {code:?} {reason}")).context("in the storm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_through_when_it_has_joined_and_has_all_that_it_missed() {
        let mut sink = Arrivals { needed: 2, ..Arrivals::default() };
        sink.begin(3, 1_000);
        sink.delivered(3, 0, 5_000);
        sink.event(3, Event::Ready, 6_000).expect("an event");
        assert!(sink.done.is_empty());
        sink.delivered(3, 0, 9_000);
        assert_eq!(sink.done, [3]);
        assert_eq!(sink.latencies.max(), 8);
        assert_eq!(sink.latencies.len(), 1);
    }
}
