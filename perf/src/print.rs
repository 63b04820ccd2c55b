//! The report as a table for a terminal.

use crate::limit::{self, Limit};
use crate::report::{self, Report};
use crate::subject::Missing;

/// Prints medians, spreads and ratios to the limit, point by point.
pub(crate) fn table(report: &Report) {
    let mut last = String::new();
    for figure in &report.figures {
        let place = format!("{}, {}", figure.scenario, report::point(figure));
        if place != last {
            println!("\n{place}");
            last = place;
        }
        let (low, high) = figure.spread();
        let limit = report.against(figure).map_or_else(String::new, |against| format!("  {against}"));
        let beside = limit::beside(report, figure);
        let beside = beside.map_or_else(String::new, |beside| format!("  {beside}"));
        let bound = if figure.load_bound > 0 { "  (load generator at its limit)" } else { "" };
        println!(
            "  {:14} {:32} {:>12} {:3} ({} to {}){limit}{beside}{bound}",
            figure.subject,
            figure.metric,
            number(figure.median()),
            figure.unit,
            number(low),
            number(high),
        );
    }
    limits(&report.limits);
    for missing in &report.missing {
        let Missing { why, install } = &missing.missing;
        let install = if install.is_empty() { String::new() } else { format!("; {install}") };
        println!("\nmissing: {}: {why}{install}", missing.name);
    }
    for failure in &report.failures {
        println!("\nfailed: {failure}");
    }
}

/// Prints what the machine can do at best.
pub(crate) fn limits(limits: &[Limit]) {
    if limits.is_empty() {
        return;
    }
    println!("\nlimits of this machine");
    for Limit { name, value, unit, low, high } in limits {
        println!("  {name:47} {:>12} {unit:3} ({} to {})", number(*value), number(*low), number(*high));
    }
}

/// Three significant digits or so, without an exponent.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| std::str::from_utf8(group).unwrap_or_default())
                .collect();
            format!("{sign}{}", groups.join(","))
        }
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        for (value, text) in [
            (0.0, "0"),
            (0.123_45, "0.123"),
            (7.256, "7.26"),
            (45.67, "45.7"),
            (1234.5, "1,234"),
            (-2_000_000.0, "-2,000,000"),
            (5.0, "5"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
