//! Kills a control node while homes append over a link, at random points, and goes on with the next one: everything acknowledged is stored
//! where it was said to be, each message once, every producer's messages in order, and offsets without a gap.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use control::{Control, OPERATOR_KEY, SECRET};
use millrace_control::WebhookConfig;
use millrace_protocol::node::{AppendOutcome, ChannelAppend, Head, HistoryRange, NewMessage, NodeBody, ReadHistory};
use millrace_protocol::{ChannelId, Code, Epoch, Producer, ProducerSequence, UserId};
use node::Node;
use serde_json::json;

mod control;
mod node;

const KILLS: u32 = 8;
const CHANNELS: usize = 4;
const USERS: u64 = 6;
const MESSAGES: u64 = 250;

/// Not a harness of the usual kind, because this program is also the one that it kills: `link_kill control FOLDER`.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let [mode, folder] = arguments.as_slice()
        && mode == "control"
    {
        runtime.block_on(control::serve(Path::new(folder), WebhookConfig::default()));
        return;
    }
    let stored = runtime.block_on(kill_again_and_again(0x5EED_0003));
    println!("test a killed control node keeps what it acknowledged ... ok ({stored} messages, {KILLS} kills)");
}

impl Control {
    /// Creates the channels as an application server does.
    fn set_up(&self) -> Vec<ChannelId> {
        self.post("/v1/tenants", OPERATOR_KEY, &json!({"name": "acme"}));
        let key = self.post("/v1/keys", OPERATOR_KEY, &json!({"tenant": "acme"}));
        let key = key["key"].as_str().expect("a key");
        (0..CHANNELS)
            .map(|number| {
                let members = json!([{"user": "u0", "role": "owner"}]);
                let draft = json!({"name": format!("c{number}"), "kind": "group", "members": members});
                let channel = self.post("/v1/channels", key, &draft);
                let id = channel["id"].as_str().expect("an id");
                ChannelId::new(id.parse().expect("a number")).expect("not 0")
            })
            .collect()
    }
}

/// One channel's home and the clients behind it.
struct Home {
    channel: ChannelId,
    head: Option<Head>,
    /// User → next sequence that is not acknowledged.
    next: BTreeMap<u64, u64>,
    /// User, sequence → offset that was acknowledged.
    places: HashMap<(u64, u64), u64>,
}

impl Home {
    fn next(&self, user: u64) -> u64 {
        self.next.get(&user).copied().unwrap_or(1)
    }

    fn is_done(&self) -> bool {
        (0..USERS).all(|user| self.next(user) > MESSAGES)
    }

    /// Pipelines of some users, from what is not acknowledged; now and then something that is.
    fn batch(&self, random: &mut u64) -> Vec<NewMessage> {
        let mut messages = Vec::new();
        for user in 0..USERS {
            if random_below(random, 3) == 0 {
                continue;
            }
            let begin = self.next(user).saturating_sub(random_below(random, 2)).max(1);
            let end = (begin + 1 + random_below(random, 6)).min(MESSAGES + 1);
            messages.extend((begin..end).map(|sequence| message(user, sequence)));
        }
        messages
    }

    fn append(&self, term: millrace_protocol::Term, random: &mut u64) -> ChannelAppend {
        let head = self.head.as_ref().expect("the channel is open");
        ChannelAppend {
            channel: self.channel,
            term,
            epoch: head.epoch,
            expected_offset: head.next_offset,
            messages: self.batch(random),
        }
    }

    fn acknowledge(&mut self, messages: &[NewMessage], outcomes: &[AppendOutcome]) {
        assert_eq!(messages.len(), outcomes.len());
        for (message, outcome) in messages.iter().zip(outcomes) {
            let (user, sequence) = (message.producer.get() - 1, message.sequence.get());
            let place = match *outcome {
                AppendOutcome::Stored(offset) => {
                    self.head.as_mut().expect("open").next_offset = offset.next();
                    Some(offset.get())
                }
                AppendOutcome::Duplicate(offset) => offset.map(|offset| offset.get()),
                AppendOutcome::OutOfOrder { expected } => {
                    panic!("user {user} sent {sequence}, {expected} was expected: something acknowledged is lost")
                }
            };
            if let Some(place) = place {
                assert_eq!(*self.places.entry((user, sequence)).or_insert(place), place, "a message has one place");
            }
            let next = self.next.entry(user).or_insert(1);
            *next = (*next).max(sequence + 1);
        }
    }
}

fn message(user: u64, sequence: u64) -> NewMessage {
    NewMessage {
        user: UserId::new(&format!("u{user}")).expect("a name"),
        producer: Producer::new(user + 1).expect("not 0"),
        sequence: ProducerSequence::new(sequence).expect("not 0"),
        time_ms: 1,
        body: format!("message {sequence} of user {user}").into(),
    }
}

/// SplitMix64.
fn random_below(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % bound
}

async fn kill_again_and_again(seed: u64) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seed;
    let mut control = Control::start(folder.path());
    let home = |channel| Home { channel, head: None, next: BTreeMap::new(), places: HashMap::new() };
    let mut homes: Vec<Home> = control.set_up().into_iter().map(home).collect();
    let mut last_term = 0;
    for round in 0..=KILLS {
        let mut node = Node::link(control.link, SECRET).await;
        assert!(node.term.0 > last_term, "round {round} of seed {seed:#x}: terms rise");
        last_term = node.term.0;
        open(&mut node, &mut homes).await;
        // Replies until the kill; the last round ends when all is done.
        let replies = if round == KILLS { u64::MAX } else { random_below(&mut random, 60) };
        append_until(&mut node, &mut homes, &mut random, replies).await;
        if round < KILLS {
            control.kill();
            control = Control::start(folder.path());
            continue;
        }
        let mut stored = 0;
        for home in &homes {
            stored += verify(&mut node, home).await;
        }
        return stored;
    }
    unreachable!("the last round returns")
}

async fn open(node: &mut Node, homes: &mut [Home]) {
    let channels = homes.iter().map(|home| home.channel).collect();
    let NodeBody::HomesOpened(opened) = node.call(NodeBody::OpenHomes(channels)).await else { panic!("no answer") };
    for (home, (channel, head)) in homes.iter_mut().zip(opened) {
        assert_eq!(home.channel, channel);
        home.head = Some(head.expect("open"));
    }
}

/// Keeps one append per channel under way, until so many replies or until everything is acknowledged.
async fn append_until(node: &mut Node, homes: &mut [Home], random: &mut u64, replies: u64) {
    let mut under_way: HashMap<u64, (usize, Vec<NewMessage>)> = HashMap::new();
    for (index, home) in homes.iter().enumerate() {
        let append = home.append(node.term, random);
        let messages = append.messages.clone();
        under_way.insert(node.send(NodeBody::Append(vec![append])).await, (index, messages));
    }
    for _ in 0..replies {
        if under_way.is_empty() {
            return;
        }
        let frame = node.receive().await;
        let NodeBody::Appended(mut appended) = frame.body else { panic!("{frame:?}") };
        let (index, messages) = under_way.remove(&frame.id).expect("asked");
        let home = &mut homes[index];
        match appended.remove(0).result {
            Ok(outcomes) => home.acknowledge(&messages, &outcomes),
            Err(refusal) => {
                assert!(matches!(refusal.code, Code::UnknownOutcome | Code::Unavailable), "{refusal:?}");
                open(node, std::slice::from_mut(home)).await;
            }
        }
        if !home.is_done() {
            let append = home.append(node.term, random);
            let messages = append.messages.clone();
            under_way.insert(node.send(NodeBody::Append(vec![append])).await, (index, messages));
        }
    }
}

/// Reads the channel from its beginning; returns the number of messages.
async fn verify(node: &mut Node, home: &Home) -> u64 {
    let mut next = BTreeMap::new();
    let mut last = 0;
    loop {
        let range = HistoryRange::After(last);
        let read = ReadHistory { channel: home.channel, messages_max: 300, bytes_max: 1 << 20, range };
        let NodeBody::History(page) = node.call(NodeBody::ReadHistory(read)).await else { panic!("no answer") };
        for stored in &page.messages {
            last += 1;
            assert_eq!((stored.offset.get(), stored.epoch), (last, Epoch::FIRST), "no gap, no second epoch");
            let (user, sequence) = (stored.message.producer.get() - 1, stored.message.sequence.get());
            let expected = next.entry(user).or_insert(1);
            assert_eq!(sequence, *expected, "user {user}: each message once and in order");
            *expected += 1;
            assert_eq!(stored.message, message(user, sequence), "byte for byte");
            if let Some(place) = home.places.get(&(user, sequence)) {
                assert_eq!(*place, last, "it stands where it was said to");
            }
        }
        if !page.more {
            break;
        }
    }
    assert!((0..USERS).all(|user| next.get(&user) == Some(&(MESSAGES + 1))), "everything acknowledged is stored");
    last
}
