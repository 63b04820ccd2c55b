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

/// The runs of one transaction: the state behind [`transact!`].
pub(crate) struct Runs<'a> {
    store: &'a dyn Store,
    deadline: Instant,
    begun: u32,
    unknown: Option<StoreError>,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(store: &'a dyn Store, deadline: Instant) -> Self {
        Self { store, deadline, begun: 0, unknown: None }
    }

    /// Begins the next run, after a pause if it is not the first.
    ///
    /// # Errors
    /// [`TransactError`]: nothing is written, or nobody knows.
    pub(crate) async fn begin(&mut self) -> Result<Box<dyn Transaction>, TransactError> {
        if self.begun == RUNS_MAX {
            return Err(self.unknown.take().map_or(TransactError::Contended, TransactError::Unknown));
        }
        if self.begun > 0 {
            tokio::time::sleep(Duration::from_millis(1 << self.begun.min(6)).min(PAUSE_MAX)).await;
        }
        self.begun += 1;
        self.store.begin(self.deadline).await.map_err(|error| unresolved(self.unknown.take(), error))
    }

    /// Commits a run; tells whether it was the last one.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) async fn commit(&mut self, transaction: Box<dyn Transaction>) -> Result<bool, TransactError> {
        match transaction.commit().await {
            CommitOutcome::Committed => return Ok(true),
            CommitOutcome::Conflict => {}
            CommitOutcome::Failed(error) => return Err(unresolved(self.unknown.take(), error)),
            CommitOutcome::Unknown(error) => self.unknown = Some(error),
        }
        Ok(false)
    }
}

/// Runs a body in a transaction and commits what it wrote: `transact!(store, deadline, |transaction| { … })` is a `Result<T, E>`
/// where the body is one, and `E` is made from a [`TransactError`].
///
/// After a conflict the body runs again on a new snapshot. After an unknown outcome too, so that it reads back: **a body must
/// recognise what an earlier run of itself wrote**. Its own error ends it, with nothing written.
///
/// Dropping the future loses the outcome, not the writes.
// A macro, because a function that takes an async closure over `&mut dyn Transaction` gives a future that the compiler
// cannot see to be `Send`.
macro_rules! transact {
    ($store:expr, $deadline:expr, |$transaction:ident| $body:block) => {{
        let mut runs = $crate::transact::Runs::new($store, $deadline);
        loop {
            let mut owned = match runs.begin().await {
                Ok(transaction) => transaction,
                Err(error) => break Err(error.into()),
            };
            let $transaction: &mut dyn millrace_store::Transaction = &mut *owned;
            // The body speaks of a snapshot that shows whether an unknown commit landed.
            match async { $body }.await {
                Ok(value) => match runs.commit(owned).await {
                    Ok(true) => break Ok(value),
                    Ok(false) => {}
                    Err(error) => break Err(error.into()),
                },
                Err(error) => break Err(error),
            }
        }
    }};
}

pub(crate) use transact;

/// An error after a commit that nobody knows the outcome of leaves it unknown.
fn unresolved(unknown: Option<StoreError>, error: StoreError) -> TransactError {
    unknown.map_or(TransactError::Store(error), TransactError::Unknown)
}

#[cfg(test)]
mod tests;
