//! What a data node is told unasked: everything when it links, every change afterwards.
//!
//! Two requests may announce in the other order than they committed. So for what has a newest state, a membership or the keys of a tenant, a change
//! says only where to look: the state is read here, one change after the other, and the last thing a node hears is what the store says.

use millrace_domain::can_publish;
use millrace_protocol::id::TenantId;
use millrace_protocol::node::{MemberChanged, NodeBody, TenantKey};
use millrace_store::StoreError;
use tokio::sync::mpsc;

use super::connection::Link;
use super::{LinkEnd, now_unix_ms};
use crate::record;

/// Most keys in a frame: far below the limits of a list and of a frame.
const KEYS_PER_FRAME: usize = 8192;

/// Queues all revocations that matter yet, then all keys: no key verifies a token here before its revocation is known. `Synced`
/// is the end of it: only then is a key that was not told one that does not exist.
///
/// # Errors
/// [`LinkEnd`] if the store cannot tell: a node must not go on with half of it.
pub(super) async fn tell_everything(link: &Link) -> Result<(), LinkEnd> {
    let failed = |error: StoreError| {
        tracing::warn!(error = &error as &dyn std::error::Error, "keys and revocations cannot be read");
        LinkEnd::Internal
    };
    let outbox = &link.active.outbox;
    let now_ms = now_unix_ms();
    let mut from = None;
    loop {
        let mut transaction = link.shared.db.begin().await.map_err(failed)?;
        let (revoked, rest) = record::revocation::part_of_all(&mut *transaction, from).await.map_err(failed)?;
        for revoked in revoked.into_iter().filter(|revoked| revoked.forget_after_ms >= now_ms) {
            outbox.reply(0, NodeBody::TokensRevoked(revoked)).await?;
        }
        let Some(rest) = rest else { break };
        from = Some(rest);
    }

    let mut waiting: Vec<TenantKey> = Vec::new();
    let mut from = None;
    loop {
        let mut transaction = link.shared.db.begin().await.map_err(failed)?;
        let (keys, rest) = record::signing_key::part_of_all(&mut *transaction, from).await.map_err(failed)?;
        waiting.extend(keys);
        let Some(rest) = rest else { break };
        from = Some(rest);
        if waiting.len() >= KEYS_PER_FRAME {
            // A frame replaces all keys of the tenants it names, so no tenant's keys are spread over two: the last one waits.
            let last = waiting.last().map(|key| key.tenant);
            let whole = waiting.iter().rposition(|key| Some(key.tenant) != last).map_or(0, |index| index + 1);
            let rest = waiting.split_off(whole);
            outbox.reply(0, NodeBody::Keys(std::mem::replace(&mut waiting, rest))).await?;
        }
    }
    if !waiting.is_empty() {
        outbox.reply(0, NodeBody::Keys(waiting)).await?;
    }
    outbox.reply(0, NodeBody::Synced).await
}

/// Queues what is announced until the link ends.
pub(super) async fn tell_changes(link: &Link, mut changes: mpsc::Receiver<NodeBody>) -> LinkEnd {
    while let Some(change) = changes.recv().await {
        link.shared.metrics.change(&change);
        match newest(link, change).await {
            Ok(change) => link.active.outbox.change(change),
            Err(error) => {
                // The node asks for everything anew when it is back; going on without the change would leave it wrong.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a change cannot be read: the link begins anew"
                );
                return LinkEnd::Internal;
            }
        }
    }
    LinkEnd::Closed
}

async fn newest(link: &Link, change: NodeBody) -> Result<NodeBody, StoreError> {
    match change {
        NodeBody::MemberChanged(MemberChanged { tenant, channel, user, .. }) => {
            let mut transaction = link.shared.db.begin().await?;
            let kind = record::channel::by_id(&mut *transaction, channel).await?.map(|channel| channel.kind);
            let membership = record::member::get(&mut *transaction, channel, &user).await?;
            let membership = kind.zip(membership).map(|(kind, member)| (member.role, can_publish(kind, member.role)));
            Ok(NodeBody::MemberChanged(MemberChanged { tenant, channel, user, membership }))
        }
        NodeBody::Keys(named) => {
            let mut transaction = link.shared.db.begin().await?;
            let mut tenants: Vec<TenantId> = named.iter().map(|key| key.tenant).collect();
            tenants.sort_unstable();
            tenants.dedup();
            let mut keys = Vec::new();
            for tenant in tenants {
                for key in record::signing_key::all_of(&mut *transaction, tenant).await? {
                    keys.push(record::signing_key::on_the_link(tenant, &key)?);
                }
            }
            // A tenant without keys has to be named too, or it would keep those it had.
            for key in named {
                if !keys.iter().any(|present| present.tenant == key.tenant) {
                    keys.push(TenantKey { key: None, ..key });
                }
            }
            Ok(NodeBody::Keys(keys))
        }
        change => Ok(change),
    }
}
