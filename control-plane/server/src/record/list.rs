//! Pages of a list that is a range of keys.

use bytes::{BufMut, Bytes, BytesMut};
use millrace_store::{Direction, KeyRange, StoreError, Transaction};

/// At most `limit` rows of a range, those behind the key `after` if one is given.
///
/// # Errors
/// The store's.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    mut range: KeyRange,
    after: Option<Bytes>,
    limit: u32,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    if let Some(after) = after {
        range = behind(range, &after);
    }
    transaction.scan(range, Direction::Forward, limit).await
}

/// What of a range is behind a key.
pub(crate) fn behind(range: KeyRange, after: &[u8]) -> KeyRange {
    // The first key behind it.
    let mut start = BytesMut::with_capacity(after.len() + 1);
    start.put_slice(after);
    start.put_u8(0);
    KeyRange { start: start.freeze(), ..range }
}
