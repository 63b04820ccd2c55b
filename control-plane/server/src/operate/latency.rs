//! Quantiles of the last minute, out of histograms that only ever count up. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use prometheus::proto::MetricFamily;

/// How far back the quantiles reach.
const WINDOW: Duration = Duration::from_secs(60);
/// Looks that are kept; with shorter steps the window is shorter.
const LOOKS_MAX: usize = 64;

/// What takes time: the word for it, and where its histogram is.
pub(crate) const SUBJECTS: [Subject; 5] = [
    Subject::link("append", "append"),
    Subject::link("authorize", "authorize"),
    Subject::link("open_homes", "open_homes"),
    Subject::link("read_history", "read_history"),
    Subject {
        what: "publish_rest",
        family: "millrace_rest_answer_seconds",
        labels: &[("method", "POST"), ("route", "/v1/channels/{channel}/messages")],
    },
];

/// A histogram by its name and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) what: &'static str,
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

impl Subject {
    const fn link(what: &'static str, kind: &'static str) -> Self {
        // One list for each kind: a constant cannot be put together from a parameter.
        let labels: &[(&str, &str)] = match kind.as_bytes() {
            b"append" => &[("kind", "append")],
            b"authorize" => &[("kind", "authorize")],
            b"open_homes" => &[("kind", "open_homes")],
            _ => &[("kind", "read_history")],
        };
        Self { what, family: "millrace_control_link_request_seconds", labels }
    }
}

/// How often something took at most so long.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    /// Upper bound in seconds, and how many took no longer; ascending in both.
    buckets: Vec<(f64, u64)>,
    count: u64,
}

/// A minute of looks at all [`SUBJECTS`].
#[derive(Default)]
pub(crate) struct Latencies {
    looks: VecDeque<(Duration, Vec<Counts>)>,
}

/// Quantiles of one subject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantiles {
    pub(crate) what: &'static str,
    /// How often it happened in the window.
    pub(crate) count: u64,
    /// In ms; `None` if it did not happen.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

impl Latencies {
    /// Takes a look in.
    pub(crate) fn push(&mut self, now: Duration, families: &[MetricFamily]) {
        self.push_counts(now, SUBJECTS.iter().map(|subject| counts(families, subject)).collect());
    }

    fn push_counts(&mut self, now: Duration, counts: Vec<Counts>) {
        self.looks.push_back((now, counts));
        // One look from before the window is where it begins.
        while self.looks.len() > LOOKS_MAX || self.looks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        {
            self.looks.pop_front();
        }
    }

    /// The quantiles of the window.
    pub(crate) fn quantiles(&self) -> Vec<Quantiles> {
        let nothing = Vec::new();
        let first = self.looks.front().map_or(&nothing, |(_, counts)| counts);
        let last = self.looks.back().map_or(&nothing, |(_, counts)| counts);
        let of = |(index, subject): (usize, &Subject)| {
            let counts = difference(first.get(index), last.get(index));
            let ms = |q: f64| quantile(&counts, q).map(|seconds| seconds * 1000.0);
            Quantiles { what: subject.what, count: counts.count, p50_ms: ms(0.5), p90_ms: ms(0.9), p99_ms: ms(0.99) }
        };
        SUBJECTS.iter().enumerate().map(of).collect()
    }

    /// Median and 99th percentile of appends between the last two looks, in ms; NaN if there were none.
    pub(crate) fn recent(&self) -> (f32, f32) {
        let look = |back: usize| self.looks.len().checked_sub(back).and_then(|index| self.looks.get(index));
        let counts = match (look(2), look(1)) {
            (Some((_, before)), Some((_, now))) => difference(before.first(), now.first()),
            _ => Counts::default(),
        };
        #[expect(clippy::cast_possible_truncation, reason = "a plot shows seven digits at most")]
        let ms = |q: f64| quantile(&counts, q).map_or(f32::NAN, |seconds| (seconds * 1000.0) as f32);
        (ms(0.5), ms(0.99))
    }
}

fn counts(families: &[MetricFamily], subject: &Subject) -> Counts {
    let family = families.iter().find(|family| family.name() == subject.family);
    let has = |metric: &&prometheus::proto::Metric| {
        subject.labels.iter().all(|(name, value)| {
            metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
        })
    };
    let Some(metric) = family.and_then(|family| family.get_metric().iter().find(has)) else { return Counts::default() };
    let histogram = metric.get_histogram();
    let buckets = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    Counts { buckets: buckets.filter(|(bound, _)| bound.is_finite()).collect(), count: histogram.get_sample_count() }
}

/// What was counted between two looks. Nothing, if the histogram began in between with other bounds.
fn difference(before: Option<&Counts>, now: Option<&Counts>) -> Counts {
    let (Some(before), Some(now)) = (before, now) else { return Counts::default() };
    if before.buckets.is_empty() {
        return now.clone();
    }
    let pairs = now.buckets.iter().zip(&before.buckets);
    Counts {
        buckets: pairs.map(|(now, before)| (now.0, now.1.saturating_sub(before.1))).collect(),
        count: now.count.saturating_sub(before.count),
    }
}

/// The value below which a share `q` of the counts lies, taken to be spread evenly within a bucket. What is above the last bound counts as that.
fn quantile(counts: &Counts, q: f64) -> Option<f64> {
    if counts.count == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let float = |count: u64| count as f64;
    let rank = q * float(counts.count);
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, cumulative) in &counts.buckets {
        let cumulative = float(cumulative);
        if cumulative >= rank && cumulative > below {
            return Some(low + (bound - low) * ((rank - below) / (cumulative - below)).clamp(0.0, 1.0));
        }
        (low, below) = (bound, cumulative);
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(cumulative: &[u64], count: u64) -> Counts {
        let bounds = [0.001, 0.01, 0.1];
        Counts { buckets: bounds.into_iter().zip(cumulative.iter().copied()).collect(), count }
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let check = |cumulative: &[u64], count: u64, q: f64, expect: Option<f64>| {
            let found = quantile(&counts_of(cumulative, count), q);
            let near = |(a, b): (f64, f64)| (a - b).abs() < 1e-9;
            assert!(found.zip(expect).is_none_or(near) && found.is_some() == expect.is_some(), "{q}: {found:?}");
        };
        check(&[0, 0, 0], 0, 0.5, None);
        check(&[100, 100, 100], 100, 0.5, Some(0.0005));
        check(&[100, 100, 100], 100, 1.0, Some(0.001));
        check(&[50, 100, 100], 100, 0.5, Some(0.001));
        check(&[50, 100, 100], 100, 0.75, Some(0.0055));
        check(&[0, 0, 10], 10, 0.0, Some(0.01));
        // Above every bound.
        check(&[0, 0, 0], 10, 0.5, Some(0.1));
    }

    #[test]
    fn the_window_moves_on() {
        let mut latencies = Latencies::default();
        assert!(latencies.quantiles().iter().all(|quantiles| quantiles.count == 0));
        for second in 0..200_u64 {
            latencies
                .push_counts(Duration::from_secs(second), vec![counts_of(&[0, 10 * second, 10 * second], 10 * second)]);
            assert!(latencies.looks.len() <= LOOKS_MAX);
        }
        let append = latencies.quantiles()[0];
        assert_eq!((append.what, append.count), ("append", 600));
        assert!(append.p50_ms.is_some_and(|ms| (ms - 5.5).abs() < 0.001), "{append:?}");
        assert!((latencies.recent().0 - 5.5).abs() < 0.001);
        latencies.push_counts(Duration::from_secs(200), vec![counts_of(&[0, 1990, 1990], 1990)]);
        assert!(latencies.recent().0.is_nan(), "nothing happened since");
    }

    #[test]
    fn histograms_are_found_by_their_labels() {
        let registry = prometheus::Registry::new();
        let options =
            prometheus::HistogramOpts::new("millrace_control_link_request_seconds", "x").buckets(vec![1.0, 2.0]);
        let seconds = prometheus::HistogramVec::new(options, &["kind"]).unwrap();
        registry.register(Box::new(seconds.clone())).unwrap();
        seconds.with_label_values(&["authorize"]).observe(0.5);
        seconds.with_label_values(&["append"]).observe(1.5);
        seconds.with_label_values(&["append"]).observe(9.0);
        let families = registry.gather();
        let found = counts(&families, &SUBJECTS[0]);
        assert_eq!(found, Counts { buckets: vec![(1.0, 0), (2.0, 1)], count: 2 });
        assert_eq!(counts(&families, &SUBJECTS[1]).count, 1);
        assert_eq!(counts(&families, &SUBJECTS[4]), Counts::default());
    }
}
