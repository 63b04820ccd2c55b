//! The search for the highest rate that a subject holds. Pure: the caller measures.
//!
//! Up from the first rate by half as much again while it holds, or down while it does not; then between the last that held and the first that did
//! not, until they are close. A rate has failed when it fails twice in a row: one hiccup of the machine decides nothing.

/// Factor from one rate to the next while only one side is known.
const STEP: f64 = 1.5;
/// Where the highest rate that held and the lowest that did not lie this close, the search ends.
const CLOSE: f64 = 1.06;
/// Below this, per second, nothing is looked for.
const LEAST: f64 = 1.0;

pub(crate) struct Saturation {
    first: f64,
    held: Option<f64>,
    failed: Option<f64>,
    /// The last rate failed, once so far.
    doubted: Option<f64>,
}

impl Saturation {
    pub(crate) fn from(first: f64) -> Self {
        Self { first, held: None, failed: None, doubted: None }
    }

    /// The next rate to try; `None` when the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        if self.doubted.is_some() {
            return self.doubted;
        }
        match (self.held, self.failed) {
            (None, None) => Some(self.first),
            (Some(held), None) => Some(held * STEP),
            (None, Some(failed)) => (failed / STEP >= LEAST).then_some(failed / STEP),
            (Some(held), Some(failed)) => (failed / held > CLOSE).then_some((held * failed).sqrt()),
        }
    }

    /// Whether the rate that [`next`](Self::next) gave held.
    pub(crate) fn tried(&mut self, rate: f64, held: bool) {
        if held {
            (self.held, self.doubted) = (Some(rate), None);
        } else if self.doubted.take().is_some() {
            self.failed = Some(rate);
        } else {
            self.doubted = Some(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, holds: impl Fn(f64) -> bool) -> (Option<f64>, u32) {
        let mut search = Saturation::from(first);
        let mut tries = 0;
        while let Some(rate) = search.next() {
            search.tried(rate, holds(rate));
            tries += 1;
            assert!(tries < 100, "it ends");
        }
        (search.held, tries)
    }

    #[test]
    fn the_highest_rate_that_holds_is_found_from_either_side() {
        for first in [10.0, 1_000.0, 90_000.0] {
            let (held, tries) = search(first, |rate| rate <= 7_000.0);
            let held = held.expect("a rate that holds");
            assert!((7_000.0 / CLOSE..=7_000.0).contains(&held), "{held} from {first}, {tries} tries");
        }
        assert_eq!(search(100.0, |_| false).0, None);
    }

    #[test]
    fn one_hiccup_decides_nothing() {
        let mut search = Saturation::from(100.0);
        search.tried(100.0, false);
        assert_eq!(search.next(), Some(100.0));
        search.tried(100.0, true);
        assert_eq!(search.next(), Some(150.0));
    }
}
