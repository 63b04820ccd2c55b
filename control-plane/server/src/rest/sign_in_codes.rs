//! Sign-in codes: how a page gets credentials without any of them being in an address.
//!
//! Whoever runs a deployment gives credentials for a code, puts that into a link to the console, and the page that opens the link exchanges it,
//! once and soon. A link that somebody else comes by is worth nothing when it was used; and nobody but an operator can make one, so that
//! nobody can send people a link that signs them in as somebody else.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json};
use super::call::{ByAnybody, ByOperator, Done, Written, change};
use super::fields::{self, Fields, Request};
use super::problem::{Kind, Problem};
use crate::secret::{self, Sealer};

/// How long a code waits to be exchanged.
const LIFE: Duration = Duration::from_secs(600);
/// Codes that wait; with one more the oldest is over.
const CODES_MAX: usize = 64;
/// Longest credential, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 8 << 10;
/// Most keys of one code.
const KEYS_MAX: usize = 4;
/// When to try again a code that somebody exchanges.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// What a code begins with.
const PREFIX: &str = "mrc_";

/// What a code stands for.
#[derive(Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[cfg_attr(test, derive(Debug))]
pub struct SignIn {
    /// A user's access token.
    pub token: Option<String>,
    /// What renews it.
    pub refresh_token: Option<String>,
    /// API keys and operator keys.
    pub keys: Vec<String>,
}

/// The codes of this control node: in memory, because they are over sooner than it starts again.
#[derive(Default)]
pub(crate) struct SignInCodes(Mutex<Vec<Waiting>>);

struct Waiting {
    fingerprint: String,
    ends: Instant,
    sign_in: SignIn,
    /// Somebody exchanges it just now.
    held: bool,
}

/// Why a code cannot be exchanged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotHeld {
    /// It was used, is over, or never was one.
    Over,
    /// Somebody exchanges it just now; whether that succeeds is not known yet.
    Busy,
}

/// A code that is being exchanged, by nobody else meanwhile. Dropped, it waits as before: an exchange that fails costs nobody their link.
pub(crate) struct Held<'a> {
    codes: &'a SignInCodes,
    fingerprint: String,
    /// What it stands for.
    pub(crate) sign_in: SignIn,
}

impl Held<'_> {
    /// It is exchanged: from now on it stands for nothing.
    pub(crate) fn use_up(self) {
        self.codes.lock().retain(|code| code.fingerprint != self.fingerprint);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut waiting = self.codes.lock();
        if let Some(code) = waiting.iter_mut().find(|code| code.fingerprint == self.fingerprint) {
            code.held = false;
        }
    }
}

impl SignInCodes {
    /// Makes a code.
    pub(crate) fn put(&self, now: Instant, sign_in: SignIn) -> String {
        let code = format!("{PREFIX}{}", secret::random_secret());
        let mut waiting = self.lock();
        waiting.retain(|code| code.ends > now);
        if waiting.len() >= CODES_MAX {
            // They are in the order in which they came.
            waiting.remove(0);
        }
        waiting.push(Waiting { fingerprint: secret::fingerprint(&code), ends: now + LIFE, sign_in, held: false });
        code
    }

    /// Takes a code in hand.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub(crate) fn hold(&self, now: Instant, code: &str) -> Result<Held<'_>, NotHeld> {
        let mut waiting = self.lock();
        waiting.retain(|code| code.ends > now);
        let found = waiting.iter_mut().find(|waiting| secret::matches(code, &waiting.fingerprint));
        let found = found.ok_or(NotHeld::Over)?;
        if std::mem::replace(&mut found.held, true) {
            return Err(NotHeld::Busy);
        }
        Ok(Held { codes: self, fingerprint: found.fingerprint.clone(), sign_in: found.sign_in.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create_sign_in_code)).routes(routes!(exchange_sign_in_code))
}

/// Credentials that a page is to get.
#[derive(ToSchema)]
pub(crate) struct CreateSignInCode {
    /// A user's access token.
    #[schema(max_length = 8192, example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSIsImtpZCI6…")]
    token: Option<String>,
    /// What renews it.
    #[schema(max_length = 8192, example = "mrr_h3k8m2x9q4w7t6z5_J7mQ0c2Vn9fR4tYw")]
    refresh_token: Option<String>,
    /// API keys and operator keys, at most 4.
    #[schema(value_type = Option<Vec<String>>, max_items = 4)]
    keys: Vec<String>,
}

impl Request for CreateSignInCode {
    fn read(fields: &mut Fields) -> Option<Self> {
        let token = fields.optional("token", fields::short(CREDENTIAL_BYTES_MAX));
        let refresh_token = fields.optional("refresh_token", fields::short(CREDENTIAL_BYTES_MAX));
        let keys = fields.optional("keys", fields::strings(KEYS_MAX, CREDENTIAL_BYTES_MAX));
        let (token, refresh_token, keys) = (token?, refresh_token?, keys?.unwrap_or_default());
        if token.is_none() && keys.is_empty() {
            fields.error("token", "is missing, and so are keys");
        }
        Some(Self { token, refresh_token, keys })
    }
}

impl Body for CreateSignInCode {}

/// A code for the console.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignInCode {
    /// Exchanged once. A link to the console has it behind `#code=`.
    #[schema(example = "mrc_J7mQ0c2Vn9fR4tYwJ7mQ0c2Vn9fR4tYwJ7mQ0c2Vn9f")]
    code: String,
    /// When it is over; Unix time, ms.
    expires_ms: i64,
}

/// A code to be exchanged.
#[derive(ToSchema)]
pub(crate) struct ExchangeSignInCode {
    /// As it was in the link.
    #[schema(max_length = 128, example = "mrc_J7mQ0c2Vn9fR4tYwJ7mQ0c2Vn9fR4tYwJ7mQ0c2Vn9f")]
    code: String,
}

impl Request for ExchangeSignInCode {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { code: fields.required("code", fields::short(128))? })
    }
}

impl Body for ExchangeSignInCode {}

/// Make a sign-in code.
///
/// For a link that opens the console with these credentials in it, and none of them in its address: `/#code=…`. The code works once, within ten
/// minutes. At most 64 wait; with one more the oldest is over. `millrace console` prints such a link.
#[utoipa::path(
    post, path = "/v1/sign-in-codes", tag = "sign-in codes", request_body = CreateSignInCode,
    responses((status = 201, description = "Made", body = SignInCode)), security(("operator_key" = []))
)]
async fn create_sign_in_code(ByOperator(call): ByOperator, body: Json<CreateSignInCode>) -> Result<Response, Problem> {
    let CreateSignInCode { token, refresh_token, keys } = body.value;
    let sign_in = SignIn { token, refresh_token, keys };
    let mut made = None;
    change!(call, body.digest, |_transaction| {
        let code = made.get_or_insert_with(|| call.rest.sign_in_codes.put(Instant::now(), sign_in.clone()));
        let life_ms = i64::try_from(LIFE.as_millis()).unwrap_or(i64::MAX);
        let view = SignInCode { code: code.clone(), expires_ms: call.now_ms.saturating_add(life_ms) };
        Ok(Done::quietly(Written::json(StatusCode::CREATED, &view)))
    })
}

/// Exchange a sign-in code.
///
/// The code in the body is the credential. It is used up: a second exchange is refused, but a repeated one with the same `Idempotency-Key` gets the
/// same answer.
#[utoipa::path(
    post, path = "/v1/sign-in-codes/exchange", tag = "sign-in codes", request_body = ExchangeSignInCode,
    responses((status = 200, description = "Exchanged", body = SignIn)), security(())
)]
async fn exchange_sign_in_code(
    ByAnybody(call): ByAnybody,
    body: Json<ExchangeSignInCode>,
) -> Result<Response, Problem> {
    let code = &body.value.code;
    let identity = format!("code:{}", secret::fingerprint(code));
    let changing = call.changing_as(&identity, Sealer::new(code.as_bytes()), body.digest)?;
    let mut held = None;
    let result = change!(changing, |_transaction| {
        if held.is_none() {
            held = Some(call.rest.sign_in_codes.hold(Instant::now(), code).map_err(not_held)?);
        }
        let sign_in = held.as_ref().map(|held| &held.sign_in);
        Ok(Done::quietly(Written::json(StatusCode::OK, &sign_in)))
    });
    if result.is_ok()
        && let Some(held) = held
    {
        held.use_up();
    }
    result
}

fn not_held(why: NotHeld) -> Problem {
    match why {
        NotHeld::Over => {
            Problem::new(Kind::Unauthenticated, "the sign-in code was used before, is over, or never was one")
        }
        NotHeld::Busy => Problem::new(Kind::InProgress, "the sign-in code is being exchanged").after(BUSY_RETRY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str) -> SignIn {
        SignIn { keys: vec![key.to_owned()], ..SignIn::default() }
    }

    /// Exchanges a code.
    fn take(codes: &SignInCodes, now: Instant, code: &str) -> Result<SignIn, NotHeld> {
        let held = codes.hold(now, code)?;
        let sign_in = held.sign_in.clone();
        held.use_up();
        Ok(sign_in)
    }

    #[test]
    fn a_code_works_once_and_soon() {
        let (codes, began) = (SignInCodes::default(), Instant::now());
        let (one, other) = (codes.put(began, keys("one")), codes.put(began, keys("other")));
        assert!(one.starts_with(PREFIX) && one.len() > 40 && one != other);
        assert_eq!(take(&codes, began, "mrc_"), Err(NotHeld::Over));
        assert_eq!(take(&codes, began, &other), Ok(keys("other")));
        assert_eq!(take(&codes, began, &other), Err(NotHeld::Over));
        let almost = began + LIFE - Duration::from_millis(1);
        let third = codes.put(almost, keys("third"));
        assert_eq!(take(&codes, began + LIFE, &one), Err(NotHeld::Over));
        assert_eq!(take(&codes, began + LIFE, &third), Ok(keys("third")));
    }

    #[test]
    fn a_code_is_exchanged_by_one_at_a_time() {
        let (codes, now) = (SignInCodes::default(), Instant::now());
        let code = codes.put(now, keys("one"));
        let held = codes.hold(now, &code).ok().unwrap();
        assert_eq!(take(&codes, now, &code), Err(NotHeld::Busy));
        drop(held);
        assert_eq!(take(&codes, now, &code), Ok(keys("one")), "the exchange failed");
        let code = codes.put(now, keys("two"));
        let held = codes.hold(now, &code).ok().unwrap();
        assert_eq!(take(&codes, now + LIFE, &code), Err(NotHeld::Over));
        held.use_up();
    }

    #[test]
    fn so_many_codes_wait_and_no_more() {
        let (codes, now) = (SignInCodes::default(), Instant::now());
        let made: Vec<_> = (0..=CODES_MAX).map(|index| codes.put(now, keys(&index.to_string()))).collect();
        assert_eq!(take(&codes, now, &made[0]), Err(NotHeld::Over));
        assert_eq!(take(&codes, now, &made[1]), Ok(keys("1")));
        assert_eq!(take(&codes, now, &made[CODES_MAX]), Ok(keys(&CODES_MAX.to_string())));
    }
}
