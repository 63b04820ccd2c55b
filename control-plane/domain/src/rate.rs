//! A token bucket: how many requests a caller may make. Time comes in as a duration since any fixed moment.

use std::time::Duration;

/// So many at once, and one more each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests that a caller who was quiet may make at once; at least 1.
    pub burst: u32,
    /// How long it takes until one comes back; at least 1 ns.
    pub interval: Duration,
}

impl Rate {
    /// So many at once, and so many per second in the long run.
    pub const fn per_second(burst: u32, count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { burst, interval: Duration::from_nanos(1_000_000_000 / count as u64) }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may pass.
    Admitted {
        /// Requests left at once.
        remaining: u32,
        /// Until the bucket is full again.
        reset: Duration,
    },
    /// It may not.
    Refused {
        /// Until one may pass.
        retry_after: Duration,
    },
}

/// The state of one caller.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// When the bucket is full again if nothing comes: one moment says everything about it.
    full_at: Duration,
}

impl Bucket {
    /// A full bucket.
    pub const fn full() -> Self {
        Self { full_at: Duration::ZERO }
    }

    /// Whether it has been full since `now`, so that forgetting it changes nothing.
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }

    /// What [`take`](Self::take) would say, without taking.
    pub fn look(&self, now: Duration, rate: Rate) -> Admission {
        Self { full_at: self.full_at }.take(now, rate)
    }

    /// Takes one request out.
    pub fn take(&mut self, now: Duration, rate: Rate) -> Admission {
        let interval = rate.interval.max(Duration::from_nanos(1));
        let capacity = interval * rate.burst.max(1);
        let full_at = self.full_at.max(now) + interval;
        let missing = full_at - now;
        if missing > capacity {
            return Admission::Refused { retry_after: missing - capacity };
        }
        self.full_at = full_at;
        let remaining = (capacity - missing).as_nanos() / interval.as_nanos().max(1);
        Admission::Admitted { remaining: u32::try_from(remaining).unwrap_or(u32::MAX), reset: missing }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::per_second(3, 10);
        let mut bucket = Bucket::full();
        let mut check = |at_ms: u32, expect| assert_eq!(bucket.take(MS * at_ms, rate), expect, "at {at_ms} ms");
        check(1000, Admission::Admitted { remaining: 2, reset: MS * 100 });
        check(1000, Admission::Admitted { remaining: 1, reset: MS * 200 });
        check(1000, Admission::Admitted { remaining: 0, reset: MS * 300 });
        check(1000, Admission::Refused { retry_after: MS * 100 });
        check(1099, Admission::Refused { retry_after: MS });
        check(1100, Admission::Admitted { remaining: 0, reset: MS * 300 });
        check(5000, Admission::Admitted { remaining: 2, reset: MS * 100 });
    }

    proptest! {
        /// Over any stretch of time: at most the burst plus what came back, and a wait that is kept is rewarded.
        #[test]
        fn never_more_than_burst_and_rate(
            burst in 1u32..20, per_second in 1u32..1000, gaps_ms in prop::collection::vec(0u32..50, 1..300)
        ) {
            let rate = Rate::per_second(burst, per_second);
            let mut bucket = Bucket::full();
            let (mut now, mut admitted) = (Duration::ZERO, 0u32);
            for gap in gaps_ms {
                now += MS * gap;
                match bucket.take(now, rate) {
                    Admission::Admitted { .. } => admitted += 1,
                    Admission::Refused { retry_after } => {
                        let mut patient = bucket;
                        let passes = matches!(patient.take(now + retry_after, rate), Admission::Admitted { .. });
                        prop_assert!(passes);
                    }
                }
                // An interval is rounded down to whole nanoseconds, hence the one over.
                let bound = f64::from(burst) + now.as_secs_f64() * f64::from(per_second) + 1.0;
                prop_assert!(f64::from(admitted) <= bound);
            }
        }
    }
}
