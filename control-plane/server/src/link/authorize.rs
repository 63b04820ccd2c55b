//! What users may do with channels, never older than a change that the node has been told.

use millrace_domain::in_present_epoch;
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{Authorize, ChannelRef, Grant, HistoryClass, NodeBody};
use millrace_store::StoreError;

use super::connection::Link;
use super::outbox::Queued;
use super::{LinkEnd, refusal};
use crate::record;

/// How often grants are looked up again because a change concerned them.
const ROUNDS_MAX: u32 = 8;
/// Look-ups in one transaction: at most four reads each, far below the store's limit.
const LOOKUPS_PER_TRANSACTION: usize = 256;

impl Link {
    /// Looks the grants up and queues the answer; see the rule in `outbox`.
    pub(super) async fn authorize(&self, id: u64, asked: Vec<Authorize>) -> Result<(), LinkEnd> {
        let mut seen = self.active.outbox.changes();
        let mut grants = Vec::with_capacity(asked.len());
        self.look_up(&asked, |grant| grants.push(grant)).await;
        for _ in 0..ROUNDS_MAX {
            let concerns = match self.active.outbox.grants(id, NodeBody::Authorized(grants.clone()), seen).await? {
                Queued::Yes => return Ok(()),
                Queued::Overlapped { concerns, changes } => {
                    seen = changes;
                    concerns
                }
            };
            let again: Vec<usize> = (0..asked.len())
                .filter(|&index| {
                    concerns.as_ref().is_none_or(|all| all.iter().any(|concern| concern.touches(&asked[index])))
                })
                .collect();
            self.shared.metrics.lookups_repeated.inc_by(again.len() as u64);
            let repeated: Vec<_> = again.iter().map(|&index| asked[index].clone()).collect();
            let mut places = again.into_iter();
            self.look_up(&repeated, |grant| {
                if let Some(place) = places.next() {
                    grants[place] = grant;
                }
            })
            .await;
        }
        let refusal = Refusal::new(Code::Busy, "memberships change too fast to look them up");
        self.active.outbox.reply(id, NodeBody::Refused(refusal)).await
    }

    async fn look_up(&self, asked: &[Authorize], mut found: impl FnMut(Result<Grant, Refusal>)) {
        for part in asked.chunks(LOOKUPS_PER_TRANSACTION) {
            let mut transaction = match self.shared.db.begin().await {
                Ok(transaction) => Some(transaction),
                Err(error) => {
                    let refusal = refusal(&error);
                    part.iter().for_each(|_| found(Err(refusal.clone())));
                    continue;
                }
            };
            for one in part {
                let result = match &mut transaction {
                    Some(open) => match look_up_one(&mut **open, one).await {
                        Ok(result) => result,
                        Err(error) => {
                            // A transaction cannot go on after an error.
                            transaction = None;
                            Err(refusal(&error))
                        }
                    },
                    None => Err(Refusal::new(Code::Unavailable, "the store cannot answer now")),
                };
                found(result);
            }
            // Reads on the embedded engines never wait, so others get a turn here.
            tokio::task::yield_now().await;
        }
    }
}

async fn look_up_one(
    transaction: &mut dyn millrace_store::Transaction,
    asked: &Authorize,
) -> Result<Result<Grant, Refusal>, StoreError> {
    let channel = match &asked.channel {
        ChannelRef::Id(id) => record::channel::by_id(transaction, *id).await?,
        ChannelRef::Name(name) => record::channel::by_name(transaction, asked.tenant, name).await?,
    };
    // A number is no secret: another tenant's channel is as good as none.
    let Some(channel) = channel.filter(|channel| channel.tenant == asked.tenant) else {
        return Ok(Err(millrace_domain::no_access()));
    };
    let mut membership = record::member::get(transaction, channel.id, &asked.user).await?;
    // Only a windowed channel's history ever begins anew.
    if channel.history == HistoryClass::Windowed
        && let Some(membership) = &mut membership
        && let Some(read) = membership.read
    {
        let head = record::head::peek(transaction, channel.id).await?;
        membership.read = Some(in_present_epoch(read, head.as_ref()));
    }
    Ok(millrace_domain::grant(&channel, membership.as_ref()))
}
