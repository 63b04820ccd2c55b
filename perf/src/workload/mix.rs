//! People in a chat: they look at channels, scroll, now and then write, lose their connection and come back.
//!
//! Open loop: actions come at their rate whatever the subject does, and times count from when each was due. What is done to what is drawn
//! from a seed, the same for all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::{Mix, Weights};
use crate::subject::{Algorithm, Needs, Running};

const SEED: u64 = 0x6d69_6c6c_7261_6365;
/// After the last action: what is still under way comes in.
const DRAIN: Duration = Duration::from_secs(1);
/// A scroll goes back at most so many pages of 50.
const SCROLL_PAGES: u64 = 20;

pub(crate) fn run(mix: &Mix, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: mix.channels,
        history: mix.history,
        clients: mix.users + 1,
        tokens: 1,
        algorithm: Algorithm::default(),
        cores: run.cores.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    (run.progress)(&format!("{} users join {} channels each", mix.users, mix.channels_each));
    let mut town = Town::gather(mix, &running)?;
    for &posts in &mix.posts {
        if (run.stop)() {
            return Ok(());
        }
        (run.progress)(&format!("{posts:.0} posts/s"));
        town.live(posts, mix.warm_up)?;
        let watch = Stopwatch::start(&running.processes)?;
        let actions = town.live(posts, mix.measure)?;
        let cost = watch.read()?;
        let point = [("users", f64::from(mix.users)), ("posts per second", posts)];
        let sink = &town.sink;
        let mut values: Vec<_> = report::LATENCY
            .iter()
            .map(|&(metric, quantile)| (metric, quantile_ms(&sink.deliveries, quantile)))
            .collect();
        values.push((report::PAGE_P50, quantile_ms(&sink.pages, 0.5)));
        values.push((report::PAGE_P95, quantile_ms(&sink.pages, 0.95)));
        values.extend(cost.cpu_us_per(actions).map(|us| (report::CPU_PER_ACTION, us)));
        values.push((report::DELIVERIES, count_f64(sink.deliveries.len()) / cost.wall.as_secs_f64()));
        values.push((report::SUBJECT_BUSY, cost.subject_busy() * 100.0));
        values.push((report::LOAD_BUSY, cost.load_busy() * 100.0));
        run.record(guarantee, &point, cost.load_busy() > 0.95, &values);
    }
    Ok(())
}

struct Town<'a> {
    mix: &'a Mix,
    fleet: Fleet,
    users: Vec<usize>,
    sink: People,
    random: Random,
    published: u32,
}

impl<'a> Town<'a> {
    fn gather(mix: &'a Mix, running: &Running) -> Result<Self> {
        let mut fleet = Fleet::new(running.address, running.dialect.clone())?;
        let mut sink = People::default();
        let mut random = Random(SEED);
        let mut users = Vec::new();
        for _ in 0..mix.users {
            users.push(fleet.open(plan(mix, &mut random))?);
            let wanted = users.len();
            fleet.until(&mut sink, PATIENCE, "users join", |_, sink| sink.ready == wanted)?;
        }
        Ok(Self { mix, fleet, users, sink, random, published: 0 })
    }

    /// Lets people do what they do for a while; how much they did.
    fn live(&mut self, posts: f64, during: Duration) -> Result<u64> {
        let Weights { switch_channel, scroll, reconnect } = self.mix.weights;
        let per_second = posts * (1.0 + switch_channel + scroll + reconnect);
        let (first, first_ns) = (Instant::now(), self.fleet.now_ns());
        self.sink.begin(first_ns);
        let mut actions = 0_u64;
        loop {
            let after = Duration::from_secs_f64(count_f64(actions) / per_second);
            if after >= during {
                break;
            }
            let due = first + after;
            while Instant::now() < due {
                self.fleet.turn(due, &mut self.sink)?;
            }
            self.act(posts / per_second, first_ns + u64::try_from(after.as_nanos())?)?;
            actions += 1;
        }
        let end = Instant::now() + DRAIN;
        while Instant::now() < end {
            self.fleet.turn(end, &mut self.sink)?;
        }
        Ok(actions)
    }

    /// One action of somebody; `post` is the share of posts among all.
    fn act(&mut self, post: f64, due_ns: u64) -> Result<()> {
        let Weights { switch_channel, scroll, .. } = self.mix.weights;
        let user = self.random.below(self.users.len() as u64);
        let user = usize::try_from(user)?;
        let client = self.users[user];
        let place = usize::try_from(self.random.below(self.mix.channels_each.into()))?;
        let drawn = self.random.share();
        if !self.fleet.session(client).is_ready() {
            // Still on the way back: people wait.
            return Ok(());
        }
        if drawn < post {
            self.published = self.published.wrapping_add(1);
            self.fleet.publish(client, place, self.published, self.mix.payload, due_ns);
        } else if drawn < post * (1.0 + switch_channel) {
            self.page(client, place, 0, due_ns);
        } else if drawn < post * (1.0 + switch_channel + scroll) {
            let before = 1 + 50 * self.random.below(SCROLL_PAGES);
            self.page(client, place, before, due_ns);
        } else {
            self.fleet.close(client);
            self.sink.asked(client).clear();
            let plan = plan(self.mix, &mut self.random);
            self.users[user] = self.fleet.open(plan)?;
        }
        Ok(())
    }

    fn page(&mut self, client: usize, place: usize, before: u64, due_ns: u64) {
        if self.fleet.history(client, place, before) {
            self.sink.asked(client).push_back(due_ns);
        }
    }
}

/// Somebody's channels: many people in the first ones, few in the last.
fn plan(mix: &Mix, random: &mut Random) -> Plan {
    let mut channels = Vec::new();
    while channels.len() < mix.channels_each as usize {
        // The lower of two draws: a channel's members fall off linearly.
        let channel = random.below(mix.channels.into()).min(random.below(mix.channels.into()));
        let channel = u32::try_from(channel).unwrap_or_default();
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    Plan { subscribe: channels.clone(), publish: channels, ..Plan::default() }
}

struct People {
    from_ns: u64,
    deliveries: Histogram<u64>,
    pages: Histogram<u64>,
    ready: usize,
    /// When each page that a client waits for was due.
    asked: Vec<VecDeque<u64>>,
}

impl Default for People {
    fn default() -> Self {
        Self { from_ns: 0, deliveries: histogram(), pages: histogram(), ready: 0, asked: Vec::new() }
    }
}

impl People {
    fn begin(&mut self, from_ns: u64) {
        self.from_ns = from_ns;
        self.deliveries.reset();
        self.pages.reset();
    }

    fn asked(&mut self, client: usize) -> &mut VecDeque<u64> {
        if self.asked.len() <= client {
            self.asked.resize_with(client + 1, VecDeque::new);
        }
        &mut self.asked[client]
    }
}

impl Sink for People {
    fn delivered(&mut self, _: usize, intended_ns: u64, now_ns: u64) {
        // Payloads in pages are old messages, seen before.
        if intended_ns >= self.from_ns {
            self.deliveries.saturating_record((now_ns.saturating_sub(intended_ns) / 1000).max(1));
        }
    }

    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()> {
        match event {
            Event::Ready => self.ready += 1,
            Event::Acknowledged { .. } => {}
            Event::Page { .. } => {
                if let Some(due_ns) = self.asked(client).pop_front()
                    && due_ns >= self.from_ns
                {
                    self.pages.saturating_record((now_ns.saturating_sub(due_ns) / 1000).max(1));
                }
            }
        }
        Ok(())
    }
}

/// `SplitMix64`: reproducible, and no more is asked of it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f64 {
        count_f64(self.next() >> 11) / count_f64(1 << 53)
    }
}
