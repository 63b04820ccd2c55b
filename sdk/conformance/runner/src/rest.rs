//! The few calls of the REST API that the runner makes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::http::Request;

/// A call that the server cannot answer now is made again for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// An API and a key for it.
#[derive(Debug, Clone)]
pub struct Rest {
    agent: ureq::Agent,
    api: String,
    key: String,
}

impl Rest {
    /// `api` is the URL of the server.
    pub fn new(api: &str, key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(15)))
            .build();
        Self { agent: config.into(), api: api.to_owned(), key: key.to_owned() }
    }

    /// One call: the status and the body, `null` if it is empty.
    fn call(&self, method: &str, path: &str, once: Option<&str>, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.api));
        request = request.header("authorization", format!("Bearer {}", self.key));
        if let Some(once) = once {
            request = request.header("idempotency-key", once);
        }
        let answer = match body {
            Some(body) => self.agent.run(request.header("content-type", "application/json").body(body.to_string())?),
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer.with_context(|| format!("{method} {path}"))?;
        let text = answer.body_mut().read_to_string().with_context(|| format!("{method} {path}"))?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok((answer.status().as_u16(), value))
    }

    /// A call that must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        match self.call(method, path, None, body)? {
            (200..=299, value) => Ok(value),
            (status, problem) => bail!("{method} {path}: {status} {problem}"),
        }
    }

    /// As [`Self::must`]; `None` if there is no such thing.
    ///
    /// # Errors
    /// If it fails otherwise.
    pub fn find(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        match self.call(method, path, None, body)? {
            (200..=299, value) => Ok(Some(value)),
            (404, _) => Ok(None),
            (status, problem) => bail!("{method} {path}: {status} {problem}"),
        }
    }

    /// A change that is made once, however often it takes: a server that starts or has lost its other half is asked again.
    ///
    /// # Errors
    /// If it is refused, or not answered in time.
    pub fn once(&self, method: &str, path: &str, once: &str, body: &Value) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call(method, path, Some(once), Some(body));
            let may_pass = match &answer {
                Ok((status, _)) => [409, 429, 502, 503, 504].contains(status),
                Err(_) => true,
            };
            match answer {
                Ok((200..=299, value)) => return Ok(value),
                answer if may_pass && Instant::now() < deadline => drop(answer),
                Ok((status, problem)) => bail!("{method} {path}: {status} {problem}"),
                Err(error) => return Err(error),
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
