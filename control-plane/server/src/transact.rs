//! Runs a transaction until it is committed, refused by its body, or out of time.

use std::time::{Duration, Instant};

use millrace_store::{CommitOutcome, Store, StoreError, Transaction};

/// How often a body runs at most. Conflicts are between few writers of one record, so that each round lets one of them through.
const RUNS_MAX: u32 = 16;
/// The longest pause between two runs.
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactError {
    /// Nothing is written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others kept changing what it read. Nothing is written; the caller may retry.
    #[error("others kept changing the same records")]
    Contended,
    /// It may or may not be written.
    #[error("it is not known whether the change was stored")]
    Unknown(#[source] StoreError),
}

/// Runs `body` in a transaction and commits what it wrote.
///
/// After a conflict the body runs again on a new snapshot. After an unknown outcome too, so that it reads back: **a body must
/// recognise what an earlier run of itself wrote**, and it must change nothing outside the transaction.
///
/// # Errors
/// The body's own, from a consistent snapshot and with nothing written; else [`TransactError`].
///
/// # Cancel safety
/// A dropped future loses the outcome, not the writes.
pub(crate) async fn transact<T, E: From<TransactError>>(
    store: &dyn Store,
    deadline: Instant,
    mut body: impl AsyncFnMut(&mut dyn Transaction) -> Result<T, E>,
) -> Result<T, E> {
    let mut unknown = None;
    for run in 0..RUNS_MAX {
        if run > 0 {
            tokio::time::sleep(Duration::from_millis(1 << run.min(6)).min(PAUSE_MAX)).await;
        }
        let begun = match store.begin(deadline).await {
            Ok(mut transaction) => match body(&mut *transaction).await {
                Ok(value) => Ok((value, transaction)),
                // The body speaks of a snapshot that shows whether the unknown commit landed.
                Err(error) => return Err(error),
            },
            Err(error) => Err(error),
        };
        let (value, transaction) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(unresolved(unknown, error).into()),
        };
        match transaction.commit().await {
            CommitOutcome::Committed => return Ok(value),
            CommitOutcome::Conflict => {}
            CommitOutcome::Failed(error) => return Err(unresolved(unknown, error).into()),
            CommitOutcome::Unknown(error) => unknown = Some(error),
        }
    }
    Err(unknown.map_or(TransactError::Contended, TransactError::Unknown).into())
}

/// An error after a commit that nobody knows the outcome of leaves it unknown.
fn unresolved(unknown: Option<StoreError>, error: StoreError) -> TransactError {
    unknown.map_or(TransactError::Store(error), TransactError::Unknown)
}

#[cfg(test)]
mod tests;
