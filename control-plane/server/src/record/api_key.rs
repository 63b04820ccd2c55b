//! API keys and operator keys.

use millrace_domain::ApiKey;
use millrace_protocol::id::TenantId;
use millrace_store::{StoreError, Transaction};

use super::{cold, key, list};

/// A key by its id.
pub(crate) async fn get(transaction: &mut dyn Transaction, id: &str) -> Result<Option<ApiKey>, StoreError> {
    let value = transaction.get(&key::api_key(id)).await?;
    value.map(|value| cold::decode("API key", &value)).transpose()
}

/// Writes a key and its place in the list.
pub(crate) fn put(transaction: &mut dyn Transaction, record: &ApiKey) {
    transaction.put(key::api_key(&record.id), cold::encode(record));
    transaction.put(key::api_key_of(record.tenant.and_then(TenantId::new), &record.id), cold::encode(&()));
}

/// Removes a key from everywhere: from the commit on it opens nothing.
pub(crate) fn remove(transaction: &mut dyn Transaction, record: &ApiKey) {
    transaction.delete(key::api_key(&record.id));
    transaction.delete(key::api_key_of(record.tenant.and_then(TenantId::new), &record.id));
}

/// The keys of a tenant, or of the operator, by id.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    tenant: Option<TenantId>,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<ApiKey>, StoreError> {
    let range = key::api_keys_of(tenant);
    let rows = list::page(transaction, range.clone(), after.map(|id| key::api_key_of(tenant, id)), limit).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for (row, _) in rows {
        let id = key::name_after(&range.start, &row).ok_or_else(|| StoreError::Damaged("list of API keys".into()))?;
        keys.extend(get(transaction, id).await?);
    }
    Ok(keys)
}
