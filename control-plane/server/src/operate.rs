//! What operators see of the data nodes: who is linked, each one's newest figures, and the last ten minutes of them for plots.
//!
//! The state is a plain value that is told the time; [`watch`] feeds it from the data plane. It is bounded: [`STEPS_MAX`] samples
//! for each node and each of its shards, and [`GONE_MAX`] nodes that are gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_protocol::node::NodeFigures;

use crate::data_plane::LinkedNode;

pub(crate) mod latency;
pub(crate) mod series;
pub(crate) mod watch;

use self::latency::Latencies;
use self::series::{Sample, Series, sample};

/// Samples that are kept: ten minutes at one a second.
pub(crate) const STEPS_MAX: usize = 600;
/// How long a node that is gone is still shown.
const GONE_SHOWN: Duration = Duration::from_secs(600);
/// Nodes that are gone and still shown.
const GONE_MAX: usize = 64;

/// The time of an event: for people, and for rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Unix time, ms.
    pub(crate) unix_ms: i64,
    /// Since some time before; steady.
    pub(crate) steady: Duration,
}

/// All nodes, and how long the control node takes for its part.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<State>);

/// What [`Fleet`] guards.
#[derive(Default)]
pub(crate) struct State {
    nodes: BTreeMap<String, Node>,
    pub(crate) latencies: Latencies,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// Linked, and being told keys and revocations.
    Starting,
    /// Serves.
    Serving,
    /// Sends its clients away.
    Draining,
    /// Linked, and left the last question for its figures unanswered.
    Silent,
    /// Not linked any more.
    Gone,
}

/// One data node.
pub(crate) struct Node {
    pub(crate) linked: LinkedNode,
    /// The newest, with the time they came.
    figures: Option<(Duration, NodeFigures)>,
    /// The last question was answered.
    answers: bool,
    /// When a drain ends at the latest, if one was ordered.
    pub(crate) drain_ends_ms: Option<i64>,
    /// When its link ended.
    pub(crate) gone_ms: Option<i64>,
    /// Of the whole node, then of each shard.
    series: Vec<Series>,
}

impl Fleet {
    /// A look at everything, or a change of it. Nothing waits meanwhile.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes note of which nodes are linked.
    pub(crate) fn see(&mut self, now: Moment, linked: &[LinkedNode]) {
        for of in linked {
            match self.nodes.get_mut(&of.name) {
                Some(node) => {
                    if node.linked.term != of.term {
                        // Another link: what was known of the last one is over.
                        (node.drain_ends_ms, node.figures, node.answers) = (None, None, true);
                    }
                    (node.linked, node.gone_ms) = (of.clone(), None);
                }
                None => {
                    self.nodes.insert(of.name.clone(), Node::new(of.clone()));
                }
            }
        }
        for node in self.nodes.values_mut().filter(|node| !linked.iter().any(|of| of.name == node.linked.name)) {
            node.gone_ms.get_or_insert(now.unix_ms);
        }
        let shown_ms = i64::try_from(GONE_SHOWN.as_millis()).unwrap_or(i64::MAX);
        self.nodes.retain(|_, node| node.gone_ms.is_none_or(|gone_ms| now.unix_ms - gone_ms < shown_ms));
        while self.nodes.values().filter(|node| node.gone_ms.is_some()).count() > GONE_MAX {
            let gone = self.nodes.iter().filter_map(|(name, node)| Some((node.gone_ms?, name.clone())));
            let Some((_, oldest)) = gone.min() else { break };
            self.nodes.remove(&oldest);
        }
    }

    /// Takes a node's answer in; `None` if it gave none.
    pub(crate) fn observe(&mut self, now: Moment, name: &str, figures: Option<NodeFigures>) {
        let recent = self.latencies.recent();
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.answers = figures.is_some();
        let Some(figures) = figures else { return };
        let before = node.figures.as_ref().map(|(at, figures)| (now.steady.saturating_sub(*at), figures));
        let (mut whole, shards) = sample(now.unix_ms, before, &figures);
        (whole.append_p50_ms, whole.append_p99_ms) = recent;
        node.series.resize_with(1 + shards.len(), Series::default);
        for (series, sample) in node.series.iter_mut().zip(std::iter::once(whole).chain(shards)) {
            series.push(sample);
        }
        node.figures = Some((now.steady, figures));
    }

    /// A node was told to drain.
    pub(crate) fn drains(&mut self, name: &str, ends_ms: i64) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.drain_ends_ms.get_or_insert(ends_ms);
        }
    }

    /// By name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One of them.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }
}

impl Node {
    fn new(linked: LinkedNode) -> Self {
        Self { linked, figures: None, answers: true, drain_ends_ms: None, gone_ms: None, series: Vec::new() }
    }

    /// How it is.
    pub(crate) fn state(&self) -> NodeState {
        let draining = self.drain_ends_ms.is_some() || self.figures().is_some_and(|figures| figures.draining);
        match self.gone_ms {
            Some(_) => NodeState::Gone,
            None if draining => NodeState::Draining,
            None if !self.linked.ready => NodeState::Starting,
            None if !self.answers => NodeState::Silent,
            None => NodeState::Serving,
        }
    }

    /// Its newest figures.
    pub(crate) fn figures(&self) -> Option<&NodeFigures> {
        self.figures.as_ref().map(|(_, figures)| figures)
    }

    /// The samples of the whole node, or of a shard.
    pub(crate) fn series(&self, shard: Option<u16>) -> Option<&Series> {
        self.series.get(shard.map_or(0, |shard| usize::from(shard) + 1))
    }

    /// The newest sample of the whole node, or of a shard.
    pub(crate) fn newest(&self, shard: Option<u16>) -> Option<&Sample> {
        self.series(shard).and_then(Series::newest)
    }
}

#[cfg(test)]
mod tests;
