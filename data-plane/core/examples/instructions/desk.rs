//! A shard, its control plane, and transports that take everything, with nothing that differs between two runs: the time stands still,
//! the seed is fixed.

use std::collections::HashSet;
use std::hint::black_box;
use std::time::Instant;

use millrace_core::{
    Action, Config, ControlEvent, Now, Rate, SessionKey, Shard, ShardIndex, VerifiedToken, VerifyToken, Written,
};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, Publish, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::node::{
    AppendOutcome, Authorize, ChannelAppend, ChannelAppended, ChannelKind, ChannelRef, Grant, Head, NodeBody,
    NodeFrame, Role, SlowConsumer,
};
use millrace_protocol::{ChannelId, Code, Epoch, Offset, Producer, ProducerSequence, TenantId, Term, UserId};

/// Takes every token, as the user whose name it is.
pub(crate) struct Anyone;

impl VerifyToken for Anyone {
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        let user = UserId::new(token).map_err(|_| Code::BadToken)?;
        let tenant = TenantId::new(1).ok_or(Code::BadToken)?;
        Ok(VerifiedToken { tenant, user, id: token.into(), key: 0, issued_ms: 0, expires_ms: unix_ms + 3_600_000 })
    }

    fn keys(&self) -> HashSet<u64> {
        HashSet::from([0])
    }
}

/// The shard and what is around it.
pub(crate) struct Desk {
    pub(crate) shard: Shard<Anyone>,
    pub(crate) now: Now,
    /// Of the next message of every durable channel: each is published to equally often.
    next: Offset,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        // As the time stands still, what may come at once is all that may come.
        let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
        let config = Config { publish_rate: rate, request_rate: rate, ..Config::default() };
        let mut shard = Shard::new(now, config, ShardIndex(0), 1, 7, Anyone).expect("the defaults hold");
        shard.handle_control(now, ControlEvent::LinkUp { term: Term(1) });
        Self { shard, now, next: Offset::FIRST }
    }

    /// Turns until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        loop {
            self.shard.end_turn(self.now);
            let mut asked = false;
            while let Some(action) = self.shard.poll_action() {
                match action {
                    Action::Flush(session) => self.write(session),
                    Action::Control(frame) => {
                        asked = true;
                        let reply = self.answer(frame);
                        self.shard.handle_control(self.now, ControlEvent::Frame(reply));
                    }
                    other => panic!("{other:?}"),
                }
            }
            if !asked && !self.shard.has_work() {
                return;
            }
        }
    }

    /// Writes what waits for a session, as a transport with room does.
    pub(crate) fn write(&mut self, session: SessionKey) {
        let Some(outbound) = self.shard.outbound(session) else { return };
        let bytes = outbound.segments().map(|segment| black_box(segment).len()).sum();
        self.shard.handle_written(self.now, session, Written { bytes, blocked: false });
    }

    /// What the control plane says to it.
    pub(crate) fn answer(&mut self, frame: NodeFrame) -> NodeFrame {
        let body = match frame.body {
            NodeBody::Authorize(list) => NodeBody::Authorized(list.iter().map(|ask| Ok(grant(ask))).collect()),
            NodeBody::OpenHomes(list) => NodeBody::HomesOpened(list.into_iter().map(|id| (id, Ok(head(id)))).collect()),
            NodeBody::Append(appends) => NodeBody::Appended(appends.iter().map(|append| self.append(append)).collect()),
            other => panic!("{other:?}"),
        };
        NodeFrame { id: frame.id, body }
    }

    fn append(&mut self, append: &ChannelAppend) -> ChannelAppended {
        let stored = |_| {
            let offset = self.next;
            self.next = offset.next();
            AppendOutcome::Stored(offset)
        };
        ChannelAppended { channel: append.channel, result: Ok(append.messages.iter().map(stored).collect()) }
    }

    /// A session of this user with these subscriptions.
    pub(crate) fn connect(&mut self, user: &str, channels: &[&str], start: Start) -> SessionKey {
        let session = self.shard.handle_connected(self.now).expect("there is room");
        self.shard.handle_frame(self.now, session, &hello(user, channels, start));
        self.settle();
        session
    }
}

/// The number of a channel, which is what its name ends with.
pub(crate) fn channel(name: &str) -> ChannelId {
    let digits = name.rsplit('-').next().and_then(|digits| digits.parse().ok());
    digits.and_then(ChannelId::new).expect("names of channels end with a number")
}

/// Even numbers are durable, odd ones windowed.
fn history(id: ChannelId) -> HistoryClass {
    if id.get().is_multiple_of(2) { HistoryClass::Durable } else { HistoryClass::Windowed }
}

fn head(id: ChannelId) -> Head {
    Head {
        epoch: Epoch::FIRST,
        next_offset: Offset::FIRST,
        first_offset: Offset::FIRST,
        epoch_first_offset: Offset::FIRST,
        history: history(id),
        producers: Vec::new(),
    }
}

fn grant(ask: &Authorize) -> Grant {
    let ChannelRef::Name(name) = &ask.channel else { panic!("asked by name") };
    let channel = channel(name.as_str());
    Grant {
        channel,
        name: name.clone(),
        kind: ChannelKind::Group,
        history: history(channel),
        role: Role::Member,
        can_publish: true,
        slow_consumer: SlowConsumer::Disconnect,
        read: None,
    }
}

/// The first frame of a session.
pub(crate) fn hello(user: &str, channels: &[&str], start: Start) -> Vec<u8> {
    let subscriptions = channels.iter().map(|channel| Subscribe { channel, start }).collect();
    let (version_min, version_max) = (VERSION, VERSION);
    encoded(ClientBody::Hello(Hello {
        version_min,
        version_max,
        features: 0,
        token: user,
        agent: "bench",
        subscriptions,
    }))
}

/// Publishes to one channel, in order, as many as are asked for.
pub(crate) struct Publishes {
    channel: ChannelId,
    sequence: ProducerSequence,
}

impl Publishes {
    pub(crate) fn to(name: &str) -> Self {
        Self { channel: channel(name), sequence: ProducerSequence::FIRST }
    }

    /// The next one, with a body of `body_bytes`.
    pub(crate) fn next(&mut self, body_bytes: usize) -> Vec<u8> {
        let (producer, sequence) = (Producer::new(9).expect("not 0"), self.sequence);
        self.sequence = sequence.next();
        encoded(ClientBody::Publish(Publish {
            channel: self.channel,
            producer,
            sequence,
            body: &vec![b'x'; body_bytes],
        }))
    }
}

fn encoded(body: ClientBody<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_client(&ClientFrame { request: 1, body }, &mut bytes);
    bytes
}
