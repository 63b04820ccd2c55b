//! Refresh tokens: one record for a sign-in, whose secret is new with every exchange.

use millrace_domain::word;
use millrace_protocol::id::{TenantId, UserId};
use millrace_store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::{cold, expiry, key, list};

/// A sign-in that can be continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefreshToken {
    /// Names it; stays.
    pub(crate) id: String,
    #[serde(with = "word::as_number")]
    pub(crate) tenant: TenantId,
    #[serde(with = "word::as_text")]
    pub(crate) user: UserId,
    /// Of the access tokens that it is exchanged for.
    pub(crate) roles: Vec<String>,
    pub(crate) device: Option<String>,
    pub(crate) ttl_ms: i64,
    /// SHA-256 of the present secret, in hex.
    pub(crate) secret_sha256: String,
    /// The one before: whoever shows it has it from somebody who should have thrown it away.
    pub(crate) previous_sha256: Option<String>,
}

/// A refresh token with its end, unless it has ended.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    id: &str,
    now_ms: i64,
) -> Result<Option<(i64, RefreshToken)>, StoreError> {
    let value = transaction.get(&key::refresh_token(id)).await?;
    let found = value.map(|value| cold::decode_expiring("refresh token", &value)).transpose()?;
    Ok(found.filter(|(expires_ms, _)| *expires_ms > now_ms))
}

/// Writes a refresh token, its place in the user's list and when it expires.
pub(crate) fn put(transaction: &mut dyn Transaction, expires_ms: i64, record: &RefreshToken) {
    let key = key::refresh_token(&record.id);
    expiry::register(transaction, &key, expires_ms);
    transaction.put(key, cold::encode_expiring(expires_ms, record));
    transaction.put(key::refresh_token_of(record.tenant, &record.user, &record.id), cold::encode(&()));
}

/// Ends a sign-in.
pub(crate) fn remove(transaction: &mut dyn Transaction, record: &RefreshToken) {
    transaction.delete(key::refresh_token(&record.id));
    transaction.delete(key::refresh_token_of(record.tenant, &record.user, &record.id));
}

/// Ends sign-ins of a user, `limit` at most; tells whether all are ended.
pub(crate) async fn remove_of_user(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    user: &UserId,
    limit: u32,
) -> Result<bool, StoreError> {
    let range = key::refresh_tokens_of(tenant, user);
    let rows = list::page(transaction, range.clone(), None, limit).await?;
    for (row, _) in &rows {
        if let Some(id) = key::name_after(&range.start, row) {
            transaction.delete(key::refresh_token(id));
        }
        transaction.delete(row.clone());
    }
    Ok(rows.len() < limit as usize)
}

/// The place in the user's list of a record that expires: the sweep removes it with the record.
pub(crate) fn list_entry(value: &[u8]) -> Result<bytes::Bytes, StoreError> {
    let (_, record) = cold::decode_expiring::<RefreshToken>("refresh token", value)?;
    Ok(key::refresh_token_of(record.tenant, &record.user, &record.id))
}
