//! Messages of a channel over REST: publish one, read them page by page.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use millrace_domain::{Membership, grant, readable};
use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::{ChannelName, Offset, Producer, ProducerSequence, UserId};
use millrace_protocol::node::{HistoryRange, NewMessage, PublishOrder, ReadHistory, Role, StoredMessage};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Names, Query};
use super::call::{InTenant, Written, found, read};
use super::channels::{Met, meet};
use super::fields::{self, Fields, Request};
use super::page;
use super::problem::{Kind, Problem};
use crate::config::RestConfig;
use crate::record::{member, message};
use crate::secret;
use crate::transact::transact;

/// Payload of a page at most, in bytes.
const PAGE_BYTES_MAX: u32 = 1 << 20;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(publish_message, list_messages)).routes(routes!(get_message))
}

/// A message that is to be: either `text` or `data_base64`.
#[derive(Debug, ToSchema)]
pub(crate) struct PublishMessage {
    /// The payload as text.
    #[schema(example = "hello")]
    text: Option<String>,
    /// The payload as bytes, in base64.
    #[schema(value_type = Option<String>)]
    data_base64: Option<Vec<u8>>,
    /// For application servers, who have to: in whose name. They need to be a member who may publish.
    #[schema(value_type = Option<String>, max_length = 128, example = "ann")]
    user: Option<UserId>,
}

impl Request for PublishMessage {
    fn read(fields: &mut Fields) -> Option<Self> {
        let text = fields.optional("text", fields::string);
        let data = fields.optional("data_base64", fields::base64);
        let user = fields.optional("user", fields::text);
        let (text, data_base64) = (text?, data?);
        match (&text, &data_base64) {
            (None, None) => fields.error("text", "is missing, and so is data_base64"),
            (Some(_), Some(_)) => fields.error("data_base64", "is there beside text; send one of them"),
            _ => {}
        }
        Some(Self { text, data_base64, user: user? })
    }
}

impl Body for PublishMessage {
    fn body_bytes_max(config: &RestConfig) -> usize {
        // JSON may write each byte as \u00xx.
        config.payload_bytes_max.saturating_mul(6).saturating_add(1024)
    }
}

/// Where a message stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct Published {
    /// Its place in the channel, from 1; null without history, or for a repeated message that is too old to find.
    #[schema(example = 17)]
    offset: Option<u64>,
    /// In which offsets compare.
    #[schema(example = 1)]
    epoch: u32,
    /// When it was accepted; Unix time, ms. Null for a repeated message.
    time_ms: Option<i64>,
    /// It had been accepted before.
    duplicate: bool,
}

/// A message.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageView {
    /// Its place in the channel: contiguous, the first is 1.
    #[schema(example = 17)]
    offset: u64,
    /// In which offsets compare.
    #[schema(example = 1)]
    epoch: u32,
    /// When it was accepted; Unix time, ms.
    time_ms: i64,
    /// Who sent it.
    #[schema(example = "ann")]
    user: String,
    /// The payload, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hello")]
    text: Option<String>,
    /// The payload in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl MessageView {
    pub(crate) fn new(stored: &StoredMessage) -> Self {
        let body = &stored.message.body;
        let text = std::str::from_utf8(body).ok().map(str::to_owned);
        Self {
            offset: stored.offset.get(),
            epoch: stored.epoch.get(),
            time_ms: stored.message.time_ms,
            user: stored.message.user.to_string(),
            data_base64: text.is_none().then(|| STANDARD.encode(body)),
            text,
        }
    }
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
pub(crate) struct MessagePage {
    /// In ascending order, whichever way was asked.
    messages: Vec<MessageView>,
    /// Asks for the messages before these; null if there are none.
    older: Option<String>,
    /// Asks for the messages after these, also for those that are yet to come.
    newer: String,
}

/// Which messages. Without `before`, `after` and `cursor`: the newest.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what MessageQuery reads")]
pub(crate) struct MessageParams {
    /// At most so many, 1 to 100; by default 50. A page has at most 1 MiB of payload.
    limit: Option<u32>,
    /// `older` or `newer` of another page.
    cursor: Option<String>,
    /// The messages just before this offset.
    before: Option<u64>,
    /// The messages just after this offset; 0 begins at the first.
    after: Option<u64>,
}

pub(crate) struct MessageQuery {
    limit: u32,
    range: HistoryRange,
}

impl Request for MessageQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let limit = page::limit(fields);
        let cursor = fields.optional("cursor", |value| {
            let text = page::decode(&fields::string(value)?);
            text.and_then(|text| range_of_cursor(&text)).ok_or_else(page::bad_cursor)
        });
        let before = fields.optional("before", fields::digits(1..=u64::MAX));
        let after = fields.optional("after", fields::digits(0..=u64::MAX));
        let (limit, cursor, before, after) = (limit?, cursor?, before?, after?);
        let range = match (cursor, before.and_then(Offset::new), after) {
            (None, None, None) => HistoryRange::Newest,
            (Some(range), None, None) => range,
            (None, Some(before), None) => HistoryRange::Before(before),
            (None, None, Some(after)) => HistoryRange::After(after),
            _ => {
                fields.error("cursor", "only one of cursor, before and after may be given");
                return None;
            }
        };
        Some(Self { limit, range })
    }
}

fn range_of_cursor(text: &str) -> Option<HistoryRange> {
    match text.split_at_checked(1)? {
        ("<", offset) => Some(HistoryRange::Before(Offset::new(offset.parse().ok()?)?)),
        (">", offset) => Some(HistoryRange::After(offset.parse().ok()?)),
        _ => None,
    }
}

/// Publish a message.
///
/// A user publishes in their own name, an application server in the name of a member. With an `Idempotency-Key` the message is
/// accepted exactly once, however often and wherever the request is repeated.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/messages", tag = "messages", params(("channel" = String, Path, description = "Name of the channel")),
    request_body = PublishMessage,
    responses((status = 201, description = "Accepted", body = Published)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn publish_message(
    InTenant(call): InTenant,
    Name(name): Name<ChannelName>,
    body: Json<PublishMessage>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let Json { value, digest } = body;
    let payload = value.text.map(Bytes::from).or(value.data_base64.map(Bytes::from)).unwrap_or_default();
    let limit = call.rest.config.payload_bytes_max;
    if payload.len() > limit {
        return Err(Problem::new(Kind::TooLarge, format!("the payload is {} bytes, limit is {limit}", payload.len())));
    }
    let user = match (own, value.user) {
        (Some(own), None) => own.clone(),
        (Some(own), Some(named)) if *own == named => named,
        (Some(_), Some(_)) => return Err(super::caller::wrong_scope("an API key to publish in another user's name")),
        (None, Some(named)) => named,
        (None, None) => return Err(Problem::field("/user", "is missing; an application server names one")),
    };

    let slot = call.own_slot(digest)?;
    let checked = read!(call, |transaction| {
        if let Some(slot) = &slot
            && let Some(written) = slot.answer(transaction, call.now_ms).await?
        {
            return Ok(Err(written));
        }
        let Met { channel, .. } = meet(transaction, tenant, &name, own).await?;
        let membership = member::get(transaction, channel.id, &user).await?;
        Ok(Ok((grant(&channel, membership.as_ref()), membership.is_some())))
    })?;
    let (granted, is_member) = match checked {
        Ok(checked) => checked,
        Err(written) => return Ok(written.into_response()),
    };
    if !is_member && own.is_none() {
        return Err(Problem::field("/user", format!("{user} is no member of the channel")));
    }
    let granted = granted?;
    if !granted.can_publish {
        return Err(Refusal::new(Code::ReadOnly, "this role may read the channel but not publish to it").into());
    }

    // The caller's name of the request is the producer: the home that has accepted it once knows it again, whichever node asks.
    let producer = slot.as_ref().map_or_else(secret::random, |slot| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&slot.fingerprint()[..8]);
        bytes
    });
    let producer = Producer::new(u64::from_be_bytes(producer)).unwrap_or(Producer::new(1).expect("1 is not 0"));
    let message = NewMessage { user, producer, sequence: ProducerSequence::FIRST, time_ms: 0, body: payload };
    let order = PublishOrder { tenant, channel: granted.channel, history: granted.history, message };
    let deadline = call.rest.config.publish_deadline;
    let at = tokio::time::timeout(deadline, call.rest.data_plane.publish(order)).await.map_err(|_| {
        let problem = Problem::new(Kind::UnknownOutcome, "the channel's home did not answer in time");
        problem.after(Duration::from_secs(1))
    })??;

    let published = Published {
        offset: (at.position.offset > 0).then_some(at.position.offset),
        epoch: at.position.epoch.get(),
        time_ms: (at.time_ms > 0).then_some(at.time_ms),
        duplicate: at.duplicate,
    };
    let written = Written::json(StatusCode::CREATED, &published);
    if let Some(slot) = &slot {
        // Only for an answer that is the same to the letter: without it, a retry is still accepted once.
        let kept: Result<(), Problem> = transact!(&*call.rest.store, call.deadline(), |transaction| {
            slot.keep(transaction, &written, call.now_ms);
            Ok(())
        });
        if let Err(problem) = kept {
            tracing::warn!(kind = problem.kind().slug(), "the answer to a publish is not kept");
        }
    }
    Ok(written.into_response())
}

/// Read messages.
///
/// The newest page first; `older` and `newer` lead on in both directions. For members and application servers, also when the channel
/// is archived. In a windowed channel the newest second may still be missing.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/messages", tag = "messages",
    params(("channel" = String, Path, description = "Name of the channel"), MessageParams),
    responses((status = 200, description = "A page", body = MessagePage)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn list_messages(
    InTenant(call): InTenant,
    Name(name): Name<ChannelName>,
    Query(query): Query<MessageQuery>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let MessageQuery { limit, range } = query;
    let page = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own).await?;
        check_readable(&met)?;
        let read = ReadHistory { channel: met.channel.id, messages_max: limit, bytes_max: PAGE_BYTES_MAX, range };
        Ok(message::page(transaction, &read).await?)
    })?;
    let first = page.messages.first().map(|message| message.offset.get());
    let last = page.messages.last().map(|message| message.offset.get());
    // Nothing found: the place asked for is where the next page begins.
    let (before, after) = match range {
        HistoryRange::Newest => (None, 0),
        HistoryRange::Before(offset) => (None, offset.get() - 1),
        HistoryRange::After(offset) => ((offset > 0).then(|| offset.saturating_add(1)), offset),
    };
    let has_older = match range {
        HistoryRange::After(_) => first.or(before).is_some_and(|first| first > 1),
        HistoryRange::Newest | HistoryRange::Before(_) => page.more,
    };
    let body = MessagePage {
        messages: page.messages.iter().map(|message: &Arc<StoredMessage>| MessageView::new(message)).collect(),
        older: first.or(before).filter(|_| has_older).map(|first| page::encode(&format!("<{first}"))),
        newer: page::encode(&format!(">{}", last.unwrap_or(after))),
    };
    Ok(found(&body))
}

/// Look a message up.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/messages/{offset}", tag = "messages",
    params(("channel" = String, Path, description = "Name of the channel"), ("offset" = u64, Path, description = "Its place, from 1")),
    responses((status = 200, description = "The message", body = MessageView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn get_message(
    InTenant(call): InTenant,
    Names(name, offset): Names<ChannelName, u64>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let stored = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own).await?;
        check_readable(&met)?;
        let offset = Offset::new(offset).ok_or_else(|| Problem::not_found("message"))?;
        Ok(message::get(transaction, met.channel.id, offset).await?)
    })?;
    let stored = stored.ok_or_else(|| Problem::not_found("message"))?;
    Ok(found(&MessageView::new(&stored)))
}

/// An application server reads whatever is kept; a user what a member may.
pub(super) fn check_readable(met: &Met) -> Result<(), Problem> {
    let as_owner = Membership { role: Role::Owner, since_ms: 0, read: None };
    Ok(readable(&met.channel, Some(&met.membership.unwrap_or(as_owner)))?)
}
