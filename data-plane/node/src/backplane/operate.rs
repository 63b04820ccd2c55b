//! What the control plane asks in an operator's name: figures, who is here and what went wrong with them, a drain.
//!
//! Shards answer between two turns; waiting for them is a task, so the router goes on. Few questions are under way at one time, and
//! none for longer than [`ANSWER_LIMIT`].

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::Term;
use millrace_protocol::node::{DRAIN_MS_MAX, INSPECT_ROWS_MAX, Inspect, Inspected, NodeBody, NodeFrame};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Command, Outgoing, Router, ToShard};
use crate::figures::figures;
use crate::machine::Usage;

/// Questions under way at one time; more are refused.
pub(super) const QUESTIONS_MAX: usize = 8;
/// A shard that takes longer is left out of the answer. Below the control plane's own patience.
const ANSWER_LIMIT: Duration = Duration::from_millis(800);

/// Where an answer goes.
struct Reply {
    to_link: mpsc::WeakSender<Outgoing>,
    term: Term,
    id: u64,
}

impl Reply {
    async fn send(self, body: NodeBody) {
        let Self { to_link, term, id } = self;
        // Who asked waits only as long as the link lives.
        if let Some(to_link) = to_link.upgrade() {
            let _ = to_link.send(Outgoing { term, frame: NodeFrame { id, body } }).await;
        }
    }
}

impl Router {
    /// Answers one of the frames that are for operators.
    pub(super) fn handle_operator(&mut self, frame: NodeFrame) {
        let Some(term) = self.term else { return };
        let NodeFrame { id, body } = frame;
        let reply = Reply { to_link: self.to_link.clone(), term, id };
        if let NodeBody::Drain { over_ms } = body {
            tracing::info!(over_ms, "the control plane orders a drain");
            self.handle_command(Some(Command::Drain(Duration::from_millis(over_ms.min(DRAIN_MS_MAX).into()))));
            tokio::spawn(reply.send(NodeBody::Draining));
            return;
        }
        let Ok(place) = Arc::clone(&self.questions).try_acquire_owned() else {
            let refusal = Refusal::new(Code::Busy, "too many questions at once");
            tokio::spawn(reply.send(NodeBody::Refused(refusal)));
            return;
        };
        let deadline = Instant::now() + ANSWER_LIMIT;
        if let NodeBody::Inspect(question) = body {
            let found = self.inspect(question, deadline);
            tokio::spawn(async move {
                reply.send(NodeBody::Inspected(found.await)).await;
                drop(place);
            });
        } else {
            let (report, started_ms) = (self.ask_reports(deadline), self.started_ms);
            tokio::spawn(async move {
                let mut report = report.await;
                report.usage = Usage::brief();
                reply.send(NodeBody::Reported(figures(&report, started_ms))).await;
                drop(place);
            });
        }
    }

    fn inspect(&mut self, question: Inspect, deadline: Instant) -> impl Future<Output = Inspected> + use<> {
        let question = Arc::new(question);
        let mut answers = Vec::with_capacity(self.backlog.len());
        for shard in 0..self.backlog.len() {
            let (answer, receiver) = oneshot::channel();
            self.push(shard, ToShard::Inspect(Arc::clone(&question), answer));
            answers.push(receiver);
        }
        async move {
            let mut parts = Vec::with_capacity(answers.len());
            for answer in answers {
                parts.push(timeout_at(deadline, answer).await.ok().and_then(Result::ok));
            }
            merge(parts, question.rows_max)
        }
    }
}

/// One answer out of those of all shards; `None` is a shard that did not answer.
fn merge(parts: Vec<Option<Inspected>>, rows_max: u16) -> Inspected {
    let rows_max = usize::from(rows_max.clamp(1, INSPECT_ROWS_MAX));
    let mut all = Inspected::default();
    for part in parts {
        let Some(part) = part else {
            all.shards_silent += 1;
            continue;
        };
        all.sessions.extend(part.sessions);
        all.sessions_total = all.sessions_total.saturating_add(part.sessions_total);
        all.incidents.extend(part.incidents);
        all.incidents_more |= part.incidents_more;
        all.home = all.home.or(part.home);
    }
    all.sessions.sort_by_key(|session| std::cmp::Reverse(session.connected_ms));
    all.sessions.truncate(rows_max);
    all.incidents.sort_by_key(|incident| std::cmp::Reverse(incident.time_ms));
    all.incidents_more |= all.incidents.len() > rows_max;
    all.incidents.truncate(rows_max);
    all
}

#[cfg(test)]
mod tests {
    use millrace_protocol::node::{Incident, IncidentKind, SessionView, Transport};
    use millrace_protocol::{SessionId, UserId};

    use super::*;

    fn session(connected_ms: i64) -> SessionView {
        SessionView {
            id: SessionId([1; 16]),
            user: UserId::new("ann").expect("a name"),
            remote: String::new(),
            agent: String::new(),
            shard: 0,
            transport: Transport::WebSocket,
            connected_ms,
            heard_ms: 0,
            token_expires_ms: 0,
            queued_bytes: 0,
            stalled_ms: 0,
            subscriptions: Vec::new(),
            subscriptions_total: 0,
        }
    }

    fn incident(time_ms: i64) -> Incident {
        Incident {
            time_ms,
            kind: IncidentKind::Ended,
            code: 0,
            session: SessionId([1; 16]),
            user: UserId::new("ann").expect("a name"),
            reason: String::new(),
            count: 1,
            channels: Vec::new(),
        }
    }

    #[test]
    fn the_newest_of_all_shards_come_first_and_the_rest_is_counted() {
        let part = |sessions: &[i64], incidents: &[i64]| Inspected {
            sessions: sessions.iter().map(|&at| session(at)).collect(),
            sessions_total: u32::try_from(sessions.len()).expect("few"),
            incidents: incidents.iter().map(|&at| incident(at)).collect(),
            ..Inspected::default()
        };
        let parts = || vec![Some(part(&[5, 1], &[9])), None, Some(part(&[3], &[8, 2]))];
        let check = |rows_max: u16, sessions: &[i64], incidents: &[i64], more: bool| {
            let all = merge(parts(), rows_max);
            assert_eq!(all.sessions.iter().map(|session| session.connected_ms).collect::<Vec<_>>(), sessions);
            assert_eq!(all.incidents.iter().map(|incident| incident.time_ms).collect::<Vec<_>>(), incidents);
            assert_eq!((all.sessions_total, all.shards_silent, all.incidents_more), (3, 1, more), "{rows_max}");
        };
        check(10, &[5, 3, 1], &[9, 8, 2], false);
        check(2, &[5, 3], &[9, 8], true);
        // Nobody can ask for nothing, or for everything.
        check(0, &[5], &[9], true);
        check(u16::MAX, &[5, 3, 1], &[9, 8, 2], false);
    }
}
