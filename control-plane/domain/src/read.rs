//! How far a member has read a channel: a position that only moves on, and what is unread behind it.

use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::Position;

use crate::append::ChannelHead;

/// How far ahead of what is stored somebody may have read a windowed channel: its messages are delivered before they are stored.
const WINDOWED_AHEAD_MAX: u64 = 1 << 16;

/// Where a read position stands once a member has read up to and with `asked`: never behind `present`. `head` is the channel's; `None` if
/// nothing was ever stored there.
///
/// # Errors
/// [`Code::PositionAhead`] for what nobody can have read.
pub fn mark_read(
    present: Option<Position>,
    asked: Position,
    head: Option<&ChannelHead>,
) -> Result<Option<Position>, Refusal> {
    let present = present.map(|present| in_present_epoch(present, head));
    if asked.offset == 0 {
        return Ok(present);
    }
    let ahead = || Refusal::new(Code::PositionAhead, "the position is ahead of the channel");
    let head = head.ok_or_else(ahead)?;
    let newest = newest(head);
    let slack = match head.history {
        millrace_protocol::node::HistoryClass::Windowed => WINDOWED_AHEAD_MAX,
        _ => 0,
    };
    if asked.epoch > newest.epoch || asked.epoch == newest.epoch && asked.offset > newest.offset.saturating_add(slack) {
        return Err(ahead());
    }
    let asked = in_present_epoch(asked, Some(head));
    Ok(Some(present.map_or(asked, |present| further(present, asked))))
}

/// The further one of two read positions: a later epoch counts more than any offset.
pub fn further(one: Position, other: Position) -> Position {
    if (one.epoch, one.offset) >= (other.epoch, other.offset) { one } else { other }
}

/// The same place in the channel's present epoch. What was read of an older one and then lost is no message any more: others stand at
/// those offsets now.
pub fn in_present_epoch(read: Position, head: Option<&ChannelHead>) -> Position {
    match head {
        Some(head) if read.epoch < head.epoch => {
            Position { epoch: head.epoch, offset: read.offset.min(head.epoch_first_offset.get() - 1) }
        }
        _ => read,
    }
}

/// How many messages are stored behind a read position.
pub fn unread(read: Option<Position>, head: &ChannelHead) -> u64 {
    let read = read.map_or(0, |read| in_present_epoch(read, Some(head)).offset);
    newest(head).offset.saturating_sub(read)
}

/// The newest message that is stored; offset 0 if none is.
pub fn newest(head: &ChannelHead) -> Position {
    Position { epoch: head.epoch, offset: head.next_offset.get() - 1 }
}

/// A position in a record.
pub(crate) mod as_pair {
    use millrace_protocol::id::{Epoch, Position};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(read: &Option<Position>, to: S) -> Result<S::Ok, S::Error> {
        read.map(|read| (read.epoch.get(), read.offset)).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Position>, D::Error> {
        let Some((epoch, offset)) = Option::<(u32, u64)>::deserialize(from)? else { return Ok(None) };
        let epoch = Epoch::new(epoch).ok_or_else(|| D::Error::custom("epoch 0"))?;
        Ok(Some(Position { epoch, offset }))
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::id::{Epoch, Offset};
    use millrace_protocol::node::{HistoryClass, Role};
    use proptest::prelude::*;

    use super::*;
    use crate::Membership;

    fn at(epoch: u32, offset: u64) -> Position {
        Position { epoch: Epoch::new(epoch).unwrap(), offset }
    }

    /// A channel whose newest message is `offset`, in an epoch that began with `first`.
    fn head(history: HistoryClass, epoch: u32, first: u64, offset: u64) -> ChannelHead {
        ChannelHead {
            epoch: Epoch::new(epoch).unwrap(),
            epoch_first_offset: Offset::new(first).unwrap(),
            next_offset: Offset::new(offset + 1).unwrap(),
            ..ChannelHead::empty(history)
        }
    }

    #[test]
    fn a_mark_moves_on_and_never_back() {
        let durable = head(HistoryClass::Durable, 1, 1, 10);
        let check = |present: Option<Position>, asked, expect: Result<Option<Position>, Code>| {
            let found = mark_read(present, asked, Some(&durable)).map_err(|refusal| refusal.code);
            assert_eq!(found, expect, "{present:?} {asked:?}");
        };
        check(None, at(1, 0), Ok(None));
        check(None, at(9, 0), Ok(None));
        check(None, at(1, 1), Ok(Some(at(1, 1))));
        check(Some(at(1, 4)), at(1, 10), Ok(Some(at(1, 10))));
        check(Some(at(1, 4)), at(1, 4), Ok(Some(at(1, 4))));
        check(Some(at(1, 4)), at(1, 3), Ok(Some(at(1, 4))));
        check(Some(at(1, 4)), at(1, 11), Err(Code::PositionAhead));
        check(Some(at(1, 4)), at(1, u64::MAX), Err(Code::PositionAhead));
        check(Some(at(1, 4)), at(2, 1), Err(Code::PositionAhead));
        assert_eq!(mark_read(None, at(1, 1), None).unwrap_err().code, Code::PositionAhead);
        assert_eq!(mark_read(None, at(1, 0), None), Ok(None));
    }

    #[test]
    fn what_was_lost_counts_as_unread_again() {
        // Messages 8 to 10 of epoch 1 were delivered and lost; epoch 2 began with 8.
        let windowed = head(HistoryClass::Windowed, 2, 8, 12);
        assert_eq!(unread(Some(at(1, 10)), &windowed), 5);
        assert_eq!(unread(Some(at(1, 3)), &windowed), 9);
        assert_eq!(unread(Some(at(2, 12)), &windowed), 0);
        assert_eq!(unread(None, &windowed), 12);
        let mark = |present, asked| mark_read(present, asked, Some(&windowed)).map_err(|refusal| refusal.code);
        assert_eq!(mark(Some(at(1, 10)), at(2, 8)), Ok(Some(at(2, 8))));
        assert_eq!(mark(Some(at(1, 10)), at(1, 10)), Ok(Some(at(2, 7))));
        assert_eq!(mark(None, at(1, 10)), Ok(Some(at(2, 7))));
        // What is delivered before it is stored may have been read, within reason.
        assert_eq!(mark(None, at(2, 12 + WINDOWED_AHEAD_MAX)), Ok(Some(at(2, 12 + WINDOWED_AHEAD_MAX))));
        assert_eq!(mark(None, at(2, 13 + WINDOWED_AHEAD_MAX)), Err(Code::PositionAhead));
        assert_eq!(unread(Some(at(2, 20)), &windowed), 0);
    }

    #[test]
    fn a_record_keeps_it_and_older_records_have_none() {
        let read = |read| Membership { role: Role::Member, since_ms: 5, read };
        let check = |membership: Membership, json: &str| {
            assert_eq!(serde_json::to_string(&membership).unwrap(), json);
            assert_eq!(serde_json::from_str::<Membership>(json).unwrap(), membership);
        };
        check(read(None), r#"{"role":"member","since_ms":5}"#);
        check(read(Some(at(2, u64::MAX))), r#"{"role":"member","since_ms":5,"read":[2,18446744073709551615]}"#);
        assert!(serde_json::from_str::<Membership>(r#"{"role":"member","since_ms":5,"read":[0,1]}"#).is_err());
    }

    proptest! {
        /// Whatever is asked in whatever order, the position never goes back and never beyond what may be.
        #[test]
        fn marks_in_any_order_only_move_on(
            marks in prop::collection::vec((1..4u32, 0..30u64), 1..20),
            windowed: bool,
        ) {
            let history = if windowed { HistoryClass::Windowed } else { HistoryClass::Durable };
            let head = head(history, 2, 8, 20);
            let mut present = None;
            for (epoch, offset) in marks {
                let before = present;
                if let Ok(moved) = mark_read(present, at(epoch, offset), Some(&head)) {
                    present = moved;
                }
                let order = |read: Option<Position>| read.map(|read| (read.epoch, read.offset));
                prop_assert!(order(before) <= order(present));
                prop_assert!(unread(present, &head) <= unread(before, &head));
            }
        }
    }
}
