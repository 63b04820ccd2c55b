//! Webhooks of a tenant: register, look up, change, remove, and change their secrets.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::word::Word;
use millrace_domain::{
    DisplayName, EventKind, Off, OffReason, SECRET_OVERLAP_MS_MAX, WEBHOOKS_MAX, Webhook, WebhookSecret, WebhookUrl,
};
use millrace_protocol::id::{NAME_BYTES_MAX, TenantId};
use millrace_store::Transaction;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name};
use super::call::{ByApplication, Call, Done, Written, change, found, read};
use super::fields::{self, Fields, Request};
use super::problem::{Kind, Problem};
use super::signing_keys::touch;
use super::words::{EventWord, OffWord};
use crate::record::key::PlainId;
use crate::record::webhook::{self, Health};
use crate::record::webhook_queue;
use crate::secret;
use crate::webhooks::signature;

/// So many of what waits are counted.
const COUNTED_MAX: u64 = 1_000;
/// How long a secret that was replaced goes on signing if nobody says: a day.
const OVERLAP_S_DEFAULT: u64 = 24 * 3_600;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create_webhook, list_webhooks))
        .routes(routes!(get_webhook, update_webhook, remove_webhook))
        .routes(routes!(rotate_webhook_secret))
}

/// A webhook that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct CreateWebhook {
    /// Where requests go: `https`, or `http` to this machine; 1 to 2048 bytes of visible ASCII. No redirect is followed from there.
    #[schema(value_type = String, max_length = 2048, example = "https://example.com/millrace")]
    url: WebhookUrl,
    /// What it wants to hear of, at least one.
    #[schema(value_type = Vec<EventWord>, min_items = 1, max_items = 10, example = json!(["member.added", "message.sent"]))]
    events: Vec<EventKind>,
    /// Only of channels whose name begins so. Events of users are of no channel, and come. Missing or null: of all.
    #[schema(max_length = 128, example = "support-")]
    channel_prefix: Option<String>,
    /// What it is used for.
    #[schema(value_type = Option<String>, max_length = 256, example = "support desk")]
    label: Option<DisplayName>,
}

impl Request for CreateWebhook {
    fn read(fields: &mut Fields) -> Option<Self> {
        let url = fields.required("url", fields::text);
        let events = fields.required("events", events);
        let channel_prefix = fields.optional("channel_prefix", fields::short(NAME_BYTES_MAX));
        let label = fields.optional("label", fields::text);
        Some(Self { url: url?, events: events?, channel_prefix: channel_prefix?, label: label? })
    }
}

impl Body for CreateWebhook {}

/// What is to change; a field that is missing stays as it is.
#[derive(Debug, ToSchema)]
pub(crate) struct UpdateWebhook {
    /// As when it is made. What waits goes to the new one.
    #[schema(value_type = Option<String>, max_length = 2048, example = "https://example.com/millrace")]
    url: Option<WebhookUrl>,
    /// Takes the place of the whole list.
    #[schema(value_type = Option<Vec<EventWord>>, min_items = 1, max_items = 10, example = json!(["member.added"]))]
    events: Option<Vec<EventKind>>,
    /// `null` takes it away.
    #[schema(value_type = Option<String>, max_length = 128, example = "support-")]
    channel_prefix: Option<Option<String>>,
    /// `null` takes it away.
    #[schema(value_type = Option<String>, max_length = 256, example = "support desk")]
    label: Option<Option<DisplayName>>,
    /// Turns it on or off. One that is off hears of nothing that happens meanwhile; what waits is told when it is on again.
    #[schema(value_type = Option<OnWord>, example = "on")]
    state: Option<OnWord>,
}

impl Request for UpdateWebhook {
    fn read(fields: &mut Fields) -> Option<Self> {
        let url = fields.optional("url", fields::text);
        let events = fields.optional("events", events);
        let channel_prefix = fields.nullable("channel_prefix", fields::short(NAME_BYTES_MAX));
        let label = fields.nullable("label", fields::text);
        let state = fields.optional("state", fields::word);
        Some(Self { url: url?, events: events?, channel_prefix: channel_prefix?, label: label?, state: state? })
    }
}

impl Body for UpdateWebhook {}

/// Whether a webhook is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub(crate) enum OnWord {
    /// Told what happens.
    On,
    /// Not.
    Off,
}

impl Word for OnWord {
    const WHAT: &'static str = "state";
    const ALL: &'static [(Self, &'static str)] = &[(Self::On, "on"), (Self::Off, "off")];
}

/// A secret that is to take the place of another.
#[derive(Debug, ToSchema)]
pub(crate) struct RotateSecret {
    /// How long requests are signed with both, in seconds; 0 to a week. By default a day.
    #[schema(value_type = Option<u64>, maximum = 604_800, example = 3600)]
    overlap_seconds: i64,
}

impl Request for RotateSecret {
    fn read(fields: &mut Fields) -> Option<Self> {
        let max = u64::try_from(SECRET_OVERLAP_MS_MAX / 1000).unwrap_or(0);
        let seconds = fields.optional("overlap_seconds", fields::number(0..=max))?.unwrap_or(OVERLAP_S_DEFAULT);
        Some(Self { overlap_seconds: i64::try_from(seconds).unwrap_or(0) })
    }
}

impl Body for RotateSecret {}

/// Words of events, each once.
fn events(value: Value) -> Result<Vec<EventKind>, String> {
    let mut events = Vec::new();
    for word in fields::strings(EventKind::ALL.len(), 64)(value)? {
        let kind = EventKind::from_word(&word)
            .ok_or_else(|| format!("has {word:?}, which is none of {}", EventKind::list()))?;
        if events.contains(&kind) {
            return Err(format!("has {word} twice"));
        }
        events.push(kind);
    }
    if events.is_empty() { Err("is empty".into()) } else { Ok(events) }
}

/// A webhook, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookView {
    /// Names it.
    #[schema(example = "h3k8m2x9q4w7t6z5")]
    id: String,
    /// Where requests go.
    #[schema(example = "https://example.com/millrace")]
    url: String,
    /// What it hears of.
    events: Vec<EventWord>,
    /// Only of channels whose name begins so.
    channel_prefix: Option<String>,
    /// What it is used for.
    label: Option<String>,
    state: OnWord,
    /// Why it is off; null while it is on.
    off_reason: Option<OffWord>,
    /// Since when it is off; Unix time, ms.
    off_since_ms: Option<i64>,
    /// Until when requests are also signed with the secret before; Unix time, ms.
    old_secret_until_ms: Option<i64>,
    /// When it was made; Unix time, ms.
    created_ms: i64,
    /// When its settings last changed; Unix time, ms.
    updated_ms: i64,
    health: HealthView,
}

/// How a webhook is doing.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookHealth)]
pub(crate) struct HealthView {
    /// When something was delivered last; Unix time, ms. Up to a few seconds behind.
    last_success_ms: Option<i64>,
    /// When an attempt failed last; Unix time, ms.
    last_failure_ms: Option<i64>,
    /// Why.
    #[schema(example = "the endpoint answered 503")]
    last_error: Option<String>,
    /// Since when nothing was delivered, if something was to be; Unix time, ms.
    failing_since_ms: Option<i64>,
    /// When the endpoint is tried again, if it fails; Unix time, ms.
    retry_ms: Option<i64>,
    /// Events that wait, messages aside; counted up to 1,000.
    waiting_events: u64,
    /// Channels in which messages wait; counted up to 1,000.
    waiting_channels: u64,
}

impl WebhookView {
    fn new(webhook: &Webhook, health: &Health, waiting: (u64, u64), now_ms: i64) -> Self {
        // Failures of settings that were changed since say nothing of the present ones.
        let failing = health.failures > 0 && health.last_failure_ms.is_some_and(|at| at >= webhook.updated_ms);
        let old = webhook.secrets.iter().filter_map(|secret| secret.until_ms).find(|until_ms| *until_ms > now_ms);
        Self {
            id: webhook.id.clone(),
            url: webhook.url.to_string(),
            events: webhook.events.iter().map(|kind| EventWord(*kind)).collect(),
            channel_prefix: webhook.channel_prefix.clone(),
            label: webhook.label.as_ref().map(ToString::to_string),
            state: if webhook.off.is_none() { OnWord::On } else { OnWord::Off },
            off_reason: webhook.off.map(|off| OffWord(off.reason)),
            off_since_ms: webhook.off.map(|off| off.since_ms),
            old_secret_until_ms: old,
            created_ms: webhook.created_ms,
            updated_ms: webhook.updated_ms,
            health: HealthView {
                last_success_ms: health.last_success_ms,
                last_failure_ms: health.last_failure_ms,
                last_error: health.last_error.clone(),
                failing_since_ms: health.failing_since_ms.filter(|_| failing),
                retry_ms: (failing && webhook.off.is_none()).then_some(health.retry_at_ms),
                waiting_events: waiting.0,
                waiting_channels: waiting.1,
            },
        }
    }

    async fn of(transaction: &mut dyn Transaction, webhook: &Webhook, now_ms: i64) -> Result<Self, Problem> {
        let health = webhook::health(transaction, &webhook.id).await?;
        let limit = u32::try_from(COUNTED_MAX).unwrap_or(u32::MAX);
        let events = webhook_queue::count(transaction, &webhook.id, COUNTED_MAX).await?;
        let channels = webhook_queue::marks(transaction, &webhook.id, None, limit).await?.len() as u64;
        Ok(Self::new(webhook, &health, (events, channels), now_ms))
    }
}

/// A new webhook or secret: the secret is shown this once.
#[derive(Serialize, ToSchema)]
#[schema(as = NewWebhook)]
pub(crate) struct NewWebhookView {
    #[serde(flatten)]
    about: WebhookView,
    /// What verifies requests, for a library of Standard Webhooks: keep it.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

/// The webhooks of a tenant, at most 16.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookList {
    /// By id.
    webhooks: Vec<WebhookView>,
}

/// Takes what a change did into account, also if it is not known whether it was stored.
async fn told(call: &Call, tenant: TenantId, result: Result<Response, Problem>) -> Result<Response, Problem> {
    call.rest.webhooks.changed(tenant).await;
    result
}

/// The same, for a webhook that may begin to hear of messages: from the answer on it does, whichever control node stores them.
async fn told_everywhere(
    call: &Call,
    tenant: TenantId,
    wants_messages: bool,
    result: Result<Response, Problem>,
) -> Result<Response, Problem> {
    let result = told(call, tenant, result).await;
    if wants_messages && result.is_ok() {
        call.rest.webhooks.known_everywhere().await;
    }
    result
}

fn admitted(call: &Call, url: &WebhookUrl) -> Result<(), Problem> {
    call.rest.webhooks.admits(url).map_err(|message| Problem::field("/url", message))
}

pub(super) async fn meet(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    id: &PlainId,
) -> Result<Webhook, Problem> {
    webhook::get(transaction, tenant, id.as_str()).await?.ok_or_else(|| Problem::not_found("webhook"))
}

/// Register a webhook.
///
/// From the answer on its endpoint is told what happens, at least once and in order within a channel, by requests that the secret in the answer
/// verifies. A tenant has at most 16.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = CreateWebhook,
    responses((status = 201, description = "Registered", body = NewWebhookView)), security(("api_key" = []))
)]
async fn create_webhook(ByApplication(call): ByApplication, body: Json<CreateWebhook>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let Json { value, digest } = body;
    admitted(&call, &value.url)?;
    let key = signature::new_key();
    let new = Webhook {
        id: secret::random_id(),
        tenant,
        url: value.url,
        events: value.events,
        channel_prefix: value.channel_prefix,
        label: value.label,
        secrets: vec![WebhookSecret { key: key.clone(), until_ms: None }],
        off: None,
        waiting_when_on: 0,
        removed_ms: None,
        created_ms: call.now_ms,
        updated_ms: call.now_ms,
    };
    let _turn = call.turn(tenant, "").await;
    let result = change!(call, digest, |transaction| {
        let mut present = webhook::rows_of(transaction, tenant).await?;
        present.retain(|present| present.id != new.id);
        if present.len() >= webhook::ROWS_MAX {
            let problem = Problem::new(Kind::Unavailable, "many webhooks were removed lately; try again in a minute");
            return Err(problem.after(std::time::Duration::from_secs(60)));
        }
        if present.iter().filter(|present| present.removed_ms.is_none()).count() >= WEBHOOKS_MAX {
            let detail = format!("a tenant has at most {WEBHOOKS_MAX} webhooks; remove one first");
            return Err(Problem::new(Kind::Conflict, detail));
        }
        // The list is not validated at the commit, the tenant's record is.
        touch(transaction, tenant).await?;
        webhook::put(transaction, &new);
        let about = WebhookView::new(&new, &Health::default(), (0, 0), call.now_ms);
        let view = NewWebhookView { about, secret: signature::secret_text(&key) };
        Ok(Done::quietly(Written::json(StatusCode::CREATED, &view).at(format!("/v1/webhooks/{}", new.id))))
    });
    told_everywhere(&call, tenant, new.events.contains(&EventKind::MessageSent), result).await
}

/// List webhooks.
///
/// With how each is doing. Secrets are not shown.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "All of them", body = WebhookList)), security(("api_key" = []))
)]
async fn list_webhooks(ByApplication(call): ByApplication) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let webhooks = read!(call, |transaction| {
        let mut views = Vec::new();
        for webhook in webhook::all_of(transaction, tenant).await? {
            views.push(WebhookView::of(transaction, &webhook, call.now_ms).await?);
        }
        Ok(views)
    })?;
    Ok(found(&WebhookList { webhooks }))
}

/// Look a webhook up.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "Its id")),
    responses((status = 200, description = "The webhook", body = WebhookView)), security(("api_key" = []))
)]
async fn get_webhook(ByApplication(call): ByApplication, Name(id): Name<PlainId>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let view = read!(call, |transaction| {
        let webhook = meet(transaction, tenant, &id).await?;
        WebhookView::of(transaction, &webhook, call.now_ms).await
    })?;
    Ok(found(&view))
}

/// Change a webhook, or turn it on or off.
///
/// Whatever changes, what waits after a failure is tried again at once.
#[utoipa::path(
    patch, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "Its id")),
    request_body = UpdateWebhook,
    responses((status = 200, description = "As it is now", body = WebhookView)), security(("api_key" = []))
)]
async fn update_webhook(
    ByApplication(call): ByApplication,
    Name(id): Name<PlainId>,
    body: Json<UpdateWebhook>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let UpdateWebhook { url, events, channel_prefix, label, state } = &body.value;
    url.as_ref().map_or(Ok(()), |url| admitted(&call, url))?;
    let mut wants_messages = false;
    let result = change!(call, body.digest, |transaction| {
        let mut webhook = meet(transaction, tenant, &id).await?;
        if let Some(url) = url {
            webhook.url = url.clone();
        }
        if let Some(events) = events {
            webhook.events.clone_from(events);
        }
        if let Some(prefix) = channel_prefix {
            webhook.channel_prefix.clone_from(prefix);
        }
        if let Some(label) = label {
            webhook.label.clone_from(label);
        }
        match state {
            Some(OnWord::On) if webhook.off.is_some() => {
                let max = call.rest.webhooks.waiting_when_on_max();
                let waiting = webhook_queue::count(transaction, &webhook.id, max.saturating_add(1)).await?;
                if waiting > max {
                    let detail = format!("more than {max} events wait for it; remove it and register another one");
                    return Err(Problem::new(Kind::Conflict, detail));
                }
                webhook.waiting_when_on = waiting;
                webhook.off = None;
            }
            Some(OnWord::On) => {}
            Some(OnWord::Off) => {
                webhook.off.get_or_insert(Off { reason: OffReason::Asked, since_ms: call.now_ms });
            }
            None => {}
        }
        webhook.updated_ms = call.now_ms;
        webhook::put(transaction, &webhook);
        wants_messages = webhook.is_on() && webhook.events.contains(&EventKind::MessageSent);
        let view = WebhookView::of(transaction, &webhook, call.now_ms).await?;
        Ok(Done::quietly(Written::json(StatusCode::OK, &view)))
    });
    told_everywhere(&call, tenant, wants_messages, result).await
}

/// Remove a webhook.
///
/// It hears of nothing from the answer on, but for requests that are under way. What waits is dropped.
#[utoipa::path(
    delete, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "Its id")),
    responses((status = 204, description = "Removed")), security(("api_key" = []))
)]
async fn remove_webhook(ByApplication(call): ByApplication, Name(id): Name<PlainId>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let mut removed = false;
    let result = change!(call, [0; 32], |transaction| {
        let Some(mut webhook) = webhook::get(transaction, tenant, id.as_str()).await? else {
            // By an earlier run of this very request, whose commit was not heard of.
            return if removed { Ok(Done::quietly(Written::empty())) } else { Err(Problem::not_found("webhook")) };
        };
        webhook.removed_ms = Some(call.now_ms);
        webhook.secrets.clear();
        webhook::put(transaction, &webhook);
        removed = true;
        Ok(Done::quietly(Written::empty()))
    });
    told(&call, tenant, result).await
}

/// Replace a webhook's secret.
///
/// Requests are signed with both for a time, so that no receiver misses one; the one before the last ends at once.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/rotate-secret", tag = "webhooks", params(("webhook" = String, Path, description = "Its id")),
    request_body = RotateSecret,
    responses((status = 200, description = "The new secret", body = NewWebhookView)), security(("api_key" = []))
)]
async fn rotate_webhook_secret(
    ByApplication(call): ByApplication,
    Name(id): Name<PlainId>,
    body: Json<RotateSecret>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let key = signature::new_key();
    let overlap_ms = body.value.overlap_seconds.saturating_mul(1000);
    let result = change!(call, body.digest, |transaction| {
        let mut webhook = meet(transaction, tenant, &id).await?;
        // Not again in another run of this request.
        if webhook.secrets.first().is_none_or(|secret| secret.key != key) {
            webhook.rotate(key.clone(), overlap_ms, call.now_ms);
            webhook::put(transaction, &webhook);
        }
        let about = WebhookView::of(transaction, &webhook, call.now_ms).await?;
        let view = NewWebhookView { about, secret: signature::secret_text(&key) };
        Ok(Done::quietly(Written::json(StatusCode::OK, &view)))
    });
    told(&call, tenant, result).await
}
