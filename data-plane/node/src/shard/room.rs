//! Room for unfinished input: requests, records and frames of which a part has come. Shared by the connections of a shard.
//!
//! Strangers and those who have signed in have a half each, so that neither can take it from the other. Within a half nobody holds more
//! than the others leave free: who holds much is the first to find no room, and whose hello comes in two pieces finds some
//! whatever others hold.

/// Bytes of unfinished input, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputRoom {
    strangers_bytes: usize,
    sessions_bytes: usize,
    /// Of each half.
    half_bytes: usize,
}

/// What a connection counts for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) bytes: usize,
    as_session: bool,
}

impl InputRoom {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { strangers_bytes: 0, sessions_bytes: 0, half_bytes: bytes_max / 2 }
    }

    /// Bytes of all.
    pub(super) fn taken_bytes(&self) -> usize {
        self.strangers_bytes + self.sessions_bytes
    }

    /// Counts so many bytes in place of those before, for one who is a session now or not; whether there is room for more of them.
    pub(super) fn count(&mut self, held: &mut Held, bytes: usize, is_session: bool) -> bool {
        let grows = bytes > held.bytes;
        self.give_back(held);
        let half_bytes = self.half_bytes;
        let taken = if is_session { &mut self.sessions_bytes } else { &mut self.strangers_bytes };
        let free = half_bytes.saturating_sub(*taken);
        *taken += bytes;
        *held = Held { bytes, as_session: is_session };
        !grows || bytes <= free / 2
    }

    /// The connection is gone.
    pub(super) fn give_back(&mut self, held: &mut Held) {
        let taken = if held.as_session { &mut self.sessions_bytes } else { &mut self.strangers_bytes };
        *taken -= held.bytes;
        held.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hundreds of sessions with the beginnings of the largest frames leave room for those who hold little.
    #[test]
    fn who_holds_much_is_the_first_to_find_no_room() {
        const FRAME: usize = 256 << 10;
        let mut room = InputRoom::new(64 << 20);
        let mut hogs = Vec::new();
        let mut refused = 0;
        for _ in 0..300 {
            let mut hog = Held::default();
            if room.count(&mut hog, FRAME, true) {
                hogs.push(hog);
            } else {
                refused += 1;
                room.give_back(&mut hog);
            }
        }
        assert!(refused > 0 && hogs.len() > 100, "{} of 300", hogs.len());
        assert!(room.taken_bytes() <= 32 << 20);
        for _ in 0..100 {
            assert!(room.count(&mut Held::default(), 2 << 10, true), "a small one finds room");
        }
        assert!(room.count(&mut Held::default(), FRAME, false), "strangers have room of their own");
    }

    #[test]
    fn what_is_counted_is_given_back_where_it_was() {
        let mut room = InputRoom::new(1 << 20);
        let (mut one, mut other) = (Held::default(), Held::default());
        assert!(room.count(&mut one, 1_000, false));
        assert!(room.count(&mut other, 500, false));
        // It has signed in meanwhile.
        assert!(room.count(&mut one, 3_000, true));
        assert_eq!((room.strangers_bytes, room.sessions_bytes), (500, 3_000));
        assert!(room.count(&mut one, 0, true));
        room.give_back(&mut other);
        room.give_back(&mut one);
        assert_eq!(room.taken_bytes(), 0);
    }
}
