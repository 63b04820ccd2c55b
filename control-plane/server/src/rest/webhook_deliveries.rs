//! What became of telling a webhook: a test, its recent attempts, and the events that were given up.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Names, Query};
use super::call::{ByApplication, Done, Written, change, found, read};
use super::fields::{Fields, Request};
use super::members::PageParams;
use super::page::{self, PageQuery, cut};
use super::problem::{Kind, Problem};
use super::webhooks::meet;
use super::words::{EventWord, ResultWord};
use crate::record::key::PlainId;
use crate::record::webhook_log::{self, Attempt, Failure};
use crate::record::webhook_queue::{self, Waiting};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(test_webhook))
        .routes(routes!(list_deliveries))
        .routes(routes!(list_failures))
        .routes(routes!(retry_failure))
}

/// The id of an event: 1 to 128 letters, digits and underscores.
pub(crate) struct EventId(String);

impl std::str::FromStr for EventId {
    type Err = ();

    fn from_str(id: &str) -> Result<Self, ()> {
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain && (1..=128).contains(&id.len()) { Ok(Self(id.to_owned())) } else { Err(()) }
    }
}

/// Nothing is to be said.
#[derive(Debug, ToSchema)]
pub(crate) struct Nothing {}

impl Request for Nothing {
    fn read(_: &mut Fields) -> Option<Self> {
        Some(Self {})
    }
}

impl Body for Nothing {}

/// How many.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what Limit reads")]
pub(crate) struct LimitParams {
    /// At most so many, 1 to 100; by default 50.
    limit: Option<u32>,
}

pub(crate) struct Limit(u32);

impl Request for Limit {
    fn read(fields: &mut Fields) -> Option<Self> {
        page::limit(fields).map(Self)
    }
}

/// An attempt to tell an event.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(crate) struct DeliveryView {
    /// The event: `webhook-id` of the request, the same in every attempt.
    #[schema(example = "evt_h3k8m2x9q4w7t6z5")]
    event: String,
    /// What happened; `webhook.test` for a test.
    #[serde(rename = "type")]
    #[schema(example = "member.added")]
    kind: String,
    /// When the attempt began; Unix time, ms.
    time_ms: i64,
    /// Which attempt for this event, from 1.
    attempt: u32,
    result: ResultWord,
    /// Status of the answer, if one came.
    #[schema(example = 204)]
    status: Option<u16>,
    /// How long it took.
    latency_ms: u64,
    /// Why it was not taken.
    error: Option<String>,
    /// When the next attempt follows; Unix time, ms.
    next_ms: Option<i64>,
}

impl From<Attempt> for DeliveryView {
    fn from(attempt: Attempt) -> Self {
        let Attempt { number: _, event, kind, time_ms, attempt, result, status, latency_ms, error, next_ms } = attempt;
        Self { event, kind, time_ms, attempt, result: ResultWord(result), status, latency_ms, error, next_ms }
    }
}

/// Recent attempts.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryList {
    /// The newest first.
    deliveries: Vec<DeliveryView>,
}

/// An event that was given up.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookFailure)]
pub(crate) struct FailureView {
    /// The event.
    #[schema(example = "evt_h3k8m2x9q4w7t6z5")]
    event: String,
    /// What happened.
    #[serde(rename = "type")]
    kind: EventWord,
    /// When it happened; Unix time, ms.
    time_ms: i64,
    /// Attempts that were made.
    attempts: u32,
    /// When it was given up; Unix time, ms.
    failed_ms: i64,
    /// Why the last attempt failed.
    error: String,
}

impl From<&Failure> for FailureView {
    fn from(failure: &Failure) -> Self {
        Self {
            event: failure.event.id.clone(),
            kind: EventWord(failure.event.kind),
            time_ms: failure.event.time_ms,
            attempts: failure.event.attempts,
            failed_ms: failure.failed_ms,
            error: failure.error.clone(),
        }
    }
}

/// A page of events that were given up.
#[derive(Serialize, ToSchema)]
pub(crate) struct FailurePage {
    /// By id.
    failures: Vec<FailureView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// Test a webhook.
///
/// Sends one `webhook.test` at once and answers with what became of it, whatever that is. It is not tried again; one that is off is tested, too.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/test", tag = "webhooks", params(("webhook" = String, Path, description = "Its id")),
    request_body = Nothing,
    responses((status = 200, description = "The attempt", body = DeliveryView)), security(("api_key" = []))
)]
async fn test_webhook(
    ByApplication(call): ByApplication,
    Name(id): Name<PlainId>,
    body: Json<Nothing>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let Nothing {} = body.value;
    let slot = call.own_slot(body.digest)?;
    let mut transaction = call.begin().await?;
    if let Some(slot) = &slot
        && let Some(written) = slot.answer(&mut *transaction, call.now_ms).await?
    {
        return Ok(written.into_response());
    }
    let webhook = meet(&mut *transaction, tenant, &id).await?;
    drop(transaction);
    let attempt = call.rest.webhooks.test(&webhook).await;
    let attempt = attempt
        .map_err(|error| Problem::new(Kind::RateLimited, error.to_string()).after(std::time::Duration::from_secs(1)))?;
    let written = Written::json(StatusCode::OK, &DeliveryView::from(attempt));
    // The slot is held until the answer is kept: a retry does not send a second one.
    let Some(slot) = slot else { return Ok(written.into_response()) };
    let kept: Result<(), crate::transact::TransactError> =
        crate::transact::transact!(&*call.rest.store, call.deadline(), |transaction| {
            slot.keep(transaction, &written, call.now_ms);
            Ok(())
        });
    kept?;
    Ok(written.into_response())
}

/// List recent attempts.
///
/// The newest 250 of a webhook are kept.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = String, Path, description = "Its id"), LimitParams),
    responses((status = 200, description = "The newest", body = DeliveryList)), security(("api_key" = []))
)]
async fn list_deliveries(
    ByApplication(call): ByApplication,
    Name(id): Name<PlainId>,
    Query(Limit(limit)): Query<Limit>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let attempts = read!(call, |transaction| {
        let webhook = meet(transaction, tenant, &id).await?;
        Ok(webhook_log::attempts(transaction, &webhook.id).await?)
    })?;
    let deliveries = attempts.into_iter().take(limit as usize).map(DeliveryView::from).collect();
    Ok(found(&DeliveryList { deliveries }))
}

/// List events that were given up.
///
/// They are kept for a week, at most 500 of a webhook.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/failures", tag = "webhooks",
    params(("webhook" = String, Path, description = "Its id"), PageParams),
    responses((status = 200, description = "A page", body = FailurePage)), security(("api_key" = []))
)]
async fn list_failures(
    ByApplication(call): ByApplication,
    Name(id): Name<PlainId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let after = query.after(|cursor| cursor.parse::<EventId>().ok())?;
    let mut failures = read!(call, |transaction| {
        let webhook = meet(transaction, tenant, &id).await?;
        let after = after.as_ref().map(|EventId(event)| event.as_str());
        Ok(webhook_log::failures(transaction, &webhook.id, after, query.limit + 1, call.now_ms).await?)
    })?;
    let next = cut(&mut failures, query.limit, |failure| failure.event.id.clone());
    Ok(found(&FailurePage { failures: failures.iter().map(FailureView::from).collect(), next }))
}

/// Try an event again that was given up.
///
/// It is told after what waits already, with as many attempts as a new one.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/failures/{event}/retry", tag = "webhooks",
    params(("webhook" = String, Path, description = "Id of the webhook"), ("event" = String, Path, description = "Id of the event")),
    request_body = Nothing,
    responses((status = 202, description = "It waits", body = FailureView)), security(("api_key" = []))
)]
async fn retry_failure(
    ByApplication(call): ByApplication,
    Names(id, EventId(event)): Names<PlainId, EventId>,
    body: Json<Nothing>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let Nothing {} = body.value;
    let mut taken: Option<Failure> = None;
    let result = change!(call, body.digest, |transaction| {
        let webhook = meet(transaction, tenant, &id).await?;
        let present = webhook_log::failure(transaction, &webhook.id, &event, call.now_ms).await?;
        let is_new = present.is_some();
        // By an earlier run of this very request, whose commit was not heard of.
        let failure = present.or_else(|| taken.clone()).ok_or_else(|| Problem::not_found("event"))?;
        if is_new {
            let waiting = Waiting { attempts: 0, tried_ms: 0, next_ms: 0, ..failure.event.clone() };
            webhook_log::remove_failure(transaction, &webhook.id, &event);
            webhook_queue::put(transaction, call.rest.webhooks.row(&webhook.id), &waiting);
        }
        let view = FailureView::from(&failure);
        taken = Some(failure);
        Ok(Done::quietly(Written::json(StatusCode::ACCEPTED, &view)))
    });
    call.rest.webhooks.changed(tenant).await;
    result
}
