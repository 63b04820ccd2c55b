//! API keys of application servers, and operator keys.

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::{ApiKey, DisplayName, KeyText, TenantName};
use millrace_protocol::id::TenantId;
use millrace_store::Transaction;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Query};
use super::call::{ByServer, Done, Written, change, found, read};
use super::caller::Caller;
use super::fields::{self, Fields, Request};
use super::page::{PageQuery, cut};
use super::problem::{Kind, Problem};
use crate::record::key::PlainId;
use crate::record::{api_key, tenant};
use crate::secret;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create_key, list_keys)).routes(routes!(revoke_key))
}

/// A key that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct CreateKey {
    /// For operators: whose application server it is for. Missing: another operator key.
    #[schema(value_type = Option<String>, max_length = 63, example = "acme")]
    tenant: Option<TenantName>,
    /// What it is used for.
    #[schema(value_type = Option<String>, max_length = 256, example = "production server")]
    label: Option<DisplayName>,
}

impl Request for CreateKey {
    fn read(fields: &mut Fields) -> Option<Self> {
        let tenant = fields.optional("tenant", fields::text);
        let label = fields.optional("label", fields::text);
        Some(Self { tenant: tenant?, label: label? })
    }
}

impl Body for CreateKey {}

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyView {
    /// Names it; no secret.
    #[schema(example = "h3k8m2x9q4w7t6z5")]
    id: String,
    /// Number of its tenant; null for an operator key.
    tenant: Option<u32>,
    /// What it is used for.
    label: Option<String>,
    /// When it was made; Unix time, ms.
    created_ms: i64,
}

impl KeyView {
    fn new(key: &ApiKey) -> Self {
        Self {
            id: key.id.clone(),
            tenant: key.tenant,
            label: key.label.as_ref().map(ToString::to_string),
            created_ms: key.created_ms,
        }
    }
}

/// A new key, with its secret: it is shown this once.
#[derive(Serialize, ToSchema)]
#[schema(as = NewKey)]
pub(crate) struct NewKeyView {
    #[serde(flatten)]
    about: KeyView,
    /// The whole credential, for the `Authorization` header. It is stored nowhere: keep it.
    #[schema(example = "mr_h3k8m2x9q4w7t6z5_J7mQ0c2Vn9fR4tYw")]
    key: String,
}

/// A page of keys.
#[derive(Serialize, ToSchema)]
pub(crate) struct KeyPage {
    /// By id.
    keys: Vec<KeyView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// Which keys.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what KeyQuery reads")]
pub(crate) struct KeyParams {
    /// At most so many, 1 to 100; by default 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// For operators: whose keys. Missing: operator keys.
    tenant: Option<String>,
}

pub(crate) struct KeyQuery {
    page: PageQuery,
    tenant: Option<TenantName>,
}

impl Request for KeyQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let page = PageQuery::read(fields);
        let tenant = fields.optional("tenant", fields::text);
        Some(Self { page: page?, tenant: tenant? })
    }
}

/// A new key, and the text that is shown once.
pub(crate) fn generate(tenant: Option<TenantId>, label: Option<DisplayName>, now_ms: i64) -> (ApiKey, String) {
    let (id, secret) = (secret::random_id(), secret::random_secret());
    let text = KeyText { id: &id, secret: &secret }.to_string();
    let secret_sha256 = secret::fingerprint(&secret);
    (ApiKey { id, tenant: tenant.map(TenantId::get), label, secret_sha256, created_ms: now_ms }, text)
}

/// Whose keys a caller means: an operator names a tenant or means operator keys, an application server means its own.
async fn scope(
    transaction: &mut dyn Transaction,
    caller: &Caller,
    named: Option<&TenantName>,
    field: &str,
) -> Result<Option<TenantId>, Problem> {
    match (caller, named) {
        (Caller::Operator, None) => Ok(None),
        (Caller::Operator, Some(name)) => {
            let found = tenant::by_name(transaction, name).await?;
            Ok(Some(found.ok_or_else(|| Problem::field(field, "is no tenant"))?.id))
        }
        (Caller::Application(tenant), None) => Ok(Some(*tenant)),
        (Caller::Application(_), Some(_)) => {
            Err(Problem::field(field, "is for operators; an API key means its own tenant"))
        }
        (Caller::User(_), _) => Err(super::caller::wrong_scope("an operator key or an API key")),
    }
}

/// Create an API key.
///
/// The secret is in the answer and nowhere else. A repeated request with the same `Idempotency-Key` and credential gets it again.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", request_body = CreateKey,
    responses((status = 201, description = "Created", body = NewKeyView)), security(("operator_key" = []), ("api_key" = []))
)]
async fn create_key(ByServer(call): ByServer, body: Json<CreateKey>) -> Result<Response, Problem> {
    let caller = call.caller()?;
    let (mut key, text) = generate(None, body.value.label, call.now_ms);
    change!(call, body.digest, |transaction| {
        let tenant = scope(transaction, caller, body.value.tenant.as_ref(), "/tenant").await?;
        key.tenant = tenant.map(TenantId::get);
        api_key::put(transaction, &key);
        let written = Written::json(StatusCode::CREATED, &NewKeyView { about: KeyView::new(&key), key: text.clone() });
        Ok(Done::quietly(written.at(format!("/v1/keys/{}", key.id))))
    })
}

/// List API keys.
///
/// An application server sees those of its tenant. Secrets are not shown.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", params(KeyParams),
    responses((status = 200, description = "A page", body = KeyPage)), security(("operator_key" = []), ("api_key" = []))
)]
async fn list_keys(ByServer(call): ByServer, Query(query): Query<KeyQuery>) -> Result<Response, Problem> {
    let caller = call.caller()?;
    let KeyQuery { page, tenant } = query;
    let after = page.after(|cursor| cursor.parse::<PlainId>().ok())?;
    let mut keys = read!(call, |transaction| {
        let tenant = scope(transaction, caller, tenant.as_ref(), "?tenant").await?;
        Ok(api_key::page(transaction, tenant, after.as_ref().map(PlainId::as_str), page.limit + 1).await?)
    })?;
    let next = cut(&mut keys, page.limit, |key| key.id.clone());
    Ok(found(&KeyPage { keys: keys.iter().map(KeyView::new).collect(), next }))
}

/// Revoke an API key.
///
/// It opens nothing from the answer on. A key cannot revoke itself: make the new one first, and revoke the old one with it.
#[utoipa::path(
    delete, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path, description = "Its id")),
    responses((status = 204, description = "Revoked")), security(("operator_key" = []), ("api_key" = []))
)]
async fn revoke_key(ByServer(call): ByServer, Name(id): Name<PlainId>) -> Result<Response, Problem> {
    let caller = call.caller()?;
    let mut removed = false;
    change!(call, [0; 32], |transaction| {
        let not_found = || Problem::not_found("key");
        let key = match api_key::get(transaction, id.as_str()).await? {
            Some(key) => key,
            // By an earlier run of this very request, whose commit was not heard of.
            None if removed => return Ok(Done::quietly(Written::empty())),
            None => return Err(not_found()),
        };
        if let Caller::Application(tenant) = caller
            && key.tenant != Some(tenant.get())
        {
            return Err(not_found());
        }
        if call.is_made_with(id.as_str()) {
            return Err(Problem::new(Kind::Conflict, "a key cannot revoke itself"));
        }
        api_key::remove(transaction, &key);
        removed = true;
        Ok(Done::quietly(Written::empty()))
    })
}
