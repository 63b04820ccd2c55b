//! A test of an endpoint: one request, at once, whose result is the answer.

use millrace_domain::Webhook;
use serde_json::json;

use super::endpoint::Endpoint;
use super::{Webhooks, deadline, event, lane};
use crate::record::webhook;
use crate::record::webhook_log::{self, Attempt, AttemptResult};
use crate::rest::now_ms;
use crate::transact::{TransactError, transact};

/// What its event is called.
const KIND: &str = "webhook.test";
/// Tests at once, of all webhooks, and of those of one tenant.
const AT_ONCE_MAX: usize = 64;
const OF_TENANT_MAX: usize = 4;

/// Why a test is not made. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TestError {
    /// One of the same webhook is under way.
    #[error("a test of this webhook is under way")]
    UnderWay,
    /// Many others are.
    #[error("too many tests are under way")]
    TooMany,
}

/// The place of a test.
struct Place<'a>(&'a Webhooks, &'a str);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.tests().remove(self.1);
    }
}

impl Webhooks {
    fn tests(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, millrace_protocol::id::TenantId>> {
        self.0.tests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sends a `webhook.test`, also to one that is off. It is not tried again.
    pub(crate) async fn test(&self, webhook: &Webhook) -> Result<Attempt, TestError> {
        {
            let mut tests = self.tests();
            if tests.contains_key(&webhook.id) {
                return Err(TestError::UnderWay);
            }
            let of_tenant = tests.values().filter(|tenant| **tenant == webhook.tenant).count();
            if tests.len() >= AT_ONCE_MAX || of_tenant >= OF_TENANT_MAX {
                return Err(TestError::TooMany);
            }
            tests.insert(webhook.id.clone(), webhook.tenant);
        }
        let _place = Place(self, &webhook.id);
        let (id, time_ms) = (event::new_id(), now_ms());
        let body = event::body(KIND, time_ms, &json!({"webhook": webhook.id}));
        let endpoint = Endpoint::new(self.0.client.clone(), webhook.tenant, webhook.url.clone());
        let place = endpoint.place().await;
        let (_, tried) = lane::post(&self.0, &endpoint, place, webhook, &id, body).await;
        let result = if tried.fault.is_none() { AttemptResult::Delivered } else { AttemptResult::Failed };
        let attempt = Attempt {
            number: 0,
            event: id,
            kind: KIND.into(),
            time_ms,
            attempt: 1,
            result,
            status: tried.status,
            latency_ms: u64::try_from(tried.elapsed.as_millis()).unwrap_or(u64::MAX),
            error: tried.fault.map(|(_, text)| text),
            next_ms: None,
        };
        if let Err(error) = self.keep_test(webhook, &attempt).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a test of a webhook cannot be kept");
        }
        Ok(attempt)
    }

    /// Keeps a test among the attempts.
    async fn keep_test(&self, webhook: &Webhook, attempt: &Attempt) -> Result<(), TransactError> {
        let attempt = Attempt { number: self.0.attempt_number(&webhook.id).await?, ..attempt.clone() };
        transact!(&*self.0.store, deadline(), |transaction| {
            if webhook::get(transaction, webhook.tenant, &webhook.id).await?.is_some() {
                webhook_log::put_attempt(transaction, &webhook.id, &attempt);
            }
            Ok(())
        })
    }
}
