//! `millrace-perf compare`: what got worse between two reports beyond noise, and what cannot be told. `statistics` decides, this says on what.

mod print;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::machine::Machine;
use crate::report::{self, Better, Figure, Report};
use crate::subject::bare;
use statistics::Sample;

/// Fewer runs a side are not judged: two against two agree by chance one time in six.
const RUNS_MIN: usize = 3;
/// A difference counts if chance gives it no more often than this to a scenario in which nothing changed.
const PROBABILITY_MAX: f64 = 0.05;
/// The exit code when the reports could not be compared; 1 says that something got worse, as diff does.
const TROUBLE: u8 = 2;
/// The exit code when nothing is known to have got worse, but something that the old report could be held to was not judged.
const UNJUDGED: u8 = 3;

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A report.json from before
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// A report.json from after
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Only these subjects; all that are in both otherwise
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    subject: Vec<String>,
    /// Only these scenarios; all that are in the old report otherwise
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Differences below this are not worth a verdict
    #[arg(long, value_name = "PERCENT", default_value = "5")]
    effect: f64,
    /// Print JSON, and no table
    #[arg(long)]
    json: bool,
    /// Print figures without a verdict, too
    #[arg(long, conflicts_with = "json")]
    all: bool,
}

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Worse beyond noise, and by more than the effect that was asked for.
    Regression,
    Improvement,
    /// It moved, and the bare limit of the same runs moved alike.
    MachineMoved,
    /// No difference beyond noise.
    Unchanged,
    /// The load generator was at its limit on one side: the value is a bound, and what it bounds cannot be told.
    LoadBound,
    TooFewRuns,
    /// Another guarantee, unit or sense; or another machine, and no limit to measure it by.
    NotComparable,
    /// Neither way is better, or it is the limit itself.
    NotJudged,
}

/// How a figure was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    Value,
    /// In multiples of the limit of the same runs: what is left when machines differ.
    RatioToLimit,
}

/// One figure of both reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pair<'a> {
    scenario: &'a str,
    subject: &'a str,
    point: &'a std::collections::BTreeMap<String, f64>,
    metric: &'a str,
    unit: &'a str,
    better: Better,
    basis: Basis,
    old: f64,
    new: f64,
    old_runs: usize,
    new_runs: usize,
    /// By how much it is worse, in percent; negative: better.
    worse_percent: f64,
    /// The same of its ratio to the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    worse_to_limit_percent: Option<f64>,
    /// Of so bad a difference in the whole scenario, if nothing had changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    verdict: Verdict,
    /// Why there is no other verdict.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip)]
    sample: Option<Sample>,
    #[serde(skip)]
    bound: Bound,
    #[serde(skip)]
    figure: &'a Figure,
}

/// Which side was measured with a load generator at its limit, so that the real value is at least that good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    None,
    Old,
    New,
    Both,
}

impl Bound {
    fn of(old: &Figure, new: &Figure) -> Self {
        match (old.load_bound > 0, new.load_bound > 0) {
            (false, false) => Self::None,
            (true, false) => Self::Old,
            (false, true) => Self::New,
            (true, true) => Self::Both,
        }
    }
}

/// A figure of the old report that the new one could not be held to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Unjudged {
    figure: String,
    why: String,
}

/// Two reports, compared.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison<'a> {
    /// Differences of the machines that make values incomparable.
    machine_differs: Vec<String>,
    /// Other differences, to be kept in mind.
    notes: Vec<String>,
    effect_percent: f64,
    probability_max: f64,
    /// By how much the bare limit itself moved, by metric.
    limit_moved: Vec<LimitMoved<'a>>,
    regressions: usize,
    improvements: usize,
    pairs: Vec<Pair<'a>>,
    /// Subjects of which nothing is left, by scenario.
    gone: Vec<String>,
    /// What has a better and a worse, and a value in the old report, and no verdict.
    unjudged: Vec<Unjudged>,
    only_in_old: Vec<String>,
    only_in_new: Vec<String>,
}

/// The machine's own change, as its limit shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LimitMoved<'a> {
    metric: &'a str,
    worse_percent: f64,
    figures: usize,
}

/// Compares, prints, and says by the exit code whether something got worse: 0 no, 1 yes, 2 that the reports could not be compared, 3 that
/// nothing is known to have got worse, but not everything was judged.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match print_comparison(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn print_comparison(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.effect.is_finite() && (0.0..=1000.0).contains(&arguments.effect),
        "--effect has to be 0 to 1000 percent"
    );
    let (old, new) = (report::read(&arguments.old)?, report::read(&arguments.new)?);
    for name in &arguments.subject {
        ensure!(
            [&old, &new].iter().all(|report| report.figures.iter().any(|figure| figure.subject == *name)),
            "subject {name:?} is not in both reports"
        );
    }
    for name in &arguments.scenario {
        let is_there = old.figures.iter().any(|figure| figure.scenario == *name);
        ensure!(is_there, "scenario {name:?} is not in the old report");
    }
    let asked = Asked { subjects: &arguments.subject, scenarios: &arguments.scenario };
    let comparison = compare(&old, &new, asked, arguments.effect);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&comparison).context("write the comparison as JSON")?);
    } else {
        print::table(&old, &new, &comparison, arguments.all);
    }
    Ok(match (comparison.regressions, comparison.unjudged.len()) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(UNJUDGED),
        _ => ExitCode::FAILURE,
    })
}

/// What is compared; empty: all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    subjects: &'a [String],
    scenarios: &'a [String],
}

impl Asked<'_> {
    fn has(self, figure: &Figure) -> bool {
        (self.subjects.is_empty() || self.subjects.contains(&figure.subject))
            && (self.scenarios.is_empty() || self.scenarios.contains(&figure.scenario))
    }
}

/// Pairs figures by scenario, subject, point and metric, and judges each pair.
pub(crate) fn compare<'a>(old: &'a Report, new: &'a Report, asked: Asked<'_>, effect_percent: f64) -> Comparison<'a> {
    let is_asked = |figure: &&Figure| asked.has(figure);
    let machine_differs = hardware(old, new);
    let basis = if machine_differs.is_empty() { Basis::Value } else { Basis::RatioToLimit };
    let mut pairs: Vec<Pair<'a>> = Vec::new();
    let mut only_in_new = Vec::new();
    for figure in new.figures.iter().filter(is_asked) {
        match old.figures.iter().find(|other| is_same(figure, other)) {
            Some(before) => pairs.push(pair((old, before), (new, figure), basis)),
            None => only_in_new.push(name(figure)),
        }
    }
    let is_gone = |figure: &&Figure| !new.figures.iter().any(|other| is_same(figure, other));
    let only_in_old: Vec<&Figure> = old.figures.iter().filter(is_asked).filter(is_gone).collect();
    judge(&mut pairs, effect_percent);
    let unjudged = unjudged(&only_in_old, &pairs);
    let number = |verdict| pairs.iter().filter(|pair| pair.verdict == verdict).count();
    Comparison {
        notes: notes(old, new),
        machine_differs,
        effect_percent,
        probability_max: PROBABILITY_MAX,
        limit_moved: limit_moved(old, new),
        regressions: number(Verdict::Regression),
        improvements: number(Verdict::Improvement),
        pairs,
        gone: gone(&only_in_old, new),
        unjudged,
        only_in_old: only_in_old.into_iter().map(name).collect(),
        only_in_new,
    }
}

/// Subjects that have no figure left in a scenario, though they had some.
fn gone(only_in_old: &[&Figure], new: &Report) -> Vec<String> {
    let mut gone: Vec<String> = only_in_old
        .iter()
        .filter(|old| !new.figures.iter().any(|one| one.subject == old.subject && one.scenario == old.scenario))
        .map(|old| format!("{} in {}", old.subject, old.scenario))
        .collect();
    gone.dedup();
    gone
}

/// Whether a figure is something that a new report can be held to.
fn is_judged(figure: &Figure) -> bool {
    figure.better != Better::Neither && !figure.subject.starts_with("bare")
}

/// What could have got worse without anybody being told. What neither report, nor any report of another machine, could have shown is not
/// among it.
fn unjudged(only_in_old: &[&Figure], pairs: &[Pair<'_>]) -> Vec<Unjudged> {
    let gone = only_in_old
        .iter()
        .filter(|figure| is_judged(figure))
        .map(|figure| Unjudged { figure: name(figure), why: "it is not in the new report".to_owned() });
    let is_open = |pair: &&Pair<'_>| match pair.verdict {
        Verdict::LoadBound => pair.bound != Bound::Both,
        Verdict::TooFewRuns => pair.old_runs >= RUNS_MIN,
        Verdict::NotComparable => pair.sample.is_some(),
        _ => false,
    };
    let open =
        pairs.iter().filter(is_open).map(|pair| Unjudged { figure: name(pair.figure), why: pair.reason.clone() });
    gone.chain(open).collect()
}

fn is_same(one: &Figure, other: &Figure) -> bool {
    one.metric == other.metric
        && one.scenario == other.scenario
        && one.subject == other.subject
        && one.point == other.point
}

fn name(figure: &Figure) -> String {
    format!("{}, {}: {} {}", figure.scenario, report::point(figure), figure.subject, figure.metric)
}

/// What is known before any probability.
fn pair<'a>((old, before): (&Report, &Figure), (new, after): (&Report, &'a Figure), basis: Basis) -> Pair<'a> {
    let is_less_better = after.better == Better::Lower;
    let ratios = old.limit_of(before).zip(new.limit_of(after)).and_then(|(limit_before, limit_after)| {
        let (before, after) = (before.ratios_to(limit_before), after.ratios_to(limit_after));
        (!before.is_empty() && !after.is_empty()).then_some((before, after))
    });
    let to_limit = ratios.as_ref().map(|(before, after)| Sample::new(before, after, is_less_better));
    let (old_value, new_value, sample) = match (basis, &ratios) {
        (Basis::RatioToLimit, Some((before, after))) => {
            (report::median(before), report::median(after), to_limit.clone())
        }
        (Basis::RatioToLimit, None) => (before.median(), after.median(), None),
        (Basis::Value, _) => {
            (before.median(), after.median(), Some(Sample::new(&before.runs, &after.runs, is_less_better)))
        }
    };
    let bound = Bound::of(before, after);
    let runs = sample.as_ref().map_or((before.runs.len(), after.runs.len()), Sample::runs);
    let (verdict, reason) = if after.better == Better::Neither {
        (Verdict::NotJudged, "neither way is better")
    } else if after.subject.starts_with("bare") {
        (Verdict::NotJudged, "it is the limit itself")
    } else if before.guarantee != after.guarantee {
        (Verdict::NotComparable, "the guarantee is another")
    } else if before.unit != after.unit || before.better != after.better {
        (Verdict::NotComparable, "the unit is another, or which way is better")
    } else if sample.is_none() {
        (Verdict::NotComparable, "another machine, and no limit to measure it by")
    } else if bound == Bound::Both {
        (Verdict::LoadBound, "the load generator was at its limit on both sides")
    } else if runs.0 < RUNS_MIN || runs.1 < RUNS_MIN {
        (Verdict::TooFewRuns, "fewer than 3 runs on one side")
    } else {
        (Verdict::Unchanged, "")
    };
    Pair {
        scenario: &after.scenario,
        subject: &after.subject,
        point: &after.point,
        metric: &after.metric,
        unit: &after.unit,
        better: after.better,
        basis,
        old: old_value,
        new: new_value,
        old_runs: runs.0,
        new_runs: runs.1,
        worse_percent: sample.as_ref().map_or(0.0, Sample::worse_by) * 100.0,
        worse_to_limit_percent: to_limit.map(|sample| sample.worse_by() * 100.0),
        probability: None,
        verdict,
        reason: reason.to_owned(),
        sample,
        bound,
        figure: after,
    }
}

/// Decides between noise and change, family by family: figures of one scenario that have as many runs.
fn judge(pairs: &mut [Pair<'_>], effect_percent: f64) {
    let family_of = |pair: &Pair<'_>| (pair.scenario.to_owned(), pair.old_runs, pair.new_runs);
    let mut families: Vec<_> = pairs.iter().filter(|pair| pair.verdict == Verdict::Unchanged).map(family_of).collect();
    families.sort();
    families.dedup();
    for family in families {
        let places: Vec<usize> = (0..pairs.len())
            .filter(|&place| pairs[place].verdict == Verdict::Unchanged && family_of(&pairs[place]) == family)
            .collect();
        let samples: Vec<Sample> = places.iter().filter_map(|&place| pairs[place].sample.clone()).collect();
        let turned: Vec<Sample> = samples.iter().map(Sample::turned).collect();
        let (worse, better) = (statistics::probabilities(&samples), statistics::probabilities(&turned));
        for (place, (worse, better)) in places.into_iter().zip(worse.into_iter().zip(better)) {
            settle(&mut pairs[place], worse, better, effect_percent);
        }
    }
}

fn settle(pair: &mut Pair<'_>, worse: f64, better: f64, effect_percent: f64) {
    let is_worse = pair.worse_percent > 0.0;
    let probability = if is_worse { worse } else { better };
    pair.probability = Some(probability);
    decide(pair, probability, effect_percent, is_worse);
    // A bound says something in one direction only: worse than what was at least so good is worse; all else has two readings.
    let (is_known, reason) = match pair.bound {
        Bound::None | Bound::Both => return,
        Bound::Old => (pair.verdict == Verdict::Regression, "the old value is a bound: it was at least so good"),
        Bound::New => (
            matches!(pair.verdict, Verdict::Improvement | Verdict::Unchanged),
            "the new value is a bound: it is at least so good",
        ),
    };
    if !is_known {
        (pair.verdict, pair.reason) = (Verdict::LoadBound, reason.to_owned());
    }
}

fn decide(pair: &mut Pair<'_>, probability: f64, effect_percent: f64, is_worse: bool) {
    if pair.worse_percent.abs() < effect_percent || pair.worse_percent == 0.0 {
        return;
    }
    // Three runs against three give exactly one in twenty at best; it counts, whatever its last digit.
    if probability > PROBABILITY_MAX + 1e-9 {
        pair.reason = "within noise".to_owned();
        return;
    }
    // What the machine did to the limit, it did to the subject: only what is left when that is divided away is the subject's own.
    let own = pair.worse_to_limit_percent.unwrap_or(pair.worse_percent);
    let is_own = own * pair.worse_percent.signum() >= effect_percent / 2.0;
    pair.verdict = match (is_own, is_worse) {
        (false, _) => Verdict::MachineMoved,
        (true, true) => Verdict::Regression,
        (true, false) => Verdict::Improvement,
    };
    if !is_own {
        pair.reason = "the bare limit moved alike".to_owned();
    }
}

/// Differences that make times incomparable.
fn hardware(old: &Report, new: &Report) -> Vec<String> {
    let mut differences = Vec::new();
    let (a, b): (&Machine, &Machine) = (&old.machine, &new.machine);
    let mut check = |what: &str, is_same: bool, old: &str, new: &str| {
        if !is_same {
            differences.push(format!("{what}: {old}, now {new}"));
        }
    };
    check("processor", a.processor == b.processor, &a.processor, &b.processor);
    check("cores", a.cores == b.cores, &a.cores.to_string(), &b.cores.to_string());
    // What the kernel keeps for itself differs from boot to boot.
    let is_same_memory = a.memory_bytes.abs_diff(b.memory_bytes) <= a.memory_bytes / 20;
    check("memory", is_same_memory, &mebibytes(a.memory_bytes), &mebibytes(b.memory_bytes));
    check("cores of subjects", old.subject_cores == new.subject_cores, &old.subject_cores, &new.subject_cores);
    check("cores of the load", old.load_cores == new.load_cores, &old.load_cores, &new.load_cores);
    differences
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Differences that explain figures, and what is missing from one side.
fn notes(old: &Report, new: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    for (what, before, after) in
        [("kernel", &old.machine.kernel, &new.machine.kernel), ("system", &old.machine.system, &new.machine.system)]
    {
        if before != after {
            notes.push(format!("{what}: {before}, now {after}"));
        }
    }
    for subject in &new.subjects {
        let before: Vec<&str> = old
            .subjects
            .iter()
            .filter(|other| other.name == subject.name)
            .map(|other| other.version.as_str())
            .collect();
        if !before.is_empty() && !before.contains(&subject.version.as_str()) {
            notes.push(format!("{}: {}, now {}", subject.name, before.join(" and "), subject.version));
        }
    }
    for (which, report) in [("old", old), ("new", new)] {
        if report.interrupted {
            notes.push(format!("the {which} report was interrupted"));
        }
        if !report.failures.is_empty() {
            notes.push(format!("runs of the {which} report that failed: {}", report.failures.len()));
        }
    }
    notes
}

/// How much worse the plain limit got, by metric: the middle of its figures.
fn limit_moved<'a>(old: &'a Report, new: &'a Report) -> Vec<LimitMoved<'a>> {
    let mut by_metric: Vec<(&str, Vec<f64>)> = Vec::new();
    for figure in new.figures.iter().filter(|figure| figure.subject == bare::NAME && figure.better != Better::Neither) {
        let Some(before) = old.figures.iter().find(|other| is_same(figure, other)) else { continue };
        let worse = Sample::new(&before.runs, &figure.runs, figure.better == Better::Lower).worse_by() * 100.0;
        match by_metric.iter_mut().find(|(metric, _)| *metric == figure.metric) {
            Some((_, values)) => values.push(worse),
            None => by_metric.push((&figure.metric, vec![worse])),
        }
    }
    by_metric
        .into_iter()
        .map(|(metric, values)| LimitMoved { metric, worse_percent: report::median(&values), figures: values.len() })
        .collect()
}

#[cfg(test)]
mod tests;
