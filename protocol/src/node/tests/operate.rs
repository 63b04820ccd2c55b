//! Frames for operators.

use std::time::Duration;

use super::*;
use crate::id::SessionId;

fn figures() -> impl Strategy<Value = NodeBody> {
    let latency = || {
        vec((0_u64..40_000_000, 0_u64..1_000_000), 0..5).prop_map(|records| {
            let mut counts = LatencyCounts::default();
            for (us, times) in records {
                counts.record(Duration::from_micros(us), times);
            }
            counts
        })
    };
    let numbers = any::<([u32; 6], [u64; 15], bool, u16)>();
    let shard = (numbers, latency(), latency()).prop_map(|(numbers, publish_ack, delivery)| {
        let (small, large, answers, slots) = numbers;
        let [sessions, subscriptions, channels, homes, ring_items, ring_slots] = small;
        let [queued_bytes, cpu_us, turns, deliveries, publishes, accepted, written_bytes, opened, closed, ..] = large;
        let [.., refused, slow_consumers, skipped, resumes, reloads, ring_full] = large;
        ShardFigures {
            answers,
            slots,
            sessions,
            subscriptions,
            channels,
            homes,
            queued_bytes,
            ring_items,
            ring_slots,
            cpu_us,
            turns,
            deliveries,
            publishes,
            accepted,
            written_bytes,
            opened,
            closed,
            refused,
            slow_consumers,
            skipped,
            resumes,
            reloads,
            ring_full,
            publish_ack,
            delivery,
        }
    });
    (text(), any::<(i64, bool, u32, u32, u64, u64)>(), vec(shard, 0..5)).prop_map(|(version, numbers, shards)| {
        let (started_ms, draining, connections, connections_max, cpu_ms, resident_bytes) = numbers;
        NodeBody::Reported(NodeFigures {
            version,
            started_ms,
            draining,
            connections,
            connections_max,
            cpu_ms,
            resident_bytes,
            shards,
        })
    })
}

fn session() -> impl Strategy<Value = SessionView> {
    let state = select(vec![
        SubscriptionState::Joining,
        SubscriptionState::Replaying,
        SubscriptionState::Live,
        SubscriptionState::CatchingUp,
        SubscriptionState::Attached,
    ]);
    let subscription =
        (channel(), name(), state, any::<(u32, u64, bool)>()).prop_map(|(channel, name, state, rest)| {
            let (epoch, offset, can_publish) = rest;
            SubscriptionView { channel, name, state, epoch, offset, can_publish }
        });
    let numbers = any::<([u8; 16], u16, [i64; 3], [u32; 3])>();
    (numbers, user(), text(), text(), vec(subscription, 0..4)).prop_map(
        |((id, shard, times, sizes), user, remote, agent, subscriptions)| SessionView {
            id: SessionId(id),
            user,
            remote,
            agent,
            shard,
            transport: Transport::WebSocket,
            connected_ms: times[0],
            heard_ms: times[1],
            token_expires_ms: times[2],
            queued_bytes: sizes[0],
            stalled_ms: sizes[1],
            subscriptions,
            subscriptions_total: sizes[2],
        },
    )
}

fn incident() -> impl Strategy<Value = Incident> {
    let kind = select(vec![
        IncidentKind::Ended,
        IncidentKind::Refused,
        IncidentKind::Unsubscribed,
        IncidentKind::Reload,
        IncidentKind::Skipped,
    ]);
    let of = (option::of(channel()), text(), any::<(u32, u64, u64)>()).prop_map(|(channel, name, place)| {
        let (epoch, first_offset, last_offset) = place;
        IncidentChannel { channel, name, epoch, first_offset, last_offset }
    });
    (any::<(i64, u16, [u8; 16], u32)>(), kind, user(), text(), vec(of, 0..=INCIDENT_CHANNELS_MAX)).prop_map(
        |((time_ms, code, session, count), kind, user, reason, channels)| Incident {
            time_ms,
            kind,
            code,
            session: SessionId(session),
            user,
            reason,
            count,
            channels,
        },
    )
}

fn inspected() -> impl Strategy<Value = NodeBody> {
    let state = select(vec![
        HomeState::Opening,
        HomeState::CatchingUp,
        HomeState::Open,
        HomeState::Archived,
        HomeState::Closing,
    ]);
    let home = (any::<(u16, u32, u64, u64, u32, u16)>(), state, history_class()).prop_map(|(rest, state, history)| {
        let (shard, epoch, next_offset, first_offset, waiting, shards) = rest;
        HomeView { shard, state, history, epoch, next_offset, first_offset, waiting, shards }
    });
    (vec(session(), 0..4), vec(incident(), 0..4), any::<(u32, bool, u16)>(), option::of(home)).prop_map(
        |(sessions, incidents, (sessions_total, incidents_more, shards_silent), home)| {
            NodeBody::Inspected(Inspected { sessions, sessions_total, incidents, incidents_more, shards_silent, home })
        },
    )
}

/// Every member that is for operators.
pub(super) fn bodies() -> impl Strategy<Value = NodeBody> {
    let subject = prop_oneof![
        user().prop_map(InspectSubject::User),
        (channel(), name()).prop_map(|(number, name)| InspectSubject::Channel(number, name)),
    ];
    prop_oneof![
        Just(NodeBody::Report),
        figures(),
        (tenant(), any::<u16>(), subject).prop_map(|(tenant, rows_max, subject)| NodeBody::Inspect(Inspect {
            tenant,
            rows_max,
            subject
        })),
        inspected(),
        any::<u32>().prop_map(|over_ms| NodeBody::Drain { over_ms }),
        Just(NodeBody::Draining),
    ]
}

#[test]
fn lists_within_lists_are_bounded() {
    let of = IncidentChannel { channel: None, name: "plans".into(), epoch: 0, first_offset: 0, last_offset: 0 };
    let incident = |channels: usize| Incident {
        time_ms: 1,
        kind: IncidentKind::Ended,
        code: 0,
        session: SessionId([7; 16]),
        user: UserId::new("alice").unwrap(),
        reason: String::new(),
        count: 1,
        channels: vec![of.clone(); channels],
    };
    let check = |channels: usize, expect: Result<(), Code>| {
        let body = NodeBody::Inspected(Inspected { incidents: vec![incident(channels)], ..Inspected::default() });
        let decoded = decode(bytes_of(&NodeFrame { id: 1, body }));
        assert_eq!(decoded.map(drop).map_err(|error| error.code()), expect, "{channels}");
    };
    check(INCIDENT_CHANNELS_MAX, Ok(()));
    check(INCIDENT_CHANNELS_MAX + 1, Err(Code::TooLarge));
}
