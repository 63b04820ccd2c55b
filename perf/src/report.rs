//! What a run found: figures, and all that they depend on. This is the JSON that machines read; pages and comparisons are made from it.

mod against;
mod chart;
mod file;
mod markdown;
mod page;
mod plots;
mod render;
mod scale;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limit::Limit;
use crate::machine::Machine;
use crate::subject::Missing;

pub(crate) use against::Against;
pub(crate) use file::read;
pub(crate) use render::{Arguments, page, render};
pub(crate) use words::{point, time};

/// Grows when the meaning of a field changes. Format 1 did not say which run a value is of; it is read all the same.
pub(crate) const FORMAT: u32 = 2;

/// A whole report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: u32,
    /// When it began; Unix time, seconds.
    pub(crate) started: u64,
    /// The command that made it.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// Cores that subjects ran on, and that the load ran on.
    pub(crate) subject_cores: String,
    pub(crate) load_cores: String,
    /// Ended by Ctrl-C, or by a failure: what is here is whole all the same.
    pub(crate) interrupted: bool,
    /// What each scenario shows, by its name.
    #[serde(default)]
    pub(crate) scenarios: BTreeMap<String, String>,
    pub(crate) subjects: Vec<SubjectInfo>,
    /// Subjects that were asked for and are not installed.
    pub(crate) missing: Vec<MissingSubject>,
    /// What the machine can do at best, in the minute before the first run.
    #[serde(default)]
    pub(crate) limits: Vec<Limit>,
    pub(crate) figures: Vec<Figure>,
    /// What went wrong, in words; the figures it would have given are not there.
    pub(crate) failures: Vec<String>,
}

/// A subject that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubjectInfo {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// A subject that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MissingSubject {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) missing: Missing,
}

/// One figure of one subject at one point of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) scenario: String,
    pub(crate) subject: String,
    /// What the subject promises here: figures of different promises do not compare.
    pub(crate) guarantee: String,
    /// What varies within the scenario, such as subscribers and rate.
    pub(crate) point: BTreeMap<String, f64>,
    pub(crate) metric: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    /// The values, in the order in which they were measured: one per run, but for scenarios that measure the same several times in a run.
    pub(crate) runs: Vec<f64>,
    /// The number of the run that each of them is of, from 1: values of the same number are of the same minute, so they pair between
    /// subjects. A run that failed is missing. Empty in reports of format 1, which did not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) numbers: Vec<u32>,
    /// In how many runs the load generator was the bottleneck: their value says nothing of the subject but that it is at least this good.
    pub(crate) load_bound: u32,
    /// Which runs these are. Empty in reports of format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) load_bound_in: Vec<u32>,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
    /// It explains another figure.
    Neither,
}

/// What a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

const fn metric(name: &'static str, unit: &'static str, better: Better) -> Metric {
    Metric { name, unit, better }
}

pub(crate) const CPU_PER_DELIVERY: Metric = metric("cpu per delivery", "µs", Better::Lower);
pub(crate) const USER_SHARE: Metric = metric("user share of cpu", "%", Better::Lower);
pub(crate) const USER_PER_DELIVERY: Metric = metric("user cpu per delivery", "µs", Better::Neither);
pub(crate) const LATENCY: [(Metric, f64); 5] = [
    (metric("latency p50", "ms", Better::Lower), 0.5),
    (metric("latency p90", "ms", Better::Lower), 0.9),
    (metric("latency p99", "ms", Better::Lower), 0.99),
    (metric("latency p99.9", "ms", Better::Lower), 0.999),
    (metric("latency max", "ms", Better::Lower), 1.0),
];
/// Of a page of history: it waits for no disk, so it is no "latency", which stands beside a disk's where the guarantee asks for it.
pub(crate) const PAGE: [(Metric, f64); 5] = [
    (metric("page p50", "ms", Better::Lower), 0.5),
    (metric("page p90", "ms", Better::Lower), 0.9),
    (metric("page p95", "ms", Better::Lower), 0.95),
    (metric("page p99", "ms", Better::Lower), 0.99),
    (metric("page max", "ms", Better::Lower), 1.0),
];
/// Of a message among people who come and go: some of those who get it come back for it.
pub(crate) const POST: [(Metric, f64); 4] = [
    (metric("post p50", "ms", Better::Lower), 0.5),
    (metric("post p95", "ms", Better::Lower), 0.95),
    (metric("post p99", "ms", Better::Lower), 0.99),
    (metric("post max", "ms", Better::Lower), 1.0),
];
/// From a lost connection until all channels are joined again.
pub(crate) const BACK: [(Metric, f64); 2] =
    [(metric("back p50", "ms", Better::Lower), 0.5), (metric("back p95", "ms", Better::Lower), 0.95)];
/// Of messages of a channel whose packets are lost.
pub(crate) const HIT: [(Metric, f64); 3] = [
    (metric("hit p50", "ms", Better::Neither), 0.5),
    (metric("hit p99", "ms", Better::Neither), 0.99),
    (metric("hit max", "ms", Better::Neither), 1.0),
];
/// Messages that took longer than the path takes there and back: they, or others before them, were sent again.
pub(crate) const LATE: Metric = metric("late", "%", Better::Lower);
pub(crate) const HIT_LATE: Metric = metric("hit late", "%", Better::Neither);
pub(crate) const PACKETS_LOST: Metric = metric("packets lost", "", Better::Neither);
/// From the moment when thousands were cut off until each of them has joined again.
pub(crate) const RETURNED: [(Metric, f64); 3] = [
    (metric("returned p50", "ms", Better::Lower), 0.5),
    (metric("returned p99", "ms", Better::Lower), 0.99),
    (metric("returned max", "ms", Better::Lower), 1.0),
];
/// From that moment until those who came for the first time have joined.
pub(crate) const LOGGED_IN: [(Metric, f64); 3] = [
    (metric("logged in p50", "ms", Better::Lower), 0.5),
    (metric("logged in p99", "ms", Better::Lower), 0.99),
    (metric("logged in max", "ms", Better::Lower), 1.0),
];
/// Of messages to those who stayed, before.
pub(crate) const QUIET: [(Metric, f64); 2] =
    [(metric("quiet p50", "ms", Better::Neither), 0.5), (metric("quiet p99", "ms", Better::Neither), 0.99)];
pub(crate) const AGAINST_QUIET: Metric = metric("latency p99 by quiet p99", "×", Better::Lower);
pub(crate) const SENT_AWAY: Metric = metric("asked to come later", "", Better::Neither);
pub(crate) const HERD_BUSY: Metric = metric("who comes back busy", "%", Better::Neither);
pub(crate) const CPU_PER_ACTION: Metric = metric("cpu per action", "µs", Better::Lower);
pub(crate) const DELIVERIES: Metric = metric("deliveries", "/s", Better::Higher);
pub(crate) const SATURATION: Metric = metric("deliveries at saturation", "/s", Better::Higher);
/// CPU per delivery at the highest rate that held: what is left of a saturation where the load generator was at its limit, too.
pub(crate) const SATURATION_CPU: Metric = metric("cpu per delivery at saturation", "µs", Better::Lower);
pub(crate) const LOST: Metric = metric("lost", "%", Better::Lower);
pub(crate) const CAME_AGAIN: Metric = metric("came again", "%", Better::Lower);
pub(crate) const SUBJECT_BUSY: Metric = metric("subject busy", "%", Better::Neither);
pub(crate) const OTHERS: Metric = metric("others on the subject's cores", "%", Better::Neither);
pub(crate) const BRAKED: Metric = metric("taken by the brake", "%", Better::Neither);
pub(crate) const LOAD_BUSY: Metric = metric("load generator busy", "%", Better::Neither);
pub(crate) const LOAD_WAITED: Metric = metric("load generator waited for its core", "%", Better::Neither);
pub(crate) const LOAD_LATE: Metric = metric("load generator late, p99", "ms", Better::Neither);
pub(crate) const HELD_BACK: Metric = metric("held back by the subject, p99", "ms", Better::Neither);
pub(crate) const CONNECTS: Metric = metric("connects", "/s", Better::Higher);
pub(crate) const CPU_PER_CONNECT: Metric = metric("cpu per connect", "µs", Better::Lower);
pub(crate) const RESUMES: Metric = metric("resumes", "/s", Better::Higher);
pub(crate) const CPU_PER_RESUME: Metric = metric("cpu per resume", "µs", Better::Lower);
pub(crate) const ACKNOWLEDGED: Metric = metric("acknowledged", "/s", Better::Higher);
pub(crate) const CPU_PER_PUBLISH: Metric = metric("cpu per publish", "µs", Better::Lower);
pub(crate) const MEMORY_PER_SESSION: Metric = metric("memory per session", "B", Better::Lower);
pub(crate) const KERNEL_PER_SESSION: Metric = metric("kernel memory per session, both ends", "B", Better::Neither);
pub(crate) const CPU_PER_IDLE_SECOND: Metric = metric("cpu per session and second", "µs", Better::Lower);
pub(crate) const MEMORY_GROWN: Metric = metric("memory grown", "KiB", Better::Lower);
pub(crate) const ECHOES: Metric = metric("echoes", "/s", Better::Higher);
pub(crate) const CPU_PER_ECHO: Metric = metric("cpu per echo", "µs", Better::Lower);
pub(crate) const CPU_PER_PAGE: Metric = metric("cpu per page", "µs", Better::Lower);

/// Values of one run that belong to one point of one subject.
pub(crate) struct Entry<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) guarantee: &'a str,
    pub(crate) point: &'a [(&'a str, f64)],
    /// Of the run, from 1.
    pub(crate) number: u32,
    pub(crate) load_bound: bool,
}

impl Report {
    /// Adds the value of one more run.
    pub(crate) fn record(&mut self, entry: &Entry<'_>, metric: Metric, value: f64) {
        let point: BTreeMap<String, f64> = entry.point.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let found = self.figures.iter_mut().find(|figure| {
            figure.metric == metric.name
                && figure.scenario == entry.scenario
                && figure.subject == entry.subject
                && figure.point == point
        });
        let figure = match found {
            Some(figure) => figure,
            None => {
                self.figures.push(Figure {
                    scenario: entry.scenario.to_owned(),
                    subject: entry.subject.to_owned(),
                    guarantee: entry.guarantee.to_owned(),
                    point,
                    metric: metric.name.to_owned(),
                    unit: metric.unit.to_owned(),
                    better: metric.better,
                    runs: Vec::new(),
                    numbers: Vec::new(),
                    load_bound: 0,
                    load_bound_in: Vec::new(),
                });
                self.figures.last_mut().expect("just pushed")
            }
        };
        figure.runs.push(value);
        figure.numbers.push(entry.number);
        if entry.load_bound && metric.better != Better::Neither {
            figure.load_bound += 1;
            figure.load_bound_in.push(entry.number);
        }
    }

    /// The highest number of a run of a scenario so far; 0 if there is none.
    pub(crate) fn runs_of(&self, scenario: &str) -> u32 {
        let figures = self.figures.iter().filter(|figure| figure.scenario == scenario);
        figures.flat_map(|figure| &figure.numbers).copied().max().unwrap_or_default()
    }

    /// The same figure of the limit; [`against`](Self::against) gives the ratio.
    pub(crate) fn limit_of(&self, figure: &Figure) -> Option<&Figure> {
        self.figures.iter().find(|other| {
            other.subject == crate::subject::bare::NAME
                && other.scenario == figure.scenario
                && other.metric == figure.metric
                && other.point == figure.point
                && figure.subject != other.subject
                && !figure.subject.starts_with("bare")
        })
    }
}

impl Figure {
    /// The middle of the runs; of an even number the lower of the two.
    pub(crate) fn median(&self) -> f64 {
        median(&self.runs)
    }

    /// Lowest and highest; 0 and 0 of none.
    pub(crate) fn spread(&self) -> (f64, f64) {
        spread(&self.runs).unwrap_or_default()
    }
}

/// Lowest and highest of values; `None` of none.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    Some((low, high))
}

/// The middle value; of an even number the lower of the two. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// The report in `perf/example`, for tests.
#[cfg(test)]
pub(crate) fn example() -> Report {
    file::parse(include_str!("../example/report.json")).expect("the example is a report")
}

#[cfg(test)]
mod tests;
