//! Two shards, the ring between them stopped at will: what becomes of a shard that falls behind.
#![expect(clippy::unwrap_used, reason = "a test throughout")]

#[allow(dead_code, reason = "the simulation uses the rest of it")]
#[path = "simulation/control.rs"]
mod control;
#[allow(dead_code, reason = "the simulation uses the rest of it")]
#[path = "simulation/random.rs"]
mod random;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use control::{Control, Faults};
use millrace_core::{
    Action, Config, ControlEvent, Now, SessionKey, Shard, ShardIndex, VerifiedToken, VerifyToken, Written, home_of,
};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, Publish, ServerBody, Start, Subscribe, VERSION, decode_server,
    encode_client,
};
use millrace_protocol::node::{NodeBody, NodeFrame, SlowConsumer};
use millrace_protocol::{ChannelId, Code, Epoch, Position, Producer, ProducerSequence, TenantId, Term, UserId};
use random::Random;

const HOME: usize = 0;
const FAR: usize = 1;

/// A token is a user's name.
struct Names;

impl VerifyToken for Names {
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        let (tenant, user) = (TenantId::new(1).unwrap(), UserId::new(token).unwrap());
        Ok(VerifiedToken {
            tenant,
            user,
            id: token.into(),
            key: 0,
            issued_ms: unix_ms,
            expires_ms: unix_ms + 3_600_000,
        })
    }

    fn keys(&self) -> HashSet<u64> {
        HashSet::from([0])
    }
}

struct Pair {
    shards: [Shard<Names>; 2],
    control: Control,
    random: Random,
    now: Now,
    /// By shard, too: each gives the same keys. Their transport takes nothing.
    stopped: Vec<(usize, SessionKey)>,
    closed: BTreeMap<(usize, SessionKey), Code>,
    /// Offsets of the messages that went out.
    heard: BTreeMap<(usize, SessionKey), Vec<u64>>,
    /// Reads of the store that are not answered, while there is a place for them.
    held: Option<Vec<(usize, NodeFrame)>>,
}

impl Pair {
    fn new(config: &Config, channel: ChannelId, history: HistoryClass) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        let shard = |index| Shard::new(now, config.clone(), ShardIndex(index), 2, 7, Names).unwrap();
        let mut of = Control::new_channel(channel, "general", history, SlowConsumer::Disconnect);
        of.members.extend(["ann", "bob"].map(|name| (UserId::new(name).unwrap(), true)));
        let control =
            Control { channels: [(channel, of)].into(), term: 1, faults: Faults::default(), moved: Vec::new() };
        let (stopped, closed, heard) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (shards, random) = ([shard(0), shard(1)], Random::new(1));
        let mut pair = Self { shards, control, random, now, stopped, closed, heard, held: None };
        for shard in &mut pair.shards {
            shard.handle_control(now, ControlEvent::LinkUp { term: Term(1) });
        }
        pair.settle();
        pair
    }

    fn open(&mut self, shard: usize, user: &str) -> SessionKey {
        let session = self.shards[shard].handle_connected(self.now).unwrap();
        let (version_min, version_max) = (VERSION, VERSION);
        let subscriptions = Vec::new();
        let hello = Hello { version_min, version_max, features: 0, token: user, agent: "pair", subscriptions };
        self.ask(shard, session, ClientBody::Hello(hello));
        session
    }

    fn ask(&mut self, shard: usize, session: SessionKey, body: ClientBody<'_>) {
        let mut frame = Vec::new();
        encode_client(&ClientFrame { request: 1, body }, &mut frame);
        self.shards[shard].handle_frame(self.now, session, &frame);
    }

    fn subscribe(&mut self, shard: usize, session: SessionKey, start: Start) {
        self.ask(shard, session, ClientBody::Subscribe(Subscribe { channel: "general", start }));
    }

    fn publish(&mut self, session: SessionKey, channel: ChannelId, sequence: u64) {
        let (producer, sequence) = (Producer::new(5).unwrap(), ProducerSequence::new(sequence).unwrap());
        self.ask(HOME, session, ClientBody::Publish(Publish { channel, producer, sequence, body: b"x" }));
    }

    /// One turn of one shard. Whether it did anything.
    fn turn(&mut self, index: usize) -> bool {
        let shard = &mut self.shards[index];
        shard.end_turn(self.now);
        let mut busy = shard.has_work();
        while let Some(action) = self.shards[index].poll_action() {
            busy = true;
            let shard = &mut self.shards[index];
            match action {
                Action::Flush(session) => {
                    let blocked = self.stopped.contains(&(index, session));
                    let mut bytes = Vec::new();
                    if let Some(outbound) = shard.outbound(session).filter(|_| !blocked) {
                        outbound.segments().for_each(|segment| bytes.extend(segment));
                    }
                    shard.handle_written(self.now, session, Written { bytes: bytes.len(), blocked });
                    self.heard.entry((index, session)).or_default().extend(offsets(&bytes));
                }
                Action::Control(frame) if matches!(frame.body, NodeBody::ReadHistory(_)) && self.held.is_some() => {
                    self.held.as_mut().unwrap().push((index, frame));
                }
                Action::Control(frame) => self.answer(index, frame),
                Action::Close { session, code, .. } => {
                    self.closed.insert((index, session), code);
                }
                Action::Listen(session) => unreachable!("{session:?} has no lanes"),
                Action::SignedIn(_) | Action::Drained => {}
            }
        }
        busy
    }

    fn answer(&mut self, index: usize, frame: NodeFrame) {
        if let Some(body) = self.control.process(&mut self.random, frame.body) {
            self.shards[index].handle_control(self.now, ControlEvent::Frame(NodeFrame { id: frame.id, body }));
        }
    }

    /// Reads of the store are answered again, those that waited first.
    fn release_reads(&mut self) {
        for (index, frame) in self.held.take().unwrap() {
            self.answer(index, frame);
        }
    }

    /// Moves at most `hops_max` hops; how many there were.
    fn carry(&mut self, from: usize, to: usize, hops_max: usize) -> usize {
        let index = |index: usize| ShardIndex(u16::try_from(index).unwrap());
        for carried in 0..hops_max {
            let Some(hop) = self.shards[from].poll_hop(index(to)) else { return carried };
            self.shards[to].handle_hop(self.now, index(from), hop);
        }
        hops_max
    }

    /// Turns of the home's shard alone, which hears the other one but is not heard.
    fn settle_home(&mut self) {
        while self.carry(FAR, HOME, usize::MAX) > 0 || self.turn(HOME) {}
    }

    fn settle(&mut self) {
        loop {
            let busy = self.turn(HOME) | self.turn(FAR);
            if !busy && self.carry(HOME, FAR, usize::MAX) + self.carry(FAR, HOME, usize::MAX) == 0 {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        for shard in &mut self.shards {
            shard.handle_timeout(self.now);
        }
        self.settle();
    }
}

/// Offsets of the messages among a server's WebSocket frames, all of them short.
fn offsets(mut bytes: &[u8]) -> Vec<u64> {
    let mut offsets = Vec::new();
    while let [0x82, short, ..] = *bytes {
        let (start, len) = match short {
            126 => (4, usize::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap()))),
            short => (2, usize::from(short)),
        };
        if let ServerBody::Message(message) = decode_server(&bytes[start..start + len]).unwrap().body {
            offsets.push(message.position.offset);
        }
        bytes = &bytes[start + len..];
    }
    assert!(bytes.is_empty(), "whole frames");
    offsets
}

/// A channel whose home is on the first of two shards.
fn channel() -> ChannelId {
    (1..).map(|number| ChannelId::new(number).unwrap()).find(|&channel| home_of(channel, 2).get() == HOME).unwrap()
}

/// A page may reach the tail, and with that list the shard at the home, while the group of live sessions still reads on. If all go
/// at that moment, the home must hear of it.
#[test]
fn a_shard_that_is_left_while_it_reads_on_gives_its_interest_back() {
    let channel = channel();
    let config = Config { hop_deliveries_max: 1, page_messages_max: 2, ..Config::default() };
    let mut pair = Pair::new(&config, channel, HistoryClass::Durable);
    let (writer, live) = (pair.open(HOME, "ann"), pair.open(FAR, "bob"));
    pair.subscribe(HOME, writer, Start::Attach);
    pair.subscribe(FAR, live, Start::Live);
    pair.settle();
    for sequence in 1..=9 {
        pair.publish(writer, channel, sequence);
        pair.settle_home();
    }
    assert_eq!(pair.shards[HOME].stats().lagged_total, 1);
    // It is at 1 and has heard that it lags; the group asks for its first page.
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.turn(FAR);
    // Behind it comes one who is near the tail.
    let ahead = pair.open(FAR, "ann");
    pair.subscribe(FAR, ahead, Start::After(Position { epoch: Epoch::FIRST, offset: 8 }));
    pair.turn(FAR);
    pair.settle_home();
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.turn(FAR);
    pair.settle_home();
    while pair.carry(HOME, FAR, 1) > 0 {}
    for session in [live, ahead] {
        pair.shards[FAR].handle_disconnected(pair.now, session);
    }
    pair.settle();
    pair.shards[HOME].handle_disconnected(pair.now, writer);
    pair.settle();
    pair.pass(config.home.idle_timeout * 2);
    pair.settle();
    for shard in &pair.shards {
        assert!(shard.is_idle(), "{} homes, {} channels", shard.stats().homes, shard.stats().channels);
    }
}

/// Whoever reads nothing of a channel without history is told of each time that the shard fell behind, up to a bound.
#[test]
fn being_told_of_lost_messages_is_bounded() {
    let channel = channel();
    let config = Config { hop_deliveries_max: 1, control_frames_max: 8, ..Config::default() };
    let mut pair = Pair::new(&config, channel, HistoryClass::None);
    let (writer, deaf) = (pair.open(HOME, "ann"), pair.open(FAR, "bob"));
    pair.subscribe(HOME, writer, Start::Attach);
    pair.subscribe(FAR, deaf, Start::Live);
    pair.settle();
    pair.stopped.push((FAR, deaf));
    let mut sequence = 0;
    for lag in 1..=config.control_frames_max + 1 {
        assert_eq!(pair.closed.get(&(FAR, deaf)), None, "{lag}");
        for _ in 0..2 {
            sequence += 1;
            pair.publish(writer, channel, sequence);
            pair.settle_home();
        }
        pair.settle();
        assert_eq!(pair.shards[HOME].stats().lagged_total, u64::from(lag));
    }
    assert_eq!(pair.closed.get(&(FAR, deaf)), Some(&Code::SlowConsumer));
}

/// The group reads on from far behind when somebody near the tail makes the channel live; then the shard lags once more. The answer
/// that the group waited for comes late, and is nobody's.
#[test]
fn a_late_page_of_the_group_does_not_take_the_live_ones_back() {
    let channel = channel();
    let mut config = Config { hop_deliveries_max: 1, page_messages_max: 2, ..Config::default() };
    config.home.window_messages_max = 2;
    let mut pair = Pair::new(&config, channel, HistoryClass::Durable);
    let (writer, behind) = (pair.open(HOME, "ann"), pair.open(FAR, "bob"));
    pair.subscribe(HOME, writer, Start::Attach);
    pair.subscribe(FAR, behind, Start::Live);
    pair.settle();
    for sequence in 1..=9 {
        pair.publish(writer, channel, sequence);
        pair.settle_home();
    }
    // It hears that it lags, and asks for the group's first page, then for the second one and for somebody near the tail.
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.turn(FAR);
    pair.settle_home();
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.held = Some(Vec::new());
    let near = pair.open(FAR, "ann");
    pair.subscribe(FAR, near, Start::After(Position { epoch: Epoch::FIRST, offset: 8 }));
    // One turn to be granted access, one to ask for a page.
    pair.turn(FAR);
    pair.turn(FAR);
    pair.settle_home();
    pair.shards[FAR].handle_disconnected(pair.now, behind);
    assert_eq!(pair.held.as_ref().unwrap().len(), 1, "the second page is read from the store");
    // The page of the one near the tail makes the channel live.
    while pair.carry(HOME, FAR, 1) > 0 {}
    for sequence in 10..=12 {
        pair.publish(writer, channel, sequence);
        pair.settle_home();
    }
    assert_eq!(pair.shards[HOME].stats().lagged_total, 2);
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.release_reads();
    pair.settle_home();
    while pair.carry(HOME, FAR, 1) > 0 {}
    pair.settle();
    assert_eq!(pair.heard[&(FAR, near)], [9, 10, 11, 12]);
}
