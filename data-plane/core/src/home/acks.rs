//! What publishers are told: one hop for each shard and batch, or the answer to an order of the control plane.

use millrace_protocol::code::Refusal;
use millrace_protocol::node::{NewMessage, NodeBody, PublishedAt};
use millrace_protocol::{ChannelId, Code, ProducerSequence};

use super::{Context, Waiting};
use crate::hop::{Ack, Acks, HopBody, Origin, Outcome};
use crate::{SessionKey, ShardIndex};

/// Acknowledgements of one channel, one hop for each shard.
pub(super) struct Answers {
    channel: ChannelId,
    shards: Vec<(ShardIndex, Vec<Ack>)>,
}

impl Answers {
    pub(super) fn new(channel: ChannelId) -> Self {
        Self { channel, shards: Vec::new() }
    }

    pub(super) fn refuse(&mut self, context: &mut Context<'_>, waiting: &Waiting, code: Code) {
        let retry_after_ms = match code {
            // A batch takes some milliseconds; this spreads those that come back.
            Code::Busy => 50,
            _ => 0,
        };
        self.add(context, waiting, Outcome::Refused { code, retry_after_ms });
    }

    pub(super) fn add(&mut self, context: &mut Context<'_>, waiting: &Waiting, outcome: Outcome) {
        if matches!(outcome, Outcome::Duplicate(_)) {
            context.stats.duplicates_total += 1;
        }
        match waiting.origin {
            Origin::Session { shard, session, request } => self.add_session(shard, session, request, waiting, outcome),
            Origin::Order { id, link } => {
                let result = published(outcome, waiting.message.time_ms);
                context.backplane.reply(link, id, NodeBody::Published(result));
            }
        }
    }

    fn add_session(
        &mut self,
        shard: ShardIndex,
        session: SessionKey,
        request: u32,
        waiting: &Waiting,
        outcome: Outcome,
    ) {
        let NewMessage { producer, sequence, .. } = waiting.message;
        let ack = Ack { session, request, producer, sequence, since: waiting.since, outcome };
        match self.shards.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, acks)) => acks.push(ack),
            None => self.shards.push((shard, vec![ack])),
        }
    }

    pub(super) fn send(self, context: &mut Context<'_>) {
        for (shard, acks) in self.shards {
            context.links.send(shard, HopBody::Acks(Box::new(Acks { channel: self.channel, acks })));
        }
    }
}

fn published(outcome: Outcome, time_ms: i64) -> Result<PublishedAt, Refusal> {
    match outcome {
        Outcome::Accepted(position) => Ok(PublishedAt { position, time_ms, duplicate: false }),
        Outcome::Duplicate(position) => Ok(PublishedAt { position, time_ms: 0, duplicate: true }),
        Outcome::OutOfOrder { expected } => Err(Refusal::new(Code::OutOfOrder, out_of_order(expected))),
        Outcome::Refused { code, retry_after_ms } => {
            let delay = std::time::Duration::from_millis(retry_after_ms.into());
            Err(Refusal::new(code, code.meaning().trim()).after(delay))
        }
    }
}

pub(crate) fn out_of_order(expected: ProducerSequence) -> String {
    format!("sequence {expected} was expected")
}
