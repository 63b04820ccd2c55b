//! Those who are cut and come back, and those who come for the first time at that moment.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::{Told, channel_of};
use crate::dialect::{Event, Mark, Plan};
use crate::load::{Fleet, Sink, Target};
use crate::process::Turns;
use crate::scenario::Cut;
use crate::workload::{LOAD_FULL, PATIENCE, histogram};

/// Connecting at a time, before anything is cut.
const CONNECTING_MAX: usize = 64;
/// Connections begun between two turns, when everybody comes at once: sockets are served meanwhile.
const BURST_MAX: usize = 256;
/// The wait after the first time that one was turned away without a word; twice as long each time, up to the other. Full jitter.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(8);

/// How it went.
pub(super) struct Returned {
    /// From the cut until each was back, in microseconds.
    pub(super) sessions: Histogram<u64>,
    /// The same of who came for the first time.
    pub(super) newcomers: Histogram<u64>,
    /// Times that somebody was asked to come later, or turned away.
    pub(super) sent_away: u32,
    /// Share of the time that this thread ran or waited for its core, 0 to 1.
    pub(super) busy: f64,
}

impl Returned {
    /// The time was this program's, not the subject's.
    pub(super) fn is_load_bound(&self) -> bool {
        self.busy > LOAD_FULL
    }
}

/// All of them, by number: those who are cut first.
pub(super) struct Herd {
    cut: Cut,
    people: Vec<Person>,
    /// By client of the fleet.
    who: Vec<Option<u32>>,
    /// Who connects when, in nanoseconds since the fleet's origin.
    due: BTreeSet<(u64, u32)>,
    now_ns: u64,
    ready: u32,
    returned: Option<Returned>,
    cut_ns: u64,
    random: u64,
}

#[derive(Debug, Clone, Default)]
struct Person {
    mark: Option<Mark>,
    is_ready: bool,
    tries: u32,
}

impl Herd {
    pub(super) fn new(cut: &Cut) -> Self {
        Self {
            people: vec![Person::default(); (cut.sessions + cut.newcomers) as usize],
            cut: cut.clone(),
            who: Vec::new(),
            due: BTreeSet::new(),
            now_ns: 0,
            ready: 0,
            returned: None,
            cut_ns: 0,
            random: 1,
        }
    }

    /// Comes, waits for the order, is cut, and comes back; stays until nobody gives orders any more.
    pub(super) fn live(&mut self, target: Target, orders: &Receiver<Instant>, tell: &Sender<Told>) -> Result<()> {
        let mut fleet = Fleet::new(target)?;
        let mut clients = Vec::new();
        for number in 0..self.cut.sessions {
            clients.push(self.open(&mut fleet, number)?);
            let enough = |_: &Fleet, herd: &Self| herd.ready as usize + CONNECTING_MAX > number as usize;
            fleet.until(self, PATIENCE, "sessions join", enough)?;
        }
        fleet.until(self, PATIENCE, "sessions join", |_, herd| herd.ready == herd.cut.sessions)?;
        for (person, &client) in self.people.iter_mut().zip(&clients) {
            person.mark = fleet.session(client).marks.first().copied();
        }
        tell.send(Told::Gathered).context("nobody listens")?;
        let origin = loop {
            match orders.try_recv() {
                Ok(at) => break at,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => fleet.turn(Instant::now() + Duration::from_millis(5), self)?,
            }
        };
        let began = Turns::of_this_thread();
        self.begin(fleet.now_ns());
        clients.into_iter().for_each(|client| fleet.cut(client));
        while self.ready < self.cut.sessions + self.cut.newcomers {
            ensure!(origin.elapsed() < PATIENCE * 2, "{} have not come back after {:?}", self.missing(), PATIENCE * 2);
            self.now_ns = fleet.now_ns();
            for number in self.take_due() {
                self.open(&mut fleet, number)?;
            }
            // Who comes next is tried again soon; sockets wait no longer than that.
            fleet.turn(Instant::now() + self.pause(), self)?;
        }
        let turns = Turns::of_this_thread().since(began);
        if let Some(mut returned) = self.returned.take() {
            returned.busy = (turns.ran + turns.waited).as_secs_f64() / origin.elapsed().as_secs_f64().max(1e-9);
            tell.send(Told::Back(Box::new(returned))).context("nobody listens")?;
        }
        while orders.try_recv() != Err(TryRecvError::Disconnected) {
            fleet.turn(Instant::now() + Duration::from_millis(20), self)?;
        }
        Ok(())
    }

    fn open(&mut self, fleet: &mut Fleet, number: u32) -> Result<usize> {
        let resume = self.people[number as usize].mark.into_iter().collect();
        let subscribe = vec![channel_of(&self.cut, number)];
        let client = fleet.open(Plan { subscribe, resume, token: Some(number), ..Plan::default() })?;
        if self.who.len() <= client {
            self.who.resize(client + 1, None);
        }
        self.who[client] = Some(number);
        Ok(client)
    }

    /// All are cut, and all come at once: those who were there and those who were not, mixed.
    fn begin(&mut self, now_ns: u64) {
        (self.cut_ns, self.now_ns, self.ready) = (now_ns, now_ns, 0);
        self.who.fill(None);
        self.people.iter_mut().for_each(|person| (person.is_ready, person.tries) = (false, 0));
        for number in 0..self.cut.sessions + self.cut.newcomers {
            // Within a microsecond, which is their order.
            let at = now_ns + self.draw(1_000);
            self.due.insert((at, number));
        }
        self.returned = Some(Returned { sessions: histogram(), newcomers: histogram(), sent_away: 0, busy: 0.0 });
    }

    /// Who is due, so many at a time.
    fn take_due(&mut self) -> Vec<u32> {
        let due: Vec<_> = self.due.range(..=(self.now_ns, u32::MAX)).take(BURST_MAX).copied().collect();
        for one in &due {
            self.due.remove(one);
        }
        due.into_iter().map(|(_, number)| number).collect()
    }

    /// Until somebody is due, or not for long.
    fn pause(&self) -> Duration {
        let next = self.due.first().map_or(u64::MAX, |(at, _)| at.saturating_sub(self.now_ns));
        Duration::from_nanos(next).min(Duration::from_millis(20))
    }

    fn missing(&self) -> u32 {
        self.cut.sessions + self.cut.newcomers - self.ready
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    /// This client's person comes again after this.
    fn again(&mut self, client: usize, after: Duration) {
        let Some(number) = self.who.get_mut(client).and_then(Option::take) else { return };
        if let Some(returned) = &mut self.returned {
            returned.sent_away += 1;
        }
        let at = self.now_ns + u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.due.insert((at, number));
    }
}

impl Sink for Herd {
    fn delivered(&mut self, _: usize, _: u64, _: u64) {}

    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()> {
        let Some(number) = self.who.get(client).copied().flatten() else { return Ok(()) };
        let person = &mut self.people[number as usize];
        if event != Event::Ready || std::mem::replace(&mut person.is_ready, true) {
            return Ok(());
        }
        self.ready += 1;
        let us = (now_ns.saturating_sub(self.cut_ns) / 1000).max(1);
        if let Some(returned) = &mut self.returned {
            let of = if number < self.cut.sessions { &mut returned.sessions } else { &mut returned.newcomers };
            of.saturating_record(us);
        }
        Ok(())
    }

    fn busy(&mut self, client: usize, after_ms: u32) -> Result<()> {
        self.again(client, Duration::from_millis(after_ms.into()));
        Ok(())
    }

    fn closed(&mut self, client: usize, code: Option<u16>, reason: &str) -> Result<()> {
        let Some(number) = self.who.get(client).copied().flatten() else { return Ok(()) };
        let is_coming = self.returned.is_some() && !self.people[number as usize].is_ready;
        ensure!(is_coming, "session {number} was closed with {code:?} {reason}");
        let tries = &mut self.people[number as usize].tries;
        let most = (BACKOFF * 2_u32.pow((*tries).min(8))).min(BACKOFF_MAX);
        *tries += 1;
        let wait_ms = self.draw(u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
        self.again(client, Duration::from_millis(wait_ms));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn herd() -> Herd {
        let cut = Cut {
            sessions: 3,
            newcomers: 2,
            staying: 1,
            channels: 2,
            rate: 1.0,
            payload: 20,
            quiet: Duration::from_secs(1),
            history: crate::subject::History::Windowed,
        };
        let mut herd = Herd::new(&cut);
        herd.begin(1_000);
        herd.now_ns = 2_000;
        herd
    }

    #[test]
    fn everybody_comes_at_once_and_who_is_asked_to_come_later_does() {
        let mut herd = herd();
        let mut all = herd.take_due();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        herd.who = all.into_iter().map(Some).collect();
        herd.busy(1, 300).expect("later");
        // Its connection ends then, which turns nobody away a second time.
        herd.closed(1, Some(4101), "busy").expect("later");
        herd.event(0, Event::Ready, 51_000).expect("ready");
        assert_eq!((herd.take_due(), herd.missing()), (vec![], 4));
        herd.now_ns += 300_000_000;
        assert_eq!(herd.take_due(), [1]);
        let returned = herd.returned.as_ref().expect("cut");
        assert_eq!((returned.sent_away, returned.sessions.len(), returned.sessions.max()), (1, 1, 50));
    }

    #[test]
    fn who_is_turned_away_waits_longer_each_time_and_who_is_back_stays() {
        let mut herd = herd();
        herd.take_due();
        let mut longest = Vec::new();
        for tries in 0..5 {
            let waits = (0..200).map(|_| {
                herd.who = vec![Some(4)];
                herd.people[4].tries = tries;
                herd.closed(0, None, "refused").expect("it tries again");
                let (at, _) = herd.due.pop_first().expect("due");
                at - herd.now_ns
            });
            longest.push(waits.max().expect("some") / 1_000_000);
        }
        assert!(
            longest.windows(2).all(|two| two[0] <= two[1]) && longest[4] < 8_000 && longest[4] > 4_000,
            "{longest:?}"
        );
        herd.who = vec![Some(4)];
        herd.event(0, Event::Ready, 9_000).expect("ready");
        herd.closed(0, None, "gone").expect_err("it was back");
    }
}
