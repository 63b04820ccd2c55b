//! What became of telling a webhook: its recent attempts, in a ring of places, and the events that were given up, for a week.

use bytes::Bytes;
use millrace_domain::word::{self, Word};
use millrace_store::{Direction, StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::key::of_webhook as key;
use super::webhook_queue::Waiting;
use super::{cold, expiry, list};

/// Attempts that are kept.
pub(crate) const ATTEMPTS_KEPT: u16 = 250;
/// Events that were given up and are kept; the oldest ones make room.
pub(crate) const FAILURES_MAX: usize = 500;
/// Failures that are read at a time: a page of the largest ones stays below what a scan may return.
const PART: u32 = 128;
/// How long these are kept.
pub(crate) const FAILURE_LIFE_MS: i64 = 7 * 24 * 3_600_000;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    /// Taken.
    Delivered,
    /// Not taken; another attempt follows.
    Retrying,
    /// Not taken, and given up.
    Failed,
}

impl Word for AttemptResult {
    const WHAT: &'static str = "result";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Delivered, "delivered"), (Self::Retrying, "retrying"), (Self::Failed, "failed")];
}

/// An attempt to tell an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Its number among the webhook's attempts.
    pub(crate) number: u64,
    /// The event.
    pub(crate) event: String,
    /// Its type.
    pub(crate) kind: String,
    /// When it began; Unix time, ms.
    pub(crate) time_ms: i64,
    /// Which attempt for this event, from 1.
    pub(crate) attempt: u32,
    /// What became of it.
    #[serde(with = "word::as_word")]
    pub(crate) result: AttemptResult,
    /// Status of the answer, if one came.
    pub(crate) status: Option<u16>,
    /// How long it took, in ms.
    pub(crate) latency_ms: u64,
    /// Why it was not taken.
    pub(crate) error: Option<String>,
    /// When the next attempt follows; Unix time, ms.
    pub(crate) next_ms: Option<i64>,
}

/// Keeps an attempt in the place of the oldest one.
pub(crate) fn put_attempt(transaction: &mut dyn Transaction, webhook: &str, attempt: &Attempt) {
    let place = u16::try_from(attempt.number % u64::from(ATTEMPTS_KEPT)).unwrap_or(0);
    transaction.put(key::attempt(webhook, place), cold::encode(attempt));
}

/// The recent attempts, the newest first.
pub(crate) async fn attempts(transaction: &mut dyn Transaction, webhook: &str) -> Result<Vec<Attempt>, StoreError> {
    let rows = transaction.scan(key::attempts(webhook), Direction::Forward, u32::from(ATTEMPTS_KEPT)).await?;
    let mut attempts = rows
        .iter()
        .map(|(_, value)| cold::decode("attempt of a webhook", value))
        .collect::<Result<Vec<Attempt>, _>>()?;
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.number));
    Ok(attempts)
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The event, with how often it was tried.
    pub(crate) event: Waiting,
    /// When it was given up; Unix time, ms.
    pub(crate) failed_ms: i64,
    /// Why the last attempt failed.
    pub(crate) error: String,
}

/// Keeps an event that was given up, and makes room for it.
pub(crate) async fn put_failure(
    transaction: &mut dyn Transaction,
    webhook: &str,
    failure: &Failure,
) -> Result<(), StoreError> {
    let mut present = Vec::new();
    let mut range = Some(key::failures(webhook));
    while let Some(part) = range.take() {
        let rows = transaction.scan(part.clone(), Direction::Forward, PART).await?;
        range = rows.last().filter(|_| rows.len() == PART as usize).map(|(last, _)| list::behind(part, last));
        present.extend(rows.into_iter().map(|(row, value)| (cold::expires_ms(&value), row)));
    }
    // Two that were given up at the same time may both have found room for one.
    present.sort_unstable();
    let too_many = (present.len() + 1).saturating_sub(FAILURES_MAX);
    for (_, oldest) in present.into_iter().take(too_many) {
        transaction.delete(oldest);
    }
    let row = key::failure(webhook, &failure.event.id);
    let expires_ms = failure.failed_ms.saturating_add(FAILURE_LIFE_MS);
    expiry::register(transaction, &row, expires_ms);
    transaction.put(row, cold::encode_expiring(expires_ms, failure));
    Ok(())
}

/// An event that was given up less than a week ago.
pub(crate) async fn failure(
    transaction: &mut dyn Transaction,
    webhook: &str,
    event: &str,
    now_ms: i64,
) -> Result<Option<Failure>, StoreError> {
    let value = transaction.get(&key::failure(webhook, event)).await?;
    let found = value.map(|value| cold::decode_expiring("failure of a webhook", &value)).transpose()?;
    Ok(found.filter(|(expires_ms, _)| *expires_ms > now_ms).map(|(_, failure)| failure))
}

/// Forgets one: it is tried again.
pub(crate) fn remove_failure(transaction: &mut dyn Transaction, webhook: &str, event: &str) {
    transaction.delete(key::failure(webhook, event));
}

/// Events that were given up, by id, behind `after`.
pub(crate) async fn failures(
    transaction: &mut dyn Transaction,
    webhook: &str,
    after: Option<&str>,
    limit: u32,
    now_ms: i64,
) -> Result<Vec<Failure>, StoreError> {
    let after = after.map(|event| key::failure(webhook, event));
    let rows: Vec<(Bytes, Bytes)> = list::page(transaction, key::failures(webhook), after, limit).await?;
    let mut found = Vec::with_capacity(rows.len());
    for (_, value) in &rows {
        let (expires_ms, failure) = cold::decode_expiring("failure of a webhook", value)?;
        if expires_ms > now_ms {
            found.push(failure);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use millrace_domain::EventKind;

    use super::super::webhook_queue::Content;
    use super::*;

    fn failed(id: String, failed_ms: i64, body: String) -> Failure {
        let event = Waiting {
            id,
            kind: EventKind::UserCreated,
            lane: "user:ann".into(),
            content: Content::Body(body),
            time_ms: 0,
            attempts: 11,
            tried_ms: 0,
            next_ms: 0,
        };
        Failure { event, failed_ms, error: String::new() }
    }

    /// As large as they may be: a store that refuses to read them would let no event be given up any more.
    #[tokio::test]
    async fn large_failures_make_room_too() {
        let store = millrace_store::open_memory();
        let body = "x".repeat(60 << 10);
        let mut number = 0;
        while number < 300 {
            let mut transaction = store.begin(Instant::now() + Duration::from_secs(5)).await.unwrap();
            for _ in 0..10 {
                let failure = failed(format!("evt_{number:04}"), number, body.clone());
                transaction.put(key::failure("w", &failure.event.id), cold::encode_expiring(number, &failure));
                number += 1;
            }
            assert!(matches!(transaction.commit().await, millrace_store::CommitOutcome::Committed));
        }
        let mut transaction = store.begin(Instant::now() + Duration::from_secs(5)).await.unwrap();
        put_failure(&mut *transaction, "w", &failed("evt_new".into(), number, body)).await.unwrap();
    }

    #[tokio::test]
    async fn the_oldest_failure_makes_room() {
        let store = millrace_store::open_memory();
        let mut transaction = store.begin(Instant::now() + Duration::from_secs(5)).await.unwrap();
        // The later, the lower the id.
        let id = |number: i64| format!("evt_{:04}", 9_999 - number);
        let newest = i64::try_from(FAILURES_MAX).unwrap();
        for number in 0..=newest {
            let failure = failed(id(number), number, "{}".into());
            put_failure(&mut *transaction, "w", &failure).await.unwrap();
        }
        assert!(failure(&mut *transaction, "w", &id(0), 0).await.unwrap().is_none(), "the oldest one");
        assert!(failure(&mut *transaction, "w", &id(1), 0).await.unwrap().is_some());
        assert!(failure(&mut *transaction, "w", &id(newest), 0).await.unwrap().is_some(), "the lowest id");
    }
}
