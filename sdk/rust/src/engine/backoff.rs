//! How long to wait before the next try: exponential with full jitter, so that clients that lost the same node do not
//! come back together.

use std::time::Duration;

use super::random::Random;

/// Bounds of a back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackoffLimits {
    /// Ceiling of the first wait.
    pub(crate) first: Duration,
    /// Ceiling of every wait.
    pub(crate) max: Duration,
}

/// Counts tries and names the next wait.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    limits: BackoffLimits,
    attempt: u32,
}

impl Backoff {
    pub(crate) fn new(limits: BackoffLimits) -> Self {
        Self { limits, attempt: 0 }
    }

    /// How many waits were named since the last success.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Uniform in zero to `first * 2^attempt`, at most `max`.
    pub(crate) fn next(&mut self, random: &mut Random) -> Duration {
        let ceiling = self.limits.first.saturating_mul(1 << self.attempt.min(20)).min(self.limits.max);
        self.attempt = self.attempt.saturating_add(1);
        Duration::from_nanos(random.below(u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_spread_under_a_ceiling_that_doubles() {
        let limits = BackoffLimits { first: Duration::from_millis(100), max: Duration::from_secs(20) };
        let mut random = Random::new(7);
        let mut highest = [Duration::ZERO; 12];
        for _ in 0..2_000 {
            let mut backoff = Backoff::new(limits);
            for (attempt, highest) in highest.iter_mut().enumerate() {
                let ceiling = (limits.first * (1 << attempt)).min(limits.max);
                let wait = backoff.next(&mut random);
                assert!(wait < ceiling, "attempt {attempt}: {wait:?}");
                *highest = wait.max(*highest);
            }
        }
        for (attempt, highest) in highest.into_iter().enumerate() {
            let ceiling = (limits.first * (1 << attempt)).min(limits.max);
            assert!(highest > ceiling * 9 / 10, "attempt {attempt}: {highest:?} of {ceiling:?}");
        }
    }

    #[test]
    fn an_endless_outage_does_not_overflow() {
        let mut backoff = Backoff::new(BackoffLimits { first: Duration::from_secs(1), max: Duration::MAX });
        let mut random = Random::new(1);
        for _ in 0..100 {
            backoff.next(&mut random);
        }
        assert_eq!(backoff.attempt(), 100);
    }
}
