//! Strangers whose session over HTTP/3 is over, and whose connections stay for them to read why: they keep their places at the door until
//! they are gone. Pure.

use std::collections::HashMap;
use std::hash::Hash;

use super::admission::{Admission, Place};

/// Those of a shard, by their connections.
pub(super) struct Lingering<K> {
    strangers: HashMap<K, Stranger>,
    connections: HashMap<u64, K>,
}

struct Stranger {
    place: Place,
    /// What the door knows it by.
    who: u64,
}

impl<K: Copy + Eq + Hash> Lingering<K> {
    pub(super) fn new() -> Self {
        Self { strangers: HashMap::new(), connections: HashMap::new() }
    }

    /// One lingers, and keeps its place.
    pub(super) fn insert(&mut self, connection: K, place: Place, who: u64) {
        self.strangers.insert(connection, Stranger { place, who });
        self.connections.insert(who, connection);
    }

    /// A connection is gone: its place is free, if it had one.
    pub(super) fn remove(&mut self, connection: K, door: &mut Admission) {
        if let Some(Stranger { place, who }) = self.strangers.remove(&connection) {
            self.connections.remove(&who);
            door.leave(place, who);
        }
        if self.strangers.is_empty() {
            // A crowd's room is not kept.
            *self = Self::new();
        }
    }

    /// The connection of one whose place somebody else has got, if it lingers: it is to end at once.
    pub(super) fn displace(&mut self, who: u64) -> Option<K> {
        let connection = self.connections.remove(&who)?;
        self.strangers.remove(&connection);
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::shard::admission::{AdmissionLimits, Entry};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn who_lingers_keeps_a_place_until_it_is_gone_or_somebody_needs_it() {
        let now = Instant::now();
        let mut door = Admission::new(AdmissionLimits { places_max: 10, address_places_max: 2 });
        let mut lingering = Lingering::new();
        for who in [1_u64, 2] {
            let Entry::In(place) = door.enter(now, ADDRESS, who) else { panic!("there is room") };
            lingering.insert(who + 100, place, who);
        }
        assert_eq!(door.enter(now, ADDRESS, 3), Entry::Refused);
        lingering.remove(101, &mut door);
        lingering.remove(101, &mut door);
        assert_eq!((door.len(), lingering.displace(1)), (1, None));
        assert!(matches!(door.enter(now, ADDRESS, 3), Entry::In(_)));
        let later = now + Duration::from_secs(2);
        let Entry::Instead(_, other) = door.enter(later, ADDRESS, 4) else { panic!("2 dawdles") };
        assert_eq!((other, lingering.displace(other)), (2, Some(102)));
        // Its end frees nobody's place.
        lingering.remove(102, &mut door);
        assert_eq!(door.len(), 2);
    }
}
