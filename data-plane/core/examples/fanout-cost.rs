//! What a delivery costs a shard, without sockets: decode a publish, append, fan out to the queues of 1,000 sessions, and let a
//! transport that takes everything drain them.
//!
//! `cargo run --release -p millrace-core --example fanout-cost [SUBSCRIBERS] [PUBLISHES PER TURN]`

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use millrace_core::{
    Action, Config, ControlEvent, Now, SessionKey, Shard, ShardIndex, VerifiedToken, VerifyToken, Written,
};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, Publish, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::node::{
    AppendOutcome, ChannelAppended, ChannelKind, Grant, Head, NodeBody, NodeFrame, Role, SlowConsumer,
};
use millrace_protocol::{
    ChannelId, ChannelName, Code, Epoch, Offset, Producer, ProducerSequence, TenantId, Term, UserId,
};

const TURNS: u64 = 2_000;
const BODY_BYTES: usize = 100;

struct Anyone;

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

/// A shard, the control plane's answers, and transports that take everything.
struct Bench {
    shard: Shard<Anyone>,
    now: Now,
    next: Offset,
    written: u64,
}

impl Bench {
    fn turn(&mut self) {
        loop {
            self.shard.end_turn(self.now);
            let mut asked = false;
            while let Some(action) = self.shard.poll_action() {
                match action {
                    Action::Flush(session) => self.write(session),
                    Action::Control(frame) => {
                        asked = true;
                        let body = self.answer(frame.body);
                        let reply = NodeFrame { id: frame.id, body };
                        self.shard.handle_control(self.now, ControlEvent::Frame(reply));
                    }
                    Action::Close { session, code, .. } => panic!("{session:?} ends with {code}"),
                    Action::Listen(session) => unreachable!("{session:?} has no lanes"),
                    Action::SignedIn(_) | Action::Drained => {}
                }
            }
            if !asked && !self.shard.has_work() {
                return;
            }
        }
    }

    fn write(&mut self, session: SessionKey) {
        let Some(outbound) = self.shard.outbound(session) else { return };
        let mut bytes = 0;
        for segment in outbound.segments() {
            bytes += black_box(segment).len();
        }
        self.written += bytes as u64;
        self.shard.handle_written(self.now, session, Written { bytes, blocked: false });
    }

    fn answer(&mut self, body: NodeBody) -> NodeBody {
        let channel = channel();
        match body {
            NodeBody::Authorize(list) => NodeBody::Authorized(list.iter().map(|_| Ok(grant())).collect()),
            NodeBody::OpenHomes(_) => {
                let head = Head {
                    epoch: Epoch::FIRST,
                    next_offset: self.next,
                    first_offset: Offset::FIRST,
                    epoch_first_offset: Offset::FIRST,
                    history: HistoryClass::Durable,
                    producers: Vec::new(),
                };
                NodeBody::HomesOpened(vec![(channel, Ok(head))])
            }
            NodeBody::Append(appends) => NodeBody::Appended(
                appends
                    .iter()
                    .map(|append| {
                        let stored = |_| {
                            let offset = self.next;
                            self.next = offset.next();
                            AppendOutcome::Stored(offset)
                        };
                        ChannelAppended { channel, result: Ok(append.messages.iter().map(stored).collect()) }
                    })
                    .collect(),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn connect(&mut self, user: &str, start: Start) -> SessionKey {
        let session = self.shard.handle_connected(self.now).expect("there is room");
        let subscriptions = vec![Subscribe { channel: "bench", start }];
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            token: user,
            agent: "bench",
            subscriptions,
        };
        let frame = encoded(ClientBody::Hello(hello));
        self.shard.handle_frame(self.now, session, &frame);
        session
    }
}

fn channel() -> ChannelId {
    ChannelId::new(1024).expect("not 0")
}

fn grant() -> Grant {
    Grant {
        channel: channel(),
        name: ChannelName::new("bench").expect("a name"),
        kind: ChannelKind::Group,
        history: HistoryClass::Durable,
        role: Role::Member,
        can_publish: true,
        slow_consumer: SlowConsumer::Disconnect,
        read: None,
    }
}

fn encoded(body: ClientBody<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_client(&ClientFrame { request: 1, body }, &mut bytes);
    bytes
}

/// Time that this thread has run, which other programs on the machine do not spoil; the clock where there is no such figure.
fn cpu_time(began: Instant) -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ran = schedstat.split(' ').next().and_then(|ns| ns.parse().ok());
    ran.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let subscribers = arguments.next().unwrap_or(1_000);
    let per_turn = arguments.next().unwrap_or(1);

    let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let config = Config { sessions_max: u32::MAX, ..Config::default() };
    let shard = Shard::new(now, config, ShardIndex(0), 1, 7, Anyone).expect("the defaults hold");
    let mut bench = Bench { shard, now, next: Offset::FIRST, written: 0 };
    bench.shard.handle_control(now, ControlEvent::LinkUp { term: Term(1) });
    for n in 0..subscribers {
        bench.connect(&format!("user-{n}"), Start::Live);
        bench.turn();
    }
    let publisher = bench.connect("publisher", Start::Attach);
    bench.turn();

    let producer = Producer::new(9).expect("not 0");
    let body = [b'x'; BODY_BYTES];
    let mut sequence = ProducerSequence::FIRST;
    let mut frames = Vec::new();
    for _ in 0..TURNS * per_turn {
        frames.push(encoded(ClientBody::Publish(Publish { channel: channel(), producer, sequence, body: &body })));
        sequence = sequence.next();
    }

    let before = bench.shard.stats().deliveries_total;
    let began = Instant::now();
    let cpu_before = cpu_time(began);
    for turn in frames.chunks(usize::try_from(per_turn).expect("a count")) {
        // Virtual time goes on, so that no rate limit is met.
        bench.now = bench.now.plus(Duration::from_millis(per_turn));
        for frame in turn {
            bench.shard.handle_frame(bench.now, publisher, frame);
        }
        bench.turn();
    }
    let took = cpu_time(began).saturating_sub(cpu_before);
    let deliveries = bench.shard.stats().deliveries_total - before;
    assert_eq!(deliveries, TURNS * per_turn * subscribers);
    println!(
        "{subscribers} subscribers, {per_turn} publish(es) per turn: {} ns of CPU per delivery, {} µs per turn, {} bytes each",
        took.as_nanos() / u128::from(deliveries),
        took.as_micros() / u128::from(TURNS),
        bench.written / deliveries,
    );
}
