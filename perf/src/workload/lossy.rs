//! Head of line: one client in several channels, over a path that loses packets of one of them. How long do the others' messages take? And
//! then over one that loses any: who is late that was not lost?
//!
//! The path is a proxy of this program. Over QUIC it drops datagrams. Of TCP it sees bytes and no packets, so that a lost segment is
//! acted: what the proxy has read waits for the time that a retransmission takes where the network is kind (a round trip and a quarter, as
//! RACK finds losses, RFC 8985 §6.2), and so does all that comes behind it, as TCP delivers in order. A retransmission timer, which takes
//! 200 ms at least, is never waited for: TCP on a real network is worse than here.

mod path;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use self::path::{Path, Proxy};
use super::ledger::Ledger;
use super::{PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink, Target};
use crate::report;
use crate::scenario::Lossy;
use crate::subject::{Algorithm, Needs, Running, Users};

/// So much larger are messages of the channel that is hit, at least: acknowledgements and headers vary by less.
pub(crate) const HIT_BYTES_MORE: usize = 300;
/// Messages that have not come this long after the last was sent are lost.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) fn run(lossy: &Lossy, run: &mut Run<'_>) -> Result<()> {
    let channels: Vec<u32> = (0..lossy.channels).collect();
    let needs = Needs {
        channels: lossy.channels,
        history: lossy.history,
        clients: 4,
        users: Users::of(vec![channels.clone()]),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    if running.dialect.channels_max() < channels.len() {
        run.cannot("it cannot be in so many channels with one client");
        return Ok(());
    }
    let of_channel = lossy.losses.iter().map(|&loss| (Loses::Channel, loss));
    for (loses, loss) in of_channel.chain(lossy.path_losses.iter().map(|&loss| (Loses::Any, loss))) {
        if (run.stop)() {
            return Ok(());
        }
        (run.progress)(&format!("{} channels, {loss} % of {} are lost", lossy.channels, loses.what()));
        let path = Path {
            loss: loss / 100.0,
            hit_bytes_min: if loses == Loses::Channel { lossy.hit_payload } else { 0 },
            both_ways: loses == Loses::Any,
            delay: lossy.delay,
            retransmission: lossy.delay * 2 * 5 / 4,
        };
        let mut line = Line::open(lossy, path, &running, channels.clone())?;
        line.go(lossy, lossy.warm_up, run.stop)?;
        let (watch, lost) = (Stopwatch::start(&running)?, line.proxy.lost());
        line.go(lossy, lossy.measure, run.stop)?;
        let (cost, lost) = (watch.read()?, line.proxy.lost() - lost);
        if (run.stop)() {
            return Ok(());
        }
        let Arrivals { others, hit, .. } = &line.sink;
        let mut values: Vec<_> =
            report::LATENCY.iter().map(|&(metric, quantile)| (metric, quantile_ms(others, quantile))).collect();
        values.extend(report::HIT.map(|(metric, quantile)| (metric, quantile_ms(hit, quantile))));
        values.push((report::LATE, late_percent(others, lossy.delay)));
        values.push((report::HIT_LATE, late_percent(hit, lossy.delay)));
        values.push((report::PACKETS_LOST, count_f64(lost)));
        values.extend(cost.explains());
        let point = [("channels", f64::from(lossy.channels)), ("rate", lossy.rate), (loses.name(), loss)];
        run.record(guarantee, &point, cost.load_bound(), &values);
    }
    Ok(())
}

/// What can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    /// Packets of the first channel, on their way to the client.
    Channel,
    /// All, in both directions.
    Any,
}

impl Loses {
    /// What a figure's point calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Channel => "loss",
            Self::Any => "path loss",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Channel => "the first one's packets",
            Self::Any => "all packets",
        }
    }
}

/// Messages that took longer than the path takes there and back, in percent.
fn late_percent(of: &Histogram<u64>, delay: Duration) -> f64 {
    let in_time_us = u64::try_from(delay.as_micros() * 2).unwrap_or(u64::MAX);
    let late = of.len() - of.count_between(0, in_time_us);
    count_f64(late) * 100.0 / count_f64(of.len().max(1))
}

/// A publisher, a path that loses, and who reads behind it.
struct Line {
    publisher: Fleet,
    reader: Fleet,
    writes: usize,
    published: u32,
    sink: Arrivals,
    proxy: Proxy,
}

impl Line {
    fn open(lossy: &Lossy, path: Path, running: &Running, channels: Vec<u32>) -> Result<Self> {
        let proxy = Proxy::start(&running.target(), path, lossy.seed)?;
        let origin = Instant::now();
        let mut publisher = Fleet::new(running.target())?.with_origin(origin);
        let behind = Target { address: proxy.address(), ..running.target() };
        let mut reader = Fleet::new(behind)?.with_origin(origin);
        let mut sink = Arrivals::new()?;
        let plan = Plan { publish: channels.clone(), ..Plan::default() };
        let writes = publisher.open(plan)?;
        publisher.until(&mut sink, PATIENCE, "the publisher joins", |_, sink| sink.ready == 1)?;
        reader.open(Plan { subscribe: channels, token: Some(0), ..Plan::default() })?;
        reader.until(&mut sink, PATIENCE, "the reader joins", |_, sink| sink.ready == 2)?;
        Ok(Self { publisher, reader, writes, published: 0, sink, proxy })
    }

    /// Publishes for a while, and waits until everything has come.
    fn go(&mut self, lossy: &Lossy, during: Duration, stop: &dyn Fn() -> bool) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for an hour")]
        let messages = ((lossy.rate * during.as_secs_f64()).round() as u64).max(1);
        let (first_ns, interval_ns) = (self.publisher.now_ns(), 1e9 / lossy.rate);
        self.sink.begin(first_ns, interval_ns, u64::from(lossy.channels), messages)?;
        let (mut sent, mut end) = (0, None);
        while self.sink.ledger.came() < messages && !stop() {
            let now = Instant::now();
            let due_ns = self.sink.due_ns(sent);
            if sent < messages && due_ns <= self.publisher.now_ns() {
                let place = usize::try_from(sent % u64::from(lossy.channels))?;
                let size = if place == 0 { lossy.hit_payload } else { lossy.payload };
                self.published = self.published.wrapping_add(1);
                self.publisher.publish(self.writes, place, self.published, size, due_ns);
                sent += 1;
            } else if sent == messages && *end.get_or_insert(now + DRAIN) <= now {
                break;
            }
            self.publisher.turn(now, &mut self.sink)?;
            // Both wait in turns: a millisecond is little beside the path.
            self.reader.turn(now + Duration::from_millis(1), &mut self.sink)?;
        }
        let lost = messages.saturating_sub(self.sink.ledger.came());
        ensure!(lost == 0 || stop(), "{lost} of {messages} messages were lost for good");
        self.sink.ledger.check()
    }
}

/// Counts what comes, of the channel that is hit apart.
struct Arrivals {
    others: Histogram<u64>,
    hit: Histogram<u64>,
    /// One receiver.
    ledger: Ledger,
    first_ns: u64,
    interval_ns: f64,
    channels: u64,
    ready: usize,
}

impl Arrivals {
    fn new() -> Result<Self> {
        let (others, hit, ledger) = (histogram(), histogram(), Ledger::new(0, 0)?);
        Ok(Self { others, hit, ledger, first_ns: u64::MAX, interval_ns: 1.0, channels: 1, ready: 0 })
    }

    fn begin(&mut self, first_ns: u64, interval_ns: f64, channels: u64, messages: u64) -> Result<()> {
        (self.first_ns, self.interval_ns, self.channels) = (first_ns, interval_ns, channels);
        self.ledger = Ledger::new(1, messages)?;
        self.others.reset();
        self.hit.reset();
        Ok(())
    }

    fn due_ns(&self, number: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for an hour")]
        let offset = (count_f64(number) * self.interval_ns) as u64;
        self.first_ns + offset
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, _: usize, intended_ns: u64, now_ns: u64) {
        // Of an earlier stretch, otherwise.
        let Some(since_ns) = intended_ns.checked_sub(self.first_ns) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is below the messages' number")]
        let number = (count_f64(since_ns) / self.interval_ns).round() as u64;
        let before = self.ledger.came();
        self.ledger.enter(0, number);
        if self.ledger.came() > before {
            let of = if number.is_multiple_of(self.channels) { &mut self.hit } else { &mut self.others };
            of.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
        }
    }

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        self.ready += usize::from(event == Event::Ready);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_longer_than_there_and_back_is_late() {
        let mut of = histogram();
        [20_000, 21_000, 39_000, 65_000].into_iter().for_each(|us| of.saturating_record(us));
        assert!((late_percent(&of, Duration::from_millis(20)) - 25.0).abs() < 1e-9);
        assert!(late_percent(&histogram(), Duration::from_millis(20)).abs() < 1e-9);
    }

    #[test]
    fn messages_of_the_first_channel_are_counted_apart() {
        let mut sink = Arrivals::new().expect("small");
        sink.delivered(0, 5, 10);
        sink.begin(1_000_000, 10e6, 4, 8).expect("small");
        for number in 0..8 {
            let due = sink.due_ns(number);
            sink.delivered(0, due, due + 40_000_000);
        }
        sink.delivered(0, sink.due_ns(3), 900_000_000);
        assert_eq!((sink.hit.len(), sink.others.len(), sink.ledger.again()), (2, 6, 1));
    }
}
