//! Requests to the control plane and what each was about.

use std::collections::VecDeque;

use millrace_protocol::node::{NodeBody, NodeFrame};
use millrace_protocol::{ChannelId, Term};
use rustc_hash::FxHashMap;

use crate::grant::Question;
use crate::home::HomeKey;
use crate::reads::Marked;
use crate::{SessionKey, ShardIndex};

pub(crate) struct Backplane {
    index: ShardIndex,
    /// While the link is up.
    term: Option<Term>,
    /// Links so far: answers to an order go on the link that it came on.
    link: u32,
    last: u64,
    pending: FxHashMap<u64, Pending>,
    frames: VecDeque<NodeFrame>,
}

/// What a request was about.
#[derive(Debug)]
pub(crate) enum Pending {
    Authorize(Vec<Question>),
    Reauthorize(Vec<(SessionKey, ChannelId)>),
    Open(Vec<HomeKey>),
    Append(Vec<HomeKey>),
    /// With the number of the home's read.
    Read(HomeKey, u32),
    Close(Vec<HomeKey>),
    Marks(Vec<Marked>),
}

impl Backplane {
    pub(crate) fn new(index: ShardIndex) -> Self {
        Self { index, term: None, link: 0, last: 0, pending: FxHashMap::default(), frames: VecDeque::new() }
    }

    pub(crate) fn term(&self) -> Option<Term> {
        self.term
    }

    pub(crate) fn link(&self) -> u32 {
        self.link
    }

    pub(crate) fn up(&mut self, term: Term) {
        self.term = Some(term);
        self.link += 1;
    }

    /// Gives everything that will not be answered.
    pub(crate) fn down(&mut self) -> Vec<Pending> {
        self.term = None;
        self.frames = VecDeque::new();
        std::mem::take(&mut self.pending).into_values().collect()
    }

    pub(crate) fn ask(&mut self, body: NodeBody, about: Pending) {
        self.last += 1;
        let id = u64::from(self.index.0) << 48 | self.last;
        self.pending.insert(id, about);
        self.frames.push_back(NodeFrame { id, body });
    }

    /// Answers an order that came on link `link`.
    pub(crate) fn reply(&mut self, link: u32, id: u64, body: NodeBody) {
        if self.term.is_some() && link == self.link {
            self.frames.push_back(NodeFrame { id, body });
        }
    }

    pub(crate) fn answered(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id);
        if self.pending.is_empty() && self.pending.capacity() > 256 {
            self.pending = FxHashMap::default();
        }
        pending
    }

    pub(crate) fn poll(&mut self) -> Option<NodeFrame> {
        self.frames.pop_front()
    }

    /// No request is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}
