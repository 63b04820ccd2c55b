//! A data plane that remembers what it was told.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use millrace_control::{DataPlane, LinkedNode};
use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::{Epoch, Position, Term};
use millrace_protocol::node::{Inspected, NodeBody, NodeFigures, PublishOrder, PublishedAt, ShardFigures};
use millrace_store::BoxFuture;
use tokio::sync::Semaphore;

/// What it was told, and how it answers.
pub(crate) struct FakePlane {
    told: Mutex<Vec<NodeBody>>,
    orders: Mutex<Vec<PublishOrder>>,
    refusal: Mutex<Option<Refusal>>,
    /// The data nodes that are linked, and what each answers when it is inspected; `None` does not answer at all.
    nodes: Mutex<Vec<(LinkedNode, Option<Inspected>)>>,
    /// What operators asked, but for figures; and how often for those.
    asked: Mutex<(Vec<(String, NodeBody)>, u64)>,
    endpoints: Mutex<Vec<String>>,
    certificate_hashes: Mutex<Vec<[u8; 32]>>,
    /// One permit lets one publish pass; plenty unless a test takes them away.
    pub(crate) gate: Semaphore,
}

impl Default for FakePlane {
    fn default() -> Self {
        Self {
            told: Mutex::default(),
            orders: Mutex::default(),
            refusal: Mutex::default(),
            nodes: Mutex::default(),
            asked: Mutex::default(),
            endpoints: Mutex::default(),
            certificate_hashes: Mutex::default(),
            gate: Semaphore::new(1_000),
        }
    }
}

impl FakePlane {
    /// What was announced since the last question.
    pub(crate) fn told(&self) -> Vec<NodeBody> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// What was published so far.
    pub(crate) fn orders(&self) -> Vec<PublishOrder> {
        self.orders.lock().unwrap().clone()
    }

    /// Refuses from now on.
    pub(crate) fn refuse(&self, code: Code) {
        *self.refusal.lock().unwrap() = Some(Refusal::new(code, "as the test wants"));
    }

    /// Links a data node of two shards, which answers so when it is inspected.
    pub(crate) fn link(&self, name: &str, inspected: Option<Inspected>) {
        let (endpoints, linked_ms, term) = (vec!["ws://localhost".into()], 1_000, Term(7));
        let node = LinkedNode { name: name.into(), endpoints, linked_ms, term, ready: true };
        self.nodes.lock().unwrap().push((node, inspected));
    }

    /// Cuts every link.
    pub(crate) fn unlink(&self) {
        self.nodes.lock().unwrap().clear();
    }

    /// What operators asked so far, but for figures.
    pub(crate) fn asked(&self) -> Vec<(String, NodeBody)> {
        self.asked.lock().unwrap().0.clone()
    }

    fn answer(&self, node: &str, question: NodeBody) -> Result<NodeBody, Refusal> {
        let silent = || Refusal::new(Code::Unavailable, "the data node did not answer in time");
        let inspected = {
            let nodes = self.nodes.lock().unwrap();
            let (_, inspected) = nodes.iter().find(|(linked, _)| linked.name == node).ok_or_else(silent)?;
            inspected.clone().ok_or_else(silent)?
        };
        let mut asked = self.asked.lock().unwrap();
        if question == NodeBody::Report {
            asked.1 += 1;
            let shard = ShardFigures {
                answers: true,
                slots: 512,
                sessions: 3,
                deliveries: 1_000 * asked.1,
                turns: asked.1,
                cpu_us: 50 * asked.1,
                ring_slots: 16,
                ..ShardFigures::default()
            };
            let figures = NodeFigures {
                version: "1.2.3".into(),
                connections: 6,
                shards: vec![shard; 2],
                ..NodeFigures::default()
            };
            return Ok(NodeBody::Reported(figures));
        }
        asked.0.push((node.to_owned(), question.clone()));
        match question {
            NodeBody::Inspect(_) => Ok(NodeBody::Inspected(inspected)),
            NodeBody::Drain { .. } => Ok(NodeBody::Draining),
            other => panic!("{other:?} is no question"),
        }
    }

    /// Is reached there from now on.
    pub(crate) fn reached_at(&self, endpoints: &[&str]) {
        *self.endpoints.lock().unwrap() = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
    }

    /// What the data nodes show is known by these.
    pub(crate) fn shows(&self, hashes: &[[u8; 32]]) {
        *self.certificate_hashes.lock().unwrap() = hashes.to_vec();
    }

    fn accept(&self, order: &PublishOrder) -> PublishedAt {
        let mut orders = self.orders.lock().unwrap();
        let mut places = HashMap::new();
        for (index, earlier) in (1u64..).zip(orders.iter()) {
            places.insert((earlier.message.user.clone(), earlier.message.producer), index);
        }
        let before = places.get(&(order.message.user.clone(), order.message.producer)).copied();
        if before.is_none() {
            orders.push(order.clone());
        }
        let offset = before.unwrap_or(orders.len() as u64);
        let time_ms = if before.is_some() { 0 } else { 1_000 };
        PublishedAt { position: Position { epoch: Epoch::FIRST, offset }, time_ms, duplicate: before.is_some() }
    }
}

impl DataPlane for FakePlane {
    fn publish(&self, order: PublishOrder) -> BoxFuture<'_, Result<PublishedAt, Refusal>> {
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            Ok(self.accept(&order))
        })
    }

    fn announce(&self, change: NodeBody) {
        self.told.lock().unwrap().push(change);
    }

    fn is_linked(&self) -> bool {
        self.refusal.lock().unwrap().is_none()
    }

    fn nodes(&self) -> Vec<LinkedNode> {
        self.nodes.lock().unwrap().iter().map(|(node, _)| node.clone()).collect()
    }

    fn ask<'a>(&'a self, node: &'a str, question: NodeBody, _: Duration) -> BoxFuture<'a, Result<NodeBody, Refusal>> {
        Box::pin(async move { self.answer(node, question) })
    }

    fn endpoints(&self) -> Vec<String> {
        self.endpoints.lock().unwrap().clone()
    }

    fn certificate_hashes(&self) -> Vec<[u8; 32]> {
        self.certificate_hashes.lock().unwrap().clone()
    }
}

/// Whether an announcement says that a user is no member any more.
pub(crate) fn ends_membership(told: &NodeBody, user: &str) -> bool {
    matches!(told, NodeBody::MemberChanged(changed) if changed.user.as_str() == user && changed.membership.is_none())
}
