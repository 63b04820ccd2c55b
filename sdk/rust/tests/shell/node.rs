//! A node as a model: channels in memory, one session at a time, refusals by chance. It speaks the real codec and shares
//! nothing else with the SDK; the engine's simulation uses it as well.

use std::collections::{BTreeMap, HashMap, VecDeque};

use millrace_protocol::client::{
    ClientBody, ClientFrame, FEATURE_READ_POSITIONS, HistoryClass, HistoryRange, Message, Published, Recovery,
    ServerBody, ServerFrame, Start, Subscribe, Subscribed, Welcome, decode_client, encode_server,
};
use millrace_protocol::code::Code;
use millrace_protocol::id::{ChannelId, Epoch, Position, Producer, ProducerSequence, SessionId};

/// Most messages that a resume replays; more must be read from the history.
const REPLAY_MAX: u64 = 12;
const PAGE_MAX: usize = 5;
pub(super) const HEARTBEAT_MS: u32 = 25_000;

/// How much goes wrong, each in so many of a thousand cases.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) publish_refused: u64,
    pub(super) subscribe_refused: u64,
    pub(super) history_refused: u64,
    pub(super) hello_refused: u64,
    pub(super) skips: u64,
    pub(super) unsubscribes: u64,
    pub(super) mark_refused: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) position: Position,
    pub(super) body: Vec<u8>,
    producer: Producer,
    sequence: ProducerSequence,
}

#[derive(Debug)]
pub(super) struct ModelChannel {
    pub(super) history: HistoryClass,
    pub(super) epoch: Epoch,
    /// Every message ever stored, the index is the offset less one.
    pub(super) stored: Vec<Stored>,
    /// Offset of the oldest that is still kept.
    pub(super) oldest: u64,
    last: HashMap<Producer, u64>,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Debug)]
pub(super) struct Node {
    dice: Dice,
    pub(super) heartbeat_ms: u32,
    /// The only token that is accepted, if not any.
    pub(super) token: Option<String>,
    pub(super) token_expires_ms: i64,
    pub(super) faults: Faults,
    /// So many hellos more are answered with "busy".
    pub(super) busy_hellos: u32,
    pub(super) channels: BTreeMap<&'static str, ModelChannel>,
    /// What the session is subscribed or attached to.
    pub(super) session: HashMap<&'static str, bool>,
    /// Messages that the session refused; those after it wait.
    bars: HashMap<(&'static str, Producer), u64>,
    pub(super) out: VecDeque<Vec<u8>>,
    /// The session is to be closed with this code.
    pub(super) closing: Option<Code>,
    pub(super) is_welcomed: bool,
    pub(super) hellos: u32,
    pub(super) refreshed: Vec<String>,
    pub(super) pongs: u32,
    /// Where the user's read positions stand.
    pub(super) read: BTreeMap<&'static str, Position>,
}

impl Node {
    pub(super) fn new(seed: u64) -> Self {
        let channels = [("general", HistoryClass::Durable), ("news", HistoryClass::Durable)];
        Self {
            dice: Dice(seed),
            heartbeat_ms: HEARTBEAT_MS,
            token: None,
            token_expires_ms: i64::MAX,
            faults: Faults::default(),
            busy_hellos: 0,
            channels: channels.into_iter().map(|(name, history)| (name, ModelChannel::new(history))).collect(),
            session: HashMap::new(),
            bars: HashMap::new(),
            out: VecDeque::new(),
            closing: None,
            is_welcomed: false,
            hellos: 0,
            refreshed: Vec::new(),
            pongs: 0,
            read: BTreeMap::new(),
        }
    }

    /// A new connection; what the last one had is forgotten.
    pub(super) fn accept(&mut self) {
        self.session.clear();
        self.bars.clear();
        self.out.clear();
        self.closing = None;
        self.is_welcomed = false;
    }

    /// A publish that an ended session had sent.
    pub(super) fn straggle(&mut self, frame: &[u8]) {
        if let ClientFrame { body: ClientBody::Publish(publish), .. } = decode_client(frame).unwrap() {
            let name = self.name(publish.channel);
            let _ = self.append(name, publish.producer, publish.sequence, publish.body);
        }
    }

    /// Where the user's read position stands.
    pub(super) fn read_of(&self, name: &str) -> Position {
        self.read.get(name).copied().unwrap_or(Position { epoch: Epoch::FIRST, offset: 0 })
    }

    fn mark(&mut self, name: &'static str, position: Position) -> Position {
        let read = self.read_of(name);
        if (read.epoch, read.offset) < (position.epoch, position.offset) {
            self.read.insert(name, position);
        }
        self.read_of(name)
    }

    /// Another device of the user reads on.
    #[allow(dead_code, reason = "the simulation uses it")]
    pub(super) fn mark_elsewhere(&mut self, name: &'static str) {
        let position = self.channels[name].head();
        self.mark(name, position);
        if self.is_welcomed && self.session.contains_key(name) {
            let channel = self.number(name);
            self.say(0, ServerBody::Read { channel, position });
        }
    }

    /// Another user publishes.
    pub(super) fn publish(&mut self, name: &'static str, body: &[u8]) {
        let producer = Producer::new(self.dice.next() | 1).unwrap();
        let _ = self.append(name, producer, ProducerSequence::FIRST, body);
    }

    pub(super) fn ping(&mut self) {
        if self.is_welcomed {
            self.say(0, ServerBody::Ping);
        }
    }

    pub(super) fn go_away(&mut self, after_ms: u32) {
        self.say(0, ServerBody::GoAway { code: Code::GoingAway.number(), after_ms, endpoints: vec![] });
    }

    /// One frame of the session.
    pub(super) fn receive(&mut self, frame: &[u8]) {
        let ClientFrame { request, body } = decode_client(frame).unwrap();
        assert!(self.is_welcomed || matches!(body, ClientBody::Hello(_)), "before the hello: {body:?}");
        match body {
            ClientBody::Hello(hello) => {
                self.hellos += 1;
                if self.token.as_ref().is_some_and(|token| token != hello.token) {
                    self.say(request, ServerBody::error(Code::BadToken, "the token's signature is wrong"));
                    self.closing = Some(Code::BadToken);
                    return;
                }
                if self.busy_hellos > 0 {
                    self.busy_hellos -= 1;
                    self.say(request, ServerBody::error(Code::Busy, "not now"));
                    self.closing = Some(Code::Busy);
                    return;
                }
                if self.chance(self.faults.hello_refused) {
                    // A client gives up when tokens are refused again and again.
                    let expired = self.hellos.is_multiple_of(3);
                    let code = if expired { Code::TokenExpired } else { self.pick(&[Code::Busy, Code::GoingAway]) };
                    self.say(request, ServerBody::error(code, "not now"));
                    self.closing = Some(code);
                    return;
                }
                self.is_welcomed = true;
                let (heartbeat_ms, token_expires_ms) = (self.heartbeat_ms, self.token_expires_ms);
                self.say(request, ServerBody::Welcome(Welcome { heartbeat_ms, token_expires_ms, ..welcome() }));
                for subscribe in &hello.subscriptions {
                    self.subscribe(request, subscribe);
                }
            }
            ClientBody::Subscribe(subscribe) => self.subscribe(request, &subscribe),
            ClientBody::Unsubscribe { channel } => {
                let body = match self.session.remove(self.name(channel)) {
                    Some(_) => ServerBody::Unsubscribed { channel, code: 0, reason: "" },
                    None => ServerBody::error(Code::NotSubscribed, "no subscription"),
                };
                self.say(request, body);
            }
            ClientBody::Publish(publish) => {
                let name = self.name(publish.channel);
                let (producer, sequence) = (publish.producer, publish.sequence);
                let refusal = self.chance(self.faults.publish_refused).then(|| {
                    let codes = [
                        Code::RateLimited,
                        Code::Busy,
                        Code::Unavailable,
                        Code::UnknownOutcome,
                        Code::UnknownOutcome,
                        Code::TooLarge,
                        Code::Archived,
                    ];
                    self.pick(&codes)
                });
                let bar = (name, producer);
                let is_barred = self.bars.get(&bar).is_some_and(|bar| sequence.get() > *bar);
                if !is_barred {
                    self.bars.remove(&bar);
                }
                let result = match refusal {
                    _ if !self.session.contains_key(name) => Err(Code::NotSubscribed),
                    _ if is_barred => Err(Code::Blocked),
                    Some(code @ (Code::RateLimited | Code::Busy | Code::TooLarge)) => {
                        self.bars.insert(bar, sequence.get());
                        Err(code)
                    }
                    Some(Code::UnknownOutcome) => {
                        if self.dice.below(2) == 0 {
                            let _ = self.append(name, producer, sequence, publish.body);
                        }
                        Err(Code::UnknownOutcome)
                    }
                    Some(code) => Err(code),
                    None => self.append(name, producer, sequence, publish.body),
                };
                match result {
                    Ok((position, duplicate)) => {
                        let channel = publish.channel;
                        let published = Published { channel, producer, sequence, position, duplicate };
                        self.say(request, ServerBody::Published(published));
                    }
                    Err(code) => self.say(request, ServerBody::error(code, "refused")),
                }
            }
            ClientBody::History(history) => {
                let name = self.name(history.channel);
                if self.chance(self.faults.history_refused) {
                    return self.say(request, ServerBody::error(Code::Busy, "not now"));
                }
                if !self.session.contains_key(name) {
                    return self.say(request, ServerBody::error(Code::NotSubscribed, "no subscription"));
                }
                let channel = &self.channels[name];
                let kept = channel.stored.iter().filter(|stored| stored.position.offset >= channel.oldest);
                let most = PAGE_MAX.min(history.messages_max as usize);
                let all: Vec<Stored> = kept
                    .filter(|stored| match history.range {
                        HistoryRange::Newest => true,
                        HistoryRange::Before(offset) => stored.position.offset < offset.get(),
                        HistoryRange::After(offset) => stored.position.offset > offset,
                    })
                    .cloned()
                    .collect();
                let more = all.len() > most;
                let page = match history.range {
                    HistoryRange::After(_) => &all[..most.min(all.len())],
                    _ => &all[all.len() - most.min(all.len())..],
                };
                let messages = page.iter().map(|stored| stored.wire(history.channel)).collect();
                self.say(request, ServerBody::Page { channel: history.channel, messages, more });
            }
            ClientBody::Refresh { token } => {
                self.refreshed.push(token.into());
                self.say(request, ServerBody::Refreshed { token_expires_ms: i64::MAX });
            }
            ClientBody::Pong => self.pongs += 1,
            ClientBody::MarkRead { channel, position } => {
                let name = self.name(channel);
                let body = if !self.session.contains_key(name) {
                    ServerBody::error(Code::NotSubscribed, "no subscription")
                } else if self.chance(self.faults.mark_refused) {
                    let code = self.pick(&[Code::Busy, Code::Unavailable, Code::RateLimited]);
                    ServerBody::error(code, "not now")
                } else if position.offset > self.channels[name].head().offset {
                    ServerBody::error(Code::PositionAhead, "nobody can have read that")
                } else {
                    ServerBody::Read { channel, position: self.mark(name, position) }
                };
                self.say(request, body);
            }
            ClientBody::Unknown => panic!("an unknown frame"),
        }
        if self.chance(self.faults.unsubscribes)
            && let Some(name) = self.session.keys().next().copied()
        {
            self.session.remove(name);
            let channel = self.number(name);
            let code = Code::Unavailable.number();
            self.say(0, ServerBody::Unsubscribed { channel, code, reason: "the control plane is away" });
        }
    }

    fn subscribe(&mut self, request: u32, subscribe: &Subscribe<'_>) {
        let Some(&name) = self.channels.keys().find(|name| **name == subscribe.channel) else {
            let (code, channel) = (Code::NoAccess.number(), subscribe.channel);
            let body = ServerBody::Error { code, message: "no such channel", retry_after_ms: 0, channel };
            return self.say(request, body);
        };
        if self.chance(self.faults.subscribe_refused) {
            let code = Code::Unavailable.number();
            let body = ServerBody::Error { code, message: "not now", retry_after_ms: 50, channel: name };
            return self.say(request, body);
        }
        let channel = &self.channels[name];
        let head = channel.head();
        let (recovery, replay_after) = match subscribe.start {
            Start::Live | Start::Attach => (Recovery::None, head.offset),
            Start::After(position) if position.epoch != channel.epoch => {
                (Recovery::Reload(Code::EpochChanged.number()), head.offset)
            }
            Start::After(position) if position.offset > head.offset => {
                (Recovery::Reload(Code::PositionAhead.number()), head.offset)
            }
            Start::After(Position { offset, .. })
                if head.offset - offset > REPLAY_MAX || offset + 1 < channel.oldest =>
            {
                (Recovery::Reload(Code::PositionTooOld.number()), head.offset)
            }
            Start::After(position) => (Recovery::Whole, position.offset),
        };
        let history = channel.history;
        let replay: Vec<Stored> =
            channel.stored.iter().filter(|stored| stored.position.offset > replay_after).cloned().collect();
        self.session.insert(name, subscribe.start != Start::Attach);
        let number = self.number(name);
        let subscribed = Subscribed { name, channel: number, position: head, history, can_publish: true, recovery };
        self.say(request, ServerBody::Subscribed(subscribed));
        if history != HistoryClass::None {
            let position = self.read_of(name);
            self.say(0, ServerBody::Read { channel: number, position });
        }
        replay.iter().for_each(|stored| self.say(0, ServerBody::Message(stored.wire(number))));
    }

    /// Takes `last + 1`, knows duplicates, refuses the rest; delivers what is new.
    fn append(
        &mut self,
        name: &'static str,
        producer: Producer,
        sequence: ProducerSequence,
        body: &[u8],
    ) -> Result<(Position, bool), Code> {
        let channel = self.channels.get_mut(name).unwrap();
        let last = channel.last.entry(producer).or_default();
        if sequence.get() <= *last {
            let stored =
                channel.stored.iter().find(|stored| (stored.producer, stored.sequence) == (producer, sequence));
            return Ok((stored.unwrap().position, true));
        }
        if sequence.get() != *last + 1 {
            return Err(Code::OutOfOrder);
        }
        *last += 1;
        let position = Position { epoch: channel.epoch, offset: channel.head().offset + 1 };
        let stored = Stored { position, body: body.to_vec(), producer, sequence };
        channel.stored.push(stored.clone());
        if self.session.get(name) == Some(&true) {
            let channel = self.number(name);
            let body = if self.chance(self.faults.skips) {
                ServerBody::Skipped { channel, first: position, last: position }
            } else {
                ServerBody::Message(stored.wire(channel))
            };
            self.say(0, body);
        }
        Ok((position, false))
    }

    fn say(&mut self, request: u32, body: ServerBody<'_>) {
        let mut out = Vec::new();
        encode_server(&ServerFrame { request, body }, &mut out);
        self.out.push_back(out);
    }

    fn number(&self, name: &str) -> ChannelId {
        let index = self.channels.keys().position(|key| *key == name).unwrap();
        ChannelId::new(index as u64 + 1).unwrap()
    }

    fn name(&self, number: ChannelId) -> &'static str {
        self.channels.keys().nth(usize::try_from(number.get() - 1).unwrap()).unwrap()
    }

    fn chance(&mut self, thousandths: u64) -> bool {
        self.dice.below(1_000) < thousandths
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.dice.below(of.len() as u64)).unwrap()]
    }
}

impl ModelChannel {
    pub(super) fn new(history: HistoryClass) -> Self {
        Self { history, epoch: Epoch::FIRST, stored: Vec::new(), oldest: 1, last: HashMap::new() }
    }

    pub(super) fn head(&self) -> Position {
        Position { epoch: self.epoch, offset: self.stored.len() as u64 }
    }
}

impl Stored {
    fn wire(&self, channel: ChannelId) -> Message<'_> {
        let Self { position, body, producer, sequence } = self;
        let (position, producer, sequence) = (*position, *producer, *sequence);
        Message { channel, position, time_ms: 1, user: "user", producer, sequence, body }
    }
}

pub(super) fn welcome() -> Welcome<'static> {
    Welcome {
        version: 1,
        heartbeat_ms: HEARTBEAT_MS,
        features: FEATURE_READ_POSITIONS,
        session: SessionId([1; 16]),
        token_expires_ms: i64::MAX,
        payload_bytes_max: 16 << 10,
        subscriptions_max: 100,
        node: "model",
    }
}
