//! Messages, with the real control link and a data node in small behind it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_control::{LinkConfig, LinkServer, WebhookConfig, Webhooks};
use millrace_protocol::code::Code;
use millrace_protocol::id::{Position, Term};
use millrace_protocol::node::{
    AppendOutcome, ChannelAppend, FrameReader, Head, HistoryClass, LinkHello, NodeBody, NodeFrame, PublishOrder,
    PublishedAt, VERSION, decode, encode_delimited,
};
use millrace_store::open_memory;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;

use crate::plane::FakePlane;
use crate::{Telling, World, text};

const SECRET: &[u8] = b"a secret of sixteen bytes or more";

/// A data node that opens a home for each message, appends it, and forgets everything: the store alone remembers.
struct SmallNode {
    stream: DuplexStream,
    reader: FrameReader,
    term: Term,
    id: u64,
}

impl SmallNode {
    async fn link(link: &LinkServer) -> Self {
        let reader = FrameReader::default();
        let mut node = Self { stream: link.connect_in_process(), reader, term: Term(0), id: 0 };
        let NodeBody::Challenge { nonce, .. } = node.receive().await.unwrap().body else { panic!("no challenge") };
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
        let proof = aws_lc_rs::hmac::sign(&key, &[&nonce[..], b"small"].concat());
        let proof = proof.as_ref().try_into().unwrap();
        let hello =
            LinkHello { version: VERSION, node: "small".into(), proof, endpoints: vec![], certificate_hashes: vec![] };
        node.send(0, NodeBody::Hello(hello)).await;
        let NodeBody::Welcome { term, .. } = node.receive().await.unwrap().body else { panic!("not welcome") };
        node.term = term;
        while !matches!(node.receive().await.unwrap().body, NodeBody::Synced) {}
        node
    }

    async fn send(&mut self, id: u64, body: NodeBody) {
        let mut bytes = Vec::new();
        encode_delimited(&NodeFrame { id, body }, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next frame but pings and what is told unasked; `None` when the link has ended.
    async fn receive(&mut self) -> Option<NodeFrame> {
        loop {
            while let Some(frame) = self.reader.next_frame().unwrap() {
                let frame = decode(frame).unwrap();
                let told = matches!(
                    frame.body,
                    NodeBody::MemberChanged(_) | NodeBody::ChannelChanged { .. } | NodeBody::ReadsMoved(_)
                );
                if !told && frame.body != NodeBody::Ping {
                    return Some(frame);
                }
            }
            if self.stream.read_buf(self.reader.buffer()).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn ask(&mut self, body: NodeBody) -> NodeBody {
        self.id += 1;
        self.send(self.id, body).await;
        let answer = self.receive().await.unwrap();
        assert_eq!(answer.id, self.id);
        answer.body
    }

    /// Accepts what comes over REST until the link ends.
    async fn serve(mut self) {
        while let Some(frame) = self.receive().await {
            let NodeBody::Publish(order) = frame.body else { continue };
            let at = self.accept(order).await;
            self.send(frame.id, NodeBody::Published(Ok(at))).await;
        }
    }

    async fn accept(&mut self, order: PublishOrder) -> PublishedAt {
        let PublishOrder { channel, history, mut message, .. } = order;
        message.time_ms = 1_000;
        if history == HistoryClass::None {
            return PublishedAt { position: Position { epoch: epoch(), offset: 0 }, time_ms: 1_000, duplicate: false };
        }
        let NodeBody::HomesOpened(mut opened) = self.ask(NodeBody::OpenHomes(vec![channel])).await else { panic!() };
        let Head { epoch, next_offset, .. } = opened.remove(0).1.unwrap();
        let append =
            ChannelAppend { channel, term: self.term, epoch, expected_offset: next_offset, messages: vec![message] };
        let NodeBody::Appended(appended) = self.ask(NodeBody::Append(vec![append])).await else { panic!() };
        let at = |offset, time_ms, duplicate| PublishedAt { position: Position { epoch, offset }, time_ms, duplicate };
        match appended[0].result.as_ref().unwrap()[0] {
            AppendOutcome::Stored(offset) => at(offset.get(), 1_000, false),
            AppendOutcome::Duplicate(offset) => at(offset.map_or(0, |offset| offset.get()), 0, true),
            AppendOutcome::OutOfOrder { .. } => panic!("a first message is never out of order"),
        }
    }
}

fn epoch() -> millrace_protocol::id::Epoch {
    millrace_protocol::id::Epoch::FIRST
}

/// A world with the real link; the runtime drives the node.
pub(crate) fn linked() -> (World, Runtime) {
    linked_telling(WebhookConfig::default())
}

/// The same, with webhooks that are delivered so.
pub(crate) fn linked_telling(config: WebhookConfig) -> (World, Runtime) {
    linked_by(config, false)
}

/// The same, with a control node for the link and another one for the API, over one store.
pub(crate) fn linked_to_another(config: WebhookConfig) -> (World, Runtime) {
    linked_by(config, true)
}

fn linked_by(config: WebhookConfig, another: bool) -> (World, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = open_memory();
    // The small node says nothing by itself.
    let heard = LinkConfig { heartbeat: Duration::from_secs(20), ..LinkConfig::new(SECRET.to_vec()) };
    let link = LinkServer::new(store.clone(), heard, &Registry::new()).unwrap();
    let start = || runtime.block_on(Webhooks::start(store.clone(), config.clone(), &Registry::new())).unwrap();
    let webhooks = start();
    let link = link.with_webhooks(if another { start() } else { webhooks.clone() });
    let plane = Arc::new(FakePlane::default());
    let world = World::assemble(store, Arc::new(link.clone()), plane, Telling::Begun(webhooks), |_| {});
    runtime.block_on(async {
        let node = SmallNode::link(&link).await;
        tokio::spawn(node.serve());
    });
    (world, runtime)
}

pub(crate) fn publish(world: &World, credential: &str, said: &str) -> Value {
    world.post("/v1/channels/general/messages", credential, &json!({"text": said})).expect(201)
}

fn texts(page: &Value) -> Vec<String> {
    page["messages"].as_array().unwrap().iter().map(|message| text(&message["text"])).collect()
}

#[test]
fn what_is_said_can_be_read() {
    let (world, _runtime) = linked();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let (ann, bob) = (world.token("ann"), world.token("bob"));
    let at = publish(&world, &ann, "hello 世界");
    assert_eq!((&at["offset"], &at["epoch"], &at["duplicate"]), (&json!(1), &json!(1), &json!(false)));
    let bytes = STANDARD.encode([0, 159, 146, 150]);
    let from_app = json!({"data_base64": bytes, "user": "bob"});
    assert_eq!(world.post("/v1/channels/general/messages", &world.api, &from_app).expect(201)["offset"], 2);

    let page = world.get("/v1/channels/general/messages", &bob).expect(200);
    let messages = page["messages"].as_array().unwrap();
    assert_eq!((&messages[0]["text"], &messages[0]["user"]), (&json!("hello 世界"), &json!("ann")));
    assert!(messages[0].get("data_base64").is_none());
    assert_eq!((&messages[1]["data_base64"], &messages[1]["user"]), (&json!(bytes), &json!("bob")));
    assert!(messages[1].get("text").is_none(), "what is no UTF-8 is not mangled");
    assert_eq!(world.get("/v1/channels/general/messages/2", &ann).expect(200), messages[1]);
    for missing in ["0", "3", "x", "-1", "18446744073709551615"] {
        world.get(&format!("/v1/channels/general/messages/{missing}"), &ann).problem(404, "not-found");
    }
}

#[test]
fn pages_lead_on_in_both_directions() {
    let (world, _runtime) = linked();
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let page = |query: &str| world.get(&format!("/v1/channels/general/messages?{query}"), &ann).expect(200);
    let empty = page("limit=3");
    assert_eq!((texts(&empty), &empty["older"]), (vec![], &Value::Null));
    for number in 1..=8 {
        publish(&world, &ann, &number.to_string());
    }
    let follow = |page_of: &Value, way: &str| page(&format!("limit=3&cursor={}", text(&page_of[way])));
    let newest = page("limit=3");
    assert_eq!(texts(&newest), ["6", "7", "8"]);
    let middle = follow(&newest, "older");
    assert_eq!(texts(&middle), ["3", "4", "5"]);
    let oldest = follow(&middle, "older");
    assert_eq!((texts(&oldest), &oldest["older"]), (vec!["1".into(), "2".into()], &Value::Null));
    assert_eq!(texts(&follow(&oldest, "newer")), ["3", "4", "5"]);
    let tail = follow(&newest, "newer");
    assert_eq!(texts(&tail), [""; 0]);
    assert_eq!(texts(&follow(&tail, "older")), ["6", "7", "8"]);
    // From the empty end one waits for what is to come, also from before the first message.
    publish(&world, &ann, "9");
    assert_eq!(texts(&follow(&tail, "newer")), ["9"]);
    assert_eq!(texts(&follow(&empty, "newer")), ["1", "2", "3"]);
    assert_eq!(texts(&page("after=0&limit=2")), ["1", "2"]);
    assert_eq!(texts(&page("after=7")), ["8", "9"]);
    assert_eq!(texts(&page("before=3")), ["1", "2"]);
    assert_eq!(texts(&page("before=18446744073709551615&limit=1")), ["9"]);
    assert_eq!(texts(&page("after=18446744073709551615&limit=1")), [""; 0]);
    assert_eq!(texts(&page("before=1")), [""; 0]);
}

#[test]
fn who_may_speak() {
    let (world, _runtime) = linked();
    let members = json!([{"user": "ann", "role": "owner"}, {"user": "bob"}, {"user": "eve", "role": "reader"}]);
    for (name, kind) in [("general", "group"), ("news", "broadcast")] {
        let draft = json!({"name": name, "kind": kind, "history": "durable", "members": members});
        world.post("/v1/channels", &world.api, &draft).expect(201);
    }
    let check = |channel: &str, user: &str, status: u16| {
        let path = format!("/v1/channels/{channel}/messages");
        let as_user = world.post(&path, &world.token(user), &json!({"text": "x"}));
        let as_app = world.post(&path, &world.api, &json!({"text": "x", "user": user}));
        assert_eq!((as_user.status, as_app.status), (status, status), "{user} in {channel}");
    };
    check("general", "ann", 201);
    check("general", "bob", 201);
    check("general", "eve", 403);
    check("news", "ann", 201);
    check("news", "bob", 403);
    let path = "/v1/channels/general/messages";
    world.post(path, &world.token("nobody"), &json!({"text": "x"})).problem(404, "not-found");
    world.post(path, &world.api, &json!({"text": "x", "user": "nobody"})).wrong_fields(&["/user"]);
    world.post(path, &world.api, &json!({"text": "x"})).wrong_fields(&["/user"]);
    let ann = world.token("ann");
    world.post(path, &ann, &json!({"text": "x", "user": "bob"})).problem(403, "wrong-scope");
    world.post(path, &ann, &json!({"text": "x", "user": "ann"})).expect(201);
    world.post(path, &ann, &json!({})).wrong_fields(&["/text"]);
    world.post(path, &ann, &json!({"text": "x", "data_base64": "eA=="})).wrong_fields(&["/data_base64"]);
    world.post(path, &ann, &json!({"data_base64": "?"})).wrong_fields(&["/data_base64"]);
    world.post(path, &ann, &json!({"text": ""})).expect(201);
}

#[test]
fn a_channel_without_history_has_nothing_to_read() {
    let (world, _runtime) = linked();
    let draft =
        json!({"name": "general", "kind": "group", "history": "none", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &draft).expect(201);
    let ann = world.token("ann");
    assert_eq!(publish(&world, &ann, "x")["offset"], Value::Null);
    world.get("/v1/channels/general/messages", &ann).problem(409, "no-history");
    world.get("/v1/channels/general/messages/1", &world.api).problem(409, "no-history");
}

/// The node has forgotten everything by the second request: the store knows the producer.
#[test]
fn a_repeated_message_is_stored_once() {
    let (world, _runtime) = linked();
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let publish = |said: &str| {
        let request = world.request("POST", "/v1/channels/general/messages").bearer(&ann);
        request.header("idempotency-key", "k").json(&json!({"text": said})).send()
    };
    let first = publish("x").expect(201);
    assert_eq!(publish("x").expect(201), first);
    publish("y").problem(422, "idempotency-key-reused");
    // As if the answer had never been kept: its row is gone.
    world.runtime.block_on(async {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let mut transaction = world.store.begin(deadline).await.unwrap();
        let answers = millrace_store::KeyRange::prefix(b"I");
        let rows = transaction.scan(answers, millrace_store::Direction::Forward, 10).await.unwrap();
        assert_eq!(rows.len(), 1);
        transaction.delete(rows[0].0.clone());
        assert!(matches!(transaction.commit().await, millrace_store::CommitOutcome::Committed));
    });
    let again = publish("x").expect(201);
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)));
    let page = world.get("/v1/channels/general/messages", &ann).expect(200);
    assert_eq!(texts(&page), ["x"]);
}

#[test]
fn without_a_data_node_one_is_asked_to_come_back() {
    let store = open_memory();
    let link = LinkServer::new(store.clone(), LinkConfig::new(SECRET.to_vec()), &Registry::new()).unwrap();
    let world = World::over(store, Arc::new(link), Arc::new(FakePlane::default()), |_| {});
    world.group("general", &[("ann", "owner")]);
    let refused = world.post("/v1/channels/general/messages", &world.token("ann"), &json!({"text": "x"}));
    refused.problem(503, "unavailable");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(world.request("GET", "/readyz").send().expect(200)["data_plane"], false);
}

#[test]
fn refusals_of_the_data_plane_become_problems() {
    let check = |code, status, slug| {
        let world = World::new();
        world.group("general", &[("ann", "owner")]);
        world.plane.refuse(code);
        let refused = world.post("/v1/channels/general/messages", &world.token("ann"), &json!({"text": "x"}));
        refused.problem(status, slug);
        assert_eq!(!refused.header("retry-after").is_empty(), [429, 503].contains(&status), "{code}");
    };
    check(Code::Busy, 503, "unavailable");
    check(Code::UnknownOutcome, 503, "unknown-outcome");
    check(Code::RateLimited, 429, "rate-limited");
    check(Code::Archived, 409, "archived");
    check(Code::Internal, 500, "internal");
}

#[test]
fn a_home_that_does_not_answer_is_not_waited_for_for_ever() {
    let plane = Arc::new(FakePlane::default());
    let world = World::over(open_memory(), plane.clone(), plane.clone(), |config| {
        config.publish_deadline = Duration::from_millis(20);
    });
    world.group("general", &[("ann", "owner")]);
    plane.gate.forget_permits(1_000);
    let refused = world.post("/v1/channels/general/messages", &world.token("ann"), &json!({"text": "x"}));
    refused.problem(503, "unknown-outcome");
}
