//! Data nodes, for operators: which there are, how they are doing, and sending one's clients away.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{DRAIN_MS_MAX, NodeBody, ShardFigures};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Query};
use super::call::{ByOperator, Call, Written, found, now_ms, read};
use super::fields::{self, Fields, Request};
use super::members::PageParams;
use super::page::{PageQuery, cut};
use super::problem::Problem;
use crate::operate::latency::Quantiles;
use crate::operate::series::{Sample, SeriesView, shown};
use crate::operate::{Moment, Node, NodeState};
use crate::transact::transact;

/// Over which time clients are sent away if nobody says.
const DRAIN_MS_DEFAULT: u32 = 10_000;
/// What a node may take for the end of a drain, after the time that clients have: to store, to give back, to let peers read their last words.
const DRAIN_SLACK_MS: i64 = 10_000;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_nodes))
        .routes(routes!(get_node))
        .routes(routes!(get_node_series))
        .routes(routes!(drain_node))
}

/// The name of a node: 1 to 128 bytes.
pub(crate) struct NodeName(String);

impl std::str::FromStr for NodeName {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        if (1..=128).contains(&name.len()) { Ok(Self(name.to_owned())) } else { Err(()) }
    }
}

/// How a node is: `starting` is linked and hears of keys and revocations, `serving` serves, `draining` sends its clients away, `silent` left the last
/// question for its figures unanswered, `gone` is not linked any more.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NodeState)]
pub(crate) enum StateWord {
    Starting,
    Serving,
    Draining,
    Silent,
    Gone,
}

impl From<NodeState> for StateWord {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Starting => Self::Starting,
            NodeState::Serving => Self::Serving,
            NodeState::Draining => Self::Draining,
            NodeState::Silent => Self::Silent,
            NodeState::Gone => Self::Gone,
        }
    }
}

/// A data node.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(crate) struct NodeView {
    /// Its name.
    #[schema(example = "data-1")]
    id: String,
    state: StateWord,
    /// Since when it is linked; Unix time, ms.
    since_ms: i64,
    /// When its link ended; Unix time, ms. It is shown for ten minutes after that.
    gone_ms: Option<i64>,
    /// Until when a drain has ended at the latest; Unix time, ms. Null unless one was ordered here.
    drain_ends_ms: Option<i64>,
    /// Of its program; null until it has told its figures. What it does is null once it is gone, too.
    #[schema(example = "0.1.0")]
    version: Option<String>,
    /// When it started; Unix time, ms.
    started_ms: Option<i64>,
    /// URLs under which clients reach it; empty: the one they came by.
    endpoints: Vec<String>,
    /// Its shards: one thread each.
    shards: Option<usize>,
    /// Parts of the channel space that it holds, of 1,024.
    slots: Option<u32>,
    /// Sessions, in whatever state.
    sessions: Option<u32>,
    /// Client connections.
    connections: Option<u32>,
    /// Client connections above which it refuses new ones.
    connections_max: Option<u32>,
    /// Resident memory of its process, bytes.
    resident_bytes: Option<u64>,
    /// Processors that its process used in the last step.
    cpu: Option<f32>,
    /// Messages put into the queues of sessions, in a second.
    deliveries_per_s: Option<f32>,
    /// Messages that its homes took, in a second.
    messages_per_s: Option<f32>,
}

impl NodeView {
    fn new(node: &Node) -> Self {
        let figures = node.figures();
        let held = |figures: &millrace_protocol::node::NodeFigures| {
            figures.shards.iter().map(|shard| u32::from(shard.slots)).sum()
        };
        // A node that is gone does nothing, and nothing is known of it.
        let live = figures.filter(|_| node.gone_ms.is_none());
        let newest = node.newest(None).filter(|_| live.is_some());
        let rate = |of: fn(&Sample) -> f32| newest.map(of).and_then(shown);
        Self {
            id: node.linked.name.clone(),
            state: node.state().into(),
            since_ms: node.linked.linked_ms,
            gone_ms: node.gone_ms,
            drain_ends_ms: node.drain_ends_ms,
            version: figures.map(|figures| figures.version.clone()),
            started_ms: figures.map(|figures| figures.started_ms),
            endpoints: node.linked.endpoints.clone(),
            shards: figures.map(|figures| figures.shards.len()),
            slots: if node.gone_ms.is_some() { Some(0) } else { figures.map(held) },
            sessions: live.map(|figures| figures.shards.iter().map(|shard| shard.sessions).sum()),
            connections: live.map(|figures| figures.connections),
            connections_max: live.map(|figures| figures.connections_max),
            resident_bytes: live.map(|figures| figures.resident_bytes),
            cpu: rate(|sample| sample.cpu),
            deliveries_per_s: rate(|sample| sample.deliveries_per_s),
            messages_per_s: rate(|sample| sample.messages_per_s),
        }
    }
}

/// A page of nodes.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodePage {
    /// By name; those that are gone too, for ten minutes.
    nodes: Vec<NodeView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// One shard of a node. Counts are of now; what ends in `_total` counts since the shard began.
#[derive(Serialize, ToSchema)]
#[schema(as = Shard)]
pub(crate) struct ShardView {
    /// Counted from 0.
    shard: usize,
    /// Whether it answered the last question. If not, its numbers are 0.
    answers: bool,
    /// Parts of the channel space whose homes it has.
    slots: u16,
    /// Sessions, in whatever state.
    sessions: u32,
    /// Subscriptions, in whatever state.
    subscriptions: u32,
    /// Channels that its sessions use.
    channels: u32,
    /// Homes in memory.
    homes: u32,
    /// Bytes that wait in the queues of all its sessions.
    queued_bytes: u64,
    /// Items in the fullest ring that leads to it.
    ring_items: u32,
    /// Places in a ring.
    ring_slots: u32,
    /// Processors that its thread used in the last step: 1 is one of them all the time.
    cpu: Option<f32>,
    /// Mean CPU time of a turn in the last step, µs.
    turn_us: Option<f32>,
    /// Messages put into the queues of its sessions, in a second.
    deliveries_per_s: Option<f32>,
    /// Publishes of its sessions, in a second.
    publishes_per_s: Option<f32>,
    /// Messages that its homes took, in a second.
    messages_per_s: Option<f32>,
    /// Sessions that it ended because they read too slowly.
    slow_consumers_total: u64,
    /// Messages that it dropped for slow sessions.
    skipped_total: u64,
    /// Subscriptions that asked to resume.
    resumes_total: u64,
    /// Resumes that it refused: the client read history itself.
    reloads_total: u64,
    /// Requests that it refused.
    refused_total: u64,
    /// Times it found another thread's ring full.
    ring_full_total: u64,
}

impl ShardView {
    fn new(shard: usize, figures: &ShardFigures, newest: Option<&Sample>) -> Self {
        let rate = |of: fn(&Sample) -> f32| newest.map(of).and_then(shown);
        Self {
            shard,
            answers: figures.answers,
            slots: figures.slots,
            sessions: figures.sessions,
            subscriptions: figures.subscriptions,
            channels: figures.channels,
            homes: figures.homes,
            queued_bytes: figures.queued_bytes,
            ring_items: figures.ring_items,
            ring_slots: figures.ring_slots,
            cpu: rate(|sample| sample.cpu),
            turn_us: rate(|sample| sample.turn_us),
            deliveries_per_s: rate(|sample| sample.deliveries_per_s),
            publishes_per_s: rate(|sample| sample.publishes_per_s),
            messages_per_s: rate(|sample| sample.messages_per_s),
            slow_consumers_total: figures.slow_consumers,
            skipped_total: figures.skipped,
            resumes_total: figures.resumes,
            reloads_total: figures.reloads,
            refused_total: figures.refused,
            ring_full_total: figures.ring_full,
        }
    }
}

/// How long something took in the last minute, estimated from a histogram.
#[derive(Serialize, ToSchema)]
#[schema(as = Latency)]
pub(crate) struct LatencyView {
    /// `append`, `authorize`, `open_homes`, `read_history`: from the request of a data node to the control node's answer being ready, commit included.
    /// `publish_rest`: from the headers of a publish over REST to its acknowledgement.
    #[schema(example = "append")]
    what: &'static str,
    /// How often it happened.
    count: u64,
    /// Median, ms; null if it did not happen.
    p50_ms: Option<f64>,
    /// 90th percentile, ms.
    p90_ms: Option<f64>,
    /// 99th percentile, ms.
    p99_ms: Option<f64>,
}

impl LatencyView {
    fn new(quantiles: &Quantiles) -> Self {
        let Quantiles { what, count, p50_ms, p90_ms, p99_ms } = *quantiles;
        let round = |ms: f64| (ms * 1000.0).round() / 1000.0;
        Self { what, count, p50_ms: p50_ms.map(round), p90_ms: p90_ms.map(round), p99_ms: p99_ms.map(round) }
    }
}

/// A data node, with each of its shards.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeDetail {
    #[serde(flatten)]
    node: NodeView,
    /// What its appends are fenced with: higher than that of every link before. A string, because it may be beyond what JavaScript counts exactly.
    #[schema(example = "7")]
    term: String,
    /// By index; empty until it has told its figures.
    shard_details: Vec<ShardView>,
    /// As this control node measures them, for all data nodes together.
    latencies: Vec<LatencyView>,
}

/// Which part of the series.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what SeriesQuery reads")]
pub(crate) struct SeriesParams {
    /// Only steps of this time and after; Unix time, ms. To go on, one more than the last `time_ms`.
    since_ms: Option<u64>,
    /// Of one shard, counted from 0. Missing: of the whole node.
    shard: Option<u16>,
}

pub(crate) struct SeriesQuery {
    since_ms: i64,
    shard: Option<u16>,
}

impl Request for SeriesQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let since_ms = fields.optional("since_ms", fields::digits(0..=i64::MAX.unsigned_abs()));
        let shard = fields.optional("shard", fields::digits(0..=u64::from(u16::MAX)));
        Some(Self {
            since_ms: since_ms?.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0),
            shard: shard?.and_then(|shard| u16::try_from(shard).ok()),
        })
    }
}

/// How a node is to be drained.
#[derive(Debug, ToSchema)]
pub(crate) struct DrainNode {
    /// Clients are told to come back spread evenly over this time, and those that are still there after it are closed; 0 to 600,000 ms, by default 10,000.
    #[schema(value_type = Option<u32>, maximum = 600_000, example = 10_000)]
    over_ms: u32,
}

impl Request for DrainNode {
    fn read(fields: &mut Fields) -> Option<Self> {
        let over_ms = fields.optional("over_ms", fields::number(0..=u64::from(DRAIN_MS_MAX)))?;
        Some(Self { over_ms: over_ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(DRAIN_MS_DEFAULT) })
    }
}

impl Body for DrainNode {}

/// A drain that has begun.
#[derive(Serialize, ToSchema)]
#[schema(as = Drain)]
pub(crate) struct DrainView {
    /// Of which node.
    node: String,
    /// `draining`.
    state: StateWord,
    /// Clients are sent away spread over this time.
    over_ms: u32,
    /// When it has ended at the latest; Unix time, ms. The node's process then stops.
    ends_by_ms: i64,
    /// Sessions that are sent away, as far as is known.
    sessions: Option<u32>,
    /// Parts of the channel space that the node gives back.
    slots: Option<u32>,
    /// Other data nodes that serve.
    other_nodes: usize,
    /// What it means, in words.
    #[schema(
        example = "It holds every slot, and no other data node serves: clients cannot connect until a data node links again."
    )]
    effect: String,
}

fn moment(call: &Call) -> Moment {
    Moment { unix_ms: call.now_ms, steady: std::time::Duration::ZERO }
}

/// Takes note of who is linked at this moment.
fn refresh(call: &Call) {
    let linked = call.rest.data_plane.nodes();
    call.rest.fleet.state().see(moment(call), &linked);
}

/// List data nodes.
///
/// Those that are linked, with their newest figures, and those that were in the last ten minutes.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes", params(PageParams),
    responses((status = 200, description = "A page", body = NodePage)), security(("operator_key" = []))
)]
async fn list_nodes(ByOperator(call): ByOperator, Query(query): Query<PageQuery>) -> Result<Response, Problem> {
    let after = query.after(|cursor| Some(cursor.to_owned()))?;
    refresh(&call);
    let state = call.rest.fleet.state();
    let later = state.nodes().filter(|node| after.as_ref().is_none_or(|after| node.linked.name > *after));
    let mut nodes: Vec<_> = later.take(query.limit as usize + 1).map(NodeView::new).collect();
    let next = cut(&mut nodes, query.limit, |node| node.id.clone());
    Ok(found(&NodePage { nodes, next }))
}

/// Look a data node up.
///
/// With each of its shards, and how long the control node takes for what data nodes ask.
#[utoipa::path(
    get, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path, description = "Its name")),
    responses((status = 200, description = "The node", body = NodeDetail)), security(("operator_key" = []))
)]
async fn get_node(ByOperator(call): ByOperator, Name(name): Name<NodeName>) -> Result<Response, Problem> {
    refresh(&call);
    let state = call.rest.fleet.state();
    let node = state.node(&name.0).ok_or_else(|| Problem::not_found("node"))?;
    let shards = node.figures().map_or(&[][..], |figures| &figures.shards).iter().enumerate();
    let shard = |(index, figures)| ShardView::new(index, figures, node.newest(u16::try_from(index).ok()));
    Ok(found(&NodeDetail {
        node: NodeView::new(node),
        term: node.linked.term.0.to_string(),
        shard_details: shards.map(shard).collect(),
        latencies: state.latencies.quantiles().iter().map(LatencyView::new).collect(),
    }))
}

/// Read a data node's figures over time.
///
/// The last ten minutes, one step for each time the node was asked, usually a second. Kept in memory: a control node that has just started has few.
#[utoipa::path(
    get, path = "/v1/nodes/{node}/series", tag = "nodes",
    params(("node" = String, Path, description = "Its name"), SeriesParams),
    responses((status = 200, description = "The steps", body = SeriesView)), security(("operator_key" = []))
)]
async fn get_node_series(
    ByOperator(call): ByOperator,
    Name(name): Name<NodeName>,
    Query(query): Query<SeriesQuery>,
) -> Result<Response, Problem> {
    refresh(&call);
    let state = call.rest.fleet.state();
    let node = state.node(&name.0).ok_or_else(|| Problem::not_found("node"))?;
    let view = match (node.series(query.shard), query.shard) {
        (Some(series), _) => SeriesView::new(series.since(query.since_ms)),
        // It has not told anything yet.
        (None, None) => SeriesView::new(std::iter::empty()),
        (None, Some(_)) => return Err(Problem::not_found("shard")),
    };
    Ok(found(&view))
}

/// Drain a data node.
///
/// It takes no new clients and no publishes, tells its clients when and where to come back, stores what was delivered, gives every home back, and then its
/// process stops. That cannot be taken back. A node that drains already goes on as it was told first. `effect` says what it means for this deployment.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/drain", tag = "nodes", params(("node" = String, Path, description = "Its name")),
    request_body = DrainNode,
    responses((status = 202, description = "It has begun", body = DrainView)), security(("operator_key" = []))
)]
async fn drain_node(
    ByOperator(call): ByOperator,
    Name(name): Name<NodeName>,
    body: Json<DrainNode>,
) -> Result<Response, Problem> {
    let slot = call.own_slot(body.digest)?;
    if let Some(slot) = &slot
        && let Some(written) = read!(call, |transaction| { slot.answer(transaction, call.now_ms).await })?
    {
        return Ok(written.into_response());
    }
    let (name, over_ms) = (name.0, body.value.over_ms);
    let plane = &call.rest.data_plane;
    if !plane.nodes().iter().any(|node| node.name == name) {
        return Err(Problem::not_found("node"));
    }
    refresh(&call);
    match plane.ask(&name, NodeBody::Drain { over_ms }, call.rest.config.node_deadline).await? {
        NodeBody::Draining => {}
        _ => return Err(Refusal::new(Code::Internal, "the node's answer does not fit the order").into()),
    }
    tracing::info!(node = name, over_ms, "an operator drains a data node");
    let view = {
        let mut state = call.rest.fleet.state();
        state.drains(&name, now_ms() + i64::from(over_ms) + DRAIN_SLACK_MS);
        let other_nodes = state.nodes().filter(|node| node.state() == NodeState::Serving).count();
        let node = state.node(&name).ok_or_else(|| Problem::not_found("node"))?;
        drain_view(node, over_ms, other_nodes)
    };
    let written = Written::json(StatusCode::ACCEPTED, &view);
    if let Some(slot) = &slot {
        // Only for an answer that is the same to the letter: draining twice is draining once.
        let kept: Result<(), Problem> = transact!(&*call.rest.store, call.deadline(), |transaction| {
            slot.keep(transaction, &written, call.now_ms);
            Ok(())
        });
        if let Err(problem) = kept {
            tracing::warn!(kind = problem.kind().slug(), "the answer to a drain is not kept");
        }
    }
    Ok(written.into_response())
}

fn drain_view(node: &Node, over_ms: u32, other_nodes: usize) -> DrainView {
    let NodeView { id, state, drain_ends_ms, sessions, slots, .. } = NodeView::new(node);
    let effect = if other_nodes == 0 {
        "It holds every slot, and no other data node serves: from now on nobody can connect or publish, and those who are here are sent away, \
         until a data node links again. Nothing that was acknowledged is lost."
    } else {
        "Its clients are sent to the other data nodes, which take its slots over. Nothing that was acknowledged is lost."
    };
    DrainView {
        node: id,
        state,
        over_ms,
        ends_by_ms: drain_ends_ms.unwrap_or_default(),
        sessions,
        slots,
        other_nodes,
        effect: effect.to_owned(),
    }
}
