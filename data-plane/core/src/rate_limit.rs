//! A token bucket in 8 bytes: the generic cell rate algorithm.

use std::time::Duration;

use crate::Rate;

/// When the bucket would be full again: ns since the shard began. Source: ITU-T I.371 annex A.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket(u64);

impl Bucket {
    /// Takes one token, or says how long to wait for it.
    pub(crate) fn take(&mut self, now_ns: u64, rate: Rate) -> Result<(), Duration> {
        let step = 1_000_000_000 / u64::from(rate.per_second);
        let tolerance = step * u64::from(rate.burst - 1);
        let full = self.0.max(now_ns);
        if full - now_ns > tolerance {
            return Err(Duration::from_nanos(full - now_ns - tolerance));
        }
        self.0 = full + step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate { per_second: 10, burst: 3 };
        let ms = |ms: u64| ms * 1_000_000;
        let mut bucket = Bucket::default();
        let mut check = |now_ms: u64, expect: Result<(), u64>| {
            let expect = expect.map_err(Duration::from_millis);
            assert_eq!(bucket.take(ms(now_ms), rate), expect, "at {now_ms} ms");
        };
        check(1_000, Ok(()));
        check(1_000, Ok(()));
        check(1_000, Ok(()));
        check(1_000, Err(100));
        check(1_040, Err(60));
        check(1_100, Ok(()));
        check(1_100, Err(100));
        check(9_000, Ok(()));
        check(9_000, Ok(()));
        check(9_000, Ok(()));
        check(9_000, Err(100));
    }
}
