//! TLS tickets that a node has given out, so that a client which comes back is known at once (0-RTT).
//!
//! Early data can be recorded and sent again by anyone on the way. Each ticket is therefore kept here and taken once, and by all
//! shards together: rustls accepts early data with such tickets only.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::server::StoresServerSessions;

/// Locks, each for a part of the tickets.
const PARTS: usize = 16;
/// About 400 bytes each; longer ones are not worth keeping.
const TICKET_BYTES_MAX: usize = 4096;

/// The tickets of a node, the newest `tickets_max` of them.
pub struct Tickets {
    parts: [Mutex<Part>; PARTS],
    part_max: usize,
}

#[derive(Default)]
struct Part {
    tickets: HashMap<Vec<u8>, Vec<u8>>,
    /// Oldest first; those that were taken are still in it.
    order: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("part_max", &self.part_max).finish_non_exhaustive()
    }
}

impl Tickets {
    /// Room for about so many tickets, of about 500 bytes each; 0 for none.
    pub fn new(tickets_max: usize) -> Self {
        Self { parts: Default::default(), part_max: tickets_max.div_ceil(PARTS) }
    }

    fn part(&self, key: &[u8]) -> MutexGuard<'_, Part> {
        // Keys are random.
        let place = key.first().map_or(0, |&byte| usize::from(byte) % PARTS);
        self.parts[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Tickets {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        if self.part_max == 0 || value.len() > TICKET_BYTES_MAX {
            return false;
        }
        let mut part = self.part(&key);
        let part = &mut *part;
        if part.tickets.insert(key.clone(), value).is_none() {
            part.order.push_back(key);
        }
        while part.order.len() > self.part_max {
            if let Some(oldest) = part.order.pop_front() {
                part.tickets.remove(&oldest);
            }
        }
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.part(key).tickets.get(key).cloned()
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.part(key).tickets.remove(key)
    }

    fn can_cache(&self) -> bool {
        self.part_max > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_taken_once_and_the_oldest_go() {
        let tickets = Tickets::new(2 * PARTS);
        let key = |n: u8| vec![16, n];
        for n in 1..=3 {
            assert!(tickets.put(key(n), vec![n; 300]));
        }
        assert_eq!(tickets.take(&key(1)), None, "the oldest had to go");
        assert_eq!(tickets.get(&key(2)), Some(vec![2; 300]));
        assert_eq!(tickets.take(&key(2)), Some(vec![2; 300]));
        assert_eq!(tickets.take(&key(2)), None);
        assert_eq!(tickets.take(&key(3)), Some(vec![3; 300]));
        for n in 0..200 {
            tickets.put(key(n), vec![0; 10]);
            tickets.take(&key(n));
        }
        let part = tickets.part(&key(0));
        assert!(part.order.len() <= 2 && part.tickets.len() <= 2);
    }

    #[test]
    fn none_are_kept_where_there_is_no_room() {
        let none = Tickets::new(0);
        assert!(!none.can_cache() && !none.put(vec![1], vec![2]));
        assert!(!Tickets::new(9).put(vec![1], vec![0; TICKET_BYTES_MAX + 1]));
    }
}
