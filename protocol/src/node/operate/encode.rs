//! From what operators ask and hear to bytes.

use super::{
    HomeState, HomeView, Incident, IncidentKind, Inspect, InspectSubject, Inspected, LatencyCounts, NodeFigures,
};
use super::{SessionView, SubscriptionState, Transport};
use crate::generated::node_capnp as wire;
use crate::node::encode::history_class;
use crate::segment::{count, data_words, text_words};

const SHARD_WORDS: usize = 21;
const LATENCY_WORDS: usize = 2;
const SESSION_WORDS: usize = 10;
const SUBSCRIPTION_WORDS: usize = 4;
const INCIDENT_WORDS: usize = 6;
const INCIDENT_CHANNEL_WORDS: usize = 5;
/// What stands before the structs of a list within a list.
const TAG_WORDS: usize = 1;

pub(in crate::node) fn figures_words(from: &NodeFigures) -> usize {
    let latency = |counts: &LatencyCounts| LATENCY_WORDS + counts.used();
    let latencies = from.shards.iter().map(|shard| latency(&shard.publish_ack) + latency(&shard.delivery));
    text_words(&from.version) + from.shards.len() * SHARD_WORDS + latencies.sum::<usize>()
}

pub(in crate::node) fn inspect_words(from: &Inspect) -> usize {
    match &from.subject {
        InspectSubject::User(user) => text_words(user.as_str()),
        InspectSubject::Channel(_, name) => text_words(name.as_str()),
    }
}

pub(in crate::node) fn inspected_words(from: &Inspected) -> usize {
    let session = |session: &SessionView| {
        let texts = text_words(session.user.as_str()) + text_words(&session.remote) + text_words(&session.agent);
        let subscriptions: usize =
            session.subscriptions.iter().map(|item| SUBSCRIPTION_WORDS + text_words(item.name.as_str())).sum();
        SESSION_WORDS + data_words(&session.id.0) + texts + TAG_WORDS + subscriptions
    };
    let incident = |incident: &Incident| {
        let texts = text_words(incident.user.as_str()) + text_words(&incident.reason);
        let channels: usize =
            incident.channels.iter().map(|item| INCIDENT_CHANNEL_WORDS + text_words(&item.name)).sum();
        INCIDENT_WORDS + data_words(&incident.session.0) + texts + TAG_WORDS + channels
    };
    from.sessions.iter().map(session).sum::<usize>() + from.incidents.iter().map(incident).sum::<usize>()
}

pub(in crate::node) fn figures(from: &NodeFigures, mut to: wire::node_figures::Builder<'_>) {
    to.set_version(from.version.as_str());
    to.set_started_ms(from.started_ms);
    to.set_draining(from.draining);
    to.set_connections(from.connections);
    to.set_connections_max(from.connections_max);
    to.set_cpu_ms(from.cpu_ms);
    to.set_resident_bytes(from.resident_bytes);
    let mut list = to.init_shards(count(from.shards.len()));
    for (index, from) in (0..).zip(&from.shards) {
        let mut to = list.reborrow().get(index);
        to.set_answers(from.answers);
        to.set_slots(from.slots);
        to.set_sessions(from.sessions);
        to.set_subscriptions(from.subscriptions);
        to.set_channels(from.channels);
        to.set_homes(from.homes);
        to.set_queued_bytes(from.queued_bytes);
        to.set_ring_items(from.ring_items);
        to.set_ring_slots(from.ring_slots);
        to.set_cpu_us(from.cpu_us);
        to.set_turns(from.turns);
        to.set_deliveries(from.deliveries);
        to.set_publishes(from.publishes);
        to.set_accepted(from.accepted);
        to.set_written_bytes(from.written_bytes);
        to.set_opened(from.opened);
        to.set_closed(from.closed);
        to.set_refused(from.refused);
        to.set_slow_consumers(from.slow_consumers);
        to.set_skipped(from.skipped);
        to.set_resumes(from.resumes);
        to.set_reloads(from.reloads);
        to.set_ring_full(from.ring_full);
        latency(&from.publish_ack, to.reborrow().init_publish_ack());
        latency(&from.delivery, to.init_delivery());
    }
}

fn latency(from: &LatencyCounts, mut to: wire::latency_counts::Builder<'_>) {
    to.set_sum_us(from.sum_us);
    let used = from.used();
    let mut list = to.init_counts(count(used));
    for (index, &count) in (0..).zip(&from.counts[..used]) {
        list.set(index, count);
    }
}

pub(in crate::node) fn inspect(from: &Inspect, mut to: wire::inspect::Builder<'_>) {
    to.set_tenant(from.tenant.get());
    to.set_rows_max(from.rows_max);
    match &from.subject {
        InspectSubject::User(user) => to.set_user(user.as_str()),
        InspectSubject::Channel(number, name) => {
            let mut to = to.init_channel();
            to.set_number(number.get());
            to.set_name(name.as_str());
        }
    }
}

pub(in crate::node) fn inspected(from: &Inspected, mut to: wire::inspected::Builder<'_>) {
    to.set_sessions_total(from.sessions_total);
    to.set_incidents_more(from.incidents_more);
    to.set_shards_silent(from.shards_silent);
    if let Some(from) = &from.home {
        home(from, to.reborrow().init_home());
    }
    let mut list = to.reborrow().init_sessions(count(from.sessions.len()));
    for (index, from) in (0..).zip(&from.sessions) {
        session(from, list.reborrow().get(index));
    }
    let mut list = to.init_incidents(count(from.incidents.len()));
    for (index, from) in (0..).zip(&from.incidents) {
        incident(from, list.reborrow().get(index));
    }
}

fn session(from: &SessionView, mut to: wire::session_view::Builder<'_>) {
    to.set_id(&from.id.0);
    to.set_user(from.user.as_str());
    to.set_remote(from.remote.as_str());
    to.set_agent(from.agent.as_str());
    to.set_shard(from.shard);
    to.set_transport(match from.transport {
        Transport::WebSocket => wire::Transport::WebSocket,
    });
    to.set_connected_ms(from.connected_ms);
    to.set_heard_ms(from.heard_ms);
    to.set_token_expires_ms(from.token_expires_ms);
    to.set_queued_bytes(from.queued_bytes);
    to.set_stalled_ms(from.stalled_ms);
    to.set_subscriptions_total(from.subscriptions_total);
    let mut list = to.init_subscriptions(count(from.subscriptions.len()));
    for (index, from) in (0..).zip(&from.subscriptions) {
        let mut to = list.reborrow().get(index);
        to.set_channel(from.channel.get());
        to.set_name(from.name.as_str());
        to.set_state(match from.state {
            SubscriptionState::Joining => wire::SubscriptionState::Joining,
            SubscriptionState::Replaying => wire::SubscriptionState::Replaying,
            SubscriptionState::Live => wire::SubscriptionState::Live,
            SubscriptionState::CatchingUp => wire::SubscriptionState::CatchingUp,
            SubscriptionState::Attached => wire::SubscriptionState::Attached,
        });
        to.set_epoch(from.epoch);
        to.set_offset(from.offset);
        to.set_can_publish(from.can_publish);
    }
}

fn home(from: &HomeView, mut to: wire::home_view::Builder<'_>) {
    to.set_shard(from.shard);
    to.set_state(match from.state {
        HomeState::Opening => wire::HomeState::Opening,
        HomeState::CatchingUp => wire::HomeState::CatchingUp,
        HomeState::Open => wire::HomeState::Open,
        HomeState::Archived => wire::HomeState::Archived,
        HomeState::Closing => wire::HomeState::Closing,
    });
    to.set_history(history_class(from.history));
    to.set_epoch(from.epoch);
    to.set_next_offset(from.next_offset);
    to.set_first_offset(from.first_offset);
    to.set_waiting(from.waiting);
    to.set_shards(from.shards);
}

fn incident(from: &Incident, mut to: wire::incident::Builder<'_>) {
    to.set_time_ms(from.time_ms);
    to.set_kind(match from.kind {
        IncidentKind::Ended => wire::IncidentKind::Ended,
        IncidentKind::Refused => wire::IncidentKind::Refused,
        IncidentKind::Unsubscribed => wire::IncidentKind::Unsubscribed,
        IncidentKind::Reload => wire::IncidentKind::Reload,
        IncidentKind::Skipped => wire::IncidentKind::Skipped,
    });
    to.set_code(from.code);
    to.set_session(&from.session.0);
    to.set_user(from.user.as_str());
    to.set_reason(from.reason.as_str());
    to.set_count(from.count);
    let mut list = to.init_channels(count(from.channels.len()));
    for (index, from) in (0..).zip(&from.channels) {
        let mut to = list.reborrow().get(index);
        to.set_channel(from.channel.map_or(0, |channel| channel.get()));
        to.set_name(from.name.as_str());
        to.set_epoch(from.epoch);
        to.set_first_offset(from.first_offset);
        to.set_last_offset(from.last_offset);
    }
}
