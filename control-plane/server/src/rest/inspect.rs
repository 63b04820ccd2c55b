//! Looking a user's sessions or a channel's subscribers up, live: why did this client miss this message?

use std::collections::HashMap;

use axum::response::Response;
use millrace_domain::append::ChannelHead;
use millrace_domain::{Channel, TenantName};
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::{ChannelId, ChannelName, TenantId, UserId};
use millrace_protocol::node::{
    HistoryClass, HomeState, HomeView, Incident, IncidentChannel, IncidentKind, Inspect, InspectSubject, Inspected,
    NodeBody, SessionView, SubscriptionState, SubscriptionView, Transport,
};
use millrace_store::Transaction;
use serde::Serialize;
use tokio::task::JoinSet;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Name, Query};
use super::call::{ByServer, Call, found, read};
use super::caller::Caller;
use super::fields::{self, Fields, Request};
use super::page;
use super::problem::Problem;
use super::words::{HistoryWord, KindWord};
use crate::record::{channel, head, tenant};

/// Slots of the channel space: a channel's is its number modulo this.
const SLOTS: u64 = 1024;
/// Channels of a user whose heads are looked up, to say how far behind a subscription is.
const HEADS_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(inspect_user)).routes(routes!(inspect_channel))
}

/// How much, and whose.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what InspectQuery reads")]
pub(crate) struct InspectParams {
    /// At most so many sessions and so many incidents, 1 to 100; by default 50.
    limit: Option<u32>,
    /// For operators, who have to say it: of which tenant. An API key means its own.
    tenant: Option<String>,
}

pub(crate) struct InspectQuery {
    limit: u16,
    tenant: Option<TenantName>,
}

impl Request for InspectQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let limit = page::limit(fields);
        let tenant = fields.optional("tenant", fields::text);
        Some(Self { limit: limit.and_then(|limit| u16::try_from(limit).ok())?, tenant: tenant? })
    }
}

/// How a subscription stands: `joining` waits for the first answer of the channel's home, `replaying` reads what it missed page by page, `live` gets each
/// message as it comes, `catching_up` was live and its shard reads what it missed, `attached` only publishes and reads history.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SubscriptionState)]
pub(crate) enum SubscriptionWord {
    Joining,
    Replaying,
    Live,
    CatchingUp,
    Attached,
}

/// How a client is connected.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Transport)]
pub(crate) enum TransportWord {
    Websocket,
}

/// What happened: a session `ended`, a request was `refused`, a subscription was `unsubscribed` without asking, a position could not be resumed from so that the
/// client had to `reload`, or messages were `skipped` for a slow session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IncidentKind)]
pub(crate) enum IncidentWord {
    Ended,
    Refused,
    Unsubscribed,
    Reload,
    Skipped,
}

/// How a home stands: `opening` asks for the channel's head, `catching_up` reads what was stored, `open` orders messages, `archived` stores the rest, `closing`
/// gives the head back.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HomeState)]
pub(crate) enum HomeWord {
    Opening,
    CatchingUp,
    Open,
    Archived,
    Closing,
}

/// A subscription of a session.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionSubscription)]
pub(crate) struct SubscriptionInspection {
    /// Name of the channel.
    #[schema(example = "general")]
    channel: String,
    /// Its number.
    channel_id: String,
    state: SubscriptionWord,
    /// Epoch of `offset`; null where there is no position.
    epoch: Option<u32>,
    /// The last message that went into the session's queue, or that the client resumed from; null where there is no position.
    offset: Option<u64>,
    /// Messages that are stored after `offset`; null where that is not known.
    behind: Option<u64>,
    /// Whether the user may publish there.
    can_publish: bool,
}

/// A session, as its data node sees it at this moment.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionInspection {
    /// As the client was told.
    #[schema(example = "5f0c9e7d2b1a48c38e0d4f6a7b8c9d0e")]
    id: String,
    /// Whose.
    #[schema(example = "ann")]
    user: String,
    /// On which data node.
    node: String,
    /// On which of its shards.
    shard: u16,
    transport: TransportWord,
    /// Address and port of the peer; null if it has just gone.
    #[schema(example = "192.0.2.7:51234")]
    remote: Option<String>,
    /// What the client says that it is.
    #[schema(example = "millrace-js/0.1.0")]
    agent: Option<String>,
    /// Since when it is connected; Unix time, ms.
    connected_ms: i64,
    /// When the last frame came from it; Unix time, ms.
    heard_ms: i64,
    /// When its token ends; Unix time, ms.
    token_expires_ms: i64,
    /// Bytes that wait for it.
    queued_bytes: u32,
    /// For so long its transport has taken nothing though something waits, ms; 0 while it takes bytes.
    stalled_ms: u32,
    /// Of the channel that was asked for; else all, of those with many the first 64.
    subscriptions: Vec<SubscriptionInspection>,
    /// How many it has.
    subscriptions_total: u32,
}

/// A channel that an incident concerns.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentChannel)]
pub(crate) struct IncidentChannelInspection {
    /// Its name, as the client wrote it.
    #[schema(example = "general")]
    channel: String,
    /// Its number; null if only the name is known.
    channel_id: Option<String>,
    /// Epoch of the offsets; null where there is no position.
    epoch: Option<u32>,
    /// The first message skipped; else the position that the subscription had or asked for.
    first_offset: Option<u64>,
    /// The last message known to be skipped; else the same position.
    last_offset: Option<u64>,
}

/// Something that went wrong with a session lately, or its end.
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
pub(crate) struct IncidentInspection {
    /// When; of several the last. Unix time, ms.
    time_ms: i64,
    kind: IncidentWord,
    /// The code that the client was told; null for none, such as a connection that was lost.
    #[schema(example = 4201)]
    code: Option<u16>,
    /// Its name.
    #[schema(example = "SlowConsumer")]
    code_name: Option<String>,
    /// In words.
    reason: String,
    /// How often in a row.
    count: u32,
    /// Id of the session.
    session: String,
    /// Whose.
    #[schema(example = "ann")]
    user: String,
    /// On which data node.
    node: String,
    /// The channel concerned; of a session that ended those that it was subscribed to, at most 8.
    channels: Vec<IncidentChannelInspection>,
}

/// A user's sessions and what went wrong with them lately.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserInspection {
    /// Who.
    #[schema(example = "ann")]
    user: String,
    #[serde(flatten)]
    found: Found,
}

/// A channel's subscribers and what went wrong with them lately.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChannelInspection {
    /// Which.
    #[schema(example = "general")]
    channel: String,
    /// Its number.
    channel_id: String,
    kind: KindWord,
    history: HistoryWord,
    /// When it was archived; Unix time, ms.
    archived_ms: Option<i64>,
    /// Its part of the channel space: the number modulo 1,024.
    slot: u64,
    /// What the store says; null before the first message or subscription.
    stored: Option<HeadInspection>,
    /// The one place that orders its messages; null if it is not in memory, because nobody uses the channel.
    home: Option<HomeInspection>,
    #[serde(flatten)]
    found: Found,
}

/// Where a channel stands in the store.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredHead)]
pub(crate) struct HeadInspection {
    /// The present epoch.
    epoch: u32,
    /// Oldest offset that is stored.
    first_offset: u64,
    /// Offset of the next message.
    next_offset: u64,
}

/// A channel's home on a data node.
#[derive(Serialize, ToSchema)]
#[schema(as = Home)]
pub(crate) struct HomeInspection {
    /// Which data node.
    node: String,
    /// Which of its shards.
    shard: u16,
    state: HomeWord,
    /// The present epoch; null if it is not known yet.
    epoch: Option<u32>,
    /// Offset of the next message.
    next_offset: Option<u64>,
    /// Oldest offset that is stored.
    first_offset: Option<u64>,
    /// Messages that are accepted and not yet stored.
    waiting: u32,
    /// Shards that are interested in live messages.
    shards: u16,
}

/// What data nodes know.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Found {
    /// Those who connected last come first. Of a channel with more than fit, those that are not live.
    sessions: Vec<SessionInspection>,
    /// How many there are.
    sessions_total: u32,
    /// There are sessions that are not in the list.
    more: bool,
    /// The newest first. A data node remembers the last few hundred, and none from before it started.
    incidents: Vec<IncidentInspection>,
    /// There are older ones that are not in the list.
    incidents_more: bool,
    /// A part of the data plane did not answer in time: what it knows is missing.
    incomplete: bool,
    #[serde(skip)]
    home: Option<HomeInspection>,
}

/// Whose user or channel a caller means: an operator names the tenant, an application server means its own.
async fn scope(
    transaction: &mut dyn Transaction,
    caller: &Caller,
    named: Option<&TenantName>,
) -> Result<TenantId, Problem> {
    match (caller, named) {
        (Caller::Operator, None) => Err(Problem::field("?tenant", "is missing; an operator names one")),
        (Caller::Operator, Some(name)) => {
            let found = tenant::by_name(transaction, name).await?;
            Ok(found.ok_or_else(|| Problem::field("?tenant", "is no tenant"))?.id)
        }
        (Caller::Application(tenant), None) => Ok(*tenant),
        (Caller::Application(_), Some(_)) => {
            Err(Problem::field("?tenant", "is for operators; an API key means its own tenant"))
        }
        (Caller::User(_), _) => Err(super::caller::wrong_scope("an operator key or an API key")),
    }
}

/// Look a user's sessions up.
///
/// Live, on every data node: each session with its subscriptions and their positions, and what went wrong lately. A user who was never seen has none.
#[utoipa::path(
    get, path = "/v1/inspect/users/{user}", tag = "inspection",
    params(("user" = String, Path, description = "The tenant's name for them"), InspectParams),
    responses((status = 200, description = "What is known", body = UserInspection)),
    security(("operator_key" = []), ("api_key" = []))
)]
async fn inspect_user(
    ByServer(call): ByServer,
    Name(user): Name<UserId>,
    Query(query): Query<InspectQuery>,
) -> Result<Response, Problem> {
    let caller = call.caller()?;
    let tenant = read!(call, |transaction| { scope(transaction, caller, query.tenant.as_ref()).await })?;
    let question = Inspect { tenant, rows_max: query.limit, subject: InspectSubject::User(user.clone()) };
    let answers = ask(&call, question).await?;
    let mut channels: Vec<ChannelId> = subscriptions(&answers).map(|subscription| subscription.channel).collect();
    channels.sort_unstable();
    channels.dedup();
    channels.truncate(HEADS_MAX);
    let heads = read!(call, |transaction| {
        let mut heads = HashMap::with_capacity(channels.len());
        for channel in channels {
            if let Some(head) = head::get(transaction, channel).await? {
                heads.insert(channel, head);
            }
        }
        Ok(heads)
    })?;
    Ok(found(&UserInspection { user: user.to_string(), found: merge(answers, &heads, query.limit) }))
}

/// Look a channel's subscribers up.
///
/// Live, on every data node: where the channel stands, who is subscribed and how far each of them is, and what went wrong lately.
#[utoipa::path(
    get, path = "/v1/inspect/channels/{channel}", tag = "inspection",
    params(("channel" = String, Path, description = "Name of the channel"), InspectParams),
    responses((status = 200, description = "What is known", body = ChannelInspection)),
    security(("operator_key" = []), ("api_key" = []))
)]
async fn inspect_channel(
    ByServer(call): ByServer,
    Name(name): Name<ChannelName>,
    Query(query): Query<InspectQuery>,
) -> Result<Response, Problem> {
    let caller = call.caller()?;
    let of = read!(call, |transaction| {
        let tenant = scope(transaction, caller, query.tenant.as_ref()).await?;
        channel::by_name(transaction, tenant, &name).await?.ok_or_else(|| Problem::not_found("channel"))
    })?;
    let Channel { id, tenant, kind, history, archived_ms, .. } = of;
    let subject = InspectSubject::Channel(id, name.clone());
    let answers = ask(&call, Inspect { tenant, rows_max: query.limit, subject }).await?;
    // After the sessions, so that nobody is ahead of the store but in a windowed channel.
    let head = read!(call, |transaction| { Ok(head::get(transaction, id).await?) })?;
    let heads = head.iter().map(|head| (id, *head)).collect();
    let mut found_there = merge(answers, &heads, query.limit);
    Ok(found(&ChannelInspection {
        channel: name.to_string(),
        channel_id: id.to_string(),
        kind: KindWord(kind),
        history: HistoryWord(history),
        archived_ms,
        slot: id.get() % SLOTS,
        stored: head.filter(|_| history != HistoryClass::None).map(|head| HeadInspection {
            epoch: head.epoch.get(),
            first_offset: head.first_offset.get(),
            next_offset: head.next_offset.get(),
        }),
        home: found_there.home.take(),
        found: found_there,
    }))
}

/// Asks every data node that is linked. `None` is one that did not answer.
///
/// # Errors
/// The last refusal, if none answers.
async fn ask(call: &Call, question: Inspect) -> Result<Vec<(String, Option<Inspected>)>, Problem> {
    let mut asked = JoinSet::new();
    for node in call.rest.data_plane.nodes() {
        let (rest, question) = (call.rest.clone(), NodeBody::Inspect(question.clone()));
        asked.spawn(async move {
            let answer = rest.data_plane.ask(&node.name, question, rest.config.node_deadline).await;
            (node.name, answer)
        });
    }
    let mut refusal = Refusal::new(Code::Unavailable, "no data node is linked");
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((node, Ok(NodeBody::Inspected(inspected)))) => answers.push((node, Some(inspected))),
            Ok((node, Ok(_))) => answers.push((node, None)),
            Ok((node, Err(refused))) => {
                refusal = refused;
                answers.push((node, None));
            }
            Err(_) => return Err(Refusal::new(Code::Unavailable, "a question was not asked").into()),
        }
    }
    if answers.iter().all(|(_, answer)| answer.is_none()) { Err(refusal.into()) } else { Ok(answers) }
}

fn subscriptions(answers: &[(String, Option<Inspected>)]) -> impl Iterator<Item = &SubscriptionView> {
    let answered = answers.iter().filter_map(|(_, answer)| answer.as_ref());
    answered.flat_map(|answer| &answer.sessions).flat_map(|session| &session.subscriptions)
}

/// One answer out of those of all nodes.
fn merge(answers: Vec<(String, Option<Inspected>)>, heads: &HashMap<ChannelId, ChannelHead>, limit: u16) -> Found {
    let mut all = Found::default();
    for (node, answer) in answers {
        let Some(answer) = answer else {
            all.incomplete = true;
            continue;
        };
        let Inspected { sessions, sessions_total, incidents, incidents_more, shards_silent, home } = answer;
        all.sessions.extend(sessions.into_iter().map(|view| session(&node, view, heads)));
        all.sessions_total = all.sessions_total.saturating_add(sessions_total);
        all.incidents.extend(incidents.into_iter().map(|view| incident(&node, view)));
        all.incidents_more |= incidents_more;
        all.incomplete |= shards_silent > 0;
        all.home = all.home.or(home.map(|view| self::home(&node, view)));
    }
    let limit = usize::from(limit);
    all.sessions.sort_by_key(|session| std::cmp::Reverse(session.connected_ms));
    all.sessions.truncate(limit);
    all.more = u32::try_from(all.sessions.len()).is_ok_and(|shown| shown < all.sessions_total);
    all.incidents.sort_by_key(|incident| std::cmp::Reverse(incident.time_ms));
    all.incidents_more |= all.incidents.len() > limit;
    all.incidents.truncate(limit);
    all
}

fn session(node: &str, view: SessionView, heads: &HashMap<ChannelId, ChannelHead>) -> SessionInspection {
    SessionInspection {
        id: view.id.to_string(),
        user: view.user.to_string(),
        node: node.to_owned(),
        shard: view.shard,
        transport: match view.transport {
            Transport::WebSocket => TransportWord::Websocket,
        },
        remote: Some(view.remote).filter(|text| !text.is_empty()),
        agent: Some(view.agent).filter(|text| !text.is_empty()),
        connected_ms: view.connected_ms,
        heard_ms: view.heard_ms,
        token_expires_ms: view.token_expires_ms,
        queued_bytes: view.queued_bytes,
        stalled_ms: view.stalled_ms,
        subscriptions: view.subscriptions.iter().map(|view| subscription(view, heads.get(&view.channel))).collect(),
        subscriptions_total: view.subscriptions_total,
    }
}

fn subscription(view: &SubscriptionView, head: Option<&ChannelHead>) -> SubscriptionInspection {
    let placed = view.epoch > 0;
    // Offsets compare within an epoch only.
    let head = head.filter(|head| placed && head.epoch.get() == view.epoch);
    SubscriptionInspection {
        channel: view.name.to_string(),
        channel_id: view.channel.to_string(),
        state: match view.state {
            SubscriptionState::Joining => SubscriptionWord::Joining,
            SubscriptionState::Replaying => SubscriptionWord::Replaying,
            SubscriptionState::Live => SubscriptionWord::Live,
            SubscriptionState::CatchingUp => SubscriptionWord::CatchingUp,
            SubscriptionState::Attached => SubscriptionWord::Attached,
        },
        epoch: placed.then_some(view.epoch),
        offset: placed.then_some(view.offset),
        // Deliveries of a windowed channel are ahead of the store.
        behind: head.map(|head| (head.next_offset.get() - 1).saturating_sub(view.offset)),
        can_publish: view.can_publish,
    }
}

fn incident(node: &str, view: Incident) -> IncidentInspection {
    let code = Some(view.code).filter(|code| *code > 0);
    IncidentInspection {
        time_ms: view.time_ms,
        kind: match view.kind {
            IncidentKind::Ended => IncidentWord::Ended,
            IncidentKind::Refused => IncidentWord::Refused,
            IncidentKind::Unsubscribed => IncidentWord::Unsubscribed,
            IncidentKind::Reload => IncidentWord::Reload,
            IncidentKind::Skipped => IncidentWord::Skipped,
        },
        code,
        code_name: code.and_then(Code::from_number).map(|code| format!("{code:?}")),
        reason: view.reason,
        count: view.count,
        session: view.session.to_string(),
        user: view.user.to_string(),
        node: node.to_owned(),
        channels: view.channels.into_iter().map(incident_channel).collect(),
    }
}

fn incident_channel(view: IncidentChannel) -> IncidentChannelInspection {
    let placed = view.epoch > 0;
    IncidentChannelInspection {
        channel: view.name,
        channel_id: view.channel.map(|channel| channel.to_string()),
        epoch: placed.then_some(view.epoch),
        first_offset: placed.then_some(view.first_offset),
        last_offset: placed.then_some(view.last_offset),
    }
}

fn home(node: &str, view: HomeView) -> HomeInspection {
    let known = view.epoch > 0;
    HomeInspection {
        node: node.to_owned(),
        shard: view.shard,
        state: match view.state {
            HomeState::Opening => HomeWord::Opening,
            HomeState::CatchingUp => HomeWord::CatchingUp,
            HomeState::Open => HomeWord::Open,
            HomeState::Archived => HomeWord::Archived,
            HomeState::Closing => HomeWord::Closing,
        },
        epoch: known.then_some(view.epoch),
        next_offset: known.then_some(view.next_offset),
        first_offset: known.then_some(view.first_offset),
        waiting: view.waiting,
        shards: view.shards,
    }
}
