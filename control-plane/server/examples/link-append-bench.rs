//! How many messages homes can append over a link to fjall: one append under way per channel, 1,000 channels, all in frames as the shards
//! of a data node send them.
//!
//! `cargo run --release -p millrace-control --example link-append-bench`

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_control::{LinkConfig, LinkServer, RestConfig, WebhookConfig, Webhooks, serve_rest};
use millrace_protocol::node::{ChannelAppend, Head, NewMessage, NodeBody};
use millrace_protocol::{ChannelId, Producer, ProducerSequence, UserId};
use millrace_store::{FjallConfig, open_fjall};
use node::Node;
use serde_json::{Value, json};

#[path = "../tests/link_kill/node.rs"]
mod node;

const SECRET: &[u8] = b"a secret of this benchmark's own";
const OPERATOR_KEY: &str = "operator-key-of-this-benchmark-xx";
const CHANNELS: usize = 1_000;
const BODY: &[u8] = &[b'x'; 300];
const TIME: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(".")?;
    let store = open_fjall(folder.path(), FjallConfig::default())?;
    let registry = prometheus::Registry::new();
    let links = LinkServer::new(store.clone(), LinkConfig::new(SECRET), &registry)?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn({
        let links = links.clone();
        async move { links.serve_tcp(listener).await }
    });
    let config = RestConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        operator_key: Some(OPERATOR_KEY.into()),
        ..RestConfig::default()
    };
    let webhooks = Webhooks::start(store.clone(), WebhookConfig::default(), &registry).await?;
    let links = links.with_webhooks(webhooks.clone());
    let rest = serve_rest(config, store.clone(), Arc::new(links), webhooks, registry).await?;
    let url = format!("http://{}", rest.address());
    let channels = tokio::task::spawn_blocking(move || set_up(&url)).await??;

    println!("| frames | channels each | messages per append | messages/s | appends/s | appends per sync |");
    println!("|---|---|---|---|---|---|");
    for (frames, messages) in [(1, 1), (4, 1), (16, 1), (4, 4), (16, 4), (16, 16)] {
        let mut bench = Bench::link(address, &channels, frames, messages).await;
        let before = store.stats();
        let began = Instant::now();
        bench.run().await;
        let seconds = began.elapsed().as_secs_f64();
        let after = store.stats();
        let commits = after.commits - before.commits;
        let per_second = |count: u64| format!("{:.0}", u32::try_from(count).map_or(0.0, f64::from) / seconds);
        println!(
            "| {frames} | {} | {messages} | {} | {} | {} |",
            CHANNELS / frames,
            per_second(bench.stored),
            per_second(commits),
            commits / (after.groups - before.groups).max(1),
        );
    }
    Ok(())
}

/// Creates the channels as an application server does.
fn set_up(url: &str) -> Result<Vec<ChannelId>, Failure> {
    let post = |path: &str, key: &str, body: Value| -> Result<Value, ureq::Error> {
        let request = ureq::post(format!("{url}{path}")).header("authorization", format!("Bearer {key}"));
        request.send_json(body)?.body_mut().read_json()
    };
    post("/v1/tenants", OPERATOR_KEY, json!({"name": "bench"}))?;
    let key = post("/v1/keys", OPERATOR_KEY, json!({"tenant": "bench"}))?;
    let key = key["key"].as_str().ok_or("no key")?;
    (0..CHANNELS)
        .map(|number| {
            let members = json!([{"user": "u", "role": "owner"}]);
            let draft = json!({"name": format!("c{number}"), "kind": "group", "members": members});
            let channel = post("/v1/channels", key, draft)?;
            let id = channel["id"].as_str().ok_or("no id")?.parse()?;
            Ok(ChannelId::new(id).ok_or("channel 0")?)
        })
        .collect()
}

struct Bench {
    node: Node,
    homes: Vec<Home>,
    channels_per_frame: usize,
    messages: u64,
    stored: u64,
    user: UserId,
    producer: Producer,
}

struct Home {
    channel: ChannelId,
    head: Head,
    sequence: u64,
}

impl Bench {
    async fn link(address: std::net::SocketAddr, channels: &[ChannelId], frames: usize, messages: u64) -> Self {
        let mut node = Node::link(address, SECRET).await;
        let NodeBody::HomesOpened(opened) = node.call(NodeBody::OpenHomes(channels.to_vec())).await else {
            panic!("homes do not open")
        };
        let home = |(channel, head): (ChannelId, Result<Head, _>)| Home {
            channel,
            head: head.expect("the channel is there"),
            sequence: 1,
        };
        let user = UserId::new("u").expect("a name");
        // Each link is another run of the sender, so that its sequence begins with 1.
        let producer = Producer::new(node.term.0).expect("terms begin with 1");
        let homes = opened.into_iter().map(home).collect();
        Self { node, homes, channels_per_frame: CHANNELS / frames, messages, stored: 0, user, producer }
    }

    async fn run(&mut self) {
        let until = Instant::now() + TIME;
        let mut under_way = HashMap::new();
        for frame in 0..CHANNELS / self.channels_per_frame {
            under_way.insert(self.send(frame).await, frame);
        }
        while !under_way.is_empty() {
            let reply = self.node.receive().await;
            let NodeBody::Appended(appended) = reply.body else { panic!("{reply:?}") };
            for one in &appended {
                self.stored += one.result.as_ref().expect("stored").len() as u64;
            }
            let frame = under_way.remove(&reply.id).expect("asked");
            if Instant::now() < until {
                under_way.insert(self.send(frame).await, frame);
            }
        }
    }

    async fn send(&mut self, frame: usize) -> u64 {
        let begin = frame * self.channels_per_frame;
        let term = self.node.term;
        let appends = self.homes[begin..begin + self.channels_per_frame]
            .iter_mut()
            .map(|home| {
                let message = |sequence| NewMessage {
                    user: self.user.clone(),
                    producer: self.producer,
                    sequence: ProducerSequence::new(sequence).expect("not 0"),
                    time_ms: 1,
                    body: BODY.into(),
                };
                let messages = (home.sequence..home.sequence + self.messages).map(message).collect();
                let expected_offset = home.head.next_offset;
                home.sequence += self.messages;
                home.head.next_offset = expected_offset.plus(self.messages);
                ChannelAppend { channel: home.channel, term, epoch: home.head.epoch, expected_offset, messages }
            })
            .collect();
        self.node.send(NodeBody::Append(appends)).await
    }
}
