//! What an application reads from a channel.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_protocol::client as wire;
use millrace_protocol::code::Code;
use millrace_protocol::id::{Position, Producer, ProducerSequence};

use crate::error::Error;

/// A message of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Its place; keep it to go on from here with [`Client::subscribe_from`](crate::Client::subscribe_from).
    /// Offset 0 in a channel without history.
    pub position: Position,
    /// When the node accepted it, in milliseconds of Unix time.
    pub time_ms: i64,
    /// Who sent it.
    pub user: Arc<str>,
    /// By which run of the sender.
    pub producer: Producer,
    /// Its place among the messages of that run.
    pub sequence: ProducerSequence,
    /// What was sent.
    pub body: Bytes,
}

impl Message {
    pub(crate) fn from_wire(message: &wire::Message<'_>) -> Self {
        Self {
            position: message.position,
            time_ms: message.time_ms,
            user: message.user.into(),
            producer: message.producer,
            sequence: message.sequence,
            body: Bytes::copy_from_slice(message.body),
        }
    }

    /// When the node accepted it.
    pub fn time(&self) -> SystemTime {
        let distance = Duration::from_millis(self.time_ms.unsigned_abs());
        let time = if self.time_ms < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        time.unwrap_or(UNIX_EPOCH)
    }

    /// The body as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Something that a subscription has to tell.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The next message: each comes once, in the order of the channel.
    Message(Message),
    /// Messages that were not delivered and will not be.
    Skipped(Skipped),
    /// The history is not what it was: what the application holds from before may be gone or incomplete, and it reads
    /// the history again. Messages after `position` follow.
    Reset {
        /// [`Code::EpochChanged`] if stored messages were lost, [`Code::PositionTooOld`] if they were swept before they
        /// were read, [`Code::PositionAhead`] if the channel is shorter than it was; a code that this version does not
        /// know is told as [`Code::EpochChanged`].
        reason: Code,
        /// Where delivery goes on.
        position: Position,
    },
    /// The right to publish to the channel was given or taken.
    CanPublish(bool),
    /// The subscription ended, and why; nothing follows.
    Ended(Error),
}

/// Which messages were not delivered, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// This client read too slowly, and the channel's policy is to skip. Both ends are inclusive; the history has them.
    /// In a channel that keeps no history both offsets are 0.
    SlowConsumer {
        /// The first that is missing.
        first: Position,
        /// The last that is missing.
        last: Position,
    },
    /// The application read too slowly from a channel that keeps no history.
    QueueFull {
        /// How many, or more if the node skipped some as well.
        messages: u64,
    },
    /// The connection was interrupted, and the channel keeps no history: it is not known how many.
    Interrupted,
}

impl Event {
    /// Bytes that it holds in a queue, its fixed size left out.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.body.len() + message.user.len(),
            _ => 0,
        }
    }
}

/// How far the user has read a channel, on whichever device, and what is unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// How many messages stand behind the read position: other people's and the user's own.
    pub count: u64,
    /// Everything up to and with this position is read; offset 0 if nothing is.
    pub read: Position,
    /// The newest message that is known. A [`Sender`](crate::Sender) alone hears of new ones only when it sends.
    pub newest: Position,
}

/// A page of history, in ascending order of offset.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// There are more messages in the direction that was asked for.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_before_1970_and_a_body_no_text() {
        let check = |time_ms, expect| {
            let message = Message {
                position: Position { epoch: millrace_protocol::Epoch::FIRST, offset: 1 },
                time_ms,
                user: "u".into(),
                producer: Producer::new(1).unwrap(),
                sequence: ProducerSequence::FIRST,
                body: Bytes::from_static(b"\xff"),
            };
            assert_eq!(message.time(), expect);
            assert_eq!(message.text(), "\u{fffd}");
        };
        check(1_000, UNIX_EPOCH + Duration::from_secs(1));
        check(-1_000, UNIX_EPOCH - Duration::from_secs(1));
        check(-1, UNIX_EPOCH - Duration::from_millis(1));
    }
}
