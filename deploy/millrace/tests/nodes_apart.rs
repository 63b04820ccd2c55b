//! Control and data node as processes of their own, joined by TCP: either may be killed, and nothing acknowledged is lost.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_client::{Client, Event};
use serde_json::{Value, json};
use support::{MILLRACE, Owned};

const OPERATOR_KEY: &str = "an-operator-key-of-at-least-32-bytes";
const MESSAGES: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a node and waits until it says where it is.
fn node(folder: &Path, arguments: &[&str], settings: &[String]) -> (Owned, Value) {
    let mut command = Command::new(MILLRACE);
    command.current_dir(folder).args(arguments).args(["--json", "--set", "log.filter=warn"]);
    command.args(["--set", "cluster.secret=a cluster secret of at least 32 bytes"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start millrace");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("standard output is piped");
    let owned = Owned(child);
    BufReader::new(stdout).read_line(&mut line).expect("read what the node says");
    let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("the node said {line:?}: {error}"));
    (owned, ready)
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{value} has no {field}")).to_owned()
}

fn control(folder: &Path, rest: &str, link: &str) -> (Owned, Value) {
    let settings = [
        format!("control.rest_address={rest}"),
        format!("control.link_address={link}"),
        format!("control.operator_key={OPERATOR_KEY}"),
        format!("store.path={}", folder.join("store").display()),
    ];
    node(folder, &["control"], &settings)
}

fn data(folder: &Path, clients: &str, link: &str) -> (Owned, Value) {
    let settings = [
        format!("data.client_address={clients}"),
        "data.admin_address=127.0.0.1:0".to_owned(),
        format!("data.control_address={link}"),
        "data.shards=2".to_owned(),
    ];
    node(folder, &["data"], &settings)
}

/// One call to the API; the answer must be a success.
fn post(api: &str, path: &str, key: &str, body: &Value) -> Value {
    let mut response = ureq::post(format!("{api}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .header("idempotency-key", path)
        .send_json(body)
        .unwrap_or_else(|error| panic!("POST {path}: {error}"));
    response.body_mut().read_json().expect("JSON")
}

#[test]
fn either_node_may_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut control_node, ready) = control(folder.path(), "127.0.0.1:0", "127.0.0.1:0");
    let (api, link) = (text(&ready, "api"), text(&ready, "link"));
    let rest = api.trim_start_matches("http://").to_owned();
    let (mut data_node, ready) = data(folder.path(), "127.0.0.1:0", &link);
    let url = text(&ready, "url");
    let clients = url.trim_start_matches("ws://").to_owned();

    let tenant = post(&api, "/v1/tenants", OPERATOR_KEY, &json!({ "name": "acme" }));
    let key = post(&api, "/v1/keys", OPERATOR_KEY, &json!({ "tenant": tenant["name"], "label": "test" }));
    let key = text(&key, "key");
    post(
        &api,
        "/v1/channels",
        &key,
        &json!({
            "name": "apart", "kind": "group", "members": [{ "user": "alice", "role": "owner" }],
        }),
    );
    let token = text(&post(&api, "/v1/tokens", &key, &json!({ "user": "alice" })), "token");

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder(&url).token(token.clone()).send_timeout(None).connect().await.expect("connect");
        let mut channel = client.subscribe("apart").await.expect("subscribe");
        let sender = channel.sender();
        for number in 1..=MESSAGES {
            // In the middle of what is under way, never between: the tickets of three messages are open.
            let tickets = [
                sender.submit(format!("{number}a")).await,
                sender.submit(format!("{number}b")).await,
                sender.submit(format!("{number}c")).await,
            ];
            if number == MESSAGES / 3 {
                control_node.end();
                control_node = control(folder.path(), &rest, &link).0;
            }
            if number == 2 * MESSAGES / 3 {
                data_node.end();
                data_node = data(folder.path(), &clients, &link).0;
            }
            for ticket in tickets {
                let ticket = ticket.expect("submit");
                tokio::time::timeout(PATIENCE, ticket).await.expect("in time").expect("acknowledged");
            }
        }
        for expected in (1..=MESSAGES).flat_map(|number| ["a", "b", "c"].map(|part| format!("{number}{part}"))) {
            match tokio::time::timeout(PATIENCE, channel.next()).await.expect("in time") {
                Some(Event::Message(message)) => assert_eq!(message.text(), expected),
                other => panic!("instead of message {expected}: {other:?}"),
            }
        }
        assert_eq!(channel.position().offset, 3 * MESSAGES, "nothing is stored twice");
    });
}
