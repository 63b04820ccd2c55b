//! Access tokens that are valid no more, kept until they could not be valid anyway.

use millrace_domain::word;
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{RevokedTokens, TokensRevoked};
use millrace_store::{Direction, KeyRange, SCAN_ROWS_MAX, StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::{cold, expiry, key};

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(with = "word::as_number")]
    tenant: TenantId,
    which: Which,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Which {
    Token(String),
    UserBefore {
        #[serde(with = "word::as_text")]
        user: UserId,
        issued_before_ms: i64,
    },
}

/// Writes a revocation and when it may be forgotten. A later one for the same user takes the place of an earlier one.
pub(crate) fn put(transaction: &mut dyn Transaction, revoked: &TokensRevoked) {
    let tenant = revoked.tenant;
    let (key, which) = match &revoked.which {
        RevokedTokens::Token(id) => (key::revoked_token(tenant, id), Which::Token(id.clone())),
        RevokedTokens::UserBefore(user, issued_before_ms) => (
            key::revoked_user(tenant, user),
            Which::UserBefore { user: user.clone(), issued_before_ms: *issued_before_ms },
        ),
    };
    expiry::register(transaction, &key, revoked.forget_after_ms);
    transaction.put(key, cold::encode_expiring(revoked.forget_after_ms, &Stored { tenant, which }));
}

fn decode(value: &[u8]) -> Result<TokensRevoked, StoreError> {
    let (forget_after_ms, stored) = cold::decode_expiring::<Stored>("revocation", value)?;
    let which = match stored.which {
        Which::Token(id) => RevokedTokens::Token(id),
        Which::UserBefore { user, issued_before_ms } => RevokedTokens::UserBefore(user, issued_before_ms),
    };
    Ok(TokensRevoked { tenant: stored.tenant, which, forget_after_ms })
}

/// The revocations that concern one token: of itself, and of its user's tokens.
pub(crate) async fn of_token(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    user: &UserId,
    token_id: &str,
) -> Result<Vec<TokensRevoked>, StoreError> {
    let mut found = Vec::new();
    for key in [key::revoked_token(tenant, token_id), key::revoked_user(tenant, user)] {
        if let Some(value) = transaction.get(&key).await? {
            found.push(decode(&value)?);
        }
    }
    Ok(found)
}

/// The revocations of all tenants, for a node that has just linked: a bounded part, and where the next one begins.
pub(crate) async fn part_of_all(
    transaction: &mut dyn Transaction,
    from: Option<KeyRange>,
) -> Result<(Vec<TokensRevoked>, Option<KeyRange>), StoreError> {
    let range = from.unwrap_or_else(key::revocations);
    let rows = transaction.scan(range.clone(), Direction::Forward, SCAN_ROWS_MAX / 4).await?;
    let revoked = rows.iter().map(|(_, value)| decode(value)).collect::<Result<_, _>>()?;
    let rest = rows.last().map(|(last, _)| KeyRange { start: [last, &b"\0"[..]].concat().into(), end: range.end });
    Ok((revoked, rest))
}
