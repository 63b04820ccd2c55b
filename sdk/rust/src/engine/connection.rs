//! The connection: opening it, keeping it, and coming back after it is gone.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_protocol::client::{FEATURE_READ_POSITIONS, TOKEN_BYTES_MAX, VERSION, Welcome};
use millrace_protocol::code::{Advice, Code};

use super::calls::given_up_error;
use super::channel::Attach;
use super::transmit::Control;
use super::{Action, Engine, Key, Request};
use crate::error::{Awaited, Error};
use crate::event::Event;
use crate::state::State;

/// A connection that held this long ended a time of trouble: back-off starts over.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// A token that expires sooner is not shown to a node.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// Between tries to get a new token, and before the first if the node's clock and ours disagree.
const REFRESH_RETRY: Duration = Duration::from_secs(30);
/// A complaint that is older says nothing about an end without a word: the session went on.
const COMPLAINT_AGE: Duration = Duration::from_secs(5);
/// How far the clock on the wall may move against ours before it means that somebody set it, or the machine slept.
const CLOCK_DRIFT_MS: u64 = 2_500;
/// Added to two heartbeats: how late a node may be to end a session, or we to hear it.
const LINGER_SLACK: Duration = Duration::from_secs(5);

/// Where the connection is on its way.
#[derive(Debug)]
pub(super) enum Link {
    Idle,
    /// Between tries.
    Waiting {
        until: Instant,
    },
    /// No connection before there is a token.
    AwaitingToken,
    Connecting {
        deadline: Instant,
    },
    /// The hello is under way.
    Greeting {
        deadline: Instant,
        hello: u32,
    },
    Open(Session),
    Closed(Option<Error>),
}

/// What a welcomed connection knows of itself.
#[derive(Debug)]
pub(super) struct Session {
    opened_at: Instant,
    /// Two heartbeats of the node; `None` if it has none.
    silence_max: Option<Duration>,
    heard_at: Instant,
    /// Request number of the hello, which its subscriptions share.
    hello: u32,
}

/// The node asked us to leave.
#[derive(Debug)]
pub(super) struct GoAway {
    pub(super) at: Instant,
    pub(super) error: Error,
}

#[derive(Debug, Default)]
pub(super) struct Token {
    current: Option<Arc<str>>,
    expires_at: Option<Instant>,
    /// The same as the node said it, in Unix time.
    expires_unix_ms: Option<i64>,
    pub(super) refresh_at: Option<Instant>,
    is_fetching: bool,
    /// Fresh tokens in a row that a node refused.
    refusals: u32,
}

impl Engine {
    /// Begins to connect.
    pub(crate) fn start(&mut self, now: Instant) {
        if let Link::Idle = self.link {
            self.connect(now);
        }
    }

    /// The answer to [`Action::FetchToken`].
    pub(crate) fn handle_token(&mut self, now: Instant, result: Result<Arc<str>, Error>) {
        self.token.is_fetching = false;
        let result = result.and_then(|token| match token.len().cmp(&TOKEN_BYTES_MAX) {
            Ordering::Greater => Err(Error::Token(Arc::new(TokenTooLong))),
            _ => Ok(token),
        });
        match (result, &self.link) {
            (Ok(token), link) => {
                let waits = matches!(link, Link::AwaitingToken);
                self.token.current = Some(token);
                self.token.expires_at = None;
                self.token.expires_unix_ms = None;
                if waits {
                    self.connect(now);
                } else if self.is_open() {
                    let request = self.request(Request::Refresh);
                    self.control.push_back(Control::Refresh { request });
                }
            }
            (Err(error), Link::AwaitingToken) => self.lost(now, error),
            (Err(error), _) => {
                tracing::warn!(%error, "no new token");
                self.token.refresh_at = Some(now + REFRESH_RETRY);
            }
        }
    }

    /// The answer to [`Action::Connect`]: frames can be sent.
    pub(crate) fn handle_connected(&mut self, now: Instant) {
        let Link::Connecting { deadline } = self.link else { return };
        let request = self.request_number();
        let mut keys = Vec::new();
        for (&key, channel) in &mut self.channels {
            if keys.len() < millrace_protocol::client::SUBSCRIPTIONS_CAP
                && let Some(mode) = channel.wanted()
            {
                channel.attach = Attach::Asked { mode, request, at: now };
                channel.is_outdated = false;
                keys.push(key);
            }
        }
        self.link = Link::Greeting { deadline, hello: request };
        self.control.push_back(Control::Hello { request, keys });
    }

    /// The connection ended, or could not be opened.
    pub(crate) fn handle_disconnected(&mut self, now: Instant, error: Error) {
        match self.link {
            Link::Connecting { .. } | Link::Greeting { .. } | Link::Open(_) => self.lost(now, error),
            Link::Idle | Link::Waiting { .. } | Link::AwaitingToken | Link::Closed(_) => {}
        }
    }

    /// Whether there is a connection to send and receive on.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Greeting { .. } | Link::Open(_))
    }

    /// Whether `request` is the number of this connection's hello.
    pub(super) fn is_hello(&self, request: u32) -> bool {
        match &self.link {
            Link::Greeting { hello, .. } | Link::Open(Session { hello, .. }) => *hello == request,
            _ => false,
        }
    }

    /// Any sign of life from the node.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Link::Open(session) = &mut self.link {
            session.heard_at = now;
        }
    }

    pub(super) fn welcomed(&mut self, now: Instant, welcome: &Welcome<'_>) {
        let Link::Greeting { hello, .. } = self.link else { return };
        if welcome.version != VERSION {
            let message = format!("the node speaks version {}, this client {VERSION}", welcome.version);
            let error = Error::refused(Code::UnsupportedVersion.number(), &message, 0);
            return self.drop_connection(now, error);
        }
        let heartbeat = Duration::from_millis(u64::from(welcome.heartbeat_ms));
        let silence_max = (!heartbeat.is_zero()).then_some(heartbeat * 2);
        self.link = Link::Open(Session { opened_at: now, silence_max, heard_at: now, hello });
        self.linger = silence_max.unwrap_or(Duration::from_secs(60)) + LINGER_SLACK;
        self.payload_bytes_max = welcome.payload_bytes_max as usize;
        self.ever_open = true;
        self.has_reads = welcome.features & FEATURE_READ_POSITIONS != 0;
        if !self.has_reads {
            self.channels.values_mut().for_each(|channel| channel.reads.give_up());
        }
        self.go_away = None;
        self.places.worked();
        self.token.refusals = 0;
        self.schedule_refresh(now, welcome.token_expires_ms);
        let state = State::Connected { session: welcome.session, node: welcome.node.into() };
        self.actions.push_back(Action::State(state));
        let keys: Vec<Key> = self.channels.keys().copied().collect();
        keys.into_iter().for_each(|key| self.sync(now, key));
    }

    /// The node will end the session and says when to come back, and where.
    pub(super) fn told_to_go(&mut self, now: Instant, code: u16, after_ms: u32, endpoints: &[&str]) {
        let after = Duration::from_millis(u64::from(after_ms));
        let error = Error::refused(code, "the node asked the client to leave", 0);
        match error.advice() {
            Advice::DoNotRetry => return self.drop_connection(now, error),
            Advice::Authenticate => self.token.current = None,
            _ => {}
        }
        let spread = self.random.next();
        self.places.advise(endpoints, spread);
        tracing::info!(code, after_ms, "the node goes away");
        self.go_away = Some(GoAway { at: now + after, error });
    }

    pub(super) fn refreshed(&mut self, now: Instant, expires_ms: i64) {
        self.schedule_refresh(now, expires_ms);
    }

    pub(super) fn refresh_refused(&mut self, now: Instant, error: &Error) {
        tracing::warn!(%error, "the node refused the new token");
        self.token.current = None;
        self.token.refresh_at = Some(now + REFRESH_RETRY);
    }

    /// A new token is fetched when three quarters of the time are over, or a little later, so that clients of one moment
    /// do not all ask at once.
    fn schedule_refresh(&mut self, now: Instant, expires_ms: i64) {
        let left_ms = expires_ms.saturating_sub(self.unix_ms(now));
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        // A token that was accepted has not expired: if it seems so, the clocks disagree and only the node knows.
        self.token.expires_at = if left.is_zero() { None } else { now.checked_add(left) };
        self.token.expires_unix_ms = (!left.is_zero()).then_some(expires_ms);
        let wait = if left.is_zero() {
            REFRESH_RETRY
        } else {
            left * 3 / 4 + left / 1_000 * u32::try_from(self.random.below(150)).unwrap_or(0)
        };
        self.token.refresh_at = now.checked_add(wait).filter(|_| self.config.tokens_renew);
    }

    /// What the clock on the wall should show.
    fn unix_ms(&self, now: Instant) -> i64 {
        let (origin, unix_ms) = self.origin;
        let elapsed_ms = i64::try_from(now.duration_since(origin).as_millis()).unwrap_or(i64::MAX);
        unix_ms.saturating_add(elapsed_ms)
    }

    /// Compares the clock on the wall, at the same moment, with ours. A token ends by it, also after somebody set it, or a
    /// machine slept and our clock stood still.
    pub(crate) fn note_clock(&mut self, now: Instant, unix_ms: i64) {
        if self.unix_ms(now).abs_diff(unix_ms) <= CLOCK_DRIFT_MS {
            return;
        }
        self.origin = (now, unix_ms);
        if let Some(expires_ms) = self.token.expires_unix_ms {
            self.schedule_refresh(now, expires_ms);
        }
    }

    /// Connects, with a token that is still good.
    fn connect(&mut self, now: Instant) {
        let is_stale = self.token.expires_at.is_some_and(|at| at <= now + TOKEN_MARGIN) && self.config.tokens_renew;
        if self.token.current.is_none() || is_stale {
            self.link = Link::AwaitingToken;
            self.fetch_token();
        } else {
            let place = self.places.next();
            self.link = Link::Connecting { deadline: now + self.config.connect_timeout };
            self.actions.push_back(Action::Connect { place });
        }
    }

    fn fetch_token(&mut self) {
        self.token.refresh_at = None;
        if !std::mem::replace(&mut self.token.is_fetching, true) {
            self.actions.push_back(Action::FetchToken);
        }
    }

    pub(super) fn token(&self) -> Arc<str> {
        self.token.current.clone().unwrap_or_default()
    }

    pub(super) fn link_timeout(&self) -> Option<Instant> {
        match &self.link {
            Link::Waiting { until } => Some(*until),
            Link::Connecting { deadline } | Link::Greeting { deadline, .. } => Some(*deadline),
            Link::Open(session) => session.silence_max.map(|silence| session.heard_at + silence),
            Link::Idle | Link::AwaitingToken | Link::Closed(_) => None,
        }
    }

    pub(super) fn handle_link_timeout(&mut self, now: Instant) {
        if self.link_timeout().is_some_and(|at| at <= now) {
            match self.link {
                Link::Waiting { .. } => self.connect(now),
                Link::Open(_) => self.drop_connection(now, Error::TimedOut(Awaited::Heartbeat)),
                _ => self.drop_connection(now, Error::TimedOut(Awaited::Connection)),
            }
        }
        if self.is_open() && self.go_away.as_ref().is_some_and(|go_away| go_away.at <= now) {
            self.leave(now);
        }
        if self.is_open() && self.token.refresh_at.is_some_and(|at| at <= now) {
            self.fetch_token();
        }
    }

    /// The time that the node named for leaving has come, and it still serves: go without a wait.
    fn leave(&mut self, now: Instant) {
        self.actions.push_back(Action::Disconnect);
        self.forget_connection(now);
        let Some(GoAway { error, .. }) = self.go_away.take() else { return };
        self.backoff.reset();
        let state = State::Reconnecting { attempt: 1, delay: Duration::ZERO, error };
        self.actions.push_back(Action::State(state));
        self.connect(now);
    }

    /// Ends the connection from our side and tries again as the error advises.
    pub(super) fn drop_connection(&mut self, now: Instant, error: Error) {
        self.actions.push_back(Action::Disconnect);
        self.lost(now, error);
    }

    fn forget_connection(&mut self, now: Instant) {
        self.requests.clear();
        self.control.clear();
        self.ready.clear();
        self.by_number.clear();
        for channel in self.channels.values_mut() {
            channel.disconnected();
            channel.outbox.disconnected(now, self.linger, &mut self.random);
        }
    }

    /// The connection is gone: wait and try again, or give up, as the error advises.
    fn lost(&mut self, now: Instant, error: Error) {
        let error = match (error, self.complaint.take()) {
            // What the node said just before it closed tells more than how it closed.
            (Error::Disconnected { .. }, Some((at, said))) if now.duration_since(at) <= COMPLAINT_AGE => said,
            (error, _) => error,
        };
        if let Link::Open(session) = &self.link
            && now.duration_since(session.opened_at) >= STABLE_AFTER
        {
            self.backoff.reset();
        }
        self.forget_connection(now);
        let go_away = self.go_away.take();
        let refused = matches!(error, Error::Refused { .. });
        let is_awaited = self.config.fail_fast && !self.ever_open;
        match error.advice() {
            _ if is_awaited && !self.is_passing(&error) => return self.close_with(now, Some(error)),
            Advice::DoNotRetry => return self.close_with(now, Some(error)),
            Advice::Authenticate if refused => {
                self.token.refusals += 1;
                if !self.config.tokens_renew || self.token.refusals > 2 {
                    return self.close_with(now, Some(error));
                }
                self.token.current = None;
            }
            _ => {}
        }
        let delay = self.backoff.next(&mut self.random).max(error.retry_after().unwrap_or_default());
        let delay = match go_away {
            Some(go_away) => go_away.at.saturating_duration_since(now),
            None => delay,
        };
        if is_awaited && now + delay > self.made_at + self.config.request_timeout {
            return self.close_with(now, Some(error));
        }
        let attempt = self.backoff.attempt();
        tracing::info!(%error, attempt, ?delay, "reconnecting");
        self.link = Link::Waiting { until: now + delay };
        self.actions.push_back(Action::State(State::Reconnecting { attempt, delay, error }));
        // What nobody wants any more is forgotten; deadlines run on.
        let keys: Vec<Key> = self.channels.keys().copied().collect();
        keys.into_iter().for_each(|key| self.sync(now, key));
    }

    /// Whether a connection that somebody waits for may well succeed at the next try: a node asks to try again, or there is a
    /// node that was not tried.
    fn is_passing(&self, error: &Error) -> bool {
        let untried = (self.backoff.attempt() as usize) + 1 < self.places.len();
        match error.advice() {
            Advice::Retry | Advice::Reconnect => untried || matches!(error, Error::Refused { .. }),
            _ => false,
        }
    }

    /// Ends the client, if it is closing and every message has had its end or the time is over.
    pub(super) fn finish_if_flushed(&mut self, now: Instant) {
        let Some(deadline) = self.closing else { return };
        let is_flushed = self.channels.values().all(|channel| channel.outbox.is_empty());
        // Marks go along while there is a connection; nobody waits for one to tell them.
        let marks = self.is_open() && self.channels.values().any(|channel| channel.reads.is_pending());
        if is_flushed && !marks || deadline <= now {
            self.actions.push_back(Action::Disconnect);
            self.close_with(now, (!is_flushed).then_some(Error::TimedOut(Awaited::Flush)));
        }
    }

    /// Ends the client. Without an error, or once the application closes it, subscriptions just end.
    fn close_with(&mut self, now: Instant, error: Option<Error>) {
        self.forget_connection(now);
        let is_closing = self.closing.take().is_some();
        let cause = error.clone().unwrap_or(Error::Closed);
        for (key, mut channel) in std::mem::take(&mut self.channels) {
            for waiter in channel.waiters.drain(..) {
                let result = Err(cause.clone());
                self.actions.push_back(Action::Opened { ticket: waiter.ticket, key, result });
            }
            while let Some(given_up) = channel.outbox.give_up_next() {
                let result = Err(given_up_error(&given_up, &cause));
                self.actions.push_back(Action::Sent { ticket: given_up.ticket, result });
            }
            for history in channel.histories.drain(..) {
                self.actions.push_back(Action::Page { ticket: history.ticket, result: Err(cause.clone()) });
            }
            if channel.subscription.is_some() && !is_closing {
                self.actions.push_back(Action::Deliver { key, event: Event::Ended(cause.clone()) });
            }
        }
        self.by_name.clear();
        self.wakes.clear();
        self.tick_at = None;
        self.unread_news.clear();
        self.link = Link::Closed(error.clone());
        self.actions.push_back(Action::State(State::Closed { error }));
    }
}

/// A token over the protocol's limit.
#[derive(Debug, thiserror::Error)]
#[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
struct TokenTooLong;
