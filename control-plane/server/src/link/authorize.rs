//! What users may do with channels, never older than a change that the node has been told.

use std::collections::HashMap;

use millrace_domain::{further, in_present_epoch};
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{Authorize, ChannelRef, Grant, HistoryClass, NodeBody};
use millrace_protocol::{ChannelId, Code, Position, UserId};
use millrace_store::StoreError;

use super::connection::Link;
use super::outbox::{Concern, Queued};
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
        let mut rounds = 0;
        while rounds < ROUNDS_MAX {
            let concerns = match self.active.outbox.grants(id, NodeBody::Authorized(grants.clone()), seen).await? {
                Queued::Yes => return Ok(()),
                Queued::Overlapped { concerns, changes } => {
                    seen = changes;
                    concerns
                }
            };
            let again: Vec<usize> = match concerns {
                None => (0..asked.len()).collect(),
                Some(concerns) => {
                    read_on(&asked, &mut grants, &concerns);
                    let touched = |asked| concerns.iter().any(|concern| concern.touches(asked));
                    (0..asked.len()).filter(|&index| touched(&asked[index])).collect()
                }
            };
            if again.is_empty() {
                continue;
            }
            rounds += 1;
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

/// Positions that moved since the grants were looked up move in them too. Members mark what they read all the time: to look them up
/// again for it might never end.
fn read_on(asked: &[Authorize], grants: &mut [Result<Grant, Refusal>], concerns: &[Concern]) {
    let mut moved: HashMap<(ChannelId, &UserId), Position> = HashMap::new();
    for concern in concerns {
        if let Concern::Read(mark) = concern {
            let furthest = moved.entry((mark.channel, &mark.user)).or_insert(mark.position);
            *furthest = further(*furthest, mark.position);
        }
    }
    if moved.is_empty() {
        return;
    }
    for (asked, grant) in asked.iter().zip(grants) {
        if let Ok(grant) = grant
            && let Some(&position) = moved.get(&(grant.channel, &asked.user))
        {
            grant.read = Some(grant.read.map_or(position, |read| further(read, position)));
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
