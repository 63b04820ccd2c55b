//! What has expired goes: answers to idempotent requests, producers that nobody used for a week, revocations of tokens that have expired,
//! refresh tokens. Readers ignore them already; this gives their place back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_store::Store;
use prometheus::{IntCounter, IntGauge, Registry};

use crate::record::expiry;
use crate::transact::TransactError;

/// How the sweep behaves.
#[derive(Debug, Clone)]
pub struct HousekeepingConfig {
    /// From the end of a pass to the next. Default 1 min. Records are removed within an hour after their end, as the index of what expires has hours.
    pub interval: Duration,
    /// Most records of a pass; default 10,000. A pass that reaches it is followed by the next one at once.
    pub records_max: u64,
}

impl Default for HousekeepingConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), records_max: 10_000 }
    }
}

/// Removes what has expired, pass by pass. Any number of control nodes may do so at once: one of them wins each record.
pub struct Housekeeping {
    store: Arc<dyn Store>,
    config: HousekeepingConfig,
    metrics: Metrics,
}

struct Metrics {
    removed: IntCounter,
    outdated: IntCounter,
    failed: IntCounter,
    passes: IntCounter,
    last: IntGauge,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let last = IntGauge::new(
            "millrace_control_housekeeping_last_success_seconds",
            "Unix time of the last pass that did not fail",
        )?;
        registry.register(Box::new(last.clone()))?;
        Ok(Self {
            removed: counter("millrace_control_housekeeping_removed_total", "Expired records that were removed")?,
            outdated: counter(
                "millrace_control_housekeeping_outdated_total",
                "Entries of the expiry index whose record lives longer or was gone",
            )?,
            failed: counter("millrace_control_housekeeping_failed_total", "Passes that failed")?,
            passes: counter("millrace_control_housekeeping_passes_total", "Passes that did not fail")?,
            last,
        })
    }
}

impl Housekeeping {
    /// Metrics go to `registry`.
    ///
    /// # Errors
    /// [`prometheus::Error`] if metrics of these names exist already.
    pub fn new(
        store: Arc<dyn Store>,
        config: HousekeepingConfig,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self { store, config, metrics: Metrics::register(registry)? })
    }

    /// Sweeps for ever. A pass that fails is logged and counted; the next one tries again.
    ///
    /// # Cancel safety
    /// A dropped future leaves whole transactions behind: what they removed stays removed.
    pub async fn run(self) {
        loop {
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let more = match self.pass(i64::try_from(now_ms).unwrap_or(i64::MAX)).await {
                Ok(more) => more,
                Err(error) => {
                    self.metrics.failed.inc();
                    tracing::warn!(error = &error as &dyn std::error::Error, "housekeeping failed, trying again later");
                    Pass::Whole
                }
            };
            match more {
                Pass::Whole => tokio::time::sleep(self.config.interval).await,
                // Everybody else gets a turn between the passes.
                Pass::Cut => tokio::task::yield_now().await,
            }
        }
    }

    async fn pass(&self, now_ms: i64) -> Result<Pass, TransactError> {
        let began = Instant::now();
        let swept = expiry::sweep(&*self.store, now_ms, self.config.records_max).await?;
        self.metrics.passes.inc();
        self.metrics.last.set(now_ms / 1000);
        self.metrics.removed.inc_by(swept.removed);
        self.metrics.outdated.inc_by(swept.outdated);
        let visited = swept.removed + swept.outdated;
        if visited > 0 {
            tracing::debug!(
                removed = swept.removed,
                outdated = swept.outdated,
                elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                "expired records removed"
            );
        }
        Ok(if visited >= self.config.records_max { Pass::Cut } else { Pass::Whole })
    }
}

/// How far a pass came.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// Nothing that has expired is left.
    Whole,
    /// It reached its bound.
    Cut,
}

#[cfg(test)]
mod tests {
    use millrace_protocol::id::TenantId;
    use millrace_protocol::node::{RevokedTokens, TokensRevoked};
    use millrace_store::{CommitOutcome, open_memory};

    use super::*;
    use crate::record;

    const HOUR_MS: i64 = 3_600_000;

    /// It runs beside everything else: failing passes end nothing, and dropping it leaves no half a transaction.
    #[tokio::test]
    async fn it_runs_as_a_task_of_its_own() {
        let store = open_memory();
        let registry = Registry::new();
        let keeping = Housekeeping::new(store.clone(), HousekeepingConfig::default(), &registry).unwrap();
        let failed = keeping.metrics.failed.clone();
        store.close().await.unwrap();
        let running = tokio::spawn(keeping.run());
        while failed.get() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!running.is_finished());
        running.abort();
    }

    #[tokio::test]
    async fn a_pass_is_bounded_and_the_next_one_goes_on() {
        let store = open_memory();
        let mut transaction = store.begin(Instant::now() + Duration::from_secs(10)).await.unwrap();
        for number in 0..500 {
            let which = RevokedTokens::Token(format!("t{number}"));
            let forget_after_ms = if number < 450 { 1 } else { 10 * HOUR_MS };
            let revoked = TokensRevoked { tenant: TenantId::new(7).unwrap(), which, forget_after_ms };
            record::revocation::put(&mut *transaction, &revoked);
        }
        assert!(matches!(transaction.commit().await, CommitOutcome::Committed));

        let registry = Registry::new();
        let config = HousekeepingConfig { records_max: 100, ..HousekeepingConfig::default() };
        let keeping = Housekeeping::new(store.clone(), config, &registry).unwrap();
        let mut passes = 0;
        while keeping.pass(2 * HOUR_MS).await.unwrap() == Pass::Cut {
            passes += 1;
            assert!(passes < 100, "it ends");
        }
        assert!(passes > 1, "{passes}");
        assert_eq!(keeping.metrics.removed.get(), 450);
        let mut transaction = store.begin(Instant::now() + Duration::from_secs(10)).await.unwrap();
        let (left, _) = record::revocation::part_of_all(&mut *transaction, None).await.unwrap();
        assert_eq!(left.len(), 50);
        assert_eq!(keeping.pass(11 * HOUR_MS).await.unwrap(), Pass::Whole);
        assert_eq!(keeping.metrics.removed.get(), 500);
        assert!(Housekeeping::new(store, HousekeepingConfig::default(), &registry).is_err(), "names are taken");
    }
}
