//! The connections of a shard, a few together in one piece of memory. One alone is 6.3 KiB, for which the allocator's next size is 7: a ninth
//! of it would be nobody's.

use super::connection::Connection;

/// Connections in one piece: so many fill 56 KiB, which the allocator has a size for, but for some bytes each.
const PIECE: usize = 9;

/// By their index. Indices of connections that are gone come again first, so pieces fill up.
#[derive(Default)]
pub(super) struct Connections {
    pieces: Vec<Piece>,
}

/// Without memory while it has no connection.
#[derive(Default)]
struct Piece {
    taken: usize,
    places: Box<[Option<Connection>]>,
}

fn place(index: u32) -> (usize, usize) {
    (index as usize / PIECE, index as usize % PIECE)
}

impl Connections {
    pub(super) fn get(&self, index: u32) -> Option<&Connection> {
        let (piece, place) = place(index);
        self.pieces.get(piece)?.places.get(place)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        let (piece, place) = place(index);
        self.pieces.get_mut(piece)?.places.get_mut(place)?.as_mut()
    }

    /// Puts one in at an index that has none.
    pub(super) fn insert(&mut self, index: u32, connection: Connection) {
        let (piece, place) = place(index);
        if self.pieces.len() <= piece {
            self.pieces.resize_with(piece + 1, Piece::default);
        }
        let piece = &mut self.pieces[piece];
        if piece.places.is_empty() {
            piece.places = std::iter::repeat_with(|| None).take(PIECE).collect();
        }
        let before = piece.places[place].replace(connection);
        debug_assert!(before.is_none(), "an index is given to one connection at a time");
        piece.taken += usize::from(before.is_none());
    }

    /// Drops the one at an index, if there is one.
    pub(super) fn remove(&mut self, index: u32) {
        let (piece, place) = place(index);
        let Some(piece) = self.pieces.get_mut(piece) else { return };
        let Some(slot) = piece.places.get_mut(place).filter(|slot| slot.is_some()) else { return };
        *slot = None;
        piece.taken -= 1;
        if piece.taken == 0 {
            piece.places = Box::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Just above 56 KiB the allocator's next size is 64.
    #[test]
    fn a_piece_fills_what_the_allocator_has_a_size_for() {
        let bytes = PIECE * size_of::<Option<Connection>>();
        assert!((54 << 10..=56 << 10).contains(&bytes), "{bytes} bytes in a piece of {PIECE}");
    }
}
