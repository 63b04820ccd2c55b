//! A control node in a process of its own, to be killed: the same program as the test, started again.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use millrace_control::{LinkConfig, LinkServer, RestConfig, WebhookConfig, Webhooks, serve_rest};
use millrace_store::{FjallConfig, open_fjall};
use serde_json::Value;

pub(crate) const SECRET: &[u8] = b"a secret of this test's cluster!";
pub(crate) const OPERATOR_KEY: &str = "operator-key-of-this-test-cluster";

/// A control node; prints where it listens and lives until it is killed, or its parent is gone.
pub(crate) async fn serve(folder: &Path, webhooks: WebhookConfig) {
    let store = open_fjall(folder, FjallConfig::default()).expect("what a kill leaves is no damage");
    let registry = prometheus::Registry::new();
    let webhooks = Webhooks::start(store.clone(), webhooks, &registry).await.expect("webhooks");
    let links = LinkServer::new(store.clone(), LinkConfig::new(SECRET), &registry).expect("a good configuration");
    let links = links.with_webhooks(webhooks.clone());
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let link = listener.local_addr().expect("an address");
    let config = RestConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        operator_key: Some(OPERATOR_KEY.into()),
        ..RestConfig::default()
    };
    let rest = serve_rest(config, store, Arc::new(links.clone()), webhooks, registry).await.expect("a REST API");
    println!("{link} {}", rest.address());
    let parent_gone = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        () = links.serve_tcp(listener) => {}
        _ = parent_gone => {}
    }
}

/// One that runs.
pub(crate) struct Control {
    child: Child,
    pub(crate) link: SocketAddr,
    rest: SocketAddr,
}

impl Control {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["control", folder.to_str().expect("a path in UTF-8")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the control node");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        let (link, rest) = line.trim().split_once(' ').expect("two addresses");
        Self { link: link.parse().expect("an address"), rest: rest.parse().expect("an address"), child }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    pub(crate) fn post(&self, path: &str, key: &str, body: &Value) -> Value {
        let url = format!("http://{}{path}", self.rest);
        let mut answer =
            ureq::post(&url).header("authorization", format!("Bearer {key}")).send_json(body).expect("created");
        answer.body_mut().read_json().expect("JSON")
    }
}
