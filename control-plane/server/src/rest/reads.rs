//! How far members have read: look it up, move it on.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::append::ChannelHead;
use millrace_domain::{Channel, Membership, in_present_epoch, mark_read as moved_on, newest, unread};
use millrace_protocol::client::NO_EPOCH;
use millrace_protocol::id::{ChannelName, Epoch, Position, TenantId, UserId};
use millrace_protocol::node::{HistoryClass, ReadMark};
use millrace_store::Transaction;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Names};
use super::call::{Call, Change, Done, InTenant, Written, change, found, read};
use super::channels::meet;
use super::fields::{self, Fields, Request};
use super::messages::check_readable;
use super::problem::{Kind, Problem};
use crate::record::{head, member};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(get_read, mark_read))
}

/// A place in a channel: everything up to and with it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = Position)]
pub(crate) struct PositionView {
    /// In which offsets compare.
    #[schema(example = 1)]
    epoch: u32,
    /// Of the last message that is behind it; 0 for none.
    #[schema(example = 17)]
    offset: u64,
}

impl PositionView {
    fn new(position: Position) -> Self {
        Self { epoch: position.epoch.get(), offset: position.offset }
    }
}

/// How far somebody is to have read.
#[derive(Debug, ToSchema)]
pub(crate) struct MarkRead {
    /// The epoch of the message.
    #[schema(value_type = u32, minimum = 1, example = 1)]
    epoch: Epoch,
    /// Everything up to and with this offset is read.
    #[schema(example = 17)]
    offset: u64,
}

impl Request for MarkRead {
    fn read(fields: &mut Fields) -> Option<Self> {
        let epoch = fields.required("epoch", |value| {
            let number = fields::number(1..=u32::MAX.into())(value)?;
            u32::try_from(number).ok().and_then(Epoch::new).ok_or_else(|| "is no epoch".to_owned())
        });
        let offset = fields.required("offset", fields::number(0..=u64::MAX));
        Some(Self { epoch: epoch?, offset: offset? })
    }
}

impl Body for MarkRead {}

/// How far a member has read a channel.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ReadState)]
pub(crate) struct ReadView {
    /// Everything up to and with it is read; offset 0 if nothing is.
    pub(super) read: PositionView,
    /// The newest message that is stored; offset 0 if none is.
    pub(super) newest: PositionView,
    /// How many messages are stored behind the read position.
    #[schema(example = 3)]
    pub(super) unread: u64,
}

impl ReadView {
    /// Of a channel that keeps history; `None` for another, where nothing can be unread.
    pub(super) fn new(channel: &Channel, read: Option<Position>, head: Option<&ChannelHead>) -> Option<Self> {
        if channel.history == HistoryClass::None {
            return None;
        }
        let nothing = Position { epoch: NO_EPOCH, offset: 0 };
        Some(Self {
            read: PositionView::new(in_present_epoch(read.unwrap_or(nothing), head)),
            newest: PositionView::new(head.map_or(nothing, newest)),
            unread: head.map_or(0, |head| unread(read, head)),
        })
    }

    /// As it stands now.
    pub(super) async fn of(
        transaction: &mut dyn Transaction,
        channel: &Channel,
        membership: &Membership,
    ) -> Result<Option<Self>, Problem> {
        let head = head::peek(transaction, channel.id).await?;
        Ok(Self::new(channel, membership.read, head.as_ref()))
    }
}

/// The tenant, and the user who calls; nobody looks at or moves the read position of another, but application servers.
fn own(call: &Call, user: &UserId) -> Result<(TenantId, Option<UserId>), Problem> {
    match call.caller()?.in_tenant()? {
        (_, Some(own)) if own != user => {
            Err(super::caller::wrong_scope("an API key for the read position of another user"))
        }
        (tenant, own) => Ok((tenant, own.cloned())),
    }
}

/// See how far a member has read.
///
/// For the member and for application servers. In a windowed channel `newest` may lack the newest second.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/members/{user}/read", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), ("user" = String, Path, description = "Who")),
    responses((status = 200, description = "As it is now", body = ReadView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn get_read(
    InTenant(call): InTenant,
    Names(name, user): Names<ChannelName, UserId>,
) -> Result<Response, Problem> {
    let (tenant, own) = own(&call, &user)?;
    let view = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own.as_ref()).await?;
        check_readable(&met)?;
        let membership = member::get(transaction, met.channel.id, &user).await?;
        let membership = membership.ok_or_else(|| Problem::not_found("member"))?;
        ReadView::of(transaction, &met.channel, &membership).await
    })?;
    Ok(found(&view))
}

/// Say how far a member has read.
///
/// For the member and for application servers. The position only moves on: one that is behind where it stands changes nothing, and the answer says
/// where it stands. The member's open sessions hear of it at once.
#[utoipa::path(
    put, path = "/v1/channels/{channel}/members/{user}/read", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), ("user" = String, Path, description = "Who")),
    request_body = MarkRead,
    responses((status = 200, description = "As it is now", body = ReadView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn mark_read(
    InTenant(call): InTenant,
    Names(name, user): Names<ChannelName, UserId>,
    body: Json<MarkRead>,
) -> Result<Response, Problem> {
    let (tenant, own) = own(&call, &user)?;
    let asked = Position { epoch: body.value.epoch, offset: body.value.offset };
    change!(call, body.digest, |transaction| {
        let met = meet(transaction, tenant, &name, own.as_ref()).await?;
        check_readable(&met)?;
        let channel = met.channel;
        let membership = member::get(transaction, channel.id, &user).await?;
        let membership = membership.ok_or_else(|| Problem::not_found("member"))?;
        let head = head::peek(transaction, channel.id).await?;
        let read = moved_on(membership.read, asked, head.as_ref())
            .map_err(|refusal| Problem::new(Kind::Conflict, refusal.message))?;
        if let Some(read) = read.filter(|read| membership.read != Some(*read)) {
            member::put_read(transaction, channel.id, &user, &membership, read);
        }
        let written = Written::json(StatusCode::OK, &ReadView::new(&channel, read, head.as_ref()));
        // Told again if it stood there before: a retry may come because the first answer was lost.
        let mark = |position| ReadMark { tenant, user: user.clone(), channel: channel.id, position };
        Ok(Done::with(written, read.map(|read| Change::Read(mark(read))).into_iter().collect()))
    })
}
