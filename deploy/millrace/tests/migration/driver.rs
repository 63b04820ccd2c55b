//! In the server's namespace: starts the server, publishes all the time, changes the client's address, and judges.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use millrace_client::Client;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

/// Of each case.
const MOVES: u16 = 100;
/// Whoever says nothing for so long says nothing any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two messages of each side: load enough that every move is in the middle of some.
pub(crate) const PACE: Duration = Duration::from_millis(2);
/// Keeps nothing: what is lost stays lost.
pub(crate) const CHANNEL: &str = "moving";

pub(crate) const SERVER_DEVICE: &str = "near";
pub(crate) const CLIENT_DEVICE: &str = "far";
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The client's address after so many moves.
pub(crate) fn client(moves: u16) -> Ipv4Addr {
    let [high, low] = (moves + 1).to_be_bytes();
    Ipv4Addr::new(10, 77, 1 + high, low)
}

pub(crate) fn with_prefix(address: Ipv4Addr) -> String {
    format!("{address}/16")
}

pub(crate) fn run(namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let server = Server::start(folder.path())?;
    let moves_address = |moves: u16| replace_address(namespace, moves);
    case("its address", &server, namespace, "direct", moves_address).context("a client whose address changes")?;
    case("its router's mapping", &server, namespace, "behind-nat", |_| Ok(())).context("a client behind a router")
}

/// One client, moved 100 times in the middle of messages.
fn case(
    what: &str,
    server: &Server,
    namespace: &str,
    way: &str,
    mut change: impl FnMut(u16) -> Result<()>,
) -> Result<()> {
    let before = (server.metric("quic_handshakes_total")?, server.metric("quic_migrations_total")?);
    let mut client = Moving::start(server, namespace, way)?;
    client.expect("ready")?;
    let publisher = Publisher::start(server)?;
    let mut gaps = Vec::new();
    for moves in 1..=MOVES {
        change(moves)?;
        let began = Instant::now();
        client.tell(&format!("moved {moves}"))?;
        // The tenth message that it sends after the move is acknowledged: its new address is known.
        client.expect(&format!("went on {moves}"))?;
        gaps.push(began.elapsed());
    }
    let published = publisher.stop()?;
    client.tell(&format!("stop {published}"))?;
    let summary: Value = serde_json::from_str(&client.line()?).context("read what it says in the end")?;
    gaps.sort_unstable();
    let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "moved {what} {MOVES} times under load: ten messages went on after {median:?}, {longest:?} at most; {summary}"
    );
    ensure!(summary["others"] == published && summary["own"] == summary["sent"], "something was lost");
    ensure!(published > 5 * u64::from(MOVES), "there was no load");
    ensure!(summary["reconnects"] == 0, "it connected anew");
    let after = (server.metric("quic_handshakes_total")?, server.metric("quic_migrations_total")?);
    ensure!((after.0 - before.0 - 1.0).abs() < 0.5, "{} connections in place of one", after.0 - before.0);
    ensure!(after.1 - before.1 >= f64::from(MOVES), "the server saw {} moves", after.1 - before.1);
    for name in ["quic_timed_out_total", "quic_faults_total", "quic_refused_total"] {
        ensure!(server.metric(name)? < 0.5, "{name} is not 0");
    }
    println!("forwarded between shards so far: {}", server.metric("quic_forwarded_total")?);
    Ok(())
}

/// The client's old address goes and a new one comes, as when a phone changes its network.
fn replace_address(namespace: &str, moves: u16) -> Result<()> {
    let (old, new) = (with_prefix(client(moves - 1)), with_prefix(client(moves)));
    let mut ip = Command::new("ip").args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut batch = ip.stdin.take().context("standard input is piped")?;
    writeln!(batch, "address delete {old} dev {CLIENT_DEVICE}\naddress add {new} dev {CLIENT_DEVICE}")?;
    drop(batch);
    ensure!(ip.wait()?.success(), "the address cannot be replaced");
    Ok(())
}

/// `millrace dev` on the cable, with two shards: a client that moves may land on the wrong one.
struct Server {
    process: Child,
    ready: Value,
    /// The authority's certificate.
    ca: String,
}

impl Server {
    fn start(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![SERVER.to_string(), "localhost".to_owned()])?;
        let (certificate, key_path) = (folder.join("node.pem"), folder.join("node.key"));
        std::fs::write(&certificate, params.self_signed(&key)?.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.current_dir(folder).args(["dev", "--json"]);
        for setting in [
            "log.filter=warn".to_owned(),
            "data.shards=2".to_owned(),
            "data.client_address=127.0.0.1:0".to_owned(),
            "data.admin_address=127.0.0.1:0".to_owned(),
            "control.rest_address=127.0.0.1:0".to_owned(),
            format!("data.client_tls_address={SERVER}:0"),
            format!("data.tls_certificate={}", certificate.display()),
            format!("data.tls_key={}", key_path.display()),
        ] {
            command.args(["--set", &setting]);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start the server")?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("its output is piped")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).unwrap_or_default();
        let server = Self { process, ready, ca: certificate.display().to_string() };
        let body = json!({
            "name": CHANNEL, "kind": "group", "history": "none",
            "members": [{ "user": server.text("user")?, "role": "owner" }],
        });
        let url = format!("{}/v1/channels", server.text("api")?);
        let authorization = format!("Bearer {}", server.text("api_key")?);
        let call = ureq::post(&url).header("authorization", authorization).header("content-type", "application/json");
        call.send(body.to_string()).context("make the channel")?;
        Ok(server)
    }

    fn text(&self, field: &str) -> Result<&str> {
        self.ready[field].as_str().with_context(|| format!("the server does not tell its {field}: {}", self.ready))
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let mut response = ureq::get(format!("{}/metrics", self.text("admin")?)).call().context("ask for metrics")?;
        let text = response.body_mut().read_to_string().context("read metrics")?;
        let name = format!("millrace_data_{name}");
        // One for each shard, with its label.
        let of = |line: &str| {
            line.strip_prefix(&name)?.starts_with(['{', ' ']).then(|| line.rsplit(' ').next()?.parse().ok())?
        };
        let values: Vec<f64> = text.lines().filter_map(of).collect();
        ensure!(!values.is_empty(), "there is no metric {name}");
        Ok(values.iter().sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The client's process, in its namespace.
struct Moving {
    process: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Moving {
    fn start(server: &Server, namespace: &str, way: &str) -> Result<Self> {
        let url = server.text("tls_url")?.replace("wss://", "quic://");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(std::env::current_exe()?);
        command.args(["client", &url, &server.ca, server.text("token")?, way]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the client")?;
        let orders = process.stdin.take().context("its input is piped")?;
        let output = BufReader::new(process.stdout.take().context("its output is piped")?);
        let (tell, lines) = channel();
        // Ends with the client's output.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Ok(Self { process, orders, lines })
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("the client is gone")
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("the client says nothing")
    }

    fn expect(&self, line: &str) -> Result<()> {
        let said = self.line()?;
        ensure!(said == line, "the client said {said:?} in place of {line:?}");
        Ok(())
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        // `ip netns exec` has become the client.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Somebody else who publishes all the time, over WebSocket.
struct Publisher {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Publisher {
    fn start(server: &Server) -> Result<Self> {
        let (url, token) = (server.text("url")?.to_owned(), server.text("token")?.to_owned());
        let is_over = Arc::<AtomicBool>::default();
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = Client::builder(url).token(token).connect().await?;
                let sender = client.sender(CHANNEL).await?;
                let mut ticks = tokio::time::interval(PACE);
                let mut published = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    published += 1;
                    sender.send(format!("other {published}")).await?;
                }
                Ok(published)
            })
        });
        Ok(Self { is_over, thread })
    }

    /// How many messages it has published, all of them acknowledged.
    fn stop(self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the publisher panicked"))?
    }
}
