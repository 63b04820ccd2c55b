//! One shard: routes between its concerns and keeps their time.

use std::collections::VecDeque;
use std::time::Instant;

use millrace_protocol::Code;

use crate::{
    Action, Config, ConfigError, ControlEvent, Drain, Hop, Now, Outbound, SessionKey, ShardIndex, Stats, VerifyToken,
    Written,
};

/// One shard of a data node: the sessions that connected to it, and the homes of the channels whose slots are its own.
pub struct Shard<V> {
    config: Config,
    index: ShardIndex,
    verifier: V,
    actions: VecDeque<Action>,
    stats: Stats,
}

impl<V: VerifyToken> Shard<V> {
    /// A shard of a node with `shards` shards. `seed` must be random in production: session ids and spreads come from it.
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
        let _ = (now, shards, seed);
        config.check()?;
        Ok(Self { config, index, verifier, actions: VecDeque::new(), stats: Stats::default() })
    }

    /// Which shard it is.
    pub fn index(&self) -> ShardIndex {
        self.index
    }

    /// The verifier, to give it keys and revocations.
    pub fn verifier_mut(&mut self) -> &mut V {
        &mut self.verifier
    }

    /// A transport is open; its handshake timer runs.
    ///
    /// # Errors
    /// The code to close it with: `Busy` when there are [`sessions_max`](Config::sessions_max), `GoingAway` while draining.
    pub fn handle_connected(&mut self, now: Now) -> Result<SessionKey, Code> {
        let _ = (now, &self.config);
        Err(Code::Busy)
    }

    /// A whole frame came from a client: one binary WebSocket message.
    pub fn handle_frame(&mut self, now: Now, session: SessionKey, payload: &[u8]) {
        let _ = (now, session, payload);
    }

    /// The transport is gone, by whichever side. The key names nothing any more.
    pub fn handle_disconnected(&mut self, now: Now, session: SessionKey) {
        let _ = (now, session);
    }

    /// The transport took bytes of the session's [`Outbound`], or takes more again.
    pub fn handle_written(&mut self, now: Now, session: SessionKey, written: Written) {
        let _ = (now, session, written);
    }

    /// A hop came from another shard's ring.
    pub fn handle_hop(&mut self, now: Now, from: ShardIndex, hop: Hop) {
        let _ = (now, from, hop);
    }

    /// Something came from the backplane.
    pub fn handle_control(&mut self, now: Now, event: ControlEvent) {
        let _ = (now, event);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come; harmless when it has not.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
    }

    /// Begins a clean stop: clients are told when and where to come back, no publish is taken any more, what was delivered is
    /// stored, homes are given back. [`Action::Drained`] says when that is done; sessions left after `drain.over` are closed.
    pub fn handle_drain(&mut self, now: Now, drain: Drain) {
        let _ = (now, drain);
    }

    /// Ends a turn: what arrived together leaves together.
    pub fn end_turn(&mut self, now: Now) {
        let _ = now;
    }

    /// The next thing to do, or `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next hop for another shard's ring, or `None`. Take one only when there is room for it.
    pub fn poll_hop(&mut self, to: ShardIndex) -> Option<Hop> {
        let _ = to;
        None
    }

    /// Whether another turn has something to do without a further event.
    pub fn has_work(&self) -> bool {
        false
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What waits to be written to a session; `None` for one that is gone.
    pub fn outbound(&self, session: SessionKey) -> Option<&Outbound> {
        let _ = session;
        None
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
