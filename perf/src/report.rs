//! What a run found: figures, and all that they depend on. This is the JSON that machines read; pages and comparisons are made from it.

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

pub(crate) use file::read;
pub(crate) use render::{Arguments, page, render};
pub(crate) use words::{point, time};

/// Grows when the meaning of a field changes.
pub(crate) const FORMAT: u32 = 1;

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
    /// One value per run, in order: runs of the same place are of the same minute, so they pair between subjects.
    pub(crate) runs: Vec<f64>,
    /// Runs in which the load generator was the bottleneck: their value says nothing of the subject but that it is at least this good.
    pub(crate) load_bound: u32,
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
pub(crate) const LATENCY: [(Metric, f64); 5] = [
    (metric("latency p50", "ms", Better::Lower), 0.5),
    (metric("latency p90", "ms", Better::Lower), 0.9),
    (metric("latency p99", "ms", Better::Lower), 0.99),
    (metric("latency p99.9", "ms", Better::Lower), 0.999),
    (metric("latency max", "ms", Better::Lower), 1.0),
];
pub(crate) const LATENCY_P95: Metric = metric("latency p95", "ms", Better::Lower);
pub(crate) const PAGE_P50: Metric = metric("page p50", "ms", Better::Lower);
pub(crate) const PAGE_P95: Metric = metric("page p95", "ms", Better::Lower);
pub(crate) const CPU_PER_ACTION: Metric = metric("cpu per action", "µs", Better::Lower);
pub(crate) const DELIVERIES: Metric = metric("deliveries", "/s", Better::Higher);
pub(crate) const SATURATION: Metric = metric("deliveries at saturation", "/s", Better::Higher);
pub(crate) const LOST: Metric = metric("lost", "%", Better::Lower);
pub(crate) const SUBJECT_BUSY: Metric = metric("subject busy", "%", Better::Neither);
pub(crate) const LOAD_BUSY: Metric = metric("load generator busy", "%", Better::Neither);
pub(crate) const LOAD_LATE: Metric = metric("load generator late, p99", "ms", Better::Neither);
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
                    load_bound: 0,
                });
                self.figures.last_mut().expect("just pushed")
            }
        };
        figure.runs.push(value);
        figure.load_bound += u32::from(entry.load_bound && metric.better != Better::Neither);
    }

    /// The same figure of the limit, for its ratio.
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

    /// The middle of the ratios of runs of the same minute.
    pub(crate) fn ratio_to(&self, limit: &Self) -> Option<f64> {
        let ratios = self.ratios_to(limit);
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// Ratios of runs of the same minute. Where one side misses a run nobody knows which belong together: then of the medians alone.
    pub(crate) fn ratios_to(&self, limit: &Self) -> Vec<f64> {
        let ratios = |own: &[f64], limit: &[f64]| -> Vec<f64> {
            own.iter().zip(limit).filter(|(_, limit)| **limit > 0.0).map(|(own, limit)| own / limit).collect()
        };
        if self.runs.len() == limit.runs.len() {
            ratios(&self.runs, &limit.runs)
        } else {
            ratios(&[self.median()], &[limit.median()])
        }
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
