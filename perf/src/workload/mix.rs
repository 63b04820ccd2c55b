//! People in a chat: they look at channels, scroll, now and then write, lose their connection and come back to what they missed.
//!
//! Open loop: actions come at their rate whatever the subject does, and times count from when each was due. Who is on the way back does
//! what was due meanwhile afterwards. What is done to what is drawn from a seed, the same for all. Every answer is held against what was
//! asked: pages by their offsets, messages by who was to get them.

mod people;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::ledger::Ledger;
use super::{PATIENCE, Run, Stopwatch, count_f64, fill, quantile_ms};
use crate::dialect::{self, Plan};
use crate::load::Fleet;
use crate::report;
use crate::scenario::{Mix, Weights};
use crate::subject::{Algorithm, Needs, Running, Users};
use people::{Action, Asked, Deed, People};

const SEED: u64 = 0x6d69_6c6c_7261_6365;
/// After the last action: what is still under way by then is lost.
const DRAIN: Duration = Duration::from_secs(5);
/// A scroll goes back at most so many pages.
const SCROLL_PAGES: u64 = 20;
const PAGE: u64 = dialect::PAGE as u64;

pub(crate) fn run(mix: &Mix, run: &mut Run<'_>) -> Result<()> {
    let mut random = Random(SEED);
    let channels: Vec<Vec<u32>> = (0..mix.users).map(|_| draw_channels(mix, &mut random)).collect();
    let needs = Needs {
        channels: mix.channels,
        history: mix.history,
        clients: mix.users + 1,
        users: Users::of(channels.clone()),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    fill::fill(&running, mix.channels, mix.messages_before.into(), mix.payload, run)?;
    (run.progress)(&format!("{} users join {} channels each", mix.users, mix.channels_each));
    let mut town = Town::gather(mix, &running, channels, random)?;
    for &posts in &mix.posts {
        (run.progress)(&format!("{posts:.0} posts/s"));
        town.live(posts, mix.warm_up, run.stop)?;
        let watch = Stopwatch::start(&running)?;
        let actions = town.live(posts, mix.measure, run.stop)?;
        let cost = watch.read()?;
        if (run.stop)() {
            return Ok(());
        }
        let point = [("users", f64::from(mix.users)), ("posts per second", posts)];
        let people = &town.people;
        let times = |metrics: &[(report::Metric, f64)], times| -> Vec<(report::Metric, f64)> {
            metrics.iter().map(|&(metric, quantile)| (metric, quantile_ms(times, quantile))).collect()
        };
        let share = |count| 100.0 * count_f64(count) / count_f64(people.expected.max(1));
        let lost = people.lost();
        let mut values = times(&report::POST, &people.deliveries);
        values.extend(times(&report::PAGE, &people.pages));
        if !people.backs.is_empty() {
            values.extend(times(&report::BACK, &people.backs));
        }
        values.extend(cost.cpu_us_per(actions).map(|us| (report::CPU_PER_ACTION, us)));
        values.push((report::DELIVERIES, count_f64(people.ledger.came()) / cost.wall.as_secs_f64()));
        values.extend([(report::LOST, share(lost)), (report::CAME_AGAIN, share(people.ledger.again()))]);
        values.extend(cost.explains());
        run.record(guarantee, &point, cost.load_bound(), &values);
        if lost > 0 {
            // Nobody knows any more where everybody stands.
            bail!("{lost} of {} deliveries were lost at {posts:.0} posts/s", people.expected);
        }
    }
    Ok(())
}

struct Town<'a> {
    mix: &'a Mix,
    fleet: Fleet,
    people: People,
    random: Random,
    published: u32,
    /// Pages asked for so far.
    asked: u32,
}

impl<'a> Town<'a> {
    fn gather(mix: &'a Mix, running: &Running, channels: Vec<Vec<u32>>, random: Random) -> Result<Self> {
        let mut fleet = Fleet::new(running.target())?;
        let mut people = People::new(channels, mix.channels)?;
        for user in 0..people.all.len() {
            let plan = people.all[user].plan(user, Vec::new());
            let client = fleet.open(plan)?;
            people.connected(user, client);
            fleet.until(&mut people, PATIENCE, "users join", |_, people| people.all[user].is_ready)?;
            people.all[user].marks = fleet.session(client).marks[..mix.channels_each as usize].to_vec();
        }
        people.free.clear();
        let before = u64::from(mix.messages_before);
        let is_filled = people.all.iter().flat_map(|person| &person.marks).all(|mark| mark.offset == before);
        ensure!(is_filled, "a channel does not hold the {before} messages that it was filled with");
        Ok(Self { mix, fleet, people, random, published: 0, asked: 0 })
    }

    /// Lets people do what they do for a while, and waits for all that comes of it; how much they did.
    fn live(&mut self, posts: f64, during: Duration, stop: &dyn Fn() -> bool) -> Result<u64> {
        let Weights { switch_channel, scroll, reconnect } = self.mix.weights;
        let per_second = posts * (1.0 + switch_channel + scroll + reconnect);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^7/s for an hour")]
        let most = (per_second * during.as_secs_f64()) as u64 + 1;
        let (first, first_ns) = (Instant::now(), self.fleet.now_ns());
        self.people.begin(most)?;
        let mut actions = 0_u64;
        loop {
            let after = Duration::from_secs_f64(count_f64(actions) / per_second);
            if after >= during || stop() {
                break;
            }
            let due = first + after;
            while Instant::now() < due {
                self.turn(due)?;
            }
            let action = self.draw(posts / per_second, first_ns + u64::try_from(after.as_nanos())?)?;
            let user = usize::try_from(self.random.below(self.people.all.len() as u64))?;
            self.people.all[user].due.push_back(action);
            self.act(user)?;
            actions += 1;
        }
        let end = Instant::now() + DRAIN;
        while !self.people.is_quiet() && Instant::now() < end && !stop() {
            self.turn(end.min(Instant::now() + Duration::from_millis(10)))?;
        }
        if !stop() {
            self.people.check_answers()?;
        }
        Ok(actions)
    }

    /// Takes what comes, and lets those go on who waited for it.
    fn turn(&mut self, until: Instant) -> Result<()> {
        self.fleet.turn(until, &mut self.people)?;
        for user in std::mem::take(&mut self.people.free) {
            self.act(user)?;
        }
        Ok(())
    }

    /// What somebody does next; `post` is the share of posts among all.
    fn draw(&mut self, post: f64, due_ns: u64) -> Result<Action> {
        let Weights { switch_channel, scroll, .. } = self.mix.weights;
        let place = usize::try_from(self.random.below(self.mix.channels_each.into()))?;
        let pages = SCROLL_PAGES.min(u64::from(self.mix.messages_before) / PAGE - 1);
        let back = 1 + self.random.below(pages);
        let drawn = self.random.share();
        let deed = if drawn < post {
            Deed::Post
        } else if drawn < post * (1.0 + switch_channel) {
            Deed::Look
        } else if drawn < post * (1.0 + switch_channel + scroll) {
            Deed::Scroll { pages: back }
        } else {
            Deed::Reconnect
        };
        Ok(Action { deed, place, due_ns })
    }

    /// Does what is due of somebody, as far as they can now.
    fn act(&mut self, user: usize) -> Result<()> {
        while let Some(Action { deed, place, due_ns }) = self.people.all[user].next() {
            let person = &mut self.people.all[user];
            let client = person.client;
            match deed {
                Deed::Post => {
                    person.unanswered += 1;
                    self.people.posted(user, place, due_ns);
                    self.published = self.published.wrapping_add(1);
                    self.fleet.publish(client, place, self.published, self.mix.payload, due_ns);
                }
                Deed::Look => self.page(user, place, 0, due_ns)?,
                Deed::Scroll { pages } => {
                    let before = person.position(place).offset + 1 - PAGE * pages;
                    self.page(user, place, before, due_ns)?;
                }
                Deed::Reconnect => {
                    let resume = (0..person.channels.len()).map(|place| person.position(place)).collect();
                    person.leave(due_ns);
                    let plan: Plan = person.plan(user, resume);
                    self.fleet.close(client);
                    let client = self.fleet.open(plan)?;
                    self.people.connected(user, client);
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, user: usize, place: usize, before: u64, due_ns: u64) -> Result<()> {
        let person = &mut self.people.all[user];
        let known = person.position(place).offset;
        self.asked = self.asked.wrapping_add(1);
        ensure!(self.fleet.history(person.client, place, before, self.asked), "there is no history to page through");
        person.unanswered += 1;
        self.people.asked.insert(self.asked, Asked { user, before, known, due_ns });
        Ok(())
    }
}

/// Somebody's channels: many people in the first ones, few in the last.
fn draw_channels(mix: &Mix, random: &mut Random) -> Vec<u32> {
    let mut channels = Vec::new();
    while channels.len() < mix.channels_each as usize {
        // The lower of two draws: a channel's members fall off linearly.
        let channel = random.below(mix.channels.into()).min(random.below(mix.channels.into()));
        let channel = u32::try_from(channel).unwrap_or_default();
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    channels
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
