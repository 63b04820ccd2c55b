//! Publishers that keep so many messages under way: acknowledged per second, and how long each took. With `echo` a client is the one
//! subscriber of its channel, and the message that comes back is what it waits for.
//!
//! Closed loop: the time is from sending to the answer, and says how long a publisher waits, not what a stall would have cost others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::{Answer, Publish};
use crate::subject::{Algorithm, Needs, Users};

pub(crate) fn run(publish: &Publish, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: publish.channels,
        history: publish.history,
        clients: publish.publishers + 1,
        users: Users::of((0..publish.publishers).map(|user| own_channels(publish, user)).collect()),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    if running.dialect.channels_max() < channels_each(publish) {
        run.cannot("it cannot be in so many channels with one client");
        return Ok(());
    }
    for &in_flight in &publish.in_flight {
        if (run.stop)() {
            return Ok(());
        }
        (run.progress)(&format!("{} publishers with {in_flight} under way each", publish.publishers));
        let mut crowd = Crowd::gather(publish, in_flight, &running)?;
        crowd.go(publish.warm_up)?;
        let watch = Stopwatch::start(&running)?;
        crowd.sink.reset();
        crowd.go(publish.measure)?;
        let answered = crowd.sink.answered;
        let cost = watch.read()?;
        crowd.finish()?;
        let (rate, cpu) = match publish.wait_for {
            Answer::Acknowledgement => (report::ACKNOWLEDGED, report::CPU_PER_PUBLISH),
            Answer::Echo => (report::ECHOES, report::CPU_PER_ECHO),
        };
        let point = [
            ("publishers", f64::from(publish.publishers)),
            ("channels", f64::from(publish.channels)),
            ("in flight each", f64::from(in_flight)),
            ("payload", count_f64(publish.payload as u64)),
        ];
        let mut values = vec![(rate, count_f64(answered) / cost.wall.as_secs_f64())];
        values.extend(cost.cpu_us_per(answered).map(|us| (cpu, us)));
        values.extend(report::LATENCY.map(|(metric, quantile)| (metric, quantile_ms(&crowd.sink.times, quantile))));
        values.extend(cost.explains());
        run.record(guarantee, &point, cost.load_bound(), &values);
    }
    Ok(())
}

/// Channels of each publisher.
fn channels_each(publish: &Publish) -> usize {
    (publish.channels / publish.publishers).max(1) as usize
}

fn own_channels(publish: &Publish, publisher: u32) -> Vec<u32> {
    let each = (publish.channels / publish.publishers).max(1);
    (0..each).map(|place| (publisher * each + place) % publish.channels).collect()
}

/// All publishers, each with its share of the channels.
struct Crowd {
    fleet: Fleet,
    clients: Vec<usize>,
    sink: Answers,
    channels_each: usize,
    in_flight: u32,
    payload: usize,
}

impl Crowd {
    fn gather(publish: &Publish, in_flight: u32, running: &crate::subject::Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.target())?;
        let mut sink = Answers {
            wait_for: publish.wait_for,
            times: histogram(),
            answered: 0,
            ready: 0,
            due: Vec::new(),
            sent: Vec::new(),
            in_flight,
            strange: 0,
        };
        let mut clients = Vec::new();
        for number in 0..publish.publishers {
            let own = own_channels(publish, number);
            let subscribe = if publish.wait_for == Answer::Echo { own.clone() } else { Vec::new() };
            clients.push(fleet.open(Plan { subscribe, publish: own, token: Some(number), ..Plan::default() })?);
            let joined = clients.len();
            fleet.until(&mut sink, PATIENCE, "publishers join", |_, sink| sink.ready == joined)?;
        }
        sink.sent = vec![None; (clients.iter().max().copied().unwrap_or_default() + 1) * in_flight as usize];
        // All of a client's places are free, in turn over its channels.
        sink.due = clients.iter().flat_map(|&client| (0..in_flight).map(move |place| (client, place))).collect();
        Ok(Self { fleet, clients, sink, channels_each: channels_each(publish), in_flight, payload: publish.payload })
    }

    /// Publishes in place of each that is answered, for a while.
    fn go(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let (mut turn, mut last_ns) = (0_usize, 0);
        while Instant::now() < end {
            let mut due = std::mem::take(&mut self.sink.due);
            for (client, place) in due.drain(..) {
                // Not the time of the one before: an echo is known by it.
                let now_ns = self.fleet.now_ns().max(last_ns + 1);
                last_ns = now_ns;
                self.sink.sent[client * self.in_flight as usize + place as usize] = Some(now_ns);
                turn = turn.wrapping_add(1);
                // A place keeps its channel, so that each channel's messages stay in order.
                let channel = place as usize % self.channels_each;
                self.fleet.publish(client, channel, place, self.payload, now_ns);
            }
            if self.sink.due.is_empty() {
                self.sink.due = due;
            }
            self.fleet.turn(end, &mut self.sink)?;
            ensure!(self.sink.strange == 0, "{} echoes of nothing that was under way", self.sink.strange);
        }
        Ok(())
    }

    /// Waits until everything under way is answered: what is not was lost.
    fn finish(&mut self) -> Result<()> {
        let all = self.clients.len() * self.in_flight as usize;
        self.fleet.until(&mut self.sink, PATIENCE, "the last answers", |_, sink| sink.due.len() >= all)?;
        ensure!(self.sink.due.len() == all, "{} answers to {all} messages", self.sink.due.len());
        Ok(())
    }
}

/// Answers, and the places that they free.
struct Answers {
    wait_for: Answer,
    times: Histogram<u64>,
    answered: u64,
    ready: usize,
    due: Vec<(usize, u32)>,
    /// When the message in each place of each client was sent, in nanoseconds; `None` once it is answered.
    sent: Vec<Option<u64>>,
    in_flight: u32,
    /// What came back and was not under way: twice, or not to who sent it.
    strange: u64,
}

impl Answers {
    fn reset(&mut self) {
        self.times.reset();
        self.answered = 0;
    }

    fn answered(&mut self, client: usize, place: u32, sent_ns: u64, now_ns: u64) {
        self.times.saturating_record((now_ns.saturating_sub(sent_ns) / 1000).max(1));
        self.answered += 1;
        self.due.push((client, place));
    }
}

impl Sink for Answers {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        if self.wait_for == Answer::Echo {
            let first = client * self.in_flight as usize;
            let places = &mut self.sent[first..first + self.in_flight as usize];
            let Some(place) = places.iter().position(|&sent| sent == Some(intended_ns)) else {
                self.strange += 1;
                return;
            };
            places[place] = None;
            self.answered(client, u32::try_from(place).unwrap_or_default(), intended_ns, now_ns);
        }
    }

    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()> {
        match event {
            Event::Ready => self.ready += 1,
            Event::Acknowledged { number } if self.wait_for == Answer::Acknowledgement => {
                ensure!(number < self.in_flight, "acknowledgement of {number}, which was not sent");
                let sent = self.sent[client * self.in_flight as usize + number as usize].take();
                let sent = sent.with_context(|| format!("{number} of client {client} is acknowledged twice"))?;
                self.answered(client, number, sent, now_ns);
            }
            Event::Acknowledged { .. } | Event::Page { .. } | Event::Busy { .. } => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(wait_for: Answer) -> Answers {
        let sent = vec![Some(100), Some(200), Some(300), Some(400)];
        Answers { wait_for, times: histogram(), answered: 0, ready: 0, due: Vec::new(), sent, in_flight: 2, strange: 0 }
    }

    #[test]
    fn an_echo_that_comes_twice_answers_nothing_else() {
        let mut sink = answers(Answer::Echo);
        sink.delivered(1, 400, 9_000);
        assert_eq!((&sink.due[..], sink.strange), (&[(1, 1)][..], 0));
        sink.delivered(1, 400, 9_000);
        sink.delivered(0, 300, 9_000);
        assert_eq!((sink.answered, sink.strange), (1, 2), "the same again, and one of somebody else");
    }

    #[test]
    fn nothing_is_acknowledged_twice() {
        let mut sink = answers(Answer::Acknowledgement);
        sink.event(0, Event::Acknowledged { number: 1 }, 9_000).expect("it was sent");
        sink.event(0, Event::Acknowledged { number: 1 }, 9_000).expect_err("it is answered");
        sink.event(0, Event::Acknowledged { number: 2 }, 9_000).expect_err("it was not sent");
        assert_eq!(sink.answered, 1);
    }
}
