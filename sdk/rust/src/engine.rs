//! The client without its runtime: what to say, what to keep, when to try again. Pure: bytes, time and the application's
//! calls come in, frames and [`Action`]s go out.
//!
//! Feed it with `handle_*` and the calls of the application; then drain [`Engine::poll_action`] and, while the connection
//! takes bytes, [`Engine::poll_transmit`]; call [`Engine::handle_timeout`] at [`Engine::next_timeout`].
//!
//! - [`outbox`]: messages on their way to a channel, each stored once and in order;
//! - [`subscription`]: where a reader stands, each message delivered once and in order;
//! - [`reads`]: how far the user has read;
//! - [`channel`]: what they share;
//! - `connection`: connecting, heartbeats, tokens, back-off;
//! - `calls`: what handles of the application ask for;
//! - `receive`, `transmit`: frames in and out.
//!
//! **Invariant:** what a channel's handles want is compared with what the node was told in one place, [`Engine::sync`].

mod backoff;
mod calls;
mod channel;
mod connection;
mod outbox;
mod random;
mod reads;
mod receive;
pub(crate) mod subscription;
mod transmit;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_protocol::client::{HistoryClass, PAYLOAD_BYTES_CAP};
use millrace_protocol::id::{ChannelId, Position, ProducerSequence};

use self::backoff::Backoff;
pub(crate) use self::backoff::BackoffLimits;
pub(crate) use self::channel::Handle;
use self::channel::{Attach, Channel};
use self::connection::{GoAway, Link, Token};
use self::random::Random;
pub(crate) use self::subscription::QueueLimits;
use self::subscription::{Mode, Subscription};
use self::transmit::Control;
use crate::error::Error;
use crate::event::{Event, Page, Unread};
use crate::places::{Place, Places};
use crate::state::State;

/// How often deadlines of requests are looked at while there are any; they are that inexact.
const TICK: Duration = Duration::from_millis(250);

/// Pages for the application that one channel asks for at once: a node has a bound for those of a session.
const HISTORIES_ASKED_MAX: usize = 4;
/// Unanswered requests of a connection beyond which no message is sent: a node has a bound, usually 1,024.
const REQUESTS_MAX: usize = 768;

/// Names a call of the application; the shell knows who waits for it.
pub(crate) type Ticket = usize;

/// Names a channel's entry in the engine. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u64);

/// Limits and times of a client.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) agent: Arc<str>,
    /// URLs that can be read.
    pub(crate) endpoints: Vec<Arc<str>>,
    /// A new token can be had by asking.
    pub(crate) tokens_renew: bool,
    /// Somebody waits for the first connection: what cannot be expected to pass within the request timeout ends the client.
    pub(crate) fail_fast: bool,
    pub(crate) queue: QueueLimits,
    pub(crate) backoff: BackoffLimits,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    /// `None` waits for ever.
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) close_timeout: Duration,
}

/// What the shell does for the engine, in this order.
#[derive(Debug)]
pub(crate) enum Action {
    /// Get a token; tell with [`Engine::handle_token`].
    FetchToken,
    /// Open a connection; tell with [`Engine::handle_connected`] or [`Engine::handle_disconnected`].
    Connect { place: Arc<Place> },
    /// Close the connection, or stop opening it; nothing is told.
    Disconnect,
    /// Queue an event for the application.
    Deliver { key: Key, event: Event },
    /// The queue's room is used up: tell with [`Engine::taken`] when at least half is free.
    Starved { key: Key },
    /// A handle is open, or cannot be.
    Opened { ticket: Ticket, key: Key, result: Result<Opened, Error> },
    /// A message is stored, or given up.
    Sent { ticket: Ticket, result: Result<Position, Error> },
    /// A page of history is here, or cannot be had.
    Page { ticket: Ticket, result: Result<Page, Error> },
    /// How much of a channel is unread has changed.
    Unread { key: Key, unread: Option<Unread> },
    /// The connection's state changed.
    State(State),
}

/// What a handle knows from the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) position: Position,
    pub(crate) history: HistoryClass,
    pub(crate) can_publish: bool,
    pub(crate) unread: Option<Unread>,
}

/// What a request number stands for.
#[derive(Debug, Clone, Copy)]
enum Request {
    Subscribe(Key),
    Unsubscribe,
    Publish(Key, ProducerSequence),
    History(Key, Ticket),
    CatchUp(Key),
    MarkRead(Key),
    Refresh,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    random: Random,
    /// When it was made.
    made_at: Instant,
    /// A moment on both clocks, ours and the one on the wall.
    origin: (Instant, i64),
    link: Link,
    places: Places,
    backoff: Backoff,
    token: Token,
    go_away: Option<GoAway>,
    /// What the node said last and when, if that was a complaint that answers nothing: it tells why the connection ends.
    complaint: Option<(Instant, Error)>,
    ever_open: bool,
    closing: Option<Instant>,
    /// How long a node may still read what a dead connection carried.
    linger: Duration,
    payload_bytes_max: usize,
    channels: BTreeMap<Key, Channel>,
    keys: u64,
    by_name: HashMap<Arc<str>, Key>,
    /// Of this connection.
    by_number: HashMap<ChannelId, Key>,
    requests: HashMap<u32, Request>,
    last_request: u32,
    control: VecDeque<Control>,
    /// Channels with messages to send, each once.
    ready: VecDeque<Key>,
    wakes: BinaryHeap<Reverse<(Instant, Key)>>,
    tick_at: Option<Instant>,
    /// The node knows read positions.
    has_reads: bool,
    /// Channels of which the application may be told something about what is unread.
    unread_news: Vec<Key>,
    actions: VecDeque<Action>,
}

impl Engine {
    /// `now` and `unix_ms` are the same moment. Call [`Self::start`] next.
    pub(crate) fn new(config: Config, seed: u64, now: Instant, unix_ms: i64) -> Self {
        Self {
            random: Random::new(seed),
            made_at: now,
            origin: (now, unix_ms),
            link: Link::Idle,
            places: Places::new(&config.endpoints),
            backoff: Backoff::new(config.backoff),
            token: Token::default(),
            go_away: None,
            complaint: None,
            ever_open: false,
            closing: None,
            linger: Duration::from_secs(60),
            payload_bytes_max: PAYLOAD_BYTES_CAP,
            channels: BTreeMap::new(),
            keys: 0,
            by_name: HashMap::new(),
            by_number: HashMap::new(),
            requests: HashMap::new(),
            last_request: 0,
            control: VecDeque::new(),
            ready: VecDeque::new(),
            wakes: BinaryHeap::new(),
            tick_at: None,
            has_reads: true,
            unread_news: Vec::new(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// The next thing for the shell to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        // Once for all that came together.
        while let Some(key) = self.unread_news.pop() {
            let Some(channel) = self.channels.get_mut(&key) else { continue };
            channel.has_unread_news = false;
            if let Some(unread) = channel.reads.tell() {
                return Some(Action::Unread { key, unread });
            }
        }
        None
    }

    /// Lets the application know, soon, if something about what is unread has changed.
    fn note_unread(&mut self, key: Key) {
        if let Some(channel) = self.channels.get_mut(&key)
            && !std::mem::replace(&mut channel.has_unread_news, true)
        {
            self.unread_news.push(key);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        let go_away = self.go_away.as_ref().filter(|_| self.is_open()).map(|go_away| go_away.at);
        let refresh = self.token.refresh_at.filter(|_| self.is_open());
        [self.link_timeout(), go_away, refresh, wake, self.tick_at, self.closing].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.handle_link_timeout(now);
        while let Some(&Reverse((at, key))) = self.wakes.peek() {
            if at > now {
                break;
            }
            self.wakes.pop();
            if let Some(channel) = self.channels.get_mut(&key) {
                channel.wake_at = None;
                self.sync(now, key);
            }
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick(now);
        }
        self.finish_if_flushed(now);
    }

    /// Largest body that the node takes, as it said in its last welcome.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    fn arm_tick(&mut self, now: Instant) {
        if self.tick_at.is_none() {
            self.tick_at = Some(now + TICK);
        }
    }

    /// Looks for everything whose time has passed.
    fn tick(&mut self, now: Instant) {
        self.tick_at = None;
        let keys: Vec<Key> =
            self.channels.iter().filter(|(_, channel)| channel.is_waiting()).map(|(&key, _)| key).collect();
        for key in keys {
            self.expire(now, key);
            self.sync(now, key);
        }
        let timeout = self.config.request_timeout;
        let oldest = self.channels.values().filter_map(Channel::oldest_asked).min();
        if self.is_open() && oldest.is_some_and(|at| at + timeout <= now) {
            // A node that answers nothing but a heartbeat is no use.
            self.drop_connection(now, Error::TimedOut(crate::error::Awaited::Answer));
        }
        if self.channels.values().any(Channel::is_waiting) {
            self.arm_tick(now);
        }
    }

    /// Brings what the node was told in line with what the channel's handles want, and forgets a channel nobody wants.
    /// Every change to a channel ends here.
    fn sync(&mut self, now: Instant, key: Key) {
        self.tell_events(key);
        let is_open = self.is_open();
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let wanted = channel.wanted();
        match channel.attach {
            _ if !is_open => {}
            Attach::Off { retry_at } if retry_at.is_none_or(|at| at <= now) => {
                if let Some(mode) = wanted {
                    self.ask(now, key, mode);
                }
            }
            Attach::On(mode) if wanted != Some(mode) => match wanted {
                // It replaces what the session has.
                Some(mode) => self.ask(now, key, mode),
                None => self.unsubscribe(key),
            },
            Attach::On(_) => self.feed_channel(now, key),
            Attach::Asked { .. } | Attach::Off { .. } => {}
        }
        let Some(channel) = self.channels.get_mut(&key) else { return };
        let idle = matches!(channel.attach, Attach::Off { .. });
        let is_done = channel.outbox.is_empty() && !channel.reads.is_pending();
        if wanted.is_none() && idle && !channel.is_held() && is_done {
            if self.by_name.get(&channel.name) == Some(&key) {
                self.by_name.remove(&channel.name);
            }
            self.channels.remove(&key);
            return;
        }
        if channel.is_waiting() {
            self.arm_tick(now);
        }
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if let Some(at) = channel.resume_at().filter(|&at| at > now)
            && channel.wake_at.is_none_or(|wake_at| at < wake_at)
        {
            channel.wake_at = Some(at);
            self.wakes.push(Reverse((at, key)));
        }
    }

    /// Asks to be subscribed or attached.
    fn ask(&mut self, now: Instant, key: Key, mode: Mode) {
        let request = self.request(Request::Subscribe(key));
        let Some(channel) = self.channels.get_mut(&key) else { return };
        channel.attach = Attach::Asked { mode, request, at: now };
        channel.is_outdated = false;
        self.control.push_back(Control::Subscribe { key, request });
    }

    /// Ends what the node counts the session as.
    fn unsubscribe(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        channel.attach = Attach::Off { retry_at: None };
        if let Some(number) = channel.number.take() {
            self.by_number.remove(&number);
            let request = self.request(Request::Unsubscribe);
            self.control.push_back(Control::Unsubscribe { channel: number, request });
        }
    }

    /// Sends what an attached channel has to send: messages, and requests for history.
    fn feed_channel(&mut self, now: Instant, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else { return };
        if channel.outbox.is_ready(now) && !channel.is_listed {
            channel.is_listed = true;
            self.ready.push_back(key);
        }
        let room = HISTORIES_ASKED_MAX - channel.histories.iter().filter(|history| history.is_asked).count();
        let mut asked = Vec::new();
        for history in channel.histories.iter_mut().filter(|history| history.is_due(now)).take(room) {
            history.is_asked = true;
            asked.push((history.ticket, history.range, history.messages_max));
        }
        let page = channel.subscription.as_mut().and_then(|subscription| {
            let page = subscription.page_wanted(now)?;
            subscription.page_asked(now);
            Some(page)
        });
        let mark = channel.reads.due(now);
        if let Some(position) = mark {
            channel.reads.asked(now, position);
            let request = self.request(Request::MarkRead(key));
            self.control.push_back(Control::MarkRead { key, request, position });
        }
        for (ticket, range, messages_max) in asked {
            let request = self.request(Request::History(key, ticket));
            self.control.push_back(Control::History { key, request, range, messages_max });
        }
        if let Some(page) = page {
            let request = self.request(Request::CatchUp(key));
            let range = millrace_protocol::client::HistoryRange::After(page.after);
            self.control.push_back(Control::History { key, request, range, messages_max: page.messages_max });
        }
    }

    /// Passes on what a subscription has for the application.
    fn tell_events(&mut self, key: Key) {
        let Some(subscription) = self.channels.get_mut(&key).and_then(|channel| channel.subscription.as_mut()) else {
            return;
        };
        while let Some(event) = subscription.poll_event() {
            self.actions.push_back(Action::Deliver { key, event });
        }
        if subscription.take_starved() {
            self.actions.push_back(Action::Starved { key });
        }
    }

    /// A number for a request, under which its answer will come.
    fn request(&mut self, request: Request) -> u32 {
        let number = self.request_number();
        self.requests.insert(number, request);
        number
    }

    fn request_number(&mut self) -> u32 {
        loop {
            self.last_request = self.last_request.wrapping_add(1);
            if self.last_request != 0 && !self.requests.contains_key(&self.last_request) {
                return self.last_request;
            }
        }
    }

    fn subscription(&mut self, key: Key) -> Option<&mut Subscription> {
        self.channels.get_mut(&key)?.subscription.as_mut()
    }
}

#[cfg(test)]
mod tests;
