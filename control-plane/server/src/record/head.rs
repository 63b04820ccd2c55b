//! The head of a channel.
//!
//! Shape after the version: epoch (4), next offset (8), first offset (8), first offset of the epoch (8), term (8), history (1), home (1); integers
//! big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millrace_domain::append::{ChannelHead, HomeState};
use millrace_protocol::id::{ChannelId, Epoch, Offset, Term};
use millrace_protocol::node::HistoryClass;
use millrace_store::{Direction, KeyRange, StoreError, Transaction};

use super::key;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 4 + 4 * 8 + 2;

/// The head of a channel; `None` if no home has opened it yet.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
) -> Result<Option<ChannelHead>, StoreError> {
    get_at(transaction, channel, &key::head(channel)).await
}

/// The head of a channel as it stands now. It may change before the commit, which does not mind: every append writes it.
pub(crate) async fn peek(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
) -> Result<Option<ChannelHead>, StoreError> {
    let start = key::head(channel);
    let end = [&start[..], &[0]].concat().into();
    let rows = transaction.scan(KeyRange { start, end }, Direction::Forward, 1).await?;
    let head = |value: &[u8]| decode(value).ok_or_else(|| StoreError::Damaged(format!("head of channel {channel}")));
    rows.first().map(|(_, value)| head(value)).transpose()
}

/// The head of a channel whose key is known.
pub(crate) async fn get_at(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    key: &[u8],
) -> Result<Option<ChannelHead>, StoreError> {
    let Some(value) = transaction.get(key).await? else { return Ok(None) };
    decode(&value).map(Some).ok_or_else(|| StoreError::Damaged(format!("head of channel {channel}")))
}

/// The bytes of a head, cut off an empty buffer.
pub(crate) fn encode(bytes: &mut BytesMut, head: &ChannelHead) -> Bytes {
    bytes.reserve(BYTES);
    bytes.put_u8(VERSION);
    bytes.put_u32(head.epoch.get());
    bytes.put_u64(head.next_offset.get());
    bytes.put_u64(head.first_offset.get());
    bytes.put_u64(head.epoch_first_offset.get());
    bytes.put_u64(head.term.0);
    bytes.put_u8(match head.history {
        HistoryClass::Durable => 0,
        HistoryClass::Windowed => 1,
        HistoryClass::None => 2,
    });
    bytes.put_u8(match head.home {
        HomeState::Closed => 0,
        HomeState::Open => 1,
    });
    bytes.split().freeze()
}

/// The head that `bytes` are; `None` if they are none.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<ChannelHead> {
    if bytes.len() != BYTES || bytes.get_u8() != VERSION {
        return None;
    }
    Some(ChannelHead {
        epoch: Epoch::new(bytes.get_u32())?,
        next_offset: Offset::new(bytes.get_u64())?,
        first_offset: Offset::new(bytes.get_u64())?,
        epoch_first_offset: Offset::new(bytes.get_u64())?,
        term: Term(bytes.get_u64()),
        history: match bytes.get_u8() {
            0 => HistoryClass::Durable,
            1 => HistoryClass::Windowed,
            2 => HistoryClass::None,
            _ => return None,
        },
        home: match bytes.get_u8() {
            0 => HomeState::Closed,
            1 => HomeState::Open,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_stay() {
        let head = ChannelHead { term: Term(7), home: HomeState::Open, ..ChannelHead::empty(HistoryClass::Windowed) };
        let expect = b"\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x07\x01\x01";
        assert_eq!(&encode(&mut BytesMut::new(), &head)[..], expect);
    }

    proptest! {
        #[test]
        fn a_head_comes_back(
            (epoch, next, first, epoch_first) in (1..=u32::MAX, 1..=u64::MAX, 1..=u64::MAX, 1..=u64::MAX),
            term: u64,
            history in prop::sample::select(vec![HistoryClass::Durable, HistoryClass::Windowed, HistoryClass::None]),
            home in prop::sample::select(vec![HomeState::Open, HomeState::Closed]),
        ) {
            let offset = |number| Offset::new(number).unwrap();
            let head = ChannelHead {
                epoch: Epoch::new(epoch).unwrap(),
                next_offset: offset(next),
                first_offset: offset(first),
                epoch_first_offset: offset(epoch_first),
                history,
                term: Term(term),
                home,
            };
            prop_assert_eq!(decode(&encode(&mut BytesMut::new(), &head)), Some(head));
        }

        #[test]
        fn garbage_is_no_head_or_one_that_comes_back(
            bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..60), prop::collection::vec(0..3u8, BYTES)],
        ) {
            if let Some(head) = decode(&bytes) {
                prop_assert_eq!(&encode(&mut BytesMut::new(), &head)[..], &bytes[..]);
            }
        }
    }
}
