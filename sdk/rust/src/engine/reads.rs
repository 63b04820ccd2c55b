//! How far the user has read one channel, and how much is unread. The node tells where the position stands; marks of the application
//! count here at once, the furthest one waits until the node has stored it, and one at a time is on its way.

use std::time::Instant;

use millrace_protocol::id::Position;

use crate::event::Unread;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The newest message that is known; `None` before the first answer, and in a channel without history.
    newest: Option<Position>,
    /// Where the node says that the position stands.
    read: Option<Position>,
    /// The connection is new: what the node says next counts, whatever was known before.
    is_fresh: bool,
    /// The furthest that the application has marked and the node has not stored.
    wanted: Option<Position>,
    /// Another mark that is not stored, behind that one: it counts if the node refuses the furthest.
    nearer: Option<Position>,
    /// The mark that the node was asked to store, and since when.
    asked: Option<(Position, Instant)>,
    retry_at: Option<Instant>,
    /// What the application was told last.
    told: Option<Unread>,
}

impl Reads {
    /// The session is subscribed or attached; `head` is the newest message, if the channel keeps any.
    pub(crate) fn subscribed(&mut self, head: Option<Position>) {
        self.newest = head;
        self.is_fresh = true;
        if head.is_none() {
            *self = Self { told: self.told, ..Self::default() };
        }
    }

    /// There is a message at this position.
    pub(crate) fn seen(&mut self, position: Position) {
        if position.offset == 0 || self.newest.is_none_or(|newest| !is_behind(newest, position)) {
            return;
        }
        // Others stand now where messages of the old epoch were lost.
        for read in [&mut self.read, &mut self.wanted, &mut self.nearer].into_iter().flatten() {
            if read.epoch < position.epoch {
                *read = Position { epoch: position.epoch, offset: read.offset.min(position.offset - 1) };
            }
        }
        self.newest = Some(position);
    }

    /// The node says where the position stands.
    pub(crate) fn moved(&mut self, position: Position) {
        if std::mem::take(&mut self.is_fresh) || self.read.is_none_or(|read| is_behind(read, position)) {
            self.read = Some(position);
        }
        for mark in [&mut self.wanted, &mut self.nearer] {
            *mark = mark.filter(|mark| is_behind(position, *mark));
        }
    }

    /// The application has read so far.
    pub(crate) fn mark(&mut self, position: Position) {
        if position.offset == 0 || self.read.is_some_and(|read| !is_behind(read, position)) {
            return;
        }
        // A position that may be ahead of the channel takes no other with it when it is refused.
        let other = match self.wanted {
            Some(wanted) if is_behind(wanted, position) => self.wanted.replace(position),
            Some(wanted) => (wanted != position).then_some(position),
            None => self.wanted.replace(position),
        };
        if let Some(other) = other
            && self
                .nearer
                .is_none_or(|nearer| self.is_known(other) && (!self.is_known(nearer) || is_behind(nearer, other)))
        {
            self.nearer = Some(other);
        }
    }

    /// Whether a message is known to be there.
    fn is_known(&self, position: Position) -> bool {
        self.newest.is_some_and(|newest| !is_behind(newest, position))
    }

    /// The mark to send now. It is under way once [`Self::asked`] says so.
    pub(crate) fn due(&self, now: Instant) -> Option<Position> {
        let is_due = self.asked.is_none() && self.retry_at.is_none_or(|at| at <= now);
        self.wanted.filter(|_| is_due)
    }

    pub(crate) fn asked(&mut self, now: Instant, position: Position) {
        self.asked = Some((position, now));
        self.retry_at = None;
    }

    /// The node answered that it has stored the mark.
    pub(crate) fn answered(&mut self, position: Position) {
        self.asked = None;
        self.moved(position);
    }

    /// The node refused the mark: for good, or until a moment.
    pub(crate) fn refused(&mut self, retry_at: Option<Instant>) {
        let asked = self.asked.take().map(|(position, _)| position);
        self.retry_at = retry_at;
        if retry_at.is_none() && asked.is_some() {
            if self.wanted == asked {
                self.wanted = self.nearer.take();
            } else if self.nearer == asked {
                self.nearer = None;
            }
        }
    }

    /// Marks are of no use: the node does not know them, or the channel is gone.
    pub(crate) fn give_up(&mut self) {
        (self.wanted, self.nearer, self.asked, self.retry_at) = (None, None, None, None);
    }

    /// The connection is gone, or the session's place in the channel.
    pub(crate) fn disconnected(&mut self) {
        (self.asked, self.retry_at) = (None, None);
    }

    /// Whether a mark is not stored yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.wanted.is_some()
    }

    /// Since when a mark is under way.
    pub(crate) fn asked_at(&self) -> Option<Instant> {
        self.asked.map(|(_, at)| at)
    }

    /// When to look at [`Self::due`] again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.wanted.is_some())
    }

    /// What the application should know now, if it is not what it was told last.
    pub(crate) fn tell(&mut self) -> Option<Option<Unread>> {
        let now = self.unread();
        let is_news = now != self.told;
        self.told = now;
        is_news.then_some(now)
    }

    /// The same whether or not it is news.
    pub(crate) fn unread(&self) -> Option<Unread> {
        let (newest, read) = (self.newest?, self.read?);
        let read = match self.wanted {
            Some(wanted) if is_behind(read, wanted) => wanted,
            _ => read,
        };
        // A position of a later epoch than the newest message is behind no message that is known.
        let count = if is_behind(read, newest) { newest.offset.saturating_sub(read.offset) } else { 0 };
        Some(Unread { count, read, newest })
    }
}

/// A later epoch counts more than any offset; nothing is behind offset 0, which is no message.
fn is_behind(from: Position, to: Position) -> bool {
    to.offset > 0 && (from.offset == 0 || (from.epoch, from.offset) < (to.epoch, to.offset))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_protocol::id::Epoch;

    use super::*;

    fn at(epoch: u32, offset: u64) -> Position {
        Position { epoch: Epoch::new(epoch).unwrap(), offset }
    }

    fn reads(head: Position, read: Position) -> Reads {
        let mut reads = Reads::default();
        reads.subscribed(Some(head));
        reads.moved(read);
        reads
    }

    fn count(reads: &Reads) -> Option<u64> {
        reads.unread().map(|unread| unread.count)
    }

    #[test]
    fn a_count_is_known_once_the_node_has_told_both() {
        let mut reads = Reads::default();
        assert_eq!(count(&reads), None);
        reads.subscribed(Some(at(1, 9)));
        assert_eq!((count(&reads), reads.tell()), (None, None));
        reads.moved(at(1, 0));
        assert_eq!(count(&reads), Some(9), "nothing was read yet");
        assert!(reads.tell().is_some_and(|unread| unread.is_some()));
        reads.seen(at(1, 10));
        reads.seen(at(1, 10));
        reads.seen(at(1, 0));
        assert_eq!(count(&reads), Some(10));
        assert!(reads.tell().is_some());
        assert_eq!(reads.tell(), None, "told once");
        reads.subscribed(None);
        assert_eq!((count(&reads), reads.tell()), (None, Some(None)), "it keeps nothing now");
    }

    #[test]
    fn the_furthest_mark_counts_at_once_and_goes_alone() {
        let now = Instant::now();
        let mut reads = reads(at(1, 9), at(1, 2));
        for offset in [4, 6, 5, 1, 0] {
            reads.mark(at(1, offset));
        }
        assert_eq!((count(&reads), reads.due(now)), (Some(3), Some(at(1, 6))));
        reads.asked(now, at(1, 6));
        reads.mark(at(1, 8));
        assert_eq!((reads.due(now), reads.is_pending()), (None, true), "one at a time");
        reads.answered(at(1, 6));
        assert_eq!((reads.due(now), count(&reads)), (Some(at(1, 8)), Some(1)));
        reads.asked(now, at(1, 8));
        reads.disconnected();
        assert_eq!(reads.due(now), Some(at(1, 8)), "it is sent again on the next connection");
        reads.subscribed(Some(at(1, 9)));
        reads.moved(at(1, 6));
        assert_eq!(count(&reads), Some(1));
        reads.moved(at(1, 9));
        assert_eq!(
            (reads.due(now), reads.is_pending(), count(&reads)),
            (None, false, Some(0)),
            "another device was further"
        );
        reads.moved(at(1, 7));
        assert_eq!(count(&reads), Some(0), "never back");
    }

    #[test]
    fn a_refusal_is_for_good_or_for_a_while() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut reads = reads(at(1, 9), at(1, 2));
        reads.mark(at(1, 5));
        reads.asked(now, at(1, 5));
        reads.refused(Some(later));
        assert_eq!((reads.due(now), reads.retry_at(), reads.due(later)), (None, Some(later), Some(at(1, 5))));
        reads.asked(later, at(1, 5));
        reads.refused(None);
        assert_eq!((reads.is_pending(), count(&reads)), (false, Some(7)), "what the node says is what counts");
        reads.mark(at(1, 50));
        reads.asked(later, at(1, 50));
        reads.mark(at(1, 60));
        reads.refused(None);
        assert_eq!(reads.due(later), Some(at(1, 60)), "another mark has its own answer");
    }

    #[test]
    fn a_mark_ahead_takes_no_other_with_it() {
        let now = Instant::now();
        let check = |marks: &[u64], expect: &[u64]| {
            let mut reads = reads(at(1, 9), at(1, 2));
            for mark in marks {
                reads.mark(at(1, *mark));
            }
            let mut asked = Vec::new();
            while let Some(mark) = reads.due(now) {
                asked.push(mark.offset);
                reads.asked(now, mark);
                if mark.offset > 9 { reads.refused(None) } else { reads.answered(mark) }
            }
            assert_eq!((asked.as_slice(), reads.is_pending()), (expect, false), "{marks:?}");
        };
        check(&[5, 50], &[50, 5]);
        check(&[50, 5], &[50, 5]);
        check(&[5, 50, 60], &[60, 5]);
        check(&[50, 60, 5, 4, 7, 7], &[60, 7]);
        check(&[60, 5, 4, 7, 50], &[60, 7]);
        check(&[5, 7], &[7]);
        // One under way that is refused beside one that waits.
        let mut reads = reads(at(1, 9), at(1, 2));
        reads.mark(at(1, 20));
        reads.asked(now, at(1, 20));
        reads.mark(at(1, 30));
        reads.refused(None);
        assert_eq!(reads.due(now), Some(at(1, 30)));
        reads.asked(now, at(1, 30));
        reads.refused(None);
        assert_eq!((reads.is_pending(), count(&reads)), (false, Some(7)));
    }

    #[test]
    fn a_node_that_is_busy_is_left_alone_however_much_is_read() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut reads = reads(at(1, 9), at(1, 2));
        reads.mark(at(1, 5));
        reads.asked(now, at(1, 5));
        reads.refused(Some(later));
        reads.mark(at(1, 6));
        assert_eq!((reads.due(now), reads.retry_at(), reads.due(later)), (None, Some(later), Some(at(1, 6))));
    }

    #[test]
    fn what_was_lost_with_an_epoch_is_unread_again() {
        let mut reads = reads(at(1, 10), at(1, 10));
        reads.seen(at(2, 8));
        assert_eq!(reads.unread(), Some(Unread { count: 1, read: at(2, 7), newest: at(2, 8) }));
        reads.mark(at(2, 8));
        assert_eq!(count(&reads), Some(0));
        reads.mark(at(3, 2));
        assert_eq!(count(&reads), Some(0), "of an epoch of which no message is known yet");
        // The node may know less than before: what it says on a new connection counts.
        reads.give_up();
        reads.subscribed(Some(at(2, 9)));
        reads.moved(at(2, 3));
        assert_eq!(count(&reads), Some(6));
    }
}
