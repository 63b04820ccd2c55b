//! The homes of a shard: made when first needed, timed, and batched towards the control plane.

use millrace_protocol::client::HistoryClass;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{ChannelAppend, ChannelAppended, Head, History, NodeBody, message_bytes_max};
use millrace_protocol::{ChannelId, Code};
use rustc_hash::FxHashMap;

use crate::ShardIndex;
use crate::backplane::Pending;
use crate::home::{Context, Home, HomeKey, State};
use crate::hop::{Ack, Acks, HopBody, Join, Joined, Origin, Outcome, Page, Publish, Read};
use crate::wheel::{TICK_MS, Tick, Wheel};

/// Appends are put into one frame until it has so many bytes, and one channel's batch more; the link takes 8 MiB.
const APPEND_FRAME_BYTES: usize = 1 << 20;
/// What a channel's append adds to the frame beside its messages, at most.
const APPEND_BYTES: usize = 64;
/// Requests to open homes, and reads, under way at one time.
const OPENS_MAX: usize = 8;
const READS_MAX: usize = 64;
/// A windowed channel's head comes with its producers, so a request opens fewer of them: each counts as so many.
const WINDOWED_WEIGHT: usize = 32;

/// What became of one channel's opening.
type Opened = (ChannelId, Result<Head, Refusal>);

pub(crate) struct Homes {
    homes: FxHashMap<ChannelId, Box<Home>>,
    wheel: Wheel<HomeKey>,
    lives: u32,
    opening: usize,
    reading: usize,
    /// While draining: homes that are not done.
    undrained: usize,
}

impl Homes {
    pub(crate) fn new() -> Self {
        Self { homes: FxHashMap::default(), wheel: Wheel::new(), lives: 0, opening: 0, reading: 0, undrained: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.homes.len()
    }

    pub(crate) fn get(&self, channel: ChannelId) -> Option<&Home> {
        self.homes.get(&channel).map(|home| &**home)
    }

    pub(crate) fn publish(&mut self, context: &mut Context<'_>, publish: Publish) {
        match self.home(context, publish.channel, publish.history) {
            Ok(home) => {
                let key = home.key;
                home.publish(context, publish);
                self.settle(context, key);
            }
            Err(code) => refuse_publish(context, &publish, code),
        }
    }

    pub(crate) fn join(&mut self, context: &mut Context<'_>, shard: ShardIndex, join: Box<Join>) {
        match self.home(context, join.channel, join.history) {
            Ok(home) => {
                let key = home.key;
                home.join(context, shard, join);
                self.settle(context, key);
            }
            Err(code) => {
                let joined = Joined { channel: join.channel, ticket: join.ticket, result: Err(code) };
                context.links.send(shard, HopBody::Joined(Box::new(joined)));
            }
        }
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, shard: ShardIndex, read: Box<Read>) {
        match self.home(context, read.channel, read.history) {
            Ok(home) => {
                let key = home.key;
                home.read_page(context, shard, read);
                self.settle(context, key);
            }
            Err(code) => {
                let page =
                    Page { channel: read.channel, session: read.session, request: read.request, result: Err(code) };
                context.links.send(shard, HopBody::Page(Box::new(page)));
            }
        }
    }

    pub(crate) fn leave(&mut self, context: &mut Context<'_>, shard: ShardIndex, channel: ChannelId) {
        if let Some(home) = self.homes.get_mut(&channel) {
            let key = home.key;
            home.leave(context, shard);
            self.settle(context, key);
        }
    }

    /// The channel's home, made if there is none.
    fn home(&mut self, context: &Context<'_>, channel: ChannelId, history: HistoryClass) -> Result<&mut Home, Code> {
        if !self.homes.contains_key(&channel) {
            if context.draining {
                return Err(Code::GoingAway);
            }
            if self.homes.len() >= context.config.home.homes_max as usize {
                return Err(Code::Busy);
            }
            self.lives = self.lives.wrapping_add(1);
            let key = HomeKey { channel, life: self.lives };
            self.homes.insert(channel, Box::new(Home::new(key, history, context.now_ms)));
        }
        self.homes.get_mut(&channel).map(|home| &mut **home).ok_or(Code::Internal)
    }

    fn alive(&mut self, key: HomeKey) -> Option<&mut Home> {
        self.homes.get_mut(&key.channel).map(|home| &mut **home).filter(|home| home.key == key)
    }

    /// After a home did something: it is counted if a drain waits for it, forgotten if it is dead, else its timer is set.
    fn settle(&mut self, context: &Context<'_>, key: HomeKey) {
        let Some(home) = self.homes.get_mut(&key.channel).filter(|home| home.key == key) else { return };
        if context.draining {
            let undrained = !home.is_drained();
            match (std::mem::replace(&mut home.undrained, undrained), undrained) {
                (false, true) => self.undrained += 1,
                (true, false) => self.undrained -= 1,
                _ => {}
            }
        }
        if home.state == State::Dead {
            self.homes.remove(&key.channel);
            if self.homes.is_empty() {
                self.homes = FxHashMap::default();
            }
            return;
        }
        let Some(due_ms) = home.poll_timeout(context) else { return };
        let due = Tick::try_from(due_ms.div_ceil(TICK_MS)).unwrap_or(Tick::MAX);
        if home.due == 0 || due < home.due {
            home.due = self.wheel.insert(due, key);
        }
    }

    fn with(&mut self, context: &mut Context<'_>, key: HomeKey, act: impl FnOnce(&mut Home, &mut Context<'_>)) {
        if let Some(home) = self.alive(key) {
            act(home, context);
            self.settle(context, key);
        }
    }

    fn keys(&self) -> Vec<HomeKey> {
        self.homes.values().map(|home| home.key).collect()
    }

    pub(crate) fn handle_opened(
        &mut self,
        context: &mut Context<'_>,
        keys: Vec<HomeKey>,
        result: Result<Vec<Opened>, Refusal>,
    ) {
        self.opening -= 1;
        let (mut heads, missing) = match result {
            Ok(heads) => (
                heads.into_iter().collect::<FxHashMap<_, _>>(),
                Refusal::new(Code::Unavailable, "no answer for the home"),
            ),
            Err(refusal) => (FxHashMap::default(), refusal),
        };
        for key in keys {
            let result = heads.remove(&key.channel).unwrap_or_else(|| Err(missing.clone()));
            self.with(context, key, |home, context| home.handle_opened(context, result));
        }
    }

    pub(crate) fn handle_appended(
        &mut self,
        context: &mut Context<'_>,
        keys: Vec<HomeKey>,
        result: Result<Vec<ChannelAppended>, Refusal>,
    ) {
        let (mut results, missing) = match result {
            Ok(appended) => (
                appended.into_iter().map(|appended| (appended.channel, appended.result)).collect::<FxHashMap<_, _>>(),
                Refusal::new(Code::UnknownOutcome, "no answer for the append"),
            ),
            Err(refusal) => (FxHashMap::default(), refusal),
        };
        for key in keys {
            let result = results.remove(&key.channel).unwrap_or_else(|| Err(missing.clone()));
            self.with(context, key, |home, context| home.handle_appended(context, result));
        }
    }

    pub(crate) fn handle_history(
        &mut self,
        context: &mut Context<'_>,
        key: HomeKey,
        number: u32,
        result: Result<History, Refusal>,
    ) {
        self.reading -= 1;
        self.with(context, key, |home, context| home.handle_history(context, number, result));
    }

    /// Homes were given back, or not.
    pub(crate) fn handle_closed(&mut self, context: &mut Context<'_>, keys: Vec<HomeKey>, closed: bool) {
        for key in keys {
            let act = if closed { Home::handle_closed } else { Home::handle_close_refused };
            self.with(context, key, act);
        }
    }

    pub(crate) fn archive(&mut self, context: &mut Context<'_>, channel: ChannelId) {
        if let Some(key) = self.homes.get(&channel).map(|home| home.key) {
            self.with(context, key, Home::archive);
        }
    }

    pub(crate) fn handle_link_up(&mut self, context: &mut Context<'_>) {
        for key in self.keys() {
            self.with(context, key, Home::handle_link_up);
        }
    }

    pub(crate) fn handle_link_down(&mut self, context: &mut Context<'_>) {
        self.opening = 0;
        self.reading = 0;
        context.wants.opens.clear();
        context.wants.reads.clear();
        context.wants.closes.clear();
        for key in self.keys() {
            self.with(context, key, Home::handle_link_down);
        }
    }

    pub(crate) fn handle_drain(&mut self, context: &mut Context<'_>) {
        for key in self.keys() {
            self.with(context, key, Home::handle_drain);
        }
    }

    /// While draining: everything delivered is stored, and no windowed home is left to give back.
    pub(crate) fn is_drained(&self) -> bool {
        debug_assert_eq!(self.undrained, self.homes.values().filter(|home| !home.is_drained()).count());
        self.undrained == 0
    }

    pub(crate) fn handle_timeout(&mut self, context: &mut Context<'_>, now: Tick) {
        let mut fired = Vec::new();
        self.wheel.advance(now, &mut fired);
        for (due, key) in fired {
            let Some(home) = self.alive(key).filter(|home| home.due == due) else { continue };
            home.due = 0;
            home.handle_timeout(context);
            self.settle(context, key);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Tick> {
        self.wheel.next()
    }

    /// Sends what the turn's homes want, batched.
    pub(crate) fn end_turn(&mut self, context: &mut Context<'_>) {
        self.offer(context);
        if context.backplane.term().is_none() {
            return;
        }
        while self.opening < OPENS_MAX && !context.wants.opens.is_empty() {
            let mut room = context.config.home.open_batch_max as usize;
            let mut keys = Vec::new();
            while room > 0
                && let Some(key) = context.wants.opens.pop_front()
            {
                let windowed = self.alive(key).is_some_and(|home| home.tells_producers());
                room = room.saturating_sub(if windowed { WINDOWED_WEIGHT } else { 1 });
                keys.push(key);
            }
            let channels = keys.iter().map(|key| key.channel).collect();
            self.opening += 1;
            context.backplane.ask(NodeBody::OpenHomes(channels), Pending::Open(keys));
        }
        while self.reading < READS_MAX {
            let Some((key, number, read)) = context.wants.reads.pop_front() else { break };
            if self.alive(key).is_some() {
                self.reading += 1;
                context.backplane.ask(NodeBody::ReadHistory(read), Pending::Read(key, number));
            }
        }
        self.give_back(context);
    }

    fn offer(&mut self, context: &mut Context<'_>) {
        let mut appends: Vec<ChannelAppend> = Vec::new();
        let mut keys: Vec<HomeKey> = Vec::new();
        let mut bytes = 0;
        for channel in std::mem::take(&mut context.wants.offers) {
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            let key = home.key;
            if let Some(append) = home.offer(context) {
                // With users and numbers: of short messages the bodies are the smaller part.
                bytes += APPEND_BYTES + append.messages.iter().map(message_bytes_max).sum::<usize>();
                appends.push(append);
                keys.push(key);
            }
            if context.draining
                && let Some(home) = self.homes.get_mut(&channel)
                && home.is_settled()
            {
                home.handle_drain(context);
            }
            self.settle(context, key);
            if bytes >= APPEND_FRAME_BYTES {
                bytes = 0;
                let keys = std::mem::take(&mut keys);
                context.backplane.ask(NodeBody::Append(std::mem::take(&mut appends)), Pending::Append(keys));
            }
        }
        if !appends.is_empty() {
            context.backplane.ask(NodeBody::Append(appends), Pending::Append(keys));
        }
    }

    /// In batches: a drain gives back all homes at once, and a list on the link has its limit.
    fn give_back(&mut self, context: &mut Context<'_>) {
        let wanted = std::mem::take(&mut context.wants.closes);
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let mut closes = Vec::new();
            let mut keys = Vec::new();
            for key in wanted.by_ref().take(context.config.home.open_batch_max as usize) {
                closes.extend(self.alive(key).and_then(|home| home.closing(context)));
                keys.push(key);
            }
            if !closes.is_empty() {
                context.backplane.ask(NodeBody::CloseHomes(closes), Pending::Close(keys));
            }
        }
    }
}

fn refuse_publish(context: &mut Context<'_>, publish: &Publish, code: Code) {
    match publish.origin {
        Origin::Session { shard, session, request } => {
            let outcome = Outcome::Refused { code, retry_after_ms: 0 };
            let (producer, sequence) = (publish.message.producer, publish.message.sequence);
            let acks = vec![Ack { session, request, producer, sequence, since: publish.since, outcome }];
            context.links.send(shard, HopBody::Acks(Box::new(Acks { channel: publish.channel, acks })));
        }
        Origin::Order { id, link } => {
            let refusal = Refusal::new(code, code.meaning().trim());
            context.backplane.reply(link, id, NodeBody::Published(Err(refusal)));
        }
    }
}
