//! A real `millrace` as processes: all in one, or control and data node apart; killed, stopped and started again in the same folder.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::scenario::ServerSpec;
use crate::transport::Transport;
use crate::trust::Trust;

/// How long a node may take to stop.
const STOP: Duration = Duration::from_secs(20);
/// Between two looks at a process that stops.
const LOOK: Duration = Duration::from_millis(10);
/// How much of the log is shown.
const LOG_BYTES: u64 = 4096;

const OPERATOR_KEY: &str = "an-operator-key-of-at-least-32-bytes";
const SECRET: &str = "a cluster secret of at least 32 bytes";

/// Where clients connect, if they can.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Arc<Mutex<BTreeMap<Transport, SocketAddr>>>);

impl Addresses {
    /// Of this transport.
    pub fn of(&self, transport: Transport) -> Option<SocketAddr> {
        self.0.lock().expect("no holder panics").get(&transport).copied()
    }
}

/// Processes that end with this value.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    folder: tempfile::TempDir,
    settings: Vec<String>,
    /// Of nodes that take clients.
    tls: Vec<String>,
    nodes: BTreeMap<String, Node>,
    addresses: Addresses,
    /// What the nodes said when they were ready.
    told: Value,
}

#[derive(Debug)]
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts all of its nodes.
    ///
    /// # Errors
    /// If one does not get ready.
    pub fn start(binary: &Path, spec: &ServerSpec, trust: &Trust) -> Result<Self> {
        let node = trust.node();
        let tls = ["data.tls_certificate", "data.tls_key"].map(|setting| format!("{setting}={}", node.display()));
        let mut settings = vec!["log.filter=info".to_owned(), "data.pin=false".into()];
        settings.extend(spec.settings.iter().map(|(key, value)| format!("{key}={value}")));
        let mut server = Self {
            binary: binary.to_path_buf(),
            folder: tempfile::tempdir().context("a folder for the server")?,
            settings,
            tls: tls.into(),
            nodes: BTreeMap::new(),
            addresses: Addresses::default(),
            told: Value::Object(serde_json::Map::new()),
        };
        let nodes: &[&str] = if spec.apart { &["control", "data"] } else { &["dev"] };
        nodes.iter().try_for_each(|node| server.begin(node))?;
        Ok(server)
    }

    /// Where clients connect, now and later.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// What the server said of itself, such as `api` and `operator_key`.
    ///
    /// # Errors
    /// If it said no such thing.
    pub fn told(&self, field: &str) -> Result<String> {
        let told = self.told[field].as_str().map(str::to_owned);
        told.with_context(|| format!("the server does not tell its {field}"))
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        ensure!(!self.nodes.contains_key(name), "{name} runs already");
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path()).arg(name).arg("--json").stdin(Stdio::null());
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLRACE_")) {
            command.env_remove(variable);
        }
        for setting in self.settings.iter().cloned().chain(self.settings_of(name)) {
            command.args(["--set", &setting]);
        }
        if name == "dev" {
            command.arg("--ephemeral-ports");
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).context("the server's log")?;
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().context("start millrace")?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let node = Node(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("read what the server says")?;
        let told: Value = serde_json::from_str(&line)
            .with_context(|| format!("{name} said {line:?} instead of its addresses\n{}", self.log()))?;
        for (field, value) in told.as_object().into_iter().flatten() {
            self.told[field] = value.clone();
        }
        self.nodes.insert(name.to_owned(), node);
        // HTTP/3 is where QUIC is.
        for (transport, field) in [
            (Transport::Ws, "url"),
            (Transport::Wss, "tls_url"),
            (Transport::Quic, "quic_url"),
            (Transport::WebTransport, "quic_url"),
        ] {
            let Some((_, address)) = told[field].as_str().and_then(|url| url.split_once("://")) else { continue };
            let address = address.parse().with_context(|| format!("the address {address}"))?;
            self.addresses.0.lock().expect("no holder panics").insert(transport, address);
        }
        Ok(())
    }

    fn settings_of(&self, name: &str) -> Vec<String> {
        // A data node keeps asking for its control node where that was.
        let link = self.told["link"].as_str().unwrap_or("127.0.0.1:0");
        let own = match name {
            "control" => vec![
                format!("cluster.secret={SECRET}"),
                format!("control.operator_key={OPERATOR_KEY}"),
                "control.rest_address=127.0.0.1:0".into(),
                format!("control.link_address={link}"),
                "store.path=store".into(),
            ],
            "data" => vec![
                format!("cluster.secret={SECRET}"),
                "data.client_address=127.0.0.1:0".into(),
                "data.admin_address=127.0.0.1:0".into(),
                format!("data.control_address={link}"),
                "data.client_tls_address=127.0.0.1:0".into(),
            ],
            _ => Vec::new(),
        };
        let tls = if name == "control" { &[][..] } else { &self.tls };
        own.into_iter().chain(tls.iter().cloned()).collect()
    }

    /// The operator's key.
    pub fn operator_key(&self) -> String {
        self.told("operator_key").unwrap_or_else(|_| OPERATOR_KEY.to_owned())
    }

    /// SIGKILL, now.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let node = self.take(name)?;
        drop(node);
        Ok(())
    }

    /// SIGTERM, and its clean end.
    ///
    /// # Errors
    /// If it does not run, does not end in time, or not cleanly.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let mut node = self.take(name)?;
        let pid = node.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().context("run kill")?;
        ensure!(told.success(), "kill -TERM {pid}: {told}");
        let deadline = Instant::now() + STOP;
        loop {
            if let Some(status) = node.0.try_wait().context("wait for the server")? {
                ensure!(status.success(), "{name} ended with {status}\n{}", self.log());
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} did not stop within {} s\n{}", STOP.as_secs(), self.log());
            std::thread::sleep(LOOK);
        }
    }

    fn take(&mut self, name: &str) -> Result<Node> {
        let node = self.nodes.remove(name).with_context(|| format!("{name} does not run"))?;
        if name != "control" {
            self.addresses.0.lock().expect("no holder panics").clear();
        }
        Ok(node)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log.txt")
    }

    /// The end of what the nodes logged.
    pub fn log(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_BYTES)))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        tail().unwrap_or_else(|error| format!("no log: {error}"))
    }
}
