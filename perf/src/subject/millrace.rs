//! Millrace: a control node and a data node, as in a cluster of two processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use millrace_protocol::node::KeyAlgorithm;
use millrace_protocol::{TenantId, UserId};
use millrace_token::{Claims, SigningKey};
use serde_json::{Value, json};

use super::{Algorithm, History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::process::{Owned, tree};

const OPERATOR_KEY: &str = "the-operator-key-of-a-benchmark-run";
const USER: &str = "alice";

/// A Millrace of this machine.
pub(crate) struct Millrace {
    pub(crate) binary: PathBuf,
    pub(crate) shards: usize,
}

impl Subject for Millrace {
    fn name(&self) -> &'static str {
        "millrace"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        Some(match history {
            History::None => "at most once",
            History::Windowed => "resumes from memory, saved behind the acknowledgement",
            History::Durable => "on disk before it is acknowledged, exactly once",
        })
    }

    fn resumes(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<Missing> {
        (!self.binary.exists()).then(|| Missing {
            why: format!("there is no {}", self.binary.display()),
            install: "cargo build --release -p millrace".to_owned(),
        })
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        needs.cores.while_pinned(|| self.start_here(needs))
    }
}

impl Millrace {
    fn start_here(&self, needs: &Needs) -> Result<Running> {
        let binary = self.binary.canonicalize().with_context(|| format!("find {}", self.binary.display()))?;
        let folder = tempfile::tempdir().context("make a folder for the server")?;
        let store = format!("store.path={}", folder.path().join("store").display());
        let operator = format!("control.operator_key={OPERATOR_KEY}");
        let settings = ["control.rest_address=127.0.0.1:0", "control.link_address=127.0.0.1:0", &operator, &store];
        let (control, ready) = node(&binary, folder.path(), "control", &settings)?;
        let (api, link) = (text(&ready, "api")?, text(&ready, "link")?);
        // One connection for thousands of calls.
        let agent = ureq::Agent::new_with_defaults();
        let tenant = post(&agent, &api, "/v1/tenants", OPERATOR_KEY, &json!({ "name": "perf" }))?;
        let key = json!({ "tenant": text(&tenant, "name")?, "label": "millrace-perf" });
        let key = text(&post(&agent, &api, "/v1/keys", OPERATOR_KEY, &key)?, "key")?;
        let channels = (0..needs.channels)
            .map(|number| {
                let name = format!("perf-{number}");
                channel(&agent, &api, &key, &name, needs.history)?;
                Ok(name)
            })
            .collect::<Result<Vec<_>>>()?;
        let (shards, link) = (format!("data.shards={}", self.shards), format!("data.control_address={link}"));
        let connections = format!("limits.connections={}", needs.clients + 64);
        let settings =
            ["data.client_address=127.0.0.1:0", "data.admin_address=127.0.0.1:0", &shards, &link, &connections];
        // The load comes from one user: what is measured is not how fast it may be refused.
        let limits = ["limits.publish_rate=1000000", "limits.publish_burst=1000000", "data.linger=60s"];
        let (data, ready) = node(&binary, folder.path(), "data", &[&settings[..], &limits].concat())?;
        let address = text(&ready, "url")?;
        let address = address.trim_start_matches("ws://").trim_end_matches('/');
        let address = address.parse().with_context(|| format!("address of the data node, {address}"))?;
        let tokens = match needs.algorithm {
            Algorithm::EdDsa => (0..needs.tokens)
                .map(|_| text(&post(&agent, &api, "/v1/tokens", &key, &json!({ "user": USER }))?, "token"))
                .collect::<Result<Vec<_>>>()?,
            Algorithm::Hs256 => own_tokens(&agent, &api, &key, &tenant, needs.tokens)?,
        };
        let dialect = Rc::new(dialect::millrace::Millrace {
            target: "/v1/connect".to_owned(),
            tokens,
            channels,
            producers: std::process::id().into(),
        });
        let session_processes = tree(data.id());
        let processes = [session_processes.clone(), tree(control.id())].concat();
        let version = version(&binary)?;
        let (owned, folder) = (vec![data, control], Some(folder));
        Ok(Running { address, dialect, version, processes, session_processes, owned, folder })
    }
}

/// Tokens that an application signs itself, with a secret that it shares with the control plane.
fn own_tokens(agent: &ureq::Agent, api: &str, key: &str, tenant: &Value, count: u32) -> Result<Vec<String>> {
    let secret = *b"a secret of a benchmark, 32 byte";
    let body = json!({ "algorithm": "HS256", "key": BASE64.encode(secret) });
    let id = text(&post(agent, api, "/v1/signing-keys", key, &body)?, "id")?;
    let signing = SigningKey::from_bytes(KeyAlgorithm::Hs256, &secret).context("a key for tokens")?;
    let tenant =
        tenant["id"].as_u64().and_then(|id| TenantId::new(u32::try_from(id).ok()?)).context("the tenant's id")?;
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let user: UserId = USER.parse()?;
    (0..count)
        .map(|number| {
            let (id_of_token, user) = (format!("perf-{number}"), user.clone());
            let claims = Claims {
                tenant,
                user,
                issued_at_ms: now_ms,
                expires_at_ms: now_ms + 3_600_000,
                id: id_of_token,
                roles: Vec::new(),
                device: None,
            };
            Ok(signing.sign(&id, &claims)?)
        })
        .collect()
}

fn channel(agent: &ureq::Agent, api: &str, key: &str, name: &str, history: History) -> Result<()> {
    let members = json!([{ "user": USER, "role": "owner" }]);
    let body = json!({ "name": name, "kind": "group", "history": history, "members": members });
    post(agent, api, "/v1/channels", key, &body).map(drop)
}

fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output().context("ask millrace for its version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("millrace ").to_owned())
}

/// Starts one node and waits until it says where it is.
fn node(binary: &Path, folder: &Path, name: &str, settings: &[&str]) -> Result<(Owned, Value)> {
    let mut command = Command::new(binary);
    command.current_dir(folder).args([name, "--json", "--set", "log.filter=warn"]);
    command.args(["--set", "cluster.secret=the cluster secret of a benchmark, 32 bytes"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut owned = Owned::start(command.stdout(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(owned.stdout()?).read_line(&mut line).with_context(|| format!("wait for the {name} node"))?;
    let ready = serde_json::from_str(&line).with_context(|| format!("the {name} node said {line:?}"))?;
    Ok((owned, ready))
}

/// One call to the API; the answer must be a success.
fn post(agent: &ureq::Agent, api: &str, path: &str, key: &str, body: &Value) -> Result<Value> {
    agent
        .post(format!("{api}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .send_json(body)
        .and_then(|mut response| response.body_mut().read_json())
        .with_context(|| format!("POST {path}"))
}

fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value[field].as_str().with_context(|| format!("{value} has no {field}"))?.to_owned())
}
