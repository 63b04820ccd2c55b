//! Tenants, and their names.

use millrace_domain::{Tenant, TenantName};
use millrace_protocol::id::TenantId;
use millrace_store::{StoreError, Transaction};

use super::{cold, key, list};

/// A tenant by its number.
pub(crate) async fn by_id(transaction: &mut dyn Transaction, id: TenantId) -> Result<Option<Tenant>, StoreError> {
    let value = transaction.get(&key::tenant(id)).await?;
    value.map(|value| cold::decode("tenant", &value)).transpose()
}

/// A tenant by its name.
pub(crate) async fn by_name(
    transaction: &mut dyn Transaction,
    name: &TenantName,
) -> Result<Option<Tenant>, StoreError> {
    let Some(number) = transaction.get(&key::tenant_name(name.as_str())).await? else { return Ok(None) };
    let id = number.as_ref().try_into().ok().map(u32::from_be_bytes).and_then(TenantId::new);
    by_id(transaction, id.ok_or_else(|| StoreError::Damaged(format!("number of tenant {name}")))?).await
}

/// Writes a tenant and its name. Read both before, so that the commit makes sure that neither exists.
pub(crate) fn put(transaction: &mut dyn Transaction, tenant: &Tenant) {
    transaction.put(key::tenant(tenant.id), cold::encode(tenant));
    transaction.put(key::tenant_name(tenant.name.as_str()), tenant.id.get().to_be_bytes().to_vec().into());
}

/// Tenants by number.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    after: Option<TenantId>,
    limit: u32,
) -> Result<Vec<Tenant>, StoreError> {
    let rows = list::page(transaction, key::tenants(), after.map(key::tenant), limit).await?;
    rows.iter().map(|(_, value)| cold::decode("tenant", value)).collect()
}
