//! A stored message.
//!
//! Shape after the version: epoch (4), time in ms (8), producer (8), sequence (8), length of the user (1), user, body to the end; integers
//! big-endian. The offset is in the key.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millrace_protocol::id::{Epoch, Offset, Producer, ProducerSequence, UserId};
use millrace_protocol::node::{NewMessage, StoredMessage};

const VERSION: u8 = 1;
/// Bytes of a record beside user and body.
pub(crate) const OVERHEAD_BYTES: usize = 1 + 4 + 8 + 8 + 8 + 1;

/// The bytes of a message.
pub(crate) fn encode(epoch: Epoch, message: &NewMessage) -> Bytes {
    let user = message.user.as_str().as_bytes();
    let mut bytes = BytesMut::with_capacity(OVERHEAD_BYTES + user.len() + message.body.len());
    bytes.put_u8(VERSION);
    bytes.put_u32(epoch.get());
    bytes.put_i64(message.time_ms);
    bytes.put_u64(message.producer.get());
    bytes.put_u64(message.sequence.get());
    bytes.put_u8(u8::try_from(user.len()).expect("names are at most 128 bytes"));
    bytes.put_slice(user);
    bytes.put_slice(&message.body);
    bytes.freeze()
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
        let bytes = encode(Epoch::new(258).unwrap(), &message);
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
            let again = decode(stored.offset, encode(stored.epoch, &stored.message));
            prop_assert_eq!(again, Some(stored));
        }

        #[test]
        fn garbage_is_no_message_or_one_that_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..80), version: bool) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (version, bytes.first_mut()) {
                *first = VERSION;
            }
            if let Some(stored) = decode(Offset::FIRST, bytes.clone().into()) {
                prop_assert_eq!(&encode(stored.epoch, &stored.message)[..], &bytes[..]);
            }
        }
    }
}
