//! Calls to the control plane's REST API: channels, their members, and tokens for a run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use millrace_protocol::node::KeyAlgorithm;
use millrace_protocol::{TenantId, UserId};
use millrace_token::{Claims, SigningKey};
use serde_json::{Value, json};

use super::super::{Algorithm, Needs, Users};

/// Who owns all channels.
const OWNER: &str = "millrace-perf";
/// Longer than any run.
const TOKEN_LIFE_MS: i64 = 24 * 3_600_000;
/// A call that is not answered by then will not be.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls at a time: the store commits what comes together at once.
const SIDE_BY_SIDE: usize = 8;
/// Members that a channel can be created with, the owner among them; others are added one by one.
const FIRST_MEMBERS_MAX: usize = 100;

/// The API with a key.
pub(super) struct Api {
    /// A few connections for thousands of calls.
    agent: ureq::Agent,
    url: String,
    key: String,
}

/// What clients prove themselves with.
pub(super) struct Tokens {
    pub(super) of_users: Vec<String>,
    pub(super) of_owner: String,
}

impl Api {
    pub(super) fn new(url: &str, key: &str) -> Self {
        let (url, key) = (url.trim_end_matches('/').to_owned(), key.to_owned());
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        Self { agent: config.into(), url, key }
    }

    /// One call; the answer must be a success. One that comes too early is made again when it may.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let call = self.agent.post(&url).header("authorization", format!("Bearer {}", self.key));
            let mut response = call.send_json(body).with_context(|| format!("POST {url}"))?;
            let status = response.status().as_u16();
            if status == 429 && Instant::now() < deadline {
                let after = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
                thread::sleep(Duration::from_secs(after.unwrap_or(1)).min(PATIENCE));
                continue;
            }
            let text = response.body_mut().read_to_string().with_context(|| format!("POST {url}"))?;
            if !(200..300).contains(&status) {
                bail!("POST {url}: {status} {text}");
            }
            return serde_json::from_str(&text).with_context(|| format!("POST {url}"));
        }
    }

    /// Makes the channels of a run with their members; their names, by number.
    pub(super) fn channels(&self, prefix: &str, needs: &Needs) -> Result<Vec<String>> {
        let members = needs.users.members(needs.channels);
        let names: Vec<String> = (0..needs.channels).map(|number| format!("{prefix}-{number}")).collect();
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            // Each channel is one caller's: the server lets its changes wait for each other anyway.
            while let Some((name, members)) = {
                let number = next.fetch_add(1, Ordering::Relaxed);
                names.get(number).zip(members.get(number))
            } {
                self.channel(name, needs, members)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a caller panicked"))?);
            // All of them are waited for before the first error counts.
            ends.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()
        })?;
        Ok(names)
    }

    fn channel(&self, name: &str, needs: &Needs, members: &[usize]) -> Result<()> {
        let member = |number: &usize| json!({ "user": user(*number) });
        let (first, rest) = members.split_at(members.len().min(FIRST_MEMBERS_MAX - 1));
        let mut all = vec![json!({ "user": OWNER, "role": "owner" })];
        all.extend(first.iter().map(member));
        let body = json!({ "name": name, "kind": "group", "history": needs.history, "members": all });
        self.post("/v1/channels", &body)?;
        let path = format!("/v1/channels/{name}/members");
        rest.iter().try_for_each(|number| self.post(&path, &member(number)).map(|_| ()))
    }

    /// The tokens of a run, signed here with a key that the tenant registers, as an application does that issues its own.
    pub(super) fn tokens(&self, needs: &Needs) -> Result<Tokens> {
        let algorithm = match needs.algorithm {
            Algorithm::EdDsa => KeyAlgorithm::EdDsa,
            Algorithm::Hs256 => KeyAlgorithm::Hs256,
        };
        let word = match needs.algorithm {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
        };
        let tenant = tenant(&text(&self.post("/v1/tokens", &json!({ "user": OWNER }))?, "token")?)?;
        let signing = SigningKey::generate(algorithm).context("a key for tokens")?;
        let (_, verifying) = signing.tenant_key(tenant, "perf").key.context("a key that verifies")?;
        let key = json!({ "algorithm": word, "key": BASE64_STANDARD.encode(verifying), "label": "millrace-perf" });
        let id = text(&self.post("/v1/signing-keys", &key)?, "id")?;
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let sign = |user: String, number: String| -> Result<String> {
            let claims = Claims {
                tenant,
                user: user.parse::<UserId>()?,
                issued_at_ms: now_ms,
                expires_at_ms: now_ms + TOKEN_LIFE_MS,
                id: number,
                roles: Vec::new(),
                device: None,
            };
            Ok(signing.sign(&id, &claims)?)
        };
        let Users { channels, tokens } = &needs.users;
        let of_users = (0..*tokens).map(|number| {
            let of = number as usize % channels.len().max(1);
            sign(user(of), format!("perf-{number}"))
        });
        Ok(Tokens { of_users: of_users.collect::<Result<_>>()?, of_owner: sign(OWNER.to_owned(), "perf".to_owned())? })
    }
}

/// What a user is called.
fn user(number: usize) -> String {
    format!("user-{number}")
}

/// Whose a token is: a key of the API does not say.
fn tenant(token: &str) -> Result<TenantId> {
    let claims = token.split('.').nth(1).context("a token has three parts")?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).context("read a token")?;
    let claims: Value = serde_json::from_slice(&claims).context("read a token")?;
    let tenant = claims["tenant"].as_u64().and_then(|id| TenantId::new(u32::try_from(id).ok()?));
    tenant.with_context(|| format!("a token without a tenant: {claims}"))
}

/// A field that is text.
pub(super) fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value[field].as_str().with_context(|| format!("{value} has no {field}"))?.to_owned())
}
