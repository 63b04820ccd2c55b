//! Memberships, by channel and by user.

use millrace_domain::Membership;
use millrace_protocol::id::{ChannelId, Position, TenantId, UserId};
use millrace_store::{StoreError, Transaction};

use super::{cold, key, list};

/// A user's membership of a channel.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    user: &UserId,
) -> Result<Option<Membership>, StoreError> {
    let value = transaction.get(&key::member(channel, user)).await?;
    value.map(|value| cold::decode("membership", &value)).transpose()
}

/// Writes a membership both ways.
pub(crate) fn put(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    channel: ChannelId,
    user: &UserId,
    membership: &Membership,
) {
    transaction.put(key::member(channel, user), cold::encode(membership));
    transaction.put(key::channel_of_user(tenant, user, channel), cold::encode(&()));
}

/// Writes how far a member has read; the membership was read in this transaction.
pub(crate) fn put_read(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    user: &UserId,
    membership: &Membership,
    read: Position,
) {
    let membership = Membership { read: Some(read), ..*membership };
    transaction.put(key::member(channel, user), cold::encode(&membership));
}

/// Removes a membership both ways.
pub(crate) fn remove(transaction: &mut dyn Transaction, tenant: TenantId, channel: ChannelId, user: &UserId) {
    transaction.delete(key::member(channel, user));
    transaction.delete(key::channel_of_user(tenant, user, channel));
}

/// Members of a channel by name.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<(UserId, Membership)>, StoreError> {
    let range = key::members_of(channel);
    let rows = list::page(transaction, range.clone(), after.map(|user| key::member(channel, user)), limit).await?;
    rows.iter()
        .map(|(row, value)| {
            let user = key::name_after(&range.start, row).and_then(|name| UserId::new(name).ok());
            let user = user.ok_or_else(|| StoreError::Damaged(format!("members of channel {channel}")))?;
            Ok((user, cold::decode("membership", value)?))
        })
        .collect()
}

/// Channels of a user by number.
pub(crate) async fn channels_of_user(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    user: &UserId,
    after: Option<ChannelId>,
    limit: u32,
) -> Result<Vec<ChannelId>, StoreError> {
    let after = after.map(|channel| key::channel_of_user(tenant, user, channel));
    let rows = list::page(transaction, key::channels_of_user(tenant, user), after, limit).await?;
    rows.iter()
        .map(|(row, _)| key::channel_at_end(row).ok_or_else(|| StoreError::Damaged(format!("channels of user {user}"))))
        .collect()
}
