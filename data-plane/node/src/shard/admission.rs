//! Who may be at the door: connections that have not signed in, of every transport, in one count. Pure: the shell ends whom it names.
//!
//! Each has a place from its first packet to the welcome. Places are bounded, in all and for each address (an IPv4 address, or the
//! first half of an IPv6 address, of which one customer has all others). When there is none left, whoever dawdles longest gives theirs
//! up: honest clients take milliseconds, and get through a crowd that says nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use slab::Slab;

/// Who is younger than this does not dawdle.
const DAWDLES_AFTER: Duration = Duration::from_secs(1);

/// Bounds of a shard. A place takes about 64 bytes, an address about 48.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections that have not signed in. Default 8,192.
    pub places_max: u32,
    /// Of one address. Default 1,024; `u32::MAX` behind a proxy, whose address all connections have.
    pub address_places_max: u32,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { places_max: 8_192, address_places_max: 1_024 }
    }
}

/// A place that is taken. Only good together with who took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

/// What became of one who knocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// There was a place.
    In(Place),
    /// There is one now; the shell ends this other one, who has none any more.
    Instead(Place, u64),
    /// None, and nobody dawdles.
    Refused,
}

/// Places at the door of a shard.
pub(crate) struct Admission {
    places: Slab<Taken>,
    all: Line,
    addresses: HashMap<Address, Crowd>,
    limits: AdmissionLimits,
}

/// The unit that is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    V4(u32),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or(0)),
        }
    }
}

#[derive(Debug)]
struct Taken {
    /// As the shell calls them.
    who: u64,
    since: Instant,
    address: Address,
    of_all: Link,
    of_address: Link,
}

#[derive(Debug, Default)]
struct Crowd {
    places: u32,
    line: Line,
}

/// The longest waiting first.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Link {
    before: Option<usize>,
    behind: Option<usize>,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self { places: Slab::new(), all: Line::default(), addresses: HashMap::new(), limits }
    }

    /// How many have not signed in.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Somebody knocks, whom the shell calls `who`.
    pub(crate) fn enter(&mut self, now: Instant, address: IpAddr, who: u64) -> Entry {
        let address = Address::from(address);
        let crowd = self.addresses.get(&address);
        let longest = if crowd.is_some_and(|crowd| crowd.places >= self.limits.address_places_max) {
            crowd.and_then(|crowd| crowd.line.first)
        } else if self.places.len() >= self.limits.places_max as usize {
            self.all.first
        } else {
            return Entry::In(self.take(now, address, who));
        };
        let dawdles = longest.filter(|&place| now.saturating_duration_since(self.places[place].since) >= DAWDLES_AFTER);
        match dawdles {
            None => Entry::Refused,
            Some(place) => {
                let other = self.remove(place);
                Entry::Instead(self.take(now, address, who), other)
            }
        }
    }

    /// They have signed in, or are gone. Harmless for who has had to give up their place.
    pub(crate) fn leave(&mut self, place: Place, who: u64) {
        let key = place.0.get() as usize - 1;
        if self.places.get(key).is_some_and(|taken| taken.who == who) {
            self.remove(key);
        }
    }

    /// The shell calls whom it called `who` otherwise from now on.
    pub(crate) fn rename(&mut self, place: Place, who: u64, to: u64) {
        let key = place.0.get() as usize - 1;
        if let Some(taken) = self.places.get_mut(key).filter(|taken| taken.who == who) {
            taken.who = to;
        }
    }

    fn take(&mut self, now: Instant, address: Address, who: u64) -> Place {
        let links = (Link::default(), Link::default());
        let key = self.places.insert(Taken { who, since: now, address, of_all: links.0, of_address: links.1 });
        let crowd = self.addresses.entry(address).or_default();
        crowd.places += 1;
        append(&mut self.places, &mut self.all, key, |taken| &mut taken.of_all);
        append(&mut self.places, &mut crowd.line, key, |taken| &mut taken.of_address);
        let number = u32::try_from(key + 1).ok().and_then(NonZeroU32::new);
        Place(number.expect("places are bounded far below 2^32"))
    }

    fn remove(&mut self, key: usize) -> u64 {
        unlink(&mut self.places, &mut self.all, key, |taken| &mut taken.of_all);
        let address = self.places[key].address;
        if let Some(crowd) = self.addresses.get_mut(&address) {
            unlink(&mut self.places, &mut crowd.line, key, |taken| &mut taken.of_address);
            crowd.places -= 1;
            if crowd.places == 0 {
                self.addresses.remove(&address);
            }
        }
        self.places.remove(key).who
    }
}

fn append(places: &mut Slab<Taken>, line: &mut Line, key: usize, link: fn(&mut Taken) -> &mut Link) {
    link(&mut places[key]).before = line.last;
    match line.last {
        None => line.first = Some(key),
        Some(last) => link(&mut places[last]).behind = Some(key),
    }
    line.last = Some(key);
}

fn unlink(places: &mut Slab<Taken>, line: &mut Line, key: usize, link: fn(&mut Taken) -> &mut Link) {
    let Link { before, behind } = *link(&mut places[key]);
    match before {
        None => line.first = behind,
        Some(before) => link(&mut places[before]).behind = behind,
    }
    match behind {
        None => line.last = before,
        Some(behind) => link(&mut places[behind]).before = before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn admission(places_max: u32, address_places_max: u32) -> Admission {
        Admission::new(AdmissionLimits { places_max, address_places_max })
    }

    fn entered(entry: Entry) -> Place {
        match entry {
            Entry::In(place) | Entry::Instead(place, _) => place,
            Entry::Refused => panic!("refused"),
        }
    }

    #[test]
    fn addresses_are_counted_as_their_owners_have_them() {
        let check = |one: &str, other: &str, same: bool| {
            assert_eq!(Address::from(ip(one)) == Address::from(ip(other)), same, "{one} {other}");
        };
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true);
        check("2001:db8:1:2::1", "2001:db8:1:3::1", false);
    }

    #[test]
    fn who_dawdles_makes_room_and_nobody_else() {
        let now = Instant::now();
        let mut admission = admission(100, 2);
        let first = entered(admission.enter(now, ip("192.0.2.1"), 1));
        assert!(matches!(admission.enter(now, ip("192.0.2.1"), 2), Entry::In(_)));
        assert_eq!(admission.enter(now, ip("192.0.2.1"), 3), Entry::Refused, "both are young");
        assert!(matches!(admission.enter(now, ip("192.0.2.2"), 4), Entry::In(_)), "another address");
        let later = now + DAWDLES_AFTER;
        let Entry::Instead(place, 1) = admission.enter(later, ip("192.0.2.1"), 5) else { panic!("1 was the first") };
        admission.leave(first, 1);
        assert_eq!(admission.len(), 3, "1 has no place to give back");
        admission.leave(place, 5);
        assert!(matches!(admission.enter(later, ip("192.0.2.1"), 6), Entry::In(_)));
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let now = Instant::now();
        let mut admission = admission(3, 2);
        for (who, address) in ["192.0.2.1", "192.0.2.2", "2001:db8::1"].into_iter().enumerate() {
            assert!(matches!(admission.enter(now, ip(address), who as u64), Entry::In(_)));
        }
        assert_eq!(admission.enter(now, ip("192.0.2.9"), 9), Entry::Refused);
        let later = now + DAWDLES_AFTER;
        assert!(matches!(admission.enter(later, ip("192.0.2.9"), 9), Entry::Instead(_, 0)));
        assert_eq!(admission.addresses.len(), 3);
    }

    /// Against the obvious model: a list of who came when.
    #[test]
    fn it_does_what_a_list_would_do() {
        let mut random = 1_u64;
        let mut below = move |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        let mut now = Instant::now();
        let mut admission = admission(6, 3);
        let mut model: Vec<(u64, u64, Instant, Place)> = Vec::new();
        for who in 0..5_000 {
            now += Duration::from_millis(below(400));
            if below(3) == 0 && !model.is_empty() {
                let (gone, _, _, place) = model.remove(usize::try_from(below(model.len() as u64)).expect("small"));
                admission.leave(place, gone);
            } else {
                let address = below(4);
                let of_address: Vec<_> = model.iter().filter(|one| one.1 == address).collect();
                let full = of_address.len() >= 3 || model.len() >= 6;
                let longest = if of_address.len() >= 3 { of_address.first().copied() } else { model.first() };
                let dawdler = longest.filter(|one| now - one.2 >= DAWDLES_AFTER).map(|one| one.0);
                let entry = admission.enter(now, IpAddr::from([10, 0, 0, u8::try_from(address).expect("small")]), who);
                match (full, dawdler, entry) {
                    (false, _, Entry::In(place)) => model.push((who, address, now, place)),
                    (true, None, Entry::Refused) => {}
                    (true, Some(one), Entry::Instead(place, other)) if one == other => {
                        model.retain(|of| of.0 != other);
                        model.push((who, address, now, place));
                    }
                    unexpected => panic!("{unexpected:?}"),
                }
            }
            assert_eq!(admission.len(), model.len());
        }
        for (who, _, _, place) in model {
            admission.leave(place, who);
        }
        assert_eq!((admission.len(), admission.addresses.len()), (0, 0));
        assert!(admission.all.first.is_none() && admission.all.last.is_none());
    }
}
