//! One shard: routes between its concerns and keeps their time.

mod access;
mod control;
mod deliver;
mod inspect;
mod reads;
mod request;
mod subscribe;
mod time;

use std::collections::VecDeque;
use std::time::Instant;

use millrace_protocol::client::{ServerBody, ServerFrame};
use millrace_protocol::id::NAME_BYTES_MAX;
use millrace_protocol::ws::deflate::Window;
use millrace_protocol::{ChannelId, Code, TenantId};
use rustc_hash::FxHashSet;

use crate::admission::{Admission, Logins};
use crate::agent::Agents;
use crate::arena::Arena;
use crate::backplane::Backplane;
use crate::compression::Twins;
use crate::grant::Grants;
use crate::home::{Context, Wants};
use crate::homes::Homes;
use crate::hop::HopBody;
use crate::incident::Incidents;
use crate::links::Links;
use crate::outbound::{ControlKind, Lanes, Outbound};
use crate::reads::Marks;
use crate::seeded::Seeded;
use crate::session::{Session, State};
use crate::subscription::Channels;
use crate::user::Users;
use crate::wheel::{TICK_MS, Tick, Wheel};
use crate::{
    Action, Compress, Config, ConfigError, ControlEvent, Drain, Hop, Now, SessionKey, ShardIndex, Stats, VerifyToken,
    Written,
};

use self::control::Reauthorize;
pub use self::inspect::Findings;
use self::request::Waiter;
use self::time::{Chore, Random};

/// No further round of pages begins in a turn that started so many: it must not become long.
const PAGES_PER_TURN: usize = 512;

/// One shard of a data node: the sessions that connected to it, and the homes of the channels whose slots are its own.
pub struct Shard<V> {
    config: Config,
    index: ShardIndex,
    shards: u16,
    verifier: V,
    began: Instant,
    random: Random,
    producers_hasher: Seeded,

    sessions: Arena<Session>,
    users: Users,
    agents: Agents,
    incidents: Incidents,
    channels: Channels,
    grants: Grants<Waiter>,
    admission: Admission,
    logins: Logins,
    marks: Marks,
    homes: Homes,

    links: Links,
    backplane: Backplane,
    wants: Wants,
    reauthorize: Reauthorize,
    /// Tokens revoked in this turn, by their hash.
    revoked: FxHashSet<(TenantId, u64)>,
    /// In this turn the verifier was told keys, so that some may have ended.
    keys_told: bool,

    wheel: Wheel<SessionKey>,
    chores: Wheel<Chore>,
    draining: Draining,

    actions: VecDeque<Action>,
    flushes: VecDeque<SessionKey>,
    /// Sessions that may start their next page.
    paced: Vec<SessionKey>,
    /// Channels whose group is to join.
    groups: Vec<ChannelId>,
    /// The last join's number.
    joins: u32,
    scratch: Vec<u8>,
    twins: Twins,
    stats: Stats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    Begun,
    Done,
}

impl<V: VerifyToken> Shard<V> {
    /// A shard of a node with `shards` shards. `seed` must be random in production and is told to nobody: session ids, spreads and
    /// the keys of hash tables come from it.
    ///
    /// # Errors
    /// [`ConfigError`] if the limits cannot hold together.
    pub fn new(
        now: Now,
        config: Config,
        index: ShardIndex,
        shards: u16,
        seed: u64,
        verifier: V,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if shards == 0 || index.0 >= shards {
            let must = "below the number of shards";
            return Err(ConfigError { field: "index", value: index.0.into(), must });
        }
        let hasher = Seeded::new(seed ^ u64::from(index.0) << 48);
        Ok(Self {
            index,
            shards,
            verifier,
            began: now.instant,
            sessions: Arena::new(),
            users: Users::new(hasher.derive("users")),
            agents: Agents::default(),
            incidents: Incidents::new(config.incidents_max),
            channels: Channels::default(),
            grants: Grants::new(config.grants_max, hasher.derive("grants")),
            marks: Marks::new(hasher.derive("marks")),
            homes: Homes::new(),
            admission: Admission::new(config.beginning_max),
            logins: Logins::default(),
            links: Links::new(index, shards, config.hop_deliveries_max, config.hop_requests_max),
            backplane: Backplane::new(index),
            wants: Wants::default(),
            reauthorize: Reauthorize::default(),
            revoked: FxHashSet::default(),
            keys_told: false,
            wheel: Wheel::new(),
            chores: Wheel::new(),
            draining: Draining::No,
            actions: VecDeque::new(),
            flushes: VecDeque::new(),
            paced: Vec::new(),
            groups: Vec::new(),
            joins: 0,
            scratch: Vec::new(),
            twins: Twins::new(config.compress_from_bytes, config.compress_turn_bytes_max),
            stats: Stats::default(),
            random: Random::new(hasher.derive("random")),
            producers_hasher: hasher.derive("producers"),
            config,
        })
    }

    /// Which shard it is.
    pub fn index(&self) -> ShardIndex {
        self.index
    }

    /// The verifier, to give it keys and revocations.
    pub fn verifier_mut(&mut self) -> &mut V {
        &mut self.verifier
    }

    /// From now on frames are compressed with this for sessions that [agreed to it](Self::handle_agreed).
    pub fn compress_with(&mut self, compressor: Box<dyn Compress>) {
        self.twins.compress_with(compressor);
    }

    /// The session's transport agreed to compression: messages and pages may be compressed for that window.
    pub fn handle_agreed(&mut self, session: SessionKey, window: Window) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.outbound.window = Some(window);
        }
    }

    /// A transport is open; its handshake timer runs.
    ///
    /// # Errors
    /// The code to close it with: `Busy` when there are [`sessions_max`](Config::sessions_max), `GoingAway` while draining.
    pub fn handle_connected(&mut self, now: Now) -> Result<SessionKey, Code> {
        if self.draining != Draining::No {
            return Err(Code::GoingAway);
        }
        if self.sessions.len() >= self.config.sessions_max {
            self.stats.busy_total += 1;
            return Err(Code::Busy);
        }
        let tick = self.tick(now);
        let key = self.sessions.insert(Session::new(tick));
        self.stats.sessions_opened_total += 1;
        self.set_timer(key, tick + time::ticks(self.config.handshake_timeout));
        Ok(key)
    }

    /// As [`handle_connected`](Self::handle_connected), for a transport with a stream for each channel: an
    /// [`Action::Flush`] of it asks for [`write_lanes`](Self::write_lanes).
    ///
    /// # Errors
    /// The same.
    pub fn handle_connected_in_lanes(&mut self, now: Now) -> Result<SessionKey, Code> {
        let key = self.handle_connected(now)?;
        if let Some(session) = self.sessions.get_mut(key) {
            session.outbound = Outbound::in_lanes();
        }
        Ok(key)
    }

    /// The answer to [`Action::Listen`]: whether the client's transport has acknowledged anything that was sent to it since the last time that
    /// this was asked. That answers a ping; it does not spare the next one, as clients, too, take two heartbeats of silence for the end.
    pub fn handle_listened(&mut self, now: Now, session: SessionKey, has_acknowledged: bool) {
        let pinged = self.tick(now).saturating_sub(time::ticks(self.config.heartbeat));
        if let Some(of) = self.sessions.get_mut(session).filter(|_| has_acknowledged) {
            of.heard = of.heard.max(pinged);
        }
        self.judge_silence(now, session);
    }

    /// Offers what waits in a session's [`Outbound`] to its transport's lanes. Comes also when a lane takes more again.
    pub fn write_lanes(&mut self, now: Now, session: SessionKey, lanes: &mut impl Lanes) {
        let tick = self.tick(now);
        let Some(of) = self.sessions.get_mut(session) else { return };
        let before = of.outbound.queued_bytes();
        of.outbound.offer(tick, lanes);
        self.stats.queued_bytes -= (before - of.outbound.queued_bytes()) as u64;
        self.pace_later(session);
    }

    /// A whole frame came from a client: one binary WebSocket message.
    pub fn handle_frame(&mut self, now: Now, session: SessionKey, payload: &[u8]) {
        self.request(now, session, payload);
    }

    /// The transport is gone, by whichever side. The key names nothing any more.
    pub fn handle_disconnected(&mut self, _now: Now, session: SessionKey) {
        self.note_end(session, None, "the connection was closed or lost");
        self.forget(session);
        if let Some(gone) = self.sessions.remove(session) {
            self.stats.sessions_closed_total += 1;
            self.stats.queued_bytes -= gone.outbound.queued_bytes() as u64;
        }
    }

    /// The transport took bytes of the session's [`Outbound`], or takes more again.
    pub fn handle_written(&mut self, now: Now, session: SessionKey, written: Written) {
        let tick = self.tick(now);
        let Some(of) = self.sessions.get_mut(session) else { return };
        let before = of.outbound.queued_bytes();
        of.outbound.advance(tick, written.bytes, written.blocked);
        let after = of.outbound.queued_bytes();
        self.stats.queued_bytes -= (before - after) as u64;
        if !written.blocked && after > 0 {
            // The transport took a part although it is not blocked: go on.
            self.flush(session);
        }
        self.pace_later(session);
    }

    /// A hop came from another shard's ring.
    pub fn handle_hop(&mut self, now: Now, from: ShardIndex, hop: Hop) {
        match hop.0 {
            HopBody::Publish(publish) => self.with_homes(now, |homes, context| homes.publish(context, *publish)),
            HopBody::Join(join) => self.with_homes(now, |homes, context| homes.join(context, from, join)),
            HopBody::Read(read) => self.with_homes(now, |homes, context| homes.read(context, from, read)),
            HopBody::Leave(channel) => self.with_homes(now, |homes, context| homes.leave(context, from, channel)),
            HopBody::Acks(acks) => self.handle_acks(now, from, *acks),
            HopBody::Joined(joined) => self.handle_joined(now, from, *joined),
            HopBody::Page(page) => self.handle_page(from, *page),
            HopBody::Live(run) => self.handle_live(now, *run),
            HopBody::Lagged(channel) => self.handle_lagged(channel),
            HopBody::Gone(channel, code) => self.handle_gone(channel, code),
        }
    }

    /// Something came from the backplane.
    pub fn handle_control(&mut self, now: Now, event: ControlEvent) {
        match event {
            ControlEvent::LinkUp { term } => self.link_up(now, term),
            ControlEvent::LinkDown => self.link_down(now),
            ControlEvent::Frame(frame) => self.control_frame(now, frame),
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come; harmless when it has not.
    pub fn handle_timeout(&mut self, now: Now) {
        self.fire_timers(now);
    }

    /// Begins a clean stop: clients are told when and where to come back, no publish is taken any more, what was delivered is
    /// stored, homes are given back. [`Action::Drained`] says when that is done; sessions left after `drain.over` are closed.
    pub fn handle_drain(&mut self, now: Now, drain: Drain) {
        self.drain(now, &drain);
    }

    /// Ends a turn: what arrived together leaves together.
    pub fn end_turn(&mut self, now: Now) {
        self.look_for_revoked();
        self.look_for_ended_keys();
        self.hear_logins(now);
        let mut pages = self.start_pages();
        self.join_groups(now);
        self.take_local_hops(now);
        // Short pages from windows that are here have made room for the next ones: what a client resumes leaves in one write. A queue
        // is not written meanwhile, so the bytes of a session's pages are bounded as in one round.
        while !self.paced.is_empty() && pages < PAGES_PER_TURN {
            pages += self.start_pages().max(1);
            self.take_local_hops(now);
        }
        self.ask_again();
        self.repeat_reauthorize(now);
        self.with_homes(now, Homes::end_turn);
        self.take_local_hops(now);
        self.ask_grants();
        self.incidents.end_turn(now.unix_ms);
        self.twins.end_turn();
        if self.draining == Draining::Begun && self.homes.is_drained() {
            self.draining = Draining::Done;
            self.actions.push_back(Action::Drained);
        }
        self.stats.beginning = self.admission.beginning().into();
        self.stats.put_off = self.logins.len() as u64;
        self.stats.sessions = self.sessions.len().into();
        self.stats.homes = self.homes.len() as u64;
        self.stats.channels = self.channels.len() as u64;
        self.stats.grants = self.grants.len() as u64;
        self.stats.compress_passed_over_total = self.twins.passed_over_total;
    }

    fn take_local_hops(&mut self, now: Now) {
        // Ends: what a page sets off waits in `paced` and `groups`.
        while let Some(hop) = self.links.poll_local() {
            self.handle_hop(now, self.index, hop);
        }
    }

    /// The next thing to do, or `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(frame) = self.backplane.poll() {
            return Some(Action::Control(frame));
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(key) = self.flushes.pop_front() {
            if self.sessions.get(key).is_some_and(|session| session.outbound.flushing && !session.outbound.is_empty()) {
                return Some(Action::Flush(key));
            }
        }
        None
    }

    /// The next hop for another shard's ring, or `None`. Take one only when there is room for it.
    pub fn poll_hop(&mut self, to: ShardIndex) -> Option<Hop> {
        if to == self.index {
            return None;
        }
        let hop = self.links.poll(to)?;
        self.stats.hops_out_total += 1;
        Some(hop)
    }

    /// Whether another turn has something to do without a further event.
    pub fn has_work(&self) -> bool {
        !self.paced.is_empty() || !self.groups.is_empty() || !self.wants.offers.is_empty() || self.asks_again()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = [self.wheel.next(), self.chores.next(), self.homes.poll_timeout(), self.logins.due()];
        let next = next.into_iter().flatten().min()?;
        Some(self.began + std::time::Duration::from_millis(u64::from(next) * TICK_MS))
    }

    /// What waits to be written to a session; `None` for one that is gone.
    pub fn outbound(&self, session: SessionKey) -> Option<&Outbound> {
        self.sessions.get(session).map(|session| &session.outbound)
    }

    /// Whether the session's hello was accepted, and it has not ended.
    pub fn is_welcomed(&self, session: SessionKey) -> bool {
        self.sessions.get(session).is_some_and(|session| session.identity().is_some())
    }

    /// Counters and gauges; gauges are of the end of the last turn.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Nothing is left of any session, channel or request, and nothing is under way. Grants may still be remembered.
    pub fn is_idle(&self) -> bool {
        self.sessions.len() == 0
            && self.users.is_empty()
            && self.channels.len() == 0
            && self.homes.len() == 0
            && self.links.is_idle()
            && self.backplane.is_idle()
            && self.marks.is_empty()
            && !self.has_work()
    }

    /// The homes, and everything that they work with.
    fn with_homes(&mut self, now: Now, act: impl FnOnce(&mut Homes, &mut Context<'_>)) {
        let now_ms = self.ms(now);
        let mut context = Context {
            config: &self.config,
            now_ms,
            unix_ms: now.unix_ms,
            draining: self.draining != Draining::No,
            hasher: self.producers_hasher,
            links: &mut self.links,
            backplane: &mut self.backplane,
            wants: &mut self.wants,
            scratch: &mut self.scratch,
            stats: &mut self.stats,
        };
        act(&mut self.homes, &mut context);
    }

    /// Puts a control frame into a session's queue. A client that asks and never reads meets its end here.
    fn send(&mut self, key: SessionKey, request: u32, body: ServerBody<'_>) {
        self.send_as(key, request, body, ControlKind::Plain);
    }

    fn send_as(&mut self, key: SessionKey, request: u32, body: ServerBody<'_>, kind: ControlKind) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if matches!(session.state, State::Closing) {
            return;
        }
        if session.outbound.control_frames() >= self.config.control_frames_max {
            self.end_session(key, Code::SlowConsumer, "too many replies wait to be read", Queue::Drop);
            return;
        }
        let before = session.outbound.queued_bytes();
        session.outbound.push_control(&mut self.scratch, &ServerFrame { request, body }, kind);
        let bytes = (session.outbound.queued_bytes() - before) as u64;
        self.stats.queued_bytes += bytes;
        self.stats.outbound_bytes_total += bytes;
        self.flush(key);
    }

    /// Answers a request with an error.
    fn send_error(&mut self, key: SessionKey, request: u32, code: Code) {
        self.send_error_about(key, request, code, code.meaning().trim(), 0, "");
    }

    fn send_error_about(
        &mut self,
        key: SessionKey,
        request: u32,
        code: Code,
        message: &str,
        retry_after_ms: u32,
        channel: &str,
    ) {
        // A name comes unchecked. Whole, it could make thousands of answers as long as the longest frame each.
        let channel = &channel[..channel.floor_char_boundary(NAME_BYTES_MAX)];
        self.note_refused(key, code, channel);
        self.stats.refused_total += 1;
        match code {
            Code::RateLimited => self.stats.rate_limited_total += 1,
            Code::Busy => self.stats.busy_total += 1,
            _ => {}
        }
        self.send(key, request, ServerBody::Error { code: code.number(), message, retry_after_ms, channel });
    }

    /// Asks the shell to write, once, unless the transport is known to take nothing.
    fn flush(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let outbound = &mut session.outbound;
        if !outbound.flushing && !outbound.is_blocked() && !outbound.is_empty() {
            outbound.flushing = true;
            self.flushes.push_back(key);
        }
    }

    /// Ends a session: it hears nothing more but what `queue` says, and the shell closes its transport.
    fn end_session(&mut self, key: SessionKey, code: Code, reason: &'static str, queue: Queue) {
        let Some(session) = self.sessions.get(key) else { return };
        if matches!(session.state, State::Closing) {
            return;
        }
        match code {
            Code::SlowConsumer => self.stats.slow_consumers_total += 1,
            Code::HeartbeatTimeout => self.stats.heartbeat_timeouts_total += 1,
            Code::HandshakeTimeout => self.stats.handshake_timeouts_total += 1,
            Code::TokenExpired | Code::TokenRevoked => self.stats.token_ends_total += 1,
            _ => {}
        }
        self.note_end(key, Some(code), reason);
        self.forget(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.state = State::Closing;
        // The shell writes what is left when it closes.
        session.outbound.flushing = false;
        let before = session.outbound.queued_bytes();
        if queue == Queue::Drop {
            session.outbound.drop_all();
        }
        self.stats.queued_bytes -= (before - session.outbound.queued_bytes()) as u64;
        self.actions.push_back(Action::Close { session: key, code, reason });
    }

    /// Lets go of everything that a session holds elsewhere.
    fn forget(&mut self, key: SessionKey) {
        self.users.remove(&mut self.sessions, key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.pacing = None;
        if std::mem::take(&mut session.beginning) > 0 {
            self.admission.ended();
        }
        self.agents.give_back(std::mem::take(&mut session.agent));
        // The last first: they are in order, and those behind a removed one move.
        let channels: Vec<_> = session.subscriptions.iter().rev().map(|subscription| subscription.channel).collect();
        for channel in channels {
            self.drop_subscription(key, channel);
        }
        if let Some(session) = self.sessions.get_mut(key)
            && matches!(session.state, State::Open(_))
        {
            // The chain of the user's sessions has let go of it; it must not do so twice.
            session.state = State::Closing;
        }
    }

    fn tick(&self, now: Now) -> Tick {
        Tick::try_from(self.ms(now) / TICK_MS).unwrap_or(Tick::MAX)
    }

    /// Ms since the shard began.
    fn ms(&self, now: Now) -> u64 {
        u64::try_from(now.instant.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// What becomes of a queue whose session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// It is still written: the last frame says why.
    Keep,
    /// It is dropped but for the rest of a frame that is partly written.
    Drop,
}
