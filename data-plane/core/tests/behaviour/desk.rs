//! One shard on a desk: time passes when told, the control plane answers at once, clients are heard one by one.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use millrace_core::{
    Action, Config, ControlEvent, Drain, Now, SessionKey, Shard, ShardIndex, Stats, VerifiedToken, VerifyToken, Written,
};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, Publish, Recovery, ServerBody, Start, Subscribe, VERSION,
    decode_server, encode_client,
};
use millrace_protocol::node::{
    FRAME_BYTES_MAX, MemberChanged, NewMessage, NodeBody, NodeFrame, PublishOrder, ReadMark, Role, SlowConsumer,
    TokensRevoked, encoded_bytes_max,
};
use millrace_protocol::{ChannelId, Code, Epoch, Position, Producer, ProducerSequence, TenantId, Term, UserId};

#[allow(dead_code, reason = "the simulation uses the rest of it")]
#[path = "../simulation/control.rs"]
mod control;
#[allow(dead_code, reason = "the simulation uses the rest of it")]
#[path = "../simulation/random.rs"]
mod random;

use control::{Control, Faults};
use random::Random;

/// Timers are late by at most this.
pub(crate) const SHARD_TICK_MS: u64 = 50;
pub(crate) const LIVE: Start = Start::Live;
pub(crate) const ATTACH: Start = Start::Attach;

pub(crate) fn after(offset: u64) -> Start {
    Start::After(Position { epoch: Epoch::FIRST, offset })
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new(1).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// What a client hears, in short. Numbers are requests, then offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Subscribed(u32, ChannelId, u64),
    Resumed(u32, ChannelId, u64),
    Unsubscribed(u32, ChannelId, Option<Code>),
    Message(ChannelId, u64),
    Skipped(ChannelId, u64, u64),
    Published(u32, u64),
    Duplicate(u32, u64),
    Refreshed(u32),
    Error(u32, Code),
    /// Where the user's read position stands.
    Read(u32, ChannelId, u64),
    Ping,
    GoAway(u32),
}

/// Tokens are names: `ann`, or `ann.5000` for 5 s; `bad` and `expired` are. With `+` at the end it is of another key.
struct Names {
    keys: HashSet<u64>,
}

impl VerifyToken for Names {
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        match token {
            "bad" => return Err(Code::BadToken),
            "expired" => return Err(Code::TokenExpired),
            _ => {}
        }
        let (text, key) = token.strip_suffix('+').map_or((token, 0), |text| (text, 1));
        if !self.keys.contains(&key) {
            return Err(Code::BadToken);
        }
        let (name, life_ms) = text.split_once('.').unwrap_or((text, "3600000"));
        let expires_ms = unix_ms + life_ms.parse::<i64>().unwrap();
        Ok(VerifiedToken { tenant: tenant(), user: user(name), id: token.into(), key, issued_ms: unix_ms, expires_ms })
    }

    fn keys(&self) -> HashSet<u64> {
        self.keys.clone()
    }
}

#[derive(Default)]
struct Peer {
    writes: usize,
    stopped: bool,
    bytes: Vec<u8>,
    closed: Option<Code>,
    /// Its transport has acknowledged something, until that is told.
    acknowledged: bool,
}

pub(crate) struct Desk {
    shard: Shard<Names>,
    now: Now,
    control: Control,
    random: Random,
    link_up: bool,
    held: Option<Vec<NodeFrame>>,
    stragglers: Vec<NodeFrame>,
    peers: BTreeMap<SessionKey, Peer>,
    answers: Vec<(u64, Result<u64, Code>)>,
    drained: bool,
    /// Whose hellos had to wait, and were accepted.
    pub(crate) signed_in: Vec<SessionKey>,
    /// Homes in one request at most.
    homes_max: usize,
    pub(crate) last_retry_after_ms: u32,
    /// Marks of read positions that left for the control plane.
    pub(crate) marks_sent: usize,
}

impl Desk {
    pub(crate) fn new(config: Config) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        let homes_max = config.home.open_batch_max as usize;
        let mut desk = Self {
            homes_max,
            shard: Self::shard(now, config),
            now,
            control: Control { channels: BTreeMap::new(), term: 0, faults: Faults::default(), moved: Vec::new() },
            random: Random::new(1),
            link_up: false,
            held: None,
            stragglers: Vec::new(),
            peers: BTreeMap::new(),
            answers: Vec::new(),
            drained: false,
            signed_in: Vec::new(),
            last_retry_after_ms: 0,
            marks_sent: 0,
        };
        desk.link();
        desk
    }

    fn shard(now: Now, config: Config) -> Shard<Names> {
        Shard::new(now, config, ShardIndex(0), 1, 7, Names { keys: HashSet::from([0, 1]) }).unwrap()
    }

    /// The shard dies with all it knew, and another one begins.
    pub(crate) fn restart(&mut self, config: Config) {
        self.shard = Self::shard(self.now, config);
        self.peers.clear();
        self.link();
    }

    pub(crate) fn channel(&mut self, name: &str, kept: (HistoryClass, SlowConsumer), members: &[&str]) -> ChannelId {
        let id = ChannelId::new(self.control.channels.len() as u64 + 1).unwrap();
        let mut channel = Control::new_channel(id, name, kept.0, kept.1);
        channel.members.extend(members.iter().map(|name| (user(name), true)));
        self.control.channels.insert(id, channel);
        id
    }

    pub(crate) fn reader(&mut self, channel: ChannelId, name: &str) {
        self.control.channel(channel).members.insert(user(name), false);
    }

    /// The push is lost with the link.
    pub(crate) fn remove_member(&mut self, channel: ChannelId, name: &str) {
        assert!(!self.link_up);
        self.control.channel(channel).members.remove(&user(name));
    }

    /// A member was removed and is one again before anybody was told, and has read so far from the beginning.
    pub(crate) fn add_again(&mut self, channel: ChannelId, name: &str, read: u64) {
        let position = Position { epoch: Epoch::FIRST, offset: read };
        self.control.channel(channel).reads.insert(user(name), position);
        let membership = Some((Role::Member, true));
        let change = MemberChanged { tenant: tenant(), channel, user: user(name), membership };
        self.push(NodeFrame { id: 0, body: NodeBody::MemberChanged(change) });
    }

    pub(crate) fn archive(&mut self, channel: ChannelId) {
        let of = self.control.channel(channel);
        of.archived = true;
        let name = of.name.clone();
        let body = NodeBody::ChannelChanged { tenant: tenant(), channel, name, archived: true };
        self.push(NodeFrame { id: 0, body });
    }

    /// The store is busy, or not any more.
    pub(crate) fn refuse_all(&mut self, refused: bool) {
        self.control.faults.refused = if refused { 1_000 } else { 0 };
    }

    pub(crate) fn stored(&self, channel: ChannelId) -> u64 {
        self.control.channels[&channel].tail()
    }

    pub(crate) fn is_given_back(&self, channel: ChannelId) -> bool {
        !self.control.channels[&channel].open
    }

    pub(crate) fn connect(&mut self) -> SessionKey {
        let session = self.shard.handle_connected(self.now).unwrap();
        self.peers.insert(session, Peer::default());
        session
    }

    /// The session's transport is gone.
    pub(crate) fn leave(&mut self, session: SessionKey) {
        self.shard.handle_disconnected(self.now, session);
        self.settle();
    }

    pub(crate) fn is_welcomed(&self, session: SessionKey) -> bool {
        self.shard.is_welcomed(session)
    }

    /// A session whose transport has a stream for each channel, and acknowledges what it gets.
    pub(crate) fn open_in_lanes(&mut self, token: &str) -> SessionKey {
        let session = self.shard.handle_connected_in_lanes(self.now).unwrap();
        self.peers.insert(session, Peer::default());
        self.hello(session, token);
        session
    }

    pub(crate) fn acknowledges(&mut self, session: SessionKey) {
        self.peers.get_mut(&session).unwrap().acknowledged = true;
    }

    pub(crate) fn refused_connect(&mut self) -> Option<Code> {
        self.shard.handle_connected(self.now).err()
    }

    pub(crate) fn open(&mut self, token: &str) -> SessionKey {
        let session = self.connect();
        self.hello(session, token);
        session
    }

    pub(crate) fn hello(&mut self, session: SessionKey, token: &str) {
        self.hello_with(session, token, Vec::new());
    }

    pub(crate) fn hello_with(&mut self, session: SessionKey, token: &str, subscriptions: Vec<Subscribe<'_>>) {
        self.hello_as(session, token, subscriptions, 0);
    }

    fn hello_as(&mut self, session: SessionKey, token: &str, subscriptions: Vec<Subscribe<'_>>, features: u64) {
        let (version_min, version_max) = (VERSION, VERSION);
        let hello = Hello { version_min, version_max, features, token, agent: "desk", subscriptions };
        self.ask(session, 1, ClientBody::Hello(hello));
    }

    /// A session that hears of read positions, and of whatever else may come one day.
    pub(crate) fn open_reading(&mut self, token: &str) -> SessionKey {
        let session = self.connect();
        self.hello_as(session, token, Vec::new(), u64::MAX);
        session
    }

    pub(crate) fn mark_read(&mut self, session: SessionKey, request: u32, channel: ChannelId, offset: u64) {
        let position = Position { epoch: Epoch::FIRST, offset };
        self.ask(session, request, ClientBody::MarkRead { channel, position });
    }

    /// How far the control plane knows that a user has read.
    pub(crate) fn read_of(&self, channel: ChannelId, name: &str) -> Option<u64> {
        self.control.channels[&channel].reads.get(&user(name)).map(|read| read.offset)
    }

    /// A mark came in another way, such as over REST; the push is lost if the link is down.
    pub(crate) fn read_elsewhere(&mut self, channel: ChannelId, name: &str, offset: u64) {
        let position = Position { epoch: Epoch::FIRST, offset };
        self.control.channel(channel).reads.insert(user(name), position);
        if self.link_up {
            let moved = ReadMark { tenant: tenant(), user: user(name), channel, position };
            self.push(NodeFrame { id: 0, body: NodeBody::ReadsMoved(vec![moved]) });
        }
    }

    pub(crate) fn bytes(&mut self, session: SessionKey, frame: &[u8]) {
        self.shard.handle_frame(self.now, session, frame);
        self.settle();
    }

    fn send(&mut self, session: SessionKey, request: u32, body: ClientBody<'_>) {
        let mut frame = Vec::new();
        encode_client(&ClientFrame { request, body }, &mut frame);
        self.shard.handle_frame(self.now, session, &frame);
    }

    pub(crate) fn ask(&mut self, session: SessionKey, request: u32, body: ClientBody<'_>) {
        self.send(session, request, body);
        self.settle();
    }

    pub(crate) fn subscribe(&mut self, session: SessionKey, request: u32, channel: &str, start: Start) {
        self.ask(session, request, ClientBody::Subscribe(Subscribe { channel, start }));
    }

    /// Without ending the turn.
    pub(crate) fn send_publish(
        &mut self,
        from: SessionKey,
        request: u32,
        channel: ChannelId,
        sequence: u64,
        body: &[u8],
    ) {
        let (producer, sequence) = (Producer::new(5).unwrap(), ProducerSequence::new(sequence).unwrap());
        self.send(from, request, ClientBody::Publish(Publish { channel, producer, sequence, body }));
    }

    pub(crate) fn publish(&mut self, from: SessionKey, request: u32, channel: ChannelId, sequence: u64, body: &[u8]) {
        self.send_publish(from, request, channel, sequence, body);
        self.settle();
    }

    pub(crate) fn order(&mut self, id: u64, channel: ChannelId, sequence: u64) {
        let history = self.control.channels[&channel].history;
        let message = NewMessage {
            user: user("rest"),
            producer: Producer::new(6).unwrap(),
            sequence: ProducerSequence::new(sequence).unwrap(),
            time_ms: 0,
            body: "over rest".into(),
        };
        let body = NodeBody::Publish(PublishOrder { tenant: tenant(), channel, history, message });
        self.push(NodeFrame { id, body });
    }

    pub(crate) fn answers(&mut self) -> Vec<(u64, Result<u64, Code>)> {
        std::mem::take(&mut self.answers)
    }

    /// All in one turn.
    pub(crate) fn revoke(&mut self, all: &[TokensRevoked]) {
        for revoked in all {
            let frame = NodeFrame { id: 0, body: NodeBody::TokensRevoked(revoked.clone()) };
            self.shard.handle_control(self.now, ControlEvent::Frame(frame));
        }
        self.settle();
    }

    /// The other key is removed; the link tells it now, or with all keys when it is back.
    pub(crate) fn remove_key(&mut self, told: NodeBody) {
        self.shard.verifier_mut().keys.remove(&1);
        self.push(NodeFrame { id: 0, body: told });
    }

    fn push(&mut self, frame: NodeFrame) {
        self.shard.handle_control(self.now, ControlEvent::Frame(frame));
        self.settle();
    }

    pub(crate) fn link(&mut self) {
        self.link_up = true;
        self.control.term += 1;
        let term = Term(self.control.term);
        self.shard.handle_control(self.now, ControlEvent::LinkUp { term });
        self.settle();
    }

    pub(crate) fn cut(&mut self) {
        self.link_up = false;
        self.stragglers.extend(self.held.take().into_iter().flatten());
        self.shard.handle_control(self.now, ControlEvent::LinkDown);
        self.settle();
    }

    /// Requests wait on their way until the link is cut.
    pub(crate) fn hold_control(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Requests that were held reach the control plane now, and are answered.
    pub(crate) fn answer_held(&mut self) {
        for frame in self.held.take().unwrap_or_default() {
            self.act(Action::Control(frame));
        }
        self.settle();
    }

    /// Requests of the cut link reach the control plane after all.
    pub(crate) fn release_control(&mut self) {
        for frame in std::mem::take(&mut self.stragglers) {
            self.control.process(&mut self.random, frame.body);
        }
    }

    pub(crate) fn drain(&mut self, drain: Drain) {
        self.shard.handle_drain(self.now, drain);
        self.settle();
    }

    pub(crate) fn drained(&self) -> bool {
        self.drained
    }

    pub(crate) fn stats(&self) -> &Stats {
        self.shard.stats()
    }

    /// Time passes, timer by timer.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now.plus(Duration::from_millis(ms));
        while let Some(at) = self.shard.poll_timeout().filter(|at| *at <= end.instant) {
            self.now = self.now.plus(at.saturating_duration_since(self.now.instant));
            self.shard.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Turns until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.shard.end_turn(self.now);
            let mut busy = self.shard.has_work();
            while let Some(action) = self.shard.poll_action() {
                busy = true;
                self.act(action);
            }
            if !busy {
                return;
            }
        }
        panic!("it never settles");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Flush(session) => self.write(session),
            Action::Close { session, code, .. } => {
                self.write(session);
                self.peers.get_mut(&session).unwrap().closed = Some(code);
            }
            Action::Control(_) if !self.link_up => {}
            Action::Control(frame) => {
                // The link ends at a frame that is too large, and the next one would end at the same frame.
                assert!(encoded_bytes_max(&frame) <= FRAME_BYTES_MAX);
                match &frame.body {
                    NodeBody::OpenHomes(homes) => assert!(homes.len() <= self.homes_max),
                    NodeBody::CloseHomes(homes) => assert!(homes.len() <= self.homes_max),
                    NodeBody::MarkReads(marks) => self.marks_sent += marks.len(),
                    _ => {}
                }
                if let Some(held) = &mut self.held {
                    held.push(frame);
                    return;
                }
                if let NodeBody::Published(result) = &frame.body {
                    let result = result.as_ref().map(|at| at.position.offset).map_err(|refusal| refusal.code);
                    self.answers.push((frame.id, result));
                }
                if let Some(body) = self.control.process(&mut self.random, frame.body) {
                    let reply = NodeFrame { id: frame.id, body };
                    self.shard.handle_control(self.now, ControlEvent::Frame(reply));
                    if !self.control.moved.is_empty() {
                        let moved = NodeBody::ReadsMoved(std::mem::take(&mut self.control.moved));
                        self.shard.handle_control(self.now, ControlEvent::Frame(NodeFrame { id: 0, body: moved }));
                    }
                }
            }
            Action::SignedIn(session) => {
                assert!(self.shard.is_welcomed(session));
                self.signed_in.push(session);
            }
            Action::Listen(session) => {
                let acknowledged = std::mem::take(&mut self.peers.get_mut(&session).unwrap().acknowledged);
                self.shard.handle_listened(self.now, session, acknowledged);
            }
            Action::Drained => self.drained = true,
        }
    }

    fn write(&mut self, session: SessionKey) {
        let peer = self.peers.get_mut(&session).unwrap();
        let Some(outbound) = self.shard.outbound(session) else { return };
        let mut bytes = 0;
        if !peer.stopped {
            peer.writes += 1;
            for segment in outbound.segments() {
                peer.bytes.extend(segment);
                bytes += segment.len();
            }
        }
        let blocked = peer.stopped;
        self.shard.handle_written(self.now, session, Written { bytes, blocked });
    }

    /// How often the session was written to.
    pub(crate) fn writes(&self, session: SessionKey) -> usize {
        self.peers[&session].writes
    }

    pub(crate) fn stop_reading(&mut self, session: SessionKey) {
        self.peers.get_mut(&session).unwrap().stopped = true;
    }

    pub(crate) fn start_reading(&mut self, session: SessionKey) {
        self.peers.get_mut(&session).unwrap().stopped = false;
        self.write(session);
        self.settle();
    }

    pub(crate) fn queued_bytes(&self, session: SessionKey) -> usize {
        self.shard.outbound(session).unwrap().queued_bytes()
    }

    pub(crate) fn closed(&self, session: SessionKey) -> Option<Code> {
        self.peers[&session].closed
    }

    /// What the client heard since it was asked last; `welcome` aside.
    pub(crate) fn heard(&mut self, session: SessionKey) -> Vec<Heard> {
        let bytes = std::mem::take(&mut self.peers.get_mut(&session).unwrap().bytes);
        let mut rest = &bytes[..];
        let mut heard = Vec::new();
        while let [0x82, short, ..] = *rest {
            let (start, len) = match short {
                126 => (4, usize::from(u16::from_be_bytes(rest[2..4].try_into().unwrap()))),
                127 => (10, usize::try_from(u64::from_be_bytes(rest[2..10].try_into().unwrap())).unwrap()),
                short => (2, usize::from(short)),
            };
            let frame = decode_server(&rest[start..start + len]).unwrap();
            heard.extend(self.short(frame.request, &frame.body));
            rest = &rest[start + len..];
        }
        assert!(rest.is_empty(), "whole frames");
        heard
    }

    fn short(&mut self, request: u32, body: &ServerBody<'_>) -> Option<Heard> {
        Some(match body {
            ServerBody::Welcome(_) => return None,
            ServerBody::Subscribed(subscribed) => match subscribed.recovery {
                Recovery::Whole => Heard::Resumed(request, subscribed.channel, subscribed.position.offset),
                _ => Heard::Subscribed(request, subscribed.channel, subscribed.position.offset),
            },
            ServerBody::Unsubscribed { channel, code, .. } => {
                Heard::Unsubscribed(request, *channel, Code::from_number(*code))
            }
            ServerBody::Published(published) if published.duplicate => {
                Heard::Duplicate(request, published.position.offset)
            }
            ServerBody::Published(published) => Heard::Published(request, published.position.offset),
            ServerBody::Message(message) => Heard::Message(message.channel, message.position.offset),
            ServerBody::Skipped { channel, first, last } => Heard::Skipped(*channel, first.offset, last.offset),
            ServerBody::Refreshed { .. } => Heard::Refreshed(request),
            ServerBody::Error { code, retry_after_ms, .. } => {
                if *retry_after_ms > 0 {
                    self.last_retry_after_ms = *retry_after_ms;
                }
                Heard::Error(request, Code::from_number(*code).unwrap())
            }
            ServerBody::Read { channel, position } => Heard::Read(request, *channel, position.offset),
            ServerBody::Ping => Heard::Ping,
            ServerBody::GoAway { after_ms, .. } => Heard::GoAway(*after_ms),
            other => panic!("{other:?}"),
        })
    }
}
