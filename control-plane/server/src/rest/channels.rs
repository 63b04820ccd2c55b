//! Channels: create, look up, change, archive, list.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::append::ChannelHead;
use millrace_domain::{
    Actor, Channel, ChannelDraft, ChannelPatch, DisplayName, EventKind, INITIAL_MEMBERS_MAX, Membership, Metadata,
    NewChannel,
};
use millrace_protocol::id::{ChannelId, ChannelName, TenantId, UserId};
use millrace_protocol::node::{ChannelKind, HistoryClass, Role, SlowConsumer};
use millrace_store::Transaction;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Query};
use super::call::{Change, Done, InTenant, Written, change, found, read};
use super::fields::{self, Fields, Request};
use super::members::{MemberView, view as member_view};
use super::page::{PageQuery, cut};
use super::problem::{Kind, Problem};
use super::reads::ReadView;
use super::users::user_event;
use super::words::{HistoryWord, KindWord, RoleWord, SlowConsumerWord};
use crate::record::{channel, head, member, user};
use crate::secret;
use crate::webhooks::Event;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create_channel, list_channels)).routes(routes!(
        get_channel,
        update_channel,
        archive_channel
    ))
}

/// A channel that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct CreateChannel {
    /// Unique in the tenant; 1 to 128 bytes of letters, digits and `-_.:@~`, not beginning with `dm:`. A dm gets its name from its members.
    #[schema(value_type = Option<String>, max_length = 128, example = "general")]
    name: Option<ChannelName>,
    #[schema(value_type = KindWord, example = "group")]
    kind: ChannelKind,
    /// By default `durable`, for a broadcast `windowed`. It never changes.
    #[schema(value_type = Option<HistoryWord>)]
    history: Option<HistoryClass>,
    /// By default `disconnect`, for a broadcast `skip`.
    #[schema(value_type = Option<SlowConsumerWord>)]
    slow_consumer: Option<SlowConsumer>,
    /// For people to read; 1 to 256 bytes, with something to be seen, no blanks at the ends, no control characters and none that change the direction of text. Kept in normalization form C.
    #[schema(value_type = Option<String>, max_length = 256, example = "General talk")]
    display_name: Option<DisplayName>,
    /// The application's own JSON object; at most 4 KiB when written compactly.
    #[schema(value_type = Option<Object>)]
    metadata: Metadata,
    /// Members from the start, at most 100. A user who creates a channel is its owner and need not be listed; an application
    /// server names at least one owner. A dm has one or two members, all with the role `member`.
    #[schema(max_items = 100, required = false, example = json!([{"user": "ann", "role": "owner"}, {"user": "bob"}]))]
    members: Vec<MemberDraft>,
}

/// A member that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct MemberDraft {
    /// Who; created if there is no such user yet.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "ann")]
    pub(super) user: UserId,
    /// By default `member`.
    #[schema(value_type = Option<RoleWord>, example = "owner")]
    pub(super) role: Role,
}

impl Request for MemberDraft {
    fn read(fields: &mut Fields) -> Option<Self> {
        let user = fields.required("user", fields::text);
        let role = fields.optional("role", fields::word);
        Some(Self { user: user?, role: role?.unwrap_or(Role::Member) })
    }
}

impl Body for MemberDraft {}

impl Request for CreateChannel {
    fn read(fields: &mut Fields) -> Option<Self> {
        let name = fields.optional("name", fields::text);
        let kind = fields.required("kind", fields::word);
        let history = fields.optional("history", fields::word);
        let slow_consumer = fields.optional("slow_consumer", fields::word);
        let display_name = fields.optional("display_name", fields::text);
        let metadata = fields.optional("metadata", fields::metadata);
        let members = fields.list("members", INITIAL_MEMBERS_MAX);
        Some(Self {
            name: name?,
            kind: kind?,
            history: history?,
            slow_consumer: slow_consumer?,
            display_name: display_name?,
            metadata: metadata?.unwrap_or_default(),
            members: members?,
        })
    }
}

impl Body for CreateChannel {}

/// What is to change; a field that is missing stays as it is.
#[derive(Debug, ToSchema)]
pub(crate) struct UpdateChannel {
    /// `null` takes it away.
    #[schema(value_type = Option<String>, max_length = 256, example = "General talk")]
    display_name: Option<Option<DisplayName>>,
    /// Takes the place of the whole object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Metadata>,
    #[schema(value_type = Option<SlowConsumerWord>)]
    slow_consumer: Option<SlowConsumer>,
}

impl Request for UpdateChannel {
    fn read(fields: &mut Fields) -> Option<Self> {
        let display_name = fields.nullable("display_name", fields::text);
        let metadata = fields.optional("metadata", fields::metadata);
        let slow_consumer = fields.optional("slow_consumer", fields::word);
        Some(Self { display_name: display_name?, metadata: metadata?, slow_consumer: slow_consumer? })
    }
}

impl Body for UpdateChannel {}

/// A channel.
#[derive(Serialize, ToSchema)]
#[schema(as = Channel)]
pub(crate) struct ChannelView {
    /// Its number, unique in the deployment; a string, because it may be beyond what JavaScript counts exactly.
    #[schema(example = "4611686018427387904")]
    id: String,
    /// Its name, unique in the tenant.
    #[schema(example = "general")]
    name: String,
    kind: KindWord,
    history: HistoryWord,
    slow_consumer: SlowConsumerWord,
    /// For people to read.
    display_name: Option<String>,
    /// The application's own.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// When it began; Unix time, ms.
    created_ms: i64,
    /// When its settings last changed; Unix time, ms.
    updated_ms: i64,
    /// When it was archived; Unix time, ms.
    archived_ms: Option<i64>,
    /// The role of the user who asks; absent for application servers, unless they ask for a user's channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<RoleWord>,
    /// How far that user has read it. Absent as `role` is, and for a channel that keeps no history.
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<ReadView>,
}

impl ChannelView {
    /// For an application server.
    fn new(channel: &Channel) -> Self {
        Self {
            id: channel.id.to_string(),
            name: channel.name.to_string(),
            kind: KindWord(channel.kind),
            history: HistoryWord(channel.history),
            slow_consumer: SlowConsumerWord(channel.slow_consumer),
            display_name: channel.display_name.as_ref().map(ToString::to_string),
            metadata: channel.metadata.as_object().clone(),
            created_ms: channel.created_ms,
            updated_ms: channel.updated_ms,
            archived_ms: channel.archived_ms,
            role: None,
            reads: None,
        }
    }

    /// For a member.
    fn of_member(channel: &Channel, membership: &Membership, head: Option<&ChannelHead>) -> Self {
        let reads = ReadView::new(channel, membership.read, head);
        Self { role: Some(RoleWord(membership.role)), reads, ..Self::new(channel) }
    }

    /// For whoever asks.
    async fn of(
        transaction: &mut dyn Transaction,
        channel: &Channel,
        membership: Option<&Membership>,
    ) -> Result<Self, Problem> {
        let Some(membership) = membership else { return Ok(Self::new(channel)) };
        let head = head::peek(transaction, channel.id).await?;
        Ok(Self::of_member(channel, membership, head.as_ref()))
    }
}

/// A page of channels.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChannelPage {
    channels: Vec<ChannelView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// Which channels.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what ListQuery reads")]
pub(crate) struct ListParams {
    /// At most so many, 1 to 100; by default 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// For application servers: only the channels of this user.
    user: Option<String>,
}

pub(crate) struct ListQuery {
    page: PageQuery,
    user: Option<UserId>,
}

impl Request for ListQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let page = PageQuery::read(fields);
        let user = fields.optional("user", fields::text);
        Some(Self { page: page?, user: user? })
    }
}

/// Where a channel is.
pub(super) fn path(name: &ChannelName) -> String {
    format!("/v1/channels/{}", super::encode_segment(name.as_str()))
}

/// A channel as a caller meets it, with the caller's membership if it is a user.
pub(super) struct Met {
    pub(super) channel: Channel,
    pub(super) membership: Option<Membership>,
}

impl Met {
    /// Who acts on the channel.
    pub(super) fn actor<'a>(&self, user: Option<&'a UserId>) -> Actor<'a> {
        match user {
            None => Actor::Application,
            Some(user) => Actor::User(user, self.membership.map(|membership| membership.role)),
        }
    }
}

/// Finds a channel for an application server, or for a user who is a member of it.
///
/// # Errors
/// [`Kind::NotFound`] in the same words for a channel that is not there and one that the user is no member of.
pub(super) async fn meet(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    name: &ChannelName,
    user: Option<&UserId>,
) -> Result<Met, Problem> {
    let not_found = || Problem::not_found("channel");
    let channel = channel::by_name(transaction, tenant, name).await?.ok_or_else(not_found)?;
    let membership = match user {
        Some(user) => Some(member::get(transaction, channel.id, user).await?.ok_or_else(not_found)?),
        None => None,
    };
    Ok(Met { channel, membership })
}

/// Create a channel.
///
/// A user becomes its owner. Creating the dm of two users who have one already gives that one, with status 200.
#[utoipa::path(
    post, path = "/v1/channels", tag = "channels", request_body = CreateChannel,
    responses((status = 201, description = "Created", body = ChannelView), (status = 200, description = "The dm was there already", body = ChannelView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn create_channel(InTenant(call): InTenant, body: Json<CreateChannel>) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let Json { value, digest } = body;
    let draft = ChannelDraft {
        name: value.name,
        kind: value.kind,
        history: value.history,
        slow_consumer: value.slow_consumer,
        display_name: value.display_name,
        metadata: value.metadata,
        members: value.members.into_iter().map(|member| (member.user, member.role)).collect(),
    };
    let actor = own.map_or(Actor::Application, |user| Actor::User(user, None));
    // Random, so that channels spread over slots; 63 bits, so that every language has a type for it.
    let id = secret::channel_id();
    let NewChannel { channel: new, members } = Channel::create(actor, tenant, id, draft, call.now_ms)?;
    let own_role = own.and_then(|own| members.iter().find(|(user, _)| user == own)).map(|(_, role)| *role);
    let creator = own_role.map(|role| Membership { role, since_ms: call.now_ms, read: None });

    let _turn = call.turn(tenant, new.name.as_str()).await;
    change!(call, digest, |transaction| {
        if let Some(present) = channel::by_name(transaction, tenant, &new.name).await? {
            return match present.kind {
                _ if present.id == new.id => Ok(created(&new, creator.as_ref())),
                // The name stands for its members, so that it is the same dm.
                ChannelKind::Dm => {
                    let membership = match own {
                        Some(own) => member::get(transaction, present.id, own).await?,
                        None => None,
                    };
                    let view = ChannelView::of(transaction, &present, membership.as_ref()).await?;
                    Ok(Done::quietly(Written::json(StatusCode::OK, &view).at(path(&new.name))))
                }
                _ => Err(Problem::new(Kind::AlreadyExists, format!("there is a channel {} already", new.name))),
            };
        }
        if channel::by_id(transaction, new.id).await?.is_some() {
            return Err(Problem::new(Kind::Unavailable, "the channel's number is taken; try again"));
        }
        let mut events = Vec::new();
        for (member, role) in &members {
            let named = user::ensure(transaction, tenant, member, call.now_ms).await?;
            events.extend(named.map(|user| user_event(EventKind::UserCreated, tenant, &user)));
            let membership = Membership { role: *role, since_ms: call.now_ms, read: None };
            member::put(transaction, tenant, new.id, member, &membership);
        }
        channel::insert(transaction, &new);
        let joined = |(user, role): &(UserId, Role)| {
            member_view(user, &Membership { role: *role, since_ms: call.now_ms, read: None }, None)
        };
        let data = Created { channel: ChannelView::new(&new), members: members.iter().map(joined).collect() };
        events.push(Event::in_channel(EventKind::ChannelCreated, tenant, new.id, &new.name, &data));
        Ok(created(&new, creator.as_ref()).telling(events))
    })
}

/// What webhooks hear of a new channel.
#[derive(Serialize)]
struct Created {
    channel: ChannelView,
    members: Vec<MemberView>,
}

/// What webhooks hear of a change to a channel's own record.
pub(super) fn channel_event(kind: EventKind, channel: &Channel) -> Event {
    let data = serde_json::json!({ "channel": ChannelView::new(channel) });
    Event::in_channel(kind, channel.tenant, channel.id, &channel.name, &data)
}

fn created(channel: &Channel, creator: Option<&Membership>) -> Done {
    let view =
        creator.map_or_else(|| ChannelView::new(channel), |creator| ChannelView::of_member(channel, creator, None));
    let written = Written::json(StatusCode::CREATED, &view).at(path(&channel.name));
    // A node may remember that there was no such channel.
    Done::with(written, vec![Change::Channel(channel.clone())])
}

/// List channels.
///
/// A user sees the channels that they are a member of, an application server all channels of its tenant by name.
#[utoipa::path(
    get, path = "/v1/channels", tag = "channels", params(ListParams),
    responses((status = 200, description = "A page", body = ChannelPage)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn list_channels(InTenant(call): InTenant, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    if let (Some(own), Some(user)) = (own, &query.user)
        && own != user
    {
        return Err(super::caller::wrong_scope("an API key to list another user's channels"));
    }
    let limit = query.page.limit;
    let page = match own.or(query.user.as_ref()) {
        Some(user) => {
            let after = query.page.after(|cursor| cursor.parse().ok().and_then(ChannelId::new))?;
            let mut ids = read!(call, |transaction| {
                Ok(member::channels_of_user(transaction, tenant, user, after, limit + 1).await?)
            })?;
            let next = cut(&mut ids, limit, ToString::to_string);
            let channels = read!(call, |transaction| {
                let mut channels = Vec::with_capacity(ids.len());
                for id in &ids {
                    let membership = member::get(transaction, *id, user).await?;
                    let channel = channel::by_id(transaction, *id).await?;
                    if let (Some(channel), Some(membership)) = (channel, membership) {
                        channels.push(ChannelView::of(transaction, &channel, Some(&membership)).await?);
                    }
                }
                Ok(channels)
            })?;
            ChannelPage { channels, next }
        }
        None => {
            let after = query.page.after(|cursor| cursor.parse().ok())?;
            let mut channels = read!(call, |transaction| {
                Ok(channel::page(transaction, tenant, after.as_ref(), limit + 1).await?)
            })?;
            let next = cut(&mut channels, limit, |channel| channel.name.to_string());
            ChannelPage { channels: channels.iter().map(ChannelView::new).collect(), next }
        }
    };
    Ok(found(&page))
}

/// Look a channel up.
#[utoipa::path(
    get, path = "/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path, description = "Its name")),
    responses((status = 200, description = "The channel", body = ChannelView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn get_channel(InTenant(call): InTenant, Name(name): Name<ChannelName>) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let view = read!(call, |transaction| {
        let met = meet(transaction, tenant, &name, own).await?;
        ChannelView::of(transaction, &met.channel, met.membership.as_ref()).await
    })?;
    Ok(found(&view))
}

/// Change a channel's settings.
///
/// For moderators, owners and application servers; the settings of a dm are the application server's.
#[utoipa::path(
    patch, path = "/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path, description = "Its name")),
    request_body = UpdateChannel,
    responses((status = 200, description = "As it is now", body = ChannelView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn update_channel(
    InTenant(call): InTenant,
    Name(name): Name<ChannelName>,
    body: Json<UpdateChannel>,
) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let _turn = call.turn(tenant, name.as_str()).await;
    change!(call, body.digest, |transaction| {
        let mut met = meet(transaction, tenant, &name, own).await?;
        let UpdateChannel { display_name, metadata, slow_consumer } = &body.value;
        let patch = ChannelPatch {
            display_name: display_name.clone(),
            metadata: metadata.clone(),
            slow_consumer: *slow_consumer,
        };
        let actor = met.actor(own);
        let changed = met.channel.update(actor, patch, call.now_ms)?;
        let view = ChannelView::of(transaction, &met.channel, met.membership.as_ref()).await?;
        let written = Written::json(StatusCode::OK, &view);
        if !changed {
            return Ok(Done::quietly(written));
        }
        channel::put(transaction, &met.channel);
        let events = vec![channel_event(EventKind::ChannelUpdated, &met.channel)];
        Ok(Done::with(written, vec![Change::Channel(met.channel)]).telling(events))
    })
}

/// Archive a channel.
///
/// For owners and application servers. Open subscriptions end, nothing more is accepted; members may still read. Its name stays taken.
/// Archiving an archived channel changes nothing.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path, description = "Its name")),
    responses((status = 200, description = "As it is now", body = ChannelView)),
    security(("api_key" = []), ("access_token" = []))
)]
async fn archive_channel(InTenant(call): InTenant, Name(name): Name<ChannelName>) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    let _turn = call.turn(tenant, name.as_str()).await;
    change!(call, [0; 32], |transaction| {
        let mut met = meet(transaction, tenant, &name, own).await?;
        let actor = met.actor(own);
        let mut events = Vec::new();
        if met.channel.archive(actor, call.now_ms)? {
            channel::put(transaction, &met.channel);
            events.push(channel_event(EventKind::ChannelArchived, &met.channel));
        }
        let view = ChannelView::of(transaction, &met.channel, met.membership.as_ref()).await?;
        let written = Written::json(StatusCode::OK, &view);
        // Told again if it was archived before: a retry may come because the first answer was lost.
        Ok(Done::with(written, vec![Change::Channel(met.channel)]).telling(events))
    })
}
