//! What operators ask: figures, who is here and how far, what went wrong lately, and a drain.

use millrace_data::{Config, DataNode};
use millrace_protocol::client::Start;
use millrace_protocol::node::{
    HistoryClass, HomeState, Incident, IncidentKind, Inspect, InspectSubject, Inspected, NodeBody, NodeFigures,
    SlowConsumer, SubscriptionState,
};
use millrace_protocol::{ChannelId, ChannelName, Code, Epoch, Position, SessionId, TenantId, UserId};

use crate::support::{Client, Control, Frame, Hello, PATIENCE, config, door, node, stop, until};

const BODY: [u8; 8 << 10] = [7; 8 << 10];

fn figures(control: &Control) -> NodeFigures {
    match control.ask(NodeBody::Report) {
        NodeBody::Reported(figures) => figures,
        other => panic!("{other:?}"),
    }
}

fn inspect(control: &Control, subject: InspectSubject, rows_max: u16) -> Inspected {
    let tenant = TenantId::new(1).expect("not 0");
    match control.ask(NodeBody::Inspect(Inspect { tenant, rows_max, subject })) {
        NodeBody::Inspected(inspected) => inspected,
        other => panic!("{other:?}"),
    }
}

fn user(control: &Control, name: &str) -> Inspected {
    inspect(control, InspectSubject::User(UserId::new(name).expect("name")), 50)
}

fn of_channel(control: &Control, channel: ChannelId, name: &str, rows_max: u16) -> Inspected {
    inspect(control, InspectSubject::Channel(channel, ChannelName::new(name).expect("name")), rows_max)
}

/// Opens a session and gives its id.
fn connect(node: &DataNode, control: &Control, name: &str) -> (Client, SessionId) {
    let mut client = Client::open(door(node));
    client.hello(Hello { token: &control.token(name), subscriptions: Vec::new() });
    let id = client.wait("welcome", |frame| match frame {
        Frame::Welcome { session, .. } => Some(*session),
        _ => None,
    });
    (client, id)
}

/// The newest incident of a user of this kind, once there is one.
fn incident(control: &Control, name: &str, kind: IncidentKind) -> Incident {
    let mut found = None;
    until("the incident is told", || {
        found = user(control, name).incidents.into_iter().find(|incident| incident.kind == kind);
        found.is_some()
    });
    found.expect("just seen")
}

#[test]
fn figures_are_of_the_whole_node() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann", "bob"]);
    let node = node(&control, config());
    let (mut ann, _) = connect(&node, &control, "ann");
    let (mut bob, _) = connect(&node, &control, "bob");
    ann.subscribe("general", Start::Live);
    bob.subscribe("general", Start::Live);
    let request = ann.publish(channel, 5, 1, b"x");
    ann.acknowledged(request);
    bob.message();
    ann.message();

    let told = figures(&control);
    let sum = |of: fn(&millrace_protocol::node::ShardFigures) -> u64| told.shards.iter().map(of).sum::<u64>();
    assert_eq!((told.connections, told.draining, told.shards.len()), (2, false, 2));
    assert!(told.started_ms > 0 && told.resident_bytes > 0 && !told.version.is_empty(), "{told:?}");
    assert_eq!(sum(|shard| shard.slots.into()), 1024);
    assert_eq!((sum(|shard| shard.sessions.into()), sum(|shard| shard.subscriptions.into())), (2, 2));
    assert_eq!((sum(|shard| shard.publishes), sum(|shard| shard.accepted), sum(|shard| shard.deliveries)), (1, 1, 2));
    assert!(told.shards.iter().all(|shard| shard.answers && shard.cpu_us > 0 && shard.turns > 0), "{told:?}");
    assert!(told.shards.iter().all(|shard| shard.ring_slots > 0 && shard.ring_items <= shard.ring_slots), "{told:?}");
    stop(node);
}

#[test]
fn a_user_is_found_with_sessions_positions_and_what_went_wrong() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann"]);
    control.channel("private", HistoryClass::Durable, &["bob"]);
    let node = node(&control, config());
    let (mut client, id) = connect(&node, &control, "ann");
    client.subscribe("general", Start::Live);
    let (idle, _) = connect(&node, &control, "ann");
    for sequence in 1..=3 {
        let request = client.publish(channel, 5, sequence, b"x");
        client.acknowledged(request);
        client.message();
    }
    client.subscribe_refused("private", Code::NoAccess);

    let found = user(&control, "ann");
    assert_eq!((found.sessions.len(), found.sessions_total, found.shards_silent, found.home), (2, 2, 0, None));
    let session = found.sessions.iter().find(|session| session.id == id).expect("the id that the client was told");
    assert_eq!(session.remote, client.stream.local_addr().expect("address").to_string());
    assert_eq!((session.user.as_str(), session.agent.as_str()), ("ann", "test"));
    assert!(session.connected_ms > 0 && session.heard_ms >= session.connected_ms, "{session:?}");
    assert_eq!((session.subscriptions.len(), session.subscriptions_total), (1, 1));
    let subscription = &session.subscriptions[0];
    assert_eq!((subscription.channel, subscription.name.as_str()), (channel, "general"));
    assert_eq!((subscription.state, subscription.epoch, subscription.offset), (SubscriptionState::Live, 1, 3));
    assert!(subscription.can_publish);
    let limited = inspect(&control, InspectSubject::User(UserId::new("ann").expect("name")), 1);
    assert_eq!((limited.sessions.len(), limited.sessions_total), (1, 2));

    let refused = incident(&control, "ann", IncidentKind::Refused);
    assert_eq!((refused.code, refused.session, refused.count), (Code::NoAccess.number(), id, 1));
    assert_eq!(refused.channels[0].name, "private");
    assert_eq!((refused.channels[0].channel, refused.channels[0].epoch), (None, 0));

    control.remove_member(channel, "ann");
    client.wait("the end of the subscription", |frame| matches!(frame, Frame::Unsubscribed { .. }).then_some(()));
    let unsubscribed = incident(&control, "ann", IncidentKind::Unsubscribed);
    assert_eq!((unsubscribed.code, unsubscribed.channels[0].last_offset), (Code::Removed.number(), 3));

    drop(idle);
    let ended = incident(&control, "ann", IncidentKind::Ended);
    assert_eq!((ended.code, ended.channels.len()), (0, 0));
    assert_ne!(ended.session, id);
    until("one session is left", || user(&control, "ann").sessions_total == 1);
    assert_eq!(user(&control, "nobody"), Inspected::default());
    stop(node);
}

#[test]
fn a_channel_is_found_with_its_home_and_everybody_in_it() {
    let control = Control::new();
    let channel = control.channel("general", HistoryClass::Durable, &["ann", "bob"]);
    let unused = control.channel("unused", HistoryClass::Durable, &["ann"]);
    let node = node(&control, config());
    let (mut ann, _) = connect(&node, &control, "ann");
    ann.subscribe("general", Start::Live);
    let (mut bob, bobs) = connect(&node, &control, "bob");
    bob.subscribe("general", Start::Attach);
    let request = bob.publish(channel, 5, 1, b"x");
    bob.acknowledged(request);
    ann.message();

    let found = of_channel(&control, channel, "general", 50);
    let home = found.home.expect("it is in memory");
    assert_eq!((home.state, home.epoch, home.next_offset, home.first_offset), (HomeState::Open, 1, 2, 1));
    assert_eq!((home.history, home.waiting), (HistoryClass::Durable, 0));
    let mut rows: Vec<_> = found
        .sessions
        .iter()
        .map(|session| (session.user.as_str(), session.subscriptions[0].state, session.subscriptions[0].offset))
        .collect();
    rows.sort_unstable_by_key(|row| row.0);
    assert_eq!(rows, [("ann", SubscriptionState::Live, 1), ("bob", SubscriptionState::Attached, 0)]);
    let none = of_channel(&control, unused, "unused", 50);
    assert_eq!((none.sessions.len(), none.home), (0, None));

    // A position of an epoch that is no more: the client is told to read history itself.
    let (mut back, id) = connect(&node, &control, "ann");
    let old = Position { epoch: Epoch::new(9).expect("not 0"), offset: 7 };
    back.subscribe("general", Start::After(old));
    until("the reload is told", || {
        let found = of_channel(&control, channel, "general", 50);
        let reload = found.incidents.iter().find(|incident| incident.kind == IncidentKind::Reload);
        reload.is_some_and(|incident| {
            let of = &incident.channels[0];
            (incident.session, of.epoch, of.last_offset) == (id, 9, 7)
        })
    });
    // Who ended says where it stood.
    drop(bob);
    until("the end is told", || {
        let found = of_channel(&control, channel, "general", 50);
        found.incidents.iter().any(|incident| incident.kind == IncidentKind::Ended && incident.session == bobs)
    });
    stop(node);
}

#[test]
fn who_reads_too_slowly_is_told_about() {
    let control = Control::new();
    let channel = control.channel_with("stream", HistoryClass::Durable, SlowConsumer::Skip, &["ann", "bob"]);
    let node = node(&control, Config { linger: PATIENCE, ..config() });
    let (mut slow, id) = connect(&node, &control, "ann");
    slow.subscribe("stream", Start::Live);
    let (mut writer, _) = connect(&node, &control, "bob");
    writer.subscribe("stream", Start::Attach);
    let mut sequence = 0;
    let skipped = loop {
        for _ in 0..64 {
            sequence += 1;
            let request = writer.publish(channel, 5, sequence, &BODY);
            writer.acknowledged(request);
        }
        let found = user(&control, "ann");
        let skipped = found.incidents.into_iter().find(|incident| incident.kind == IncidentKind::Skipped);
        if let Some(skipped) = skipped {
            assert!(found.sessions[0].queued_bytes > 0 && found.sessions[0].stalled_ms > 0, "{:?}", found.sessions);
            break skipped;
        }
        assert!(sequence < 20_000, "160 MB and nobody is slow");
    };
    assert_eq!((skipped.session, skipped.count, skipped.channels.len()), (id, 1, 1));
    let of = &skipped.channels[0];
    assert!(of.first_offset > 1 && of.first_offset <= of.last_offset && of.last_offset <= sequence, "{of:?}");
    // It goes on growing as one thing, not as one for each message.
    for _ in 0..256 {
        sequence += 1;
        let request = writer.publish(channel, 5, sequence, &BODY);
        writer.acknowledged(request);
    }
    let again = user(&control, "ann").incidents;
    assert_eq!(again.iter().filter(|incident| incident.kind == IncidentKind::Skipped).count(), 1, "{again:?}");
    drop((slow, writer));
    stop(node);
}

#[test]
fn a_drain_can_be_ordered_and_the_node_says_when_it_has_ended() {
    let control = Control::new();
    let channel = control.channel("stream", HistoryClass::Windowed, &["ann"]);
    let node = node(&control, config());
    let (mut client, _) = connect(&node, &control, "ann");
    client.subscribe("stream", Start::Live);
    let request = client.publish(channel, 5, 1, b"x");
    client.acknowledged(request);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let running = runtime.block_on(async { tokio::time::timeout(std::time::Duration::ZERO, node.ended()).await });
    assert!(running.is_err(), "it runs");

    assert_eq!(control.ask(NodeBody::Drain { over_ms: 100 }), NodeBody::Draining);
    client.wait("go away", |frame| matches!(frame, Frame::GoAway { .. }).then_some(()));
    assert_eq!(client.closed_with(), Some(Code::GoingAway));
    runtime.block_on(async { tokio::time::timeout(PATIENCE, node.ended()).await }).expect("it ends");
    node.join();
    assert_eq!(control.stored(channel).len(), 1, "what was delivered is stored");
}
