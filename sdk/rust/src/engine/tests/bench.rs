//! An engine with a test in the node's place.

use millrace_protocol::client::{
    ClientBody, HistoryRange, Message as WireMessage, Recovery, ServerBody, ServerFrame, Start as WireStart,
    Subscribed, decode_client, encode_server,
};
use millrace_protocol::code::Code;
use millrace_protocol::id::{Epoch, Position, Producer, ProducerSequence};

use super::super::subscription::Start;
use super::node::{HEARTBEAT_MS, welcome};
use super::*;

pub(super) const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS as u64);

/// An engine and the test in the node's place.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    pub(super) opened: Vec<(Ticket, Result<Opened, Error>)>,
    pub(super) sent: Vec<(Ticket, Result<Position, Error>)>,
    pub(super) pages: Vec<(Ticket, Result<Page, Error>)>,
    pub(super) unread: Vec<Option<u64>>,
    pub(super) events: Vec<(Key, String)>,
    /// Names of states and calls, in order.
    pub(super) log: Vec<String>,
}

impl Bench {
    pub(super) fn new(config: Config) -> Self {
        let now = Instant::now();
        let mut engine = engine_at(config, 1, now);
        engine.start(now);
        let mut bench = Self {
            engine,
            now,
            opened: vec![],
            sent: vec![],
            pages: vec![],
            unread: Vec::new(),
            events: vec![],
            log: vec![],
        };
        bench.act();
        bench
    }

    /// Connected and welcomed.
    pub(super) fn welcomed(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.connect();
        bench
    }

    pub(super) fn connect(&mut self) {
        self.engine.handle_token(self.now, Ok("token".into()));
        self.engine.handle_connected(self.now);
        let hello = self.frames();
        assert!(matches!(hello[..], [(_, Asked::Hello(..))]), "{hello:?}");
        self.say(hello[0].0, ServerBody::Welcome(welcome()));
        self.log.clear();
    }

    pub(super) fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::FetchToken => self.log.push("token".into()),
                Action::Connect { place } => self.log.push(format!("connect {place}")),
                Action::Disconnect => self.log.push("disconnect".into()),
                Action::Deliver { key, event } => self.events.push((key, describe(&event))),
                Action::Starved { .. } => self.log.push("starved".into()),
                Action::Opened { ticket, result, .. } => self.opened.push((ticket, result)),
                Action::Sent { ticket, result } => self.sent.push((ticket, result)),
                Action::Page { ticket, result } => self.pages.push((ticket, result)),
                Action::Unread { unread, .. } => self.unread.push(unread.map(|unread| unread.count)),
                Action::State(State::Reconnecting { attempt, .. }) => self.log.push(format!("reconnecting {attempt}")),
                Action::State(State::Closed { error }) => {
                    self.log.push(format!("closed {:?}", error.map(|error| error.to_string())));
                }
                Action::State(state) => {
                    self.log.push(format!("{state:?}").split(' ').next().unwrap_or_default().to_lowercase());
                }
            }
        }
    }

    pub(super) fn say(&mut self, request: u32, body: ServerBody<'_>) {
        let mut frame = vec![];
        encode_server(&ServerFrame { request, body }, &mut frame);
        self.engine.handle_frame(self.now, &frame);
        self.act();
    }

    pub(super) fn frames(&mut self) -> Vec<(u32, Asked)> {
        let mut frames = vec![];
        let mut frame = vec![];
        while self.engine.poll_transmit(self.now, &mut frame) {
            let decoded = decode_client(&frame).unwrap();
            frames.push((decoded.request, Asked::from(&decoded.body)));
            frame.clear();
        }
        frames
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.engine.next_timeout().filter(|&at| at <= until) {
            self.now = at.max(self.now);
            self.engine.handle_timeout(self.now);
            self.act();
        }
        self.now = until;
    }

    pub(super) fn log(&mut self) -> Vec<String> {
        self.act();
        std::mem::take(&mut self.log)
    }

    /// Opens a handle and answers for the node; its key.
    pub(super) fn open(&mut self, name: &'static str, start: Option<Start>) -> Key {
        let key = self.engine.open(self.now, name, start, 0).unwrap();
        let [(request, Asked::Subscribe(..))] = self.frames()[..] else { panic!("not asked") };
        self.say(request, subscribed(name, 0, Recovery::None));
        assert!(self.opened.pop().unwrap().1.is_ok());
        key
    }

    pub(super) fn push(&mut self, offset: u64) {
        self.say(0, ServerBody::Message(message(offset, b"m")));
    }
}

/// What the engine asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Hello(String, Vec<(String, WireStart)>),
    Subscribe(String, WireStart),
    Unsubscribe(u64),
    Publish(u64, String),
    History(HistoryRange, u32),
    Refresh(String),
    MarkRead(u64),
    Pong,
}

impl Asked {
    pub(super) fn from(body: &ClientBody<'_>) -> Self {
        match body {
            ClientBody::Hello(hello) => Self::Hello(
                hello.token.into(),
                hello.subscriptions.iter().map(|it| (it.channel.to_owned(), it.start)).collect(),
            ),
            ClientBody::Subscribe(it) => Self::Subscribe(it.channel.into(), it.start),
            ClientBody::Unsubscribe { channel } => Self::Unsubscribe(channel.get()),
            ClientBody::Publish(it) => Self::Publish(it.sequence.get(), String::from_utf8(it.body.to_vec()).unwrap()),
            ClientBody::History(it) => Self::History(it.range, it.messages_max),
            ClientBody::Refresh { token } => Self::Refresh((*token).into()),
            ClientBody::MarkRead { position, .. } => Self::MarkRead(position.offset),
            ClientBody::Pong => Self::Pong,
            ClientBody::Unknown => panic!("an unknown frame"),
        }
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Message(message) => message.position.offset.to_string(),
        Event::Reset { reason, position } => format!("reset {reason} {}", position.offset),
        Event::Ended(error) => format!("ended {error}"),
        other => format!("{other:?}"),
    }
}

pub(super) fn at(offset: u64) -> Position {
    Position { epoch: Epoch::FIRST, offset }
}

pub(super) fn channel() -> ChannelId {
    ChannelId::new(7).unwrap()
}

pub(super) fn message(offset: u64, body: &[u8]) -> WireMessage<'_> {
    WireMessage {
        channel: channel(),
        position: at(offset),
        time_ms: 0,
        user: "u",
        producer: Producer::new(9).unwrap(),
        sequence: ProducerSequence::FIRST,
        body,
    }
}

pub(super) fn subscribed(name: &str, head: u64, recovery: Recovery) -> ServerBody<'_> {
    let (position, history) = (at(head), HistoryClass::Durable);
    ServerBody::Subscribed(Subscribed { name, channel: channel(), position, history, can_publish: true, recovery })
}

pub(super) fn refusal(code: Code) -> ServerBody<'static> {
    ServerBody::error(code, "refused")
}
