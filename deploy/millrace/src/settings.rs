//! Settings of the server commands: one file, environment variables and flags, laid over the defaults in this order, then checked as
//! a whole before anything starts.
//!
//! Every setting has one name, `section.key`: in the file as `key` under `[section]`, in the environment as
//! `MILLRACE_SECTION_KEY`, on the command line as `--set section.key=value`. An unknown name is refused wherever it stands.

mod example;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub(crate) use example::example;

/// Everything that can be set. The defaults suit one machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) control: Control,
    pub(crate) data: Data,
    pub(crate) limits: Limits,
    pub(crate) webhooks: Webhooks,
}

/// What is written to standard error while a node runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// Which events: a level, or `target=level` pairs separated by commas.
    pub(crate) filter: String,
    /// `text` for people, `json` for collectors.
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Where the control node keeps everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// `fjall`, `redb`, or `memory` (forgets all when it stops).
    pub(crate) engine: Engine,
    /// Its folder; made if missing.
    pub(crate) path: PathBuf,
    /// Memory for reads.
    pub(crate) cache: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Fjall,
    Redb,
    Memory,
}

/// What the nodes of a cluster share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cluster {
    /// Proves to a control node that a data node belongs to it. At least 32 bytes.
    pub(crate) secret: String,
    /// The same from a file, so that it stands in no environment and no process list.
    pub(crate) secret_file: PathBuf,
}

/// The control node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Control {
    /// REST API.
    pub(crate) rest_address: String,
    /// Where data nodes link to.
    pub(crate) link_address: String,
    /// Key of the operator scope; at least 32 bytes. Empty: no operator routes.
    pub(crate) operator_key: String,
    /// The same from a file.
    pub(crate) operator_key_file: PathBuf,
}

/// The data node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Data {
    /// Name in logs and towards clients; the host's name if empty.
    pub(crate) name: String,
    /// WebSocket clients.
    pub(crate) client_address: String,
    /// WebSocket clients over TLS, with the certificate below; empty: nowhere.
    pub(crate) client_tls_address: String,
    /// Clients over QUIC, with the certificate below; empty: on the UDP port of the number of `client_tls_address`; `off`: nowhere.
    pub(crate) client_quic_address: String,
    /// PEM file: the node's certificate, then those that lead to its root.
    pub(crate) tls_certificate: PathBuf,
    /// PEM file: the certificate's private key.
    pub(crate) tls_key: PathBuf,
    /// PEM file: roots of clients' certificates, which all clients over TLS then need; empty: they need none.
    pub(crate) tls_client_ca: PathBuf,
    /// How often these files are looked at; a change comes into force without a restart.
    #[serde(with = "humantime_serde")]
    pub(crate) tls_check: Duration,
    /// Metrics and health. Not for strangers.
    pub(crate) admin_address: String,
    /// The control node's `link_address`.
    pub(crate) control_address: String,
    /// Shards, one thread each; 0 for one per core.
    pub(crate) shards: u16,
    /// Pin each shard to a core.
    pub(crate) pin: bool,
    /// Whether WebSocket clients that offer compression get it: `on` or `off`.
    pub(crate) compression: Compression,
    /// Messages and pages below this are not compressed.
    pub(crate) compress_from: ByteSize,
    /// How long a client that was told why it ends may take to read that.
    #[serde(with = "humantime_serde")]
    pub(crate) linger: Duration,
    /// URLs under which clients reach this node; none: the one they came by.
    pub(crate) endpoints: Vec<String>,
    /// How long a stop may take: clients are told, what is written behind is stored.
    #[serde(with = "humantime_serde")]
    pub(crate) drain: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    On,
    Off,
}

/// Bounds towards clients. Reaching one has a name (protocol/SPEC.md).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Largest body of a message; at most 64 KiB.
    pub(crate) payload: ByteSize,
    /// Messages that wait for a slow reader.
    pub(crate) queue: ByteSize,
    /// Subscriptions of one session; at most 1,000.
    pub(crate) subscriptions: u32,
    /// Connections of the node; 0 for what the file descriptors allow.
    pub(crate) connections: u32,
    /// Publishes per second of one session, sustained.
    pub(crate) publish_rate: u32,
    /// Publishes of one session that may come at once.
    pub(crate) publish_burst: u32,
    /// Time from connection to `hello`.
    #[serde(with = "humantime_serde")]
    pub(crate) handshake: Duration,
    /// Connections of a shard that have not said hello yet.
    pub(crate) handshakes: u32,
    /// Those of one IPv4 address or IPv6 /64; 0 for no bound, as behind a proxy.
    pub(crate) handshakes_per_address: u32,
    /// Silence after which a client is pinged; twice that ends its session.
    #[serde(with = "humantime_serde")]
    pub(crate) heartbeat: Duration,
    /// Messages that a resume sends again; beyond, the client reads history.
    pub(crate) replay: u32,
}

/// Requests to the endpoints of applications, whose URLs are strangers'. Control node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Webhooks {
    /// Networks that they may go to beside public addresses, such as `10.1.0.0/16`.
    pub(crate) networks: Vec<String>,
    /// Networks that they may not go to, public as they may be.
    pub(crate) denied: Vec<String>,
    /// Whether `http` is allowed to other hosts than this machine.
    pub(crate) plain_http: bool,
    /// PEM file: authorities that are trusted beside the machine's.
    pub(crate) ca: PathBuf,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { engine: Engine::Fjall, path: "./.millrace/store".into(), cache: ByteSize::mib(64) }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self {
            rest_address: "127.0.0.1:7410".into(),
            link_address: "127.0.0.1:7411".into(),
            operator_key: String::new(),
            operator_key_file: PathBuf::new(),
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self {
            name: String::new(),
            client_address: "127.0.0.1:7400".into(),
            client_tls_address: String::new(),
            client_quic_address: String::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            tls_check: Duration::from_secs(30),
            admin_address: "127.0.0.1:7401".into(),
            control_address: "127.0.0.1:7411".into(),
            shards: 0,
            pin: true,
            compression: Compression::On,
            compress_from: ByteSize::kib(1),
            linger: Duration::from_secs(5),
            endpoints: Vec::new(),
            drain: Duration::from_secs(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: ByteSize::kib(16),
            queue: ByteSize::kib(256),
            subscriptions: 1000,
            connections: 0,
            publish_rate: 5_000,
            publish_burst: 10_000,
            handshakes: 8_192,
            handshakes_per_address: 1_024,
            handshake: Duration::from_secs(10),
            heartbeat: Duration::from_secs(25),
            replay: 100_000,
        }
    }
}

/// Value of `data.client_quic_address` for a node that takes nobody by QUIC.
pub(crate) const QUIC_OFF: &str = "off";

/// Environment variables of the terminal commands, which are no settings of a server.
const TERMINAL_VARIABLES: &[&str] =
    &["MILLRACE_URL", "MILLRACE_API", "MILLRACE_TOKEN", "MILLRACE_API_KEY", "MILLRACE_CREDENTIALS", "MILLRACE_CONFIG"];

impl Settings {
    /// Lays file, environment and `overrides` (`section.key=value`) over the defaults and checks the result.
    ///
    /// # Errors
    /// Names the file, variable or flag at fault, the value and what would be right.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[String],
    ) -> Result<Self> {
        let known = toml::Table::try_from(Self::default()).context("write the defaults as a table")?;
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read settings from {}", path.display()))?;
                // Parsed into the type first: its errors show line and column.
                let _: Self = toml::from_str(&text).with_context(|| format!("settings in {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("settings in {}", path.display()))?
            }
        };
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix("MILLRACE_") else { continue };
            if TERMINAL_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let lower = rest.to_lowercase();
            let (section, key) = lower.split_once('_').unwrap_or((&lower, ""));
            lay(&mut table, &known, section, key, &value)
                .with_context(|| format!("environment variable {variable}"))?;
        }
        for one in overrides {
            let (name, value) = one.split_once('=').with_context(|| format!("--set {one}: write section.key=value"))?;
            let (section, key) =
                name.split_once('.').with_context(|| format!("--set {one}: write section.key=value"))?;
            lay(&mut table, &known, section, key, value).with_context(|| format!("--set {one}"))?;
        }
        let settings: Self = toml::Table::try_into(table).context("settings")?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let within = |name: &str, value: u64, low: u64, high: u64| {
            ensure!((low..=high).contains(&value), "{name} is {value}; it must be from {low} to {high}");
            Ok(())
        };
        within("limits.payload (bytes)", self.limits.payload.as_u64(), 1, 64 << 10)?;
        within("limits.queue (bytes)", self.limits.queue.as_u64(), 4 * self.limits.payload.as_u64(), 64 << 20)?;
        within("limits.subscriptions", self.limits.subscriptions.into(), 1, 1000)?;
        within("limits.publish_rate", self.limits.publish_rate.into(), 1, 10_000_000)?;
        within("limits.publish_burst", self.limits.publish_burst.into(), 1, 10_000_000)?;
        within("limits.replay", self.limits.replay.into(), 0, 1_000_000)?;
        within("limits.handshakes", self.limits.handshakes.into(), 16, 1_000_000)?;
        within("limits.handshakes_per_address", self.limits.handshakes_per_address.into(), 0, 1_000_000)?;
        within("limits.handshake (ms)", millis(self.limits.handshake), 100, 600_000)?;
        within("limits.heartbeat (ms)", millis(self.limits.heartbeat), 100, 3_600_000)?;
        within("data.drain (ms)", millis(self.data.drain), 0, 600_000)?;
        within("data.linger (ms)", millis(self.data.linger), 0, 600_000)?;
        within("data.compress_from (bytes)", self.data.compress_from.as_u64(), 0, 1 << 20)?;
        within("data.tls_check (ms)", millis(self.data.tls_check), 100, 3_600_000)?;
        within("data.shards", self.data.shards.into(), 0, 256)?;
        within("store.cache (bytes)", self.store.cache.as_u64(), 1 << 20, 1 << 40)?;
        for (name, address) in [
            ("control.rest_address", &self.control.rest_address),
            ("control.link_address", &self.control.link_address),
            ("data.client_address", &self.data.client_address),
            ("data.client_tls_address", &self.data.client_tls_address),
            ("data.client_quic_address", &self.data.client_quic_address),
            ("data.admin_address", &self.data.admin_address),
            ("data.control_address", &self.data.control_address),
        ] {
            match (name, address.as_str()) {
                ("data.client_tls_address" | "data.client_quic_address", "") => continue,
                ("data.client_quic_address", QUIC_OFF) => continue,
                _ => {}
            }
            // Whether a name resolves is for the machine where the node starts.
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            let is_address = port.is_some_and(|port| port.parse::<u16>().is_ok());
            ensure!(is_address, "{name} is {address:?}; write HOST:PORT, such as 0.0.0.0:7400");
        }
        let Data { tls_certificate, tls_key, tls_client_ca, .. } = &self.data;
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        ensure!(
            is_set(tls_certificate) == is_set(tls_key),
            "data.tls_certificate and data.tls_key belong together: set both, or neither"
        );
        ensure!(
            is_set(tls_certificate) || !is_set(tls_client_ca),
            "data.tls_client_ca needs data.tls_certificate and data.tls_key"
        );
        let Webhooks { networks, denied, .. } = &self.webhooks;
        for (name, networks) in [("networks", networks), ("denied", denied)] {
            for network in networks {
                let parsed = network.parse::<millrace_control::Network>();
                parsed.with_context(|| format!("webhooks.{name} has {network:?}"))?;
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// The secret, from the setting or its file, if there is one.
    ///
    /// # Errors
    /// If both are given, or if it is too short to keep anybody out.
    pub(crate) fn given(&self) -> Result<Option<String>> {
        secret_from(&self.secret, &self.secret_file, "cluster.secret")
    }

    /// The secret, from the setting or its file.
    ///
    /// # Errors
    /// If there is none, if both are given, or if it is too short to keep anybody out.
    pub(crate) fn secret(&self) -> Result<Vec<u8>> {
        let secret = self.given()?.context(
            "cluster.secret is not set: give every node the same secret of at least 32 bytes, for example\n  \
             head -c 32 /dev/urandom | base64 > secret.txt\n  millrace control --set cluster.secret_file=secret.txt",
        )?;
        Ok(secret.into_bytes())
    }
}

impl Control {
    /// The operator's key, if there is one.
    ///
    /// # Errors
    /// As [`Cluster::secret`].
    pub(crate) fn operator_key(&self) -> Result<Option<String>> {
        secret_from(&self.operator_key, &self.operator_key_file, "control.operator_key")
    }
}

fn secret_from(inline: &str, file: &Path, name: &str) -> Result<Option<String>> {
    let secret = match (inline.is_empty(), file.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => bail!("{name} and {name}_file are both set: keep one"),
        (false, true) => inline.to_owned(),
        (true, false) => std::fs::read_to_string(file)
            .with_context(|| format!("read {name}_file {}", file.display()))?
            .trim()
            .to_owned(),
    };
    ensure!(secret.len() >= 32, "{name} is {} bytes; it must have at least 32", secret.len());
    Ok(Some(secret))
}

/// Puts one value where its name says, in the shape that the default has there.
fn lay(table: &mut toml::Table, known: &toml::Table, section: &str, key: &str, value: &str) -> Result<()> {
    let Some(toml::Value::Table(keys)) = known.get(section) else {
        bail!("there is no section {section:?}; there are {}", list(known.keys()));
    };
    let Some(default) = keys.get(key) else {
        bail!("there is no key {key:?} in section {section:?}; there are {}", list(keys.keys()));
    };
    let value = match default {
        toml::Value::Integer(_) => {
            toml::Value::Integer(value.parse().with_context(|| format!("{value:?} is no whole number"))?)
        }
        toml::Value::Array(_) => {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
        }
        toml::Value::Boolean(_) => {
            toml::Value::Boolean(value.parse().with_context(|| format!("{value:?} is neither true nor false"))?)
        }
        _ => toml::Value::String(value.to_owned()),
    };
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    entry.as_table_mut().context("not a section")?.insert(key.to_owned(), value);
    Ok(())
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
