//! A control plane in memory with the real one's semantics: terms fence, epochs change when a windowed home did not close,
//! producers' rows find duplicates, an append is all or nothing. It can lose replies, refuse, and be late.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_protocol::code::Refusal;
use millrace_protocol::node::{
    AppendOutcome, Authorize, ChannelAppend, ChannelAppended, ChannelKind, ChannelRef, CloseHome, Grant, Head, History,
    HistoryClass, HistoryRange, NewMessage, NodeBody, ProducerState, ReadHistory, ReadMark, Role, SlowConsumer,
    StoredMessage,
};
use millrace_protocol::{
    ChannelId, ChannelName, Code, Epoch, Offset, Position, Producer, ProducerSequence, Term, UserId,
};

use super::random::Random;

pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) name: ChannelName,
    pub(crate) history: HistoryClass,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) archived: bool,
    pub(crate) epoch: Epoch,
    /// With which the epoch began.
    epoch_first: Offset,
    term: Term,
    pub(crate) open: bool,
    pub(crate) messages: Vec<Arc<StoredMessage>>,
    rows: HashMap<(UserId, Producer), (ProducerSequence, Vec<Offset>)>,
    /// User to whether they may publish.
    pub(crate) members: BTreeMap<UserId, bool>,
    /// How far users have read.
    pub(crate) reads: BTreeMap<UserId, Position>,
    /// Something that was delivered has been lost, as may happen to a windowed channel.
    pub(crate) lossy: bool,
    /// It was opened without having been closed: nobody can tell what the last home delivered.
    pub(crate) doubtful: bool,
}

impl Channel {
    fn next(&self) -> Offset {
        Offset::FIRST.plus(self.messages.len() as u64)
    }

    pub(crate) fn tail(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(crate) fn at(&self, offset: u64) -> Option<&StoredMessage> {
        self.messages.get(usize::try_from(offset).ok()?.checked_sub(1)?).map(|stored| &**stored)
    }

    fn store(&mut self, message: &NewMessage) -> Offset {
        let offset = self.next();
        self.messages.push(Arc::new(StoredMessage { epoch: self.epoch, offset, message: message.clone() }));
        let row = self.rows.entry((message.user.clone(), message.producer)).or_insert((message.sequence, Vec::new()));
        row.0 = message.sequence;
        row.1.push(offset);
        offset
    }

    fn in_present_epoch(&self, read: Position) -> Position {
        if read.epoch == self.epoch {
            return read;
        }
        Position { epoch: self.epoch, offset: read.offset.min(self.epoch_first.get() - 1) }
    }

    fn append(&mut self, append: &ChannelAppend) -> Result<Vec<AppendOutcome>, Refusal> {
        let view = (append.term, append.epoch, append.expected_offset);
        if !self.open || view != (self.term, self.epoch, self.next()) {
            return Err(Refusal::new(
                Code::Fenced,
                format!("{view:?} is not {:?}", (self.term, self.epoch, self.next())),
            ));
        }
        let windowed = self.history == HistoryClass::Windowed;
        let outcome = |channel: &mut Self, message: &NewMessage| {
            if windowed {
                return AppendOutcome::Stored(channel.store(message));
            }
            let row = channel.rows.get(&(message.user.clone(), message.producer));
            let expected = row.map_or(ProducerSequence::FIRST, |row| row.0.next());
            match message.sequence.cmp(&expected) {
                std::cmp::Ordering::Equal => AppendOutcome::Stored(channel.store(message)),
                std::cmp::Ordering::Greater => AppendOutcome::OutOfOrder { expected },
                std::cmp::Ordering::Less => {
                    let place = usize::try_from(message.sequence.get() - 1).unwrap();
                    AppendOutcome::Duplicate(row.and_then(|row| row.1.get(place)).copied())
                }
            }
        };
        Ok(append.messages.iter().map(|message| outcome(self, message)).collect())
    }

    pub(crate) fn open(&mut self, term: Term) -> Result<Head, Refusal> {
        if self.archived {
            return Err(Refusal::new(Code::Archived, "archived"));
        }
        if term < self.term {
            return Err(Refusal::new(Code::Fenced, "a newer term has it"));
        }
        if self.history == HistoryClass::Windowed && self.open {
            self.epoch = self.epoch.next();
            self.epoch_first = self.next();
            self.doubtful = true;
        }
        self.term = term;
        self.open = true;
        let state =
            |((user, producer), (sequence, offsets)): (&(UserId, Producer), &(ProducerSequence, Vec<Offset>))| {
                ProducerState {
                    user: user.clone(),
                    producer: *producer,
                    sequence: *sequence,
                    offset: *offsets.last().unwrap(),
                }
            };
        let producers =
            if self.history == HistoryClass::Windowed { self.rows.iter().map(state).collect() } else { Vec::new() };
        Ok(Head {
            epoch: self.epoch,
            next_offset: self.next(),
            first_offset: Offset::FIRST,
            epoch_first_offset: Offset::FIRST,
            history: self.history,
            producers,
        })
    }

    fn close(&mut self, close: &CloseHome) {
        if (close.term, close.epoch, close.next_offset) == (self.term, self.epoch, self.next()) {
            self.open = false;
        }
    }

    fn read(&self, read: &ReadHistory) -> History {
        let tail = self.tail();
        let count = u64::from(read.messages_max);
        let (first, last) = match read.range {
            HistoryRange::Newest => ((tail + 1).saturating_sub(count).max(1), tail),
            HistoryRange::Before(before) => (before.get().saturating_sub(count).max(1), (before.get() - 1).min(tail)),
            HistoryRange::After(after) => (after + 1, (after + count).min(tail)),
        };
        let mut bytes = 0;
        let mut messages: Vec<_> = Vec::new();
        let backward = !matches!(read.range, HistoryRange::After(_));
        let range: Vec<u64> = if backward { (first..=last).rev().collect() } else { (first..=last).collect() };
        for offset in range {
            let stored = &self.messages[usize::try_from(offset).unwrap() - 1];
            bytes += stored.message.body.len();
            if bytes > read.bytes_max as usize && !messages.is_empty() {
                break;
            }
            messages.push(Arc::clone(stored));
        }
        messages.sort_by_key(|stored| stored.offset);
        let more = match (messages.first(), messages.last()) {
            (Some(first), _) if backward => first.offset > Offset::FIRST,
            (_, Some(last)) => last.offset.get() < tail,
            _ => false,
        };
        History { channel: read.channel, messages, more }
    }
}

/// What goes wrong, in parts of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost_unknown: u64,
    pub(crate) written_unknown: u64,
    pub(crate) refused: u64,
}

pub(crate) struct Control {
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
    pub(crate) term: u64,
    pub(crate) faults: Faults,
    /// Read positions that moved and are still to be told.
    pub(crate) moved: Vec<ReadMark>,
}

impl Control {
    pub(crate) fn channel(&mut self, id: ChannelId) -> &mut Channel {
        self.channels.get_mut(&id).expect("the world made it")
    }

    /// A request as a control node would carry it out at this moment.
    pub(crate) fn process(&mut self, random: &mut Random, body: NodeBody) -> Option<NodeBody> {
        if random.chance(self.faults.refused / 2) && !matches!(body, NodeBody::Published(_)) {
            return Some(NodeBody::Refused(Refusal::new(Code::Unavailable, "the store cannot answer now")));
        }
        Some(match body {
            NodeBody::Authorize(list) => {
                NodeBody::Authorized(list.iter().map(|authorize| self.authorize(random, authorize)).collect())
            }
            NodeBody::OpenHomes(list) => NodeBody::HomesOpened(
                list.into_iter()
                    .map(|id| {
                        let refused = random.chance(self.faults.refused);
                        let term = Term(self.term);
                        let result =
                            if refused { Err(Refusal::new(Code::Busy, "busy")) } else { self.channel(id).open(term) };
                        (id, result)
                    })
                    .collect(),
            ),
            NodeBody::Append(list) => {
                NodeBody::Appended(list.iter().map(|append| self.append(random, append)).collect())
            }
            NodeBody::ReadHistory(read) => NodeBody::History(self.channel(read.channel).read(&read)),
            NodeBody::CloseHomes(list) => {
                for close in list {
                    self.channel(close.channel).close(&close);
                }
                NodeBody::HomesClosed
            }
            NodeBody::MarkReads(marks) => {
                NodeBody::ReadsMarked(marks.into_iter().map(|mark| self.mark_read(random, mark)).collect())
            }
            NodeBody::Published(_) => return None,
            other => panic!("a node never asks {other:?}"),
        })
    }

    fn append(&mut self, random: &mut Random, append: &ChannelAppend) -> ChannelAppended {
        let faults = self.faults;
        let channel = append.channel;
        if random.chance(faults.lost_unknown) {
            return ChannelAppended::unknown(channel, "lost");
        }
        if random.chance(faults.refused) {
            return ChannelAppended { channel, result: Err(Refusal::new(Code::Busy, "busy")) };
        }
        let result = self.channel(channel).append(append);
        if random.chance(faults.written_unknown) {
            return ChannelAppended::unknown(channel, "written");
        }
        ChannelAppended { channel, result }
    }

    fn mark_read(&mut self, random: &mut Random, mark: ReadMark) -> Result<Position, Refusal> {
        if random.chance(self.faults.refused) {
            return Err(Refusal::new(Code::Busy, "busy"));
        }
        let channel = self.channel(mark.channel);
        if !channel.members.contains_key(&mark.user) {
            return Err(Refusal::new(Code::NoAccess, "no such channel"));
        }
        if mark.position.offset > channel.tail() {
            return Err(Refusal::new(Code::PositionAhead, "nobody can have read that"));
        }
        let read = channel.reads.entry(mark.user.clone()).or_insert(Position { epoch: Epoch::FIRST, offset: 0 });
        if (read.epoch, read.offset) < (mark.position.epoch, mark.position.offset) {
            *read = mark.position;
            self.moved.push(mark.clone());
        }
        Ok(*self.channel(mark.channel).reads.get(&mark.user).unwrap_or(&mark.position))
    }

    fn authorize(&mut self, random: &mut Random, authorize: &Authorize) -> Result<Grant, Refusal> {
        if random.chance(self.faults.refused) {
            return Err(Refusal::new(Code::Busy, "memberships change too fast"));
        }
        let find = |channel: &&Channel| match &authorize.channel {
            ChannelRef::Name(name) => channel.name == *name,
            ChannelRef::Id(id) => channel.id == *id,
        };
        let channel = self.channels.values().find(find);
        let no_access = || Refusal::new(Code::NoAccess, "no such channel");
        let channel = channel.ok_or_else(no_access)?;
        let can_publish = *channel.members.get(&authorize.user).ok_or_else(no_access)?;
        if channel.archived {
            return Err(Refusal::new(Code::Archived, "archived"));
        }
        Ok(Grant {
            channel: channel.id,
            name: channel.name.clone(),
            kind: ChannelKind::Group,
            history: channel.history,
            role: Role::Member,
            can_publish,
            slow_consumer: channel.slow_consumer,
            read: channel.reads.get(&authorize.user).map(|read| channel.in_present_epoch(*read)),
        })
    }

    /// Another data node has the slots for a while, and writes.
    pub(crate) fn phantom(&mut self, random: &mut Random, user: &UserId) {
        self.term += 1;
        let term = Term(self.term);
        for channel in self.channels.values_mut() {
            if channel.history == HistoryClass::None || channel.archived || random.chance(600) {
                continue;
            }
            let unclean = channel.open;
            let _ = channel.open(term);
            if unclean && channel.history == HistoryClass::Windowed {
                channel.lossy = true;
            }
            for _ in 0..random.below(4) {
                let producer = Producer::new(random.next() | 1).unwrap();
                let message = NewMessage {
                    user: user.clone(),
                    producer,
                    sequence: ProducerSequence::FIRST,
                    time_ms: 1,
                    body: format!("phantom {}", producer.get()).into(),
                };
                channel.store(&message);
            }
        }
    }

    pub(crate) fn new_channel(
        id: ChannelId,
        name: &str,
        history: HistoryClass,
        slow_consumer: SlowConsumer,
    ) -> Channel {
        Channel {
            id,
            name: ChannelName::new(name).unwrap(),
            history,
            slow_consumer,
            archived: false,
            epoch: Epoch::FIRST,
            epoch_first: Offset::FIRST,
            term: Term(0),
            open: false,
            messages: Vec::new(),
            rows: HashMap::new(),
            members: BTreeMap::new(),
            reads: BTreeMap::new(),
            lossy: false,
            doubtful: false,
        }
    }
}
