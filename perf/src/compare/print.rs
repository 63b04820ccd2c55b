//! A comparison as a table for a terminal.

use std::path::Path;

use super::{Basis, Comparison, Pair, Verdict};
use crate::print::number;
use crate::report::{self, Report};

pub(super) fn table(old: &Report, new: &Report, comparison: &Comparison<'_>, is_all: bool) {
    print!("{}", text(old, new, comparison, is_all));
}

/// Verdicts with figures, worst first, then how many of the others there are.
pub(super) fn text(old: &Report, new: &Report, comparison: &Comparison<'_>, is_all: bool) -> String {
    let mut lines = vec![
        format!("old: {}, {}", report::time(old.started), short(&old.command)),
        format!("new: {}, {}", report::time(new.started), short(&new.command)),
    ];
    if !comparison.gone.is_empty() {
        lines.push("\nGONE, nothing of it is in the new report:".to_owned());
        lines.extend(comparison.gone.iter().map(|gone| format!("  {gone}")));
    }
    if !comparison.machine_differs.is_empty() {
        lines.push("\nNot the same machine: figures are compared in multiples of their limit, and not at all where there is none.".to_owned());
        lines.extend(comparison.machine_differs.iter().map(|difference| format!("  {difference}")));
    }
    if !comparison.notes.is_empty() {
        lines.push("\nKeep in mind:".to_owned());
        lines.extend(comparison.notes.iter().map(|note| format!("  {note}")));
    }
    if !comparison.limit_moved.is_empty() {
        lines.push("\nThe bare limit itself (the machine, not the code):".to_owned());
        lines.extend(comparison.limit_moved.iter().map(|moved| {
            format!("  {:32} {}, middle of {} figures", moved.metric, change(moved.worse_percent), moved.figures)
        }));
    }
    for (verdict, title) in TITLES {
        let mut pairs: Vec<&Pair<'_>> = comparison.pairs.iter().filter(|pair| pair.verdict == verdict).collect();
        let is_shown = is_all || verdict <= Verdict::MachineMoved;
        if pairs.is_empty() || !is_shown {
            continue;
        }
        pairs.sort_by(|one, other| other.worse_percent.abs().total_cmp(&one.worse_percent.abs()));
        lines.push(format!("\n{title}:"));
        lines.extend(pairs.into_iter().map(row));
    }
    if !comparison.unjudged.is_empty() {
        lines.push(format!(
            "\n{} figures of the old report were NOT JUDGED (exit code 3 unless something got worse; --scenario and --subject leave out what is not meant):",
            comparison.unjudged.len()
        ));
        let (shown, rest) = comparison.unjudged.split_at(comparison.unjudged.len().min(UNJUDGED_SHOWN));
        let shown = if is_all { &comparison.unjudged[..] } else { shown };
        lines.extend(shown.iter().map(|one| format!("  {}: {}", one.figure, one.why)));
        if !is_all && !rest.is_empty() {
            lines.push(format!("  and {} more; --all names them", rest.len()));
        }
    }
    for (what, names) in [("old", &comparison.only_in_old), ("new", &comparison.only_in_new)] {
        if is_all && !names.is_empty() {
            lines.push(format!("\nOnly in the {what} report:"));
            lines.extend(names.iter().map(|name| format!("  {name}")));
        }
    }
    let counts: Vec<String> = TITLES
        .iter()
        .map(|(verdict, title)| {
            let count = comparison.pairs.iter().filter(|pair| pair.verdict == *verdict).count();
            format!("{} {count}", title.to_lowercase())
        })
        .collect();
    lines.push(format!(
        "\n{}; only in old {}, only in new {}.",
        counts.join(", "),
        comparison.only_in_old.len(),
        comparison.only_in_new.len()
    ));
    lines.push(format!(
        "A verdict needs a difference of {} % that chance gives a whole scenario in at most {} % of cases.",
        number(comparison.effect_percent),
        number(comparison.probability_max * 100.0)
    ));
    lines.join("\n") + "\n"
}

/// Of those that were not judged so many are named.
const UNJUDGED_SHOWN: usize = 20;

const TITLES: [(Verdict, &str); 8] = [
    (Verdict::Regression, "Regressions"),
    (Verdict::Improvement, "Improvements"),
    (Verdict::MachineMoved, "Moved with the machine"),
    (Verdict::Unchanged, "Unchanged or within noise"),
    (Verdict::LoadBound, "Load-bound"),
    (Verdict::TooFewRuns, "Too few runs"),
    (Verdict::NotComparable, "Not comparable"),
    (Verdict::NotJudged, "Not judged"),
];

fn row(pair: &Pair<'_>) -> String {
    let unit = match pair.basis {
        Basis::Value => pair.unit,
        Basis::RatioToLimit => "× limit",
    };
    let mut row = format!(
        "  {}, {}\n    {:14} {:32} {} → {} {unit}, {}",
        pair.scenario,
        report::point(pair.figure),
        pair.subject,
        pair.metric,
        number(pair.old),
        number(pair.new),
        change(pair.worse_percent),
    );
    if let (Basis::Value, Some(percent)) = (pair.basis, pair.worse_to_limit_percent) {
        row.push_str(&format!(", to the limit {}", change(percent)));
    }
    if let Some(probability) = pair.probability {
        row.push_str(&format!(", p {probability:.3} ({} and {} runs)", pair.old_runs, pair.new_runs));
    }
    if !pair.reason.is_empty() {
        row.push_str(&format!("; {}", pair.reason));
    }
    row
}

fn change(worse_percent: f64) -> String {
    let word = if worse_percent > 0.0 { "worse" } else { "better" };
    match worse_percent.abs() {
        size if size < 0.05 => "the same".to_owned(),
        size => format!("{size:.1} % {word}"),
    }
}

/// The command without the folder of the program.
fn short(command: &str) -> String {
    let (program, rest) = command.split_once(' ').unwrap_or((command, ""));
    let program = Path::new(program).file_name().map_or(program.into(), |name| name.to_string_lossy());
    format!("{program} {rest}").trim_end().to_owned()
}
