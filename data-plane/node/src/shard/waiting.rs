//! Datagrams of handshakes, which wait for their part of a turn: those of sessions are dealt with as they come. Pure.
//!
//! What goes on with a handshake comes before what begins one, but for every fourth: so that what was begun comes to an end, and a
//! crowd in the middle of it does not keep everybody else out. What finds no room is lost, as a network may lose it.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;

use millrace_quic::Stage;

use crate::udp::Datagram;

/// Datagrams of each kind: at 32 in a turn of 2 or 3 ms the last one waits a tenth of a second.
const DATAGRAMS_MAX: usize = 1024;
/// Bytes of all.
const BYTES_MAX: usize = 4 << 20;
/// First packets of one network (/24 of IPv4, /56 of IPv6): it leaves three quarters to the others.
const OF_NETWORK_MAX: u16 = 256;
/// Networks told apart; those that share a place share its room.
const NETWORKS: usize = 1024;

/// Datagrams that wait.
pub(super) struct Waiting {
    first: VecDeque<Datagram>,
    begun: VecDeque<Datagram>,
    bytes: usize,
    /// How many of `first` are of each network.
    networks: Box<[u16]>,
    hasher: RandomState,
    /// Of those with a handshake under way, taken one after the other.
    in_a_row: u8,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            first: VecDeque::new(),
            begun: VecDeque::new(),
            bytes: 0,
            networks: vec![0; NETWORKS].into_boxed_slice(),
            hasher: RandomState::new(),
            in_a_row: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.begun.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.begun.is_empty()
    }

    /// Keeps a datagram for its turn; whether there was room.
    pub(super) fn push(&mut self, stage: Stage, datagram: Datagram) -> bool {
        if self.bytes + datagram.data.len() > BYTES_MAX {
            return false;
        }
        let queue = match stage {
            Stage::First => {
                let place = self.place(datagram.from.ip());
                let of_network = &mut self.networks[place];
                if *of_network >= OF_NETWORK_MAX || self.first.len() >= DATAGRAMS_MAX {
                    return false;
                }
                *of_network += 1;
                &mut self.first
            }
            Stage::Begun | Stage::Open if self.begun.len() >= DATAGRAMS_MAX => return false,
            Stage::Begun | Stage::Open => &mut self.begun,
        };
        self.bytes += datagram.data.len();
        queue.push_back(datagram);
        true
    }

    /// Whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Datagram> {
        let firsts_turn = self.in_a_row >= 3 || self.begun.is_empty();
        let datagram = match self.first.pop_front_if(|_| firsts_turn) {
            Some(first) => {
                self.in_a_row = 0;
                let place = self.place(first.from.ip());
                self.networks[place] -= 1;
                first
            }
            None => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.begun.pop_front()?
            }
        };
        self.bytes -= datagram.data.len();
        if self.is_empty() {
            // A crowd's room is not kept.
            self.first.shrink_to(64);
            self.begun.shrink_to(64);
        }
        Some(datagram)
    }

    fn place(&self, address: IpAddr) -> usize {
        let hash = match address.to_canonical() {
            IpAddr::V4(address) => self.hasher.hash_one(&address.octets()[..3]),
            IpAddr::V6(address) => self.hasher.hash_one(&address.octets()[..7]),
        };
        usize::try_from(hash % NETWORKS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn datagram(address: [u8; 4], number: u8) -> Datagram {
        Datagram { from: (address, 9).into(), to: None, ecn: None, data: BytesMut::from(&[number; 100][..]) }
    }

    fn numbers(waiting: &mut Waiting, count: usize) -> Vec<u8> {
        (0..count).map_while(|_| waiting.pop()).map(|datagram| datagram.data[0]).collect()
    }

    #[test]
    fn handshakes_under_way_come_first_and_a_fourth_is_for_new_ones() {
        let mut waiting = Waiting::new();
        for number in 0..6 {
            assert!(waiting.push(Stage::First, datagram([192, 0, 2, 1], number)));
            assert!(waiting.push(Stage::Begun, datagram([192, 0, 2, 1], 100 + number)));
        }
        assert_eq!(numbers(&mut waiting, 12), [100, 101, 102, 0, 103, 104, 105, 1, 2, 3, 4, 5]);
        assert_eq!((waiting.len(), waiting.bytes), (0, 0));
        assert!(waiting.networks.iter().all(|&count| count == 0));
    }

    #[test]
    fn no_network_takes_all_the_room() {
        let mut waiting = Waiting::new();
        let taken = (0..5000).filter(|_| waiting.push(Stage::First, datagram([192, 0, 2, 1], 1))).count();
        assert_eq!(taken, 256);
        // Of many others some share its place.
        let others = (0..100).filter(|&n| waiting.push(Stage::First, datagram([198, 51, n, 1], 2))).count();
        assert!(others > 90, "{others}");
        let of_all = (0..5000_u16).filter(|n| {
            let [high, low] = n.to_be_bytes();
            waiting.push(Stage::First, datagram([10, high, low, 1], 3))
        });
        let of_all = of_all.count() + taken + others;
        assert_eq!((of_all, waiting.len()), (1024, 1024));
        assert!(waiting.push(Stage::Begun, datagram([192, 0, 2, 1], 9)), "they have room of their own");
    }

    #[test]
    fn bytes_are_bounded() {
        let mut waiting = Waiting::new();
        let large = |n: u8| Datagram { data: BytesMut::zeroed(60_000), ..datagram([10, n, 0, 1], 1) };
        let taken = (0..200).filter(|&n| waiting.push(Stage::First, large(n))).count();
        assert_eq!(taken, BYTES_MAX / 60_000);
        while waiting.pop().is_some() {}
        assert_eq!(waiting.bytes, 0);
    }
}
