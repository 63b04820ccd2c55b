//! Which of a producer's messages were accepted last, and where they stand.

use millrace_protocol::id::{Offset, ProducerSequence};

/// Most runs that a row remembers: enough to answer the retry of a pipeline with the offsets, small enough to rewrite on every append.
pub const PRODUCER_RUNS_MAX: usize = 8;

/// Consecutive sequences that stand at consecutive offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first sequence.
    pub sequence: ProducerSequence,
    /// Its offset.
    pub offset: Offset,
    /// How many; at least 1.
    pub count: u32,
}

impl Run {
    fn last(&self) -> ProducerSequence {
        // Saturating, as `next` does: nobody sends 2^64 messages.
        let last = self.sequence.get().saturating_add(u64::from(self.count) - 1);
        ProducerSequence::new(last).unwrap_or(ProducerSequence::FIRST)
    }

    fn offset(&self, sequence: ProducerSequence) -> Option<Offset> {
        let place = sequence.get().checked_sub(self.sequence.get())?;
        (place < u64::from(self.count)).then(|| self.offset.plus(place))
    }
}

/// The last accepted sequence of a producer on a channel, and the offsets of some before it.
///
/// At least one run, at most [`PRODUCER_RUNS_MAX`]; ascending, each beginning with the sequence after the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerRow {
    runs: Vec<Run>,
}

impl ProducerRow {
    /// The row of a producer whose first known message this is.
    pub fn new(sequence: ProducerSequence, offset: Offset) -> Self {
        Self { runs: vec![Run { sequence, offset, count: 1 }] }
    }

    /// A row from its runs; `None` if they are none, too many, empty, or not consecutive.
    pub fn from_runs(runs: Vec<Run>) -> Option<Self> {
        let consecutive = || runs.windows(2).all(|pair| pair[0].last().next() == pair[1].sequence);
        let counted = runs.iter().all(|run| {
            let more = u64::from(run.count).checked_sub(1);
            more.is_some_and(|more| {
                run.sequence.get().checked_add(more).is_some() && run.offset.get().checked_add(more).is_some()
            })
        });
        // Counts first: `last` of an empty run has no meaning.
        (counted && (1..=PRODUCER_RUNS_MAX).contains(&runs.len()) && consecutive()).then_some(Self { runs })
    }

    /// Its runs, as [`ProducerRow::from_runs`] takes them.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    fn last_run(&self) -> &Run {
        self.runs.last().expect("a row has a run")
    }

    /// The last accepted sequence.
    pub fn last(&self) -> ProducerSequence {
        self.last_run().last()
    }

    /// Where the last accepted message stands.
    pub fn last_offset(&self) -> Offset {
        let run = self.last_run();
        run.offset.plus(u64::from(run.count) - 1)
    }

    /// Where an accepted message stands, if that is still known.
    pub fn offset(&self, sequence: ProducerSequence) -> Option<Offset> {
        self.runs.iter().rev().find_map(|run| run.offset(sequence))
    }

    /// Notes that a message was accepted.
    ///
    /// A sequence that does not follow the last one begins the row anew: a windowed home may have forgotten a producer and let it begin again.
    pub fn accept(&mut self, sequence: ProducerSequence, offset: Offset) {
        if sequence != self.last().next() {
            *self = Self::new(sequence, offset);
            return;
        }
        if offset == self.last_offset().next()
            && let Some(run) = self.runs.last_mut()
            && let Some(count) = run.count.checked_add(1)
        {
            run.count = count;
            return;
        }
        if self.runs.len() == PRODUCER_RUNS_MAX {
            self.runs.remove(0);
        }
        self.runs.push(Run { sequence, offset, count: 1 });
    }
}
