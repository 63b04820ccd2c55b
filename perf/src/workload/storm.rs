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
use crate::subject::{Algorithm, Needs, Running, Users};

/// Sessions before those that count: caches, allocator and branch predictor settle. Also how many users there are where users are known:
/// all of them have been there then.
const WARM_UP_MAX: u32 = 500;

fn warm_up(storm: &Storm) -> u32 {
    WARM_UP_MAX.min(storm.sessions)
}

pub(crate) fn run(storm: &Storm, run: &mut Run<'_>) -> Result<()> {
    if storm.missed > 0 && !run.subject.resumes() {
        run.cannot("nobody can come back to what they missed");
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
            users: users(storm, tokens),
            algorithm,
            transport: run.transport,
            cores: run.seats.subject.clone(),
        };
        let Some((running, guarantee)) = run.start(&needs)? else { continue };
        if running.dialect.channels_max() < storm.channels_each as usize {
            run.cannot("it cannot be in so many channels with one session");
            continue;
        }
        let mut gate = Gate::open(storm, needs.users.tokens, &running)?;
        gate.pass(warm_up(storm))?;
        (run.progress)(&format!("{} sessions", storm.sessions));
        let watch = Stopwatch::start(&running)?;
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
        values.extend(cost.explains());
        run.record(guarantee, &point, cost.load_bound(), &values);
    }
    Ok(())
}

/// Who comes. The session with a number has the token of that number, in turn, so its channels are its user's.
fn users(storm: &Storm, tokens: Tokens) -> Users {
    let (known, sessions) = (warm_up(storm), storm.sessions + warm_up(storm));
    let (users, tokens) = match tokens {
        Tokens::NewUser => (sessions, sessions),
        Tokens::New => (known, sessions),
        Tokens::Known => (known, known),
    };
    let channels = |user: u32| {
        // A user comes again and again, each time to the channels of that session.
        let of_user = (user..sessions).step_by(users as usize);
        let mut channels: Vec<u32> = of_user.flat_map(|session| channels_of(storm, session)).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    };
    Users { channels: (0..users).map(channels).collect(), tokens }
}

fn channels_of(storm: &Storm, session: u32) -> impl Iterator<Item = u32> {
    let (first, channels) = (u64::from(session) * u64::from(storm.channels_each), u64::from(storm.channels));
    (0..u64::from(storm.channels_each)).filter_map(move |place| u32::try_from((first + place) % channels).ok())
}

fn token_name(tokens: Tokens, algorithm: Algorithm) -> &'static str {
    match (tokens, algorithm) {
        (Tokens::NewUser, Algorithm::EdDsa) => "new user with an eddsa token",
        (Tokens::NewUser, Algorithm::Hs256) => "new user with an hs256 token",
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
    /// Sessions so far: they take their channels, and their tokens, in turn.
    passed: u32,
    tokens: u32,
}

impl<'a> Gate<'a> {
    fn open(storm: &'a Storm, tokens: u32, running: &Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.target())?;
        let mut sink = Arrivals::default();
        let mut marks = Vec::new();
        if storm.missed > 0 {
            let publisher = fleet.open(Plan { publish: (0..storm.channels).collect(), ..Plan::default() })?;
            fleet.until(&mut sink, PATIENCE, "the publisher joins", |_, sink| sink.ready == 1)?;
            marks.clone_from(&fleet.session(publisher).marks);
            let mut number = 0;
            for missed in 0..storm.missed {
                for channel in 0..storm.channels {
                    number += 1;
                    let size = stamp::BYTES_MIN.max(storm.payload);
                    // What stands in place of a time says which message of which channel it is.
                    let name = u64::from(missed) * u64::from(storm.channels) + u64::from(channel);
                    fleet.publish(publisher, channel as usize, number, size, name);
                }
                let wanted = number as usize;
                fleet.until(&mut sink, PATIENCE, "messages to miss are accepted", |_, s| s.acknowledged >= wanted)?;
            }
            fleet.close(publisher);
        }
        (sink.channels, sink.missed) = (storm.channels, storm.missed);
        Ok(Self { storm, fleet, sink, marks, passed: 0, tokens })
    }

    fn pass(&mut self, sessions: u32) -> Result<()> {
        self.sink.latencies.reset();
        let (mut opened, mut closed) = (0, 0);
        let mut last = Instant::now();
        while closed < sessions {
            while opened < sessions && self.fleet.len() < self.storm.side_by_side as usize {
                let plan = self.plan();
                let (began_ns, channels) = (self.fleet.now_ns(), plan.subscribe.clone());
                let client = self.fleet.open(plan)?;
                self.sink.begin(client, began_ns, channels);
                opened += 1;
                self.passed += 1;
            }
            self.fleet.turn(Instant::now() + std::time::Duration::from_millis(100), &mut self.sink)?;
            ensure!(self.sink.strange == 0, "{} messages came twice, or not to who missed them", self.sink.strange);
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
        let subscribe: Vec<u32> = channels_of(self.storm, self.passed).collect();
        let resume = if self.marks.is_empty() {
            Vec::new()
        } else {
            subscribe.iter().map(|&channel| self.marks[channel as usize]).collect()
        };
        Plan { subscribe, resume, token: Some(self.passed % self.tokens), ..Plan::default() }
    }
}

#[derive(Debug, Clone, Default)]
struct Coming {
    began_ns: u64,
    is_ready: bool,
    channels: Vec<u32>,
    /// Whether each missed message has come, by its place among the channels and then by its age.
    arrived: Vec<bool>,
}

struct Arrivals {
    /// By client.
    coming: Vec<Coming>,
    channels: u32,
    /// Messages that a session waits for in each of its channels.
    missed: u32,
    done: Vec<usize>,
    ready: usize,
    acknowledged: usize,
    /// What came and nobody waited for.
    strange: u64,
    latencies: Histogram<u64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            coming: Vec::new(),
            channels: 0,
            missed: 0,
            done: Vec::new(),
            ready: 0,
            acknowledged: 0,
            strange: 0,
            latencies: histogram(),
        }
    }
}

impl Arrivals {
    fn begin(&mut self, client: usize, began_ns: u64, channels: Vec<u32>) {
        if self.coming.len() <= client {
            self.coming.resize(client + 1, Coming::default());
        }
        let arrived = vec![false; channels.len() * self.missed as usize];
        self.coming[client] = Coming { began_ns, is_ready: false, channels, arrived };
    }

    fn look(&mut self, client: usize, now_ns: u64) {
        let one = &self.coming[client];
        if one.is_ready && one.arrived.iter().all(|arrived| *arrived) {
            self.latencies.saturating_record((now_ns.saturating_sub(one.began_ns) / 1000).max(1));
            self.done.push(client);
        }
    }

    /// Whether this client waited for the message of this name.
    fn take(&mut self, client: usize, name: u64) -> bool {
        let channels = u64::from(self.channels.max(1));
        let (age, channel) = (name / channels, name % channels);
        let Some(one) = self.coming.get_mut(client) else { return false };
        let place = one.channels.iter().position(|own| u64::from(*own) == channel);
        let place =
            place.filter(|_| age < u64::from(self.missed)).map(|place| place as u64 * u64::from(self.missed) + age);
        let arrived = place.and_then(|place| one.arrived.get_mut(usize::try_from(place).ok()?));
        arrived.is_some_and(|arrived| !std::mem::replace(arrived, true))
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, name: u64, now_ns: u64) {
        if self.take(client, name) {
            self.look(client, now_ns);
        } else {
            self.strange += 1;
        }
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
            Event::Page { .. } | Event::Busy { .. } => {}
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

    /// Of two channels out of four, with one message missed in each.
    fn waiting() -> Arrivals {
        let mut sink = Arrivals { channels: 4, missed: 1, ..Arrivals::default() };
        sink.begin(3, 1_000, vec![3, 0]);
        sink
    }

    #[test]
    fn a_session_is_through_when_it_has_joined_and_has_all_that_it_missed() {
        let mut sink = waiting();
        sink.delivered(3, 0, 5_000);
        sink.event(3, Event::Ready, 6_000).expect("an event");
        assert!(sink.done.is_empty());
        sink.delivered(3, 3, 9_000);
        assert_eq!((&sink.done[..], sink.strange), (&[3][..], 0));
        assert_eq!(sink.latencies.max(), 8);
        assert_eq!(sink.latencies.len(), 1);
    }

    #[test]
    fn one_message_does_not_stand_for_another() {
        for (name, what) in [(0, "the same again"), (1, "of another channel"), (4, "of another age")] {
            let mut sink = waiting();
            sink.event(3, Event::Ready, 2_000).expect("an event");
            sink.delivered(3, 0, 5_000);
            sink.delivered(3, name, 6_000);
            assert_eq!((sink.strange, sink.done.len()), (1, 0), "{what}");
        }
    }

    fn storm(tokens: Tokens) -> (Storm, Users) {
        let storm = Storm {
            sessions: 2_000,
            side_by_side: 8,
            channels: 100,
            channels_each: 3,
            missed: 1,
            payload: 20,
            history: crate::subject::History::Windowed,
            tokens: vec![tokens],
            algorithms: vec![Algorithm::default()],
        };
        let users = users(&storm, tokens);
        (storm, users)
    }

    #[test]
    fn every_session_comes_as_a_member_of_its_channels() {
        for (tokens, count) in [(Tokens::NewUser, 2_500), (Tokens::New, 500), (Tokens::Known, 500)] {
            let (storm, users) = storm(tokens);
            assert_eq!(users.channels.len(), count, "{tokens:?}");
            assert_eq!(users.tokens, if tokens == Tokens::Known { 500 } else { 2_500 }, "{tokens:?}");
            for session in 0..storm.sessions + warm_up(&storm) {
                let user = (session % users.tokens) as usize % users.channels.len();
                let own = &users.channels[user];
                assert!(channels_of(&storm, session).all(|channel| own.contains(&channel)), "{tokens:?}, {session}");
            }
        }
    }
}
