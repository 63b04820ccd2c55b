//! Which plots a report gives: decided by what varies in its figures, not by the names of scenarios, so a new scenario is plotted as it is.
//!
//! - Latency is plotted against the rate, or whatever else varies; CPU per delivery against the rate and against the subscribers.
//! - Everything else that has a better and a worse is plotted as bars, or as lines where it was measured at three values or more.
//! - CPU, p99 and saturation are plotted once more as multiples of the bare limit.

use std::collections::{BTreeMap, BTreeSet};

use super::chart::{Bar, Chart, Form, LIMITS, Look, Mark, Series};
use super::words;
use crate::print::number;
use crate::report::{self, Better, Figure, Report};
use crate::subject::bare;

/// The plots of one scenario.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) scenario: String,
    /// One of each kind.
    pub(crate) shown: Vec<Chart>,
    /// The same with other payloads, populations and so on.
    pub(crate) more: Vec<Chart>,
}

/// Plots of a metric that differ in what is held fixed: the first is nearest to this.
const REFERENCE: [(&str, f64); 4] = [("payload", 170.0), ("subscribers", 1000.0), ("channels", 1.0), ("rate", 100.0)];
/// What varies is plotted along the first of these that does.
const AXES: [&str; 4] = ["rate", "subscribers", "channels", "payload"];
/// Peers that keep their look even where others are missing.
const PEERS: [&str; 9] =
    ["centrifugo", "nats", "nchan", "ejabberd", "socket.io", "ws", "uwebsockets", "centrifuge", "jetstream"];

/// All plots, in the order of the scenarios.
pub(crate) fn sections(report: &Report) -> Vec<Section> {
    let looks = Looks::of(report);
    let mut names = BTreeSet::new();
    let section = |scenario: &str| {
        let mut section = Section { scenario: scenario.to_owned(), shown: Vec::new(), more: Vec::new() };
        let mut add = |charts: Vec<Chart>| {
            for (place, mut chart) in charts.into_iter().enumerate() {
                while !names.insert(chart.name.clone()) {
                    chart.name.push_str("-again");
                }
                if place == 0 { section.shown.push(chart) } else { section.more.push(chart) }
            }
        };
        for metric in metrics(report, scenario) {
            let of_metric: Vec<&Figure> =
                report.figures.iter().filter(|figure| figure.scenario == scenario && figure.metric == metric).collect();
            let varying = varying(&of_metric);
            let axes = axes(metric, &of_metric, &varying);
            for kind in [Kind::Value, Kind::Ratio] {
                if kind == Kind::Ratio && !HAS_RATIO.contains(&metric) {
                    continue;
                }
                let points = points(report, &of_metric, kind);
                let plot = Plot { scenario, kind, varying: &varying, looks: &looks, points: &points };
                if axes.is_empty() {
                    add(plot.bars());
                }
                for axis in &axes {
                    add(plot.lines(axis));
                }
            }
        }
        section
    };
    words::scenarios(report).into_iter().map(section).collect()
}

/// Metrics that are plotted as multiples of the limit, too.
const HAS_RATIO: [&str; 3] = [report::CPU_PER_DELIVERY.name, report::LATENCY[2].0.name, report::SATURATION.name];
/// Of latencies these are plotted; all are in the table.
const LATENCIES: [&str; 2] = [report::LATENCY[0].0.name, report::LATENCY[2].0.name];
/// Judged, but no picture of its own: it follows from the rate that was asked for, or is 0 in a report worth reading.
const NOT_PLOTTED: [&str; 3] = [report::DELIVERIES.name, report::LOST.name, report::USER_SHARE.name];

/// Metrics of a scenario that are plotted, in the order of the report.
fn metrics<'a>(report: &'a Report, scenario: &str) -> Vec<&'a str> {
    let is_plotted = |figure: &&Figure| {
        let metric = figure.metric.as_str();
        figure.scenario == scenario
            && figure.better != Better::Neither
            && !NOT_PLOTTED.contains(&metric)
            && (!metric.starts_with("latency") || LATENCIES.contains(&metric))
    };
    words::in_order(report.figures.iter().filter(is_plotted).map(|figure| figure.metric.as_str()))
}

/// Names with two values or more, and how many; being absent counts as one.
fn varying(figures: &[&Figure]) -> BTreeMap<String, usize> {
    let names: BTreeSet<&String> = figures.iter().flat_map(|figure| figure.point.keys()).collect();
    let values = |name: &str| -> usize {
        let values: BTreeSet<Option<u64>> =
            figures.iter().map(|figure| figure.point.get(name).map(|value| value.to_bits())).collect();
        values.len()
    };
    names.into_iter().map(|name| (name.clone(), values(name))).filter(|(_, count)| *count > 1).collect()
}

/// What a metric is plotted along: numbers that every figure has, with values enough for a line. A flag (0 or 1) is held fixed.
fn axes(metric: &str, figures: &[&Figure], varying: &BTreeMap<String, usize>) -> Vec<String> {
    let least = if metric.starts_with("latency") || metric == report::CPU_PER_DELIVERY.name { 2 } else { 3 };
    let is_axis = |name: &str| {
        let values: Option<Vec<f64>> = figures.iter().map(|figure| figure.point.get(name).copied()).collect();
        let is_number = values.is_some_and(|values| values.iter().any(|value| *value != 0.0 && *value != 1.0));
        is_number && varying.get(name).is_some_and(|&count| count >= least)
    };
    if metric == report::CPU_PER_DELIVERY.name && is_axis("rate") && is_axis("subscribers") {
        return vec!["rate".to_owned(), "subscribers".to_owned()];
    }
    let known = AXES.into_iter().find(|name| is_axis(name)).map(str::to_owned);
    known.or_else(|| varying.keys().find(|name| is_axis(name)).cloned()).into_iter().collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    /// In multiples of the limit.
    Ratio,
}

/// A figure as a mark, or its ratio to the limit.
fn points<'a>(report: &Report, figures: &[&'a Figure], kind: Kind) -> Vec<(&'a Figure, Mark)> {
    let mark = |figure: &Figure| {
        let ratios = match kind {
            Kind::Value => figure.runs.clone(),
            Kind::Ratio => figure.ratios_to(report.limit_of(figure)?),
        };
        let (low, high) = report::spread(&ratios)?;
        Some(Mark { median: report::median(&ratios), low, high, load_bound: figure.load_bound > 0 })
    };
    figures.iter().filter_map(|figure| Some((*figure, mark(figure)?))).collect()
}

/// One metric of one scenario.
struct Plot<'a> {
    scenario: &'a str,
    kind: Kind,
    varying: &'a BTreeMap<String, usize>,
    looks: &'a Looks,
    points: &'a [(&'a Figure, Mark)],
}

/// What is held fixed in a plot, comparable.
type Fixed = Vec<(String, u64)>;

impl Plot<'_> {
    fn lines(&self, axis: &str) -> Vec<Chart> {
        let mut charts = Vec::new();
        for (fixed, points) in self.groups(Some(axis)) {
            let mut series: Vec<Series> = Vec::new();
            for (figure, mark) in points {
                let Some(&x) = figure.point.get(axis) else { continue };
                match series.iter_mut().find(|series| series.subject == figure.subject) {
                    Some(series) => series.points.push((x, mark)),
                    None => series.push(Series {
                        subject: figure.subject.clone(),
                        look: self.looks.get(&figure.subject),
                        points: vec![(x, mark)],
                    }),
                }
            }
            series.iter_mut().for_each(|series| series.points.sort_by(|(one, _), (other, _)| one.total_cmp(other)));
            series.sort_by_key(|series| self.looks.place(&series.subject));
            let form = Form::Lines { x_label: words::axis(axis), series };
            charts.extend(self.chart(&fixed, Some(axis), form));
        }
        charts
    }

    fn bars(&self) -> Vec<Chart> {
        let mut charts = Vec::new();
        for (fixed, points) in self.groups(None) {
            let better = points.first().map_or(Better::Neither, |(figure, _)| figure.better);
            let mut bars: Vec<Bar> = points
                .into_iter()
                .map(|(figure, mark)| Bar {
                    subject: figure.subject.clone(),
                    guarantee: figure.guarantee.clone(),
                    look: self.looks.get(&figure.subject),
                    mark,
                })
                .collect();
            bars.sort_by(|one, other| {
                let order = one.mark.median.total_cmp(&other.mark.median);
                let order = if better == Better::Higher { order.reverse() } else { order };
                one.look.is_subject().cmp(&other.look.is_subject()).then(order)
            });
            charts.extend(self.chart(&fixed, None, Form::Bars(bars)));
        }
        charts
    }

    /// Points that share all but the axis, the group nearest to the reference first.
    fn groups(&self, axis: Option<&str>) -> Vec<(Fixed, Vec<(&Figure, Mark)>)> {
        let mut groups: Vec<(Fixed, Vec<(&Figure, Mark)>)> = Vec::new();
        for &(figure, mark) in self.points {
            let fixed: Fixed = figure
                .point
                .iter()
                .filter(|(name, _)| Some(name.as_str()) != axis)
                .map(|(name, value)| (name.clone(), value.to_bits()))
                .collect();
            match groups.iter_mut().find(|(known, _)| *known == fixed) {
                Some((_, points)) => points.push((figure, mark)),
                None => groups.push((fixed, vec![(figure, mark)])),
            }
        }
        groups.sort_by(|(one, _), (other, _)| distance(one).total_cmp(&distance(other)));
        groups
    }

    fn chart(&self, fixed: &Fixed, axis: Option<&str>, form: Form) -> Option<Chart> {
        let (figure, _) = self.points.first()?;
        let mut name = format!("{}-{}", self.scenario, figure.metric);
        let mut title = words::sentence(&figure.metric);
        let mut unit = figure.unit.clone();
        if self.kind == Kind::Ratio {
            name.push_str("-to-limit");
            title = format!("{title}, in multiples of the {}", bare::NAME);
            unit = LIMITS.to_owned();
        }
        if let Some(axis) = axis {
            name.push_str(&format!("-by-{axis}"));
        }
        let mut held: Vec<String> = Vec::new();
        for (key, value) in fixed {
            let value = f64::from_bits(*value);
            if self.varying.contains_key(key) {
                name.push_str(&format!("-{key}-{}", number(value)));
            }
            held.push(words::value_of(key, value));
        }
        held.push(
            match figure.better {
                Better::Lower => "lower is better",
                Better::Higher => "higher is better",
                Better::Neither => "neither is better",
            }
            .to_owned(),
        );
        Some(Chart { name: slug(&name), title, subtitle: held.join(" · "), unit, better: figure.better, form })
    }
}

/// How far what is held fixed is from [`REFERENCE`], in orders of magnitude.
fn distance(fixed: &Fixed) -> f64 {
    REFERENCE
        .iter()
        .filter_map(|(name, reference)| {
            let (_, value) = fixed.iter().find(|(key, _)| key == name)?;
            Some((f64::from_bits(*value).max(1e-3) / reference).ln().abs())
        })
        .sum()
}

/// Who looks how in all plots of a report.
struct Looks(Vec<(String, Look)>);

impl Looks {
    fn of(report: &Report) -> Self {
        let mut subjects: Vec<&str> = report.figures.iter().map(|figure| figure.subject.as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut next = PEERS.len();
        let mut looks: Vec<(String, Look)> = Vec::new();
        for subject in subjects {
            let look = match subject {
                "millrace" => Look::Millrace,
                bare::NAME => Look::Limit,
                subject if subject.starts_with("bare") => Look::OtherLimit,
                subject => Look::Peer(PEERS.iter().position(|known| *known == subject).unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })),
            };
            looks.push((subject.to_owned(), look));
        }
        // Millrace first, then peers, and the limit last.
        looks.sort_by_key(|(_, look)| match look {
            Look::Millrace => (0, 0),
            Look::Peer(number) => (1, *number),
            Look::Limit => (2, 0),
            Look::OtherLimit => (2, 1),
        });
        Self(looks)
    }

    fn place(&self, subject: &str) -> usize {
        self.0.iter().position(|(known, _)| known == subject).unwrap_or(self.0.len())
    }

    fn get(&self, subject: &str) -> Look {
        self.0.get(self.place(subject)).map_or(Look::Limit, |(_, look)| *look)
    }
}

/// Lower case letters, digits and single dashes: a file's name, whatever a report holds.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for letter in text.chars() {
        match letter {
            ',' => {}
            letter if letter.is_ascii_alphanumeric() => slug.push(letter.to_ascii_lowercase()),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    let slug: String = slug.trim_end_matches('-').chars().take(120).collect();
    if slug.is_empty() { "plot".to_owned() } else { slug }
}
