//! What an idle session costs, counted by the allocator: the slope over thousands of sessions, so that what a shard costs
//! without any does not matter.
#![expect(unsafe_code, reason = "a global allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test throughout")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_core::{
    Action, Config, ControlEvent, Now, SessionKey, Shard, ShardIndex, VerifiedToken, VerifyToken, Written,
};
use millrace_protocol::client::{
    ClientBody, ClientFrame, Hello, HistoryClass, Start, Subscribe, VERSION, encode_client,
};
use millrace_protocol::node::{
    Authorize, ChannelKind, ChannelRef, Grant, Head, NodeBody, NodeFrame, Role, SlowConsumer,
};
use millrace_protocol::{ChannelId, Code, Epoch, Offset, TenantId, Term, UserId};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// As malloc does it: 8 bytes in front, 16 at a time.
fn cost(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(cost(layout), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(cost(layout), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

struct Anyone;

impl VerifyToken for Anyone {
    fn verify(&mut self, token: &str, unix_ms: i64) -> Result<VerifiedToken, Code> {
        let (tenant, user) = (TenantId::new(1).unwrap(), UserId::new(token).unwrap());
        Ok(VerifiedToken { tenant, user, id: token.into(), key: 0, issued_ms: 0, expires_ms: unix_ms + 3_600_000 })
    }

    fn keys(&self) -> HashSet<u64> {
        HashSet::from([0])
    }
}

fn answer(body: NodeBody) -> NodeBody {
    match body {
        NodeBody::Authorize(list) => NodeBody::Authorized(list.iter().map(|ask| Ok(grant(ask))).collect()),
        NodeBody::OpenHomes(list) => {
            let head = |id| {
                let head = Head {
                    epoch: Epoch::FIRST,
                    next_offset: Offset::FIRST,
                    first_offset: Offset::FIRST,
                    epoch_first_offset: Offset::FIRST,
                    history: HistoryClass::Durable,
                    producers: Vec::new(),
                };
                (id, Ok(head))
            };
            NodeBody::HomesOpened(list.into_iter().map(head).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn grant(ask: &Authorize) -> Grant {
    let ChannelRef::Name(name) = &ask.channel else { panic!("asked by name") };
    Grant {
        channel: ChannelId::new(name.as_str().trim_start_matches("channel-").parse().unwrap()).unwrap(),
        name: name.clone(),
        kind: ChannelKind::Group,
        history: HistoryClass::Durable,
        role: Role::Member,
        can_publish: true,
        slow_consumer: SlowConsumer::Disconnect,
        read: None,
    }
}

/// Connects a session with one subscription and lets everything settle.
fn connect(shard: &mut Shard<Anyone>, now: Now, user: u64, channel: u64) -> SessionKey {
    let session = shard.handle_connected(now).unwrap();
    let (user, name) = (format!("user-{user}"), format!("channel-{channel}"));
    let subscriptions = vec![Subscribe { channel: &name, start: Start::Live }];
    let (version_min, version_max) = (VERSION, VERSION);
    let hello = Hello { version_min, version_max, features: 0, token: &user, agent: "memory", subscriptions };
    let mut frame = Vec::new();
    encode_client(&ClientFrame { request: 1, body: ClientBody::Hello(hello) }, &mut frame);
    shard.handle_frame(now, session, &frame);
    let mut asked = true;
    while asked || shard.has_work() {
        asked = false;
        shard.end_turn(now);
        while let Some(action) = shard.poll_action() {
            match action {
                Action::Flush(session) => {
                    let bytes = shard.outbound(session).unwrap().queued_bytes();
                    shard.handle_written(now, session, Written { bytes, blocked: false });
                }
                Action::Control(frame) => {
                    asked = true;
                    let reply = NodeFrame { id: frame.id, body: answer(frame.body) };
                    shard.handle_control(now, ControlEvent::Frame(reply));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    session
}

/// Bytes for each session, when `channel_of` says who is where.
fn slope(channel_of: fn(u64) -> u64) -> usize {
    let mut now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let empty = ALLOCATED.load(Ordering::Relaxed);
    let mut shard = Shard::new(now, Config::default(), ShardIndex(0), 1, 7, Anyone).unwrap();
    shard.handle_control(now, ControlEvent::LinkUp { term: Term(1) });
    let (few, many) = (2_000, 12_000);
    let mut sessions = Vec::with_capacity(usize::try_from(many).unwrap());
    let mut before = 0;
    for n in 0..many {
        if n == few {
            before = ALLOCATED.load(Ordering::Relaxed);
        }
        // Connections come over time, as timers see it.
        now = now.plus(Duration::from_millis(1));
        sessions.push(connect(&mut shard, now, n, channel_of(n)));
    }
    let after = ALLOCATED.load(Ordering::Relaxed);
    assert_eq!(shard.stats().subscriptions, many);
    for session in sessions {
        shard.handle_disconnected(now, session);
    }
    let left = |shard: &mut Shard<Anyone>, now: Now| {
        shard.handle_timeout(now);
        shard.end_turn(now);
        while shard.poll_action().is_some() {}
    };
    left(&mut shard, now);
    left(&mut shard, now.plus(Duration::from_secs(100)));
    assert!(shard.is_idle());
    drop(shard);
    assert!(ALLOCATED.load(Ordering::Relaxed).abs_diff(empty) < 4096, "nothing is leaked");
    (after - before) / usize::try_from(many - few).unwrap()
}

/// One test: the counter is the process's.
#[test]
fn an_idle_session_stays_below_a_kibibyte() {
    let shared = slope(|_| 1_024);
    let dozens = slope(|n| 1_024 + n / 24);
    println!("{shared} B with one subscription to a shared channel, {dozens} B in channels of 24, homes included");
    assert!(shared <= 700, "{shared}");
    assert!(dozens <= 1024, "{dozens}");
}
