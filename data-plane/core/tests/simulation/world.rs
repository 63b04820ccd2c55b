//! A node of several shards, its control plane and its clients, in virtual time, with everything between them late, small or cut.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use millrace_core::{
    Action, Config, ControlEvent, Hop, Now, SessionKey, Shard, ShardIndex, VerifiedToken, VerifyToken, Written,
};
use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{NodeBody, NodeFrame, SlowConsumer};
use millrace_protocol::ws::deflate::Window;
use millrace_protocol::{ChannelId, Code, Producer, TenantId, UserId};

use super::client::{Client, WantState};
use super::compression::Beheads;
use super::control::{Control, Faults};
use super::judge::{Judge, Records};
use super::limits::config;
use super::random::Random;
use super::weather::Weather;

/// Unix time at which every world begins, ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

pub(crate) struct Verifier;

impl VerifyToken for Verifier {
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        let parts: Vec<&str> = token.split('/').collect();
        let &[user, id, issued, expires] = &parts[..] else { return Err(Code::BadToken) };
        let expires_ms: i64 = expires.parse().map_err(|_| Code::BadToken)?;
        if expires_ms <= unix_ms {
            return Err(Code::TokenExpired);
        }
        Ok(VerifiedToken {
            tenant: tenant(),
            user: UserId::new(user).map_err(|_| Code::BadToken)?,
            id: id.into(),
            key: 0,
            issued_ms: issued.parse().map_err(|_| Code::BadToken)?,
            expires_ms,
        })
    }

    fn keys(&self) -> HashSet<u64> {
        HashSet::from([0])
    }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new(1).unwrap()
}

/// Fewer than the smallest bound of a session's answers, as in a node.
const FRAMES_OF_A_READ: usize = 16;

pub(crate) struct Ring {
    hops: VecDeque<(u64, Hop)>,
    max: usize,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) began: Instant,
    pub(crate) now_ms: u64,
    pub(crate) config: Config,
    pub(crate) shards: Vec<Shard<Verifier>>,
    pub(crate) rings: BTreeMap<(usize, usize), Ring>,
    pub(crate) control: Control,
    pub(crate) link_up: bool,
    pub(crate) link_at: u64,
    pub(crate) to_control: VecDeque<(u64, NodeFrame)>,
    /// Requests of a cut link that are carried out all the same, later.
    pub(crate) stragglers: Vec<(u64, NodeFrame)>,
    pub(crate) to_shards: Vec<VecDeque<(u64, ControlEvent)>>,
    pub(crate) clients: Vec<Client>,
    /// Sessions whose transport is gone, but whose shard hears of it later.
    pub(crate) gone: Vec<(u64, usize, SessionKey)>,
    pub(crate) records: Records,
    pub(crate) orders: BTreeMap<u64, (ChannelId, Producer)>,
    pub(crate) next_order: u64,
    pub(crate) weather: Weather,
    pub(crate) calm: bool,
    /// The term of the link that each shard was told of last.
    pub(crate) told: Vec<Option<u64>>,
    /// When a clean stop is cut short, and which shards have nothing left to do.
    pub(crate) stopping: Option<(u64, HashSet<usize>)>,
    pub(crate) delay: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let began = Instant::now();
        let shards = 1 + random.index(3);
        let config = config(&mut random);
        let faults =
            Faults { lost_unknown: random.below(60), written_unknown: random.below(60), refused: random.below(80) };
        let stormy = |random: &mut Random, most: u64| if random.chance(500) { random.below(most + 1) } else { 0 };
        let weather = Weather {
            cut: stormy(&mut random, 12),
            phantom: stormy(&mut random, 500),
            usurp: stormy(&mut random, 3),
            crash: stormy(&mut random, 4),
            stop: stormy(&mut random, 4),
            disconnect: stormy(&mut random, 60),
            membership: stormy(&mut random, 40),
            revoke: stormy(&mut random, 8),
            archive: stormy(&mut random, 2),
            order: stormy(&mut random, 100),
        };
        let mut control = Control { channels: BTreeMap::new(), term: 1, faults, moved: Vec::new() };
        for n in 0..1 + random.below(5) {
            let id = ChannelId::new(random.next() | 1).unwrap();
            let history = match random.below(5) {
                0 => HistoryClass::None,
                1 => HistoryClass::Windowed,
                _ => HistoryClass::Durable,
            };
            let policy = if random.chance(300) { SlowConsumer::Skip } else { SlowConsumer::Disconnect };
            control.channels.insert(id, Control::new_channel(id, &format!("channel-{n}"), history, policy));
        }
        let mut clients = Vec::new();
        for n in 0..2 + random.index(7) {
            // Some users have two clients.
            let user = UserId::new(&format!("user-{}", n / if random.chance(200) { 2 } else { 1 })).unwrap();
            let mut client = Client::new(user.clone());
            client.slow = random.chance(250);
            for channel in control.channels.values_mut() {
                if random.chance(700) {
                    client.want(channel.id, channel.name.clone(), channel.history, random.chance(100));
                    if random.chance(950) {
                        channel.members.insert(user.clone(), !random.chance(100));
                    }
                }
            }
            clients.push(client);
        }
        let mut world = Self {
            began,
            now_ms: 0,
            shards: Vec::new(),
            rings: BTreeMap::new(),
            control,
            link_up: false,
            link_at: 5,
            to_control: VecDeque::new(),
            stragglers: Vec::new(),
            to_shards: Vec::new(),
            clients,
            gone: Vec::new(),
            records: Records::default(),
            orders: BTreeMap::new(),
            next_order: 1,
            weather,
            calm: false,
            told: Vec::new(),
            stopping: None,
            delay: 1 + random.below(12),
            config,
            random,
        };
        world.boot(shards);
        world
    }

    pub(crate) fn now(&self) -> Now {
        let ms = i64::try_from(self.now_ms).unwrap();
        Now { instant: self.began + Duration::from_millis(self.now_ms), unix_ms: EPOCH_MS + ms }
    }

    pub(crate) fn boot(&mut self, shards: usize) {
        let now = self.now();
        let count = u16::try_from(shards).unwrap();
        self.shards = (0..count)
            .map(|index| {
                let seed = self.random.next();
                let mut shard = Shard::new(now, self.config.clone(), ShardIndex(index), count, seed, Verifier).unwrap();
                shard.compress_with(Box::new(Beheads));
                shard
            })
            .collect();
        self.rings.clear();
        for from in 0..shards {
            for to in 0..shards {
                let max = 1 + self.random.index(12);
                self.rings.insert((from, to), Ring { hops: VecDeque::new(), max });
            }
        }
        self.to_shards = (0..shards).map(|_| VecDeque::new()).collect();
        self.told = vec![None; shards];
    }

    /// Runs a while in bad weather, then heals everything and checks that nothing is missing.
    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.heal();
        for round in 0.. {
            self.step();
            if round % 10 == 0 && self.is_settled() {
                break;
            }
            assert!(round < 40_000, "it never settles: {}", self.unsettled());
        }
        // What windowed channels have delivered is written behind meanwhile. Publishes of somebody who was removed since, for whom
        // nobody waits above, may still be on their way to their home.
        for round in 0..4_000 {
            self.step();
            if round >= 100 && self.judge(|judge| judge.missing().is_none()) {
                break;
            }
        }
        self.judge(|judge| judge.finish());
        self.leave();
    }

    pub(crate) fn step(&mut self) {
        self.now_ms += 1 + self.random.below(8);
        if self.random.chance(5) {
            self.now_ms += self.random.below(400);
        }
        if self.calm {
            self.ask_again();
        } else {
            self.misfortune();
        }
        self.stopped();
        self.link();
        self.clients_act();
        self.control_acts();
        for index in 0..self.shards.len() {
            self.shard_turn(index);
        }
        self.check_bounds();
    }

    fn control_acts(&mut self) {
        let now = self.now_ms;
        let due: Vec<_> = {
            let (due, later) = std::mem::take(&mut self.stragglers).into_iter().partition(|(at, _)| *at <= now);
            self.stragglers = later;
            due
        };
        for (_, frame) in due {
            // Its answer has nowhere to go. Opening under a term of which the link is gone is refused by the link itself.
            if !matches!(frame.body, NodeBody::OpenHomes(_)) {
                self.control.process(&mut self.random, frame.body);
            }
        }
        while self.to_control.front().is_some_and(|(at, _)| *at <= now) {
            let (_, frame) = self.to_control.pop_front().unwrap();
            if let NodeBody::Published(result) = &frame.body {
                let (channel, producer) = self.orders.remove(&frame.id).expect("an order is answered once");
                if let Ok(at) = result
                    && self.control.channels[&channel].history == HistoryClass::Durable
                {
                    let stored = self.control.channels[&channel].at(at.position.offset).expect("acked is stored");
                    assert_eq!(stored.message.producer, producer);
                }
                continue;
            }
            let shard = ShardIndex::of_request(frame.id).get();
            let id = frame.id;
            if let Some(body) = self.control.process(&mut self.random, frame.body) {
                let at = now + self.random.below(self.delay);
                let queue = &mut self.to_shards[shard];
                let at = queue.back().map_or(at, |(last, _)| at.max(*last));
                queue.push_back((at, ControlEvent::Frame(NodeFrame { id, body })));
            }
        }
    }

    fn clients_act(&mut self) {
        let (now, clock) = (self.now_ms, self.now());
        for index in 0..self.clients.len() {
            if self.clients[index].connection.is_none() && self.clients[index].reconnect_at <= now {
                let shard = self.random.index(self.shards.len());
                if let Ok(session) = self.shards[shard].handle_connected(clock) {
                    let window =
                        self.random.chance(500).then_some([Window::Small, Window::Large][self.random.index(2)]);
                    if let Some(window) = window {
                        self.shards[shard].handle_agreed(session, window);
                    }
                    self.clients[index].connected(&mut self.random, now, clock.unix_ms, shard, session);
                    self.clients[index].agreed(window.is_some());
                } else {
                    self.clients[index].reconnect_at = now + 50;
                }
            }
            if !self.calm && self.random.chance(150) {
                let client = &mut self.clients[index];
                let channels: Vec<_> = client.wants.keys().copied().collect();
                if !channels.is_empty() {
                    let channel = channels[self.random.index(channels.len())];
                    let most = if self.random.chance(50) { 30 } else { 3 };
                    for _ in 0..1 + self.random.below(most) {
                        client.say(&mut self.random, channel);
                    }
                }
            }
            self.clients[index].act(&mut self.random, now, clock.unix_ms, self.calm);
            let mut judge = Judge {
                control: &self.control,
                records: &mut self.records,
                replay_messages_max: self.config.replay_messages_max,
            };
            let read = self.clients[index].read(&mut self.random, now, self.calm, &mut judge);
            let client = &mut self.clients[index];
            let Some(connection) = &client.connection else { continue };
            if let Some(code) = connection.closed.filter(|_| connection.socket.is_empty()) {
                *self.records.refusals.entry(code).or_default() += 1;
                client.disconnected(&mut self.random, now);
            } else if read > 0 && connection.closed.is_none() {
                let (shard, session) = (connection.shard, connection.session);
                if self.shards[shard].outbound(session).is_some_and(|outbound| outbound.is_blocked()) {
                    self.write(shard, session);
                }
            }
        }
    }

    fn client_of(&mut self, shard: usize, session: SessionKey) -> Option<&mut Client> {
        self.clients
            .iter_mut()
            .find(|client| client.connection.as_ref().is_some_and(|of| of.shard == shard && of.session == session))
    }

    /// One vectored write, as far as the socket takes it.
    fn write(&mut self, shard: usize, session: SessionKey) {
        let now = self.now();
        let Some(outbound) = self.shards[shard].outbound(session) else { return };
        let bytes: Vec<u8> = outbound.segments().flatten().copied().collect();
        assert_eq!(bytes.len(), outbound.queued_bytes());
        let most = self.random.index(3000);
        let partial = self.random.chance(100);
        let written = match self.client_of(shard, session) {
            Some(client) => {
                let connection = client.connection.as_mut().unwrap();
                let room = connection.socket_max.saturating_sub(connection.socket.len());
                let count = bytes.len().min(room).min(if partial { most } else { usize::MAX });
                connection.socket.extend(&bytes[..count]);
                connection.taken += count as u64;
                Written { bytes: count, blocked: count < bytes.len() && count == room }
            }
            // The transport is dead and the kernel still takes some.
            None => Written { bytes: bytes.len().min(most), blocked: bytes.len() > most },
        };
        self.shards[shard].handle_written(now, session, written);
    }

    fn shard_turn(&mut self, index: usize) {
        let now = self.now();
        self.gone.retain(|&(at, shard, session)| {
            if shard == index && at <= self.now_ms {
                self.shards[index].handle_disconnected(now, session);
                return false;
            }
            true
        });
        for client in 0..self.clients.len() {
            // A node reads a bounded piece of a connection in a turn, and writes before it reads on: answers to all that a client
            // ever sent do not meet in its queue at once.
            for _ in 0..FRAMES_OF_A_READ {
                let of = self.clients[client].connection.as_mut().filter(|of| of.shard == index);
                let Some(connection) = of else { break };
                if connection.upstream.front().is_none_or(|(at, _)| *at > self.now_ms) {
                    break;
                }
                let (_, frame) = connection.upstream.pop_front().unwrap();
                let session = connection.session;
                self.shards[index].handle_frame(now, session, &frame);
            }
        }
        while self.to_shards[index].front().is_some_and(|(at, _)| *at <= self.now_ms) {
            let (_, event) = self.to_shards[index].pop_front().unwrap();
            let removed = removal(&event);
            match &event {
                ControlEvent::LinkUp { term } => self.told[index] = Some(term.0),
                ControlEvent::LinkDown => self.told[index] = None,
                ControlEvent::Frame(_) => {}
            }
            self.shards[index].handle_control(now, event);
            if let Some((channel, user)) = removed {
                self.access_ended(index, channel, user.as_ref());
            }
        }
        for from in 0..self.shards.len() {
            let mut taken = 1 + self.random.below(4);
            while taken > 0 {
                let ring = self.rings.get_mut(&(from, index)).unwrap();
                if ring.hops.front().is_none_or(|(at, _)| *at > self.now_ms) {
                    break;
                }
                let (_, hop) = ring.hops.pop_front().unwrap();
                self.shards[index].handle_hop(now, ShardIndex(u16::try_from(from).unwrap()), hop);
                taken -= 1;
            }
        }
        if self.shards[index].poll_timeout().is_some_and(|at| at <= now.instant) {
            self.shards[index].handle_timeout(now);
        }
        for _ in 0..3 {
            self.shards[index].end_turn(now);
            self.actions(index);
            if !self.shards[index].has_work() {
                break;
            }
        }
        self.hops(index);
    }

    fn actions(&mut self, index: usize) {
        while let Some(action) = self.shards[index].poll_action() {
            match action {
                Action::Flush(session) => self.write(index, session),
                Action::Close { session, code, .. } => self.close(index, session, code),
                Action::Control(frame) => {
                    // A request of an older link does no harm on the next one; an answer would.
                    let answers = matches!(frame.body, NodeBody::Published(_));
                    if self.link_up && (!answers || self.told[index] == Some(self.control.term)) {
                        let at = self.now_ms + self.random.below(self.delay);
                        let at = self.to_control.back().map_or(at, |(last, _)| at.max(*last));
                        self.to_control.push_back((at, frame));
                    }
                }
                Action::SignedIn(_) => {}
                Action::Listen(session) => unreachable!("{session:?} has no lanes"),
                Action::Drained => {
                    let (_, drained) = self.stopping.as_mut().expect("it was asked to stop");
                    assert!(drained.insert(index), "told once");
                }
            }
        }
    }

    fn hops(&mut self, index: usize) {
        for to in 0..self.shards.len() {
            loop {
                let ring = self.rings.get_mut(&(index, to)).unwrap();
                if ring.hops.len() >= ring.max {
                    break;
                }
                let Some(hop) = self.shards[index].poll_hop(ShardIndex(u16::try_from(to).unwrap())) else { break };
                let at = self.now_ms + self.random.below(6);
                let at = ring.hops.back().map_or(at, |(last, _)| at.max(*last));
                ring.hops.push_back((at, hop));
            }
        }
    }

    fn close(&mut self, index: usize, session: SessionKey, code: Code) {
        let now = self.now_ms + self.random.below(100);
        self.gone.push((now, index, session));
        let Some(outbound) = self.shards[index].outbound(session) else { return };
        let bytes: Vec<u8> = outbound.segments().flatten().copied().collect();
        if let Some(client) = self.client_of(index, session) {
            let connection = client.connection.as_mut().unwrap();
            connection.socket.extend(bytes);
            connection.closed = Some(code);
        }
    }

    /// From what the node writes next on, these users must hear nothing of the channel.
    fn access_ended(&mut self, shard: usize, channel: ChannelId, user: Option<&UserId>) {
        for client in &mut self.clients {
            let of_user = user.is_none_or(|user| client.user == *user);
            let Some(connection) = client.connection.as_ref().filter(|of| of.shard == shard && of_user) else {
                continue;
            };
            // A frame that is partly written goes out whole.
            if let Some(want) = client.wants.get_mut(&channel).filter(|want| want.state == WantState::Subscribed) {
                want.silent_from = Some(connection.taken);
            }
        }
    }

    fn check_bounds(&mut self) {
        let slack = 200 * self.config.control_frames_max as usize;
        let max = self.config.queue_bytes_max as usize + self.config.page_bytes_max as usize + slack;
        for (index, shard) in self.shards.iter().enumerate() {
            for client in &self.clients {
                if let Some(of) = client.connection.as_ref().filter(|of| of.shard == index)
                    && let Some(outbound) = shard.outbound(of.session)
                {
                    assert!(outbound.queued_bytes() <= max, "a queue holds {}", outbound.queued_bytes());
                }
            }
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.control.faults = Faults::default();
        if self.link_up {
            self.cut();
        }
        self.link_at = self.now_ms;
        self.ask_again();
    }

    /// Those who were denied and may now try again.
    fn ask_again(&mut self) {
        for client in &mut self.clients {
            for (id, want) in &mut client.wants {
                let channel = &self.control.channels[id];
                if want.state == WantState::Denied && channel.members.contains_key(&client.user) && !channel.archived {
                    want.state = WantState::Idle;
                }
            }
        }
    }

    /// Everyone who may has heard everything, and everything said by those who may is stored.
    fn is_settled(&self) -> bool {
        self.link_up && self.clients.iter().all(|client| self.complaint(client).is_none())
    }

    fn complaint(&self, client: &Client) -> Option<String> {
        for (id, want) in &client.wants {
            let channel = &self.control.channels[id];
            let Some(&can_publish) = channel.members.get(&client.user).filter(|_| !channel.archived) else { continue };
            if want.state != WantState::Subscribed {
                return Some(format!("{} is not subscribed to {id} but {:?}", client.user, want.state));
            }
            let seen = want.position.map_or(0, |position| position.offset);
            if channel.history != HistoryClass::None && !want.attach && seen != channel.tail() {
                return Some(format!("{} has seen {seen} of {} in {id}", client.user, channel.tail()));
            }
            let unacked = client.outboxes.get(id).map_or(0, |outbox| outbox.unacked.len());
            // A windowed channel that lost messages has forgotten producers too.
            if can_publish && unacked > 0 && !channel.lossy {
                return Some(format!("{} has {unacked} unacked in {id} ({:?})", client.user, channel.history));
            }
        }
        None
    }

    fn unsettled(&self) -> String {
        let complaints: Vec<_> = self.clients.iter().filter_map(|client| self.complaint(client)).collect();
        format!("link {}, {complaints:?}, refusals {:?}", self.link_up, self.records.refusals)
    }

    fn judge<R>(&mut self, act: impl FnOnce(&mut Judge<'_>) -> R) -> R {
        let replay_messages_max = self.config.replay_messages_max;
        act(&mut Judge { control: &self.control, records: &mut self.records, replay_messages_max })
    }

    /// Everyone leaves: nothing may be left of them.
    fn leave(&mut self) {
        let now = self.now();
        let mut sessions: HashSet<(usize, SessionKey)> =
            self.gone.drain(..).map(|(_, shard, key)| (shard, key)).collect();
        for client in &mut self.clients {
            if let Some(connection) = client.connection.take() {
                sessions.insert((connection.shard, connection.session));
            }
            client.reconnect_at = u64::MAX;
        }
        for (shard, session) in sessions {
            self.shards[shard].handle_disconnected(now, session);
        }
        for _ in 0..3_000 {
            self.step();
            if self.shards.iter().all(Shard::is_idle) {
                break;
            }
        }
        for (index, shard) in self.shards.iter().enumerate() {
            let stats = shard.stats();
            assert!(shard.is_idle(), "shard {index} keeps something: {stats:?}");
            assert_eq!((stats.subscriptions, stats.queued_bytes, stats.sessions), (0, 0, 0));
            assert_eq!(stats.sessions_opened_total, stats.sessions_closed_total);
        }
    }
}

/// Whose access to which channel an event ends; no user means everyone's.
fn removal(event: &ControlEvent) -> Option<(ChannelId, Option<UserId>)> {
    let ControlEvent::Frame(frame) = event else { return None };
    match &frame.body {
        NodeBody::MemberChanged(change) if change.membership.is_none() => {
            Some((change.channel, Some(change.user.clone())))
        }
        NodeBody::ChannelChanged { channel, archived: true, .. } => Some((*channel, None)),
        _ => None,
    }
}
