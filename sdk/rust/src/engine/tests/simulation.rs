//! The engine against a model of a node, over connections that break at any frame. Each seed is one run; a failure names it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_protocol::code::Advice;
use millrace_protocol::id::Position;

use super::node::{Faults, HEARTBEAT_MS, Node};
use super::{config, engine_at};
use crate::engine::random::Random;
use crate::engine::subscription::Start;
use crate::engine::{Action, Engine, Handle, Key, QueueLimits};
use crate::error::Error;
use crate::event::{Event, Skipped, Unread};
use crate::state::State;

const NAMES: [&str; 2] = ["general", "news"];
/// Frames that a connection takes before it is full.
const PIPE_FRAMES: usize = 6;
const QUEUE: QueueLimits = QueueLimits { messages_max: 8, bytes_max: 4_096 };

/// What became of a message.
type End = Result<Position, Error>;

/// A reader of one channel and what it has seen.
#[derive(Debug)]
struct Reader {
    name: &'static str,
    key: Key,
    ticket: usize,
    is_open: bool,
    inbox: VecDeque<Event>,
    /// Behind the last event.
    position: Option<Position>,
    /// It began with the oldest message, whichever that is.
    from_oldest: bool,
    taken: (u32, u64),
    starved: bool,
    resets: u32,
    messages: u32,
}

struct World {
    random: Random,
    now: Instant,
    engine: Engine,
    node: Node,
    /// Frames on their way to the node; `None` without a connection.
    pipe: Option<VecDeque<Vec<u8>>>,
    /// What earlier connections left, and until when it may arrive.
    stragglers: Vec<(Instant, Vec<Vec<u8>>)>,
    readers: Vec<Reader>,
    senders: BTreeMap<&'static str, Key>,
    tickets: usize,
    /// By ticket: where it was sent, and its end.
    sends: BTreeMap<usize, (&'static str, Option<End>)>,
    may_reset: bool,
    connects: u32,
    /// The furthest that the application marked as read.
    marked: BTreeMap<&'static str, Position>,
    /// What the application was told last.
    unread: BTreeMap<Key, Option<Unread>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Instant::now();
        // In one run of three, messages are given up after a while.
        let send_timeout = (seed % 3 == 2).then_some(Duration::from_secs(5));
        let request_timeout = Duration::from_secs(600);
        let config = super::Config { queue: QUEUE, request_timeout, send_timeout, ..config() };
        let mut engine = engine_at(config, random.next(), now);
        engine.start(now);
        let node = Node::new(random.next());
        Self {
            random,
            now,
            engine,
            node,
            pipe: None,
            stragglers: vec![],
            readers: vec![],
            senders: BTreeMap::new(),
            tickets: 0,
            sends: BTreeMap::new(),
            may_reset: false,
            connects: 0,
            marked: BTreeMap::new(),
            unread: BTreeMap::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn count(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap()
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.count(2)]
    }

    fn ticket(&mut self) -> usize {
        self.tickets += 1;
        self.tickets
    }

    fn read(&mut self, name: &'static str, start: Start) {
        let ticket = self.ticket();
        let key = self.engine.open(self.now, name, Some(start), ticket).unwrap();
        let position = match start {
            Start::Live => None,
            Start::After(position) => Some(position),
            Start::AfterOffset(offset) => Some(Position { epoch: self.node.channels[name].epoch, offset }),
        };
        self.readers.retain(|reader| reader.name != name);
        self.readers.push(Reader {
            name,
            key,
            ticket,
            is_open: false,
            inbox: VecDeque::new(),
            position,
            from_oldest: start == Start::AfterOffset(0),
            taken: (0, 0),
            starved: false,
            resets: 0,
            messages: 0,
        });
        self.settle();
    }

    /// The application drops a reader and opens another.
    fn read_again(&mut self) {
        let index = self.count(2);
        let Reader { key, name, ticket, is_open, .. } = self.readers[index];
        if is_open {
            self.engine.release(self.now, key, Handle::Reader);
            self.engine.release(self.now, key, Handle::Sender);
        } else {
            self.engine.abandon(self.now, ticket);
        }
        if self.below(2) == 0 {
            self.settle();
        }
        let head = self.node.channels[name].head();
        let start = match self.below(3) {
            0 => Start::Live,
            1 => Start::AfterOffset(0),
            _ => Start::After(Position { offset: self.below(head.offset + 1), ..head }),
        };
        self.read(name, start);
    }

    fn send(&mut self) {
        let name = self.name();
        let ticket = self.ticket();
        let key = match self.senders.get(name) {
            Some(key) => *key,
            None => {
                let ticket = self.ticket();
                let key = self.engine.open(self.now, name, None, ticket).unwrap();
                self.senders.insert(name, key);
                key
            }
        };
        self.sends.insert(ticket, (name, None));
        self.engine.send(self.now, key, ticket, Bytes::from(ticket.to_string()));
        self.settle();
    }

    /// Does what the engine asks, and fills the pipe.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            while self.engine.next_timeout().is_some_and(|at| at <= self.now) {
                self.engine.handle_timeout(self.now);
            }
            let mut acted = false;
            while let Some(action) = self.engine.poll_action() {
                acted = true;
                self.act(action);
            }
            while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.len() < PIPE_FRAMES) {
                let mut frame = vec![];
                if !self.engine.poll_transmit(self.now, &mut frame) {
                    break;
                }
                pipe.push_back(frame);
            }
            if !acted {
                return;
            }
        }
        panic!("the engine never rests");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::FetchToken => self.engine.handle_token(self.now, Ok("token".into())),
            Action::Connect { .. } => {
                self.connects += 1;
                if self.below(4) == 0 {
                    let error = Error::disconnected("no route");
                    self.engine.handle_disconnected(self.now, error);
                } else {
                    self.node.accept();
                    self.pipe = Some(VecDeque::new());
                    self.engine.handle_connected(self.now);
                }
            }
            Action::Disconnect => self.cut(),
            Action::Deliver { key, event } => {
                let reader = self.readers.iter_mut().find(|reader| reader.key == key).unwrap();
                reader.inbox.push_back(event);
                let bound = QUEUE.messages_max as usize + 3;
                assert!(reader.inbox.len() <= bound, "{} events wait: {:?}", reader.inbox.len(), reader.inbox);
            }
            Action::Starved { key } => {
                self.readers.iter_mut().find(|reader| reader.key == key).unwrap().starved = true;
            }
            Action::Opened { ticket, result, .. } => {
                let opened = result.unwrap();
                if let Some(reader) = self.readers.iter_mut().find(|reader| reader.ticket == ticket) {
                    reader.is_open = true;
                    reader.position.get_or_insert(opened.position);
                }
            }
            Action::Sent { ticket, result } => {
                let (_, end) = self.sends.get_mut(&ticket).unwrap();
                assert!(end.is_none(), "message {ticket} has two ends: {end:?}, {result:?}");
                *end = Some(result);
            }
            Action::Page { .. } => unreachable!("no page was asked for"),
            Action::Unread { key, unread } => {
                self.unread.insert(key, unread);
            }
            Action::State(State::Closed { error }) => panic!("closed: {error:?}"),
            Action::State(_) => {}
        }
    }

    /// The connection is gone. Of what was on its way, the node gets nothing, a part now, or a part later.
    fn cut(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let count = self.count(pipe.len() + 1);
        let read: Vec<_> = pipe.into_iter().take(count).collect();
        if self.below(2) == 0 {
            read.iter().for_each(|frame| self.node.straggle(frame));
        } else {
            let linger = Duration::from_millis(u64::from(HEARTBEAT_MS) * 2);
            self.stragglers.push((self.now + linger, read));
        }
        self.node.session.clear();
    }

    /// The application takes up to `count` events of each reader and checks them.
    fn take(&mut self, count: usize) {
        for index in 0..self.readers.len() {
            let reader = &mut self.readers[index];
            for event in reader.inbox.drain(..count.min(reader.inbox.len())).collect::<Vec<_>>() {
                reader.taken.0 += 1;
                reader.taken.1 += event.bytes() as u64;
                reader.see(&event, &self.node, self.may_reset);
            }
            let Reader { name, key, position, .. } = *reader;
            if let Some(position) = position.filter(|position| position.offset > 0 && self.random.below(3) == 0) {
                let furthest = self.marked.entry(name).or_insert(position);
                if (furthest.epoch, furthest.offset) < (position.epoch, position.offset) {
                    *furthest = position;
                }
                self.engine.mark_read(self.now, key, position);
            }
            let reader = &mut self.readers[index];
            let is_half = reader.inbox.len() * 2 <= QUEUE.messages_max as usize;
            if reader.taken.0 > 2 || reader.starved && is_half {
                reader.starved &= !is_half;
                let (events, bytes) = std::mem::take(&mut reader.taken);
                let key = reader.key;
                self.engine.taken(self.now, key, events, bytes);
                self.settle();
            }
        }
    }

    fn serve(&mut self, count: u64) {
        for _ in 0..count {
            let Some(frame) = self.pipe.as_mut().and_then(VecDeque::pop_front) else { break };
            self.node.receive(&frame);
            if let Some(code) = self.node.closing {
                while let Some(frame) = self.node.out.pop_front() {
                    self.engine.handle_frame(self.now, &frame);
                }
                self.pipe = None;
                self.engine.handle_disconnected(self.now, Error::refused(code.number(), "", 0));
                break;
            }
        }
        self.settle();
    }

    fn hear(&mut self, count: u64) {
        for _ in 0..count {
            let Some(frame) = self.node.out.pop_front().filter(|_| self.pipe.is_some()) else { break };
            self.engine.handle_frame(self.now, &frame);
            self.settle();
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        self.stragglers.retain(|(until, _)| now < *until);
        self.settle();
    }

    fn step(&mut self) {
        match self.below(100) {
            0..20 => self.send(),
            20..30 => {
                let name = self.name();
                self.node.publish(name, b"other");
            }
            30..50 => {
                let count = self.below(4);
                self.serve(count);
            }
            50..70 => {
                let count = self.below(6);
                self.hear(count);
            }
            70..85 => {
                let count = self.count(6);
                self.take(count);
            }
            85..92 => {
                let by = Duration::from_millis(self.below(400));
                self.advance(by);
            }
            92..94 => {
                if !self.stragglers.is_empty() {
                    let (_, frames) = self.stragglers.remove(0);
                    frames.iter().for_each(|frame| self.node.straggle(frame));
                }
            }
            94 => self.node.ping(),
            95 => {
                let name = self.name();
                self.node.mark_elsewhere(name);
            }
            96 => {
                let after = self.below(2_000);
                if self.node.is_welcomed {
                    self.node.go_away(u32::try_from(after).unwrap());
                }
            }
            97 if self.below(2) == 0 => self.read_again(),
            97 => {
                let by = Duration::from_secs(self.below(40));
                self.advance(by);
            }
            98 if self.may_reset => {
                let name = self.name();
                let lose = self.below(2) == 0;
                let random = self.below(4);
                let channel = self.node.channels.get_mut(name).unwrap();
                if lose {
                    channel.epoch = channel.epoch.next();
                } else {
                    channel.oldest = channel.oldest.max(channel.head().offset.saturating_sub(random));
                }
            }
            _ => {
                self.cut();
                self.engine.handle_disconnected(self.now, Error::disconnected("cut"));
                self.settle();
            }
        }
    }

    /// Nothing goes wrong any more: everything comes to its end.
    fn calm_down(&mut self) {
        self.node.faults = Faults::default();
        for _ in 0..3_000 {
            self.serve(10);
            self.hear(100);
            self.take(100);
            self.advance(Duration::from_millis(100));
            self.node.ping();
            let is_done = self.sends.values().all(|(_, end)| end.is_some())
                && self.readers.iter().all(|reader| reader.is_at_head(&self.node))
                && self.reads_agree();
            if is_done {
                return;
            }
        }
        let open: Vec<_> = self.sends.iter().filter(|(_, (_, end))| end.is_none()).collect();
        panic!("never at rest: {open:?} {:#?}\n{:#?}", self.readers, self.engine);
    }

    /// Every mark is stored, and the application knows what is unread.
    fn reads_agree(&self) -> bool {
        let order = |position: Position| (position.epoch, position.offset);
        let stored = self.marked.iter().all(|(name, marked)| order(*marked) <= order(self.node.read_of(name)));
        stored
            && self.readers.iter().all(|reader| {
                let (head, read) = (self.node.channels[reader.name].head(), self.node.read_of(reader.name));
                let unread = self.unread.get(&reader.key).copied().flatten();
                unread.is_some_and(|unread| unread.count == head.offset - read.offset)
            })
    }

    /// What was acknowledged is stored once, where it was said to be; what surely failed is not; both in order.
    fn check_sends(&self) {
        for name in NAMES {
            let stored: Vec<(Position, usize)> = self.node.channels[name]
                .stored
                .iter()
                .filter_map(|stored| Some((stored.position, std::str::from_utf8(&stored.body).ok()?.parse().ok()?)))
                .collect();
            let mut once: Vec<_> = stored.iter().map(|(_, ticket)| *ticket).collect();
            // What was given up with an unknown fate may come late.
            let confirmed = once.iter().filter(|ticket| matches!(self.sends[*ticket].1, Some(Ok(_))));
            assert!(confirmed.is_sorted(), "out of order in {name}: {stored:?}");
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), stored.len(), "twice in {name}: {stored:?}");
            for (ticket, (_, end)) in self.sends.iter().filter(|(_, (of, _))| *of == name) {
                let found = stored.iter().find(|(_, stored)| stored == ticket).map(|(position, _)| *position);
                match end.as_ref().unwrap() {
                    Ok(position) => assert_eq!(found.as_ref(), Some(position), "message {ticket}"),
                    Err(Error::Unconfirmed { .. }) => {}
                    Err(error) => assert_eq!(found, None, "message {ticket} failed with {error:?}"),
                }
            }
        }
    }
}

impl Reader {
    fn see(&mut self, event: &Event, node: &Node, may_reset: bool) {
        let channel = &node.channels[self.name];
        let mut at = self.position.unwrap();
        match event {
            Event::Message(message) => {
                if std::mem::take(&mut self.from_oldest) {
                    at.offset = message.position.offset - 1;
                }
                assert_eq!(message.position.offset, at.offset + 1, "{}: behind {at:?}", self.name);
                let stored = &channel.stored[usize::try_from(at.offset).unwrap()];
                assert_eq!((message.position, &message.body[..]), (stored.position, &stored.body[..]));
                self.position = Some(message.position);
                self.messages += 1;
            }
            Event::Skipped(Skipped::SlowConsumer { first, last }) => {
                assert_eq!(first.offset, at.offset + 1, "{}: behind {at:?}", self.name);
                self.position = Some(*last);
            }
            Event::Reset { position, reason } => {
                assert!(may_reset, "reset to {position:?} from {at:?} for {reason}");
                assert!(position.epoch > at.epoch || position.offset > at.offset, "{at:?} to {position:?}");
                self.from_oldest = false;
                self.position = Some(*position);
                self.resets += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    fn is_at_head(&self, node: &Node) -> bool {
        self.inbox.is_empty() && self.position.map(|at| at.offset) == Some(node.channels[self.name].head().offset)
    }
}

fn run(seed: u64, faults: Faults, may_reset: bool) -> World {
    let mut world = World::new(seed);
    world.may_reset = may_reset;
    world.node.faults = faults;
    for _ in 0..world.below(20) {
        world.node.publish("general", b"before");
    }
    let start = match world.below(3) {
        0 => Start::Live,
        1 => Start::AfterOffset(0),
        _ => Start::After(Position { epoch: millrace_protocol::Epoch::FIRST, offset: 0 }),
    };
    world.read("general", start);
    world.read("news", Start::Live);
    for _ in 0..400 {
        world.step();
    }
    world.calm_down();
    world.check_sends();
    world
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..300,
    }
}

fn run_all(faults: Faults, may_reset: bool) -> Vec<World> {
    let run_one = |seed| {
        let result = std::panic::catch_unwind(|| run(seed, faults, may_reset));
        result.unwrap_or_else(|_| panic!("failed with MILLRACE_SEED={seed}"))
    };
    seeds().map(run_one).collect()
}

const REFUSALS: Faults = Faults {
    publish_refused: 60,
    subscribe_refused: 100,
    history_refused: 100,
    hello_refused: 100,
    skips: 0,
    unsubscribes: 10,
    mark_refused: 200,
};

#[test]
fn connections_that_break_lose_nothing() {
    let worlds = run_all(Faults::default(), false);
    let delivered: u32 = worlds.iter().flat_map(|world| &world.readers).map(|reader| reader.messages).sum();
    let connects: u32 = worlds.iter().map(|world| world.connects).sum();
    assert!(delivered as usize > 50 * worlds.len(), "only {delivered} messages were delivered");
    assert!(connects as usize > 5 * worlds.len(), "only {connects} connections were made");
    for world in worlds {
        let is_given_up = |end: &End| matches!(end, Err(error) if error.advice() == Advice::Retry);
        assert!(world.sends.values().all(|(_, end)| end.as_ref().is_some_and(|end| end.is_ok() || is_given_up(end))));
    }
}

#[test]
fn refusals_of_every_kind_lose_nothing() {
    run_all(REFUSALS, false);
}

#[test]
fn lost_history_is_told() {
    let worlds = run_all(Faults { skips: 30, ..REFUSALS }, true);
    let resets: u32 = worlds.iter().flat_map(|world| &world.readers).map(|reader| reader.resets).sum();
    assert!(seeds().count() == 1 || resets > 100, "only {resets} resets");
}
