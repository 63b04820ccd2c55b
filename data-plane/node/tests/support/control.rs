//! A control plane in memory, with the rules that a data node relies on: proofs, terms, heads, producers, one link at a time.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bytes::BytesMut;
use millrace_data::LinkTarget;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{
    self, AppendOutcome, Authorize, ChannelAppend, ChannelAppended, ChannelKind, ChannelRef, FrameReader, Grant, Head,
    History, HistoryClass, HistoryRange, KeyAlgorithm, MemberChanged, NewMessage, NodeBody, NodeFrame, PublishOrder,
    PublishedAt, ReadHistory, RevokedTokens, Role, SlowConsumer, StoredMessage, TokensRevoked,
};
use millrace_protocol::{
    ChannelId, ChannelName, Code, Epoch, Offset, Producer, ProducerSequence, TenantId, Term, UserId,
};
use millrace_token::{Claims, SigningKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};

use super::PATIENCE;

/// What the node must know to get a link.
pub(crate) const SECRET: &[u8] = b"a cluster secret of more than thirty-two bytes";

const HEARTBEAT_MS: u32 = 200;

/// The control plane. Dropping it ends every link.
pub(crate) struct Control {
    shared: Arc<Shared>,
    runtime: Runtime,
    key: SigningKey,
    key_id: String,
}

struct Shared {
    state: Mutex<State>,
    /// Frames for every link.
    pushes: broadcast::Sender<NodeFrame>,
    /// Counts up when all links are to end; odd means that none is taken either.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    channels: HashMap<ChannelId, Channel>,
    names: HashMap<ChannelName, ChannelId>,
    keys: Vec<node::TenantKey>,
    term: u64,
    hellos: usize,
    /// What the node told of its certificate last.
    certificate_hashes: Vec<[u8; 32]>,
    refused_proofs: usize,
    /// Publish orders that wait for their answer.
    orders: HashMap<u64, std::sync::mpsc::Sender<Result<PublishedAt, Refusal>>>,
    /// Questions of an operator that wait for theirs.
    questions: HashMap<u64, std::sync::mpsc::Sender<NodeBody>>,
    asked: u64,
}

/// Questions are numbered from here, orders from 1.
const QUESTIONS_FROM: u64 = 1 << 32;

struct Channel {
    name: ChannelName,
    history: HistoryClass,
    policy: SlowConsumer,
    members: HashMap<UserId, bool>,
    messages: Vec<Arc<StoredMessage>>,
    producers: HashMap<(UserId, Producer), (ProducerSequence, Offset)>,
    term: u64,
}

impl Control {
    pub(crate) fn new() -> Self {
        let key = SigningKey::generate(KeyAlgorithm::Hs256).expect("key");
        let state = State { keys: vec![key.tenant_key(tenant(), "k1")], ..State::default() };
        let shared = Shared { state: Mutex::new(state), pushes: broadcast::channel(64).0, cuts: watch::channel(0).0 };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        Self { shared: Arc::new(shared), runtime, key, key_id: "k1".into() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics with the state")
    }

    /// What a node connects to.
    pub(crate) fn target(&self) -> LinkTarget {
        let (shared, handle) = (Arc::clone(&self.shared), self.runtime.handle().clone());
        let dial = move || {
            if *shared.cuts.borrow() % 2 == 1 {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            let (theirs, ours) = tokio::io::duplex(64 << 10);
            let shared = Arc::clone(&shared);
            handle.spawn(async move {
                let cuts = shared.cuts.subscribe();
                // However the link ends, the node sees its end.
                let _ = serve(ours, shared, cuts).await;
            });
            Ok(theirs)
        };
        LinkTarget::InProcess { dial: Arc::new(dial) }
    }

    /// The same behind a TCP port.
    pub(crate) fn tcp_target(&self) -> LinkTarget {
        let shared = Arc::clone(&self.shared);
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        self.runtime.spawn(async move {
            while let Ok((pipe, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let cuts = shared.cuts.subscribe();
                    let _ = serve(pipe, shared, cuts).await;
                });
            }
        });
        LinkTarget::Tcp { address }
    }

    /// Makes a channel whose members may publish.
    pub(crate) fn channel(&self, name: &str, history: HistoryClass, members: &[&str]) -> ChannelId {
        self.channel_with(name, history, SlowConsumer::Disconnect, members)
    }

    pub(crate) fn channel_with(
        &self,
        name: &str,
        history: HistoryClass,
        policy: SlowConsumer,
        members: &[&str],
    ) -> ChannelId {
        let mut state = self.state();
        // Consecutive numbers are on different shards.
        let id = ChannelId::new(1000 + state.channels.len() as u64).expect("not 0");
        let name = ChannelName::new(name).expect("name");
        let members = members.iter().map(|user| (user_id(user), true)).collect();
        let channel = Channel {
            name: name.clone(),
            history,
            policy,
            members,
            messages: Vec::new(),
            producers: HashMap::new(),
            term: 0,
        };
        state.channels.insert(id, channel);
        state.names.insert(name, id);
        id
    }

    /// Ends a membership and tells the node.
    pub(crate) fn remove_member(&self, channel: ChannelId, user: &str) {
        let user = user_id(user);
        self.state().channels.get_mut(&channel).expect("channel").members.remove(&user);
        let change = MemberChanged { tenant: tenant(), channel, user, membership: None };
        self.push(NodeBody::MemberChanged(change));
    }

    /// Ends all tokens that a user has.
    pub(crate) fn revoke_tokens_of(&self, user: &str) {
        let now = unix_ms();
        let which = RevokedTokens::UserBefore(user_id(user), now + 1);
        self.push(NodeBody::TokensRevoked(TokensRevoked { tenant: tenant(), which, forget_after_ms: now + 3_600_000 }));
    }

    /// Publishes over REST, so to say: the node's answer.
    pub(crate) fn order(&self, channel: ChannelId, sequence: u64, body: &[u8]) -> Result<PublishedAt, Refusal> {
        let (answer, answered) = std::sync::mpsc::channel();
        let id = {
            let mut state = self.state();
            let id = state.orders.len() as u64 + 1;
            state.orders.insert(id, answer);
            id
        };
        let message = NewMessage {
            user: user_id("rest"),
            producer: Producer::new(99).expect("not 0"),
            sequence: ProducerSequence::new(sequence).expect("not 0"),
            time_ms: 0,
            body: body.to_vec().into(),
        };
        let history = self.state().channels[&channel].history;
        let order = PublishOrder { tenant: tenant(), channel, history, message };
        self.shared.pushes.send(NodeFrame { id, body: NodeBody::Publish(order) }).expect("a link is up");
        answered.recv_timeout(PATIENCE).expect("an answer")
    }

    /// Asks in an operator's name: the node's answer.
    pub(crate) fn ask(&self, question: NodeBody) -> NodeBody {
        let (answer, answered) = std::sync::mpsc::channel();
        let id = {
            let mut state = self.state();
            state.asked += 1;
            let id = QUESTIONS_FROM + state.asked;
            state.questions.insert(id, answer);
            id
        };
        self.shared.pushes.send(NodeFrame { id, body: question }).expect("a link is up");
        answered.recv_timeout(PATIENCE).expect("an answer")
    }

    fn push(&self, body: NodeBody) {
        self.shared.pushes.send(NodeFrame { id: 0, body }).expect("a link is up");
    }

    /// A token for an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        let now = unix_ms();
        let claims = Claims {
            tenant: tenant(),
            user: user_id(user),
            issued_at_ms: now,
            expires_at_ms: now + 3_600_000,
            id: format!("{user}-{now}"),
            roles: Vec::new(),
            device: None,
        };
        self.key.sign(&self.key_id, &claims).expect("sign")
    }

    /// Makes another key, which tokens are signed with from now on; nodes hear of it with their next link.
    pub(crate) fn renew_key(&mut self) {
        self.key = SigningKey::generate(KeyAlgorithm::Hs256).expect("key");
        let mut state = self.shared.state.lock().expect("no test panics with the state");
        self.key_id = format!("k{}", state.keys.len() + 1);
        state.keys.push(self.key.tenant_key(tenant(), &self.key_id));
    }

    /// Removes every key, and gives what a node that is linked has to hear.
    fn take_keys(&self) -> NodeBody {
        let ended = |key: node::TenantKey| node::TenantKey { key: None, ..key };
        let keys = std::mem::take(&mut self.state().keys);
        NodeBody::Keys(keys.into_iter().map(ended).collect())
    }

    /// Removes every key, and tells so.
    pub(crate) fn remove_keys(&self) {
        self.push(self.take_keys());
    }

    /// Removes every key while no link is up.
    pub(crate) fn remove_keys_unheard(&self) {
        self.cut();
        let _unheard = self.take_keys();
        self.mend();
    }

    /// Cuts every link, and refuses new ones until [`Control::mend`].
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn mend(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What is stored of a channel: offsets and bodies.
    pub(crate) fn stored(&self, channel: ChannelId) -> Vec<(u64, Vec<u8>)> {
        let state = self.state();
        let messages = &state.channels[&channel].messages;
        messages.iter().map(|stored| (stored.offset.get(), stored.message.body.to_vec())).collect()
    }

    /// Hashes of the node's certificate, as it told them last.
    pub(crate) fn certificate_hashes(&self) -> Vec<[u8; 32]> {
        self.state().certificate_hashes.clone()
    }

    /// Hellos with the right proof, and with a wrong one.
    pub(crate) fn hellos(&self) -> (usize, usize) {
        let state = self.state();
        (state.hellos, state.refused_proofs)
    }
}

fn tenant() -> TenantId {
    TenantId::new(1).expect("not 0")
}

fn user_id(user: &str) -> UserId {
    UserId::new(user).expect("name")
}

fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(unix.as_millis()).expect("before the year 292,000,000")
}

async fn send(pipe: &mut (impl AsyncWrite + Unpin), frame: &NodeFrame) -> io::Result<()> {
    let mut bytes = Vec::new();
    node::encode_delimited(frame, &mut bytes).map_err(io::Error::other)?;
    pipe.write_all(&bytes).await
}

async fn receive(pipe: &mut (impl AsyncRead + Unpin), frames: &mut FrameReader) -> io::Result<NodeFrame> {
    loop {
        if let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            return node::decode(frame).map_err(io::Error::other);
        }
        let mut bytes = BytesMut::with_capacity(16 << 10);
        if pipe.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        frames.feed(&bytes);
    }
}

async fn serve(
    mut pipe: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    mut cuts: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut frames = FrameReader::default();
    let nonce = [9; 32];
    let challenge = NodeBody::Challenge { nonce, version: node::VERSION };
    send(&mut pipe, &NodeFrame { id: 0, body: challenge }).await?;
    let NodeBody::Hello(hello) = receive(&mut pipe, &mut frames).await?.body else { return Ok(()) };
    let signed = [&nonce[..], hello.node.as_bytes()].concat();
    if hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &signed, &hello.proof).is_err() {
        shared.state.lock().expect("state").refused_proofs += 1;
        let refusal = Refusal::new(Code::BadToken, "the proof is wrong");
        return send(&mut pipe, &NodeFrame { id: 0, body: NodeBody::Refused(refusal) }).await;
    }
    // Before the welcome, so that no push between them is missed.
    let mut pushes = shared.pushes.subscribe();
    let (term, keys) = {
        let mut state = shared.state.lock().expect("state");
        state.hellos += 1;
        state.certificate_hashes = hello.certificate_hashes;
        state.term += 1;
        (Term(state.term), state.keys.clone())
    };
    send(&mut pipe, &NodeFrame { id: 0, body: NodeBody::Welcome { term, heartbeat_ms: HEARTBEAT_MS } }).await?;
    send(&mut pipe, &NodeFrame { id: 0, body: NodeBody::Keys(keys) }).await?;
    send(&mut pipe, &NodeFrame { id: 0, body: NodeBody::Synced }).await?;
    loop {
        let frame = tokio::select! {
            frame = receive(&mut pipe, &mut frames) => frame?,
            push = pushes.recv() => {
                send(&mut pipe, &push.map_err(io::Error::other)?).await?;
                continue;
            }
            _ = cuts.changed() => return Ok(()),
        };
        let body = match frame.body {
            NodeBody::Ping => NodeBody::Pong,
            NodeBody::Pong => continue,
            NodeBody::CertificateHashes(hashes) => {
                shared.state.lock().expect("state").certificate_hashes = hashes;
                continue;
            }
            NodeBody::Published(result) => {
                let state = shared.state.lock().expect("state");
                // Kept, so that numbers are not used again.
                state.orders[&frame.id].send(result).expect("the test waits");
                continue;
            }
            answer if frame.id > QUESTIONS_FROM && frame.id >> 48 == 0 => {
                let asked = shared.state.lock().expect("state").questions.remove(&frame.id);
                // A test that gave up has failed already.
                let _ = asked.expect("it was asked").send(answer);
                continue;
            }
            request => shared.state.lock().expect("state").answer(term, request),
        };
        send(&mut pipe, &NodeFrame { id: frame.id, body }).await?;
    }
}

impl State {
    fn answer(&mut self, term: Term, request: NodeBody) -> NodeBody {
        match request {
            NodeBody::Authorize(asked) => {
                NodeBody::Authorized(asked.iter().map(|asked| self.authorize(asked)).collect())
            }
            NodeBody::OpenHomes(channels) => {
                NodeBody::HomesOpened(channels.into_iter().map(|channel| (channel, self.open(term, channel))).collect())
            }
            NodeBody::Append(appends) => {
                NodeBody::Appended(appends.into_iter().map(|append| self.append(term, append)).collect())
            }
            NodeBody::ReadHistory(read) => NodeBody::History(self.read(read)),
            NodeBody::CloseHomes(_) => NodeBody::HomesClosed,
            other => panic!("the node sent {other:?}"),
        }
    }

    fn authorize(&self, asked: &Authorize) -> Result<Grant, Refusal> {
        let id = match &asked.channel {
            ChannelRef::Name(name) => self.names.get(name).copied(),
            ChannelRef::Id(id) => Some(*id),
        };
        let refusal = || Refusal::new(Code::NoAccess, "no such channel, or not a member");
        let id = id.ok_or_else(refusal)?;
        let channel = self.channels.get(&id).ok_or_else(refusal)?;
        let can_publish = *channel.members.get(&asked.user).ok_or_else(refusal)?;
        Ok(Grant {
            channel: id,
            name: channel.name.clone(),
            kind: ChannelKind::Group,
            history: channel.history,
            role: Role::Member,
            can_publish,
            slow_consumer: channel.policy,
            read: None,
        })
    }

    fn open(&mut self, term: Term, id: ChannelId) -> Result<Head, Refusal> {
        let channel = self.channels.get_mut(&id).ok_or_else(|| Refusal::new(Code::NoAccess, "no such channel"))?;
        channel.term = term.0;
        Ok(Head {
            epoch: Epoch::FIRST,
            next_offset: channel.next_offset(),
            first_offset: Offset::FIRST,
            epoch_first_offset: Offset::FIRST,
            history: channel.history,
            producers: Vec::new(),
        })
    }

    fn append(&mut self, term: Term, append: ChannelAppend) -> ChannelAppended {
        let channel = self.channels.get_mut(&append.channel).expect("the node opened it");
        let refused = |message: &str| ChannelAppended {
            channel: append.channel,
            result: Err(Refusal::new(Code::Fenced, message.to_owned())),
        };
        if append.term != term || channel.term != term.0 {
            return refused("an older term");
        }
        if append.expected_offset != channel.next_offset() {
            return refused("not the next offset");
        }
        let mut outcomes = Vec::new();
        for message in append.messages {
            let key = (message.user.clone(), message.producer);
            let last = channel.producers.get(&key).copied();
            let expected = last.map_or(ProducerSequence::FIRST, |(sequence, _)| sequence.next());
            outcomes.push(if message.sequence < expected {
                let last = last.filter(|(sequence, _)| *sequence == message.sequence);
                AppendOutcome::Duplicate(last.map(|(_, offset)| offset))
            } else if message.sequence > expected {
                AppendOutcome::OutOfOrder { expected }
            } else {
                let offset = channel.next_offset();
                channel.producers.insert(key, (message.sequence, offset));
                channel.messages.push(Arc::new(StoredMessage { epoch: append.epoch, offset, message }));
                AppendOutcome::Stored(offset)
            });
        }
        ChannelAppended { channel: append.channel, result: Ok(outcomes) }
    }

    fn read(&self, read: ReadHistory) -> History {
        let all = &self.channels[&read.channel].messages;
        let max = read.messages_max as usize;
        let fits = |messages: &[Arc<StoredMessage>]| {
            messages.iter().map(|stored| stored.message.body.len()).sum::<usize>() <= read.bytes_max as usize
        };
        let (mut start, mut end) = match read.range {
            HistoryRange::Newest => (all.len().saturating_sub(max), all.len()),
            HistoryRange::Before(offset) => {
                let end = all.partition_point(|stored| stored.offset < offset);
                (end.saturating_sub(max), end)
            }
            HistoryRange::After(offset) => {
                let start = all.partition_point(|stored| stored.offset.get() <= offset);
                (start, (start + max).min(all.len()))
            }
        };
        // At least one, whatever its size.
        while end - start > 1 && !fits(&all[start..end]) {
            match read.range {
                HistoryRange::After(_) => end -= 1,
                _ => start += 1,
            }
        }
        let more = match read.range {
            HistoryRange::After(_) => end < all.len(),
            _ => start > 0,
        };
        History { channel: read.channel, messages: all[start..end].to_vec(), more }
    }
}

impl Channel {
    fn next_offset(&self) -> Offset {
        self.messages.last().map_or(Offset::FIRST, |stored| stored.offset.next())
    }
}
