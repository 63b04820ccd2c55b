//! From bytes to what operators ask and hear.

use super::{
    HomeState, HomeView, INCIDENT_CHANNELS_MAX, INSPECT_SUBSCRIPTIONS_MAX, Incident, IncidentChannel, IncidentKind,
    Inspect, InspectSubject, Inspected, LATENCY_BUCKETS, LatencyCounts, NodeFigures, SessionView, ShardFigures,
    SubscriptionState, SubscriptionView, Transport,
};
use crate::error::Stop;
use crate::generated::node_capnp as wire;
use crate::id::{ChannelId, SessionId};
use crate::node::decode::{Decoder, channel, fixed, history_class, tenant};
use crate::segment::limit;

/// What a [`Decoder`] reads for operators.
pub(in crate::node) trait Views {
    fn figures(&mut self, from: wire::node_figures::Reader<'_>) -> Result<NodeFigures, Stop>;
    fn inspect(&mut self, from: wire::inspect::Reader<'_>) -> Result<Inspect, Stop>;
    fn inspected(&mut self, from: wire::inspected::Reader<'_>) -> Result<Inspected, Stop>;
}

impl Views for Decoder<'_> {
    fn figures(&mut self, from: wire::node_figures::Reader<'_>) -> Result<NodeFigures, Stop> {
        Ok(NodeFigures {
            version: self.text("reported.version", from.get_version())?.to_owned(),
            started_ms: from.get_started_ms(),
            draining: from.get_draining(),
            connections: from.get_connections(),
            connections_max: from.get_connections_max(),
            cpu_ms: from.get_cpu_ms(),
            resident_bytes: from.get_resident_bytes(),
            shards: self.each("reported.shards", from.get_shards()?, |_, from| shard(from))?,
        })
    }

    fn inspect(&mut self, from: wire::inspect::Reader<'_>) -> Result<Inspect, Stop> {
        use wire::inspect::Which;
        Ok(Inspect {
            tenant: tenant("inspect.tenant", from.get_tenant())?,
            rows_max: from.get_rows_max(),
            subject: match from.which()? {
                Which::User(user) => InspectSubject::User(self.user("inspect.user", user)?),
                Which::Channel(of) => InspectSubject::Channel(
                    channel("inspect.channel.number", of.get_number())?,
                    self.channel_name("inspect.channel.name", of.get_name())?,
                ),
            },
        })
    }

    fn inspected(&mut self, from: wire::inspected::Reader<'_>) -> Result<Inspected, Stop> {
        Ok(Inspected {
            sessions: self.each("inspected.sessions", from.get_sessions()?, session)?,
            sessions_total: from.get_sessions_total(),
            incidents: self.each("inspected.incidents", from.get_incidents()?, incident)?,
            incidents_more: from.get_incidents_more(),
            shards_silent: from.get_shards_silent(),
            home: if from.has_home() { Some(home(from.get_home()?)?) } else { None },
        })
    }
}

fn shard(from: wire::shard_figures::Reader<'_>) -> Result<ShardFigures, Stop> {
    Ok(ShardFigures {
        answers: from.get_answers(),
        slots: from.get_slots(),
        sessions: from.get_sessions(),
        subscriptions: from.get_subscriptions(),
        channels: from.get_channels(),
        homes: from.get_homes(),
        queued_bytes: from.get_queued_bytes(),
        ring_items: from.get_ring_items(),
        ring_slots: from.get_ring_slots(),
        cpu_us: from.get_cpu_us(),
        turns: from.get_turns(),
        deliveries: from.get_deliveries(),
        publishes: from.get_publishes(),
        accepted: from.get_accepted(),
        written_bytes: from.get_written_bytes(),
        opened: from.get_opened(),
        closed: from.get_closed(),
        refused: from.get_refused(),
        slow_consumers: from.get_slow_consumers(),
        skipped: from.get_skipped(),
        resumes: from.get_resumes(),
        reloads: from.get_reloads(),
        ring_full: from.get_ring_full(),
        publish_ack: latency("shards.publishAck", from.get_publish_ack()?)?,
        delivery: latency("shards.delivery", from.get_delivery()?)?,
    })
}

fn latency(field: &'static str, from: wire::latency_counts::Reader<'_>) -> Result<LatencyCounts, Stop> {
    let (list, mut latency) =
        (from.get_counts()?, LatencyCounts { sum_us: from.get_sum_us(), ..LatencyCounts::default() });
    at_most(field, list.len(), LATENCY_BUCKETS)?;
    for (to, count) in latency.counts.iter_mut().zip(list) {
        *to = count;
    }
    Ok(latency)
}

fn session(decoder: &mut Decoder<'_>, from: wire::session_view::Reader<'_>) -> Result<SessionView, Stop> {
    let subscriptions = from.get_subscriptions()?;
    at_most("sessions.subscriptions", subscriptions.len(), INSPECT_SUBSCRIPTIONS_MAX)?;
    Ok(SessionView {
        id: SessionId(fixed("sessions.id", from.get_id()?)?),
        user: decoder.user("sessions.user", from.get_user())?,
        remote: decoder.text("sessions.remote", from.get_remote())?.to_owned(),
        agent: decoder.text("sessions.agent", from.get_agent())?.to_owned(),
        shard: from.get_shard(),
        transport: match from.get_transport()? {
            wire::Transport::WebSocket => Transport::WebSocket,
        },
        connected_ms: from.get_connected_ms(),
        heard_ms: from.get_heard_ms(),
        token_expires_ms: from.get_token_expires_ms(),
        queued_bytes: from.get_queued_bytes(),
        stalled_ms: from.get_stalled_ms(),
        subscriptions: decoder.each("sessions.subscriptions", subscriptions, subscription)?,
        subscriptions_total: from.get_subscriptions_total(),
    })
}

fn subscription(
    decoder: &mut Decoder<'_>,
    from: wire::subscription_view::Reader<'_>,
) -> Result<SubscriptionView, Stop> {
    Ok(SubscriptionView {
        channel: channel("subscriptions.channel", from.get_channel())?,
        name: decoder.channel_name("subscriptions.name", from.get_name())?,
        state: match from.get_state()? {
            wire::SubscriptionState::Joining => SubscriptionState::Joining,
            wire::SubscriptionState::Replaying => SubscriptionState::Replaying,
            wire::SubscriptionState::Live => SubscriptionState::Live,
            wire::SubscriptionState::CatchingUp => SubscriptionState::CatchingUp,
            wire::SubscriptionState::Attached => SubscriptionState::Attached,
        },
        epoch: from.get_epoch(),
        offset: from.get_offset(),
        can_publish: from.get_can_publish(),
    })
}

fn home(from: wire::home_view::Reader<'_>) -> Result<HomeView, Stop> {
    Ok(HomeView {
        shard: from.get_shard(),
        state: match from.get_state()? {
            wire::HomeState::Opening => HomeState::Opening,
            wire::HomeState::CatchingUp => HomeState::CatchingUp,
            wire::HomeState::Open => HomeState::Open,
            wire::HomeState::Archived => HomeState::Archived,
            wire::HomeState::Closing => HomeState::Closing,
        },
        history: history_class(from.get_history()?),
        epoch: from.get_epoch(),
        next_offset: from.get_next_offset(),
        first_offset: from.get_first_offset(),
        waiting: from.get_waiting(),
        shards: from.get_shards(),
    })
}

fn incident(decoder: &mut Decoder<'_>, from: wire::incident::Reader<'_>) -> Result<Incident, Stop> {
    let channels = from.get_channels()?;
    at_most("incidents.channels", channels.len(), INCIDENT_CHANNELS_MAX)?;
    Ok(Incident {
        time_ms: from.get_time_ms(),
        kind: match from.get_kind()? {
            wire::IncidentKind::Ended => IncidentKind::Ended,
            wire::IncidentKind::Refused => IncidentKind::Refused,
            wire::IncidentKind::Unsubscribed => IncidentKind::Unsubscribed,
            wire::IncidentKind::Reload => IncidentKind::Reload,
            wire::IncidentKind::Skipped => IncidentKind::Skipped,
        },
        code: from.get_code(),
        session: SessionId(fixed("incidents.session", from.get_session()?)?),
        user: decoder.user("incidents.user", from.get_user())?,
        reason: decoder.text("incidents.reason", from.get_reason())?.to_owned(),
        count: from.get_count(),
        channels: decoder.each("incidents.channels", channels, incident_channel)?,
    })
}

fn incident_channel(
    decoder: &mut Decoder<'_>,
    from: wire::incident_channel::Reader<'_>,
) -> Result<IncidentChannel, Stop> {
    Ok(IncidentChannel {
        channel: ChannelId::new(from.get_channel()),
        name: decoder.text("incidents.channels.name", from.get_name())?.to_owned(),
        epoch: from.get_epoch(),
        first_offset: from.get_first_offset(),
        last_offset: from.get_last_offset(),
    })
}

fn at_most(what: &'static str, len: u32, len_max: usize) -> Result<(), Stop> {
    Ok(limit(what, usize::try_from(len).unwrap_or(usize::MAX), len_max)?)
}
