//! How many requests each caller may make: a bounded map of token buckets.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_domain::{Admission, Bucket, Rate};

/// Callers that are told apart at once, about 50 bytes each. Beyond it, new ones share one bucket until others have been quiet.
const CALLERS_MAX: usize = 100_000;

/// The buckets of all callers.
pub(crate) struct Limiter {
    began: Instant,
    // Names come from strangers: a random hash keeps them from choosing their neighbours.
    hasher: RandomState,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    of_callers: HashMap<u64, Bucket>,
    shared: Bucket,
    /// When quiet callers may be looked for again: a search visits all.
    purge_at: Duration,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        let buckets = Buckets { of_callers: HashMap::new(), shared: Bucket::full(), purge_at: Duration::ZERO };
        Self { began: Instant::now(), hasher: RandomState::new(), buckets: Mutex::new(buckets) }
    }

    /// Accounts one request to a caller.
    pub(crate) fn take(&self, caller: &str, rate: Rate) -> Admission {
        self.take_at(self.began.elapsed(), caller, rate, CALLERS_MAX)
    }

    /// Whether a caller has any request left, without accounting one.
    pub(crate) fn look(&self, caller: &str, rate: Rate) -> Admission {
        let name = self.hasher.hash_one(caller);
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = if buckets.of_callers.len() < CALLERS_MAX { Bucket::full() } else { buckets.shared };
        buckets.of_callers.get(&name).copied().unwrap_or(unknown).look(self.began.elapsed(), rate)
    }

    fn take_at(&self, now: Duration, caller: &str, rate: Rate, callers_max: usize) -> Admission {
        let name = self.hasher.hash_one(caller);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = &mut *buckets;
        if let Some(bucket) = buckets.of_callers.get_mut(&name) {
            return bucket.take(now, rate);
        }
        if buckets.of_callers.len() >= callers_max && buckets.purge_at <= now {
            buckets.of_callers.retain(|_, bucket| !bucket.is_full(now));
            buckets.purge_at = now + Duration::from_secs(1);
        }
        if buckets.of_callers.len() >= callers_max {
            return buckets.shared.take(now, rate);
        }
        buckets.of_callers.entry(name).or_insert(Bucket::full()).take(now, rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_second(1, 1);

    fn admitted(limiter: &Limiter, at_ms: u64, caller: &str) -> bool {
        let admission = limiter.take_at(Duration::from_millis(at_ms), caller, RATE, 2);
        matches!(admission, Admission::Admitted { .. })
    }

    #[test]
    fn callers_do_not_spend_each_others_requests() {
        let limiter = Limiter::new();
        assert!(admitted(&limiter, 10, "a"));
        assert!(!admitted(&limiter, 10, "a"));
        assert!(admitted(&limiter, 10, "b"));
    }

    #[test]
    fn when_full_newcomers_share_until_others_were_quiet() {
        let limiter = Limiter::new();
        assert!(admitted(&limiter, 10, "a") && admitted(&limiter, 10, "b"));
        assert!(admitted(&limiter, 10, "c"), "the first of the shared bucket");
        assert!(!admitted(&limiter, 10, "d"), "the bucket is shared");
        assert!(admitted(&limiter, 2_000, "d"), "a and b were quiet and are forgotten");
        assert_eq!(limiter.buckets.lock().unwrap().of_callers.len(), 1);
    }
}
