//! What a terminal command signs in with: flags, environment, or the file that `millrace dev` writes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};

/// Where `millrace dev` leaves its credentials, under its folder.
pub(crate) const FILE: &str = "credentials.json";

/// Addresses and keys of one deployment, as one user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Credentials {
    /// Data node, such as `ws://…`; several URLs, separated by commas, are ways to one deployment.
    pub(crate) url: String,
    /// File with the certificate of the authority that signed the node's; empty if the system trusts it anyway.
    pub(crate) ca: String,
    /// REST API, `http://…`.
    pub(crate) api: String,
    /// Name of the user that the token is for.
    pub(crate) user: String,
    /// Access token.
    pub(crate) token: String,
    /// Key of an application server.
    pub(crate) api_key: String,
    /// Key of the operator scope.
    pub(crate) operator_key: String,
}

/// How to reach a deployment and as whom. Without any of these, the nearest `.millrace/credentials.json` is used, which `millrace dev`
/// writes: in the working folder or one above it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Data node to connect to, such as ws://127.0.0.1:7400, wss://chat.example or quic://chat.example; several, separated by commas, are
    /// one deployment, in which QUIC and WebSocket of one host race
    #[arg(long, env = "MILLRACE_URL", global = true)]
    pub(crate) url: Option<String>,
    /// File with the certificate (PEM) of an authority to trust for wss and quic, beside those that the system trusts
    #[arg(long, value_name = "FILE", env = "MILLRACE_CA", global = true)]
    pub(crate) ca: Option<String>,
    /// REST API, such as http://127.0.0.1:7410
    #[arg(long, env = "MILLRACE_API", global = true)]
    pub(crate) api: Option<String>,
    /// Access token of a user
    #[arg(long, env = "MILLRACE_TOKEN", global = true, hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// API key of an application server
    #[arg(long, env = "MILLRACE_API_KEY", global = true, hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Key of the operator
    #[arg(long, env = "MILLRACE_OPERATOR_KEY", global = true, hide_env_values = true)]
    pub(crate) operator_key: Option<String>,
    /// File with all of these
    #[arg(long, env = "MILLRACE_CREDENTIALS", global = true)]
    pub(crate) credentials: Option<PathBuf>,
    /// Act as this user: a short token is issued with the API key
    #[arg(long = "as", value_name = "USER", global = true)]
    pub(crate) user: Option<String>,
}

impl Connection {
    /// The credentials to use; fields that nobody gave are empty.
    ///
    /// # Errors
    /// If a credentials file was named and cannot be read.
    pub(crate) fn resolve(&self) -> Result<Credentials> {
        let mut credentials = match &self.credentials {
            Some(path) => Credentials::read(path)?,
            None => nearest().map(|path| Credentials::read(&path)).transpose()?.unwrap_or_default(),
        };
        let lay = |field: &mut String, given: &Option<String>| {
            if let Some(given) = given {
                field.clone_from(given);
            }
        };
        lay(&mut credentials.url, &self.url);
        lay(&mut credentials.ca, &self.ca);
        lay(&mut credentials.api, &self.api);
        lay(&mut credentials.token, &self.token);
        lay(&mut credentials.api_key, &self.api_key);
        lay(&mut credentials.operator_key, &self.operator_key);
        Ok(credentials)
    }
}

impl Credentials {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read credentials from {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("credentials in {}", path.display()))
    }

    /// Writes them for this user alone to read.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write credentials as JSON")?;
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("create {}", temporary.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("write {}", temporary.display()))?;
        fs::rename(&temporary, path).with_context(|| format!("put credentials at {}", path.display()))
    }

    /// The data node's address.
    pub(crate) fn need_url(&self) -> Result<&str> {
        need(&self.url, "the address of a data node", "--url wss://HOST (or MILLRACE_URL)")
    }

    /// The authority's certificate, PEM, if one was named.
    pub(crate) fn ca_pem(&self) -> Result<Option<Vec<u8>>> {
        if self.ca.is_empty() {
            return Ok(None);
        }
        fs::read(&self.ca).map(Some).with_context(|| format!("read the authority's certificate from {}", self.ca))
    }

    /// The REST API's address.
    pub(crate) fn need_api(&self) -> Result<&str> {
        need(&self.api, "the address of the REST API", "--api http://HOST:7410 (or MILLRACE_API)")
            .map(|api| api.trim_end_matches('/'))
    }

    /// A user's token.
    pub(crate) fn need_token(&self) -> Result<&str> {
        need(&self.token, "a token", "--token (or MILLRACE_TOKEN); `millrace token issue USER` makes one")
    }

    /// An application server's key.
    pub(crate) fn need_api_key(&self) -> Result<&str> {
        need(&self.api_key, "an API key", "--api-key (or MILLRACE_API_KEY)")
    }

    /// The operator's key.
    pub(crate) fn need_operator_key(&self) -> Result<&str> {
        need(&self.operator_key, "the operator's key", "--operator-key (or MILLRACE_OPERATOR_KEY)")
    }
}

fn need<'a>(value: &'a str, what: &str, how: &str) -> Result<&'a str> {
    if value.is_empty() {
        return Err(anyhow!("this needs {what}: give {how}, or run in a folder where `millrace dev` runs"));
    }
    Ok(value)
}

/// The credentials file of the development server that is nearest: here or in a folder above.
fn nearest() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(".millrace").join(FILE)).find(|path| path.is_file())
}

/// Whether commands that run here find the credentials at `path` by themselves.
pub(crate) fn is_found(path: &Path) -> bool {
    let same = |found: PathBuf| Some(found.canonicalize().ok()? == path.canonicalize().ok()?);
    nearest().and_then(same).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let written = Credentials { url: "ws://x".into(), token: "t".into(), ..Credentials::default() };
        written.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let connection = Connection { credentials: Some(path), url: Some("ws://y".into()), ..Connection::default() };
        let resolved = connection.resolve().unwrap();
        assert_eq!((resolved.url.as_str(), resolved.token.as_str()), ("ws://y", "t"), "a flag wins over the file");
        assert_eq!(resolved.ca_pem().unwrap(), None);
        let missing = Credentials { ca: "/no/such/file".into(), ..resolved.clone() };
        assert!(missing.ca_pem().unwrap_err().to_string().contains("/no/such/file"));
        assert!(resolved.need_api().unwrap_err().to_string().contains("--api"));
        assert!(!is_found(&folder.path().join(FILE)), "commands that run here do not look there");
    }
}
