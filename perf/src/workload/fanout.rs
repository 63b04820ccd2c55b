//! Messages to channels, to all their subscribers, at steady rates.
//!
//! Open loop: a message's latency counts from when it should have been sent, so that a subject that stalls cannot hide it. A measurement
//! begins when all earlier messages have arrived and ends when all of its own have: CPU time is of exactly these deliveries. Each is
//! accounted for by itself, so that one that comes twice does not stand for one that is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::ledger::Ledger;
use super::saturation::Saturation;
use super::{Cost, PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::brake::Brake;
use crate::dialect::{Event, Plan};
use crate::load::{Closed, Fleet, Sink};
use crate::report;
use crate::scenario::{Fanout, Pace};
use crate::subject::{Algorithm, Needs, Running, Users};

/// Clients that connect at a time, while subscribers are brought in, and subscriptions of them together: a subject may well ask those who
/// join too much at once to come later.
const CONNECTING_MAX: usize = 64;
const JOINING_MAX: usize = 2_000;
/// Messages that go out in one turn of the load generator, after it was held up.
const BURST_MAX: u32 = 64;
/// Messages that have not come this long after the last was sent are lost.
const DRAIN: Duration = Duration::from_secs(3);
/// Failures in a search that are blamed on others who were at work, at most.
const DISTURBED_MAX: u32 = 6;
/// CPU time below which no share of it is told.
const SHARE_LEAST: Duration = Duration::from_secs(1);

/// Channels that a publisher has where the subject sets no lower bound.
const PUBLISHES_TO: u32 = 1_000;
/// Different users at most: each is made a member of a channel by a call of its own. More subscribers than that share them, as people do
/// who have several devices.
const USERS_MAX: u32 = 5_000;

pub(crate) fn run(fanout: &Fanout, run: &mut Run<'_>) -> Result<()> {
    let shards: Vec<Option<u16>> =
        if fanout.shards.is_empty() { vec![None] } else { fanout.shards.iter().copied().map(Some).collect() };
    for &shards in &shards {
        for &channels in &fanout.channels {
            for &subscribers in &fanout.subscribers {
                if (run.stop)() {
                    return Ok(());
                }
                let crowd = Crowd::new(channels, subscribers, fanout.clients_max);
                population(fanout, crowd, shards, run)?;
            }
        }
    }
    Ok(())
}

fn population(fanout: &Fanout, crowd: Crowd, shards: Option<u16>, run: &mut Run<'_>) -> Result<()> {
    let Some(cores) = run.cores_for(shards) else { return Ok(()) };
    let needs = Needs {
        channels: crowd.channels,
        history: fanout.history,
        // Subscribers, and publishers; a peer that needs one for each channel has no such bound.
        clients: crowd.clients + crowd.channels.div_ceil(PUBLISHES_TO),
        users: Users::of((0..crowd.users()).map(|user| crowd.channels_of_user(user)).collect()),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores,
    };
    let Some((mut running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    if running.dialect.channels_max() < crowd.channels_of(0).len() {
        run.cannot("it cannot be in so many channels with one client");
        return Ok(());
    }
    (run.progress)(&format!("{} clients join {} channels", crowd.clients, crowd.channels));
    let mut room = Room::fill(&running, crowd)?;
    if let Some(percent) = fanout.core_percent {
        match running.cores.as_ref().map(|cores| Brake::on(cores, percent)) {
            Some(Ok(brake)) => running.brake = Some(brake),
            Some(Err(error)) => {
                run.cannot(&format!("its core cannot be braked: {error:#}; root may, and who has CAP_SYS_NICE"));
                return Ok(());
            }
            None => {
                run.cannot("it has no core of its own that could be braked");
                return Ok(());
            }
        }
    }
    for &payload in &fanout.payloads {
        let mut shape = vec![
            ("channels", f64::from(crowd.channels)),
            ("subscribers", f64::from(crowd.subscribers)),
            ("payload", count_f64(payload as u64)),
        ];
        shape.extend(shards.map(|shards| ("shards", f64::from(shards))));
        shape.extend(fanout.core_percent.map(|percent| ("core percent", f64::from(percent))));
        for Pace { name, value, rate } in fanout.paces(crowd.subscribers) {
            (run.progress)(&format!("{payload} bytes, {rate:.0}/s"));
            room.measure(&running, rate, payload, fanout.warm_up.min(fanout.measure), run.stop)?;
            let found = room.measure(&running, rate, payload, fanout.measure, run.stop)?;
            if (run.stop)() {
                // Cut short: it would tell of loss that was none.
                return Ok(());
            }
            let point: Vec<_> = shape.iter().copied().chain([(name, value)]).collect();
            run.record(guarantee, &point, found.load_bound(), &found.values());
            if found.lost() > 0 {
                // More of the same would only show the queue of what is still on its way.
                break;
            }
        }
        if let Some(within) = fanout.saturate_until_p99
            && let Some((best, load_bound)) = saturate(fanout, &mut room, &running, payload, within, run)?
        {
            let mut values = vec![(report::SATURATION, best.deliveries)];
            values.extend(best.cpu_us.map(|cpu_us| (report::SATURATION_CPU, cpu_us)));
            values.push((report::SUBJECT_BUSY, best.subject_busy * 100.0));
            values.push((report::LOAD_BUSY, best.load_busy * 100.0));
            run.record(guarantee, &shape, load_bound, &values);
        }
    }
    Ok(())
}

/// Who subscribes to what: each channel has so many seats, and clients take them in turn, so that where there are fewer clients than
/// seats each has several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crowd {
    channels: u32,
    /// Of each channel.
    subscribers: u32,
    clients: u32,
}

impl Crowd {
    fn new(channels: u32, subscribers: u32, clients_max: Option<u32>) -> Self {
        let seats = channels.saturating_mul(subscribers);
        // Nobody has two seats in one channel.
        Self { channels, subscribers, clients: seats.min(clients_max.unwrap_or(u32::MAX).max(subscribers)) }
    }

    fn seats(self) -> u64 {
        u64::from(self.channels) * u64::from(self.subscribers)
    }

    fn channels_of(self, client: u32) -> Vec<u32> {
        let seats = (u64::from(client)..self.seats()).step_by(self.clients as usize);
        seats.filter_map(|seat| u32::try_from(seat / u64::from(self.subscribers)).ok()).collect()
    }

    /// A client's seat in a channel; `None` if it has none.
    fn seat(self, client: usize, channel: u64) -> Option<u64> {
        let (first, clients) = (channel * u64::from(self.subscribers), u64::from(self.clients));
        let client = u64::try_from(client).ok().filter(|client| *client < clients)?;
        let place = (client + clients - first % clients) % clients;
        (place < u64::from(self.subscribers)).then_some(first + place)
    }

    fn users(self) -> u32 {
        self.clients.min(USERS_MAX)
    }

    fn channels_of_user(self, user: u32) -> Vec<u32> {
        let clients = (user..self.clients).step_by(self.users() as usize);
        let mut channels: Vec<u32> = clients.flat_map(|client| self.channels_of(client)).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }
}

/// The best of a search so far.
#[derive(Debug, Clone, Copy)]
struct Best {
    deliveries: f64,
    cpu_us: Option<f64>,
    subject_busy: f64,
    load_busy: f64,
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
    let mut disturbed = 0;
    while let Some(rate) = search.next() {
        let found = match room.measure(running, rate, payload, fanout.measure, run.stop) {
            Ok(found) => found,
            // A subject that ends who falls behind says so in its own way: the rate did not hold. All come back for the next.
            Err(error) if error.is::<Closed>() => {
                (run.progress)(&format!("{payload} bytes, {rate:.0}/s does not hold: {error:#}"));
                search.tried(rate, false);
                *room = Room { published: room.published, ..Room::fill(running, room.crowd)? };
                continue;
            }
            Err(error) => return Err(error),
        };
        if (run.stop)() {
            return Ok(None);
        }
        let held = found.lost() == 0 && quantile_ms(&found.latencies, 0.99) <= within.as_secs_f64() * 1e3;
        if !held && found.cost.is_disturbed() && disturbed < DISTURBED_MAX {
            disturbed += 1;
            (run.progress)(&format!("{payload} bytes, {rate:.0}/s again, others were at work: {}", found.summary()));
            continue;
        }
        (run.progress)(&format!(
            "{payload} bytes, {rate:.0}/s {}: {}",
            if held { "holds" } else { "does not hold" },
            found.summary()
        ));
        search.tried(rate, held);
        if held {
            let deliveries = found.deliveries_per_second();
            if best.is_none_or(|best| deliveries > best.deliveries) {
                best = Some(Best {
                    deliveries,
                    cpu_us: found.cost.cpu_us_per(found.delivered),
                    subject_busy: found.cost.subject_busy(),
                    load_busy: found.cost.load_busy(),
                });
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
    crowd: Crowd,
    sink: Arrivals,
    /// Publishes so far, in all measurements.
    published: u32,
}

impl Room {
    fn fill(running: &Running, crowd: Crowd) -> Result<Self> {
        let mut fleet = Fleet::new(running.target())?;
        let mut sink = Arrivals::new(crowd)?;
        let total = crowd.clients as usize;
        let at_a_time = |channels: usize| (JOINING_MAX / channels.max(1)).clamp(1, CONNECTING_MAX);
        let joining = at_a_time(crowd.channels_of(0).len());
        for client in 0..crowd.clients {
            let plan =
                Plan { subscribe: crowd.channels_of(client), token: Some(client % crowd.users()), ..Plan::default() };
            fleet.open(plan)?;
            let wait = |_: &Fleet, sink: &Arrivals| sink.ready + joining > client as usize;
            fleet.until(&mut sink, PATIENCE, "subscribers join", wait)?;
        }
        let published: Vec<u32> = (0..crowd.channels).collect();
        let share = running.dialect.channels_max().min(published.len());
        let mut publishers = Vec::new();
        for publish in published.chunks(share) {
            publishers.push(fleet.open(Plan { publish: publish.to_vec(), ..Plan::default() })?);
            let open = total + publishers.len();
            fleet.until(&mut sink, PATIENCE, "publishers join", |_, sink| sink.ready + at_a_time(share) > open)?;
        }
        let all = total + publishers.len();
        fleet.until(&mut sink, PATIENCE, "subscribers and publishers join", |_, sink| sink.ready == all)?;
        Ok(Self { fleet, publishers, share, crowd, sink, published: 0 })
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
        let schedule = Schedule { first_ns: 0, interval_ns: 1e9 / rate, messages };
        let mut ledger = Ledger::new(self.crowd.seats(), messages.div_ceil(self.crowd.channels.into()))?;
        let expected = messages * u64::from(self.crowd.subscribers);
        let watch = Stopwatch::start(running)?;
        let schedule = Schedule { first_ns: self.fleet.now_ns() + 1_000_000, ..schedule };
        let first = Instant::now() + Duration::from_millis(1);
        std::mem::swap(&mut self.sink.ledger, &mut ledger);
        self.sink.begin(schedule);
        let mut punctuality = Punctuality::default();
        let mut sent: u64 = 0;
        let mut deadline = None;
        while self.sink.ledger.came() < expected && !stop() {
            let now_ns = self.fleet.now_ns();
            if self.fleet.is_blocked() {
                punctuality.blocked(now_ns);
            }
            let mut burst = 0;
            while sent < messages && burst < BURST_MAX && !self.fleet.is_blocked() {
                let due_ns = schedule.due_ns(sent);
                if due_ns > now_ns {
                    break;
                }
                punctuality.sent(due_ns, now_ns);
                let place = usize::try_from(sent % u64::from(self.crowd.channels))?;
                self.published = self.published.wrapping_add(1);
                let (publisher, place) = (self.publishers[place / self.share], place % self.share);
                self.fleet.publish(publisher, place, self.published, payload, due_ns);
                sent += 1;
                burst += 1;
            }
            let now = Instant::now();
            let next = if sent < messages {
                first + Duration::from_nanos(schedule.due_ns(sent) - schedule.first_ns)
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
        self.fleet.acknowledge(&mut self.sink)?;
        let cost = watch.read()?;
        self.sink.ledger.check()?;
        // What is lost was not quick: it counts as late as it was waited for.
        let lost = expected.saturating_sub(self.sink.ledger.came());
        let waited_us = u64::try_from(DRAIN.as_micros()).unwrap_or(u64::MAX);
        self.sink.latencies.saturating_record_n(waited_us, if stop() { 0 } else { lost });
        Ok(Found {
            latencies: self.sink.latencies.clone(),
            punctuality,
            expected,
            delivered: self.sink.ledger.came(),
            again: self.sink.ledger.again(),
            during: Duration::from_nanos(self.sink.last_ns.saturating_sub(schedule.first_ns)),
            cost,
        })
    }
}

/// When each message of a measurement is due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    first_ns: u64,
    interval_ns: f64,
    messages: u64,
}

impl Schedule {
    fn due_ns(&self, number: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for minutes")]
        let offset = (count_f64(number) * self.interval_ns) as u64;
        self.first_ns + offset
    }

    /// The message that is due then; `None` if none is.
    fn number(&self, due_ns: u64) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is below the messages' number")]
        let number = (count_f64(due_ns.checked_sub(self.first_ns)?) / self.interval_ns).round() as u64;
        (number < self.messages && self.due_ns(number) == due_ns).then_some(number)
    }
}

/// How late messages went out, and by whose fault.
struct Punctuality {
    /// The load generator's: it was busy, or its core was.
    late: Histogram<u64>,
    /// The subject's: it did not take what was sent before.
    held_back: Histogram<u64>,
    /// When something last waited for room in a socket.
    blocked_ns: u64,
}

impl Default for Punctuality {
    fn default() -> Self {
        Self { late: histogram(), held_back: histogram(), blocked_ns: 0 }
    }
}

impl Punctuality {
    fn blocked(&mut self, now_ns: u64) {
        self.blocked_ns = now_ns;
    }

    /// A message goes out: until the socket had room it was the subject's time, and after that the load generator's.
    fn sent(&mut self, due_ns: u64, now_ns: u64) {
        let free_ns = self.blocked_ns.clamp(due_ns, now_ns.max(due_ns));
        self.held_back.saturating_record(((free_ns - due_ns) / 1000).max(1));
        self.late.saturating_record((now_ns.saturating_sub(free_ns) / 1000).max(1));
    }
}

/// Counts what comes.
struct Arrivals {
    crowd: Crowd,
    schedule: Schedule,
    latencies: Histogram<u64>,
    /// By seat and message of its channel.
    ledger: Ledger,
    last_ns: u64,
    ready: usize,
}

impl Arrivals {
    fn new(crowd: Crowd) -> Result<Self> {
        let schedule = Schedule { first_ns: u64::MAX, interval_ns: 1.0, messages: 0 };
        Ok(Self { crowd, schedule, latencies: histogram(), ledger: Ledger::new(0, 0)?, last_ns: 0, ready: 0 })
    }

    fn begin(&mut self, schedule: Schedule) {
        self.latencies.reset();
        self.schedule = schedule;
        self.last_ns = schedule.first_ns;
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        if intended_ns < self.schedule.first_ns {
            // Of an earlier measurement, in which it was lost.
            return;
        }
        let channels = u64::from(self.crowd.channels);
        let message = self.schedule.number(intended_ns);
        let seat = message.and_then(|message| Some((message, self.crowd.seat(client, message % channels)?)));
        let Some((message, seat)) = seat else { return self.ledger.enter_strange() };
        let before = self.ledger.came();
        self.ledger.enter(seat, message / channels);
        if self.ledger.came() > before {
            self.latencies.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
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
    punctuality: Punctuality,
    expected: u64,
    delivered: u64,
    again: u64,
    during: Duration,
    cost: Cost,
}

impl Found {
    fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }

    /// For who watches.
    fn summary(&self) -> String {
        format!(
            "p99 {:.1} ms, {} lost, subject {:.0} % busy, others {:.0} %, load {:.0} % (waited {:.0} %, late {:.1} ms, held back {:.1} ms)",
            quantile_ms(&self.latencies, 0.99),
            self.lost(),
            self.cost.subject_busy() * 100.0,
            self.cost.others.unwrap_or_default() * 100.0,
            self.cost.load_busy() * 100.0,
            self.cost.load_waited() * 100.0,
            quantile_ms(&self.punctuality.late, 0.99),
            quantile_ms(&self.punctuality.held_back, 0.99),
        )
    }

    fn deliveries_per_second(&self) -> f64 {
        count_f64(self.delivered) / self.during.as_secs_f64().max(1e-9)
    }

    /// The load generator had no time left, or sent so late that its own lateness is half of the latency.
    fn load_bound(&self) -> bool {
        let late = quantile_ms(&self.punctuality.late, 0.99);
        self.cost.load_bound() || (late > 1.0 && late > quantile_ms(&self.latencies, 0.99) / 2.0)
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
            let per_delivery = self.cost.cpu_us_per(self.delivered).unwrap_or_default();
            values.push((report::USER_PER_DELIVERY, per_delivery * cpu.user_share()));
        }
        let share = |count| 100.0 * count_f64(count) / count_f64(self.expected.max(1));
        values.push((report::DELIVERIES, self.deliveries_per_second()));
        values.push((report::LOST, share(self.lost())));
        values.push((report::CAME_AGAIN, share(self.again)));
        values.extend(self.cost.explains());
        values.push((report::LOAD_LATE, quantile_ms(&self.punctuality.late, 0.99)));
        values.push((report::HELD_BACK, quantile_ms(&self.punctuality.held_back, 0.99)));
        values
    }
}

#[cfg(test)]
mod tests;
