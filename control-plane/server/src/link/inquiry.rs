//! What the control node asks a data node in an operator's name, and waits for.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{NodeBody, NodeFrame};
use tokio::sync::oneshot;

use super::{Active, Shared};
use crate::data_plane::LinkedNode;

/// Questions that may wait for their answer.
const INQUIRIES_MAX: usize = 64;

type Answers = HashMap<u64, oneshot::Sender<Result<NodeBody, Refusal>>>;

/// Questions of a link that wait for their answer.
#[derive(Default)]
pub(super) struct Inquiries(Mutex<Answers>);

impl Inquiries {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to whoever waits for it. Whoever gave up has gone, and that is fine.
    pub(super) fn answered(&self, id: u64, answer: Result<NodeBody, Refusal>) {
        if let Some(waiting) = self.answers().remove(&id) {
            drop(waiting.send(answer));
        }
    }

    /// The link has ended: nobody is answered any more.
    pub(super) fn clear(&self) {
        self.answers().clear();
    }
}

/// Takes a waiting question off the list, however its future ends.
struct Waiting<'a>(&'a Inquiries, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.answers().remove(&self.1);
    }
}

impl Shared {
    /// See [`DataPlane::ask`](crate::DataPlane::ask).
    pub(super) async fn ask(&self, node: &str, question: NodeBody, patience: Duration) -> Result<NodeBody, Refusal> {
        let unavailable = |what: &str| Refusal::new(Code::Unavailable, what).after(Duration::from_secs(1));
        let active = self.active().filter(|active| active.node == node && active.ready.load(Ordering::Acquire));
        let active = active.ok_or_else(|| unavailable("this data node is not linked"))?;
        let id = active.publish_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut answers = active.inquiries.answers();
            if answers.len() >= INQUIRIES_MAX {
                return Err(Refusal::new(Code::Busy, format!("{INQUIRIES_MAX} questions wait for the data node")));
            }
            answers.insert(id, answer);
        }
        let _waiting = Waiting(&active.inquiries, id);
        match active.outbox.urgent(&NodeFrame { id, body: question }) {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::new(Code::Busy, "too much waits for the data node")),
            Err(_end) => return Err(unavailable("this data node is not linked")),
        }
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(unavailable("the link to the data node was cut")),
            Err(_elapsed) => Err(unavailable("the data node did not answer in time")),
        }
    }

    pub(super) fn nodes(&self) -> Vec<LinkedNode> {
        self.active().iter().map(|active| active.linked()).collect()
    }
}

impl Active {
    fn linked(&self) -> LinkedNode {
        LinkedNode {
            name: self.node.clone(),
            endpoints: self.endpoints.clone(),
            linked_ms: self.linked_ms,
            term: millrace_protocol::id::Term(self.term.load(Ordering::Acquire)),
            ready: self.ready.load(Ordering::Acquire),
        }
    }
}
