//! Where a channel stands, and whose home may append to it.

use millrace_protocol::id::{Epoch, Offset, Term};
use millrace_protocol::node::{Head, HistoryClass, ProducerState};

use super::HomeError;

/// Whether a home has the channel open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeState {
    /// A home may append under the head's term. If it is gone, it did not say farewell.
    Open,
    /// The last home gave the channel back with everything stored that was delivered.
    Closed,
}

/// Where a home believes that its channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeView {
    /// Its term.
    pub term: Term,
    /// Its epoch.
    pub epoch: Epoch,
    /// Offset of the next message.
    pub next_offset: Offset,
}

/// Where a channel stands. Read and written back by every append, which is what fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelHead {
    /// The present epoch.
    pub epoch: Epoch,
    /// Offset of the next message.
    pub next_offset: Offset,
    /// Oldest offset still stored; `next_offset` when nothing is.
    pub first_offset: Offset,
    /// First offset of the present epoch.
    pub epoch_first_offset: Offset,
    /// What is kept.
    pub history: HistoryClass,
    /// Term of the link whose home opened the channel last.
    pub term: Term,
    /// Whether that home still has it.
    pub home: HomeState,
}

impl ChannelHead {
    /// The head of a channel without messages that no home has opened.
    pub const fn empty(history: HistoryClass) -> Self {
        Self {
            epoch: Epoch::FIRST,
            next_offset: Offset::FIRST,
            first_offset: Offset::FIRST,
            epoch_first_offset: Offset::FIRST,
            history,
            term: Term(0),
            home: HomeState::Closed,
        }
    }

    /// The head once a home of this term has opened the channel.
    ///
    /// A windowed channel whose last home did not close it begins a new epoch: that home may have delivered messages which were not stored.
    /// That holds under the same term too, because nobody can tell what a home forgot that opens twice.
    ///
    /// # Errors
    /// [`HomeError::Term`] if a newer link has opened the channel.
    pub fn open(&self, term: Term, history: HistoryClass) -> Result<Self, HomeError> {
        if term < self.term {
            return Err(HomeError::Term { theirs: term, ours: self.term });
        }
        let mut opened = Self { history, term, home: HomeState::Open, ..*self };
        if self.history == HistoryClass::Windowed && self.home == HomeState::Open {
            opened.epoch = self.epoch.next();
            opened.epoch_first_offset = self.next_offset;
        }
        Ok(opened)
    }

    /// The head once its home has closed the channel.
    ///
    /// # Errors
    /// [`HomeError`] if the home's view is not the head's: the head stays open, so that a windowed channel's next home begins a new epoch.
    pub fn close(&self, view: HomeView) -> Result<Self, HomeError> {
        self.check(view)?;
        Ok(Self { home: HomeState::Closed, ..*self })
    }

    /// Whether a home that sees the channel so may append.
    pub(super) fn check(&self, view: HomeView) -> Result<(), HomeError> {
        if view.term != self.term {
            return Err(HomeError::Term { theirs: view.term, ours: self.term });
        }
        if self.home == HomeState::Closed {
            return Err(HomeError::NotOpen);
        }
        if view.epoch != self.epoch {
            return Err(HomeError::Epoch { theirs: view.epoch, ours: self.epoch });
        }
        if view.next_offset != self.next_offset {
            return Err(HomeError::Offset { theirs: view.next_offset, ours: self.next_offset });
        }
        Ok(())
    }

    /// What the home gets to know.
    pub fn to_node(&self, producers: Vec<ProducerState>) -> Head {
        Head {
            epoch: self.epoch,
            next_offset: self.next_offset,
            first_offset: self.first_offset,
            epoch_first_offset: self.epoch_first_offset,
            history: self.history,
            producers,
        }
    }
}
