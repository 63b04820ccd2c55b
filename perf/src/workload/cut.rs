//! Sessions that lose their connections at the same moment: how soon all are back, and what those notice who stayed.
//!
//! Those who come back are a thread of their own, at the lowest priority: it shares the load generator's core with the one that measures
//! messages, which has the core whenever it wants it. Open loop for messages. Who is asked to come later comes then; who is turned away
//! without a word waits longer each time, with jitter, as SDKs do.

mod herd;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use self::herd::{Herd, Returned};
use super::ledger::Ledger;
use super::{PATIENCE, Run, Stopwatch, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::Cut;
use crate::subject::{Algorithm, Needs, Running, Users};

/// The channel of those who stay; the others come after it.
const STAYING: u32 = 0;
/// Messages that have not come this long after the last was sent are lost.
const DRAIN: Duration = Duration::from_secs(5);
/// Those who stay, connecting at a time.
const CONNECTING_MAX: usize = 64;

pub(crate) fn run(cut: &Cut, run: &mut Run<'_>) -> Result<()> {
    if !run.subject.resumes() {
        run.cannot("nobody can come back to what they missed");
        return Ok(());
    }
    let needs = Needs {
        channels: 1 + cut.channels,
        history: cut.history,
        clients: cut.sessions + cut.newcomers + cut.staying + 1,
        users: users(cut),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    let (orders, given) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (target, load) = (running.target(), run.seats.load.clone());
    let mut herd = Herd::new(cut);
    std::thread::scope(|scope| {
        let others = scope.spawn(move || {
            load.pin()?;
            // Where that is refused both have the core in turns, and it is the report's latency that suffers.
            let _ = rustix::process::nice(19);
            herd.live(target, &given, &tell)
        });
        let measured = measure(cut, run, guarantee, &running, &Others { orders, told });
        let ended = others.join().unwrap_or_else(|_| Err(anyhow!("the thread of those who come back panicked")));
        // The herd's error says why the other has waited in vain.
        ended.and(measured)
    })
}

/// The other thread: ends when it is dropped.
struct Others {
    orders: mpsc::Sender<Instant>,
    told: mpsc::Receiver<Told>,
}

/// What the other thread says.
enum Told {
    /// All are there.
    Gathered,
    /// All are back.
    Back(Box<Returned>),
}

fn measure(cut: &Cut, run: &mut Run<'_>, guarantee: &str, running: &Running, others: &Others) -> Result<()> {
    (run.progress)(&format!("{} sessions and {} that will stay join", cut.sessions, cut.staying));
    let mut room = Room::fill(cut, running)?;
    let gathered = others.told.recv().context("those who will be cut did not come")?;
    ensure!(matches!(gathered, Told::Gathered), "they came back before they were cut");
    (run.progress)(&format!("quiet for {:?}", cut.quiet));
    // The first messages open what is opened once.
    room.go(cut, |since| since >= Duration::from_secs(1).min(cut.quiet), run.stop)?;
    room.go(cut, |since| since >= cut.quiet, run.stop)?;
    let quiet = std::mem::replace(&mut room.sink.latencies, histogram());
    if (run.stop)() {
        return Ok(());
    }
    (run.progress)(&format!("{} sessions are cut", cut.sessions));
    let watch = Stopwatch::start(running)?;
    others.orders.send(Instant::now()).context("the other thread is gone")?;
    let mut back = None;
    room.go(
        cut,
        |since| {
            if let Ok(Told::Back(returned)) = others.told.try_recv() {
                back = Some(returned);
            }
            back.is_some() || since > PATIENCE * 2
        },
        run.stop,
    )?;
    let cost = watch.read()?;
    let Some(back) = back else { return Ok(()) };
    let p99 = (quantile_ms(&room.sink.latencies, 0.99), quantile_ms(&quiet, 0.99));
    let mut values: Vec<_> =
        report::RETURNED.iter().map(|&(metric, quantile)| (metric, quantile_ms(&back.sessions, quantile))).collect();
    if cut.newcomers > 0 {
        values.extend(report::LOGGED_IN.map(|(metric, quantile)| (metric, quantile_ms(&back.newcomers, quantile))));
    }
    values.extend(report::QUIET.map(|(metric, quantile)| (metric, quantile_ms(&quiet, quantile))));
    values.extend(report::LATENCY.map(|(metric, quantile)| (metric, quantile_ms(&room.sink.latencies, quantile))));
    values.push((report::AGAINST_QUIET, p99.0 / p99.1.max(1e-3)));
    values.push((report::SENT_AWAY, f64::from(back.sent_away)));
    values.push((report::HERD_BUSY, back.busy * 100.0));
    values.extend(cost.explains());
    let point = [
        ("sessions", f64::from(cut.sessions)),
        ("newcomers", f64::from(cut.newcomers)),
        ("staying", f64::from(cut.staying)),
        ("rate", cut.rate),
    ];
    run.record(guarantee, &point, back.is_load_bound(), &values);
    Ok(())
}

/// Those who are cut, newcomers, and those who stay, in this order; each with a token and one channel.
fn users(cut: &Cut) -> Users {
    let others = (0..cut.sessions + cut.newcomers).map(|user| vec![channel_of(cut, user)]);
    Users::of(others.chain((0..cut.staying).map(|_| vec![STAYING])).collect())
}

fn channel_of(cut: &Cut, user: u32) -> u32 {
    1 + user % cut.channels
}

/// Those who stay, and who publishes to them.
struct Room {
    fleet: Fleet,
    publisher: usize,
    published: u32,
    sink: Arrivals,
}

impl Room {
    fn fill(cut: &Cut, running: &Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.target())?;
        let mut sink =
            Arrivals { latencies: histogram(), ledger: Ledger::new(0, 0)?, first_ns: 0, interval_ns: 1.0, ready: 0 };
        let first = cut.sessions + cut.newcomers;
        for number in 0..cut.staying {
            fleet.open(Plan { subscribe: vec![STAYING], token: Some(first + number), ..Plan::default() })?;
            let wait = |_: &Fleet, sink: &Arrivals| sink.ready + CONNECTING_MAX > number as usize;
            fleet.until(&mut sink, PATIENCE, "those who stay join", wait)?;
        }
        let publisher = fleet.open(Plan { publish: vec![STAYING], ..Plan::default() })?;
        let all = cut.staying as usize + 1;
        fleet.until(&mut sink, PATIENCE, "those who stay join", |_, sink| sink.ready == all)?;
        Ok(Self { fleet, publisher, published: 0, sink })
    }

    /// Publishes at the rate until it is over, and waits until everything has come.
    fn go(&mut self, cut: &Cut, mut is_over: impl FnMut(Duration) -> bool, stop: &dyn Fn() -> bool) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for minutes")]
        let most = (cut.rate * (PATIENCE * 4).max(cut.quiet).as_secs_f64()) as u64 + 1;
        self.sink.begin(self.fleet.now_ns(), 1e9 / cut.rate, u64::from(cut.staying), most)?;
        let began = Instant::now();
        let mut sent = 0;
        while !is_over(began.elapsed()) && sent < most && !stop() {
            let due_ns = self.sink.due_ns(sent);
            let now_ns = self.fleet.now_ns();
            if due_ns <= now_ns {
                self.published = self.published.wrapping_add(1);
                self.fleet.publish(self.publisher, 0, self.published, cut.payload, due_ns);
                sent += 1;
                continue;
            }
            // Not long, as somebody else decides when it is over.
            let wait = Duration::from_nanos(due_ns - now_ns).min(Duration::from_millis(20));
            self.fleet.turn(Instant::now() + wait, &mut self.sink)?;
        }
        let (expected, end) = (sent * u64::from(cut.staying), Instant::now() + DRAIN);
        while self.sink.ledger.came() < expected && Instant::now() < end {
            self.fleet.turn(end, &mut self.sink)?;
        }
        self.sink.ledger.check()?;
        let lost = expected.saturating_sub(self.sink.ledger.came());
        ensure!(lost == 0 || stop(), "{lost} of {expected} deliveries to those who stay were lost");
        Ok(())
    }
}

/// Counts what comes to those who stay.
struct Arrivals {
    latencies: Histogram<u64>,
    /// By client and message.
    ledger: Ledger,
    first_ns: u64,
    interval_ns: f64,
    ready: usize,
}

impl Arrivals {
    fn begin(&mut self, first_ns: u64, interval_ns: f64, clients: u64, messages: u64) -> Result<()> {
        (self.first_ns, self.interval_ns) = (first_ns, interval_ns);
        self.ledger = Ledger::new(clients, messages)?;
        self.latencies.reset();
        Ok(())
    }

    fn due_ns(&self, number: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for minutes")]
        let offset = (super::count_f64(number) * self.interval_ns) as u64;
        self.first_ns + offset
    }
}

impl Sink for Arrivals {
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64) {
        let Some(since_ns) = intended_ns.checked_sub(self.first_ns) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is below the messages' number")]
        let number = (super::count_f64(since_ns) / self.interval_ns).round() as u64;
        let before = self.ledger.came();
        self.ledger.enter(client as u64, number);
        if self.ledger.came() > before {
            self.latencies.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
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
    fn everybody_is_a_member_of_their_channel_and_of_no_other() {
        let crate::scenario::Workload::Cut(cut) = crate::scenario::Scenario::load("storm").expect("built in").workload
        else {
            panic!("it cuts")
        };
        let Users { channels, tokens } = users(&cut);
        assert_eq!(channels.len(), (cut.sessions + cut.newcomers + cut.staying) as usize);
        assert_eq!(tokens as usize, channels.len());
        let stays = channels.iter().filter(|own| own[..] == [STAYING]).count();
        assert_eq!(stays, cut.staying as usize);
        assert!(channels.iter().all(|own| own.len() == 1 && own[0] <= cut.channels));
    }

    #[test]
    fn a_delivery_counts_once_and_from_when_it_was_due() {
        let mut sink = Arrivals {
            latencies: histogram(),
            ledger: Ledger::new(0, 0).expect("small"),
            first_ns: 0,
            interval_ns: 1.0,
            ready: 0,
        };
        sink.begin(1_000_000, 50e6, 2, 10).expect("small");
        let due = sink.due_ns(3);
        assert_eq!(due, 151_000_000);
        sink.delivered(1, due, due + 7_000_000);
        sink.delivered(1, due, due + 9_000_000);
        // Of an earlier stretch.
        sink.delivered(0, 900_000, due);
        assert_eq!((sink.ledger.came(), sink.ledger.again(), sink.latencies.len()), (1, 1, 1));
        assert_eq!(sink.latencies.max(), 7_003, "three digits");
    }
}
