//! Bodies, queries and path segments of requests, read with every limit and refusal in one place.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request as HttpRequest};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::Rest;
use super::fields::{Fields, Request};
use super::json;
use super::problem::{Kind, Problem};
use crate::config::RestConfig;
use crate::secret;

/// Largest body but that of a message, in bytes: a channel with its first members and metadata fits several times.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What may stand in a body.
pub(crate) trait Body: Request {
    /// Largest body, in bytes.
    fn body_bytes_max(_config: &RestConfig) -> usize {
        BODY_BYTES_MAX
    }
}

/// A body, checked, with its digest.
pub(crate) struct Json<T> {
    /// What it says.
    pub(crate) value: T,
    /// SHA-256 of its bytes.
    pub(crate) digest: [u8; 32],
}

impl<T: Body> FromRequest<Arc<Rest>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: HttpRequest, rest: &Arc<Rest>) -> Result<Self, Problem> {
        check_media_type(request.headers())?;
        let bytes = read(request, T::body_bytes_max(&rest.config), rest.config.read_deadline).await?;
        let (body, repeated) = json::parse(&bytes).map_err(|error| {
            // The position and the kind of the fault, without the text around it.
            Problem::new(Kind::MalformedJson, error.to_string())
        })?;
        let mut fields = Fields::of_body(body, repeated)?;
        let value = T::read(&mut fields);
        Ok(Self { value: fields.finish(value)?, digest: secret::sha256(&[&bytes]) })
    }
}

async fn read(request: HttpRequest, bytes_max: usize, deadline: Duration) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("the body is over {bytes_max} bytes"));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|len: u64| len > u64::try_from(bytes_max).unwrap_or(u64::MAX)) {
        return Err(too_large());
    }
    match tokio::time::timeout(deadline, Limited::new(request.into_body(), bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(Kind::BadRequest, "the body ended early")),
        Err(_) => Err(Problem::new(Kind::Timeout, format!("the body did not come within {} s", deadline.as_secs()))),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(Problem::new(Kind::MediaType, "send Content-Type: application/json")) }
}

/// Parameters of a request that has no body.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: Request> FromRequestParts<Arc<Rest>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Rest>) -> Result<Self, Problem> {
        let parameters = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::new(Kind::BadRequest, "the query cannot be read"))?;
        let mut fields = Fields::of_query(parameters.0);
        let query = T::read(&mut fields);
        fields.finish(query).map(Self)
    }
}

/// The one variable part of a path, as the name that it has to be. What is no name is not found.
pub(crate) struct Name<T>(pub(crate) T);

impl<T: std::str::FromStr + Send> FromRequestParts<Arc<Rest>> for Name<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Problem> {
        let Path(name) = path::<String>(parts, rest).await?;
        Ok(Self(name.parse().map_err(|_| Problem::not_found("resource"))?))
    }
}

/// The two variable parts of a path.
pub(crate) struct Names<T, U>(pub(crate) T, pub(crate) U);

impl<T: std::str::FromStr + Send, U: std::str::FromStr + Send> FromRequestParts<Arc<Rest>> for Names<T, U> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Problem> {
        let Path((one, other)) = path::<(String, String)>(parts, rest).await?;
        let not_found = || Problem::not_found("resource");
        Ok(Self(one.parse().map_err(|_| not_found())?, other.parse().map_err(|_| not_found())?))
    }
}

async fn path<T: serde::de::DeserializeOwned + Send>(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Path<T>, Problem> {
    Path::from_request_parts(parts, rest)
        .await
        .map_err(|_| Problem::new(Kind::BadRequest, "the path is no percent-encoded UTF-8"))
}
