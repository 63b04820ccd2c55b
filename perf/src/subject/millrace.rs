//! Millrace: a control node and a data node of this machine, as in a cluster of two processes; or a cluster that runs already.

mod api;
mod cluster;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{History, Missing, Needs, Running, Subject, launch};
use crate::dialect;
use crate::machine::Cores;
use crate::process::{Family, Owned};
use crate::transport::{Identity, Transport};
use api::{Api, text};
pub(crate) use cluster::{Cluster, ClusterArguments};

const OPERATOR_KEY: &str = "the-operator-key-of-a-benchmark-run";

/// A Millrace of this machine.
pub(crate) struct Millrace {
    pub(crate) binary: PathBuf,
}

impl Subject for Millrace {
    fn name(&self) -> &'static str {
        "millrace"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        Some(guarantee(history))
    }

    fn transports(&self) -> &'static [Transport] {
        &[Transport::Ws, Transport::Wss, Transport::Quic]
    }

    fn resumes(&self) -> bool {
        true
    }

    fn takes_shards(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<Missing> {
        (!self.binary.exists()).then(|| Missing {
            why: format!("there is no {}", self.binary.display()),
            install: "cargo build --release -p millrace".to_owned(),
        })
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let binary = self.binary.canonicalize().with_context(|| format!("find {}", self.binary.display()))?;
        let folder = tempfile::tempdir().context("make a folder for the server")?;
        let store = format!("store.path={}", folder.path().join("store").display());
        let operator = format!("control.operator_key={OPERATOR_KEY}");
        let settings = ["control.rest_address=127.0.0.1:0", "control.link_address=127.0.0.1:0", &operator, &store];
        let (control, ready) = node(&binary, folder.path(), "control", &needs.cores, &settings)?;
        let (api, link) = (text(&ready, "api")?, text(&ready, "link")?);
        let operator = Api::new(&api, OPERATOR_KEY);
        let tenant = operator.post("/v1/tenants", &json!({ "name": "perf" }))?;
        let key = json!({ "tenant": text(&tenant, "name")?, "label": "millrace-perf" });
        let api = Api::new(&api, &text(&operator.post("/v1/keys", &key)?, "key")?);
        let channels = api.channels("perf", needs)?;
        let (shards, link) = (format!("data.shards={}", needs.cores.count()), format!("data.control_address={link}"));
        // Of sockets: QUIC needs none for each of its connections.
        let sockets = if needs.transport == Transport::Quic { 0 } else { needs.clients };
        let connections = format!("limits.connections={}", sockets + 64);
        let mut settings =
            vec!["data.client_address=127.0.0.1:0", "data.admin_address=127.0.0.1:0", &shards, &link, &connections];
        let identity = Identity::new()?;
        let tls = tls(folder.path(), &identity)?;
        if needs.transport != Transport::Ws {
            settings.extend(tls.iter().map(String::as_str));
        }
        // One publisher speaks for an application here: what is measured is not how fast it may be refused.
        let limits = ["limits.publish_rate=1000000", "limits.publish_burst=1000000", "data.linger=60s"];
        let (data, ready) = node(&binary, folder.path(), "data", &needs.cores, &[&settings[..], &limits].concat())?;
        // QUIC's port has the number of that for TLS.
        let address = text(&ready, if needs.transport == Transport::Ws { "url" } else { "tls_url" })?;
        let address = address.trim_start_matches("ws://").trim_start_matches("wss://").trim_end_matches('/');
        let address = address.parse().with_context(|| format!("address of the data node, {address}"))?;
        let tokens = api.tokens(needs)?;
        let dialect = Arc::new(dialect::millrace::Millrace {
            target: "/v1/connect".to_owned(),
            tokens: tokens.of_users,
            owner: tokens.of_owner,
            channels,
            acknowledges: needs.transport == Transport::Quic,
            producers: std::process::id().into(),
        });
        let session_family = Family::of(vec![data.id()]);
        let family = Family::of(vec![data.id(), control.id()]);
        let version = version(&binary)?;
        let (owned, folder, way) = (vec![data, control], Some(folder), identity.trust()?.way(needs.transport));
        let (cores, brake) = (None, None);
        Ok(Running { address, dialect, way, version, family, session_family, cores, brake, owned, folder })
    }
}

/// Settings of a node that shows this certificate.
fn tls(folder: &Path, identity: &Identity) -> Result<[String; 3]> {
    let (certificate, key) = (folder.join("node.pem"), folder.join("node.key"));
    std::fs::write(&certificate, &identity.certificate).context("write a certificate")?;
    std::fs::write(&key, &identity.key).context("write a key")?;
    Ok([
        "data.client_tls_address=127.0.0.1:0".to_owned(),
        format!("data.tls_certificate={}", certificate.display()),
        format!("data.tls_key={}", key.display()),
    ])
}

fn guarantee(history: History) -> &'static str {
    match history {
        History::None => "at most once",
        History::Windowed => "resumes from memory, saved behind the acknowledgement",
        History::Durable => "on disk before it is acknowledged, exactly once",
    }
}

fn version(binary: &Path) -> Result<String> {
    let version = launch::printed(Command::new(binary).arg("--version"))?;
    Ok(version.trim_start_matches("millrace ").to_owned())
}

/// Starts one node on these cores and waits until it says where it is.
fn node(binary: &Path, folder: &Path, name: &str, cores: &Cores, settings: &[&str]) -> Result<(Owned, Value)> {
    let mut command = Command::new(binary);
    command.current_dir(folder).args([name, "--json", "--set", "log.filter=warn"]);
    command.args(["--set", "cluster.secret=the cluster secret of a benchmark, 32 bytes"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut owned = cores.while_pinned(|| Owned::start(command.stdin(Stdio::null()).stdout(Stdio::piped())))?;
    let line = owned.first_line(launch::PATIENCE).with_context(|| format!("wait for the {name} node"))?;
    ensure!(!line.is_empty(), "the {name} node ended; why stands on standard error");
    let ready = serde_json::from_str(&line).with_context(|| format!("the {name} node said {line:?}"))?;
    Ok((owned, ready))
}
