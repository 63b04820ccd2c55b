//! Keys of a tenant that verify access tokens which the tenant signs by itself.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_domain::{DisplayName, SigningKey};
use millrace_protocol::id::TenantId;
use millrace_protocol::node::{KeyAlgorithm, TenantKey};
use millrace_store::Transaction;
use millrace_token::KeyRing;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name};
use super::call::{ByApplication, Change, Done, Written, change, found, read};
use super::fields::{self, Fields, Request};
use super::problem::{Kind, Problem};
use super::words::AlgorithmWord;
use crate::record::key::PlainId;
use crate::record::signing_key::{self, KEYS_MAX};
use crate::record::tenant;
use crate::secret;

/// What stands before an Ed25519 key in DER. Source: RFC 8410 §4.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before an uncompressed P-256 point in DER. Source: RFC 5480 §2.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(register_signing_key, list_signing_keys)).routes(routes!(remove_signing_key))
}

/// A key that is to verify tokens.
#[derive(ToSchema)]
pub(crate) struct RegisterSigningKey {
    #[schema(value_type = AlgorithmWord)]
    algorithm: KeyAlgorithm,
    /// EdDSA and ES256: the public key, as PEM (`-----BEGIN PUBLIC KEY-----`) or in base64 (32 bytes, or the uncompressed point of 65).
    /// HS256: the secret in base64, 32 to 1024 bytes.
    #[schema(value_type = String, example = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")]
    key: Vec<u8>,
    /// What it is used for.
    #[schema(value_type = Option<String>, max_length = 256, example = "sign-in service")]
    label: Option<DisplayName>,
}

impl Request for RegisterSigningKey {
    fn read(fields: &mut Fields) -> Option<Self> {
        let algorithm = fields.required("algorithm", fields::word);
        let key = fields.required("key", material);
        let label = fields.optional("label", fields::text);
        let (algorithm, key) = (algorithm?, key?);
        let key = match algorithm {
            KeyAlgorithm::EdDsa => key.strip_prefix(&ED25519_PREFIX).map(<[u8]>::to_vec).unwrap_or(key),
            KeyAlgorithm::Es256 => key.strip_prefix(&P256_PREFIX).map(<[u8]>::to_vec).unwrap_or(key),
            KeyAlgorithm::Hs256 => key,
        };
        // The ring that verifies tokens is the judge of what it can verify with.
        let candidate = TenantKey {
            tenant: TenantId::new(1).expect("1 is not 0"),
            id: "candidate".into(),
            key: Some((algorithm, key.clone().into())),
        };
        if let Err(error) = KeyRing::default().apply(&candidate) {
            fields.error("key", error.to_string());
        }
        Some(Self { algorithm, key, label: label? })
    }
}

impl Body for RegisterSigningKey {}

/// PEM or base64.
fn material(value: Value) -> Result<Vec<u8>, String> {
    let text = fields::string(value)?;
    let Some(pem) = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----") else {
        return fields::base64(Value::String(text));
    };
    let body = pem.strip_suffix("-----END PUBLIC KEY-----").ok_or("is PEM without an end")?;
    let body: String = body.split_ascii_whitespace().collect();
    fields::base64(Value::String(body))
}

/// A key that verifies tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub(crate) struct SigningKeyView {
    /// Goes into the header of a token as `kid`.
    #[schema(example = "7.h3k8m2x9q4w7t6z5")]
    id: String,
    algorithm: AlgorithmWord,
    /// The public key in base64; null for a secret.
    public_key: Option<String>,
    /// What it is used for.
    label: Option<String>,
    /// Whether it is the one that tokens are issued with here.
    issues: bool,
    /// When it was registered; Unix time, ms.
    created_ms: i64,
}

impl SigningKeyView {
    fn new(key: &SigningKey) -> Self {
        Self {
            id: key.id.clone(),
            algorithm: AlgorithmWord(key.algorithm),
            public_key: (key.algorithm != KeyAlgorithm::Hs256).then(|| key.material.clone()),
            label: key.label.as_ref().map(ToString::to_string),
            issues: key.private.is_some(),
            created_ms: key.created_ms,
        }
    }
}

/// The keys of a tenant, at most 32.
#[derive(Serialize, ToSchema)]
pub(crate) struct SigningKeyList {
    /// By id.
    signing_keys: Vec<SigningKeyView>,
}

/// Register a key.
///
/// From then on data nodes and this API accept tokens that are signed with it, if their header names its id as `kid`. A tenant has at most 32.
/// The claims: `tenant` (number), `sub` (user), `iat`, `exp` (at most 24 h later), `jti`; if wanted, `roles` and `device`.
#[utoipa::path(
    post, path = "/v1/signing-keys", tag = "signing keys", request_body = RegisterSigningKey,
    responses((status = 201, description = "Registered", body = SigningKeyView)), security(("api_key" = []))
)]
async fn register_signing_key(
    ByApplication(call): ByApplication,
    body: Json<RegisterSigningKey>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let Json { value, digest } = body;
    let key = SigningKey {
        id: format!("{tenant}.{}", secret::random_id()),
        algorithm: value.algorithm,
        material: STANDARD.encode(&value.key),
        private: None,
        label: value.label,
        created_ms: call.now_ms,
    };
    let _turn = call.turn(tenant, "").await;
    change!(call, digest, |transaction| {
        let mut keys = signing_key::all_of(transaction, tenant).await?;
        keys.retain(|present| present.id != key.id);
        if keys.len() >= KEYS_MAX {
            return Err(Problem::new(
                Kind::Conflict,
                format!("a tenant has at most {KEYS_MAX} keys; remove one first"),
            ));
        }
        // The list is not validated at the commit, this record is: writers of the list of keys meet in it.
        touch(transaction, tenant).await?;
        signing_key::put(transaction, tenant, &key);
        keys.push(key.clone());
        let written = Written::json(StatusCode::CREATED, &SigningKeyView::new(&key));
        Ok(Done::with(written.at(format!("/v1/signing-keys/{}", key.id)), vec![announcement(tenant, &keys, None)?]))
    })
}

/// Reads and writes the tenant's record, so that of two changes of its keys at a time one runs again.
pub(super) async fn touch(transaction: &mut dyn Transaction, id: TenantId) -> Result<(), Problem> {
    let owner = tenant::by_id(transaction, id).await?.ok_or_else(|| Problem::not_found("tenant"))?;
    tenant::put(transaction, &owner);
    Ok(())
}

fn announcement(tenant: TenantId, keys: &[SigningKey], removed: Option<&str>) -> Result<Change, Problem> {
    let mut all = Vec::with_capacity(keys.len() + 1);
    for key in keys {
        all.push(signing_key::on_the_link(tenant, key)?);
    }
    all.extend(removed.map(|id| TenantKey { tenant, id: id.to_owned(), key: None }));
    Ok(Change::Keys(all))
}

/// List keys.
#[utoipa::path(
    get, path = "/v1/signing-keys", tag = "signing keys",
    responses((status = 200, description = "All of them", body = SigningKeyList)), security(("api_key" = []))
)]
async fn list_signing_keys(ByApplication(call): ByApplication) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let keys = read!(call, |transaction| { Ok(signing_key::all_of(transaction, tenant).await?) })?;
    Ok(found(&SigningKeyList { signing_keys: keys.iter().map(SigningKeyView::new).collect() }))
}

/// Remove a key.
///
/// Tokens that were signed with it are refused from the answer on, and sessions that were opened with them end within a second. The key that
/// tokens are issued with here stays.
#[utoipa::path(
    delete, path = "/v1/signing-keys/{key}", tag = "signing keys", params(("key" = String, Path, description = "Its id")),
    responses((status = 204, description = "Removed")), security(("api_key" = []))
)]
async fn remove_signing_key(ByApplication(call): ByApplication, Name(id): Name<PlainId>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let _turn = call.turn(tenant, "").await;
    let (id, mut removed) = (id.as_str(), false);
    change!(call, [0; 32], |transaction| {
        let key = match signing_key::get(transaction, tenant, id).await? {
            Some(key) => key,
            // By an earlier run of this very request, whose commit was not heard of.
            None if removed => return Ok(Done::quietly(Written::empty())),
            None => return Err(Problem::not_found("signing key")),
        };
        if key.private.is_some() {
            return Err(Problem::new(Kind::Conflict, "tokens are issued with this key"));
        }
        let mut keys = signing_key::all_of(transaction, tenant).await?;
        keys.retain(|present| present.id != id);
        touch(transaction, tenant).await?;
        signing_key::remove(transaction, tenant, id);
        removed = true;
        Ok(Done::with(Written::empty(), vec![announcement(tenant, &keys, Some(id))?]))
    })
}
