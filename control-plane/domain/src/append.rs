//! How a batch of messages meets the head of its channel: fencing, duplicates, offsets. Pure: the caller reads the head and the
//! producers' rows in a transaction, puts in it what the plan says, and commits.
//!
//! - [`ChannelHead`]: where a channel stands and whose home may append; opened and closed by homes;
//! - [`ProducerRow`]: the messages of one producer that were accepted last;
//! - [`Batch`], [`AppendPlan`]: one append.

use std::collections::HashMap;

use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::{Epoch, Offset, Producer, ProducerSequence, Term, UserId};
use millrace_protocol::node::{AppendOutcome, HistoryClass, NewMessage};

mod head;
mod producer;
#[cfg(test)]
mod tests;

pub use head::{ChannelHead, HomeState, HomeView};
pub use producer::{PRODUCER_RUNS_MAX, ProducerRow, Run};

/// Why a channel takes no append, opening or closing: the home's view of it is outdated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// No home has opened the channel, or it was closed.
    #[error("the channel is not open")]
    NotOpen,
    /// Another link has opened the channel. If its term is the higher one, this home is over.
    #[error("the home's term is {theirs:?}, the channel is open under {ours:?}")]
    Term {
        /// The home's.
        theirs: Term,
        /// The head's.
        ours: Term,
    },
    /// The channel's history began anew since the home opened it.
    #[error("the home's epoch is {theirs}, the channel's is {ours}")]
    Epoch {
        /// The home's.
        theirs: Epoch,
        /// The head's.
        ours: Epoch,
    },
    /// The home counts differently: an append whose outcome it does not know was stored, or it lost one.
    #[error("the home's next offset is {theirs}, the channel's is {ours}")]
    Offset {
        /// The home's.
        theirs: Offset,
        /// The head's.
        ours: Offset,
    },
    /// The channel keeps no history.
    #[error("the channel keeps no history")]
    NoHistory,
}

impl HomeError {
    /// The code that goes to the data node: [`Code::Fenced`] for a home that is over, [`Code::UnknownOutcome`] for one that has to open the
    /// channel again and see what is stored.
    pub const fn code(&self) -> Code {
        match self {
            Self::NoHistory => Code::NoHistory,
            Self::Term { theirs, ours } if theirs.0 < ours.0 => Code::Fenced,
            Self::Term { .. } | Self::NotOpen | Self::Epoch { .. } | Self::Offset { .. } => Code::UnknownOutcome,
        }
    }
}

impl From<HomeError> for Refusal {
    fn from(error: HomeError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Up to so many producers of a batch, each message's is looked for one by one.
const LOOKED_THROUGH_MAX: usize = 8;

/// The messages of one append, sorted by producer.
#[derive(Debug)]
pub struct Batch<'a> {
    messages: &'a [NewMessage],
    /// In the order of their first message.
    producers: Vec<(&'a UserId, Producer)>,
    /// Index in `producers`, for each message.
    producer_of: Vec<u32>,
}

impl<'a> Batch<'a> {
    /// Takes the messages of an append; at most `u32::MAX`.
    pub fn new(messages: &'a [NewMessage]) -> Self {
        let mut producers = Vec::new();
        let mut known: HashMap<(&UserId, Producer), u32> = HashMap::new();
        let mut producer_of = Vec::with_capacity(messages.len());
        for message in messages {
            let key = (&message.user, message.producer);
            // A batch of few producers, the usual case, hashes nothing.
            let index = if producers.len() <= LOOKED_THROUGH_MAX {
                producers.iter().position(|known| *known == key).map(|index| u32::try_from(index).unwrap_or(u32::MAX))
            } else {
                if known.is_empty() {
                    known.extend(producers.iter().copied().zip(0..));
                }
                known.get(&key).copied()
            };
            producer_of.push(index.unwrap_or_else(|| {
                let next = u32::try_from(producers.len()).unwrap_or(u32::MAX);
                producers.push(key);
                if !known.is_empty() {
                    known.insert(key, next);
                }
                next
            }));
        }
        Self { messages, producers, producer_of }
    }

    /// The producers whose rows the plan needs, each once.
    pub fn producers(&self) -> &[(&'a UserId, Producer)] {
        &self.producers
    }

    /// Decides what becomes of each message of a home that sees the channel so.
    ///
    /// `rows` are the producers' rows in the order of [`Batch::producers`], `None` for one that is not known. Durable: a message is stored if it
    /// is its producer's next. Windowed: all are stored, because they were delivered.
    ///
    /// # Errors
    /// [`HomeError`]: nothing is to be stored; the home must open the channel again.
    pub fn plan(
        &self,
        view: HomeView,
        head: Option<&ChannelHead>,
        rows: Vec<Option<ProducerRow>>,
    ) -> Result<AppendPlan, HomeError> {
        assert_eq!(rows.len(), self.producers.len(), "one row per producer");
        let head = head.ok_or(HomeError::NotOpen)?;
        head.check(view)?;

        let mut rows: Vec<_> = rows.into_iter().map(PlannedRow::new).collect();
        let mut outcomes = Vec::with_capacity(self.messages.len());
        let mut next_offset = head.next_offset;
        for (message, &producer) in self.messages.iter().zip(&self.producer_of) {
            let row = &mut rows[producer as usize];
            let outcome = match head.history {
                HistoryClass::Durable => judge(row.row.as_ref(), message.sequence, next_offset),
                HistoryClass::Windowed => AppendOutcome::Stored(next_offset),
                HistoryClass::None => return Err(HomeError::NoHistory),
            };
            if let AppendOutcome::Stored(offset) = outcome {
                row.accept(message.sequence, offset);
                next_offset = offset.next();
            }
            outcomes.push(outcome);
        }
        Ok(AppendPlan { head: ChannelHead { next_offset, ..*head }, outcomes, rows })
    }
}

fn judge(row: Option<&ProducerRow>, sequence: ProducerSequence, next_offset: Offset) -> AppendOutcome {
    let expected = row.map_or(ProducerSequence::FIRST, |row| row.last().next());
    match sequence.cmp(&expected) {
        std::cmp::Ordering::Equal => AppendOutcome::Stored(next_offset),
        std::cmp::Ordering::Less => AppendOutcome::Duplicate(row.and_then(|row| row.offset(sequence))),
        std::cmp::Ordering::Greater => AppendOutcome::OutOfOrder { expected },
    }
}

/// What an append does: put the head, the stored messages and the changed rows, or nothing if [`AppendPlan::is_empty`].
#[derive(Debug)]
pub struct AppendPlan {
    /// The head afterwards.
    pub head: ChannelHead,
    /// One for each message, in order.
    pub outcomes: Vec<AppendOutcome>,
    rows: Vec<PlannedRow>,
}

impl AppendPlan {
    /// Whether nothing is stored. The head must still have been read in a transaction that is committed, so that an answer
    /// from an outdated home is fenced.
    pub fn is_empty(&self) -> bool {
        !self.outcomes.iter().any(|outcome| matches!(outcome, AppendOutcome::Stored(_)))
    }

    /// The messages to put, with their places, in ascending order.
    pub fn stored<'m>(&self, messages: &'m [NewMessage]) -> impl Iterator<Item = (Offset, &'m NewMessage)> {
        self.outcomes.iter().zip(messages).filter_map(|(outcome, message)| match outcome {
            AppendOutcome::Stored(offset) => Some((*offset, message)),
            _ => None,
        })
    }

    /// The rows to put: index in [`Batch::producers`], the row, and whether it is new.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &ProducerRow, RowChange)> {
        self.rows.iter().enumerate().filter_map(|(index, planned)| match (&planned.row, planned.change) {
            (Some(row), Some(change)) => Some((index, row, change)),
            _ => None,
        })
    }
}

/// Whether a row that is to be put was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// It was not: the producer's first message.
    New,
    /// It was.
    Changed,
}

#[derive(Debug)]
struct PlannedRow {
    row: Option<ProducerRow>,
    change: Option<RowChange>,
}

impl PlannedRow {
    fn new(row: Option<ProducerRow>) -> Self {
        Self { row, change: None }
    }

    fn accept(&mut self, sequence: ProducerSequence, offset: Offset) {
        match &mut self.row {
            Some(row) => {
                row.accept(sequence, offset);
                self.change.get_or_insert(RowChange::Changed);
            }
            None => {
                self.row = Some(ProducerRow::new(sequence, offset));
                self.change = Some(RowChange::New);
            }
        }
    }
}
