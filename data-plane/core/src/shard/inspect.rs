//! What an operator sees of sessions and channels, and what is remembered for that when something goes wrong.
//!
//! An answer looks at the sessions of one user or of one channel, at most as many as it has room for; nothing is kept for it
//! beforehand but what [`Incidents`](crate::incident::Incidents) holds.

use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{
    INSPECT_ROWS_MAX, INSPECT_SUBSCRIPTIONS_MAX, IncidentKind, Inspect, InspectSubject, Inspected, SessionView,
    SubscriptionState as Shown, SubscriptionView, Transport,
};
use millrace_protocol::{ChannelId, Code, Position};

use super::Shard;
use crate::incident::{Place, Record};
use crate::session::{From, Session, Subscription, SubscriptionState};
use crate::subscription::{Interest, NOWHERE};
use crate::wheel::{TICK_MS, Tick};
use crate::{Now, SessionKey, VerifyToken, home_of};

/// What a shard knows of a user or a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// All but the addresses of peers, which the shell knows.
    pub inspected: Inspected,
    /// Of each session of the list, in its order.
    pub keys: Vec<SessionKey>,
}

impl<V: VerifyToken> Shard<V> {
    /// Looks a user or a channel up. Changes nothing.
    pub fn inspect(&self, now: Now, question: &Inspect) -> Findings {
        let rows_max = usize::from(question.rows_max.clamp(1, INSPECT_ROWS_MAX));
        let (mut keys, total, only) = match &question.subject {
            InspectSubject::User(user) => {
                let keys = self.users.find(&self.sessions, question.tenant, user);
                let total = keys.len();
                (keys, total, None)
            }
            InspectSubject::Channel(channel, _) => {
                let members = self.channels.get(*channel).map_or(&[][..], |entry| entry.members());
                let live = self.channels.get(*channel).map_or(0, |entry| entry.live() as usize);
                // First those that do not simply get every message: they are what one looks for.
                let (live, waiting) = members.split_at(live);
                let rows = waiting.iter().chain(live).take(rows_max);
                let keys = rows.filter_map(|&index| self.sessions.key(index)).collect();
                (keys, members.len(), Some(*channel))
            }
        };
        let mut sessions: Vec<_> =
            keys.drain(..).filter_map(|key| Some((key, self.session_view(now, key, only)?))).collect();
        sessions.sort_by_key(|(_, view)| std::cmp::Reverse(view.connected_ms));
        sessions.truncate(rows_max);
        let id_of = |draw| self.random.session_id_of(draw);
        let (incidents, incidents_more) = self.incidents.find(question.tenant, &question.subject, rows_max, id_of);
        let home = only.filter(|channel| home_of(*channel, self.shards) == self.index);
        let (keys, sessions) = sessions.into_iter().unzip();
        let inspected = Inspected {
            sessions,
            sessions_total: u32::try_from(total).unwrap_or(u32::MAX),
            incidents,
            incidents_more,
            shards_silent: 0,
            home: home.and_then(|channel| self.homes.get(channel)).map(|home| home.view(self.index)),
        };
        Findings { inspected, keys }
    }

    fn session_view(&self, now: Now, key: SessionKey, only: Option<ChannelId>) -> Option<SessionView> {
        let session = self.sessions.get(key)?;
        let identity = session.identity()?;
        let tick = self.tick(now);
        let ago_ms = |then: Tick| i64::from(tick.saturating_sub(then)) * i64::try_from(TICK_MS).unwrap_or(0);
        let wanted = session.subscriptions.iter().filter(|item| only.is_none_or(|channel| item.channel == channel));
        let stalled = session.outbound.stalled_since().filter(|_| !session.outbound.is_empty());
        Some(SessionView {
            id: self.random.session_id_of(session.draw),
            user: identity.user.clone(),
            remote: String::new(),
            agent: self.agents.text(session.agent).to_owned(),
            shard: self.index.0,
            transport: Transport::WebSocket,
            connected_ms: now.unix_ms - ago_ms(session.since),
            heard_ms: now.unix_ms - ago_ms(session.heard),
            token_expires_ms: identity.expires_ms,
            queued_bytes: u32::try_from(session.outbound.queued_bytes()).unwrap_or(u32::MAX),
            stalled_ms: stalled.map_or(0, |since| u32::try_from(ago_ms(since).max(1)).unwrap_or(u32::MAX)),
            subscriptions: wanted
                .take(INSPECT_SUBSCRIPTIONS_MAX)
                .filter_map(|subscription| self.subscription_view(subscription))
                .collect(),
            subscriptions_total: u32::try_from(session.subscriptions.len()).unwrap_or(u32::MAX),
        })
    }

    fn subscription_view(&self, subscription: &Subscription) -> Option<SubscriptionView> {
        let entry = self.channels.get(subscription.channel)?;
        let state = match subscription.state {
            SubscriptionState::Joining { .. } => Shown::Joining,
            SubscriptionState::Replaying { .. } => Shown::Replaying,
            SubscriptionState::Live if entry.interest == Interest::Live => Shown::Live,
            SubscriptionState::Live => Shown::CatchingUp,
            SubscriptionState::Attached => Shown::Attached,
        };
        let at = self.position_of(subscription);
        Some(SubscriptionView {
            channel: subscription.channel,
            name: entry.name.clone(),
            state,
            epoch: if at == NOWHERE { 0 } else { at.epoch.get() },
            offset: at.offset,
            can_publish: subscription.access.can_publish,
        })
    }

    /// Where a subscription stands: the last message in its session's queue or behind it.
    fn position_of(&self, subscription: &Subscription) -> Position {
        match subscription.state {
            SubscriptionState::Joining { from: From::After(position), .. }
            | SubscriptionState::Replaying { position, .. } => position,
            SubscriptionState::Live if subscription.access.history != HistoryClass::None => {
                self.channels.get(subscription.channel).map_or(NOWHERE, |entry| entry.position)
            }
            SubscriptionState::Joining { .. } | SubscriptionState::Live | SubscriptionState::Attached => NOWHERE,
        }
    }

    fn place_of(&self, subscription: &Subscription) -> Option<Place> {
        let name = self.name_of(subscription.channel)?;
        Some(Place::at(subscription.channel, name, self.position_of(subscription)))
    }

    /// Begins a note about an open session.
    fn record(&self, session: &Session, kind: IncidentKind, code: u16) -> Option<Record> {
        let identity = session.identity()?;
        Some(Record::new(kind, code, session.draw, (identity.tenant, identity.user.clone())))
    }

    /// Remembers that an open session ends, and where it stood. Call it before its subscriptions go.
    pub(super) fn note_end(&mut self, key: SessionKey, code: Option<Code>, reason: &'static str) {
        let Some(session) = self.sessions.get(key) else { return };
        let number = code.map_or(0, |code| code.number());
        let Some(record) = self.record(session, IncidentKind::Ended, number) else { return };
        let places = session.subscriptions.iter().filter_map(|subscription| self.place_of(subscription));
        let record = record.because(reason).concerning(places);
        self.incidents.push(record);
    }

    /// Remembers that a request of an open session was refused.
    pub(super) fn note_refused(&mut self, key: SessionKey, code: Code, channel: &str) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(record) = self.record(session, IncidentKind::Refused, code.number()) else { return };
        let place = (!channel.is_empty()).then(|| Place::named(channel));
        self.incidents.push(record.because(code.meaning().trim()).concerning(place));
    }

    /// Remembers that a subscription ends without having been asked to. Call it before it goes.
    pub(super) fn note_unsubscribed(&mut self, key: SessionKey, channel: ChannelId, code: Code) {
        self.note_at(key, channel, IncidentKind::Unsubscribed, code, None);
    }

    /// Remembers that a position could not be resumed from. Call it while the subscription still has it.
    pub(super) fn note_reload(&mut self, key: SessionKey, channel: ChannelId, code: Code) {
        self.note_at(key, channel, IncidentKind::Reload, code, None);
    }

    /// Remembers that messages were dropped for a slow session.
    pub(super) fn note_skipped(&mut self, key: SessionKey, channel: ChannelId, range: (Position, Position)) {
        self.note_at(key, channel, IncidentKind::Skipped, Code::SlowConsumer, Some(range));
    }

    fn note_at(
        &mut self,
        key: SessionKey,
        channel: ChannelId,
        kind: IncidentKind,
        code: Code,
        range: Option<(Position, Position)>,
    ) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(subscription) = session.subscription(channel) else { return };
        let Some(record) = self.record(session, kind, code.number()) else { return };
        let mut place = self.place_of(subscription);
        if let (Some(place), Some((first, last))) = (&mut place, range) {
            (place.epoch, place.first, place.last) = (last.epoch.get(), first.offset, last.offset);
        }
        self.incidents.push(record.because(code.meaning().trim()).concerning(place));
    }
}
