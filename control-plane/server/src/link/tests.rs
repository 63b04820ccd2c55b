//! A fake data node drives the link over an in-process pipe.

use std::collections::VecDeque;

use millrace_domain::{Channel, Membership, SigningKey};
use millrace_protocol::id::{ChannelId, ChannelName, Epoch, Offset, Producer, ProducerSequence, TenantId, UserId};
use millrace_protocol::node::{
    self, ChannelKind, FrameReader, HistoryClass, KeyAlgorithm, LinkHello, NewMessage, Role, SlowConsumer,
};
use millrace_store::{CommitOutcome, open_memory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::record;

mod append;
mod authorize;
mod exactly_once;
#[allow(dead_code, reason = "the tests of the API use the rest of it")]
#[path = "../../tests/rest/faulty.rs"]
mod faulty;
mod history;
mod home;
mod inquiry;
mod life;
mod reads;
mod told;

const SECRET: &[u8] = b"a secret of sixteen bytes or more";

fn tenant() -> TenantId {
    TenantId::new(7).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn channel_id(number: u64) -> ChannelId {
    ChannelId::new(number).unwrap()
}

fn offset(number: u64) -> Offset {
    Offset::new(number).unwrap()
}

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).unwrap()
}

fn message(from: &str, producer: u64, sequence: u64) -> NewMessage {
    NewMessage {
        user: user(from),
        producer: Producer::new(producer).unwrap(),
        sequence: ProducerSequence::new(sequence).unwrap(),
        time_ms: 5,
        body: Bytes::from(format!("{from} {producer} {sequence}")),
    }
}

fn test_config() -> LinkConfig {
    // Tests that are about heartbeats say so; the others never wait for one.
    LinkConfig { heartbeat: Duration::from_secs(60), ..LinkConfig::new(SECRET) }
}

/// A control node without REST: a store, its records, and a link server.
struct World {
    store: Arc<dyn Store>,
    server: LinkServer,
    registry: prometheus::Registry,
}

impl World {
    fn new() -> Self {
        Self::over(open_memory(), test_config())
    }

    fn over(store: Arc<dyn Store>, config: LinkConfig) -> Self {
        let registry = prometheus::Registry::new();
        let server = LinkServer::new(store.clone(), config, &registry).unwrap();
        Self { store, server, registry }
    }

    /// Writes records as REST would.
    async fn write(&self, write: impl FnOnce(&mut dyn Transaction)) {
        let mut transaction = self.store.begin(Instant::now() + Duration::from_secs(10)).await.unwrap();
        write(&mut *transaction);
        assert!(matches!(transaction.commit().await, CommitOutcome::Committed));
    }

    async fn channel(&self, number: u64, history: HistoryClass) {
        let channel = channel(number, history);
        self.write(|transaction| record::channel::insert(transaction, &channel)).await;
    }

    async fn archive(&self, number: u64, history: HistoryClass) {
        let channel = Channel { archived_ms: Some(9), ..channel(number, history) };
        self.write(|transaction| record::channel::put(transaction, &channel)).await;
    }

    async fn member(&self, number: u64, name: &str, role: Option<Role>) {
        self.write(|transaction| match role {
            Some(role) => {
                let membership = Membership { role, since_ms: 1, read: None };
                record::member::put(transaction, tenant(), channel_id(number), &user(name), &membership);
            }
            None => record::member::remove(transaction, tenant(), channel_id(number), &user(name)),
        })
        .await;
    }

    async fn signing_key(&self, of: TenantId, id: &str) {
        let key = SigningKey {
            id: id.into(),
            algorithm: KeyAlgorithm::Hs256,
            material: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
            private: None,
            label: None,
            created_ms: 1,
        };
        self.write(|transaction| record::signing_key::put(transaction, of, &key)).await;
    }

    /// A node that is linked and has been told everything.
    async fn node(&self) -> FakeNode {
        let mut node = self.greeted("node").await.unwrap();
        while !matches!(node.receive().await.body, NodeBody::Synced) {}
        node
    }

    /// A node that was made welcome, or why it was not. Waits while the place of a link that was cut is not free yet.
    async fn greeted(&self, name: &str) -> Result<FakeNode, Refusal> {
        loop {
            let mut node = FakeNode::over(self.server.connect_in_process());
            match node.greet(name, SECRET).await {
                Err(refusal) if name == "node" && refusal.code == Code::Busy => tokio::task::yield_now().await,
                result => return result.map(|term| FakeNode { term, ..node }),
            }
        }
    }

    fn metric(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect(name);
        let metric = family
            .get_metric()
            .iter()
            .find(|metric| metric.get_label().iter().all(|pair| pair.value() == label) || label.is_empty());
        let value = metric.map_or(0.0, |metric| metric.get_counter().get_value());
        format!("{value}").parse().expect("counters are whole numbers")
    }
}

fn channel(number: u64, history: HistoryClass) -> Channel {
    Channel {
        id: channel_id(number),
        tenant: tenant(),
        name: ChannelName::new(&format!("c{number}")).unwrap(),
        kind: ChannelKind::Group,
        history,
        slow_consumer: SlowConsumer::Disconnect,
        display_name: None,
        metadata: millrace_domain::Metadata::default(),
        owners: 1,
        created_ms: 1,
        updated_ms: 1,
        archived_ms: None,
    }
}

struct FakeNode {
    stream: DuplexStream,
    reader: FrameReader,
    term: Term,
    next_id: u64,
    /// Frames that came while a reply was awaited.
    aside: VecDeque<NodeFrame>,
}

impl FakeNode {
    fn over(stream: DuplexStream) -> Self {
        Self { stream, reader: FrameReader::default(), term: Term(0), next_id: 1, aside: VecDeque::new() }
    }

    async fn greet(&mut self, name: &str, secret: &[u8]) -> Result<Term, Refusal> {
        let NodeBody::Challenge { nonce, version } = self.receive().await.body else { panic!("no challenge") };
        assert_eq!(version, node::VERSION);
        let hello = hello(name, secret, &nonce);
        self.send_frame(0, NodeBody::Hello(hello)).await;
        match self.receive().await.body {
            NodeBody::Welcome { term, .. } => Ok(term),
            NodeBody::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    async fn send_frame(&mut self, id: u64, body: NodeBody) {
        let mut bytes = Vec::new();
        node::encode_delimited(&NodeFrame { id, body }, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn send(&mut self, body: NodeBody) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send_frame(id, body).await;
        id
    }

    /// The next frame from the wire, pings aside; `None` at its end.
    async fn try_receive(&mut self) -> Option<NodeFrame> {
        let received = async {
            loop {
                if let Some(frame) = self.reader.next_frame().unwrap() {
                    let frame = node::decode(frame).unwrap();
                    if frame.body == NodeBody::Ping {
                        continue;
                    }
                    return Some(frame);
                }
                if self.stream.read_buf(self.reader.buffer()).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), received).await.expect("a frame in time")
    }

    async fn receive(&mut self) -> NodeFrame {
        match self.aside.pop_front() {
            Some(frame) => frame,
            None => self.try_receive().await.expect("the link lives"),
        }
    }

    /// The reply to a request; what else comes is put aside.
    async fn reply(&mut self, id: u64) -> NodeBody {
        loop {
            let frame = self.try_receive().await.expect("the link lives");
            if frame.id == id {
                return frame.body;
            }
            self.aside.push_back(frame);
        }
    }

    async fn call(&mut self, body: NodeBody) -> NodeBody {
        let id = self.send(body).await;
        self.reply(id).await
    }
}

fn hello(name: &str, secret: &[u8], nonce: &[u8; 32]) -> LinkHello {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let proof = aws_lc_rs::hmac::sign(&key, &[nonce, name.as_bytes()].concat());
    LinkHello {
        version: node::VERSION,
        node: name.into(),
        proof: proof.as_ref().try_into().unwrap(),
        endpoints: vec!["ws://localhost".into()],
        certificate_hashes: vec![[1; 32]],
    }
}
