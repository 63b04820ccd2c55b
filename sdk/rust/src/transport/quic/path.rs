//! Whether the way to the node has to be made anew: when this machine's address has changed, or nothing comes back any more. Pure.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often to look.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long answers may be missing before another socket is tried; doubled each time it did not help.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(8);

/// What is known of a connection at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Address of this machine towards the node; `None` if there is no way there now.
    pub(super) local: Option<IpAddr>,
    /// Packets that came, ever.
    pub(super) received: u64,
    /// Frames sent that a living peer acknowledges, ever.
    pub(super) elicited: u64,
    /// Time that an answer takes.
    pub(super) rtt: Duration,
}

/// Why to take another socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// The machine reaches the node from another address.
    AddressChanged,
    /// What was sent is not answered: a router may have forgotten the way back.
    Silence,
}

#[derive(Debug)]
pub(super) struct PathWatch {
    local: Option<IpAddr>,
    received: u64,
    /// At the last sign of life.
    elicited: u64,
    unanswered_since: Option<Instant>,
    patience: Duration,
}

impl PathWatch {
    pub(super) fn new(sample: Sample) -> Self {
        Self {
            local: sample.local,
            received: sample.received,
            elicited: sample.elicited,
            unanswered_since: None,
            patience: PATIENCE,
        }
    }

    pub(super) fn look(&mut self, now: Instant, sample: Sample) -> Option<Move> {
        if sample.received != self.received {
            self.received = sample.received;
            self.elicited = sample.elicited;
            self.unanswered_since = None;
            self.patience = PATIENCE;
        }
        if sample.local.is_some() && sample.local != self.local {
            let had_one = self.local.is_some();
            self.local = sample.local;
            if had_one {
                self.moved(now, sample);
                return Some(Move::AddressChanged);
            }
        }
        if sample.elicited == self.elicited {
            return None;
        }
        let since = *self.unanswered_since.get_or_insert(now);
        if now.duration_since(since) < self.patience.max(3 * sample.rtt) {
            return None;
        }
        self.moved(now, sample);
        self.patience = (2 * self.patience).min(PATIENCE_MAX);
        Some(Move::Silence)
    }

    /// The new way has its own time to be answered on.
    fn moved(&mut self, now: Instant, sample: Sample) {
        self.elicited = sample.elicited;
        self.unanswered_since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const STREET: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1)));

    struct Bench {
        watch: PathWatch,
        sample: Sample,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let sample = Sample { local: HOME, received: 0, elicited: 0, rtt: Duration::from_millis(40) };
            Self { watch: PathWatch::new(sample), sample, now: Instant::now() }
        }

        fn second(&mut self) -> Option<Move> {
            self.now += LOOK_EVERY;
            self.watch.look(self.now, self.sample)
        }
    }

    #[test]
    fn a_quiet_connection_is_left_alone() {
        let mut bench = Bench::new();
        for _ in 0..100 {
            assert_eq!(bench.second(), None);
        }
        // Acknowledgements of what the node sends need no answer.
        for _ in 0..100 {
            bench.sample.received += 1;
            assert_eq!(bench.second(), None);
        }
    }

    #[test]
    fn a_new_address_is_taken_at_once_and_no_address_is_none() {
        let mut bench = Bench::new();
        bench.sample.local = None;
        assert_eq!(bench.second(), None);
        bench.sample.local = HOME;
        assert_eq!(bench.second(), None);
        bench.sample.local = STREET;
        assert_eq!(bench.second(), Some(Move::AddressChanged));
        assert_eq!(bench.second(), None);
    }

    #[test]
    fn silence_is_met_with_new_sockets_ever_more_rarely() {
        let mut bench = Bench::new();
        let mut moves = vec![];
        for second in 1..=40 {
            // QUIC itself probes all the time.
            bench.sample.elicited += 1;
            if bench.second().is_some() {
                moves.push(second);
            }
        }
        assert_eq!(moves, [2, 4, 8, 16, 24, 32, 40]);
        bench.sample.received += 1;
        assert_eq!(bench.second(), None);
        bench.sample.elicited += 1;
        assert_eq!(bench.second(), None, "the answer may be on its way");
        bench.sample.elicited += 1;
        assert_eq!(bench.second(), Some(Move::Silence), "patience began anew");
    }

    #[test]
    fn a_long_way_has_a_longer_time() {
        let mut bench = Bench::new();
        bench.sample.rtt = Duration::from_secs(1);
        bench.sample.elicited += 1;
        assert_eq!([bench.second(), bench.second(), bench.second()], [None; 3]);
        assert_eq!(bench.second(), Some(Move::Silence));
    }
}
