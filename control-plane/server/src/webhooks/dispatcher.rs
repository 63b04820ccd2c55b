//! Finds webhooks that have something to tell and starts a runner for each; sweeps what was kept for those that were removed.

use std::sync::Arc;
use std::time::Duration;

use millrace_domain::Webhook;
use millrace_store::Direction;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Hub, deadline, runner};
use crate::record::webhook_queue::{self, Content};
use crate::record::{key, webhook};
use crate::rest::now_ms;
use crate::transact::{TransactError, transact};

/// Rows that one transaction of a sweep removes. So many of the largest ones stay below what a scan may return.
const SWEPT_ROWS: u32 = 128;

/// Runs until it is stopped; then lets runners end within the grace.
pub(super) async fn run(hub: Arc<Hub>, mut stopped: watch::Receiver<bool>) {
    let mut runners = JoinSet::new();
    let mut look_at = Instant::now() + hub.config.look;
    while !*stopped.borrow() {
        let waiting = std::mem::take(&mut hub.awake().waiting);
        for (tenant, id) in waiting {
            if let Some(runner) = runner::Runner::new(&hub, tenant, id) {
                runners.spawn(runner.run(hub.stop.subscribe()));
            }
        }
        tokio::select! {
            _ = stopped.changed() => {}
            () = hub.called.notified() => {}
            () = sleep_until(look_at) => {
                look(&hub).await;
                look_at = Instant::now() + hub.config.look;
            }
            Some(ended) = runners.join_next(), if !runners.is_empty() => if let Err(error) = ended {
                tracing::error!(%error, "deliveries of a webhook ended badly");
            }
        }
    }
    let ended = async { while runners.join_next().await.is_some() {} };
    if timeout(hub.config.stop_grace + Duration::from_secs(1), ended).await.is_err() {
        tracing::warn!("requests of webhooks were still under way at the end of the grace");
    }
}

async fn look(hub: &Arc<Hub>) {
    let removed = match hub.look().await {
        Ok(removed) => removed,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "webhooks cannot be read");
            return;
        }
    };
    // Changes that began before it was removed have ended by then.
    let settled_ms = now_ms() - i64::try_from(hub.config.lease.as_millis()).unwrap_or(i64::MAX);
    for webhook in removed.iter().filter(|webhook| webhook.removed_ms.is_some_and(|at| at < settled_ms)) {
        if let Err(error) = sweep(hub, webhook).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was kept for a webhook cannot be swept");
        }
    }
}

/// Removes everything that was kept for a webhook, and then its record: a sweep that is cut off goes on with the next look.
pub(super) async fn sweep(hub: &Hub, webhook: &Webhook) -> Result<(), TransactError> {
    loop {
        let is_last: Result<bool, TransactError> = transact!(&*hub.store, deadline(), |transaction| {
            let rows = transaction.scan(key::of_webhook::all(&webhook.id), Direction::Forward, SWEPT_ROWS).await?;
            let is_last = rows.len() < SWEPT_ROWS as usize;
            let events = key::of_webhook::events(&webhook.id);
            for (row, value) in rows {
                let is_event = events.start <= row && row < events.end;
                if is_event && webhook_queue::decode(&value)?.content == Content::Shared {
                    // By key, so that of two control nodes that sweep one releases it.
                    if transaction.get(&row).await?.is_some() {
                        webhook_queue::release(transaction, &row).await?;
                    }
                }
                transaction.delete(row);
            }
            if is_last {
                webhook::forget(transaction, webhook.tenant, &webhook.id);
            }
            Ok(is_last)
        });
        if is_last? {
            hub.forget_number(&webhook.id);
            return Ok(());
        }
    }
}
