//! Timers, a clean stop, and randomness from a seed.

use std::hash::BuildHasher;
use std::time::Duration;

use millrace_protocol::client::ServerBody;
use millrace_protocol::{ChannelId, Code, SessionId};

use super::{Draining, Queue, Shard};
use crate::seeded::Seeded;
use crate::session::State;
use crate::wheel::{TICK_MS, Tick};
use crate::{Action, Drain, Now, SessionKey, VerifyToken};

/// What a shard has to do later, besides sessions and homes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chore {
    /// The group's join failed.
    Rejoin(ChannelId),
    /// Grants could not be asked for again.
    Reauthorize,
    /// Marks of read positions have waited long enough.
    Marks,
    /// Sessions that are still there have been asked to leave long enough.
    DrainEnd,
}

/// Session ids and spreads: a counter under a keyed hash. Clients are told session ids and learn nothing from them.
pub(super) struct Random {
    key: Seeded,
    drawn: u64,
}

impl Random {
    pub(super) const fn new(key: Seeded) -> Self {
        Self { key, drawn: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.key.hash_one(self.drawn)
    }

    /// What a new session's id is drawn from: it says the id again at any time, in half of its bytes. Never 0.
    pub(super) fn session_draw(&mut self) -> u64 {
        self.drawn += 2;
        self.drawn
    }

    pub(super) fn session_id_of(&self, draw: u64) -> SessionId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.key.hash_one(draw - 1).to_be_bytes());
        id[8..].copy_from_slice(&self.key.hash_one(draw).to_be_bytes());
        SessionId(id)
    }
}

/// Ticks that a ping may be early, when the session is looked at anyway: what came a moment after the tick's beginning counts from there.
const EARLY: Tick = 1;

/// A delay in ticks, rounded up.
pub(super) fn ticks(delay: Duration) -> Tick {
    Tick::try_from(delay.as_millis().div_ceil(u128::from(TICK_MS))).unwrap_or(Tick::MAX / 2)
}

impl<V: VerifyToken> Shard<V> {
    /// Makes `due` the session's one timer that counts.
    pub(super) fn set_timer(&mut self, key: SessionKey, due: Tick) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.due = self.wheel.insert(due, key);
        }
    }

    pub(super) fn fire_timers(&mut self, now: Now) {
        let tick = self.tick(now);
        let mut sessions = Vec::new();
        self.wheel.advance(tick, &mut sessions);
        for (due, key) in sessions {
            if self.sessions.get(key).is_some_and(|session| session.due == due) {
                self.session_timer(now, tick, key);
            }
        }
        let mut chores = Vec::new();
        self.chores.advance(tick, &mut chores);
        for (_, chore) in chores {
            match chore {
                Chore::Rejoin(channel) => self.rejoin(channel),
                Chore::Reauthorize => self.reauthorize.begin(),
                Chore::Marks => self.send_marks(now),
                Chore::DrainEnd => self.end_drain(),
            }
        }
        self.with_homes(now, |homes, context| homes.handle_timeout(context, tick));
    }

    /// A session's timer: its handshake, its token, its heartbeat. Traffic does not touch the wheel; what was put off is seen here.
    fn session_timer(&mut self, now: Now, tick: Tick, key: SessionKey) {
        let heartbeat = ticks(self.config.heartbeat);
        let Some(session) = self.sessions.get(key) else { return };
        let expires_ms = match &session.state {
            State::Closing => return,
            State::Handshake | State::PutOff => {
                return self.end_session(key, Code::HandshakeTimeout, "no hello in time", Queue::Keep);
            }
            State::Open(identity) => identity.expires_ms,
        };
        if expires_ms <= now.unix_ms {
            return self.end_session(key, Code::TokenExpired, "the token has expired", Queue::Drop);
        }
        // Who acknowledges packets has answered.
        if session.outbound.is_in_lanes() && tick.saturating_sub(session.heard) + EARLY >= heartbeat {
            return self.actions.push_back(Action::Listen(key));
        }
        self.judge_silence(now, key);
    }

    /// What silence means for an open session: nothing yet, a ping, or its end.
    pub(super) fn judge_silence(&mut self, now: Now, key: SessionKey) {
        let (tick, heartbeat) = (self.tick(now), ticks(self.config.heartbeat));
        let Some(session) = self.sessions.get(key) else { return };
        let State::Open(identity) = &session.state else { return };
        let expires_ms = identity.expires_ms;
        let silent = tick.saturating_sub(session.heard);
        if silent >= 2 * heartbeat {
            return self.end_session(key, Code::HeartbeatTimeout, "nothing was heard for two heartbeats", Queue::Drop);
        }
        if session.outbound.stalled_since().is_some_and(|since| tick.saturating_sub(since) >= 2 * heartbeat) {
            return self.end_session(key, Code::SlowConsumer, "nothing was read for two heartbeats", Queue::Drop);
        }
        let (heard, pings) = (session.heard, silent + EARLY >= heartbeat);
        if pings {
            self.send(key, 0, ServerBody::Ping);
        }
        let quiet = heard + if pings { 2 * heartbeat } else { heartbeat };
        self.set_timer(key, quiet.min(self.expiry(now, expires_ms)));
    }

    /// The tick at which a token has expired.
    pub(super) fn expiry(&self, now: Now, expires_ms: i64) -> Tick {
        let left = u64::try_from(expires_ms.saturating_sub(now.unix_ms)).unwrap_or(0);
        self.tick(now).saturating_add(ticks(Duration::from_millis(left)))
    }

    pub(super) fn later(&mut self, now: Now, delay: Duration, chore: Chore) {
        let due = self.tick(now) + ticks(delay);
        self.chores.insert(due, chore);
    }

    pub(super) fn drain(&mut self, now: Now, drain: &Drain) {
        if self.draining != Draining::No {
            return;
        }
        self.draining = Draining::Begun;
        self.send_all_marks();
        let over_ms = u32::try_from(drain.over.as_millis()).unwrap_or(u32::MAX);
        let endpoints: Vec<&str> = drain.endpoints.iter().map(String::as_str).collect();
        for index in 0..self.sessions.end() {
            let Some(key) = self.sessions.key(index) else { continue };
            let after = self.random.next() % (u64::from(over_ms) + 1);
            let after_ms = u32::try_from(after).unwrap_or(over_ms);
            let body = ServerBody::GoAway { code: Code::GoingAway.number(), after_ms, endpoints: endpoints.clone() };
            if self.sessions.get(key).is_some_and(|session| session.identity().is_some()) {
                self.send(key, 0, body);
            }
        }
        self.later(now, drain.over, Chore::DrainEnd);
        self.with_homes(now, crate::homes::Homes::handle_drain);
    }

    fn end_drain(&mut self) {
        for index in 0..self.sessions.end() {
            if let Some(key) = self.sessions.key(index) {
                self.end_session(key, Code::GoingAway, "the node stops", Queue::Keep);
            }
        }
    }
}
