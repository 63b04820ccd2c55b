//! A home as an operator sees it.

use millrace_protocol::node::{HomeState, HomeView};

use super::{Home, State};
use crate::ShardIndex;

impl Home {
    /// How it stands, on this shard.
    pub(crate) fn view(&self, shard: ShardIndex) -> HomeView {
        let known = self.is_known();
        let behind = self.behind.as_ref().map_or(0, |behind| behind.unsaved.len());
        HomeView {
            shard: shard.0,
            state: match self.state {
                State::Opening => HomeState::Opening,
                State::CatchingUp { .. } => HomeState::CatchingUp,
                State::Open => HomeState::Open,
                State::Archived => HomeState::Archived,
                State::Closing | State::Dead => HomeState::Closing,
            },
            history: self.history,
            epoch: if known { self.epoch.get() } else { 0 },
            next_offset: self.next,
            first_offset: if known { self.first } else { 0 },
            waiting: u32::try_from(self.waiting.len() + self.offered.len() + behind).unwrap_or(u32::MAX),
            shards: u16::try_from(self.interest.len()).unwrap_or(u16::MAX),
        }
    }
}
