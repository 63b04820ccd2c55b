//! The REST API: routes, and the layers that every request passes.
//!
//! From outside in: [`guard`] gives the request an id, a span, a task of its own, and writes problems down; [`admit`] finds out
//! who calls and whether they may call so often; handlers read their request, decide with `millrace-domain` and change records
//! through [`call::Call`].

mod body;
mod call;
mod caller;
mod channels;
mod docs;
pub(crate) mod endpoints;
mod fields;
mod inspect;
mod json;
pub(crate) mod keys;
mod limiter;
mod listener;
mod members;
pub(crate) mod messages;
mod metrics;
mod nodes;
mod openapi;
mod page;
pub(crate) mod problem;
mod reads;
mod sign_in_codes;
mod signing_keys;
mod system;
pub(crate) mod tenants;
pub(crate) mod tokens;
mod users;
mod webhook_deliveries;
mod webhooks;
mod words;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use millrace_domain::{Admission, Rate};
use millrace_store::Store;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, debug, error, info_span};

pub(crate) use self::call::now_ms;
use self::call::{InFlight, Turns};
use self::caller::{Authenticated, Caller};
use self::limiter::Limiter;
use self::metrics::Metrics;
use self::problem::{Kind, Problem, Unwritten, seconds};
pub use self::sign_in_codes::SignIn;
use self::sign_in_codes::SignInCodes;
use crate::config::{OPERATOR_KEY_BYTES_MAX, OPERATOR_KEY_BYTES_MIN, RestConfig, ServeError};
use crate::console;
use crate::data_plane::DataPlane;
use crate::operate::{Fleet, watch as watcher};
use crate::secret;
use crate::webhooks::Webhooks;

/// Names a request in logs, problems and answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// Longest id that a caller may give to a request, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// What every handler works with.
pub(crate) struct Rest {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) data_plane: Arc<dyn DataPlane>,
    pub(crate) config: RestConfig,
    limiter: Limiter,
    /// Requests at once: a caller who hangs up leaves one behind, which ends by itself.
    requests: Arc<Semaphore>,
    pub(crate) in_flight: InFlight,
    pub(crate) turns: Turns,
    pub(crate) webhooks: Webhooks,
    /// For links to the console.
    pub(crate) sign_in_codes: SignInCodes,
    /// The data nodes and their figures.
    pub(crate) fleet: Fleet,
    metrics: Metrics,
    pub(crate) registry: Registry,
    /// Of the configured operator key.
    operator_fingerprint: Option<String>,
}

pub(crate) type Shared = Arc<Rest>;

/// The caller's address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// A REST API that serves. Dropping it stops it without waiting.
pub struct RestServer {
    rest: Arc<Rest>,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl RestServer {
    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/metrics` is served, if that is elsewhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Makes a code that a page exchanges for these credentials: once, within ten minutes.
    pub fn sign_in_code(&self, sign_in: SignIn) -> String {
        self.rest.sign_in_codes.put(Instant::now(), sign_in)
    }

    /// Takes no new connections, lets requests under way finish for as long as the configuration allows, then returns.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                error!(%error, "listener ended badly");
            }
        }
    }
}

impl Drop for RestServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Binds the API and serves it until it is stopped. Metrics are counted in `registry` and shown from it.
///
/// # Errors
/// [`ServeError`]: an address that cannot be bound, an operator key that is none, metrics of these names in the registry already.
pub async fn serve_rest(
    config: RestConfig,
    store: Arc<dyn Store>,
    data_plane: Arc<dyn DataPlane>,
    webhooks: Webhooks,
    registry: Registry,
) -> Result<RestServer, ServeError> {
    let operator_fingerprint = config.operator_key.as_deref().map(operator_fingerprint).transpose()?;
    let metrics = Metrics::register(&registry)?;
    let (listener, address) = bind(config.listen).await?;
    let (admin_listener, admin_address) = match config.admin_listen {
        Some(address) => bind(address).await.map(|(listener, address)| (Some(listener), Some(address)))?,
        None => (None, None),
    };
    let rest = Arc::new(Rest {
        store,
        data_plane,
        limiter: Limiter::new(),
        requests: Arc::new(Semaphore::new(config.connections_max)),
        in_flight: Mutex::new(HashSet::new()),
        turns: Turns::new(),
        webhooks,
        sign_in_codes: SignInCodes::default(),
        fleet: Fleet::default(),
        metrics,
        registry,
        operator_fingerprint,
        config,
    });
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    if let Some(admin_listener) = admin_listener {
        let router = finish(system::probes().merge(system::metrics_route()), &rest);
        tasks.push(tokio::spawn(listener::run(admin_listener, router, rest.clone(), stopped.clone())));
    }
    let router = router(&rest, admin_address.is_none());
    tasks.push(tokio::spawn(watcher::run(rest.clone(), stopped.clone())));
    tasks.push(tokio::spawn(listener::run(listener, router, rest.clone(), stopped)));
    Ok(RestServer { rest, address, admin_address, stop, tasks })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn operator_fingerprint(key: &str) -> Result<String, ServeError> {
    let long_enough = (OPERATOR_KEY_BYTES_MIN..=OPERATOR_KEY_BYTES_MAX).contains(&key.len());
    if long_enough && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(secret::fingerprint(key))
    } else {
        Err(ServeError::OperatorKey)
    }
}

/// Everything below `/v1`, with its documentation.
fn api() -> utoipa_axum::router::OpenApiRouter<Shared> {
    utoipa_axum::router::OpenApiRouter::with_openapi(openapi::base())
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(users::routes())
        .merge(tokens::routes())
        .merge(sign_in_codes::routes())
        .merge(signing_keys::routes())
        .merge(channels::routes())
        .merge(members::routes())
        .merge(reads::routes())
        .merge(messages::routes())
        .merge(webhooks::routes())
        .merge(webhook_deliveries::routes())
        .merge(inspect::routes())
        .merge(nodes::routes())
}

fn router(rest: &Shared, with_metrics: bool) -> Router {
    let (api, document) = api().split_for_parts();
    let (open, document_of_open) = system::routes().split_for_parts();
    let mut document = document;
    document.merge(document_of_open);
    let document = openapi::finish(&document);
    let mut router = api
        .layer(from_fn_with_state(rest.clone(), admit))
        .merge(open)
        .merge(docs::routes(&document))
        .merge(console::routes());
    if with_metrics {
        router = router.merge(system::metrics_route());
    }
    finish(router, rest)
}

fn finish(router: Router<Shared>, rest: &Shared) -> Router {
    router
        .fallback(async || Problem::new(Kind::NoRoute, "the API has no such path"))
        .layer(from_fn_with_state(rest.clone(), guard))
        .with_state(rest.clone())
}

/// The outermost layer.
async fn guard(State(rest): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let under_way = rest.metrics.begin();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The route, never the path: paths have names of channels and users in them.
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let span = info_span!("request", id, %method, route);
    // A task of its own: a caller who hangs up must not stop a change between its commit and its announcement.
    let place = rest.requests.clone().try_acquire_owned();
    let answer = async {
        let response = match &place {
            Ok(_) => next.run(request).await,
            Err(_) => {
                let problem = Problem::new(Kind::Unavailable, "as many requests are under way as there may be");
                problem.after(Duration::from_secs(1)).into_response()
            }
        };
        drop((under_way, place));
        response
    };
    let answer = tokio::spawn(answer.instrument(span.clone())).await;
    let _entered = span.enter();
    let response = answer.unwrap_or_else(|failure| {
        error!(%failure, "handler panicked");
        Problem::new(Kind::Internal, "the request could not be answered").into_response()
    });
    let mut response = write_down(response, &id);
    if let Ok(id) = HeaderValue::try_from(&*id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let status = response.status();
    rest.metrics.answered(&route, &method, status, began.elapsed());
    debug!(status = status.as_u16(), elapsed_us = began.elapsed().as_micros(), "answered");
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| {
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        plain && (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
    });
    given.map_or_else(secret::random_id, str::to_owned)
}

/// Turns a refusal of any layer into a problem that names the request.
fn write_down(mut response: Response, id: &str) -> Response {
    let problem = match response.extensions_mut().remove::<Unwritten>() {
        Some(Unwritten(problem)) => problem,
        None if response.status().is_client_error() || response.status().is_server_error() => {
            let is_ours = response.headers().get("content-type").is_some_and(|kind| kind == problem::MEDIA_TYPE);
            if is_ours {
                return response;
            }
            problem::of_status(response.status())
        }
        None => return response,
    };
    let mut written = problem.render(id);
    // What layers said in headers stays: Allow, RateLimit-*.
    for (name, value) in response.headers() {
        let about_the_body = ["content-type", "content-length"].contains(&name.as_str());
        if !about_the_body && !written.headers().contains_key(name) {
            written.headers_mut().append(name, value.clone());
        }
    }
    written
}

/// Finds out who calls, and accounts the call to them.
///
/// Who shows no valid credential is accounted to their address, but only for calls that are refused: many honest callers share an
/// address, and nobody guesses credentials faster than it allows.
async fn admit(State(rest): State<Shared>, mut request: Request, next: Next) -> Response {
    let authenticated = authenticate(&rest, request.headers()).await;
    let known = matches!(authenticated, Some(Ok(_)));
    let (identity, rate) = match &authenticated {
        Some(Ok(authenticated)) => {
            let rate = match authenticated.caller {
                Caller::User(_) => rest.config.rate_of_user,
                Caller::Operator | Caller::Application(_) => rest.config.rate_of_key,
            };
            (authenticated.identity.clone(), rate)
        }
        _ => {
            let peer = request.extensions().get::<Peer>().map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
            (format!("address:{peer}"), rest.config.rate_of_address)
        }
    };
    let admission = if known { rest.limiter.take(&identity, rate) } else { rest.limiter.look(&identity, rate) };
    let (mut response, admission) = match admission {
        Admission::Admitted { .. } => {
            request.extensions_mut().insert(authenticated);
            let response = next.run(request).await;
            let charged = !known && response.status().is_client_error();
            let admission = if charged { rest.limiter.take(&identity, rate) } else { admission };
            (response, admission)
        }
        Admission::Refused { retry_after } => {
            rest.metrics.rate_limited();
            (too_many(rate, retry_after).into_response(), admission)
        }
    };
    let (remaining, reset) = match admission {
        Admission::Admitted { remaining, reset } => (remaining, reset),
        Admission::Refused { retry_after } => (0, retry_after),
    };
    let headers = response.headers_mut();
    headers.insert(RATE_LIMIT, HeaderValue::from(rate.burst));
    headers.insert(RATE_REMAINING, HeaderValue::from(remaining));
    headers.insert(RATE_RESET, seconds(reset));
    response
}

fn too_many(rate: Rate, retry_after: Duration) -> Problem {
    let detail = format!("more than {} requests at once and one more each {:?}", rate.burst, rate.interval);
    Problem::new(Kind::RateLimited, detail).after(retry_after)
}

impl Rest {
    /// Accounts a call to a user who shows another credential than an access token.
    fn admit_user(&self, identity: &str) -> Result<(), Problem> {
        match self.limiter.take(identity, self.config.rate_of_user) {
            Admission::Admitted { .. } => Ok(()),
            Admission::Refused { retry_after } => {
                self.metrics.rate_limited();
                Err(too_many(self.config.rate_of_user, retry_after))
            }
        }
    }
}

async fn authenticate(rest: &Rest, headers: &HeaderMap) -> Option<Result<Authenticated, Problem>> {
    let credential = match caller::bearer(headers)? {
        Ok(credential) => credential,
        Err(problem) => return Some(Err(problem)),
    };
    if rest.operator_fingerprint.as_ref().is_some_and(|expected| secret::matches(credential, expected)) {
        return Some(Ok(Authenticated::operator(credential)));
    }
    let deadline = Instant::now() + rest.config.store_deadline;
    let mut transaction = match rest.store.begin(deadline).await {
        Ok(transaction) => transaction,
        Err(error) => return Some(Err(error.into())),
    };
    Some(caller::authenticate(&mut *transaction, credential, call::now_ms()).await)
}

/// A name as one segment of a path, percent-encoded where RFC 3986 §3.3 wants it.
fn encode_segment(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
