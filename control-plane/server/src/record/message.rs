//! A stored message.
//!
//! Shape after the version: epoch (4), time in ms (8), producer (8), sequence (8), length of the user (1), user, body to the end; integers
//! big-endian. The offset is in the key.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millrace_protocol::id::{ChannelId, Epoch, Offset, Producer, ProducerSequence, UserId};
use millrace_protocol::node::{History, HistoryRange, NewMessage, ReadHistory, StoredMessage};
use millrace_store::{Direction, StoreError, Transaction};

use super::{head, key};

/// Most messages of a page.
pub(crate) const PAGE_MESSAGES_MAX: u32 = 1000;
/// Most bytes of payload of a page, its first message aside.
pub(crate) const PAGE_BYTES_MAX: u32 = 4 << 20;
/// Rows that one scan reads, so that a page of large messages does not read much more than it returns.
const SCAN_ROWS: u64 = 64;

const VERSION: u8 = 1;
/// Bytes of a record beside user and body.
const OVERHEAD_BYTES: usize = 1 + 4 + 8 + 8 + 8 + 1;

/// The bytes of a message, cut off an empty buffer.
pub(crate) fn encode(bytes: &mut BytesMut, epoch: Epoch, message: &NewMessage) -> Bytes {
    let user = message.user.as_str().as_bytes();
    bytes.reserve(OVERHEAD_BYTES + user.len() + message.body.len());
    bytes.put_u8(VERSION);
    bytes.put_u32(epoch.get());
    bytes.put_i64(message.time_ms);
    bytes.put_u64(message.producer.get());
    bytes.put_u64(message.sequence.get());
    bytes.put_u8(u8::try_from(user.len()).expect("names are at most 128 bytes"));
    bytes.put_slice(user);
    bytes.put_slice(&message.body);
    bytes.split().freeze()
}

/// The message that `bytes` are, at `offset`; its body shares them. `None` if they are none.
pub(crate) fn decode(offset: Offset, mut bytes: Bytes) -> Option<StoredMessage> {
    if bytes.len() < OVERHEAD_BYTES || bytes.get_u8() != VERSION {
        return None;
    }
    let epoch = Epoch::new(bytes.get_u32())?;
    let time_ms = bytes.get_i64();
    let producer = Producer::new(bytes.get_u64())?;
    let sequence = ProducerSequence::new(bytes.get_u64())?;
    let user_bytes = usize::from(bytes.get_u8());
    if bytes.len() < user_bytes {
        return None;
    }
    let user = bytes.split_to(user_bytes);
    let user = UserId::new(std::str::from_utf8(&user).ok()?).ok()?;
    Some(StoredMessage { epoch, offset, message: NewMessage { user, producer, sequence, time_ms, body: bytes } })
}

/// One message.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    offset: Offset,
) -> Result<Option<StoredMessage>, StoreError> {
    let Some(value) = transaction.get(&key::message(channel, offset)).await? else { return Ok(None) };
    decode(offset, value).map(Some).ok_or_else(|| damaged(channel, offset))
}

fn damaged(channel: ChannelId, offset: Offset) -> StoreError {
    StoreError::Damaged(format!("message {offset} of channel {channel} is missing or cannot be read"))
}

/// A page of a channel's history: empty for a channel without one. Offsets are dense, so it touches no more keys than it may return.
///
/// # Errors
/// The store's; [`StoreError::Damaged`] if a message between first and next offset is missing.
pub(crate) async fn page(transaction: &mut dyn Transaction, read: &ReadHistory) -> Result<History, StoreError> {
    let channel = read.channel;
    let mut page = History { channel, messages: Vec::new(), more: false };
    let Some(head) = head::get(transaction, channel).await? else { return Ok(page) };
    let (first, next) = (head.first_offset.get(), head.next_offset.get());
    let (direction, from, to) = match read.range {
        HistoryRange::Newest => (Direction::Backward, first, next),
        HistoryRange::Before(offset) => (Direction::Backward, first, next.min(offset.get())),
        HistoryRange::After(offset) => (Direction::Forward, first.max(offset.saturating_add(1)), next),
    };
    let messages_max = usize::try_from(read.messages_max.clamp(1, PAGE_MESSAGES_MAX)).unwrap_or(usize::MAX);
    let bytes_max = usize::try_from(read.bytes_max.min(PAGE_BYTES_MAX)).unwrap_or(usize::MAX);
    let mut bytes = 0;
    // What is left to read, half-open; it shrinks from the end that the direction begins at.
    let (mut from, mut to) = (from, to);
    'page: while from < to && page.messages.len() < messages_max {
        let left = (messages_max - page.messages.len()) as u64;
        let rows = (to - from).min(left).min(SCAN_ROWS);
        let part = match direction {
            Direction::Forward => from..from + rows,
            Direction::Backward => to - rows..to,
        };
        let offset = |number| Offset::new(number).unwrap_or(Offset::FIRST);
        let range = key::messages(channel, offset(part.start), offset(part.end));
        let found = transaction.scan(range, direction, u32::try_from(rows).unwrap_or(u32::MAX)).await?;
        for at in 0..rows {
            let expected = match direction {
                Direction::Forward => offset(part.start + at),
                Direction::Backward => offset(part.end - 1 - at),
            };
            let row = usize::try_from(at).ok().and_then(|at| found.get(at));
            let row = row.filter(|(row, _)| key::offset_at_end(row) == Some(expected));
            let message = row.and_then(|(_, value)| decode(expected, value.clone()));
            let message = message.ok_or_else(|| damaged(channel, expected))?;
            bytes += message.message.body.len();
            if bytes > bytes_max && !page.messages.is_empty() {
                break 'page;
            }
            page.messages.push(Arc::new(message));
            match direction {
                Direction::Forward => from += 1,
                Direction::Backward => to -= 1,
            }
        }
    }
    page.more = from < to;
    if direction == Direction::Backward {
        page.messages.reverse();
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_stay() {
        let message = NewMessage {
            user: UserId::new("ann").unwrap(),
            producer: Producer::new(2).unwrap(),
            sequence: ProducerSequence::new(3).unwrap(),
            time_ms: -1,
            body: Bytes::from_static(b"hi"),
        };
        let bytes = encode(&mut BytesMut::new(), Epoch::new(258).unwrap(), &message);
        let expect = b"\x01\0\0\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\x03annhi";
        assert_eq!(&bytes[..], expect);
        for cut in 0..bytes.len() - 2 {
            assert_eq!(decode(Offset::FIRST, bytes.slice(..cut)), None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn a_message_comes_back(
            (epoch, offset, producer, sequence) in (1..=u32::MAX, 1..=u64::MAX, 1..=u64::MAX, 1..=u64::MAX),
            time_ms in any::<i64>(),
            user in "[a-zA-Z0-9ß世@~.:-]{1,40}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let message = NewMessage {
                user: UserId::new(&user).unwrap(),
                producer: Producer::new(producer).unwrap(),
                sequence: ProducerSequence::new(sequence).unwrap(),
                time_ms,
                body: body.into(),
            };
            let stored = StoredMessage { epoch: Epoch::new(epoch).unwrap(), offset: Offset::new(offset).unwrap(), message };
            let again = decode(stored.offset, encode(&mut BytesMut::new(), stored.epoch, &stored.message));
            prop_assert_eq!(again, Some(stored));
        }

        #[test]
        fn garbage_is_no_message_or_one_that_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..80), version: bool) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (version, bytes.first_mut()) {
                *first = VERSION;
            }
            if let Some(stored) = decode(Offset::FIRST, bytes.clone().into()) {
                prop_assert_eq!(&encode(&mut BytesMut::new(), stored.epoch, &stored.message)[..], &bytes[..]);
            }
        }
    }
}
