//! What clients ask, from hello to history.

use std::time::Duration;

use bytes::Bytes;
use millrace_protocol::client::Publish as ClientPublish;
use millrace_protocol::client::{
    ClientBody, ClientFrame, FEATURE_READ_POSITIONS, Hello, HistoryRequest, Published, ServerBody, Start, Subscribe,
    VERSION, Welcome, decode_client,
};
use millrace_protocol::id::NameError;
use millrace_protocol::node::NewMessage;
use millrace_protocol::{ChannelId, ChannelName, Code};

use super::{Draining, Queue, Shard};
use crate::action::Action;
use crate::admission::Class;
use crate::grant::Question;
use crate::home::out_of_order;
use crate::hop::{Ack, Acks, HopBody, Origin, Outcome, Page, Publish, Read};
use crate::outbound::ControlKind;
use crate::replay::Paced;
use crate::session::{From, Identity, State, SubscriptionState};
use crate::wheel::Tick;
use crate::{Now, SessionKey, ShardIndex, VerifyToken, home_of};

/// Who waits for a grant, to do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) session: SessionKey,
    pub(super) request: u32,
    pub(super) from: From,
}

impl<V: VerifyToken> Shard<V> {
    pub(super) fn request(&mut self, now: Now, key: SessionKey, payload: &[u8]) {
        let tick = self.tick(now);
        if self.sessions.get(key).is_some_and(|session| matches!(session.state, State::PutOff)) {
            // It says more behind its hello, which has to be heard first.
            if let Some(hello) = self.logins.pull(key) {
                self.hear_login(now, key, &hello);
            }
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let open = match session.state {
            State::Closing => return,
            State::Handshake | State::PutOff => false,
            State::Open(_) => true,
        };
        session.heard = tick;
        self.stats.frames_in_total += 1;
        let frame = match decode_client(payload) {
            Ok(frame) => frame,
            Err(error) => {
                self.stats.bad_frames_total += 1;
                let message = error.to_string();
                self.send_error_about(key, 0, error.code(), &message, 0, "");
                return self.end_session(key, error.code(), "the frame cannot be read", Queue::Keep);
            }
        };
        let request = frame.request;
        match frame.body {
            ClientBody::Hello(hello) if !open => {
                // Who finds no room to wait is heard now: nobody can fill it so that others are refused.
                if Class::of(&hello) == Class::Resume || !self.put_off(tick, key, payload) {
                    self.hello(now, key, request, &hello);
                }
            }
            _ if !open => self.unexpected(key, request, "the first frame must be hello"),
            ClientBody::Hello(_) => self.unexpected(key, request, "hello comes once"),
            ClientBody::Publish(publish) => self.publish(now, key, request, &publish),
            ClientBody::Pong => {}
            body => {
                if let Err(wait_ms) = self.take_request(now, key) {
                    let message = Code::RateLimited.meaning().trim();
                    return self.send_error_about(key, request, Code::RateLimited, message, wait_ms, name_of(&body));
                }
                self.other(now, key, request, body);
            }
        }
    }

    fn other(&mut self, now: Now, key: SessionKey, request: u32, body: ClientBody<'_>) {
        match body {
            ClientBody::Subscribe(subscribe) => self.subscribe(key, request, &subscribe),
            ClientBody::Unsubscribe { channel } => self.unsubscribe(key, request, channel),
            ClientBody::History(history) => self.history(key, request, history),
            ClientBody::Refresh { token } => self.refresh(now, key, request, token),
            ClientBody::MarkRead { channel, position } => self.mark_read(now, key, request, (channel, position)),
            ClientBody::Unknown if request != 0 => {
                self.send_error_about(key, request, Code::Invalid, "this node does not know the request", 0, "");
            }
            ClientBody::Unknown | ClientBody::Hello(_) | ClientBody::Publish(_) | ClientBody::Pong => {}
        }
    }

    fn unexpected(&mut self, key: SessionKey, request: u32, reason: &'static str) {
        self.send_error_about(key, request, Code::UnexpectedFrame, reason, 0, "");
        self.end_session(key, Code::UnexpectedFrame, reason, Queue::Keep);
    }

    /// Whether a login waits, as a crowd comes back.
    fn put_off(&mut self, tick: Tick, key: SessionKey, payload: &[u8]) -> bool {
        let waits = self.logins.is_crowded(tick) && self.logins.push(tick, key, payload);
        if waits && let Some(session) = self.sessions.get_mut(key) {
            self.stats.hellos_put_off_total += 1;
            session.state = State::PutOff;
        }
        waits
    }

    /// Hears the logins that have waited long enough.
    pub(super) fn hear_logins(&mut self, now: Now) {
        if self.logins.len() == 0 {
            return;
        }
        let tick = self.tick(now);
        while let Some((key, hello)) = self.logins.pop(tick) {
            self.hear_login(now, key, &hello);
        }
        self.logins.end_turn();
    }

    fn hear_login(&mut self, now: Now, key: SessionKey, payload: &[u8]) {
        // It may have gone, or its time may be over.
        let Some(session) = self.sessions.get_mut(key).filter(|session| matches!(session.state, State::PutOff)) else {
            return;
        };
        session.state = State::Handshake;
        if let Ok(ClientFrame { request, body: ClientBody::Hello(hello) }) = decode_client(payload) {
            self.hello(now, key, request, &hello);
            if self.is_welcomed(key) {
                self.actions.push_back(Action::SignedIn(key));
            }
        }
    }

    fn busy(&mut self, key: SessionKey, request: u32, class: Class, wait: Duration) {
        match class {
            Class::Resume => self.stats.hellos_resume_busy_total += 1,
            Class::Login => self.stats.hellos_login_busy_total += 1,
        }
        self.send_error_about(key, request, Code::Busy, Code::Busy.meaning().trim(), wait_ms(wait), "");
        self.end_session(key, Code::Busy, "too many begin at once", Queue::Keep);
    }

    fn hello(&mut self, now: Now, key: SessionKey, request: u32, hello: &Hello<'_>) {
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            let message = format!("this node speaks version {VERSION}");
            self.send_error_about(key, request, Code::UnsupportedVersion, &message, 0, "");
            return self.end_session(key, Code::UnsupportedVersion, "no version in common", Queue::Keep);
        }
        let class = Class::of(hello);
        if let Err(wait) = self.admission.admit(class, self.random.next()) {
            return self.busy(key, request, class, wait);
        }
        let verified = match self.verifier.verify(hello.token, now.unix_ms) {
            Ok(verified) if verified.expires_ms > now.unix_ms => Ok(verified),
            Ok(_) => Err(Code::TokenExpired),
            Err(code) => Err(code),
        };
        let token = match verified {
            Ok(token) => token,
            Err(code) => {
                self.send_error(key, request, code);
                return self.end_session(key, code, "the token was refused", Queue::Keep);
            }
        };
        match class {
            Class::Resume => {
                self.stats.hellos_resume_total += 1;
                // Whoever only says so, without a token, makes no crowd that others wait for.
                let tick = self.tick(now);
                self.logins.resumed(tick);
            }
            Class::Login => self.stats.hellos_login_total += 1,
        }
        let expires_ms = token.expires_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.state = State::Open(Identity::new(token));
        session.agent = self.agents.take(hello.agent);
        let features = hello.features & FEATURE_READ_POSITIONS;
        session.hears_reads = features != 0;
        session.draw = self.random.session_draw();
        let id = self.random.session_id_of(session.draw);
        self.users.insert(&mut self.sessions, key);
        let due = (self.tick(now) + super::time::ticks(self.config.heartbeat)).min(self.expiry(now, expires_ms));
        self.set_timer(key, due);
        let node = self.config.node.clone();
        let welcome = Welcome {
            version: VERSION,
            heartbeat_ms: u32::try_from(self.config.heartbeat.as_millis()).unwrap_or(u32::MAX),
            features,
            session: id,
            token_expires_ms: expires_ms,
            payload_bytes_max: self.config.payload_bytes_max,
            subscriptions_max: self.config.subscriptions_max,
            node: &node,
        };
        self.send(key, request, ServerBody::Welcome(welcome));
        if let Some(session) = self.sessions.get_mut(key) {
            session.expect(hello.subscriptions.len().min(self.config.subscriptions_max as usize));
        }
        for subscribe in &hello.subscriptions {
            self.subscribe(key, request, subscribe);
        }
        if let Some(session) = self.sessions.get_mut(key)
            && session.in_flight > 0
            && session.identity().is_some()
        {
            session.beginning = session.in_flight;
            self.admission.began();
        }
    }

    fn subscribe(&mut self, key: SessionKey, request: u32, subscribe: &Subscribe<'_>) {
        let name = match ChannelName::new(subscribe.channel) {
            Ok(name) => name,
            Err(error) => {
                let code = if matches!(error, NameError::TooLong { .. }) { Code::TooLarge } else { Code::Invalid };
                return self.send_error_about(key, request, code, &error.to_string(), 0, subscribe.channel);
            }
        };
        let refuse = |shard: &mut Self, code: Code| {
            shard.send_error_about(key, request, code, code.meaning().trim(), 0, subscribe.channel);
        };
        if self.draining != Draining::No {
            return refuse(self, Code::GoingAway);
        }
        if !self.take_in_flight(key) {
            return refuse(self, Code::Busy);
        }
        let from = match subscribe.start {
            Start::Live => From::Tail,
            Start::After(position) => From::After(position),
            Start::Attach => From::Nowhere,
        };
        let Some(identity) = self.sessions.get(key).and_then(|session| session.identity()) else { return };
        let question = Question { tenant: identity.tenant, user: identity.user.clone(), name };
        let waiter = Waiter { session: key, request, from };
        if let Some(granted) = self.grants.find(&question) {
            self.stats.grants_cached_total += 1;
            self.begin(&waiter, &granted);
        } else if self.backplane.term().is_none() {
            self.subscribe_answered(key);
            refuse(self, Code::Unavailable);
        } else {
            self.grants.ask(question, waiter);
        }
    }

    fn unsubscribe(&mut self, key: SessionKey, request: u32, channel: ChannelId) {
        let name = self.name_of(channel);
        self.drop_queued(key, channel);
        match self.drop_subscription(key, channel) {
            None => self.send_error(key, request, Code::NotSubscribed),
            Some(state) => {
                if let SubscriptionState::Joining { request, .. } = state {
                    self.refuse_subscribe(key, request, Code::NotSubscribed, name.as_ref());
                }
                let body = ServerBody::Unsubscribed { channel, code: 0, reason: "" };
                self.send_as(key, request, body, ControlKind::Closing(channel));
            }
        }
    }

    fn publish(&mut self, now: Now, key: SessionKey, request: u32, publish: &ClientPublish<'_>) {
        let ClientPublish { channel, producer, sequence, body } = *publish;
        let now_ns = self.ms(now) * 1_000_000;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let access = session.subscription(channel).map(|subscription| subscription.access);
        let Some(access) = access.filter(|access| access.can_publish) else {
            let code = if access.is_none() { Code::NotSubscribed } else { Code::ReadOnly };
            // An answer costs as much as the rate allows, whatever it says.
            return match session.publishes.take(now_ns, self.config.publish_rate) {
                Ok(()) => self.send_error(key, request, code),
                Err(wait) => {
                    let message = Code::RateLimited.meaning().trim();
                    self.send_error_about(key, request, Code::RateLimited, message, wait_ms(wait), "");
                }
            };
        };
        if let Some(barring) = &mut session.barring {
            let blocked = barring.check(now_ns / 1_000_000, &(channel, producer), sequence);
            if barring.is_empty() {
                session.barring = None;
            }
            if let Err(code) = blocked {
                return self.send_error(key, request, code);
            }
        }
        // From here on a refusal bars what the producer sends after it, or it would be stored in the wrong order.
        let mut retry_after_ms = 0;
        let to = home_of(channel, self.shards);
        let refused = if let Err(wait) = session.publishes.take(now_ns, self.config.publish_rate) {
            retry_after_ms = wait_ms(wait);
            Some(Code::RateLimited)
        } else if body.len() > self.config.payload_bytes_max as usize {
            Some(Code::TooLarge)
        } else if self.draining != Draining::No {
            Some(Code::GoingAway)
        } else if session.in_flight >= self.config.requests_in_flight_max || !self.links.admit(to) {
            Some(Code::Busy)
        } else {
            None
        };
        if let Some(code) = refused {
            let barring = session.barring.get_or_insert_default();
            barring.bar(now_ns / 1_000_000, (channel, producer), sequence);
            return self.send_error_about(key, request, code, code.meaning().trim(), retry_after_ms, "");
        }
        session.in_flight += 1;
        let Some(identity) = session.identity() else { return };
        let message = NewMessage {
            user: identity.user.clone(),
            producer,
            sequence,
            time_ms: now.unix_ms,
            body: Bytes::copy_from_slice(body),
        };
        self.stats.publishes_total += 1;
        let origin = Origin::Session { shard: self.index, session: key, request };
        let publish = Publish { channel, history: access.history, origin, message, since: now.instant };
        self.links.send(to, HopBody::Publish(Box::new(publish)));
    }

    /// What became of publishes.
    pub(super) fn handle_acks(&mut self, now: Now, from: ShardIndex, acks: Acks) {
        self.links.answered(from, acks.acks.len());
        let channel = acks.channel;
        for ack in acks.acks {
            self.answered(ack.session);
            self.unbar(channel, &ack);
            let position = match ack.outcome {
                Outcome::Accepted(position) => (position, false),
                Outcome::Duplicate(position) => (position, true),
                Outcome::OutOfOrder { expected } => {
                    let message = out_of_order(expected);
                    self.send_error_about(ack.session, ack.request, Code::OutOfOrder, &message, 0, "");
                    continue;
                }
                Outcome::Refused { code, retry_after_ms } => {
                    let message = code.meaning().trim();
                    self.send_error_about(ack.session, ack.request, code, message, retry_after_ms, "");
                    continue;
                }
            };
            self.stats.publish_ack.record(now.instant.saturating_duration_since(ack.since), 1);
            if ack.request != 0 {
                let (position, duplicate) = position;
                let (producer, sequence) = (ack.producer, ack.sequence);
                let body = Published { channel, producer, sequence, position, duplicate };
                self.send(ack.session, ack.request, ServerBody::Published(body));
            }
        }
    }

    /// What is accepted needs no bar.
    fn unbar(&mut self, channel: ChannelId, ack: &Ack) {
        let expected = match ack.outcome {
            Outcome::Accepted(_) | Outcome::Duplicate(_) => ack.sequence.next(),
            Outcome::OutOfOrder { expected } => expected,
            Outcome::Refused { .. } => return,
        };
        if let Some(session) = self.sessions.get_mut(ack.session)
            && let Some(barring) = &mut session.barring
        {
            barring.lift(&(channel, ack.producer), expected);
            if barring.is_empty() {
                session.barring = None;
            }
        }
    }

    fn history(&mut self, key: SessionKey, request: u32, body: HistoryRequest) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.subscription(body.channel).is_none() {
            return self.send_error(key, request, Code::NotSubscribed);
        }
        let waiting = session.pacing.as_ref().map_or(0, |pacing| pacing.histories());
        if waiting >= self.config.history_requests_max {
            return self.send_error(key, request, Code::Busy);
        }
        if !self.take_in_flight(key) {
            return self.send_error(key, request, Code::Busy);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.pacing.get_or_insert_default().push(Paced::History { request, body });
        self.pace_later(key);
    }

    fn start_history(&mut self, key: SessionKey, request: u32, body: HistoryRequest) -> bool {
        let HistoryRequest { channel, messages_max, range } = body;
        let to = home_of(channel, self.shards);
        // The subscription may have ended while the request waited: no access, no history.
        let subscription = self.sessions.get(key).and_then(|session| session.subscription(channel));
        let history = subscription.map(|subscription| subscription.access.history);
        let refused = match history {
            None => Some(Code::NotSubscribed),
            Some(_) if !self.links.admit(to) => Some(Code::Busy),
            Some(_) => None,
        };
        if let Some(code) = refused {
            self.answered(key);
            self.send_error(key, request, code);
            return false;
        }
        let Some(history) = history else { return false };
        let read = Read { channel, history, session: key, request, range, messages_max };
        self.links.send(to, HopBody::Read(Box::new(read)));
        true
    }

    pub(super) fn handle_page(&mut self, from: ShardIndex, page: Page) {
        self.links.answered(from, 1);
        let Page { session: key, request, channel, result } = page;
        self.release(key);
        self.answered(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.identity().is_none() {
            return;
        }
        if session.subscription(channel).is_none() {
            return self.send_error(key, request, Code::NotSubscribed);
        }
        match result {
            Ok(bytes) => {
                let plain_bytes = bytes.len() as u64;
                let bytes = match session.outbound.window {
                    None => bytes,
                    Some(window) => self.twins.page(window, bytes),
                };
                self.stats.outbound_saved_bytes_total += plain_bytes - bytes.len() as u64;
                self.stats.queued_bytes += bytes.len() as u64;
                self.stats.outbound_bytes_total += bytes.len() as u64;
                session.outbound.push_page(channel, request, bytes);
                self.flush(key);
            }
            Err(code) => self.send_error(key, request, code),
        }
    }

    fn refresh(&mut self, now: Now, key: SessionKey, request: u32, token: &str) {
        let token = match self.verifier.verify(token, now.unix_ms) {
            Ok(token) if token.expires_ms > now.unix_ms => token,
            Ok(_) => return self.send_error(key, request, Code::TokenExpired),
            Err(code) => return self.send_error(key, request, code),
        };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let State::Open(identity) = &mut session.state else { return };
        if identity.tenant != token.tenant || identity.user != token.user {
            return self.send_error(key, request, Code::TokenMismatch);
        }
        let token_expires_ms = token.expires_ms;
        *identity = Identity::new(token);
        let due = session.due;
        // A later end is seen when the timer fires; a sooner one moves it.
        let expiry = self.expiry(now, token_expires_ms);
        if expiry < due {
            self.set_timer(key, expiry);
        }
        self.send(key, request, ServerBody::Refreshed { token_expires_ms });
    }

    fn take_request(&mut self, now: Now, key: SessionKey) -> Result<(), u32> {
        let now_ns = self.ms(now) * 1_000_000;
        match self.sessions.get_mut(key) {
            Some(session) => session.requests.take(now_ns, self.config.request_rate).map_err(wait_ms),
            None => Ok(()),
        }
    }

    pub(super) fn take_in_flight(&mut self, key: SessionKey) -> bool {
        match self.sessions.get_mut(key) {
            Some(session) if session.in_flight < self.config.requests_in_flight_max => {
                session.in_flight += 1;
                true
            }
            _ => false,
        }
    }

    /// A request that was counted as waiting is answered.
    pub(super) fn answered(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.in_flight = session.in_flight.saturating_sub(1);
        }
    }

    /// A request to subscribe is answered. What else a session asks meanwhile does not keep it beginning.
    pub(super) fn subscribe_answered(&mut self, key: SessionKey) {
        self.answered(key);
        if let Some(session) = self.sessions.get_mut(key)
            && session.beginning > 0
        {
            session.beginning -= 1;
            if session.beginning == 0 {
                self.admission.ended();
            }
        }
    }

    /// A page came, or never will: its room is free.
    pub(super) fn release(&mut self, key: SessionKey) {
        if let Some(pacing) = self.sessions.get_mut(key).and_then(|session| session.pacing.as_mut()) {
            pacing.release(self.config.page_bytes_max);
            self.pace_later(key);
        }
    }

    /// Looks at the session's pace in the next turn, if it has one.
    pub(super) fn pace_later(&mut self, key: SessionKey) {
        if let Some(pacing) = self.sessions.get_mut(key).and_then(|session| session.pacing.as_mut())
            && !pacing.ready
        {
            pacing.ready = true;
            self.paced.push(key);
        }
    }

    /// Starts the pages that sessions have room for, and gives their number.
    pub(super) fn start_pages(&mut self) -> usize {
        let mut pages = 0;
        for key in std::mem::take(&mut self.paced) {
            if let Some(pacing) = self.sessions.get_mut(key).and_then(|session| session.pacing.as_mut()) {
                pacing.ready = false;
            }
            while let Some(paced) = self.next_page(key) {
                let started = match paced {
                    Paced::Replay(channel) => self.start_replay(key, channel),
                    Paced::History { request, body } => self.start_history(key, request, body),
                };
                if started {
                    pages += 1;
                } else {
                    self.release(key);
                }
            }
            if let Some(session) = self.sessions.get_mut(key)
                && session.pacing.as_ref().is_some_and(|pacing| pacing.is_idle() && !pacing.ready)
            {
                session.pacing = None;
            }
        }
        pages
    }

    fn next_page(&mut self, key: SessionKey) -> Option<Paced> {
        let session = self.sessions.get_mut(key)?;
        let queued = session.outbound.data_bytes();
        session.pacing.as_mut()?.start(queued, self.config.page_bytes_max, self.config.queue_bytes_max)
    }
}

fn wait_ms(wait: std::time::Duration) -> u32 {
    u32::try_from(wait.as_millis() + 1).unwrap_or(u32::MAX)
}

fn name_of<'a>(body: &ClientBody<'a>) -> &'a str {
    match body {
        ClientBody::Subscribe(subscribe) => subscribe.channel,
        _ => "",
    }
}
