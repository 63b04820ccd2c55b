//! Users.

use millrace_domain::{Metadata, User};
use millrace_protocol::id::{TenantId, UserId};
use millrace_store::{StoreError, Transaction};

use super::{cold, key, list};

/// A user.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    id: &UserId,
) -> Result<Option<User>, StoreError> {
    let value = transaction.get(&key::user(tenant, id)).await?;
    value.map(|value| cold::decode("user", &value)).transpose()
}

/// Writes a user.
pub(crate) fn put(transaction: &mut dyn Transaction, tenant: TenantId, user: &User) {
    transaction.put(key::user(tenant, &user.id), cold::encode(user));
}

/// Writes a bare user if there is none, and gives them: whoever is named exists.
pub(crate) async fn ensure(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    id: &UserId,
    now_ms: i64,
) -> Result<Option<User>, StoreError> {
    if get(transaction, tenant, id).await?.is_some() {
        return Ok(None);
    }
    let user = User {
        id: id.clone(),
        display_name: None,
        metadata: Metadata::default(),
        created_ms: now_ms,
        updated_ms: now_ms,
    };
    put(transaction, tenant, &user);
    Ok(Some(user))
}

/// Removes a user's record; memberships and tokens are the caller's to end first.
pub(crate) fn remove(transaction: &mut dyn Transaction, tenant: TenantId, id: &UserId) {
    transaction.delete(key::user(tenant, id));
}

/// Users of a tenant by name.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<User>, StoreError> {
    let rows = list::page(transaction, key::users_of(tenant), after.map(|id| key::user(tenant, id)), limit).await?;
    rows.iter().map(|(_, value)| cold::decode("user", value)).collect()
}
