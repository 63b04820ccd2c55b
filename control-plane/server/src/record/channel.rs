//! Channels, and their names.

use millrace_domain::Channel;
use millrace_protocol::id::{ChannelId, ChannelName, TenantId};
use millrace_store::{Direction, KeyRange, StoreError, Transaction};

use super::{cold, key, list};

/// A channel by its number.
pub(crate) async fn by_id(transaction: &mut dyn Transaction, id: ChannelId) -> Result<Option<Channel>, StoreError> {
    let value = transaction.get(&key::channel(id)).await?;
    value.map(|value| cold::decode("channel", &value)).transpose()
}

/// A channel as it stands now; what of it never changes, its tenant and name, is so for ever. Not validated at the commit.
pub(crate) async fn peek(transaction: &mut dyn Transaction, id: ChannelId) -> Result<Option<Channel>, StoreError> {
    let start = key::channel(id);
    let end = [&start[..], &[0]].concat().into();
    let rows = transaction.scan(KeyRange { start, end }, Direction::Forward, 1).await?;
    rows.first().map(|(_, value)| cold::decode("channel", value)).transpose()
}

/// A channel by its name.
pub(crate) async fn by_name(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    name: &ChannelName,
) -> Result<Option<Channel>, StoreError> {
    let Some(number) = transaction.get(&key::channel_name(tenant, name)).await? else { return Ok(None) };
    by_id(transaction, number_of(&number)?).await
}

fn number_of(value: &[u8]) -> Result<ChannelId, StoreError> {
    let id = value.try_into().ok().map(u64::from_be_bytes).and_then(ChannelId::new);
    id.ok_or_else(|| StoreError::Damaged("number of a channel".into()))
}

/// Writes a channel whose number and name were read in this transaction and found free.
pub(crate) fn insert(transaction: &mut dyn Transaction, channel: &Channel) {
    put(transaction, channel);
    let name = key::channel_name(channel.tenant, &channel.name);
    transaction.put(name, channel.id.get().to_be_bytes().to_vec().into());
}

/// Writes a channel that exists.
pub(crate) fn put(transaction: &mut dyn Transaction, channel: &Channel) {
    transaction.put(key::channel(channel.id), cold::encode(channel));
}

/// Channels of a tenant by name.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    after: Option<&ChannelName>,
    limit: u32,
) -> Result<Vec<Channel>, StoreError> {
    let after = after.map(|name| key::channel_name(tenant, name));
    let rows = list::page(transaction, key::channels_of(tenant), after, limit).await?;
    let mut channels = Vec::with_capacity(rows.len());
    for (_, number) in rows {
        channels.extend(by_id(transaction, number_of(&number)?).await?);
    }
    Ok(channels)
}
