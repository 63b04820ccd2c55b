//! How long things took, counted in buckets: cheap to count, exact to add up, good enough to plot.

use std::time::Duration;

/// Buckets of [`LatencyCounts`]; the last one has no upper bound.
pub const LATENCY_BUCKETS: usize = 42;
/// Upper bound of the first bucket, µs.
const FIRST_US: u64 = 16;

/// A histogram of times from 16 µs to 16.8 s, two buckets for each doubling: 16 µs, 24, 32, 48, 64 and so on. A bucket counts what is above
/// the bound before it and at most its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyCounts {
    pub(super) counts: [u64; LATENCY_BUCKETS],
    pub(super) sum_us: u64,
}

impl Default for LatencyCounts {
    fn default() -> Self {
        Self { counts: [0; LATENCY_BUCKETS], sum_us: 0 }
    }
}

impl LatencyCounts {
    /// Counts something that happened so many times and took so long each time.
    pub fn record(&mut self, took: Duration, times: u64) {
        // A part of a µs counts as one, so that a bound is not below what it stands for.
        let us = took.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(took.subsec_nanos().div_ceil(1000)));
        self.counts[bucket(us)] += times;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(times));
    }

    /// How often something was counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// All of it together, µs.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Each bucket's upper bound, µs, and what it counts; the last one has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.counts.iter().enumerate().map(|(index, &count)| (bound_us(index), count))
    }

    /// Buckets up to the last one that counts something.
    pub(super) fn used(&self) -> usize {
        self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1)
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*other);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What was counted since; `None` if these counts do not go on from those.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut more = *self;
        for (count, before) in more.counts.iter_mut().zip(&before.counts) {
            *count = count.checked_sub(*before)?;
        }
        more.sum_us = self.sum_us.saturating_sub(before.sum_us);
        Some(more)
    }

    /// The time, in ms, below which a share `q` (0 to 1) of what was counted lies, taken to be spread evenly within a bucket. What is in the
    /// last bucket counts as its lower bound. `None` if nothing was counted.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q * count as f64;
        let (mut low_us, mut below) = (0.0, 0.0);
        for (bound_us, count) in self.buckets() {
            let Some(bound_us) = bound_us.map(|us| us as f64) else { break };
            let upto = below + count as f64;
            if count > 0 && upto >= rank {
                let us = low_us + (bound_us - low_us) * ((rank - below) / count as f64).clamp(0.0, 1.0);
                return Some(us / 1000.0);
            }
            (low_us, below) = (bound_us, upto);
        }
        Some(low_us / 1000.0)
    }
}

/// Where a time belongs.
fn bucket(us: u64) -> usize {
    // One less, because a bound belongs to the bucket below it.
    let us = us.saturating_sub(1);
    if us < FIRST_US {
        return 0;
    }
    let exponent = us.ilog2();
    let upper_half = (us >> (exponent - 1)) & 1;
    let index = 2 * (exponent - FIRST_US.ilog2()) as usize + usize::from(upper_half == 1) + 1;
    index.min(LATENCY_BUCKETS - 1)
}

/// A bucket's upper bound; `None` for the last.
fn bound_us(index: usize) -> Option<u64> {
    let doubled = FIRST_US << (index / 2);
    (index + 1 < LATENCY_BUCKETS).then_some(if index.is_multiple_of(2) { doubled } else { doubled + doubled / 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_reaches() {
        let check = |us: u64, expect: Option<u64>| assert_eq!(bound_us(bucket(us)), expect, "{us} µs");
        for (us, expect) in [(0, 16), (1, 16), (16, 16), (17, 24), (24, 24), (25, 32), (32, 32), (33, 48), (1000, 1024)]
        {
            check(us, Some(expect));
        }
        check(16_777_216, Some(16_777_216));
        check(16_777_217, None);
        check(u64::MAX, None);
        // Every bound is its own bucket's, and they ascend.
        let bounds: Vec<u64> = (0..LATENCY_BUCKETS).map_while(bound_us).collect();
        assert_eq!(bounds.len(), LATENCY_BUCKETS - 1);
        assert!(bounds.is_sorted_by(|a, b| a < b));
        for (index, &bound) in bounds.iter().enumerate() {
            assert_eq!((bucket(bound), bucket(bound + 1)), (index, index + 1));
        }
    }

    #[test]
    fn counts_add_up_and_tell_what_came_since() {
        let mut counts = LatencyCounts::default();
        counts.record(Duration::from_nanos(16_001), 3);
        assert_eq!(counts.buckets().find(|(_, count)| *count > 0), Some((Some(24), 3)), "a part of a µs is one");
        let before = counts;
        counts.record(Duration::from_secs(100), 1);
        let since = counts.since(&before).unwrap();
        assert_eq!((since.count(), since.sum_us()), (1, 100_000_000));
        assert_eq!(before.since(&counts), None, "it began anew");
        let mut sum = before;
        sum.add(&since);
        assert_eq!(sum, counts);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let mut counts = LatencyCounts::default();
        assert_eq!(counts.quantile_ms(0.5), None);
        counts.record(Duration::from_micros(1500), 98);
        counts.record(Duration::from_micros(60_000), 2);
        let near = |found: Option<f64>, expect: f64| assert!((found.unwrap() - expect).abs() < 0.001, "{found:?}");
        near(counts.quantile_ms(0.49), 1.28);
        near(counts.quantile_ms(0.99), 57.344);
        let mut long = LatencyCounts::default();
        long.record(Duration::from_secs(60), 1);
        near(long.quantile_ms(0.99), 16_777.216);
    }
}
