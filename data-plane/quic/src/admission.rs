//! Who may begin a handshake at once, and who has to show first that its address is its own (RFC 9000 §8.1.2).
//!
//! A handshake that was begun for a forged address costs 28 KB until it times out; a Retry costs nothing that is kept.

use std::hash::Hasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use crate::Limits;

/// Networks told apart at a time; those that share a place share a rate.
const PLACES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Retry,
    /// Not even an answer: there are as many handshakes under way as there may be.
    Ignore,
}

pub(crate) struct Admission {
    began: Instant,
    hasher: SipHasher13,
    first_packets: Rate,
    resets: Rate,
}

/// A rate for each network, as the time until which it has spent its share (GCRA).
struct Rate {
    /// Ns since the beginning.
    spent_until: Box<[u64]>,
    each_ns: u64,
    burst_ns: u64,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        let each_ns = 1_000_000_000 / u64::from(per_second.max(1));
        Self { spent_until: vec![0; PLACES].into_boxed_slice(), each_ns, burst_ns: each_ns * u64::from(burst) }
    }

    fn take(&mut self, now_ns: u64, place: usize) -> bool {
        let spent = &mut self.spent_until[place];
        let next = (*spent).max(now_ns) + self.each_ns;
        let fits = next <= now_ns + self.burst_ns;
        if fits {
            *spent = next;
        }
        fits
    }
}

impl Admission {
    pub(crate) fn new(now: Instant, limits: &Limits, seed: u64) -> Self {
        Self {
            began: now,
            hasher: SipHasher13::new_with_keys(seed, !seed),
            first_packets: Rate::new(limits.prefix_handshakes_per_second, limits.prefix_handshakes_burst),
            resets: Rate::new(limits.prefix_resets_per_second, limits.prefix_resets_per_second),
        }
    }

    /// What becomes of a first packet. `validated`: the address has been shown to be the sender's.
    pub(crate) fn judge(
        &mut self,
        now: Instant,
        from: IpAddr,
        validated: bool,
        half_open: usize,
        limits: &Limits,
    ) -> Verdict {
        if half_open >= limits.half_open_max {
            return if validated { Verdict::Ignore } else { Verdict::Retry };
        }
        let place = self.place(from);
        let in_rate = self.first_packets.take(self.ns(now), place);
        if validated || in_rate && half_open < limits.retry_above_half_open { Verdict::Accept } else { Verdict::Retry }
    }

    /// Whether a network may be told once more that a connection is not known.
    pub(crate) fn may_reset(&mut self, now: Instant, to: IpAddr) -> bool {
        let place = self.place(to);
        self.resets.take(self.ns(now), place)
    }

    fn ns(&self, now: Instant) -> u64 {
        // Never 0 less than the burst: a place begins with nothing spent.
        let elapsed: Duration = now.saturating_duration_since(self.began);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn place(&self, address: IpAddr) -> usize {
        let mut hasher = self.hasher;
        match address.to_canonical() {
            IpAddr::V4(address) => hasher.write(&address.octets()[..3]),
            IpAddr::V6(address) => hasher.write(&address.octets()[..7]),
        }
        usize::try_from(hasher.finish() % PLACES as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            half_open_max: 10,
            retry_above_half_open: 4,
            prefix_handshakes_per_second: 10,
            prefix_handshakes_burst: 3,
            prefix_resets_per_second: 2,
            ..Limits::default()
        }
    }

    #[test]
    fn who_comes_often_or_into_a_crowd_shows_its_address_first() {
        let began = Instant::now();
        let mut admission = Admission::new(began, &limits(), 7);
        let mut check = |ms: u64, from: &str, validated: bool, half_open: usize, expect: Verdict| {
            let now = began + Duration::from_millis(ms);
            let verdict = admission.judge(now, from.parse().unwrap(), validated, half_open, &limits());
            assert_eq!(verdict, expect, "{ms} {from} {validated} {half_open}");
        };
        for last in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            check(0, last, false, 0, Verdict::Accept);
        }
        check(0, "192.0.2.4", false, 0, Verdict::Retry);
        check(0, "192.0.2.4", true, 0, Verdict::Accept);
        check(0, "198.51.100.4", false, 0, Verdict::Accept);
        check(0, "::ffff:192.0.2.9", false, 0, Verdict::Retry);
        check(200, "192.0.2.4", false, 0, Verdict::Accept);
        check(5000, "203.0.113.1", false, 4, Verdict::Retry);
        check(5000, "203.0.113.1", true, 4, Verdict::Accept);
        check(5000, "203.0.113.1", true, 10, Verdict::Ignore);
        check(5000, "203.0.113.1", false, 10, Verdict::Retry);
    }

    #[test]
    fn resets_are_counted_by_network() {
        let began = Instant::now();
        let mut admission = Admission::new(began, &limits(), 7);
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let b: IpAddr = "2001:db8:1::1".parse().unwrap();
        let told: Vec<bool> = [a, a, a, b].into_iter().map(|to| admission.may_reset(began, to)).collect();
        assert_eq!(told, [true, true, false, true]);
        assert!(admission.may_reset(began + Duration::from_secs(1), a));
    }
}
