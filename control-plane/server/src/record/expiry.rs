//! What expires, by the hour, and the sweep that removes it.
//!
//! An expired record is ignored by whoever reads it; the sweep only gives its place back. It goes through the hours of each
//! shard up to the present one and remembers how far it came, so that it never scans what it removed before.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{Direction, Store, Transaction};

use super::{cold, key, refresh_token};
use crate::transact::{TransactError, transact};

const HOUR_MS: i64 = 3_600_000;
/// Entries that one transaction removes.
const BATCH: u32 = 200;
/// How long one transaction may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Enters a record whose value has its end in it. Do so again whenever the end is put off.
pub(crate) fn register(transaction: &mut dyn Transaction, record: &[u8], expires_ms: i64) {
    transaction.put(key::expiry(hour_after(expires_ms), record), Bytes::from_static(&[1]));
}

/// The first full hour at which the moment has passed.
fn hour_after(ms: i64) -> u32 {
    u32::try_from(ms.max(0) / HOUR_MS + 1).unwrap_or(u32::MAX)
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Records that had expired and are gone.
    pub(crate) removed: u64,
    /// Entries whose record lives longer than they say, or is gone already.
    pub(crate) outdated: u64,
}

/// Removes what has expired, `records_max` at most; call it again while it removes that many.
///
/// # Errors
/// The store's. What was removed until then stays removed.
pub(crate) async fn sweep(store: &dyn Store, now_ms: i64, records_max: u64) -> Result<Swept, TransactError> {
    let mut total = Swept::default();
    for shard in 0..key::EXPIRY_SHARDS {
        while total.removed + total.outdated < records_max {
            let deadline = Instant::now() + DEADLINE;
            let swept: Result<_, TransactError> =
                transact!(store, deadline, |transaction| { sweep_shard(transaction, shard, now_ms).await });
            let (swept, done) = swept?;
            total.removed += swept.removed;
            total.outdated += swept.outdated;
            if done {
                break;
            }
        }
    }
    Ok(total)
}

/// One batch of one shard; tells whether the shard is done.
async fn sweep_shard(
    transaction: &mut dyn Transaction,
    shard: u16,
    now_ms: i64,
) -> Result<(Swept, bool), TransactError> {
    let low_water = key::swept_until(shard);
    let value = transaction.get(&low_water).await?;
    let from = value.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u32::from_be_bytes);
    // Everything entered under an hour up to the present one has had its moment.
    let to = u32::try_from(now_ms.max(0) / HOUR_MS).unwrap_or(u32::MAX).saturating_add(1);
    let mut swept = Swept::default();
    if from >= to {
        return Ok((swept, true));
    }
    let entries = transaction.scan(key::expiries(shard, from, to), Direction::Forward, BATCH).await?;
    for (entry, _) in &entries {
        transaction.delete(entry.clone());
        let Some(record) = key::expiring_record(entry) else { continue };
        let Some(value) = transaction.get(record).await? else {
            swept.outdated += 1;
            continue;
        };
        match cold::expires_ms(&value) {
            Some(expires_ms) if expires_ms > now_ms => {
                register(transaction, record, expires_ms);
                swept.outdated += 1;
            }
            _ => {
                if record.first() == Some(&b'F') {
                    transaction.delete(refresh_token::list_entry(&value).map_err(TransactError::Store)?);
                }
                transaction.delete(Bytes::copy_from_slice(record));
                swept.removed += 1;
            }
        }
    }
    let done = entries.len() < BATCH as usize;
    if done {
        transaction.put(low_water, Bytes::copy_from_slice(&to.to_be_bytes()));
    }
    Ok((swept, done))
}

#[cfg(test)]
mod tests;
