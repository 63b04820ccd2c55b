//! Clients and codecs that nobody here wrote: against the echo server over our WebSocket codec, against a real node, and over the
//! golden vectors.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

/// Short, so that the suite need not wait ten seconds for what a client that says nothing is told.
const HANDSHAKE: &str = "2";

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    vectors(workspace, tally);
    let echo = echo(workspace, tally);
    tally.check("conformance: echo server", &echo);
    let node = node(workspace, tally);
    tally.check("conformance: data node", &node);
    Ok(())
}

/// Runs a suite whose last line counts its cases. One that dies before it has counted fails as one.
fn suite(workspace: &Workspace, title: &str, command: &mut Command, tally: &mut Tally) {
    let before = tally.failed();
    let outcome = workspace.each_line(title, command, |line| tally.line(line));
    if outcome.is_err() && tally.failed() == before {
        tally.check(title, &outcome);
    }
}

fn vectors(workspace: &Workspace, tally: &mut Tally) {
    let mut python = workspace.command(workspace.python());
    python.arg("sdk/conformance/pycapnp_vectors.py");
    suite(workspace, "vectors: another Cap'n Proto", &mut python, tally);
}

fn echo(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    workspace.build("build the echo server", &["--package", "millrace-protocol", "--example", "ws-echo"])?;
    let server =
        Server::start(workspace.command(workspace.target().join("debug/examples/ws-echo")).args(["--port", "0"]))?;
    let address =
        server.line.rsplit(' ').next().unwrap_or_default().trim_start_matches("ws://").trim_end_matches('/').to_owned();
    let url = format!("ws://{address}");
    let clients = workspace.path("sdk/conformance/clients");
    let mut python = workspace.command(workspace.python());
    suite(workspace, "echo: Python websockets", python.current_dir(&clients).args(["echo.py", "--url", &url]), tally);
    let mut python = workspace.command(workspace.python());
    suite(
        workspace,
        "echo: Autobahn's cases",
        python.current_dir(&clients).args(["autobahn.py", "--url", &url]),
        tally,
    );
    let mut node = workspace.command("node");
    suite(workspace, "echo: npm ws", node.current_dir(&clients).args(["echo.mjs", "--url", &url]), tally);
    Ok(())
}

fn node(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    workspace.build("build millrace", &["--package", "millrace"])?;
    let binary = workspace.target().join("debug/millrace");
    let folder = Folder::new(workspace)?;
    let handshake = format!("limits.handshake={HANDSHAKE}s");
    let server = Server::start(workspace.command(&binary).current_dir(&folder.0).args([
        "dev",
        "--json",
        "--ephemeral-ports",
        "--set",
        &handshake,
        "--set",
        "log.filter=warn",
    ]))?;
    ensure!(server.line.starts_with('{'), "millrace dev printed {:?}", server.line);
    let url = format!("{}/v1/connect", field(&server.line, "url")?);
    let issue = |ttl: &str| -> Result<String> {
        let mut command = workspace.command(&binary);
        let output = command.current_dir(&folder.0).args(["token", "issue", "alice", "--ttl", ttl]).output();
        let output = output.context("run millrace token issue")?;
        ensure!(output.status.success(), "millrace token issue: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let token = issue("1h")?;
    let expired = issue("1s")?;
    // A token can only be made valid; this one must be past its second when the suites show it.
    std::thread::sleep(Duration::from_secs(2));
    let clients = workspace.path("sdk/conformance/clients");
    for (title, program, script) in [
        ("node: Python websockets and pycapnp", workspace.python(), "node.py"),
        ("node: npm ws", PathBuf::from("node"), "node.mjs"),
    ] {
        let mut command = workspace.command(program);
        command.current_dir(&clients).args([script, "--url", &url, "--token", &token, "--expired-token", &expired]);
        suite(workspace, title, command.args(["--channel", "general", "--handshake-seconds", HANDSHAKE]), tally);
    }
    // The same over TLS, whose own judges come first.
    let (sealed, ca) = (field(&server.line, "tls_url")?, field(&server.line, "ca")?);
    let mut tls = workspace.command(workspace.python());
    tls.current_dir(&clients).args(["tls.py", "--url", &sealed, "--ca", &ca]);
    suite(workspace, "node: TLS, by OpenSSL and Python", &mut tls, tally);
    let mut over_tls = workspace.command(workspace.python());
    over_tls.current_dir(&clients).env("SSL_CERT_FILE", &ca);
    over_tls.args(["node.py", "--url", &sealed, "--token", &token, "--expired-token", &expired]);
    suite(
        workspace,
        "node: Python websockets and pycapnp, over TLS",
        over_tls.args(["--channel", "general", "--handshake-seconds", HANDSHAKE]),
        tally,
    );
    quic(workspace, &server, &token, tally)?;
    let mut webhooks = workspace.command(workspace.python());
    webhooks.current_dir(&clients).args(["webhooks.py", "--api", &field(&server.line, "api")?]);
    webhooks.args(["--api-key", &field(&server.line, "api_key")?]);
    suite(workspace, "node: webhooks, by the reference library", &mut webhooks, tally);
    // The last to have the node: what it does must not pass for what others did.
    let mut hostile = workspace.command(workspace.python());
    hostile.current_dir(&clients).args(["hostile.py", "--url", &url, "--token", &token, "--channel", "general"]);
    hostile.args(["--handshake-seconds", HANDSHAKE, "--pid", &server.child.id().to_string()]);
    for (option, name) in [("--admin", "admin"), ("--api", "api"), ("--api-key", "api_key")] {
        hostile.args([option, &field(&server.line, name)?]);
    }
    suite(workspace, "node: a hostile client", &mut hostile, tally);
    Ok(())
}

/// QUIC is on the UDP port of the same number as the listener over TLS.
fn quic(workspace: &Workspace, server: &Server, token: &str, tally: &mut Tally) -> Result<()> {
    let (tls_url, ca) = (field(&server.line, "tls_url")?, field(&server.line, "ca")?);
    let address = tls_url.trim_start_matches("wss://").split('/').next().unwrap_or_default();
    let clients = workspace.path("sdk/conformance/clients");
    for (title, over) in [("node: aioquic and pycapnp", "quic"), ("node: the same over WebTransport", "webtransport")] {
        let mut python = workspace.command(workspace.python());
        python.current_dir(&clients).args(["quic.py", "--address", address, "--ca", &ca, "--token", token]);
        suite(workspace, title, python.args(["--over", over]), tally);
    }
    let mut go = workspace.command("go");
    go.current_dir(clients.join("quicgo")).args(["run", ".", "-address", address, "-ca", &ca, "-token", token]);
    suite(workspace, "node: quic-go", &mut go, tally);
    Ok(())
}

/// The text of a field of one line of JSON without escapes, which is what our own programs print of addresses.
fn field(line: &str, name: &str) -> Result<String> {
    let text = line.split_once(&format!("\"{name}\":\"")).and_then(|(_, rest)| rest.split_once('"'));
    Ok(text.with_context(|| format!("{line:?} has no {name}"))?.0.to_owned())
}

/// A server that prints one line when it is ready and ends with this value.
struct Server {
    child: Child,
    line: String,
}

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        if let Some(stderr) = child.stderr.take() {
            // Ends with the process. A line says whose it is: others print, too.
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    println!("the server: {line}");
                }
            });
        }
        let stdout = child.stdout.take().context("its standard output is piped")?;
        let mut server = Self { child, line: String::new() };
        BufReader::new(stdout).read_line(&mut server.line).with_context(|| format!("read what {program} prints"))?;
        ensure!(!server.line.trim().is_empty(), "{program} ended before it was ready");
        server.line = server.line.trim().to_owned();
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of its own for a server, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(workspace: &Workspace) -> Result<Self> {
        let path = workspace.tools().join(format!("conformance-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        eprintln!("left behind: {} ({error})", path.display());
    }
}
