//! What must hold of everything that clients hear, against what the control plane has.

use std::collections::HashMap;

use millrace_protocol::client::{HistoryClass, HistoryRange, Message, Published};
use millrace_protocol::code::Code;
use millrace_protocol::{ChannelId, Position, Producer, ProducerSequence, UserId};

use super::client::body;
use super::control::Control;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Records {
    /// Which message stands at an offset, as the first who heard it said.
    seen: HashMap<(ChannelId, u64), (UserId, Producer, ProducerSequence)>,
    pub(crate) acked: Vec<(ChannelId, UserId, Producer, ProducerSequence, Position)>,
    pub(crate) messages: u64,
    pub(crate) reloads: u64,
    pub(crate) skips: u64,
    pub(crate) pages: u64,
    pub(crate) stops: u64,
    pub(crate) refusals: HashMap<Code, u64>,
}

pub(crate) struct Judge<'a> {
    pub(crate) control: &'a Control,
    pub(crate) records: &'a mut Records,
    pub(crate) replay_messages_max: u64,
}

impl Judge<'_> {
    pub(crate) fn is_lossy(&self, channel: ChannelId) -> bool {
        self.control.channels[&channel].lossy
    }

    pub(crate) fn message(&mut self, user: &UserId, message: &Message<'_>, history: HistoryClass) {
        self.records.messages += 1;
        self.content(message);
        let channel = &self.control.channels[&message.channel];
        assert_eq!(channel.history, history);
        match history {
            HistoryClass::None => assert_eq!(message.position.offset, 0),
            HistoryClass::Durable => {
                let stored = channel.at(message.position.offset);
                let stored = stored.unwrap_or_else(|| panic!("{user}: {:?} is not stored", message.position));
                assert_eq!(stored.position(), message.position);
                assert_eq!(stored.message.body, message.body, "{user}: {:?}", message.position);
            }
            HistoryClass::Windowed => self.same(message),
        }
    }

    fn content(&self, message: &Message<'_>) {
        if !message.body.starts_with(b"phantom") {
            let sender = UserId::new(message.user).unwrap();
            let expect = body(&sender, message.channel, message.producer, message.sequence);
            assert_eq!(message.body, expect);
        }
    }

    /// Everyone sees the same message at an offset of a windowed channel, unless some were lost.
    fn same(&mut self, message: &Message<'_>) {
        if self.is_lossy(message.channel) {
            return;
        }
        let what = (UserId::new(message.user).unwrap(), message.producer, message.sequence);
        let place = (message.channel, message.position.offset);
        let seen = self.records.seen.entry(place).or_insert_with(|| what.clone());
        assert_eq!(*seen, what, "two messages at {place:?}");
    }

    pub(crate) fn page(
        &mut self,
        user: &UserId,
        id: ChannelId,
        range: HistoryRange,
        messages: &[Message<'_>],
        more: bool,
    ) {
        self.records.pages += 1;
        let channel = &self.control.channels[&id];
        assert!(channel.history != HistoryClass::None, "{user}: a page of nothing");
        for pair in messages.windows(2) {
            assert_eq!(pair[0].position.offset + 1, pair[1].position.offset, "{user}: a gap in a page");
        }
        for message in messages {
            self.content(message);
            if channel.history == HistoryClass::Durable {
                let stored = channel.at(message.position.offset).expect("a page shows what is stored");
                assert_eq!(stored.message.body, message.body);
            } else {
                self.same(message);
            }
        }
        let (first, last) = match (messages.first(), messages.last()) {
            (Some(first), Some(last)) => (first.position.offset, last.position.offset),
            _ => return assert!(!more, "{user}: an empty page with more"),
        };
        match range {
            HistoryRange::Newest => assert_eq!(more, first > 1, "{user}: {range:?} {first}..={last}"),
            HistoryRange::Before(before) => {
                assert!(last < before.get());
                assert_eq!(more, first > 1, "{user}: {range:?} {first}..={last}");
            }
            HistoryRange::After(after) => {
                assert_eq!(first, after + 1, "{user}: {range:?}");
                // The channel may have grown since.
                assert!(more || channel.lossy || last <= channel.tail() || channel.history == HistoryClass::Windowed);
            }
        }
    }

    pub(crate) fn skipped(&mut self, id: ChannelId, history: HistoryClass) {
        use millrace_protocol::node::SlowConsumer;
        let skips = self.control.channels[&id].slow_consumer == SlowConsumer::Skip;
        assert!(skips || history == HistoryClass::None, "a channel that disconnects never skips");
        self.records.skips += 1;
    }

    pub(crate) fn reload(&mut self, user: &UserId, id: ChannelId, code: u16, asked: Position, at: Position) {
        self.records.reloads += 1;
        let channel = &self.control.channels[&id];
        match Code::from_number(code) {
            Some(Code::PositionTooOld) => {
                let missed = at.offset - asked.offset;
                assert!(missed > self.replay_messages_max, "{user} {id}: refused {asked:?} at {at:?}");
            }
            Some(code @ (Code::EpochChanged | Code::PositionAhead)) => {
                let doubtful = channel.doubtful && code == Code::EpochChanged;
                assert!(
                    channel.lossy || doubtful,
                    "{user} {id}: nothing was lost, yet {asked:?} was refused with {code} at {at:?}"
                );
            }
            other => panic!("{user}: reload for {other:?}"),
        }
    }

    pub(crate) fn history_lost(&mut self, user: &UserId, id: ChannelId, code: Code) {
        self.records.reloads += 1;
        let doubtful = self.control.channels[&id].doubtful && code == Code::EpochChanged;
        assert!(self.is_lossy(id) || doubtful, "{user} {id}: nothing was lost, yet the subscription ended with {code}");
    }

    pub(crate) fn acked(&mut self, user: &UserId, published: &Published) {
        let Published { channel: id, producer, sequence, position, duplicate } = *published;
        let channel = &self.control.channels[&id];
        match channel.history {
            HistoryClass::None => assert!(position.offset == 0 && !duplicate),
            // An acknowledged message is stored, at the place that the acknowledgement says.
            HistoryClass::Durable => {
                assert!(position.offset > 0, "control finds every duplicate here");
                let stored =
                    channel.at(position.offset).unwrap_or_else(|| panic!("{user}: acked {position:?}, not stored"));
                let what = (&stored.message.user, stored.message.producer, stored.message.sequence);
                assert_eq!(what, (user, producer, sequence), "{user}: acked {position:?}");
            }
            HistoryClass::Windowed => assert!(position.offset > 0 || duplicate),
        }
        self.records.acked.push((id, user.clone(), producer, sequence, position));
    }

    pub(crate) fn publish_refused(&mut self, user: &UserId, code: Code) {
        *self.records.refusals.entry(code).or_default() += 1;
        let known = [
            Code::RateLimited,
            Code::Busy,
            Code::Unavailable,
            Code::UnknownOutcome,
            Code::Blocked,
            Code::OutOfOrder,
            Code::ReadOnly,
            Code::NotSubscribed,
            Code::Archived,
            Code::Fenced,
            Code::GoingAway,
            Code::TooLarge,
        ];
        assert!(known.contains(&code), "{user}: a publish was refused with {code}");
    }

    /// What was acknowledged or delivered and is not stored, or not yet.
    pub(crate) fn missing(&self) -> Option<String> {
        for channel in self.control.channels.values().filter(|channel| !channel.lossy) {
            let mut last: HashMap<(&UserId, Producer), u64> = HashMap::new();
            for stored in &channel.messages {
                *last.entry((&stored.message.user, stored.message.producer)).or_default() += 1;
            }
            for (id, user, producer, sequence, _) in &self.records.acked {
                let stored = last.get(&(user, *producer)).copied().unwrap_or(0);
                if *id == channel.id && channel.history != HistoryClass::None && stored < sequence.get() {
                    return Some(format!("{user} {id}: {sequence} was acked and is lost"));
                }
            }
            let seen = self.records.seen.keys().filter(|(id, _)| *id == channel.id);
            if let Some((id, offset)) = seen.into_iter().find(|&&(_, offset)| channel.at(offset).is_none()) {
                return Some(format!("{id} {offset} was delivered and is lost"));
            }
        }
        None
    }

    /// At the end, with everything healed: what was acknowledged is stored once, in each producer's order.
    pub(crate) fn finish(&mut self) {
        assert_eq!(self.missing(), None);
        for channel in self.control.channels.values().filter(|channel| !channel.lossy) {
            let mut last: HashMap<(&UserId, Producer), u64> = HashMap::new();
            for stored in &channel.messages {
                let message = &stored.message;
                let last = last.entry((&message.user, message.producer)).or_default();
                *last += 1;
                assert_eq!(message.sequence.get(), *last, "{}: stored twice, never, or out of order", channel.id);
            }
            for (id, _, producer, sequence, position) in &self.records.acked {
                if *id == channel.id
                    && channel.history != HistoryClass::None
                    && let Some(at) = channel.at(position.offset).filter(|_| position.offset > 0)
                {
                    assert_eq!((at.message.producer, at.message.sequence), (*producer, *sequence));
                }
            }
            for (&(id, offset), (user, producer, sequence)) in &self.records.seen {
                if id == channel.id {
                    let message = &channel.at(offset).expect("nothing is missing").message;
                    assert_eq!((&message.user, message.producer, message.sequence), (user, *producer, *sequence));
                }
            }
        }
    }
}
