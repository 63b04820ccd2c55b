//! Health, version, metrics: what machines ask of a node, without a credential.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::TextEncoder;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::call::found;
use super::problem::{Kind, Problem};
use super::{Shared, endpoints};
use crate::record::key;

/// With documentation.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(version))
        .routes(routes!(endpoints))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

/// The same probes on another listener.
pub(super) fn probes() -> Router<Shared> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

pub(super) fn metrics_route() -> Router<Shared> {
    Router::new().route("/metrics", get(metrics))
}

/// What runs here.
#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    /// Of the program.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Versions of this API.
    #[schema(example = json!(["v1"]))]
    api: [&'static str; 1],
}

/// Ask which version runs.
#[utoipa::path(get, path = "/v1/version", tag = "system", responses((status = 200, description = "The version", body = Version)))]
async fn version() -> Response {
    found(&Version { version: env!("CARGO_PKG_VERSION"), api: ["v1"] })
}

/// Where clients connect for live messages.
#[derive(Serialize, ToSchema)]
pub(crate) struct Endpoints {
    /// URLs, each of one data node: `ws` and `wss` for WebSocket, `quic` for QUIC, `https` for WebTransport. Empty as long as none has ever been linked.
    #[schema(example = json!(["wss://chat.example", "quic://chat.example", "https://chat.example"]))]
    endpoints: Vec<String>,
    /// A browser's `serverCertificateHashes`: of certificates that are valid for at most 14 days, which browsers take by their hash
    /// alone, as those of development servers. They change whenever a node has a new one: ask again before each connection.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificate_hashes: Vec<CertificateHash>,
}

/// What a certificate is known by.
#[derive(Serialize, ToSchema)]
pub(crate) struct CertificateHash {
    /// `sha-256`.
    #[schema(example = "sha-256")]
    algorithm: &'static str,
    /// The hash of the certificate in DER, Base64.
    value: String,
}

impl CertificateHash {
    fn of(sha256: [u8; 32]) -> Self {
        Self { algorithm: "sha-256", value: STANDARD.encode(sha256) }
    }
}

/// Ask where clients connect for live messages.
///
/// To be given to an SDK as it is. A node that listens on every address is named by the host of this very request.
#[utoipa::path(get, path = "/v1/endpoints", tag = "system", responses((status = 200, description = "Where", body = Endpoints)))]
async fn endpoints(State(rest): State<Shared>, headers: HeaderMap) -> Response {
    let body = found(&Endpoints {
        endpoints: endpoints::of(&*rest.data_plane, &headers),
        certificate_hashes: rest.data_plane.certificate_hashes().into_iter().map(CertificateHash::of).collect(),
    });
    // A node that moved is to be found at once.
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// How a node is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Whether a data node is linked: without one, messages cannot be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_plane: Option<bool>,
}

/// Ask whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "system", responses((status = 200, description = "It does", body = Health)))]
async fn healthz() -> Response {
    found(&Health { status: "ok", data_plane: None })
}

/// Ask whether the node can work: whether the store answers.
#[utoipa::path(get, path = "/readyz", tag = "system", responses((status = 200, description = "It can", body = Health)))]
async fn readyz(State(rest): State<Shared>) -> Result<Response, Problem> {
    let deadline = std::time::Instant::now() + rest.config.store_deadline;
    let mut transaction = rest.store.begin(deadline).await?;
    transaction.get(&key::swept_until(0)).await?;
    Ok(found(&Health { status: "ok", data_plane: Some(rest.data_plane.is_linked()) }))
}

async fn metrics(State(rest): State<Shared>) -> Response {
    match TextEncoder::new().encode_to_string(&rest.registry.gather()) {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            Problem::new(Kind::Internal, "metrics cannot be written").into_response()
        }
    }
}
