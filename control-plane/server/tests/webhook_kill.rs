//! Kills a control node while webhooks are delivered: nothing that was committed is lost, whether it was a change or a message, and what is told
//! twice has one name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use control::{Control, OPERATOR_KEY, SECRET};
use millrace_control::{Networks, WebhookConfig};
use millrace_protocol::node::{AppendOutcome, ChannelAppend, NewMessage, NodeBody};
use millrace_protocol::{ChannelId, Producer, ProducerSequence, UserId};
use node::Node;
use serde_json::{Value, json};

#[path = "link_kill/control.rs"]
mod control;
#[path = "link_kill/node.rs"]
mod node;

const KILLS: u64 = 4;
const ROUND: u64 = 20;
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a harness of the usual kind, because this program is also the one that it kills: `webhook_kill control FOLDER`.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let [mode, folder] = arguments.as_slice()
        && mode == "control"
    {
        let webhooks = WebhookConfig {
            networks: Networks::with_loopback(),
            lease: Duration::from_millis(500),
            ..WebhookConfig::default()
        };
        runtime.block_on(control::serve(Path::new(folder), webhooks));
        return;
    }
    let (told, again) = runtime.block_on(kill_again_and_again());
    println!(
        "test a killed control node tells what was committed ... ok ({told} events, {again} told again, {KILLS} kills)"
    );
}

/// The endpoint: counts what comes, and while it is shut answers nothing.
#[derive(Default)]
struct Endpoint {
    told: Mutex<Vec<(String, Value)>>,
    came: Condvar,
    is_shut: AtomicBool,
}

impl Endpoint {
    fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let endpoint = Arc::new(Self::default());
        let serving = endpoint.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = serving.clone();
                // Who is killed breaks its connections.
                std::thread::spawn(move || drop(serving.serve(stream.expect("a connection"))));
            }
        });
        (endpoint, url)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let (mut id, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                match line.trim().split_once(": ") {
                    Some(("webhook-id", value)) => id = value.to_owned(),
                    Some(("content-length", value)) => length = value.parse().expect("a number"),
                    None if line.trim().is_empty() => break,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            self.told.lock().expect("no panic").push((id, serde_json::from_slice(&body).expect("JSON")));
            self.came.notify_all();
            if self.is_shut.load(Ordering::SeqCst) {
                // Until the one that asks is gone.
                reader.read_to_end(&mut Vec::new())?;
                return Ok(());
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
    }

    fn until(&self, mut happened: impl FnMut(&[(String, Value)]) -> bool) {
        let give_up_at = Instant::now() + PATIENCE;
        let mut told = self.told.lock().expect("no panic");
        while !happened(&told) {
            let left = give_up_at.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it never happened; {} were told", told.len());
            told = self.came.wait_timeout(told, left).expect("no panic").0;
        }
    }
}

async fn kill_again_and_again() -> (usize, usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (endpoint, url) = Endpoint::start();
    let mut control = Control::start(folder.path());
    control.post("/v1/tenants", OPERATOR_KEY, &json!({"name": "acme"}));
    let key = control.post("/v1/keys", OPERATOR_KEY, &json!({"tenant": "acme"}));
    let key = key["key"].as_str().expect("a key").to_owned();
    let events = json!({"url": url, "events": ["member.added", "message.sent"]});
    control.post("/v1/webhooks", &key, &events);
    let draft = json!({"name": "general", "kind": "group", "members": [{"user": "u", "role": "owner"}]});
    let channel = control.post("/v1/channels", &key, &draft);
    let channel = channel["id"].as_str().expect("an id").parse().ok().and_then(ChannelId::new).expect("a number");
    for round in 0..KILLS {
        // The last part of each round is committed, and nothing of it told, when the node is killed.
        let mut node = Node::link(control.link, SECRET).await;
        for step in 0..ROUND {
            if step == ROUND / 2 {
                endpoint.is_shut.store(true, Ordering::SeqCst);
            }
            let number = round * ROUND + step;
            append(&mut node, channel, number + 1).await;
            let member = json!({"user": format!("m{number}"), "role": "member"});
            control.post("/v1/channels/general/members", &key, &member);
        }
        drop(node);
        control.kill();
        endpoint.is_shut.store(false, Ordering::SeqCst);
        control = Control::start(folder.path());
    }
    let total = usize::try_from(2 * KILLS * ROUND).expect("few");
    endpoint.until(|told| told.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len() == total);
    control.kill();
    let told = endpoint.told.lock().expect("no panic");
    in_order(&told, "member.added", |data| data["member"]["user"].as_str()?.strip_prefix('m')?.parse().ok());
    in_order(&told, "message.sent", |data| Some(data["message"]["offset"].as_u64()? - 1));
    (total, told.len() - total)
}

/// All numbers are there, each under one name, and none was told before those in front of it had been.
fn in_order(told: &[(String, Value)], kind: &str, number: impl Fn(&Value) -> Option<u64>) {
    let mut ids = BTreeMap::new();
    let mut next = 0;
    for (id, body) in told.iter().filter(|(_, body)| body["type"] == kind) {
        let number = number(&body["data"]).expect("a number");
        assert!(number <= next, "{kind} {number} was told before {next}");
        next = next.max(number + 1);
        assert_eq!(ids.entry(number).or_insert_with(|| id.clone()), id, "{kind} {number} has one name");
    }
    assert_eq!(next, KILLS * ROUND, "{kind}: every one was told");
}

/// Stores one message as the channel's home does.
async fn append(node: &mut Node, channel: ChannelId, sequence: u64) {
    let NodeBody::HomesOpened(mut opened) = node.call(NodeBody::OpenHomes(vec![channel])).await else {
        panic!("no answer")
    };
    let head = opened.remove(0).1.expect("open");
    let message = NewMessage {
        user: UserId::new("u").expect("a name"),
        producer: Producer::new(1).expect("not 0"),
        sequence: ProducerSequence::new(sequence).expect("not 0"),
        time_ms: 1,
        body: format!("message {sequence}").into(),
    };
    let append = ChannelAppend {
        channel,
        term: node.term,
        epoch: head.epoch,
        expected_offset: head.next_offset,
        messages: vec![message],
    };
    let NodeBody::Appended(appended) = node.call(NodeBody::Append(vec![append])).await else { panic!("no answer") };
    let outcomes = appended[0].result.as_ref().expect("stored");
    assert!(matches!(outcomes[0], AppendOutcome::Stored(_)), "{outcomes:?}");
}
