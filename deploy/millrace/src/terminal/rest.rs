//! The REST API as the terminal commands use it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Credentials;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The API with an application server's key, or the operator's.
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    key: String,
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    errors: Vec<FieldError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldError {
    field: String,
    message: String,
}

impl Api {
    pub(crate) fn new(credentials: &Credentials) -> Result<Self> {
        Self::with(credentials, credentials.need_api_key()?)
    }

    /// With the operator's key.
    pub(crate) fn operator(credentials: &Credentials) -> Result<Self> {
        Self::with(credentials, credentials.need_operator_key()?)
    }

    fn with(credentials: &Credentials, key: &str) -> Result<Self> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Ok(Self { agent: config.into(), base: credentials.need_api()?.to_owned(), key: key.to_owned() })
    }

    /// A token for a user, for as long as asked or as long as the server thinks fit.
    pub(crate) fn issue_token(&self, user: &str, ttl: Option<Duration>) -> Result<Value> {
        let mut body = json!({ "user": user });
        if let Some(ttl) = ttl {
            body["ttl_seconds"] = ttl.as_secs().max(1).into();
        }
        self.post("/v1/tokens", &body)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.answer("GET", path, self.agent.get(self.url(path)).header("authorization", self.bearer()).call())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        self.answer("DELETE", path, self.agent.delete(self.url(path)).header("authorization", self.bearer()).call())
    }

    /// A key of its own for each call makes a retry by the transport harmless.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        self.answer("POST", path, request.header("idempotency-key", unique()).send_json(body))
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.patch(self.url(path)).header("authorization", self.bearer());
        self.answer("PATCH", path, request.send_json(body))
    }

    /// Every item of a list that comes in pages under this name.
    pub(crate) fn list(&self, path: &str, name: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}?limit=100{cursor}"))?;
            items.extend(page[name].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", segment(next)),
                None => return Ok(items),
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    fn answer(
        &self,
        method: &str,
        path: &str,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let mut response =
            sent.with_context(|| format!("{method} {}{path} (does the control node run?)", self.base))?;
        let status = response.status();
        let text =
            response.body_mut().read_to_string().with_context(|| format!("read the answer to {method} {path}"))?;
        if status.is_success() {
            let text = if text.is_empty() { "null" } else { &text };
            return serde_json::from_str(text).with_context(|| format!("read the answer to {method} {path} as JSON"));
        }
        let problem: Problem = serde_json::from_str(&text).unwrap_or_default();
        if problem.title.is_empty() {
            bail!("{method} {path}: {status}: {}", text.chars().take(200).collect::<String>());
        }
        let mut message = if problem.detail.is_empty() { problem.title } else { problem.detail };
        for error in problem.errors {
            message.push_str(&format!("\n  {}: {}", error.field, error.message));
        }
        Err(anyhow!("{message} ({})", status.as_u16()))
    }
}

/// A part of a path, with everything escaped that could be taken for something else.
pub(crate) fn segment(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// 128 bits that no other call has: every hasher of the standard library begins with keys of its own.
fn unique() -> String {
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_escapes_what_a_path_would_read() {
        assert_eq!(segment("dm:a~b@x.y"), "dm%3Aa~b%40x.y");
        assert_eq!(segment("größe"), "gr%C3%B6%C3%9Fe");
        assert_ne!(unique(), unique());
    }
}
