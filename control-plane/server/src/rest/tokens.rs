//! Access tokens and refresh tokens: issue, exchange, revoke.
//!
//! An access token is a JWT that every node verifies by itself, so that it lives for minutes to a day. A refresh token continues a sign-in
//! and is used once: its exchange gives the next one. Whoever shows one that was used before has it from somebody who should have
//! thrown it away, or is that somebody: the sign-in ends.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_domain::{EventKind, RefreshText};
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{RevokedTokens, TokensRevoked};
use millrace_store::{StoreError, Transaction};
use millrace_token::{CLAIM_BYTES_MAX, Claims, KeyRingLimits, ROLES_MAX, SigningKey};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json};
use super::call::{ByAnybody, ByApplication, Call, Change, Done, InTenant, Written, change};
use super::caller::{Caller, wrong_scope};
use super::fields::{self, Fields, Request};
use super::problem::{Kind, Problem};
use super::users::user_event;
use crate::record::refresh_token::{self, RefreshToken};
use crate::record::{revocation, signing_key, tenant, user};
use crate::secret::{self, Sealer};
use crate::transact::transact;

/// Life of an access token if nobody says, in seconds.
const TTL_SECONDS_DEFAULT: u64 = 3600;
/// Shortest life, for tests: so short, a client does nothing but refresh.
const TTL_SECONDS_MIN: u64 = 1;
/// Longest life: so long a revocation has to be remembered.
const TTL_SECONDS_MAX: u64 = 24 * 3600;
/// Life of a refresh token that is not used; each exchange begins it anew.
const REFRESH_LIFE_MS: i64 = 30 * 24 * 3600 * 1000;
/// Longest role, in bytes. All of them have to fit into a token beside the rest.
const ROLE_BYTES_MAX: usize = 64;
/// Sign-ins that one transaction ends.
const ENDED_AT_ONCE: u32 = 200;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(issue_token))
        .routes(routes!(refresh_token_exchange))
        .routes(routes!(revoke_token))
}

/// A sign-in that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct IssueToken {
    /// Who; created if there is no such user yet.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "ann")]
    user: UserId,
    /// Life of the access token; by default 3600.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86400, example = 3600)]
    ttl_seconds: u64,
    /// What else the user may do, in the application's own words; at most 32 of at most 64 bytes.
    #[schema(value_type = Option<Vec<String>>, max_items = 32)]
    roles: Vec<String>,
    /// The device that it is for; at most 128 bytes.
    #[schema(max_length = 128, example = "phone")]
    device: Option<String>,
}

impl Request for IssueToken {
    fn read(fields: &mut Fields) -> Option<Self> {
        let user = fields.required("user", fields::text);
        let ttl_seconds = fields.optional("ttl_seconds", fields::number(TTL_SECONDS_MIN..=TTL_SECONDS_MAX));
        let roles = fields.optional("roles", fields::strings(ROLES_MAX, ROLE_BYTES_MAX));
        let device = fields.optional("device", fields::short(CLAIM_BYTES_MAX));
        Some(Self {
            user: user?,
            ttl_seconds: ttl_seconds?.unwrap_or(TTL_SECONDS_DEFAULT),
            roles: roles?.unwrap_or_default(),
            device: device?,
        })
    }
}

impl Body for IssueToken {}

/// A refresh token to be exchanged.
#[derive(ToSchema)]
pub(crate) struct RefreshTokenRequest {
    /// The newest one of the sign-in.
    #[schema(example = "mrr_h3k8m2x9q4w7t6z5_J7mQ0c2Vn9fR4tYw")]
    refresh_token: String,
}

impl Request for RefreshTokenRequest {
    fn read(fields: &mut Fields) -> Option<Self> {
        let refresh_token = fields.required("refresh_token", fields::string);
        Some(Self { refresh_token: refresh_token? })
    }
}

impl Body for RefreshTokenRequest {}

/// Which tokens are to be valid no more: `token_id` or `user`. Users leave both out and mean the token that they show.
#[derive(Debug, ToSchema)]
pub(crate) struct RevokeToken {
    /// The `jti` of one token. If we issued it, the sign-in that it belongs to ends, too.
    #[schema(max_length = 128, example = "h3k8m2x9q4w7t6z5.q4w7t6z5h3k8m2x9")]
    token_id: Option<String>,
    /// All tokens of a user that were issued until now, and all their sign-ins.
    #[schema(value_type = Option<String>, max_length = 128)]
    user: Option<UserId>,
}

impl Request for RevokeToken {
    fn read(fields: &mut Fields) -> Option<Self> {
        let token_id = fields.optional("token_id", fields::short(CLAIM_BYTES_MAX));
        let user = fields.optional("user", fields::text);
        let (token_id, user) = (token_id?, user?);
        if token_id.is_some() && user.is_some() {
            fields.error("user", "is there beside token_id; send one of them");
        }
        Some(Self { token_id, user })
    }
}

impl Body for RevokeToken {}

/// A sign-in, for the client of a user.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// The access token, a JWT: shown to data nodes and to this API.
    #[schema(example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSIsImtpZCI6…")]
    token: String,
    /// Its `jti`, to revoke it by.
    #[schema(example = "h3k8m2x9q4w7t6z5.q4w7t6z5h3k8m2x9")]
    token_id: String,
    /// When it ends; Unix time, ms.
    expires_ms: i64,
    /// Exchanged for the next pair, once. It is stored nowhere: keep it.
    #[schema(example = "mrr_h3k8m2x9q4w7t6z5_J7mQ0c2Vn9fR4tYw")]
    refresh_token: String,
    /// When that ends, if it is not used; Unix time, ms.
    refresh_expires_ms: i64,
}

/// When a revocation may be forgotten: no token that was valid at the moment is valid then. Unix time, ms.
pub(super) fn forget_after_ms(now_ms: i64) -> i64 {
    let KeyRingLimits { life_max, leeway, .. } = KeyRingLimits::default();
    now_ms.saturating_add(i64::try_from((life_max + leeway).as_millis()).unwrap_or(i64::MAX))
}

/// What one exchange draws at random, once for all runs of its transaction.
struct Drawn {
    token_id: String,
    secret: String,
}

impl Drawn {
    fn new(sign_in: &str) -> Self {
        // The token's id begins with the sign-in's: revoking the one finds the other.
        Self { token_id: format!("{sign_in}.{}", secret::random_id()), secret: secret::random_secret() }
    }
}

/// Signs an access token with the tenant's issuing key.
pub(crate) async fn sign(transaction: &mut dyn Transaction, claims: &Claims) -> Result<String, Problem> {
    let tenant = claims.tenant;
    let owner = tenant::by_id(transaction, tenant).await?.ok_or_else(|| Problem::not_found("tenant"))?;
    let key = signing_key::get(transaction, tenant, &owner.issuing_key).await?;
    let damaged = || StoreError::Damaged(format!("issuing key of tenant {tenant}"));
    let private = key.as_ref().and_then(|key| STANDARD.decode(key.private.as_ref()?).ok());
    let (Some(key), Some(private)) = (key, private) else { return Err(damaged().into()) };
    let signing = SigningKey::from_bytes(key.algorithm, &private).map_err(|_| damaged())?;
    let too_large = |error| Problem::field("/roles", format!("with them the token is too large: {error}"));
    signing.sign(&key.id, claims).map_err(too_large)
}

/// Signs an access token for a sign-in and renews its record.
async fn renew(
    transaction: &mut dyn Transaction,
    mut record: RefreshToken,
    drawn: &Drawn,
    now_ms: i64,
) -> Result<TokenPair, Problem> {
    let expires_ms = now_ms + record.ttl_ms;
    let claims = Claims {
        tenant: record.tenant,
        user: record.user.clone(),
        issued_at_ms: now_ms,
        expires_at_ms: expires_ms,
        id: drawn.token_id.clone(),
        roles: record.roles.clone(),
        device: record.device.clone(),
    };
    let token = sign(transaction, &claims).await?;
    let refresh_expires_ms = now_ms + REFRESH_LIFE_MS;
    record.secret_sha256 = secret::fingerprint(&drawn.secret);
    refresh_token::put(transaction, refresh_expires_ms, &record);
    let refresh_token = RefreshText { id: &record.id, secret: &drawn.secret }.to_string();
    Ok(TokenPair { token, token_id: drawn.token_id.clone(), expires_ms, refresh_token, refresh_expires_ms })
}

/// A sign-in that begins: its record as yet without a secret.
fn begin(tenant: TenantId, request: &IssueToken) -> RefreshToken {
    let ttl_ms = i64::try_from(request.ttl_seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
    RefreshToken {
        id: secret::random_id(),
        tenant,
        user: request.user.clone(),
        roles: request.roles.clone(),
        device: request.device.clone(),
        ttl_ms,
        secret_sha256: String::new(),
        previous_sha256: None,
    }
}

/// Issue tokens for a user.
///
/// An access token and a refresh token. The application server has made sure who the user is; nobody else can ask for tokens.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = IssueToken,
    responses((status = 201, description = "Issued", body = TokenPair)), security(("api_key" = []))
)]
async fn issue_token(ByApplication(call): ByApplication, body: Json<IssueToken>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let record = begin(tenant, &body.value);
    let drawn = Drawn::new(&record.id);
    change!(call, body.digest, |transaction| {
        let named = user::ensure(transaction, tenant, &record.user, call.now_ms).await?;
        let events = named.iter().map(|user| user_event(EventKind::UserCreated, tenant, user)).collect();
        let pair = renew(transaction, record.clone(), &drawn, call.now_ms).await?;
        Ok(Done::quietly(Written::json(StatusCode::CREATED, &pair)).telling(events))
    })
}

/// What a refresh token turned out to be.
enum Shown {
    /// The newest of its sign-in.
    Newest(RefreshToken),
    /// Used before.
    Used(RefreshToken),
}

async fn look_up(transaction: &mut dyn Transaction, text: RefreshText<'_>, now_ms: i64) -> Result<Shown, Problem> {
    let unknown =
        || Problem::new(Kind::Unauthenticated, "the refresh token is unknown, expired, or its sign-in has ended");
    let (_, record) = refresh_token::get(transaction, text.id, now_ms).await?.ok_or_else(unknown)?;
    if secret::matches(text.secret, &record.secret_sha256) {
        Ok(Shown::Newest(record))
    } else if record.previous_sha256.as_ref().is_some_and(|previous| secret::matches(text.secret, previous)) {
        Ok(Shown::Used(record))
    } else {
        Err(unknown())
    }
}

/// Exchange a refresh token for the next tokens.
///
/// The refresh token in the body is the credential. It is used up: keep the new one. Showing one that was used before ends the sign-in, because
/// somebody has a copy; send an `Idempotency-Key`, so that a repeated request gets the same answer instead.
#[utoipa::path(
    post, path = "/v1/tokens/refresh", tag = "tokens", request_body = RefreshTokenRequest,
    responses((status = 201, description = "Issued", body = TokenPair)), security(())
)]
async fn refresh_token_exchange(
    ByAnybody(call): ByAnybody,
    body: Json<RefreshTokenRequest>,
) -> Result<Response, Problem> {
    let text = RefreshText::parse(&body.value.refresh_token)
        .ok_or_else(|| Problem::field("/refresh_token", "is no refresh token (mrr_…)"))?;
    let drawn = Drawn::new(text.id);
    let fingerprint = secret::fingerprint(&drawn.secret);
    let mut stolen = None;
    let identity = format!("refresh:{}", text.id);
    let sealer = Sealer::new(text.secret.as_bytes());
    call.rest.admit_user(&identity)?;
    let answer = change!(call.changing_as(&identity, sealer, body.digest)?, |transaction| {
        let record = match look_up(transaction, text, call.now_ms).await? {
            Shown::Newest(record) => record,
            // An earlier run of this very exchange, whose commit was not heard of.
            Shown::Used(record) if record.secret_sha256 == fingerprint => record,
            Shown::Used(record) => {
                stolen = Some(record);
                return Err(Problem::new(
                    Kind::Unauthenticated,
                    "the refresh token was used before; the sign-in has ended",
                ));
            }
        };
        let previous_sha256 = Some(secret::fingerprint(text.secret));
        let record = RefreshToken { previous_sha256, ..record };
        let pair = renew(transaction, record, &drawn, call.now_ms).await?;
        Ok(Done::quietly(Written::json(StatusCode::CREATED, &pair)))
    });
    if let Some(record) = stolen {
        end_sign_in(&call, &record).await?;
    }
    answer
}

/// Ends one sign-in, and every access token of its user: any of them may be in the wrong hands. Other devices get new ones by themselves.
async fn end_sign_in(call: &Call, record: &RefreshToken) -> Result<(), Problem> {
    let revoked = TokensRevoked {
        tenant: record.tenant,
        which: RevokedTokens::UserBefore(record.user.clone(), call.now_ms + 1),
        forget_after_ms: forget_after_ms(call.now_ms),
    };
    let ended: Result<(), Problem> = transact!(&*call.rest.store, call.deadline(), |transaction| {
        refresh_token::remove(transaction, record);
        revocation::put(transaction, &revoked);
        Ok(())
    });
    ended?;
    call.rest.data_plane.announce(Change::Revoked(revoked).certain());
    Ok(())
}

/// Ends all sign-ins of a user.
pub(super) async fn end_sign_ins(call: &Call, tenant: TenantId, user: &UserId) -> Result<(), Problem> {
    let mut done = false;
    while !done {
        let ended: Result<bool, Problem> = transact!(&*call.rest.store, call.deadline(), |transaction| {
            Ok(refresh_token::remove_of_user(transaction, tenant, user, ENDED_AT_ONCE).await?)
        });
        done = ended?;
    }
    Ok(())
}

/// Revoke tokens.
///
/// One by its id, or all of a user. Open sessions that were opened with them end within a second. A user who signs out sends an empty object.
#[utoipa::path(
    post, path = "/v1/tokens/revoke", tag = "tokens", request_body = RevokeToken,
    responses((status = 204, description = "Revoked")), security(("api_key" = []), ("access_token" = []))
)]
async fn revoke_token(InTenant(call): InTenant, body: Json<RevokeToken>) -> Result<Response, Problem> {
    let RevokeToken { token_id, user } = &body.value;
    let forget_after_ms = forget_after_ms(call.now_ms);
    let (tenant, which, own) = match (call.caller()?, token_id, user) {
        (Caller::Application(tenant), Some(token_id), _) => (*tenant, RevokedTokens::Token(token_id.clone()), None),
        // What was issued in this very millisecond counts as issued before.
        (Caller::Application(tenant), None, Some(user)) => {
            (*tenant, RevokedTokens::UserBefore(user.clone(), call.now_ms + 1), None)
        }
        (Caller::Application(_), None, None) => {
            return Err(Problem::field("/token_id", "is missing, and so is user"));
        }
        (Caller::User(own), named, None) if named.as_ref().is_none_or(|named| *named == own.token_id) => {
            (own.tenant, RevokedTokens::Token(own.token_id.clone()), Some(&own.user))
        }
        (Caller::User(_), ..) => return Err(wrong_scope("an API key to revoke other tokens than the one you show")),
        (Caller::Operator, ..) => return Err(wrong_scope("an API key or an access token")),
    };
    let revoked = TokensRevoked { tenant, which, forget_after_ms };
    let mut left = None;
    let answer = change!(call, body.digest, |transaction| {
        match &revoked.which {
            RevokedTokens::Token(token_id) => {
                let sign_in = token_id.split('.').next().unwrap_or_default();
                let record = refresh_token::get(transaction, sign_in, call.now_ms).await?.map(|(_, record)| record);
                let theirs =
                    |record: &RefreshToken| record.tenant == tenant && own.is_none_or(|own| record.user == *own);
                if let Some(record) = record.filter(theirs) {
                    refresh_token::remove(transaction, &record);
                }
            }
            RevokedTokens::UserBefore(user, _) => {
                let all = refresh_token::remove_of_user(transaction, tenant, user, ENDED_AT_ONCE).await?;
                left = (!all).then(|| user.clone());
            }
        }
        revocation::put(transaction, &revoked);
        Ok(Done::with(Written::empty(), vec![Change::Revoked(revoked.clone())]))
    })?;
    // Not when an answer is repeated: the user may have signed in again since.
    if let Some(user) = left {
        end_sign_ins(&call, tenant, &user).await?;
    }
    Ok(answer)
}
