//! Members of a channel: add, look up, change, remove, list.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::{Channel, EventKind, MemberChange, Membership, newest};
use millrace_protocol::id::{ChannelName, TenantId, UserId};
use millrace_protocol::node::Role;
use millrace_store::Transaction;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Names, Query};
use super::call::{Change, Done, InTenant, Written, change, found, read};
use super::channels::{MemberDraft, Met, channel_event, meet, path};
use super::fields::{self, Fields, Request};
use super::page::{PageQuery, cut};
use super::problem::{Kind, Problem};
use super::users::user_event;
use super::words::RoleWord;
use crate::record::{channel, head, member, user};
use crate::webhooks::{ChannelRef, Event};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(add_member, list_members)).routes(routes!(
        get_member,
        change_member,
        remove_member
    ))
}

/// A member's new role.
#[derive(Debug, ToSchema)]
pub(crate) struct ChangeMember {
    #[schema(value_type = RoleWord, example = "moderator")]
    role: Role,
}

impl Request for ChangeMember {
    fn read(fields: &mut Fields) -> Option<Self> {
        let role = fields.required("role", fields::word);
        Some(Self { role: role? })
    }
}

impl Body for ChangeMember {}

/// A member of a channel.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(crate) struct MemberView {
    /// Who.
    #[schema(example = "ann")]
    user: String,
    role: RoleWord,
    /// When they became one; Unix time, ms.
    since_ms: i64,
    /// The user's name for people to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
}

/// A page of members.
#[derive(Serialize, ToSchema)]
pub(crate) struct MemberPage {
    /// By name.
    members: Vec<MemberView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what PageQuery reads")]
pub(crate) struct PageParams {
    /// At most so many, 1 to 100; by default 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

impl Request for PageQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        PageQuery::read(fields)
    }
}

pub(super) fn view(user: &UserId, membership: &Membership, display_name: Option<String>) -> MemberView {
    let Membership { role, since_ms, .. } = *membership;
    MemberView { user: user.to_string(), role: RoleWord(role), since_ms, display_name }
}

fn member_path(name: &ChannelName, user: &UserId) -> String {
    format!("{}/members/{}", path(name), super::encode_segment(user.as_str()))
}

/// What webhooks hear of a membership.
fn event(kind: EventKind, channel: &Channel, user: &UserId, membership: &Membership) -> Event {
    let about = ChannelRef::new(channel.id, &channel.name);
    let data = serde_json::json!({ "channel": about, "member": view(user, membership, None) });
    Event::in_channel(kind, channel.tenant, channel.id, &channel.name, &data)
}

/// What became of a membership.
struct Settled {
    membership: Option<Membership>,
    changes: Vec<Change>,
    events: Vec<Event>,
}

/// Writes what became of a membership, and says it. `standing` is the present one, or what it begins with.
fn settle(
    transaction: &mut dyn Transaction,
    met: Met,
    before: &Channel,
    user: &UserId,
    present: Option<Membership>,
    change: MemberChange,
    standing: Membership,
) -> Settled {
    let channel = met.channel;
    // The count of owners is the only thing in the channel that members change: most changes leave the record alone.
    if channel.owners != before.owners {
        channel::put(transaction, &channel);
    }
    match change {
        MemberChange::Unchanged => Settled { membership: present, changes: Vec::new(), events: Vec::new() },
        MemberChange::Set(role) => {
            let membership = Membership { role, ..standing };
            member::put(transaction, channel.tenant, channel.id, user, &membership);
            let kind = if present.is_some() { EventKind::MemberUpdated } else { EventKind::MemberAdded };
            let events = vec![event(kind, &channel, user, &membership)];
            let changes = vec![Change::Member(channel, user.clone(), Some(role))];
            Settled { membership: Some(membership), changes, events }
        }
        MemberChange::Removed => {
            member::remove(transaction, channel.tenant, channel.id, user);
            let events = vec![event(EventKind::MemberRemoved, &channel, user, &standing)];
            Settled { membership: None, changes: vec![Change::Member(channel, user.clone(), None)], events }
        }
    }
}

/// Add a member.
///
/// For moderators, owners and application servers; nobody gives a role above their own. Adding a member who is one with the same role changes nothing.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/members", tag = "members", params(("channel" = String, Path, description = "Name of the channel")),
    request_body = MemberDraft,
    responses((status = 201, description = "Added", body = MemberView), (status = 200, description = "Was one already", body = MemberView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn add_member(
    InTenant(call): InTenant,
    Name(name): Name<ChannelName>,
    body: Json<MemberDraft>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let MemberDraft { user: target, role } = &body.value;
    let _turn = call.turn(tenant, name.as_str()).await;
    change!(call, body.digest, |transaction| {
        let mut met = meet(transaction, tenant, &name, own).await?;
        let before = met.channel.clone();
        let present = member::get(transaction, met.channel.id, target).await?;
        let actor = met.actor(own);
        let change = met.channel.add_member(actor, target, present.map(|present| present.role), *role)?;
        let named = user::ensure(transaction, tenant, target, call.now_ms).await?;
        // What was said before somebody came is not unread.
        let read = head::peek(transaction, met.channel.id).await?.as_ref().map(newest);
        let joining = Membership { role: *role, since_ms: call.now_ms, read };
        let standing = present.unwrap_or(joining);
        let settled = settle(transaction, met, &before, target, present, change, standing);
        let membership = settled.membership.unwrap_or(joining);
        let status = if present.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let written = Written::json(status, &view(target, &membership, None)).at(member_path(&name, target));
        let mut events: Vec<_> = named.iter().map(|user| user_event(EventKind::UserCreated, tenant, user)).collect();
        events.extend(settled.events);
        Ok(Done::with(written, settled.changes).telling(events))
    })
}

/// List the members of a channel.
///
/// By name, for its members and application servers.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/members", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), PageParams),
    responses((status = 200, description = "A page", body = MemberPage)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn list_members(
    InTenant(call): InTenant,
    Name(name): Name<ChannelName>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let after = query.after(|cursor| UserId::new(cursor).ok())?;
    let page = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own).await?;
        let mut rows = member::page(transaction, met.channel.id, after.as_ref(), query.limit + 1).await?;
        let next = cut(&mut rows, query.limit, |(user, _)| user.to_string());
        let mut members = Vec::with_capacity(rows.len());
        for (id, membership) in &rows {
            let record = user::get(transaction, tenant, id).await?;
            let display_name = record.and_then(|user| user.display_name).map(String::from);
            members.push(view(id, membership, display_name));
        }
        Ok(MemberPage { members, next })
    })?;
    Ok(found(&page))
}

/// Look a member up.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/members/{user}", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), ("user" = String, Path, description = "Who")),
    responses((status = 200, description = "The member", body = MemberView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn get_member(
    InTenant(call): InTenant,
    Names(name, target): Names<ChannelName, UserId>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let member = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own).await?;
        let membership = member::get(transaction, met.channel.id, &target).await?;
        let membership = membership.ok_or_else(|| Problem::not_found("member"))?;
        let record = user::get(transaction, tenant, &target).await?;
        Ok(view(&target, &membership, record.and_then(|user| user.display_name).map(String::from)))
    })?;
    Ok(found(&member))
}

/// Change a member's role.
///
/// For moderators, owners and application servers; nobody changes a role above their own or gives one. The last owner stays one.
#[utoipa::path(
    patch, path = "/v1/channels/{channel}/members/{user}", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), ("user" = String, Path, description = "Who")),
    request_body = ChangeMember,
    responses((status = 200, description = "As it is now", body = MemberView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn change_member(
    InTenant(call): InTenant,
    Names(name, target): Names<ChannelName, UserId>,
    body: Json<ChangeMember>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let role = body.value.role;
    let _turn = call.turn(tenant, name.as_str()).await;
    change!(call, body.digest, |transaction| {
        let mut met = meet(transaction, tenant, &name, own).await?;
        let before = met.channel.clone();
        let present = member::get(transaction, met.channel.id, &target).await?;
        let actor = met.actor(own);
        let change = met.channel.change_role(actor, &target, present.map(|present| present.role), role)?;
        let standing = present.ok_or_else(|| Problem::not_found("member"))?;
        let settled = settle(transaction, met, &before, &target, present, change, standing);
        let membership = settled.membership.ok_or_else(|| Problem::not_found("member"))?;
        let written = Written::json(StatusCode::OK, &view(&target, &membership, None));
        Ok(Done::with(written, settled.changes).telling(settled.events))
    })
}

/// Remove a member, or leave.
///
/// Everybody may leave but the last owner and the members of a dm. Removing others is for moderators, owners and application servers.
/// Their open subscriptions to the channel end within a second.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}/members/{user}", tag = "members",
    params(("channel" = String, Path, description = "Name of the channel"), ("user" = String, Path, description = "Who")),
    responses((status = 204, description = "No member any more")),
    security(("api_key" = []), ("access_token" = []))
)]
async fn remove_member(
    InTenant(call): InTenant,
    Names(name, target): Names<ChannelName, UserId>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let _turn = call.turn(tenant, name.as_str()).await;
    let mut removed = false;
    change!(call, [0; 32], |transaction| {
        // By an earlier run of this very request, whose commit was not heard of: who left does not even meet the channel any more.
        if removed && is_gone(transaction, tenant, &name, &target).await? {
            return Ok(Done::quietly(Written::empty()));
        }
        let mut met = meet(transaction, tenant, &name, own).await?;
        let before = met.channel.clone();
        let present = member::get(transaction, met.channel.id, &target).await?;
        let actor = met.actor(own);
        let change = met.channel.remove_member(actor, &target, present.map(|present| present.role))?;
        let standing = present.ok_or_else(|| Problem::not_found("member"))?;
        let settled = settle(transaction, met, &before, &target, present, change, standing);
        removed = true;
        Ok(Done::with(Written::empty(), settled.changes).telling(settled.events))
    })
}

async fn is_gone(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    name: &ChannelName,
    user: &UserId,
) -> Result<bool, Problem> {
    let Some(channel) = channel::by_name(transaction, tenant, name).await? else { return Ok(true) };
    Ok(member::get(transaction, channel.id, user).await?.is_none())
}

/// Takes a user out of a channel who ceases to exist. Tells whether they were in it.
///
/// # Errors
/// The store's.
pub(super) async fn forget_member(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    mut channel: Channel,
    leaving: &UserId,
    now_ms: i64,
) -> Result<(Vec<Change>, Vec<Event>), Problem> {
    /// Among so many of the other members the heir is looked for.
    const CANDIDATES: u32 = 100;

    let Some(present) = member::get(transaction, channel.id, leaving).await? else { return Ok(Default::default()) };
    let others = member::page(transaction, channel.id, None, CANDIDATES + 1).await?;
    let heir = others.into_iter().filter(|(user, _)| user != leaving).min_by_key(|(_, membership)| membership.role);
    let departure = channel.lose_member(present.role, heir.as_ref().map(|(_, membership)| membership.role), now_ms);
    member::remove(transaction, tenant, channel.id, leaving);
    let mut changes = vec![Change::Member(channel.clone(), leaving.clone(), None)];
    let mut events = vec![event(EventKind::MemberRemoved, &channel, leaving, &present)];
    match (departure, heir) {
        (millrace_domain::Departure::Inherited, Some((heir, membership))) => {
            // Read by key, so that the commit makes sure that the heir is still a member.
            member::get(transaction, channel.id, &heir)
                .await?
                .ok_or_else(|| Problem::new(Kind::Unavailable, "members are changing; try again"))?;
            let membership = Membership { role: Role::Owner, ..membership };
            member::put(transaction, tenant, channel.id, &heir, &membership);
            events.push(event(EventKind::MemberUpdated, &channel, &heir, &membership));
            changes.push(Change::Member(channel.clone(), heir, Some(Role::Owner)));
        }
        (millrace_domain::Departure::Archived, _) => {
            events.push(channel_event(EventKind::ChannelArchived, &channel));
            changes.push(Change::Channel(channel.clone()));
        }
        _ => {}
    }
    channel::put(transaction, &channel);
    Ok((changes, events))
}
