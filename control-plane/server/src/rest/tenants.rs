//! Tenants, for operators.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_domain::{DisplayName, SigningKey, Tenant, TenantName};
use millrace_protocol::id::TenantId;
use millrace_protocol::node::KeyAlgorithm;
use millrace_store::Transaction;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Query};
use super::call::{ByOperator, Change, Done, Written, change, found, read};
use super::fields::{self, Fields, Request};
use super::members::PageParams;
use super::page::{PageQuery, cut};
use super::problem::{Kind, Problem};
use crate::record::{signing_key, tenant};
use crate::secret;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create_tenant, list_tenants)).routes(routes!(get_tenant))
}

/// A tenant that is to be.
#[derive(Debug, ToSchema)]
pub(crate) struct CreateTenant {
    /// Unique in the deployment; 1 to 63 of `a-z`, `0-9` and `-`.
    #[schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", example = "acme")]
    name: TenantName,
    /// For people to read; 1 to 256 bytes.
    #[schema(value_type = Option<String>, max_length = 256, example = "Acme Inc.")]
    display_name: Option<DisplayName>,
}

impl Request for CreateTenant {
    fn read(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name", fields::text);
        let display_name = fields.optional("display_name", fields::text);
        Some(Self { name: name?, display_name: display_name? })
    }
}

impl Body for CreateTenant {}

/// A tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct TenantView {
    /// Its number, which access tokens carry in the claim `tenant`.
    #[schema(example = 7)]
    id: u32,
    /// Its name.
    #[schema(example = "acme")]
    name: String,
    /// For people to read.
    display_name: Option<String>,
    /// When it began; Unix time, ms.
    created_ms: i64,
}

impl TenantView {
    fn new(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id.get(),
            name: tenant.name.to_string(),
            display_name: tenant.display_name.as_ref().map(ToString::to_string),
            created_ms: tenant.created_ms,
        }
    }
}

/// A page of tenants.
#[derive(Serialize, ToSchema)]
pub(crate) struct TenantPage {
    /// By number.
    tenants: Vec<TenantView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// A tenant that may be written, with the key that signs the tokens that we issue for it.
pub(crate) struct NewTenant {
    pub(crate) tenant: Tenant,
    pub(crate) key: SigningKey,
}

impl NewTenant {
    /// Draws a number and a key.
    pub(crate) fn new(name: TenantName, display_name: Option<DisplayName>, now_ms: i64) -> Result<Self, Problem> {
        let failed = |error: millrace_token::KeyError| {
            tracing::error!(%error, "a signing key cannot be made");
            Problem::new(Kind::Internal, "a signing key cannot be made")
        };
        // 31 bits, so that every language has a type for it.
        let id = TenantId::new(u32::from_be_bytes(secret::random()) >> 1 | 1).expect("the lowest bit is set");
        let signing = millrace_token::SigningKey::generate(KeyAlgorithm::EdDsa).map_err(failed)?;
        let key_id = format!("{id}.{}", secret::random_id());
        let (algorithm, material) = signing
            .tenant_key(id, &key_id)
            .key
            .ok_or_else(|| Problem::new(Kind::Internal, "a signing key cannot be made"))?;
        let key = SigningKey {
            id: key_id.clone(),
            algorithm,
            material: STANDARD.encode(material),
            private: Some(STANDARD.encode(signing.to_bytes())),
            label: None,
            created_ms: now_ms,
        };
        Ok(Self { tenant: Tenant { id, name, display_name, created_ms: now_ms, issuing_key: key_id }, key })
    }

    /// Writes it, unless there is one of this name: then gives that.
    pub(crate) async fn insert(&self, transaction: &mut dyn Transaction) -> Result<Option<Tenant>, Problem> {
        if let Some(present) = tenant::by_name(transaction, &self.tenant.name).await? {
            return Ok(Some(present));
        }
        if tenant::by_id(transaction, self.tenant.id).await?.is_some() {
            return Err(Problem::new(Kind::Unavailable, "the tenant's number is taken; try again"));
        }
        tenant::put(transaction, &self.tenant);
        signing_key::put(transaction, self.tenant.id, &self.key);
        Ok(None)
    }

    /// What the data plane has to hear.
    pub(crate) fn change(&self) -> Result<Change, Problem> {
        Ok(Change::Keys(vec![signing_key::on_the_link(self.tenant.id, &self.key)?]))
    }
}

/// Create a tenant.
///
/// With a signing key of its own, from which its access tokens are issued. Its first API key is created by the operator, too.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, description = "Created", body = TenantView)), security(("operator_key" = []))
)]
async fn create_tenant(ByOperator(call): ByOperator, body: Json<CreateTenant>) -> Result<Response, Problem> {
    call.caller()?.operator()?;
    let CreateTenant { name, display_name } = body.value;
    let new = NewTenant::new(name, display_name, call.now_ms)?;
    change!(call, body.digest, |transaction| {
        match new.insert(transaction).await? {
            Some(present) if present.id != new.tenant.id => {
                let detail = format!("there is a tenant {} already", present.name);
                Err(Problem::new(Kind::AlreadyExists, detail))
            }
            _ => {
                let written = Written::json(StatusCode::CREATED, &TenantView::new(&new.tenant));
                Ok(Done::with(written.at(format!("/v1/tenants/{}", new.tenant.name)), vec![new.change()?]))
            }
        }
    })
}

/// List tenants.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants", params(PageParams),
    responses((status = 200, description = "A page", body = TenantPage)), security(("operator_key" = []))
)]
async fn list_tenants(ByOperator(call): ByOperator, Query(query): Query<PageQuery>) -> Result<Response, Problem> {
    call.caller()?.operator()?;
    let after = query.after(|cursor| cursor.parse().ok().and_then(TenantId::new))?;
    let mut tenants = read!(call, |transaction| { Ok(tenant::page(transaction, after, query.limit + 1).await?) })?;
    let next = cut(&mut tenants, query.limit, |tenant| tenant.id.to_string());
    Ok(found(&TenantPage { tenants: tenants.iter().map(TenantView::new).collect(), next }))
}

/// Look a tenant up.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path, description = "Its name")),
    responses((status = 200, description = "The tenant", body = TenantView)), security(("operator_key" = []))
)]
async fn get_tenant(ByOperator(call): ByOperator, Name(name): Name<TenantName>) -> Result<Response, Problem> {
    call.caller()?.operator()?;
    let tenant = read!(call, |transaction| { Ok(tenant::by_name(transaction, &name).await?) })?;
    Ok(found(&TenantView::new(&tenant.ok_or_else(|| Problem::not_found("tenant"))?)))
}
