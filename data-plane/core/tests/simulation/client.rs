//! A client as an SDK would be: resumes from what it has, sends again what was not acknowledged, and believes nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use millrace_core::SessionKey;
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, HistoryRange, HistoryRequest, Message, Publish, Published, Recovery,
    ServerBody, ServerFrame, Start, Subscribe, Subscribed, VERSION, decode_server, encode_client,
};
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::{ChannelId, ChannelName, Position, Producer, ProducerSequence, UserId};

use super::compression;
use super::judge::Judge;
use super::random::Random;

/// A connection, with what its sockets hold.
pub(crate) struct Connection {
    pub(crate) shard: usize,
    pub(crate) session: SessionKey,
    /// To the node: when it arrives, and the frame.
    pub(crate) upstream: VecDeque<(u64, Vec<u8>)>,
    /// From the node, not read yet.
    pub(crate) socket: VecDeque<u8>,
    pub(crate) socket_max: usize,
    /// Bytes that ever went into the socket.
    pub(crate) taken: u64,
    /// The node closed; the client sees it after reading all.
    pub(crate) closed: Option<Code>,
    read: Vec<u8>,
    /// Bytes that were ever parsed.
    parsed: u64,
    open: bool,
    /// It agreed to compression.
    agreed: bool,
    requests: HashMap<u32, Request>,
    request: u32,
    /// Until then it reads nothing.
    pub(crate) stalled_until: u64,
}

#[derive(Debug, Clone, Copy)]
enum Request {
    Hello,
    Subscribe(ChannelId),
    Publish(ChannelId, ProducerSequence),
    History(ChannelId, HistoryRange),
    Refresh,
    Unsubscribe(ChannelId),
}

pub(crate) struct Want {
    pub(crate) name: ChannelName,
    pub(crate) history: HistoryClass,
    pub(crate) attach: bool,
    pub(crate) state: WantState,
    /// Everything up to here was seen.
    pub(crate) position: Option<Position>,
    asked: Option<Position>,
    /// It asked anew without unsubscribing: messages of the old subscription may come until the new one is answered.
    renewing: bool,
    can_publish: bool,
    retry_at: u64,
    /// Messages that the node puts into the socket from this byte on must not come: access ended before.
    pub(crate) silent_from: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WantState {
    Idle,
    Asked,
    Subscribed,
    /// Asked to end it.
    Leaving,
    Denied,
}

/// What it wants to say in a channel.
#[derive(Debug)]
pub(crate) struct Outbox {
    producer: Producer,
    next: ProducerSequence,
    pub(crate) unacked: VecDeque<ProducerSequence>,
    /// Sent on this connection up to here.
    sent: u64,
    /// One was refused: those in flight are answered before more is sent (SPEC.md 6.2). In bad weather not everybody heeds that.
    refused: bool,
    retry_at: u64,
}

pub(crate) struct Client {
    pub(crate) user: UserId,
    pub(crate) wants: BTreeMap<ChannelId, Want>,
    pub(crate) outboxes: BTreeMap<ChannelId, Outbox>,
    pub(crate) connection: Option<Connection>,
    pub(crate) reconnect_at: u64,
    pub(crate) slow: bool,
    token_expires_ms: i64,
}

/// What a body says of its origin.
pub(crate) fn body(user: &UserId, channel: ChannelId, producer: Producer, sequence: ProducerSequence) -> Vec<u8> {
    let mut body = format!("{user} {channel} {} {sequence} ", producer.get()).into_bytes();
    // Sizes differ so that bounds in bytes matter.
    body.resize(body.len() + usize::try_from(sequence.get() * 37 % 120).unwrap(), b'.');
    body
}

impl Client {
    pub(crate) fn new(user: UserId) -> Self {
        Self {
            user,
            wants: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            connection: None,
            reconnect_at: 0,
            slow: false,
            token_expires_ms: 0,
        }
    }

    pub(crate) fn want(&mut self, channel: ChannelId, name: ChannelName, history: HistoryClass, attach: bool) {
        let want = Want {
            name,
            history,
            attach,
            state: WantState::Idle,
            position: None,
            asked: None,
            renewing: false,
            can_publish: false,
            retry_at: 0,
            silent_from: None,
        };
        self.wants.insert(channel, want);
    }

    pub(crate) fn say(&mut self, random: &mut Random, channel: ChannelId) {
        let outbox = self.outboxes.entry(channel).or_insert_with(|| Outbox {
            producer: Producer::new(random.next() | 1).unwrap(),
            next: ProducerSequence::FIRST,
            unacked: VecDeque::new(),
            sent: 0,
            refused: false,
            retry_at: 0,
        });
        outbox.unacked.push_back(outbox.next);
        outbox.next = outbox.next.next();
    }

    fn send(connection: &mut Connection, at: u64, body: ClientBody<'_>, request: Option<Request>) {
        let id = request.map_or(0, |request| {
            connection.request += 1;
            connection.requests.insert(connection.request, request);
            connection.request
        });
        let mut bytes = Vec::new();
        encode_client(&ClientFrame { request: id, body }, &mut bytes);
        // A stream keeps its order.
        let at = connection.upstream.back().map_or(at, |(last, _)| at.max(*last));
        connection.upstream.push_back((at, bytes));
    }

    pub(crate) fn agreed(&mut self, agreed: bool) {
        self.connection.as_mut().unwrap().agreed = agreed;
    }

    pub(crate) fn connected(&mut self, random: &mut Random, now: u64, unix_ms: i64, shard: usize, session: SessionKey) {
        let mut connection = Connection {
            shard,
            session,
            upstream: VecDeque::new(),
            socket: VecDeque::new(),
            socket_max: 300 + random.index(4000),
            taken: 0,
            closed: None,
            read: Vec::new(),
            parsed: 0,
            open: false,
            agreed: false,
            requests: HashMap::new(),
            request: 0,
            stalled_until: 0,
        };
        if !random.chance(20) {
            let lifetime = if random.chance(100) { 700 } else { 60_000 };
            self.token_expires_ms = unix_ms + lifetime;
            let token = token(&self.user, random.below(1_000_000), unix_ms, self.token_expires_ms);
            let mut hello = Hello {
                version_min: VERSION,
                version_max: VERSION + 1,
                features: 0,
                token: &token,
                agent: "simulation",
                subscriptions: Vec::new(),
            };
            // A whole resume in one frame, or each on its own later.
            let names: Vec<_> = self.wants.iter().map(|(id, want)| (*id, want.name.clone(), want.start())).collect();
            if random.chance(500) {
                for (id, name, start) in &names {
                    let want = self.wants.get_mut(id).unwrap();
                    if want.state != WantState::Denied {
                        hello.subscriptions.push(Subscribe { channel: name.as_str(), start: *start });
                        want.state = WantState::Asked;
                        want.asked = want.position;
                    }
                }
            }
            Self::send(&mut connection, now + random.below(5), ClientBody::Hello(hello), Some(Request::Hello));
        }
        self.connection = Some(connection);
    }

    pub(crate) fn disconnected(&mut self, random: &mut Random, now: u64) {
        self.connection = None;
        self.reconnect_at = now + random.below(200);
        for want in self.wants.values_mut() {
            want.silent_from = None;
            want.renewing = false;
            if want.state != WantState::Denied {
                want.state = WantState::Idle;
                want.retry_at = 0;
            }
        }
        for outbox in self.outboxes.values_mut() {
            outbox.sent = outbox.unacked.front().map_or(outbox.next.get(), |first| first.get()) - 1;
            outbox.refused = false;
            outbox.retry_at = 0;
        }
    }

    /// Subscribes to what it wants and sends what it has to say.
    pub(crate) fn act(&mut self, random: &mut Random, now: u64, unix_ms: i64, calm: bool) {
        let Some(connection) =
            self.connection.as_mut().filter(|connection| connection.open && connection.closed.is_none())
        else {
            return;
        };
        let at = now + random.below(4);
        for (&id, want) in &mut self.wants {
            if want.state == WantState::Idle && want.retry_at <= now {
                want.state = WantState::Asked;
                want.asked = want.position;
                let subscribe = Subscribe { channel: want.name.as_str(), start: want.start() };
                Self::send(connection, at, ClientBody::Subscribe(subscribe), Some(Request::Subscribe(id)));
            }
            if want.state != WantState::Subscribed || calm {
                continue;
            }
            if random.chance(6) {
                want.state = WantState::Idle;
                want.renewing = true;
            } else if random.chance(8) {
                Self::send(connection, at, ClientBody::Unsubscribe { channel: id }, Some(Request::Unsubscribe(id)));
                want.state = WantState::Leaving;
            } else if random.chance(15) {
                let near = want.position.map_or(1, |position| position.offset + 1);
                let range = match random.below(3) {
                    0 => HistoryRange::Newest,
                    1 => HistoryRange::Before(millrace_protocol::Offset::FIRST.plus(random.below(near + 3))),
                    _ => HistoryRange::After(random.below(near + 3)),
                };
                let messages_max = u32::try_from(random.below(12)).unwrap();
                let request = HistoryRequest { channel: id, messages_max, range };
                Self::send(connection, at, ClientBody::History(request), Some(Request::History(id, range)));
            }
        }
        for (&channel, outbox) in &mut self.outboxes {
            let want = &self.wants[&channel];
            if outbox.retry_at > now || want.state != WantState::Subscribed || !(want.can_publish || calm) {
                continue;
            }
            let of_channel = |request: &Request| matches!(request, Request::Publish(of, _) if *of == channel);
            if calm && outbox.refused && connection.requests.values().any(of_channel) {
                continue;
            }
            outbox.refused = false;
            let sent = outbox.sent;
            for &sequence in outbox.unacked.iter().filter(|sequence| sequence.get() > sent).take(8) {
                let bytes = body(&self.user, channel, outbox.producer, sequence);
                let publish = Publish { channel, producer: outbox.producer, sequence, body: &bytes };
                Self::send(connection, at, ClientBody::Publish(publish), Some(Request::Publish(channel, sequence)));
                outbox.sent = sequence.get();
            }
        }
        if self.token_expires_ms - unix_ms < 300 && random.chance(300) {
            self.token_expires_ms = unix_ms + 60_000;
            let token = token(&self.user, random.below(1_000_000), unix_ms, self.token_expires_ms);
            Self::send(connection, at, ClientBody::Refresh { token: &token }, Some(Request::Refresh));
        }
    }

    /// Reads some of what is in its socket and judges it. Gives how many bytes were read.
    pub(crate) fn read(&mut self, random: &mut Random, now: u64, calm: bool, judge: &mut Judge<'_>) -> usize {
        let Some(connection) = &mut self.connection else { return 0 };
        if connection.stalled_until > now && !calm {
            return 0;
        }
        if !calm && self.slow && random.chance(100) {
            connection.stalled_until = now + random.below(1500);
        }
        let most = if self.slow && !calm { 200 } else { 100_000 };
        let count = connection.socket.len().min(1 + random.index(most));
        connection.read.extend(connection.socket.drain(..count));
        while let Some((payload, frame_bytes)) = self.connection.as_ref().unwrap().next_frame() {
            let start = {
                let connection = self.connection.as_mut().unwrap();
                connection.read.drain(..frame_bytes);
                connection.parsed += frame_bytes as u64;
                connection.parsed - frame_bytes as u64
            };
            let frame = decode_server(&payload).expect("a node sends good frames");
            self.heard(random, now, start, &frame, judge);
        }
        count
    }

    fn heard(&mut self, random: &mut Random, now: u64, start: u64, frame: &ServerFrame<'_>, judge: &mut Judge<'_>) {
        let user = self.user.clone();
        let connection = self.connection.as_mut().unwrap();
        let request = connection.requests.get(&frame.request).copied();
        match &frame.body {
            ServerBody::Welcome(_) => {
                assert!(!connection.open, "{user}: welcomed twice");
                connection.open = true;
            }
            ServerBody::Ping => Self::send(connection, now + random.below(4), ClientBody::Pong, None),
            ServerBody::GoAway { .. } | ServerBody::Refreshed { .. } => {}
            ServerBody::Subscribed(subscribed) => self.subscribed(frame.request, subscribed, judge),
            ServerBody::Message(message) => self.message(start, message, judge),
            ServerBody::Published(published) => {
                let Some(Request::Publish(channel, sequence)) = request else {
                    panic!("{user}: {published:?} unasked")
                };
                assert_eq!((channel, sequence), (published.channel, published.sequence));
                self.published(published, judge);
            }
            ServerBody::Page { channel, messages, more } => {
                let Some(Request::History(asked, range)) = request else { panic!("{user}: a page unasked") };
                assert_eq!(asked, *channel);
                judge.page(&user, asked, range, messages, *more);
            }
            ServerBody::Skipped { channel, first, last } => {
                let want = self.wants.get_mut(channel).unwrap();
                let subscribed = matches!(want.state, WantState::Subscribed | WantState::Leaving);
                assert!(subscribed || want.renewing, "{user}: skipped without a subscription");
                judge.skipped(*channel, want.history);
                if want.history != HistoryClass::None && !want.renewing {
                    let seen = want.position.unwrap();
                    assert_eq!(
                        first.offset,
                        seen.offset + 1,
                        "{user} {channel}: skipped {first:?} to {last:?} after {seen:?}"
                    );
                    want.position = Some(*last);
                }
            }
            ServerBody::Unsubscribed { channel, code, .. } => {
                if *code == 0 {
                    assert!(matches!(request, Some(Request::Unsubscribe(_))), "{user}: unsubscribed unasked");
                }
                self.unsubscribed(random, now, *channel, *code, judge);
            }
            ServerBody::Error { code, channel, .. } => {
                self.refused(random, now, request, *code, channel, judge);
            }
            other => panic!("{user}: {other:?}"),
        }
        // The subscriptions of a hello share its request.
        if let Some(connection) = &mut self.connection
            && !matches!(request, Some(Request::Hello))
            && frame.request != 0
        {
            connection.requests.remove(&frame.request).expect("each request is answered once");
        }
    }

    fn subscribed(&mut self, request: u32, subscribed: &Subscribed<'_>, judge: &mut Judge<'_>) {
        let user = &self.user;
        let want = self.wants.get_mut(&subscribed.channel).unwrap();
        assert!(request != 0 && want.state == WantState::Asked, "{user}: subscribed unasked");
        assert_eq!((want.name.as_str(), want.history), (subscribed.name, subscribed.history));
        want.state = WantState::Subscribed;
        want.can_publish = subscribed.can_publish;
        want.renewing = false;
        want.silent_from = None;
        match subscribed.recovery {
            Recovery::None => {
                assert!(want.attach || want.asked.is_none() || want.history == HistoryClass::None);
                if !want.attach {
                    want.position = Some(subscribed.position);
                }
            }
            Recovery::Whole => {
                let asked = want.asked.expect("it showed a position");
                assert_eq!(want.position, Some(asked));
                assert!(subscribed.position.offset >= asked.offset);
            }
            Recovery::Reload(code) => {
                let asked = want.asked.expect("it showed a position");
                judge.reload(user, subscribed.channel, code, asked, subscribed.position);
                want.position = Some(subscribed.position);
            }
        }
    }

    fn message(&mut self, start: u64, message: &Message<'_>, judge: &mut Judge<'_>) {
        let user = &self.user;
        let channel = message.channel;
        let want = self.wants.get_mut(&channel).unwrap_or_else(|| panic!("{user}: a message of {channel}"));
        let silent = want.silent_from.is_some_and(|from| start >= from);
        assert!(!silent, "{user}: heard {channel} after access had ended");
        if want.renewing {
            return judge.message(user, message, want.history);
        }
        let subscribed = matches!(want.state, WantState::Subscribed | WantState::Leaving);
        assert!(subscribed, "{user}: a message of {channel} while {:?}", want.state);
        assert!(!want.attach, "{user}: a message on an attached channel");
        judge.message(user, message, want.history);
        if want.history == HistoryClass::None {
            return;
        }
        let seen = want.position.expect("a subscription starts somewhere");
        assert_eq!(
            message.position.offset,
            seen.offset + 1,
            "{user} {channel}: {:?} after {seen:?}: a gap, a duplicate or out of order",
            message.position
        );
        assert!(message.position.epoch >= seen.epoch || judge.is_lossy(channel), "{user} {channel}: epochs go forward");
        want.position = Some(message.position);
    }

    fn published(&mut self, published: &Published, judge: &mut Judge<'_>) {
        let outbox = self.outboxes.get_mut(&published.channel).unwrap();
        assert_eq!(outbox.producer, published.producer);
        outbox.unacked.retain(|sequence| *sequence != published.sequence);
        judge.acked(&self.user, published);
    }

    fn unsubscribed(&mut self, random: &mut Random, now: u64, channel: ChannelId, code: u16, judge: &mut Judge<'_>) {
        let user = &self.user;
        let want = self.wants.get_mut(&channel).unwrap();
        if std::mem::take(&mut want.renewing) && want.state == WantState::Asked {
            // The old one ended; the new one is still to be answered.
            want.silent_from = Some(0);
            return;
        }
        want.retry_at = now + random.below(150);
        match Code::from_number(code) {
            Some(Code::Removed | Code::Archived) => {
                // Nothing of it may follow on this connection until it is subscribed again.
                want.state = WantState::Denied;
                want.silent_from = Some(0);
                return;
            }
            None => {}
            Some(code) if code.advice() == Advice::Reload => {
                judge.history_lost(user, channel, code);
                want.position = None;
            }
            Some(code) => assert!(
                matches!(
                    code,
                    Code::Busy
                        | Code::Unavailable
                        | Code::Fenced
                        | Code::UnknownOutcome
                        | Code::GoingAway
                        | Code::NotSubscribed
                ),
                "{user}: unsubscribed with {code}"
            ),
        }
        want.state = WantState::Idle;
    }

    fn refused(
        &mut self,
        random: &mut Random,
        now: u64,
        request: Option<Request>,
        code: u16,
        name: &str,
        judge: &mut Judge<'_>,
    ) {
        let user = self.user.clone();
        let code = Code::from_number(code).unwrap();
        let named = self.wants.iter().find(|(_, want)| want.name.as_str() == name).map(|(id, _)| *id);
        let request = match (request, named) {
            (Some(Request::Hello), Some(channel)) => Some(Request::Subscribe(channel)),
            (request, _) => request,
        };
        let back_off = now + 20 + random.below(200);
        match request {
            Some(Request::Subscribe(channel)) => {
                let want = self.wants.get_mut(&channel).unwrap();
                assert_eq!(name, want.name.as_str(), "{user}: the error says which");
                want.retry_at = back_off;
                want.state = match code {
                    Code::NoAccess | Code::Archived | Code::Removed => WantState::Denied,
                    _ => WantState::Idle,
                };
            }
            Some(Request::Publish(channel, sequence)) => {
                let outbox = self.outboxes.get_mut(&channel).unwrap();
                outbox.sent = outbox.sent.min(sequence.get() - 1);
                outbox.refused = true;
                outbox.retry_at = back_off;
                judge.publish_refused(&user, code);
            }
            // Access ended while the request was under way.
            Some(Request::Unsubscribe(channel)) => {
                assert_eq!(code, Code::NotSubscribed);
                let want = self.wants.get_mut(&channel).unwrap();
                if want.state == WantState::Leaving {
                    want.state = WantState::Idle;
                }
            }
            Some(Request::History(channel, _)) => {
                let history = self.wants[&channel].history;
                assert_eq!(code == Code::NoHistory, history == HistoryClass::None && code == Code::NoHistory, "{code}");
            }
            Some(Request::Hello | Request::Refresh) | None => {}
        }
    }
}

impl Want {
    fn start(&self) -> Start {
        match self.position {
            _ if self.attach => Start::Attach,
            Some(position) if self.history != HistoryClass::None => Start::After(position),
            _ => Start::Live,
        }
    }
}

pub(crate) fn token(user: &UserId, id: u64, issued_ms: i64, expires_ms: i64) -> String {
    format!("{user}/{id}/{issued_ms}/{expires_ms}")
}

impl Connection {
    /// The next whole WebSocket frame of a server: its payload, and its length with the header.
    fn next_frame(&self) -> Option<(Vec<u8>, usize)> {
        let bytes = &self.read;
        let &[flags, short, ..] = &bytes[..] else { return None };
        assert!(flags == 0x82 || flags == compression::FLAGS && self.agreed, "a final binary frame");
        let (start, len) = match short {
            0..=125 => (2, usize::from(short)),
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
            _ => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap()),
        };
        let payload = bytes.get(start..start + len)?;
        let payload = if flags == 0x82 { payload.to_vec() } else { compression::restored(payload) };
        Some((payload, start + len))
    }
}
