//! Answers to requests that carried an `Idempotency-Key`, so that a retry gets the same one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use millrace_store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::{cold, expiry, key};

/// An answer that was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// SHA-256 of method, path and body: a retry asks the same.
    pub(crate) request: [u8; 32],
    /// Status, headers and body, sealed under the caller's credential.
    pub(crate) sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    request: String,
    sealed: String,
}

/// The answer that was given under a key, unless it has expired.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    fingerprint: [u8; 16],
    now_ms: i64,
) -> Result<Option<Answer>, StoreError> {
    let Some(value) = transaction.get(&key::idempotency(fingerprint)).await? else { return Ok(None) };
    let (expires_ms, stored) = cold::decode_expiring::<Stored>("answer", &value)?;
    if expires_ms <= now_ms {
        return Ok(None);
    }
    let damaged = || StoreError::Damaged("an answer is no base64".into());
    let request = STANDARD_NO_PAD.decode(stored.request).ok().and_then(|bytes| bytes.try_into().ok());
    let sealed = STANDARD_NO_PAD.decode(stored.sealed).ok();
    Ok(Some(Answer { request: request.ok_or_else(damaged)?, sealed: sealed.ok_or_else(damaged)? }))
}

/// Writes an answer and when it may be forgotten.
pub(crate) fn put(transaction: &mut dyn Transaction, fingerprint: [u8; 16], expires_ms: i64, answer: &Answer) {
    let key = key::idempotency(fingerprint);
    expiry::register(transaction, &key, expires_ms);
    let stored =
        Stored { request: STANDARD_NO_PAD.encode(answer.request), sealed: STANDARD_NO_PAD.encode(&answer.sealed) };
    transaction.put(key, cold::encode_expiring(expires_ms, &stored));
}
