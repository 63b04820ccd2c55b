//! What is known of a producer on a channel. A record that expires: the sweep deletes one that nobody used for
//! [`LIFE_MS`], and an append of the same producer begins with 1 again.
//!
//! Shape after the version: end of its life in Unix ms (8), number of runs (1), then for each run first sequence (8), first offset (8) and count (4);
//! integers big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millrace_domain::append::{ProducerRow, Run};
use millrace_protocol::id::{Offset, ProducerSequence};

const VERSION: u8 = 1;
const RUN_BYTES: usize = 8 + 8 + 4;

/// How long a row outlives its producer's last message: 7 days.
pub(crate) const LIFE_MS: i64 = 7 * 24 * 3600 * 1000;

/// The bytes of a row, cut off an empty buffer.
pub(crate) fn encode(bytes: &mut BytesMut, row: &ProducerRow, expires_at_ms: i64) -> Bytes {
    let runs = row.runs();
    bytes.reserve(1 + 8 + 1 + runs.len() * RUN_BYTES);
    bytes.put_u8(VERSION);
    bytes.put_i64(expires_at_ms);
    bytes.put_u8(u8::try_from(runs.len()).expect("a row has at most 8 runs"));
    for run in runs {
        bytes.put_u64(run.sequence.get());
        bytes.put_u64(run.offset.get());
        bytes.put_u32(run.count);
    }
    bytes.split().freeze()
}

/// The row that `bytes` are and the end of its life; `None` if they are none.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<(ProducerRow, i64)> {
    if bytes.len() < 10 || bytes.get_u8() != VERSION {
        return None;
    }
    let expires_at_ms = bytes.get_i64();
    let count = usize::from(bytes.get_u8());
    if bytes.len() != count * RUN_BYTES {
        return None;
    }
    let runs = (0..count).map(|_| {
        let sequence = ProducerSequence::new(bytes.get_u64());
        let offset = Offset::new(bytes.get_u64());
        let count = bytes.get_u32();
        Some(Run { sequence: sequence?, offset: offset?, count })
    });
    Some((ProducerRow::from_runs(runs.collect::<Option<_>>()?)?, expires_at_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(first: u64, gaps: &[u64]) -> ProducerRow {
        let sequence = |number| ProducerSequence::new(number).unwrap();
        let mut at = 1;
        let mut row = ProducerRow::new(sequence(first), Offset::FIRST);
        for (index, gap) in gaps.iter().enumerate() {
            at += gap;
            row.accept(sequence(first + index as u64 + 1), Offset::new(at).unwrap());
        }
        row
    }

    #[test]
    fn the_bytes_stay() {
        let expect = b"\x01\0\0\0\0\0\0\0\x09\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\x03";
        assert_eq!(&encode(&mut BytesMut::new(), &row(5, &[1, 1]), 9)[..], expect);
    }

    proptest! {
        #[test]
        fn a_row_comes_back(first in 1..1000u64, gaps in prop::collection::vec(1..3u64, 0..40), expires_at_ms: i64) {
            let row = row(first, &gaps);
            prop_assert_eq!(decode(&encode(&mut BytesMut::new(), &row, expires_at_ms)), Some((row, expires_at_ms)));
        }

        #[test]
        fn garbage_is_no_row_or_one_that_comes_back(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                (0..3u8, prop::collection::vec(0..3u8, 0..60)).prop_map(|(runs, rest)| {
                    let mut bytes = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 0, runs];
                    bytes.extend(rest.into_iter().take(usize::from(runs) * RUN_BYTES));
                    bytes
                }),
            ],
        ) {
            if let Some((row, expires_at_ms)) = decode(&bytes) {
                prop_assert_eq!(&encode(&mut BytesMut::new(), &row, expires_at_ms)[..], &bytes[..]);
            }
        }
    }
}
