//! How much may be on its way to a client at a time: NewReno (RFC 9002 §7.3) for senders of little.
//!
//! A chat sends a small part of what its window allows, and NewReno does not let such a window grow (§7.8) but halves it at each loss: a
//! path that loses now and then, as radio does, has it at two packets after a minute. What does not fit waits, whatever its stream. Two
//! things differ here, both below the window that every new connection begins with, so that nobody gets more of a path than a
//! newcomer would take without asking:
//!
//! - A lost packet says that the path holds less than was in flight, and nothing about a window that was not used up. So the window is
//!   halved, but not to less than it began with, unless it has held something back since the last loss.
//! - A window that is smaller than it began with grows by what is acknowledged, whether it is used up or not.
//!
//! Congestion that lasts (§7.6), and marks of the network (ECN), which are no accident, count as they do in NewReno.
//!
//! Pure: it is told of what was sent and acknowledged, and asked for a number of bytes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// Packets that may be on their way to somebody of whom nothing is known (RFC 9002 §7.2).
const INITIAL_PACKETS: u32 = 10;

/// Makes the windows of one shard's connections, and counts what befalls them.
#[derive(Debug, Default)]
pub(crate) struct Congestion {
    /// Times that a window was halved, or was not because it had not been used up.
    losses: AtomicU64,
    lost_bytes: AtomicU64,
    /// Times that everything was lost for so long that a connection began anew.
    collapses: AtomicU64,
    /// Round trips in which a window held something back, and then lost.
    full: AtomicU64,
}

/// What befell the windows of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) losses: u64,
    pub(crate) lost_bytes: u64,
    pub(crate) collapses: u64,
    pub(crate) full: u64,
}

impl Congestion {
    pub(crate) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            losses: of(&self.losses),
            lost_bytes: of(&self.lost_bytes),
            collapses: of(&self.collapses),
            full: of(&self.full),
        }
    }
}

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Window::new(self, now, current_mtu))
    }
}

/// One path's window. Windows are in bytes; none comes near 4 GiB, as less than that waits to be sent.
#[derive(Debug, Clone)]
struct Window {
    shard: Arc<Congestion>,
    /// What was sent until then belongs to a loss that is known.
    recovery_began: Instant,
    window: u32,
    slow_start_below: u32,
    /// Bytes since the window last grew, above slow start.
    acknowledged: u32,
    /// The largest one that the path takes, in bytes.
    packet: u16,
    /// It has held something back since the last loss.
    was_full: bool,
}

impl Window {
    fn new(shard: Arc<Congestion>, now: Instant, packet: u16) -> Self {
        Self {
            shard,
            recovery_began: now,
            window: INITIAL_PACKETS * u32::from(packet),
            slow_start_below: u32::MAX,
            acknowledged: 0,
            packet,
            was_full: false,
        }
    }

    fn initial(&self) -> u32 {
        INITIAL_PACKETS * u32::from(self.packet)
    }

    /// Two packets. `quinn-proto` holds back what would use a window up to the last byte, so there is one more.
    fn least(&self) -> u32 {
        2 * u32::from(self.packet) + 1
    }

    /// A packet that was sent then has arrived. `app_limited`: the window had room when the connection had last sent what it could.
    fn acknowledge(&mut self, sent: Instant, bytes: u32, app_limited: bool) {
        self.was_full |= !app_limited;
        if sent <= self.recovery_began {
            return;
        }
        if app_limited {
            let initial = self.initial();
            if self.window < initial {
                self.window = self.window.saturating_add(bytes).min(initial);
            }
        } else if self.window < self.slow_start_below {
            self.window = self.window.saturating_add(bytes);
            self.acknowledged = self.window.saturating_sub(self.slow_start_below);
        } else {
            // A packet more each round trip (RFC 3465).
            self.acknowledged = self.acknowledged.saturating_add(bytes);
            if self.acknowledged >= self.window {
                self.acknowledged -= self.window;
                self.window = self.window.saturating_add(self.packet.into());
            }
        }
    }
}

impl Controller for Window {
    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.acknowledge(sent, u32::try_from(bytes).unwrap_or(u32::MAX), app_limited);
    }

    /// `lost_bytes` is 0 for a mark of the network's.
    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.shard.lost_bytes.fetch_add(lost_bytes, Ordering::Relaxed);
        if sent <= self.recovery_began && !persistent {
            return;
        }
        let (initial, halved) = (self.initial(), self.window / 2);
        let was_full = std::mem::take(&mut self.was_full);
        self.shard.losses.fetch_add(1, Ordering::Relaxed);
        self.shard.full.fetch_add(was_full.into(), Ordering::Relaxed);
        self.shard.collapses.fetch_add(persistent.into(), Ordering::Relaxed);
        self.recovery_began = now;
        self.slow_start_below = halved.max(initial);
        self.acknowledged = 0;
        self.window = if persistent {
            self.least()
        } else if was_full || lost_bytes == 0 {
            halved.max(self.least())
        } else {
            halved.max(initial.min(self.window))
        };
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet = new_mtu;
        self.window = self.window.max(self.least());
    }

    fn window(&self) -> u64 {
        self.window.into()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial().into()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PACKET: u16 = 1200;
    const INITIAL: u64 = 12_000;

    struct Path {
        shard: Arc<Congestion>,
        window: Window,
        now: Instant,
    }

    impl Path {
        fn new() -> Self {
            let (shard, now) = (Arc::<Congestion>::default(), Instant::now());
            Self { window: Window::new(shard.clone(), now, PACKET), shard, now }
        }

        /// A round trip later so many packets are acknowledged, one by one.
        fn acknowledged(&mut self, packets: u32, app_limited: bool) {
            let sent = self.now + Duration::from_millis(1);
            self.now += Duration::from_millis(40);
            for _ in 0..packets {
                self.window.acknowledge(sent, PACKET.into(), app_limited);
            }
        }

        fn loses(&mut self, persistent: bool, lost_bytes: u64) -> u64 {
            let sent = self.now + Duration::from_millis(1);
            self.now += Duration::from_millis(40);
            self.window.on_congestion_event(self.now, sent, persistent, lost_bytes);
            self.window.window()
        }
    }

    /// What chat does on a path that loses now and then.
    #[test]
    fn a_window_that_is_not_used_up_stays() {
        let mut path = Path::new();
        for _ in 0..1000 {
            path.acknowledged(3, true);
            assert_eq!(path.loses(false, 1000), INITIAL);
        }
        let counts = Counts { losses: 1000, lost_bytes: 1_000_000, collapses: 0, full: 0 };
        assert_eq!(path.shard.counts(), counts);
    }

    #[test]
    fn a_window_that_is_used_up_is_halved_each_round_trip() {
        let mut path = Path::new();
        for expect in [6_000, 3_000, 2_401, 2_401] {
            // Of before, so that it does not grow.
            path.window.acknowledge(path.now, PACKET.into(), false);
            assert_eq!(path.loses(false, 1000), expect);
        }
        assert_eq!(path.shard.counts().full, 4);
        // What was sent before a loss is that loss.
        let (before, sent) = (path.window.window(), path.now - Duration::from_millis(1));
        path.window.on_congestion_event(path.now, sent, false, 1000);
        assert_eq!((path.window.window(), path.shard.counts().losses), (before, 4));
    }

    #[test]
    fn it_grows_to_what_it_began_with_in_any_case_and_beyond_if_it_is_used_up() {
        let mut path = Path::new();
        path.acknowledged(1, false);
        assert_eq!(path.loses(false, 1), (INITIAL + 1200) / 2);
        path.acknowledged(100, true);
        assert_eq!(path.window.window(), INITIAL);
        path.acknowledged(100, true);
        assert_eq!(path.window.window(), INITIAL);
        // Slow start ended with the loss: a packet each round trip.
        path.acknowledged(10, false);
        assert_eq!(path.window.window(), INITIAL + 1200);
        path.acknowledged(11, false);
        assert_eq!(path.window.window(), INITIAL + 2400);
        // A new connection doubles.
        let mut path = Path::new();
        path.acknowledged(10, false);
        assert_eq!(path.window.window(), 2 * INITIAL);
        // Halved, as it was used up; and not below the beginning the next time, as it was not.
        assert_eq!(path.loses(false, 1), INITIAL);
        assert_eq!(path.loses(false, 1), INITIAL);
    }

    #[test]
    fn congestion_that_lasts_and_marks_of_the_network_are_no_accident() {
        let mut path = Path::new();
        assert_eq!(path.loses(true, 5000), 2401);
        assert_eq!(path.shard.counts().collapses, 1);
        path.acknowledged(1, true);
        assert_eq!(path.window.window(), 3601);
        let mut path = Path::new();
        assert_eq!(path.loses(false, 0), 6000);
        assert_eq!(path.loses(false, 0), 3000);
        // Another path's packets are larger.
        path.window.on_mtu_update(9000);
        assert_eq!((path.window.window(), path.window.initial_window()), (18_001, 90_000));
    }
}
