//! What a benchmark found: a name, a value, a unit.

use hdrhistogram::Histogram;
use serde::Serialize;

/// One measured number.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) benchmark: &'static str,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

impl Figure {
    pub(crate) fn new(benchmark: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { benchmark, what: what.into(), value, unit }
    }
}

/// p50, p99, p99.9 and the worst of times in microseconds.
pub(crate) fn times(benchmark: &'static str, what: &str, histogram: &Histogram<u64>) -> Vec<Figure> {
    let ms = |us: u64| per(us, 1000);
    vec![
        Figure::new(benchmark, format!("{what}, p50"), ms(histogram.value_at_quantile(0.5)), "ms"),
        Figure::new(benchmark, format!("{what}, p99"), ms(histogram.value_at_quantile(0.99)), "ms"),
        Figure::new(benchmark, format!("{what}, p99.9"), ms(histogram.value_at_quantile(0.999)), "ms"),
        Figure::new(benchmark, format!("{what}, worst"), ms(histogram.max()), "ms"),
    ]
}

/// A quotient for people to read.
#[expect(clippy::cast_precision_loss, reason = "figures are read to three digits")]
pub(crate) fn per(total: u64, parts: u64) -> f64 {
    total as f64 / parts.max(1) as f64
}

/// Times from a microsecond to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are right")
}

/// Writes all figures as a table.
pub(crate) fn print(figures: &[Figure]) {
    let width = figures.iter().map(|figure| figure.what.chars().count()).max().unwrap_or_default();
    let mut last = "";
    for figure in figures {
        if figure.benchmark != last {
            println!("\n{}", figure.benchmark);
            last = figure.benchmark;
        }
        println!("  {:width$}  {:>12.3} {}", figure.what, figure.value, figure.unit);
    }
}
