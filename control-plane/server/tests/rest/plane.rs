//! A data plane that remembers what it was told.

use std::collections::HashMap;
use std::sync::Mutex;

use millrace_control::DataPlane;
use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::id::{Epoch, Position};
use millrace_protocol::node::{NodeBody, PublishOrder, PublishedAt};
use millrace_store::BoxFuture;
use tokio::sync::Semaphore;

/// What it was told, and how it answers.
pub(crate) struct FakePlane {
    told: Mutex<Vec<NodeBody>>,
    orders: Mutex<Vec<PublishOrder>>,
    refusal: Mutex<Option<Refusal>>,
    endpoints: Mutex<Vec<String>>,
    /// One permit lets one publish pass; plenty unless a test takes them away.
    pub(crate) gate: Semaphore,
}

impl Default for FakePlane {
    fn default() -> Self {
        Self {
            told: Mutex::default(),
            orders: Mutex::default(),
            refusal: Mutex::default(),
            endpoints: Mutex::default(),
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

    /// Is reached there from now on.
    pub(crate) fn reached_at(&self, endpoints: &[&str]) {
        *self.endpoints.lock().unwrap() = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
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

    fn endpoints(&self) -> Vec<String> {
        self.endpoints.lock().unwrap().clone()
    }
}

/// Whether an announcement says that a user is no member any more.
pub(crate) fn ends_membership(told: &NodeBody, user: &str) -> bool {
    matches!(told, NodeBody::MemberChanged(changed) if changed.user.as_str() == user && changed.membership.is_none())
}
