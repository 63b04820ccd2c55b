//! Reads reports: a stranger's file, so it is checked before anything is made from it.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{FORMAT, Report};

/// A report of a hundred scenarios is a few MiB.
const BYTES_MAX: u64 = 64 << 20;

/// What every format has.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
}

/// Reads a report.
///
/// # Errors
/// When the file cannot be read, is larger than 64 MiB, is of another format, or contradicts itself.
pub(crate) fn read(path: &Path) -> Result<Report> {
    let name = || path.display().to_string();
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {}", name()))?;
    file.take(BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("read {}", name()))?;
    ensure!(text.len() as u64 <= BYTES_MAX, "{} is larger than {} MiB: that is no report", name(), BYTES_MAX >> 20);
    parse(&text).with_context(|| format!("read {}", name()))
}

/// A report from its text.
pub(super) fn parse(text: &str) -> Result<Report> {
    let Head { format } = serde_json::from_str(text).context("this is no report of millrace-perf")?;
    ensure!(
        (1..=FORMAT).contains(&format),
        "the report has format {format}, this program reads formats 1 to {FORMAT}: use the millrace-perf that wrote it, or measure again"
    );
    let mut report: Report = serde_json::from_str(text).context("this is no whole report")?;
    let mut known = HashSet::new();
    for figure in &report.figures {
        let what = || format!("figure {:?} of {:?} in {:?}", figure.metric, figure.subject, figure.scenario);
        ensure!(!figure.runs.is_empty(), "{} has no runs", what());
        ensure!(figure.load_bound as usize <= figure.runs.len(), "{} has more load-bound runs than runs", what());
        if format > 1 {
            let (numbers, bound) = (&figure.numbers, &figure.load_bound_in);
            ensure!(numbers.len() == figure.runs.len(), "{} does not say which runs its values are of", what());
            ensure!(numbers.is_sorted() && numbers[0] > 0, "{} has runs whose numbers do not grow from 1", what());
            ensure!(
                bound.len() == figure.load_bound as usize && bound.iter().all(|number| numbers.contains(number)),
                "{} does not say which runs were load-bound",
                what()
            );
        }
        let point: Vec<(&str, u64)> =
            figure.point.iter().map(|(name, value)| (name.as_str(), value.to_bits())).collect();
        ensure!(
            known.insert((figure.scenario.as_str(), figure.subject.as_str(), figure.metric.as_str(), point)),
            "{} is there twice at the same point",
            what()
        );
    }
    if format == 1 {
        // No field of that format; what stands there was not meant so.
        for figure in &mut report.figures {
            (figure.numbers, figure.load_bound_in) = (Vec::new(), Vec::new());
        }
    }
    clean(&mut report);
    Ok(report)
}

/// Replaces what no page and no SVG may hold, such as the colours that a program wrote to its log. Nothing to escape here: templates do.
pub(super) fn clean(report: &mut Report) {
    let clean = |text: &mut String| {
        if text.chars().any(is_unprintable) {
            *text = text.chars().map(|letter| if is_unprintable(letter) { '\u{fffd}' } else { letter }).collect();
        }
    };
    let machine = &mut report.machine;
    for text in [
        &mut report.command,
        &mut report.subject_cores,
        &mut report.load_cores,
        &mut machine.processor,
        &mut machine.kernel,
        &mut machine.system,
    ] {
        clean(text);
    }
    report.scenarios = std::mem::take(&mut report.scenarios)
        .into_iter()
        .map(|(mut name, mut title)| {
            clean(&mut name);
            clean(&mut title);
            (name, title)
        })
        .collect();
    report.failures.iter_mut().for_each(clean);
    for subject in &mut report.subjects {
        [&mut subject.name, &mut subject.version].into_iter().for_each(clean);
    }
    for subject in &mut report.missing {
        [&mut subject.name, &mut subject.missing.why, &mut subject.missing.install].into_iter().for_each(clean);
    }
    for limit in &mut report.limits {
        [&mut limit.name, &mut limit.unit].into_iter().for_each(clean);
    }
    for figure in &mut report.figures {
        [&mut figure.scenario, &mut figure.subject, &mut figure.guarantee, &mut figure.metric, &mut figure.unit]
            .into_iter()
            .for_each(clean);
        if figure.point.keys().any(|name| name.chars().any(is_unprintable)) {
            figure.point = std::mem::take(&mut figure.point)
                .into_iter()
                .map(|(mut name, value)| {
                    clean(&mut name);
                    (name, value)
                })
                .collect();
        }
    }
}

fn is_unprintable(letter: char) -> bool {
    (letter.is_control() && letter != '\n' && letter != '\t') || matches!(letter, '\u{fffe}' | '\u{ffff}')
}
