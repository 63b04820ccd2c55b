//! Who calls: an operator, an application server or a user, by the credential that they show.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_domain::Bearer;
use millrace_protocol::id::{TenantId, UserId};
use millrace_store::Transaction;
use millrace_token::KeyRing;
use serde::Deserialize;

use super::problem::{Kind, Problem};
use crate::record::key::PlainId;
use crate::record::{api_key, revocation, signing_key};
use crate::secret::{self, Sealer};

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Runs the deployment.
    Operator,
    /// Acts for a whole tenant.
    Application(TenantId),
    /// Acts for themselves.
    User(UserCaller),
}

/// A user who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserCaller {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Who.
    pub(crate) user: UserId,
    /// The `jti` of the token they show.
    pub(crate) token_id: String,
    /// When that token ends; Unix time, ms.
    pub(crate) token_expires_ms: i64,
}

/// A caller with what their requests are accounted to.
#[derive(Clone)]
pub(crate) struct Authenticated {
    /// Who.
    pub(crate) caller: Caller,
    /// Names the credential in what is kept per caller: rates, answers. No secret, and the same for all tokens of a user.
    pub(crate) identity: String,
    /// Seals answers that are kept.
    pub(crate) sealer: Sealer,
}

impl Authenticated {
    /// Whoever shows the operator key of the configuration.
    pub(crate) fn operator(credential: &str) -> Self {
        Self { caller: Caller::Operator, identity: "operator".into(), sealer: Sealer::new(credential.as_bytes()) }
    }
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unauthenticated, detail)
}

/// The text after `Bearer` in the request's headers; `None` if no credential was sent.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<Result<&str, Problem>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(refused("two Authorization headers")));
    }
    let text = value.to_str().ok().and_then(|text| {
        let (scheme, credential) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
    });
    Some(text.ok_or_else(|| refused("the Authorization header is not of the form: Bearer <credential>")))
}

/// Finds out whose credential it is.
///
/// # Errors
/// [`Kind::Unauthenticated`] in the same words for a key that never was, is revoked, or has another secret.
pub(crate) async fn authenticate(
    transaction: &mut dyn Transaction,
    credential: &str,
    now_ms: i64,
) -> Result<Authenticated, Problem> {
    match Bearer::parse(credential).map_err(|error| refused(error.to_string()))? {
        Bearer::Key(key) => {
            let record = api_key::get(transaction, key.id).await?;
            let record = record.filter(|record| secret::matches(key.secret, &record.secret_sha256));
            let record = record.ok_or_else(|| refused("the key is unknown or revoked"))?;
            let caller = match record.tenant {
                None => Caller::Operator,
                Some(tenant) => {
                    Caller::Application(TenantId::new(tenant).ok_or_else(|| refused("the key is damaged"))?)
                }
            };
            let sealer = Sealer::new(key.secret.as_bytes());
            Ok(Authenticated { caller, identity: format!("key:{}", key.id), sealer })
        }
        Bearer::Token(token) => user(transaction, token, now_ms).await,
    }
}

#[derive(Deserialize)]
struct KeyId {
    kid: String,
}

/// Verifies an access token with the one key that it names.
async fn user(transaction: &mut dyn Transaction, token: &str, now_ms: i64) -> Result<Authenticated, Problem> {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let key_id = header.and_then(|header| serde_json::from_slice::<KeyId>(&header).ok());
    let key_id = key_id.ok_or_else(|| refused("the token's header names no kid"))?.kid;
    let unknown = || refused("the token was signed with a key that is not known");
    let key_id: PlainId = key_id.parse().map_err(|_| unknown())?;
    let tenant = signing_key::tenant_of(key_id.as_str()).ok_or_else(unknown)?;
    let key = signing_key::get(transaction, tenant, key_id.as_str()).await?.ok_or_else(unknown)?;

    let mut ring = KeyRing::default();
    let on_the_link = signing_key::on_the_link(tenant, &key)?;
    ring.apply(&on_the_link).map_err(|error| refused(error.to_string()))?;
    let claims = ring.verify(token, now_ms).map_err(|error| refused(error.to_string()))?;
    for revoked in revocation::of_token(transaction, tenant, &claims.user, &claims.id).await? {
        ring.revoke(&revoked, now_ms);
    }
    if ring.is_revoked(&claims) {
        return Err(refused("the token was revoked"));
    }
    let identity = format!("user:{tenant}:{}", claims.user);
    // A user's answers hold no secrets and have to open under their next token, too.
    let sealer = Sealer::new(identity.as_bytes());
    let caller = UserCaller { tenant, user: claims.user, token_id: claims.id, token_expires_ms: claims.expires_at_ms };
    Ok(Authenticated { caller: Caller::User(caller), identity, sealer })
}

impl Caller {
    /// The operator.
    pub(crate) fn operator(&self) -> Result<(), Problem> {
        match self {
            Self::Operator => Ok(()),
            _ => Err(wrong_scope("an operator key")),
        }
    }

    /// An application server's tenant.
    pub(crate) fn application(&self) -> Result<TenantId, Problem> {
        match self {
            Self::Application(tenant) => Ok(*tenant),
            _ => Err(wrong_scope("an API key")),
        }
    }

    /// An operator or an application server.
    pub(crate) fn server(&self) -> Result<(), Problem> {
        match self {
            Self::Operator | Self::Application(_) => Ok(()),
            Self::User(_) => Err(wrong_scope("an operator key or an API key")),
        }
    }

    /// The tenant of an application server or a user, and the user.
    pub(crate) fn in_tenant(&self) -> Result<(TenantId, Option<&UserId>), Problem> {
        match self {
            Self::Application(tenant) => Ok((*tenant, None)),
            Self::User(user) => Ok((user.tenant, Some(&user.user))),
            Self::Operator => Err(wrong_scope("an API key or an access token")),
        }
    }
}

pub(crate) fn wrong_scope(needed: &str) -> Problem {
    Problem::new(Kind::WrongScope, format!("this operation needs {needed}"))
}
