//! Scenarios: what is asked of a subject, as TOML. Those in `perf/scenarios` are built in; a path names another.

mod only;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::subject::{Algorithm, History};
use crate::transport::Transport;
pub(crate) use only::Only;

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its file's name without the end; not in the file.
    #[serde(skip)]
    pub(crate) name: String,
    /// What it shows, in a line.
    pub(crate) title: String,
    /// Times that everything is measured, in turns between the subjects.
    pub(crate) runs: u32,
    /// Subjects that it makes sense for; empty: all.
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    /// How clients come, one after the other; a subject takes part with those that it has.
    #[serde(default = "in_clear")]
    pub(crate) transports: Vec<Transport>,
    #[serde(flatten)]
    pub(crate) workload: Workload,
}

/// What is done; one table of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    Fanout(Fanout),
    Storm(Storm),
    Idle(Idle),
    Publish(Publish),
    Slow(Slow),
    History(HistoryPaging),
    Mix(Mix),
    Cut(Cut),
    Lossy(Lossy),
}

/// Messages to channels, to all their subscribers, at steady rates. Open loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Fanout {
    pub(crate) channels: Vec<u32>,
    /// Of each channel.
    pub(crate) subscribers: Vec<u32>,
    /// Clients that take the seats of all channels in turn; one for each seat if there is no such bound. Never fewer than a channel has.
    #[serde(default)]
    pub(crate) clients_max: Option<u32>,
    /// Messages per second to all channels together, in turn.
    #[serde(default)]
    pub(crate) rates: Vec<f64>,
    /// In place of rates: deliveries per second, the same for any number of subscribers.
    #[serde(default)]
    pub(crate) deliveries: Vec<f64>,
    /// Shards of the subject, one core each; empty: as many as it has cores.
    #[serde(default)]
    pub(crate) shards: Vec<u16>,
    /// So much of its cores is left to the subject, in percent; a brake takes the rest, once everybody has joined.
    #[serde(default)]
    pub(crate) core_percent: Option<u32>,
    /// Bytes.
    pub(crate) payloads: Vec<usize>,
    #[serde(default)]
    pub(crate) history: History,
    #[serde(with = "humantime_serde")]
    pub(crate) warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) measure: Duration,
    /// Then: rates from the last on, half as much again each time, until p99 passes this or messages are lost.
    #[serde(default, with = "humantime_serde::option")]
    pub(crate) saturate_until_p99: Option<Duration>,
}

/// Sessions that come and go: connect, authenticate, subscribe, close; or resume, where they have missed something.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Storm {
    pub(crate) sessions: u32,
    /// Under way at a time.
    pub(crate) side_by_side: u32,
    pub(crate) channels: u32,
    /// Of each session.
    pub(crate) channels_each: u32,
    /// Messages behind each position that a session comes back with; 0: it is new.
    #[serde(default)]
    pub(crate) missed: u32,
    #[serde(default = "small_payload")]
    pub(crate) payload: usize,
    #[serde(default)]
    pub(crate) history: History,
    pub(crate) tokens: Vec<Tokens>,
    pub(crate) algorithms: Vec<Algorithm>,
}

/// What a session proves itself with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tokens {
    /// The first of a user who has not been there: what they may do has to be looked up, too.
    NewUser,
    /// One that no session had before it, of a user who has been there.
    New,
    /// One that has been there: somebody comes back.
    Known,
}

/// Sessions that only wait.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Idle {
    pub(crate) channels: u32,
    /// Sessions at the first and at the second reading.
    pub(crate) populations: [u32; 2],
    /// How long CPU time is counted; a heartbeat's interval or a multiple of it is fair.
    #[serde(with = "humantime_serde")]
    pub(crate) hold: Duration,
    #[serde(default)]
    pub(crate) history: History,
}

/// Publishers that keep messages under way. Closed loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Publish {
    pub(crate) publishers: u32,
    pub(crate) channels: u32,
    /// Of each publisher.
    pub(crate) in_flight: Vec<u32>,
    pub(crate) payload: usize,
    pub(crate) history: History,
    pub(crate) wait_for: Answer,
    #[serde(with = "humantime_serde")]
    pub(crate) warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) measure: Duration,
}

/// What a publisher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// That the message is accepted.
    Acknowledgement,
    /// The message itself, as a subscriber.
    Echo,
}

/// One that never reads among many that do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Slow {
    pub(crate) subscribers: u32,
    /// Of each round.
    pub(crate) messages: u32,
    /// Per second.
    pub(crate) rate: f64,
    pub(crate) payload: usize,
    pub(crate) pairs: u32,
    /// What the one that never reads has to be closed with.
    #[serde(default)]
    pub(crate) close_code: Option<u16>,
    #[serde(default)]
    pub(crate) history: History,
}

/// Pages from the newest to the oldest of one channel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HistoryPaging {
    pub(crate) messages: u64,
    pub(crate) payload: usize,
    /// Read at each depth.
    pub(crate) pages: u32,
}

/// People who read, write, scroll and come back. Open loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Mix {
    pub(crate) users: u32,
    pub(crate) channels: u32,
    pub(crate) channels_each: u32,
    /// In each channel before anybody comes: without a past there is nothing to page through.
    pub(crate) messages_before: u32,
    /// Of all users together, per second; what else they do follows from the weights.
    pub(crate) posts: Vec<f64>,
    pub(crate) payload: usize,
    pub(crate) history: History,
    pub(crate) weights: Weights,
    #[serde(with = "humantime_serde")]
    pub(crate) warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) measure: Duration,
}

/// Many sessions that lose their connections at the same moment and come back, while others stay and hear messages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Cut {
    /// Cut, with one subscription each.
    pub(crate) sessions: u32,
    /// Who log in for the first time at that moment.
    pub(crate) newcomers: u32,
    /// Who stay, all in one channel of their own.
    pub(crate) staying: u32,
    /// Of those who are cut, and of the newcomers.
    pub(crate) channels: u32,
    /// Messages per second to those who stay.
    pub(crate) rate: f64,
    pub(crate) payload: usize,
    /// How long those who stay are measured before.
    #[serde(with = "humantime_serde")]
    pub(crate) quiet: Duration,
    #[serde(default)]
    pub(crate) history: History,
}

/// One client in several channels, over a path that loses packets of one of them. Open loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Lossy {
    pub(crate) channels: u32,
    /// Messages per second to all channels together, in turn.
    pub(crate) rate: f64,
    pub(crate) payload: usize,
    /// Of the first channel: its packets are known by their size.
    pub(crate) hit_payload: usize,
    /// Of these packets, in percent.
    pub(crate) losses: Vec<f64>,
    /// Of all packets, in both directions, in percent; measured after the others.
    #[serde(default)]
    pub(crate) path_losses: Vec<f64>,
    /// Of the path, in each direction.
    #[serde(with = "humantime_serde")]
    pub(crate) delay: Duration,
    /// Chooses what is lost.
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) history: History,
    #[serde(with = "humantime_serde")]
    pub(crate) warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) measure: Duration,
}

/// How often people do something for each message that they post.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Weights {
    /// Look at another channel: its newest page.
    pub(crate) switch_channel: f64,
    /// Scroll up: the page before.
    pub(crate) scroll: f64,
    /// Lose the connection and come back.
    pub(crate) reconnect: f64,
}

fn in_clear() -> Vec<Transport> {
    vec![Transport::Ws]
}

fn small_payload() -> usize {
    170
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each scenario that comes with the program.
        pub(crate) const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

built_in![
    "big-room",
    "chat",
    "connect",
    "echo",
    "fanout",
    "fanout-quic",
    "fanout-saturation",
    "fanout-sizes",
    "growth-channels",
    "growth-channels-live",
    "growth-people",
    "growth-room",
    "growth-shards",
    "growth-subscribers",
    "head-of-line",
    "history",
    "idle",
    "idle-quic",
    "publish",
    "resume",
    "rooms",
    "rooms-braked",
    "slow-reader",
    "smoke",
    "storm",
];

impl Scenario {
    /// A scenario by the name of a built-in one, or by the path of a file.
    ///
    /// # Errors
    /// When there is none, or it makes no sense.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        let known = || BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{name:?} is neither a scenario ({}) nor a file that can be read", known()))?;
        let stem = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&stem, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        scenario.name = name.to_owned();
        ensure!(
            (1..=100).contains(&scenario.runs),
            "scenario {name}: runs is {}, it has to be 1 to 100",
            scenario.runs
        );
        ensure!(!scenario.transports.is_empty(), "scenario {name}: transports need ws, wss, quic or several of them");
        scenario.workload.check().with_context(|| format!("scenario {name}"))?;
        let longest = scenario.workload.longest();
        ensure!(longest <= LONGEST, "scenario {name}: {longest:?} in one go, {LONGEST:?} is the most");
        Ok(scenario)
    }
}

/// Bytes of a payload that the time of sending fits into and every subject takes.
fn check_payload(bytes: usize) -> Result<()> {
    let least = crate::stamp::BYTES_MIN;
    ensure!(
        (least..=60_000).contains(&bytes),
        "a payload has to be {least} to 60000 bytes: the time of sending is in it"
    );
    Ok(())
}

/// More of anything than one machine has clients, channels or messages for in a round.
const COUNT_MAX: u32 = 10_000_000;

fn check_above_0(name: &str, value: u32) -> Result<()> {
    ensure!((1..=COUNT_MAX).contains(&value), "{name} has to be 1 to {COUNT_MAX}, and not {value}");
    Ok(())
}

fn check_rate(rate: f64) -> Result<()> {
    ensure!((0.001..=1e7).contains(&rate), "a rate has to be 0.001 to 10,000,000 per second, and not {rate}");
    Ok(())
}

/// Longest warm-up, measurement or hold.
const LONGEST: Duration = Duration::from_secs(3_600);

impl Workload {
    /// The longest stretch of time that it asks for.
    fn longest(&self) -> Duration {
        match self {
            Self::Fanout(fanout) => fanout.measure.max(fanout.warm_up),
            Self::Idle(idle) => idle.hold,
            Self::Publish(publish) => publish.measure.max(publish.warm_up),
            Self::Mix(mix) => mix.measure.max(mix.warm_up),
            Self::Cut(cut) => cut.quiet,
            Self::Lossy(lossy) => lossy.measure.max(lossy.warm_up),
            Self::Storm(_) | Self::Slow(_) | Self::History(_) => Duration::ZERO,
        }
    }

    /// Makes it as small as can be: to see that everything runs, and nothing to quote.
    pub(crate) fn shrink(&mut self) {
        let brief = Duration::from_millis(300);
        match self {
            Self::Fanout(fanout) => {
                for counts in [&mut fanout.channels, &mut fanout.subscribers] {
                    counts.truncate(1);
                    counts[0] = counts[0].min(20);
                }
                fanout.shards.truncate(1);
                // Not everybody may have a brake.
                fanout.core_percent = None;
                (fanout.rates, fanout.deliveries) = (vec![50.0], Vec::new());
                fanout.payloads.truncate(1);
                (fanout.warm_up, fanout.measure, fanout.saturate_until_p99) = (brief, brief, None);
            }
            Self::Storm(storm) => {
                (storm.sessions, storm.side_by_side) = (40, 8);
                storm.channels = storm.channels_each.max(2);
            }
            Self::Idle(idle) => (idle.populations, idle.hold, idle.channels) = ([10, 40], brief, 5),
            Self::Publish(publish) => {
                (publish.publishers, publish.channels, publish.in_flight) = (4, 8, vec![2]);
                (publish.warm_up, publish.measure) = (brief, brief);
            }
            Self::Cut(cut) => {
                (cut.sessions, cut.newcomers, cut.staying, cut.channels) = (40, 10, 10, 5);
                (cut.rate, cut.quiet) = (50.0, brief);
            }
            Self::Lossy(lossy) => {
                (lossy.losses, lossy.path_losses) = (vec![20.0], vec![10.0]);
                (lossy.warm_up, lossy.measure) = (brief, brief * 3);
            }
            // Fewer messages would not fill the queue of the one that never reads.
            Self::Slow(slow) => (slow.subscribers, slow.rate, slow.pairs) = (10, 400.0, 1),
            Self::History(paging) => (paging.messages, paging.pages) = (1_000, 5),
            Self::Mix(mix) => {
                (mix.users, mix.channels, mix.channels_each, mix.posts) = (20, 5, 2, vec![5.0]);
                mix.messages_before = 200;
                (mix.warm_up, mix.measure) = (brief, brief);
            }
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Fanout(fanout) => fanout.check(),
            Self::Storm(storm) => {
                check_above_0("sessions", storm.sessions)?;
                check_above_0("side-by-side", storm.side_by_side)?;
                check_above_0("channels-each", storm.channels_each)?;
                ensure!(storm.channels >= storm.channels_each, "channels has to be channels-each or more");
                ensure!(
                    !storm.tokens.is_empty() && !storm.algorithms.is_empty(),
                    "tokens needs new, known or both, and algorithms eddsa, hs256 or both"
                );
                ensure!(storm.missed == 0 || storm.history != History::None, "without history nothing can be missed");
                check_payload(storm.payload)
            }
            Self::Idle(idle) => {
                let [few, many] = idle.populations;
                ensure!(few < many, "populations have to grow: {few} is not less than {many}");
                check_above_0("channels", idle.channels)
            }
            Self::Publish(publish) => {
                check_above_0("publishers", publish.publishers)?;
                ensure!(publish.channels >= publish.publishers, "each publisher needs a channel of its own");
                publish.in_flight.iter().try_for_each(|&count| check_above_0("in-flight", count))?;
                ensure!(
                    !publish.in_flight.is_empty() && !publish.measure.is_zero(),
                    "in-flight and measure need a value"
                );
                check_payload(publish.payload)
            }
            Self::Slow(slow) => {
                check_above_0("subscribers", slow.subscribers)?;
                check_above_0("messages", slow.messages)?;
                check_rate(slow.rate)?;
                check_payload(slow.payload)
            }
            Self::History(paging) => {
                ensure!(paging.messages >= 1_000, "messages has to be 1000 or more");
                check_above_0("pages", paging.pages)?;
                check_payload(paging.payload)
            }
            Self::Lossy(lossy) => {
                ensure!(
                    (2..=1_000).contains(&lossy.channels),
                    "channels has to be 2 to 1000: one that is hit, and others"
                );
                ensure!(
                    !lossy.losses.is_empty()
                        && lossy.losses.iter().chain(&lossy.path_losses).all(|loss| (0.0..=50.0).contains(loss)),
                    "losses need a value, and are 0 to 50 percent, as path-losses are"
                );
                let least = lossy.payload + crate::workload::lossy::HIT_BYTES_MORE;
                ensure!(
                    (least..=1_000).contains(&lossy.hit_payload),
                    "hit-payload has to be {least} to 1000: more than the others, and within one packet"
                );
                ensure!(!lossy.measure.is_zero(), "measure has to be longer than nothing");
                ensure!(lossy.delay <= Duration::from_secs(1), "delay has to be a second at most");
                check_rate(lossy.rate)?;
                check_payload(lossy.payload)
            }
            Self::Cut(cut) => {
                check_above_0("sessions", cut.sessions)?;
                check_above_0("staying", cut.staying)?;
                check_above_0("channels", cut.channels)?;
                ensure!(cut.newcomers <= COUNT_MAX, "newcomers has to be {COUNT_MAX} at most");
                ensure!(!cut.quiet.is_zero(), "quiet has to be longer than nothing");
                ensure!(cut.history != History::None, "without history nobody comes back to a position");
                check_rate(cut.rate)?;
                check_payload(cut.payload)
            }
            Self::Mix(mix) => {
                check_above_0("users", mix.users)?;
                check_above_0("channels-each", mix.channels_each)?;
                ensure!(mix.channels >= mix.channels_each, "channels has to be channels-each or more");
                ensure!(!mix.posts.is_empty(), "posts needs a value");
                mix.posts.iter().try_for_each(|&rate| check_rate(rate))?;
                ensure!(
                    mix.messages_before >= 2 * crate::dialect::PAGE && mix.messages_before <= 1_000_000,
                    "messages-before has to be 100 to 1,000,000: two pages at least"
                );
                ensure!(mix.history != History::None, "without history there is nothing to page through");
                let Weights { switch_channel, scroll, reconnect } = mix.weights;
                ensure!(
                    [switch_channel, scroll, reconnect].iter().all(|weight| (0.0..=1_000.0).contains(weight)),
                    "weights have to be 0 to 1000"
                );
                check_payload(mix.payload)
            }
        }
    }
}

/// How fast messages go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// What the scenario gives, and how much of it per second: `rate` or `deliveries`.
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    /// Messages per second.
    pub(crate) rate: f64,
}

impl Fanout {
    /// How fast messages go to all channels together, where each has so many subscribers.
    pub(crate) fn paces(&self, subscribers: u32) -> Vec<Pace> {
        let by_rate = self.rates.iter().map(|&rate| Pace { name: "rate", value: rate, rate });
        let by_deliveries = self.deliveries.iter().map(|&deliveries| Pace {
            name: "deliveries",
            value: deliveries,
            rate: deliveries / f64::from(subscribers.max(1)),
        });
        by_rate.chain(by_deliveries).collect()
    }

    fn check(&self) -> Result<()> {
        ensure!(self.rates.is_empty() || self.deliveries.is_empty(), "rates and deliveries cannot be had together");
        let paces = self.rates.len() + self.deliveries.len();
        let lists = [self.channels.len(), self.subscribers.len(), paces, self.payloads.len()];
        ensure!(
            lists.iter().all(|&length| length > 0),
            "channels, subscribers, payloads, and rates or deliveries each need a value"
        );
        self.deliveries.iter().try_for_each(|&rate| check_rate(rate))?;
        self.shards.iter().try_for_each(|&count| check_above_0("shards", count.into()))?;
        if let Some(percent) = self.core_percent {
            ensure!((10..=99).contains(&percent), "core-percent has to be 10 to 99, and not {percent}");
        }
        self.channels.iter().try_for_each(|&count| check_above_0("channels", count))?;
        self.subscribers.iter().try_for_each(|&count| check_above_0("subscribers", count))?;
        self.rates.iter().try_for_each(|&rate| check_rate(rate))?;
        self.payloads.iter().try_for_each(|&bytes| check_payload(bytes))?;
        for (channels, subscribers) in self.channels.iter().flat_map(|c| self.subscribers.iter().map(move |s| (c, s))) {
            let seats = u64::from(*channels) * u64::from(*subscribers);
            ensure!(
                seats <= 1_000_000,
                "{channels} channels of {subscribers} are {seats} subscriptions, 1,000,000 are the most"
            );
        }
        ensure!(!self.measure.is_zero(), "measure has to be longer than nothing");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
