//! Keys that verify tenants' access tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_domain::SigningKey;
use millrace_protocol::id::TenantId;
use millrace_protocol::node::TenantKey;
use millrace_store::{Direction, KeyRange, SCAN_ROWS_MAX, StoreError, Transaction};

use super::{cold, key, list};

/// Most keys of one tenant: all of them travel whenever one changes.
pub(crate) const KEYS_MAX: usize = 32;

/// A key of a tenant.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    id: &str,
) -> Result<Option<SigningKey>, StoreError> {
    let value = transaction.get(&key::signing_key(tenant, id)).await?;
    value.map(|value| cold::decode("signing key", &value)).transpose()
}

/// Writes a key.
pub(crate) fn put(transaction: &mut dyn Transaction, tenant: TenantId, record: &SigningKey) {
    transaction.put(key::signing_key(tenant, &record.id), cold::encode(record));
}

/// Removes a key.
pub(crate) fn remove(transaction: &mut dyn Transaction, tenant: TenantId, id: &str) {
    transaction.delete(key::signing_key(tenant, id));
}

/// All keys of a tenant, by id.
pub(crate) async fn all_of(transaction: &mut dyn Transaction, tenant: TenantId) -> Result<Vec<SigningKey>, StoreError> {
    let limit = u32::try_from(KEYS_MAX).unwrap_or(u32::MAX);
    let rows = list::page(transaction, key::signing_keys_of(tenant), None, limit).await?;
    rows.iter().map(|(_, value)| cold::decode("signing key", value)).collect()
}

/// The tenant that an id belongs to: it begins with the tenant's number and a dot.
pub(crate) fn tenant_of(id: &str) -> Option<TenantId> {
    let (number, random) = id.split_once('.')?;
    (!random.is_empty()).then_some(())?;
    TenantId::new(number.parse().ok()?)
}

/// The key as it travels on the link.
pub(crate) fn on_the_link(tenant: TenantId, record: &SigningKey) -> Result<TenantKey, StoreError> {
    let material = STANDARD.decode(&record.material);
    let material = material.map_err(|error| StoreError::Damaged(format!("signing key {}: {error}", record.id)))?;
    Ok(TenantKey { tenant, id: record.id.clone(), key: Some((record.algorithm, material.into())) })
}

/// The keys of all tenants, for a node that has just linked: a bounded part, and where the next one begins.
pub(crate) async fn part_of_all(
    transaction: &mut dyn Transaction,
    from: Option<KeyRange>,
) -> Result<(Vec<TenantKey>, Option<KeyRange>), StoreError> {
    let range = from.unwrap_or_else(key::signing_keys);
    let rows = transaction.scan(range.clone(), Direction::Forward, SCAN_ROWS_MAX / 4).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for (_, value) in &rows {
        let record: SigningKey = cold::decode("signing key", value)?;
        let tenant = tenant_of(&record.id).ok_or_else(|| StoreError::Damaged(format!("signing key {}", record.id)))?;
        keys.push(on_the_link(tenant, &record)?);
    }
    let rest = rows.last().map(|(last, _)| KeyRange { start: [last, &b"\0"[..]].concat().into(), end: range.end });
    Ok((keys, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_tenant() {
        let check = |id: &str, tenant: Option<u32>| assert_eq!(tenant_of(id).map(TenantId::get), tenant, "{id}");
        check("7.abc", Some(7));
        check("0.abc", None);
        check("7.", None);
        check("7", None);
        check("x.abc", None);
        check("4294967296.abc", None);
    }
}
