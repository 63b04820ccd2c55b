//! Datagrams of handshakes, which wait for their part of a turn: those of sessions are dealt with as they come. Pure.
//!
//! What goes on with a handshake comes before what begins one, but for every fourth: so that what was begun comes to an end, and a
//! crowd in the middle of it does not keep everybody else out. What finds no room is lost, as a network may lose it.
//!
//! What a client sends behind the end of its handshake waits behind that: nobody could read it before.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;

use millrace_quic::Stage;

use crate::udp::Datagram;

/// First packets. A client sends its own again after one second, then after two, four and eight more, so who finds no room in a storm is
/// late: this is what is dealt with in two seconds. 6 MB at most.
const FIRST_MAX: usize = 4096;
/// What goes on with handshakes, which has three quarters of the steps: the last one waits a fraction of a second.
const BEGUN_MAX: usize = 1024;
/// Bytes of one datagram: what we tell clients that we take (`max_udp_payload_size`). A few that are longer would take everybody's room.
const DATAGRAM_BYTES_MAX: usize = 1472;
/// First packets of one network (/24 of IPv4, /56 of IPv6): it leaves three quarters to the others.
const FIRST_OF_NETWORK_MAX: u16 = 1024;
/// The same of what claims to go on with a handshake, of which there is none by that name.
const CLAIMED_OF_NETWORK_MAX: u16 = 256;
/// Of what goes on with handshakes, all that one network has: half.
const BEGUN_OF_NETWORK_MAX: u16 = 512;
/// Of all that claims to go on with a handshake: half, whatever addresses it bears.
const CLAIMED_MAX: usize = 512;
/// Of one connection: the end of its handshake, and what a client sends behind that before it hears anything.
const OF_CONNECTION_MAX: u8 = 16;
/// Networks told apart; those that share a place share its room.
const NETWORKS: usize = 1024;

/// Datagrams that wait.
pub(super) struct Waiting {
    first: VecDeque<Datagram>,
    begun: VecDeque<(Option<u64>, Datagram)>,
    /// How many of `begun` are nobody's.
    claimed: usize,
    /// How many of `begun` are of each connection that has any, by the id that it has in its handshake.
    connections: HashMap<u64, u8>,
    /// How many of each network there are.
    first_networks: Networks,
    begun_networks: Networks,
    /// Of those with a handshake under way, taken one after the other.
    in_a_row: u8,
}

/// What becomes of a datagram.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is to be dealt with at once.
    Now(Datagram),
    Waits,
    /// There was no room.
    Lost,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            first: VecDeque::new(),
            begun: VecDeque::new(),
            claimed: 0,
            connections: HashMap::new(),
            first_networks: Networks::new(),
            begun_networks: Networks::new(),
            in_a_row: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.begun.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.begun.is_empty()
    }

    /// Keeps a datagram for its turn, if it has to wait for that.
    pub(super) fn take(&mut self, stage: Stage, datagram: Datagram) -> Taken {
        match stage {
            Stage::Open(cid) if !self.connections.contains_key(&cid) => return Taken::Now(datagram),
            _ if datagram.data.len() > DATAGRAM_BYTES_MAX => return Taken::Lost,
            _ => {}
        }
        let from = datagram.from.ip();
        let waits = match stage {
            Stage::First => self.first.len() < FIRST_MAX && self.first_networks.enter(from, FIRST_OF_NETWORK_MAX),
            _ if self.begun.len() >= BEGUN_MAX => false,
            Stage::Claimed => self.claimed < CLAIMED_MAX && self.begun_networks.enter(from, CLAIMED_OF_NETWORK_MAX),
            Stage::Begun(cid) | Stage::Open(cid) => {
                let of_connection = self.connections.get(&cid).copied().unwrap_or(0);
                let waits = of_connection < OF_CONNECTION_MAX && self.begun_networks.enter(from, BEGUN_OF_NETWORK_MAX);
                if waits {
                    self.connections.insert(cid, of_connection + 1);
                }
                waits
            }
        };
        match stage {
            _ if !waits => return Taken::Lost,
            Stage::First => self.first.push_back(datagram),
            Stage::Claimed => {
                self.claimed += 1;
                self.begun.push_back((None, datagram));
            }
            Stage::Begun(cid) | Stage::Open(cid) => self.begun.push_back((Some(cid), datagram)),
        }
        Taken::Waits
    }

    /// Whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Datagram> {
        let firsts_turn = self.in_a_row >= 3 || self.begun.is_empty();
        let datagram = match self.first.pop_front_if(|_| firsts_turn) {
            Some(first) => {
                self.in_a_row = 0;
                self.first_networks.leave(first.from.ip());
                first
            }
            None => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                let (cid, datagram) = self.begun.pop_front()?;
                self.begun_networks.leave(datagram.from.ip());
                match cid {
                    None => self.claimed -= 1,
                    Some(cid) => self.leave(cid),
                }
                datagram
            }
        };
        if self.is_empty() {
            // A crowd's room is not kept.
            self.first.shrink_to(64);
            self.begun.shrink_to(64);
            self.connections.shrink_to(64);
        }
        Some(datagram)
    }

    fn leave(&mut self, cid: u64) {
        let Some(count) = self.connections.get_mut(&cid) else { return };
        *count -= 1;
        if *count == 0 {
            self.connections.remove(&cid);
        }
    }
}

/// How many of each network there are.
struct Networks {
    counts: Box<[u16]>,
    hasher: RandomState,
}

impl Networks {
    fn new() -> Self {
        Self { counts: vec![0; NETWORKS].into_boxed_slice(), hasher: RandomState::new() }
    }

    /// Counts one more, if there are fewer than that; whether it did.
    fn enter(&mut self, address: IpAddr, max: u16) -> bool {
        let count = self.count(address);
        let enters = *count < max;
        *count += u16::from(enters);
        enters
    }

    fn leave(&mut self, address: IpAddr) {
        *self.count(address) -= 1;
    }

    fn count(&mut self, address: IpAddr) -> &mut u16 {
        let hash = match address.to_canonical() {
            IpAddr::V4(address) => self.hasher.hash_one(&address.octets()[..3]),
            IpAddr::V6(address) => self.hasher.hash_one(&address.octets()[..7]),
        };
        &mut self.counts[usize::try_from(hash % NETWORKS as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn datagram(address: [u8; 4], number: u8) -> Datagram {
        Datagram { from: (address, 9).into(), to: None, ecn: None, data: BytesMut::from(&[number; 100][..]) }
    }

    fn waits(waiting: &mut Waiting, stage: Stage, datagram: Datagram) -> bool {
        match waiting.take(stage, datagram) {
            Taken::Now(datagram) => panic!("{datagram:?} was to wait"),
            Taken::Waits => true,
            Taken::Lost => false,
        }
    }

    fn numbers(waiting: &mut Waiting, count: usize) -> Vec<u8> {
        (0..count).map_while(|_| waiting.pop()).map(|datagram| datagram.data[0]).collect()
    }

    fn assert_is_as_new(waiting: &Waiting) {
        assert_eq!((waiting.len(), waiting.claimed, waiting.connections.len()), (0, 0, 0));
        assert!(waiting.first_networks.counts.iter().chain(&waiting.begun_networks.counts).all(|&count| count == 0));
    }

    #[test]
    fn handshakes_under_way_come_first_and_a_fourth_is_for_new_ones() {
        let mut waiting = Waiting::new();
        for number in 0..6 {
            assert!(waits(&mut waiting, Stage::First, datagram(HERE, number)));
            assert!(waits(&mut waiting, Stage::Begun(number.into()), datagram(HERE, 100 + number)));
        }
        assert_eq!(numbers(&mut waiting, 12), [100, 101, 102, 0, 103, 104, 105, 1, 2, 3, 4, 5]);
        assert_is_as_new(&waiting);
    }

    /// Its first words after the handshake would be lost, and with them the time until it sends them again.
    #[test]
    fn datagrams_of_a_connection_keep_their_order() {
        let mut waiting = Waiting::new();
        assert!(waits(&mut waiting, Stage::Begun(7), datagram(HERE, 1)));
        assert!(waits(&mut waiting, Stage::Begun(7), datagram(HERE, 2)));
        let other = waiting.take(Stage::Open(8), datagram(HERE, 9));
        assert!(matches!(other, Taken::Now(_)), "another connection of the same address: {other:?}");
        assert_eq!(numbers(&mut waiting, 1), [1]);
        // The handshake is complete by now, but what came before is not done.
        assert!(waits(&mut waiting, Stage::Open(7), datagram(HERE, 3)));
        assert_eq!(numbers(&mut waiting, 9), [2, 3]);
        let later = waiting.take(Stage::Open(7), datagram(HERE, 4));
        assert!(matches!(later, Taken::Now(_)), "{later:?}");
        assert_is_as_new(&waiting);
    }

    #[test]
    fn no_network_takes_all_the_room() {
        let mut waiting = Waiting::new();
        let taken = (0..5000).filter(|_| waits(&mut waiting, Stage::First, datagram(HERE, 1))).count();
        assert_eq!(taken, 1024);
        // Of many others some share its place.
        let others = (0..100).filter(|&n| waits(&mut waiting, Stage::First, datagram([198, 51, n, 1], 2))).count();
        assert!(others > 90, "{others}");
        let of_all = (0..9000_u16).filter(|n| {
            let [high, low] = n.to_be_bytes();
            waits(&mut waiting, Stage::First, datagram([10, high, low, 1], 3))
        });
        let of_all = of_all.count() + taken + others;
        assert_eq!((of_all, waiting.len()), (4096, 4096));
        assert!(waits(&mut waiting, Stage::Begun(1), datagram(HERE, 9)), "they have room of their own");
    }

    /// Anybody can write an id that looks like one of ours.
    #[test]
    fn inventions_leave_room_to_handshakes() {
        let mut waiting = Waiting::new();
        let taken = (0..5000).filter(|_| waits(&mut waiting, Stage::Claimed, datagram(HERE, 1))).count();
        assert_eq!(taken, 256, "of one network");
        let of_all = (0..5000_u16).filter(|n| {
            let [high, low] = n.to_be_bytes();
            waits(&mut waiting, Stage::Claimed, datagram([10, high, low, 1], 2))
        });
        assert_eq!(of_all.count() + taken, 512);
        assert!(waits(&mut waiting, Stage::Begun(1), datagram(HERE, 3)), "its own handshake goes on");
        while waiting.pop().is_some() {}
        assert_is_as_new(&waiting);
    }

    #[test]
    fn nobody_who_has_a_handshake_takes_all_the_room() {
        let mut waiting = Waiting::new();
        let taken = (0..5000).filter(|_| waits(&mut waiting, Stage::Begun(1), datagram(HERE, 1))).count();
        assert_eq!(taken, 16, "of one connection");
        assert!(!waits(&mut waiting, Stage::Open(1), datagram(HERE, 1)), "and what is behind it");
        let taken: usize =
            (0..5000).filter(|&cid| waits(&mut waiting, Stage::Begun(cid), datagram(HERE, 1))).count() + taken;
        assert_eq!(taken, 512, "of one network");
        let others = (0..100).filter(|&n| waits(&mut waiting, Stage::Begun(9000), datagram([198, 51, n, 1], 2)));
        assert_eq!(others.count(), 16, "a connection is the same wherever it is");
        while waiting.pop().is_some() {}
        assert_is_as_new(&waiting);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut waiting = Waiting::new();
        let of_bytes = |len| Datagram { data: BytesMut::zeroed(len), ..datagram(HERE, 1) };
        assert!(waits(&mut waiting, Stage::First, of_bytes(1472)));
        for stage in [Stage::First, Stage::Claimed, Stage::Begun(1)] {
            assert!(!waits(&mut waiting, stage, of_bytes(1473)), "{stage:?}");
        }
        assert!(matches!(waiting.take(Stage::Open(1), of_bytes(60_000)), Taken::Now(_)), "it does not wait");
        assert_eq!(waiting.len(), 1);
    }
}
