//! Messages to channels, to all their subscribers, at steady rates.
//!
//! Open loop: a message's latency counts from when it should have been sent, so that a subject that stalls cannot hide it. A measurement
//! begins when all earlier messages have arrived and ends when all of its own have: CPU time is of exactly these deliveries.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::saturation::Saturation;
use super::{Cost, PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::Fanout;
use crate::subject::{Algorithm, Needs, Running};

/// Clients that connect at a time, while subscribers are brought in.
const CONNECTING_MAX: usize = 64;
/// Messages that go out in one turn of the load generator, after it was held up.
const BURST_MAX: u32 = 64;
/// Messages that have not come this long after the last was sent are lost.
const DRAIN: Duration = Duration::from_secs(3);
/// CPU time below which no share of it is told.
const SHARE_LEAST: Duration = Duration::from_secs(1);

pub(crate) fn run(fanout: &Fanout, run: &mut Run<'_>) -> Result<()> {
    for &channels in &fanout.channels {
        for &subscribers in &fanout.subscribers {
            if (run.stop)() {
                return Ok(());
            }
            population(fanout, channels, subscribers, run)?;
        }
    }
    Ok(())
}

fn population(fanout: &Fanout, channels: u32, subscribers: u32, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels,
        history: fanout.history,
        // Subscribers, and publishers where one cannot be in several channels.
        clients: channels * subscribers + channels,
        tokens: 1,
        algorithm: Algorithm::default(),
        cores: run.cores.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    (run.progress)(&format!("{} subscribers join {} channels", channels * subscribers, channels));
    let mut room = Room::fill(&running, channels, subscribers)?;
    for &payload in &fanout.payloads {
        let shape = [
            ("channels", f64::from(channels)),
            ("subscribers", f64::from(subscribers)),
            ("payload", count_f64(payload as u64)),
        ];
        for &rate in &fanout.rates {
            (run.progress)(&format!("{payload} bytes, {rate:.0}/s"));
            room.measure(&running, rate, payload, fanout.warm_up.min(fanout.measure), run.stop)?;
            let found = room.measure(&running, rate, payload, fanout.measure, run.stop)?;
            if (run.stop)() {
                // Cut short: it would tell of loss that was none.
                return Ok(());
            }
            let point: Vec<_> = shape.into_iter().chain([("rate", rate)]).collect();
            run.record(guarantee, &point, found.load_bound(), &found.values());
            if found.lost() > 0 {
                // More of the same would only show the queue of what is still on its way.
                break;
            }
        }
        if let Some(within) = fanout.saturate_until_p99
            && let Some((best, load_bound)) = saturate(fanout, &mut room, &running, payload, within, run)?
        {
            let values = [(report::SATURATION, best.deliveries), (report::SUBJECT_BUSY, best.subject_busy * 100.0)];
            run.record(guarantee, &shape, load_bound, &values);
        }
    }
    Ok(())
}

/// The best of a search so far.
#[derive(Debug, Clone, Copy)]
struct Best {
    deliveries: f64,
    subject_busy: f64,
}

/// Looks for the highest rate at which nothing is lost and p99 stays within the bound.
fn saturate(
    fanout: &Fanout,
    room: &mut Room,
    running: &Running,
    payload: usize,
    within: Duration,
    run: &Run<'_>,
) -> Result<Option<(Best, bool)>> {
    let mut search = Saturation::from(fanout.rates.last().copied().unwrap_or(1.0));
    let mut best: Option<Best> = None;
    // Whether the load generator was at its own limit where the search ended: that is not the subject's.
    let mut load_bound = false;
    while let Some(rate) = search.next() {
        let found = room.measure(running, rate, payload, fanout.measure, run.stop)?;
        if (run.stop)() {
            return Ok(None);
        }
        let held = found.lost() == 0 && quantile_ms(&found.latencies, 0.99) <= within.as_secs_f64() * 1e3;
        (run.progress)(&format!("{payload} bytes, {rate:.0}/s {}", if held { "holds" } else { "does not hold" }));
        search.tried(rate, held);
        if held {
            let deliveries = found.deliveries_per_second();
            if best.is_none_or(|best| deliveries > best.deliveries) {
                best = Some(Best { deliveries, subject_busy: found.cost.subject_busy() });
            }
        } else {
            load_bound = found.load_bound();
        }
    }
    Ok(best.map(|best| (best, load_bound)))
}

/// Subscribers in their channels, and one who publishes to all of them, or several where a client can be in few.
struct Room {
    fleet: Fleet,
    publishers: Vec<usize>,
    /// Channels of each publisher; the last has what is left.
    share: usize,
    channels: u32,
    subscribers: u32,
    sink: Arrivals,
    /// Publishes so far, in all measurements.
    published: u32,
}

impl Room {
    fn fill(running: &Running, channels: u32, subscribers: u32) -> Result<Self> {
        let mut fleet = Fleet::new(running.address, running.dialect.clone())?;
        let mut sink = Arrivals { latencies: histogram(), from_ns: u64::MAX, delivered: 0, last_ns: 0, ready: 0 };
        let total = (channels * subscribers) as usize;
        for number in 0..total {
            let channel = u32::try_from(number)? % channels;
            fleet.open(Plan { subscribe: vec![channel], ..Plan::default() })?;
            fleet.until(&mut sink, PATIENCE, "subscribers join", |_, sink| sink.ready + CONNECTING_MAX > number)?;
        }
        let published: Vec<u32> = (0..channels).collect();
        let share = running.dialect.channels_max().min(published.len());
        let mut publishers = Vec::new();
        for publish in published.chunks(share) {
            publishers.push(fleet.open(Plan { publish: publish.to_vec(), ..Plan::default() })?);
            let open = total + publishers.len();
            fleet.until(&mut sink, PATIENCE, "publishers join", |_, sink| sink.ready + CONNECTING_MAX > open)?;
        }
        let all = total + publishers.len();
        fleet.until(&mut sink, PATIENCE, "subscribers and publishers join", |_, sink| sink.ready == all)?;
        Ok(Self { fleet, publishers, share, channels, subscribers, sink, published: 0 })
    }

    /// Publishes at a rate for a while, and waits until everything has come.
    fn measure(
        &mut self,
        running: &Running,
        rate: f64,
        payload: usize,
        during: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Found> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for minutes")]
        let messages = ((rate * during.as_secs_f64()).round() as u64).max(1);
        let interval_ns = 1e9 / rate;
        let watch = Stopwatch::start(&running.processes)?;
        let first_ns = self.fleet.now_ns() + 1_000_000;
        let first = Instant::now() + Duration::from_millis(1);
        self.sink.begin(first_ns);
        let expected = messages * u64::from(self.subscribers);
        let mut late = histogram();
        let mut sent: u64 = 0;
        let mut deadline = None;
        while self.sink.delivered < expected && !stop() {
            let now_ns = self.fleet.now_ns();
            let mut burst = 0;
            while sent < messages && burst < BURST_MAX && !self.fleet.is_blocked() {
                let due_ns = first_ns + offset_ns(sent, interval_ns);
                if due_ns > now_ns {
                    break;
                }
                late.saturating_record(((now_ns - due_ns) / 1000).max(1));
                let place = usize::try_from(sent % u64::from(self.channels))?;
                self.published = self.published.wrapping_add(1);
                let (publisher, place) = (self.publishers[place / self.share], place % self.share);
                self.fleet.publish(publisher, place, self.published, payload, due_ns);
                sent += 1;
                burst += 1;
            }
            let now = Instant::now();
            let next = if sent < messages {
                first + Duration::from_nanos(offset_ns(sent, interval_ns))
            } else {
                let deadline = *deadline.get_or_insert(now + DRAIN);
                if now >= deadline {
                    break;
                }
                deadline
            };
            // What waits for room is tried again soon.
            let next = if self.fleet.is_blocked() { now + Duration::from_micros(200) } else { next };
            self.fleet.turn(next.max(now), &mut self.sink)?;
            ensure!(now < first + during * 4 + PATIENCE, "{messages} messages were not sent in time");
        }
        let cost = watch.read()?;
        // What is lost was not quick: it counts as late as it was waited for.
        let lost = expected.saturating_sub(self.sink.delivered);
        let waited_us = u64::try_from(DRAIN.as_micros()).unwrap_or(u64::MAX);
        self.sink.latencies.saturating_record_n(waited_us, if stop() { 0 } else { lost });
        Ok(Found {
            latencies: self.sink.latencies.clone(),
            late,
            expected,
            delivered: self.sink.delivered,
            during: Duration::from_nanos(self.sink.last_ns.saturating_sub(first_ns)),
            cost,
        })
    }
}

fn offset_ns(number: u64, interval_ns: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for minutes")]
    let offset = (count_f64(number) * interval_ns) as u64;
    offset
}

/// Counts what comes.
struct Arrivals {
    latencies: Histogram<u64>,
    /// Messages meant to be sent before this belong to an earlier measurement.
    from_ns: u64,
    delivered: u64,
    last_ns: u64,
    ready: usize,
}

impl Arrivals {
    fn begin(&mut self, from_ns: u64) {
        self.latencies.reset();
        self.from_ns = from_ns;
        self.delivered = 0;
        self.last_ns = from_ns;
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, _: usize, intended_ns: u64, now_ns: u64) {
        if intended_ns >= self.from_ns {
            self.latencies.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
            self.delivered += 1;
            self.last_ns = now_ns;
        }
    }

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        self.ready += usize::from(event == Event::Ready);
        Ok(())
    }
}

/// What one measurement showed.
struct Found {
    latencies: Histogram<u64>,
    late: Histogram<u64>,
    expected: u64,
    delivered: u64,
    during: Duration,
    cost: Cost,
}

impl Found {
    fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }

    fn deliveries_per_second(&self) -> f64 {
        count_f64(self.delivered) / self.during.as_secs_f64().max(1e-9)
    }

    /// The load generator had no time left, or sent so late that its own lateness is half of the latency.
    fn load_bound(&self) -> bool {
        let late = quantile_ms(&self.late, 0.99);
        self.cost.load_busy() > 0.95 || (late > 1.0 && late > quantile_ms(&self.latencies, 0.99) / 2.0)
    }

    fn values(&self) -> Vec<(report::Metric, f64)> {
        let mut values: Vec<_> = report::LATENCY
            .iter()
            .map(|&(metric, quantile)| (metric, quantile_ms(&self.latencies, quantile)))
            .collect();
        if let Some(cpu) = self.cost.cpu_us_per(self.delivered) {
            values.push((report::CPU_PER_DELIVERY, cpu));
        }
        // By the clock tick: a few of them would say anything.
        if let Some(cpu) = self.cost.cpu
            && cpu.user + cpu.system >= SHARE_LEAST
        {
            values.push((report::USER_SHARE, cpu.user_share() * 100.0));
        }
        values.push((report::DELIVERIES, self.deliveries_per_second()));
        values.push((report::LOST, 100.0 * count_f64(self.lost()) / count_f64(self.expected.max(1))));
        values.push((report::SUBJECT_BUSY, self.cost.subject_busy() * 100.0));
        values.push((report::LOAD_BUSY, self.cost.load_busy() * 100.0));
        values.push((report::LOAD_LATE, quantile_ms(&self.late, 0.99)));
        values
    }
}
