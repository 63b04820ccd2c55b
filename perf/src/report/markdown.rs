//! The result table for `perf/RESULTS.md`: points and figures down, subjects across.

use std::fmt::Write as _;

use super::words;
use crate::limit;
use crate::print::number;
use crate::report::{Better, Figure, Report};

/// Machine, command and one table per scenario; figures that explain others are left to the page.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "Measured {} on {}, {} cores, {}, Linux {}; subjects on core {}, load on core {}.",
        words::time(report.started),
        cell(&machine.processor),
        machine.cores,
        cell(&machine.system),
        cell(&machine.kernel),
        cell(&report.subject_cores),
        cell(&report.load_cores),
    );
    let versions: Vec<String> =
        report.subjects.iter().map(|subject| format!("{} {}", cell(&subject.name), cell(&subject.version))).collect();
    let _ = writeln!(text, "Subjects: {}.", versions.join(", "));
    if report.interrupted {
        text.push_str("The run was interrupted.\n");
    }
    let fence = "`".repeat(3);
    let _ = writeln!(text, "\n{fence}sh\n{}\n{fence}", report.command.replace('\n', " ").replace('`', "'"));
    for scenario in words::scenarios(report) {
        let title = report.scenarios.get(scenario).map(|title| format!(": {}", cell(title))).unwrap_or_default();
        let _ = writeln!(text, "\n### {}{title}\n", cell(scenario));
        table(&mut text, report, scenario);
    }
    if !report.limits.is_empty() {
        text.push_str("\n### Limits of the machine\n\n| limit | median (lowest–highest round) |\n|---|---:|\n");
        for limit in &report.limits {
            let (value, low, high) = (number(limit.value), number(limit.low), number(limit.high));
            let _ = writeln!(text, "| {} | {value} {} ({low}–{high}) |", cell(&limit.name), cell(&limit.unit));
        }
    }
    for missing in &report.missing {
        let _ = writeln!(text, "\nNot measured: {}, {}.", cell(&missing.name), cell(&missing.missing.why));
    }
    for failure in &report.failures {
        let _ = writeln!(text, "\nFailed: {}.", cell(failure));
    }
    text
}

fn table(text: &mut String, report: &Report, scenario: &str) {
    let figures: Vec<&Figure> = report
        .figures
        .iter()
        .filter(|figure| figure.scenario == scenario && figure.better != Better::Neither)
        .collect();
    let columns = words::in_order(figures.iter().map(|figure| (figure.subject.as_str(), figure.guarantee.as_str())));
    let heads: Vec<String> =
        columns.iter().map(|(subject, guarantee)| format!("{}<br>{}", cell(subject), cell(guarantee))).collect();
    let _ = writeln!(text, "| point | figure | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---:|".repeat(columns.len()));
    for (point, figures) in words::by_point(report, scenario) {
        let judged: Vec<&Figure> = figures.into_iter().filter(|figure| figure.better != Better::Neither).collect();
        let mut point = cell(&point);
        for (metric, unit) in
            words::in_order(judged.iter().map(|figure| (figure.metric.as_str(), figure.unit.as_str())))
        {
            let cells: Vec<String> = columns
                .iter()
                .map(|&(subject, guarantee)| {
                    let is_here = |figure: &&&Figure| {
                        figure.metric == metric && figure.subject == subject && figure.guarantee == guarantee
                    };
                    judged.iter().find(is_here).map_or_else(|| "–".to_owned(), |figure| value(report, figure))
                })
                .collect();
            let _ = writeln!(text, "| {point} | {}, {} | {} |", cell(metric), cell(unit), cells.join(" | "));
            // Said once.
            point.clear();
        }
    }
    if figures.iter().any(|figure| figure.load_bound > 0) {
        text.push_str("\n† the load generator was at its limit: the subject is at least this good.\n");
    }
}

/// Median, spread, ratio to the limit, mark.
fn value(report: &Report, figure: &Figure) -> String {
    let (low, high) = figure.spread();
    let spread = if low < high { format!(" ({}–{})", number(low), number(high)) } else { String::new() };
    let ratio = report.against(figure).map_or_else(String::new, |against| format!("<br>{against}"));
    let beside = limit::beside(report, figure);
    let beside = beside.map_or_else(String::new, |beside| format!("<br>{}", cell(&beside.to_string())));
    let mark = if figure.load_bound > 0 { "†" } else { "" };
    format!("{}{mark}{spread}{ratio}{beside}", number(figure.median()))
}

/// A text that cannot end its cell or begin something else.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' | '\t' => cell.push(' '),
            '<' => cell.push_str("&lt;"),
            '&' => cell.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' => {
                cell.push('\\');
                cell.push(letter);
            }
            _ => cell.push(letter),
        }
    }
    cell
}
