//! Calls to the control plane's REST API: channels and tokens for a run.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use millrace_protocol::node::KeyAlgorithm;
use millrace_protocol::{TenantId, UserId};
use millrace_token::{Claims, SigningKey};
use serde_json::{Value, json};

use super::super::{Algorithm, Needs};

const USER: &str = "millrace-perf";
/// Longer than any run.
const TOKEN_LIFE_MS: i64 = 24 * 3_600_000;

/// The API with a key.
pub(super) struct Api {
    /// One connection for thousands of calls.
    agent: ureq::Agent,
    url: String,
    key: String,
}

impl Api {
    pub(super) fn new(url: &str, key: &str) -> Self {
        let (url, key) = (url.trim_end_matches('/').to_owned(), key.to_owned());
        Self { agent: ureq::Agent::new_with_defaults(), url, key }
    }

    /// One call; the answer must be a success.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        self.agent
            .post(&url)
            .header("authorization", format!("Bearer {}", self.key))
            .send_json(body)
            .and_then(|mut response| response.body_mut().read_json())
            .with_context(|| format!("POST {url}"))
    }

    /// Makes the channels of a run; their names, by number.
    pub(super) fn channels(&self, prefix: &str, needs: &Needs) -> Result<Vec<String>> {
        (0..needs.channels)
            .map(|number| {
                let name = format!("{prefix}-{number}");
                let members = json!([{ "user": USER, "role": "owner" }]);
                let body = json!({ "name": name, "kind": "group", "history": needs.history, "members": members });
                self.post("/v1/channels", &body)?;
                Ok(name)
            })
            .collect()
    }

    /// The tokens of a run, all of the user who owns its channels.
    pub(super) fn tokens(&self, needs: &Needs) -> Result<Vec<String>> {
        match needs.algorithm {
            Algorithm::EdDsa => (0..needs.tokens).map(|_| self.token()).collect(),
            Algorithm::Hs256 => self.own_tokens(needs.tokens),
        }
    }

    fn token(&self) -> Result<String> {
        text(&self.post("/v1/tokens", &json!({ "user": USER }))?, "token")
    }

    /// Tokens that an application signs itself, with a secret that it shares with the control plane.
    fn own_tokens(&self, count: u32) -> Result<Vec<String>> {
        let secret = *b"a secret of a benchmark, 32 byte";
        let body = json!({ "algorithm": "HS256", "key": BASE64_STANDARD.encode(secret) });
        let id = text(&self.post("/v1/signing-keys", &body)?, "id")?;
        let signing = SigningKey::from_bytes(KeyAlgorithm::Hs256, &secret).context("a key for tokens")?;
        let (tenant, user) = (tenant(&self.token()?)?, USER.parse::<UserId>()?);
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        (0..count)
            .map(|number| {
                let claims = Claims {
                    tenant,
                    user: user.clone(),
                    issued_at_ms: now_ms,
                    expires_at_ms: now_ms + TOKEN_LIFE_MS,
                    id: format!("perf-{number}"),
                    roles: Vec::new(),
                    device: None,
                };
                Ok(signing.sign(&id, &claims)?)
            })
            .collect()
    }
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
