//! Problems: every refusal of the API, as RFC 9457 `application/problem+json`.
//!
//! A handler returns a [`Problem`]; the outermost layer writes it down, because only that layer knows the request's id. What the
//! libraries below refuse by themselves, such as an unknown method, goes through the same layer.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_domain::RuleError;
use millrace_protocol::code::{Code, Refusal};
use millrace_store::StoreError;
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::transact::TransactError;

/// Media type of every refusal.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";
/// Path under which every type of problem has its name.
pub(crate) const TYPE_PREFIX: &str = "/problems/";

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:ident, $slug:literal, $title:literal;)+) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Kind {
            /// Every kind, in the order of the documentation.
            pub(crate) const ALL: &'static [Kind] = &[$(Kind::$name,)+];

            /// Its HTTP status.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// The last part of its type.
            pub(crate) const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)+ }
            }

            /// The same for every problem of the kind.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What it means and what to do, for the documentation.
            pub(crate) const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

kinds! {
    /// A field, parameter or header is missing, unknown or not allowed. `errors` names each of them; mend them all and send the request again.
    Validation = UNPROCESSABLE_ENTITY, "validation", "The request has invalid fields";
    /// The body is no JSON, or not in UTF-8. `detail` says where it stops being so.
    MalformedJson = BAD_REQUEST, "malformed-json", "The body is no JSON";
    /// The request line or a header cannot be read.
    BadRequest = BAD_REQUEST, "bad-request", "The request cannot be read";
    /// No credential came with the request, or it is unknown, expired or revoked. Send `Authorization: Bearer …` with a valid one.
    Unauthenticated = UNAUTHORIZED, "unauthenticated", "A valid credential is needed";
    /// The credential is valid, but for another audience: the documentation of each operation says whose it takes.
    WrongScope = FORBIDDEN, "wrong-scope", "The credential is for another scope";
    /// The user's role in the channel does not allow it.
    NotAllowed = FORBIDDEN, "not-allowed", "The role does not allow it";
    /// No such thing, or none that the caller may know of: a channel is not found by users who are no members of it.
    NotFound = NOT_FOUND, "not-found", "No such resource";
    /// The API has no such path.
    NoRoute = NOT_FOUND, "no-route", "No such path";
    /// The path has no such method; `Allow` lists those it has.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "No such method on this path";
    /// The headers or the body did not come in time.
    Timeout = REQUEST_TIMEOUT, "timeout", "The request took too long";
    /// Another thing has this name.
    AlreadyExists = CONFLICT, "already-exists", "It exists already";
    /// What is asked does not fit the present state, such as removing the last owner; `detail` says what stands in the way.
    Conflict = CONFLICT, "conflict", "The present state does not allow it";
    /// The channel is archived: it can be read and left, and nothing else.
    Archived = CONFLICT, "archived", "The channel is archived";
    /// The channel keeps no history to read.
    NoHistory = CONFLICT, "no-history", "The channel keeps no history";
    /// A request with the same `Idempotency-Key` is under way. Wait and send it again to get its answer.
    InProgress = CONFLICT, "idempotency-in-progress", "The same request is under way";
    /// The `Idempotency-Key` was used for another request. Use a new key for every new request.
    KeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The Idempotency-Key belongs to another request";
    /// The body is over the limit of the operation.
    TooLarge = PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    /// A body has to be `Content-Type: application/json`.
    MediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body has to be JSON";
    /// The caller makes more requests than it may. Wait as long as `Retry-After` says.
    RateLimited = TOO_MANY_REQUESTS, "rate-limited", "Too many requests";
    /// The store or the data plane cannot be reached now, and nothing has changed. Send the request again after `Retry-After`.
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable";
    /// It is not known whether the change was made. Send the request again with the same `Idempotency-Key`: it is made once.
    UnknownOutcome = SERVICE_UNAVAILABLE, "unknown-outcome", "The outcome is not known";
    /// A fault of ours; the log has the details under the request's id.
    Internal = INTERNAL_SERVER_ERROR, "internal", "A fault of the server";
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// A JSON pointer into the body (RFC 6901), `?name` for a parameter, or the name of a header.
    #[schema(example = "/members/0/role")]
    pub(crate) field: String,
    /// What is wrong with it.
    #[schema(example = "is none of owner, moderator, member, reader")]
    pub(crate) message: String,
}

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

/// What a refusal looks like (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// What kind of problem: a path on this server that is documented there.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation")]
    kind: String,
    /// The kind in words; the same for every problem of this type.
    #[schema(example = "The request has invalid fields")]
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What happened this time.
    #[schema(example = "1 field is invalid")]
    detail: &'a str,
    /// This request: `urn:millrace:request:` and the id that is in the `X-Request-Id` header, too.
    #[schema(example = "urn:millrace:request:k3v9m2x8q4w7t6z5")]
    instance: String,
    /// Every field that is wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem with a sentence about this very request.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// One field is wrong.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// These fields are wrong.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.len() {
            1 => "1 field is invalid".to_owned(),
            count => format!("{count} fields are invalid"),
        };
        Self { errors, ..Self::new(Kind::Validation, detail) }
    }

    /// A thing that is not there, or that the caller may not know of.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("no such {what}"))
    }

    /// The same with a time to wait before the next try.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// What happened this time.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// What kind of problem it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Writes the problem down.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            kind: format!("{TYPE_PREFIX}{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            instance: format!("urn:millrace:request:{request_id}"),
            errors: &self.errors,
        };
        let json = serde_json::to_vec(&body).expect("a problem has string keys");
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"millrace\""));
        }
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds(delay));
        }
        response
    }
}

/// Whole seconds, rounded up, at least one: a client that waits so long is welcome.
pub(crate) fn seconds(delay: Duration) -> HeaderValue {
    HeaderValue::from(delay.as_secs() + u64::from(delay.subsec_nanos() > 0 || delay.is_zero()))
}

/// The refusals of libraries below have a status and no problem; these are theirs.
pub(crate) fn of_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(Kind::NoRoute, "the API has no such path"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(Kind::MethodNotAllowed, "the Allow header lists the methods"),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, "the body is over its limit"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(Kind::MediaType, "the body is no JSON"),
        StatusCode::REQUEST_TIMEOUT => Problem::new(Kind::Timeout, "the request took too long"),
        status if status.is_client_error() => Problem::new(Kind::BadRequest, "the request cannot be read"),
        _ => Problem::new(Kind::Internal, "the request could not be answered"),
    }
}

/// A problem as the outermost layer finds it.
#[derive(Clone)]
pub(crate) struct Unwritten(pub(crate) Problem);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status();
        // What was decided on the way, such as Retry-After, is the problem's own and is written with it.
        response.extensions_mut().insert(Unwritten(self));
        response
    }
}

impl From<TransactError> for Problem {
    fn from(error: TransactError) -> Self {
        const RETRY: Duration = Duration::from_secs(1);
        match error {
            TransactError::Store(error) => error.into(),
            TransactError::Contended => {
                Self::new(Kind::Unavailable, "others keep changing the same records").after(RETRY)
            }
            TransactError::Unknown(cause) => {
                warn!(%cause, "outcome of a commit is unknown");
                Self::new(Kind::UnknownOutcome, "it is not known whether the change was stored").after(RETRY)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DeadlineExceeded | StoreError::Unavailable(_) => {
                warn!(%error, "store is out of reach");
                Self::new(Kind::Unavailable, "the store did not answer in time").after(Duration::from_secs(1))
            }
            // The cause goes to the log, not to the caller: it may speak of other tenants.
            error => {
                error!(error = &error as &dyn std::error::Error, "store failed");
                Self::new(Kind::Internal, "the store failed")
            }
        }
    }
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Self {
        let detail = error.to_string();
        match error {
            RuleError::NoSuchChannel => Self::not_found("channel"),
            RuleError::NotAMember { .. } => Self::new(Kind::NotFound, detail),
            RuleError::RoleTooLow { .. } | RuleError::AboveOwnRole { .. } | RuleError::DmSettings => {
                Self::new(Kind::NotAllowed, detail)
            }
            RuleError::NotYourDm => Self::new(Kind::NotAllowed, detail),
            RuleError::AlreadyMember { .. } => Self::new(Kind::AlreadyExists, detail),
            RuleError::LastOwner { .. } | RuleError::FixedMembers => Self::new(Kind::Conflict, detail),
            RuleError::Archived => Self::new(Kind::Archived, detail),
            RuleError::Name { .. } | RuleError::ReservedName => Self::field("/name", detail),
            RuleError::DmMembers { .. }
            | RuleError::DmRoles
            | RuleError::NoOwner
            | RuleError::NamedTwice { .. }
            | RuleError::TooManyMembers { .. } => Self::field("/members", detail),
            _ => Self::new(Kind::Conflict, detail),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.code {
            Code::NoAccess => Kind::NotFound,
            Code::ReadOnly => Kind::NotAllowed,
            Code::Archived => Kind::Archived,
            Code::NoHistory => Kind::NoHistory,
            Code::TooLarge => Kind::TooLarge,
            Code::RateLimited => Kind::RateLimited,
            Code::UnknownOutcome => Kind::UnknownOutcome,
            Code::Busy | Code::Unavailable | Code::Blocked | Code::GoingAway | Code::Fenced => Kind::Unavailable,
            Code::OutOfOrder => Kind::Conflict,
            code => {
                error!(%code, message = refusal.message, "the data plane refused what the API had allowed");
                return Self::new(Kind::Internal, "the data plane refused the request");
            }
        };
        let problem = Self::new(kind, refusal.message);
        match kind {
            Kind::Unavailable | Kind::UnknownOutcome | Kind::RateLimited => {
                problem.after(refusal.retry_after.max(Duration::from_secs(1)))
            }
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert!(Kind::ALL[..index].iter().all(|other| other.slug() != kind.slug()), "{kind:?}");
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
            assert!(kind.meaning().trim_end().ends_with('.'), "{kind:?}");
        }
    }

    #[test]
    fn waiting_times_are_whole_seconds_upward() {
        let check = |ms: u64, expect: &str| assert_eq!(seconds(Duration::from_millis(ms)), expect);
        check(0, "1");
        check(1, "1");
        check(1000, "1");
        check(1001, "2");
    }

    #[test]
    fn refusals_of_the_data_plane_keep_their_meaning() {
        for &code in Code::ALL {
            let kind = Problem::from(Refusal::new(code, "x")).kind();
            let retryable = matches!(kind, Kind::Unavailable | Kind::UnknownOutcome | Kind::RateLimited);
            if code.advice() == millrace_protocol::code::Advice::Retry {
                assert!(retryable, "{code} is retryable, {kind:?} is not");
            }
        }
    }
}
