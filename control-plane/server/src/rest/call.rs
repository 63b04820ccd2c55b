//! One call of the API: who makes it, and how a change is made: once per `Idempotency-Key`, committed, announced, then answered.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use millrace_domain::{Channel, can_publish};
use millrace_protocol::id::{ChannelName, TenantId, UserId};
use millrace_protocol::node::{MemberChanged, NodeBody, ReadMark, Role, TenantKey, TokensRevoked};
use millrace_store::Transaction;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use super::Rest;
use super::caller::{Authenticated, Caller};
use super::problem::{Kind, Problem};
use crate::record::idempotency::{self, Answer};
use crate::secret::{self, Sealer};
use crate::transact::Runs;
use crate::webhooks::Event;

/// Carries the caller's own name of a request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept.
const ANSWER_LIFE_MS: i64 = 24 * 3600 * 1000;

/// Unix time in ms.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A call: the caller and what a change needs to know of the request.
pub(crate) struct Call {
    /// What the API runs on.
    pub(crate) rest: Arc<Rest>,
    caller: Option<Result<Authenticated, Problem>>,
    idempotency_key: Option<String>,
    /// Method and path with query.
    target: String,
    /// When the call came; Unix time, ms.
    pub(crate) now_ms: i64,
}

impl Call {
    fn of(parts: &Parts, rest: &Arc<Rest>) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Option<Result<Authenticated, Problem>>>().cloned().flatten();
        let idempotency_key = match parts.method {
            Method::POST => idempotency_key(&parts.headers)?,
            _ => None,
        };
        let target = format!("{} {}", parts.method, parts.uri);
        Ok(Self { rest: rest.clone(), caller, idempotency_key, target, now_ms: now_ms() })
    }
}

/// Calls by what they may be made with: whoever has no credential, or one of another scope, hears so before anything of the request is read.
macro_rules! scopes {
    ($($(#[doc = $doc:literal])+ $name:ident = $check:expr;)+) => {
        $(
            $(#[doc = $doc])+
            pub(crate) struct $name(pub(crate) Call);

            impl FromRequestParts<Arc<Rest>> for $name {
                type Rejection = Problem;

                async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Problem> {
                    let call = Call::of(parts, rest)?;
                    let check: fn(&Call) -> Result<(), Problem> = $check;
                    check(&call)?;
                    Ok(Self(call))
                }
            }
        )+
    };
}

scopes! {
    /// With an operator key.
    ByOperator = |call| call.caller()?.operator();
    /// With an API key.
    ByApplication = |call| call.caller()?.application().map(drop);
    /// With an operator key or an API key.
    ByServer = |call| call.caller()?.server();
    /// With an API key or an access token.
    InTenant = |call| call.caller()?.in_tenant().map(drop);
    /// With a credential that is elsewhere in the request.
    ByAnybody = |_| Ok(());
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field("Idempotency-Key", "is given twice"));
    }
    let key = value.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let message = format!("is not 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
        return Err(Problem::field("Idempotency-Key", message));
    }
    Ok(Some(key.to_owned()))
}

impl Call {
    /// Who calls.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] if no credential was sent, or one that is not valid.
    pub(crate) fn caller(&self) -> Result<&Caller, Problem> {
        Ok(&self.authenticated()?.caller)
    }

    fn authenticated(&self) -> Result<&Authenticated, Problem> {
        match &self.caller {
            Some(Ok(authenticated)) => Ok(authenticated),
            Some(Err(problem)) => Err(problem.clone()),
            None => {
                let detail = "no credential; send the header Authorization: Bearer <credential>";
                Err(Problem::new(Kind::Unauthenticated, detail))
            }
        }
    }

    /// Whether the caller shows this API key.
    pub(crate) fn is_made_with(&self, key_id: &str) -> bool {
        self.authenticated().is_ok_and(|caller| caller.identity.strip_prefix("key:") == Some(key_id))
    }

    /// When transactions of this call have to end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.rest.config.store_deadline
    }

    /// Begins a transaction that only reads.
    pub(crate) async fn begin(&self) -> Result<Box<dyn Transaction>, Problem> {
        Ok(self.rest.store.begin(self.deadline()).await?)
    }

    /// Begins a change in the caller's name. `request` is the digest of the body.
    pub(crate) fn changing(&self, request: [u8; 32]) -> Result<Changing<'_>, Problem> {
        let Authenticated { identity, sealer, .. } = self.authenticated()?;
        self.changing_as(identity, *sealer, request)
    }

    /// Begins a change in the name of a credential that came another way.
    pub(crate) fn changing_as(
        &self,
        identity: &str,
        sealer: Sealer,
        request: [u8; 32],
    ) -> Result<Changing<'_>, Problem> {
        let slot = self.slot(identity, sealer, request)?;
        let runs = Runs::new(&*self.rest.store, self.deadline());
        Ok(Changing { call: self, slot, runs, changes: Vec::new(), event_names: Vec::new(), awake: Vec::new() })
    }

    /// The place of this call's answer, if its caller named the request. Nobody else is in it as long as it lives.
    ///
    /// # Errors
    /// [`Kind::InProgress`].
    pub(crate) fn slot(&self, identity: &str, sealer: Sealer, request: [u8; 32]) -> Result<Option<Slot>, Problem> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let digest = secret::sha256(&[identity.as_bytes(), key.as_bytes()]);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest[..16]);
        if !lock(&self.rest.in_flight).insert(fingerprint) {
            let problem = Problem::new(Kind::InProgress, "a request with this Idempotency-Key is under way");
            return Err(problem.after(std::time::Duration::from_secs(1)));
        }
        let request = secret::sha256(&[self.target.as_bytes(), &request]);
        Ok(Some(Slot { rest: self.rest.clone(), fingerprint, request, sealer }))
    }

    /// The same for the caller itself, outside [`change!`].
    pub(crate) fn own_slot(&self, request: [u8; 32]) -> Result<Option<Slot>, Problem> {
        let Authenticated { identity, sealer, .. } = self.authenticated()?;
        self.slot(identity, *sealer, request)
    }

    /// Waits for one's turn to change a channel. Announcements leave in the order of commits only if nobody else changes it meanwhile.
    pub(crate) async fn turn(&self, tenant: TenantId, what: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (tenant.get(), what).hash(&mut hasher);
        let turns = &self.rest.turns.0;
        let index = hasher.finish() % u64::try_from(turns.len()).unwrap_or(1);
        turns[usize::try_from(index).unwrap_or(0)].lock().await
    }
}

/// Makes a change: `change!(call, digest, |transaction| { … })`, where the body is a `Result<Done, Problem>`, or
/// `change!(changing, |transaction| { … })`. Gives the answer.
///
/// The body runs as in [`transact!`](crate::transact::transact), once per `Idempotency-Key`; what it did is committed, announced, and then answered.
macro_rules! change {
    ($call:expr, $digest:expr, |$transaction:ident| $body:block) => {
        match $call.changing($digest) {
            Ok(changing) => change!(changing, |$transaction| $body),
            Err(problem) => Err(problem),
        }
    };
    ($changing:expr, |$transaction:ident| $body:block) => {{
        let mut changing = $changing;
        loop {
            let mut owned = match changing.begin().await {
                Ok(Ok(transaction)) => transaction,
                Ok(Err(written)) => break changing.end(Ok(written)),
                Err(problem) => break changing.end(Err(problem)),
            };
            let $transaction: &mut dyn millrace_store::Transaction = &mut *owned;
            let done: Result<$crate::rest::call::Done, $crate::rest::problem::Problem> = async { $body }.await;
            match changing.commit(owned, done).await {
                Ok(Some(written)) => break changing.end(Ok(written)),
                Ok(None) => {}
                Err(problem) => break changing.end(Err(problem)),
            }
        }
    }};
}

pub(crate) use change;

/// Reads from one snapshot: `read!(call, |transaction| { … })`, where the body is a `Result<T, Problem>`.
macro_rules! read {
    ($call:expr, |$transaction:ident| $body:block) => {
        match $call.begin().await {
            Ok(mut owned) => {
                let $transaction: &mut dyn millrace_store::Transaction = &mut *owned;
                let found: Result<_, $crate::rest::problem::Problem> = async { $body }.await;
                found
            }
            Err(problem) => Err(problem),
        }
    };
}

pub(crate) use read;

/// A change under way: the state behind [`change!`].
pub(crate) struct Changing<'a> {
    call: &'a Call,
    slot: Option<Slot>,
    runs: Runs<'a>,
    changes: Vec<Change>,
    /// Of the events of its first run.
    event_names: Vec<String>,
    /// Webhooks that have something to tell.
    awake: Vec<(TenantId, Arc<str>)>,
}

impl Changing<'_> {
    /// Begins the next run, or finds that the request was answered before.
    pub(crate) async fn begin(&mut self) -> Result<Result<Box<dyn Transaction>, Written>, Problem> {
        let mut transaction = self.runs.begin().await?;
        if let Some(slot) = &self.slot
            && let Some(written) = slot.answer(&mut *transaction, self.call.now_ms).await?
        {
            return Ok(Err(written));
        }
        Ok(Ok(transaction))
    }

    /// Commits a run with its answer; `None` if it has to run again.
    pub(crate) async fn commit(
        &mut self,
        mut transaction: Box<dyn Transaction>,
        done: Result<Done, Problem>,
    ) -> Result<Option<Written>, Problem> {
        let Done { written, changes, mut events } = done?;
        for (index, event) in events.iter_mut().enumerate() {
            event.named(&mut self.event_names, index);
        }
        self.awake.extend(self.call.rest.webhooks.keep(&mut *transaction, &events).await?);
        if let Some(slot) = &self.slot {
            slot.keep(&mut *transaction, &written, self.call.now_ms);
        }
        // A second run may find that an unknown commit of the first one landed, and change nothing: the first one's
        // changes are to be announced all the same.
        if !changes.is_empty() {
            self.changes = changes;
        }
        Ok(self.runs.commit(transaction).await?.then_some(written))
    }

    /// Announces before the answer: whoever hears that a membership is over may rely on it.
    pub(crate) fn end(self, result: Result<Written, Problem>) -> Result<Response, Problem> {
        for change in self.changes {
            self.call.rest.data_plane.announce(if result.is_ok() { change.certain() } else { change.uncertain() });
        }
        self.call.rest.webhooks.wake(self.awake);
        result.map(Written::into_response)
    }
}

/// Locks that put changes of one thing in order: many, so that things rarely share one.
pub(crate) struct Turns([AsyncMutex<()>; 256]);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| AsyncMutex::new(())))
    }
}

/// Requests that are under way, by fingerprint; bounded as they are.
pub(crate) type InFlight = Mutex<HashSet<[u8; 16]>>;

fn lock(in_flight: &InFlight) -> std::sync::MutexGuard<'_, HashSet<[u8; 16]>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of an answer that a retry gets again.
pub(crate) struct Slot {
    rest: Arc<Rest>,
    fingerprint: [u8; 16],
    request: [u8; 32],
    sealer: Sealer,
}

impl Slot {
    /// What names this request in the whole deployment: also the producer of a message.
    pub(crate) fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// The answer that was given before.
    ///
    /// # Errors
    /// [`Kind::KeyReused`] if it was the answer to another request.
    pub(crate) async fn answer(
        &self,
        transaction: &mut dyn Transaction,
        now_ms: i64,
    ) -> Result<Option<Written>, Problem> {
        let Some(answer) = idempotency::get(transaction, self.fingerprint, now_ms).await? else { return Ok(None) };
        let reused = || Problem::new(Kind::KeyReused, "this Idempotency-Key was used for another request");
        if answer.request != self.request {
            return Err(reused());
        }
        let plain = self.sealer.open(&answer.sealed).ok_or_else(reused)?;
        let mut written: Written = serde_json::from_slice(&plain).map_err(|_| reused())?;
        written.replayed = true;
        Ok(Some(written))
    }

    /// Keeps an answer for a day.
    pub(crate) fn keep(&self, transaction: &mut dyn Transaction, written: &Written, now_ms: i64) {
        let plain = serde_json::to_vec(written).expect("an answer has string keys");
        let answer = Answer { request: self.request, sealed: self.sealer.seal(&plain) };
        idempotency::put(transaction, self.fingerprint, now_ms + ANSWER_LIFE_MS, &answer);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.rest.in_flight).remove(&self.fingerprint);
    }
}

/// An answer to a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Written {
    status: u16,
    location: Option<String>,
    /// JSON; empty for 204.
    body: String,
    #[serde(skip)]
    replayed: bool,
}

impl Written {
    /// An answer with a body.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("an answer has string keys");
        Self { status: status.as_u16(), location: None, body, replayed: false }
    }

    /// An answer without one.
    pub(crate) fn empty() -> Self {
        Self { status: 204, location: None, body: String::new(), replayed: false }
    }

    /// Where the new thing is.
    pub(crate) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// With the headers.
    pub(crate) fn into_response(self) -> Response {
        let mut response = json_response(StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK), self.body);
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if self.replayed {
            response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

fn json_response(status: StatusCode, body: String) -> Response {
    let empty = body.is_empty();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if !empty {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer to a question.
pub(crate) fn found(body: &impl Serialize) -> Response {
    Written::json(StatusCode::OK, body).into_response()
}

/// What a transaction did: the answer, and what the data plane has to hear.
pub(crate) struct Done {
    written: Written,
    changes: Vec<Change>,
    events: Vec<Event>,
}

impl Done {
    /// Nothing to announce.
    pub(crate) fn quietly(written: Written) -> Self {
        Self { written, changes: Vec::new(), events: Vec::new() }
    }

    /// With changes to announce.
    pub(crate) fn with(written: Written, changes: Vec<Change>) -> Self {
        Self { written, changes, events: Vec::new() }
    }

    /// And what webhooks hear of: kept with the change, or not at all.
    pub(crate) fn telling(self, events: Vec<Event>) -> Self {
        Self { events, ..self }
    }
}

/// A change that open sessions have to hear of.
pub(crate) enum Change {
    /// A membership began, changed or ended.
    Member(Channel, UserId, Option<Role>),
    /// A channel began, changed or was archived.
    Channel(Channel),
    /// All keys of a tenant; without material those that end.
    Keys(Vec<TenantKey>),
    /// Tokens are valid no more.
    Revoked(TokensRevoked),
    /// A member has read a channel so far.
    Read(ReadMark),
}

impl Change {
    /// It is committed.
    pub(crate) fn certain(self) -> NodeBody {
        match self {
            Self::Member(channel, user, role) => NodeBody::MemberChanged(MemberChanged {
                tenant: channel.tenant,
                channel: channel.id,
                user,
                membership: role.map(|role| (role, can_publish(channel.kind, role))),
            }),
            Self::Channel(channel) => {
                channel_changed(channel.tenant, &channel, channel.name.clone(), channel.archived_ms.is_some())
            }
            Self::Keys(keys) => NodeBody::Keys(keys),
            Self::Revoked(revoked) => NodeBody::TokensRevoked(revoked),
            Self::Read(mark) => NodeBody::ReadsMoved(vec![mark]),
        }
    }

    /// It may be committed: nodes ask again for what they believe of the channel. What the caller wants of keys and tokens is
    /// done at once; if it was not stored, it lasts until the next link.
    fn uncertain(self) -> NodeBody {
        match self {
            Self::Member(channel, ..) | Self::Channel(channel) => {
                channel_changed(channel.tenant, &channel, channel.name.clone(), false)
            }
            // Nobody is told a read position that may not be stored; the caller's next try tells it.
            Self::Read(_) => NodeBody::ReadsMoved(Vec::new()),
            Self::Keys(_) | Self::Revoked(_) => self.certain(),
        }
    }
}

fn channel_changed(tenant: TenantId, channel: &Channel, name: ChannelName, archived: bool) -> NodeBody {
    NodeBody::ChannelChanged { tenant, channel: channel.id, name, archived }
}
