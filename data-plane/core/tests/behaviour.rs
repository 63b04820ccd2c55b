//! One shard, one behaviour at a time: limits and what reaching them is called, timers to the millisecond, a clean stop.
#![expect(clippy::unwrap_used, reason = "a test throughout")]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "behaviour/desk.rs"]
mod desk;

use std::time::Duration;

use desk::{ATTACH, Desk, Heard, LIVE, SHARD_TICK_MS, after};
use millrace_core::{Config, Drain, Rate};
use millrace_protocol::Code;
use millrace_protocol::client::{ClientBody, Hello, HistoryClass, HistoryRange, HistoryRequest, Subscribe, VERSION};
use millrace_protocol::node::SlowConsumer;

const DURABLE: (HistoryClass, SlowConsumer) = (HistoryClass::Durable, SlowConsumer::Disconnect);

fn desk() -> Desk {
    Desk::new(Config::default())
}

#[test]
fn requests_are_refused_by_name_and_the_session_goes_on() {
    let mut desk = Desk::new(Config { subscriptions_max: 2, ..Config::default() });
    let general = desk.channel("general", DURABLE, &["ann"]);
    let typing = desk.channel("typing", (HistoryClass::None, SlowConsumer::Skip), &["ann"]);
    let third = desk.channel("third", DURABLE, &["ann"]);
    let news = desk.channel("news", DURABLE, &[]);
    desk.reader(news, "ann");
    let ann = desk.open("ann");
    let mut check = |act: &mut dyn FnMut(&mut Desk), expect: Heard| {
        act(&mut desk);
        assert_eq!(desk.heard(ann), [expect]);
    };
    check(&mut |desk| desk.subscribe(ann, 1, "no such channel!", LIVE), Heard::Error(1, Code::Invalid));
    check(&mut |desk| desk.subscribe(ann, 2, &"x".repeat(129), LIVE), Heard::Error(2, Code::TooLarge));
    check(&mut |desk| desk.subscribe(ann, 3, "elsewhere", LIVE), Heard::Error(3, Code::NoAccess));
    check(&mut |desk| desk.publish(ann, 4, general, 1, b"early"), Heard::Error(4, Code::NotSubscribed));
    check(&mut |desk| desk.subscribe(ann, 5, "general", LIVE), Heard::Subscribed(5, general, 0));
    check(&mut |desk| desk.publish(ann, 6, general, 1, &[0; 16 * 1024 + 1]), Heard::Error(6, Code::TooLarge));
    check(&mut |desk| desk.subscribe(ann, 7, "typing", ATTACH), Heard::Subscribed(7, typing, 0));
    let request = HistoryRequest { channel: typing, messages_max: 5, range: HistoryRange::Newest };
    check(&mut |desk| desk.ask(ann, 8, ClientBody::History(request)), Heard::Error(8, Code::NoHistory));
    check(&mut |desk| desk.subscribe(ann, 9, "third", LIVE), Heard::Error(9, Code::TooManySubscriptions));
    check(
        &mut |desk| desk.ask(ann, 10, ClientBody::Unsubscribe { channel: third }),
        Heard::Error(10, Code::NotSubscribed),
    );
    check(
        &mut |desk| desk.ask(ann, 11, ClientBody::Unsubscribe { channel: typing }),
        Heard::Unsubscribed(11, typing, None),
    );
    check(&mut |desk| desk.subscribe(ann, 12, "news", ATTACH), Heard::Subscribed(12, news, 0));
    check(&mut |desk| desk.publish(ann, 13, news, 1, b"mine"), Heard::Error(13, Code::ReadOnly));
    // A message that was refused for good used up no number.
    desk.publish(ann, 14, general, 1, b"small");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 1), Heard::Published(14, 1)]);
    assert_eq!(desk.closed(ann), None);
}

#[test]
fn a_rate_is_kept_and_what_is_behind_waits() {
    let publish_rate = Rate { per_second: 10, burst: 3 };
    let mut desk = Desk::new(Config { publish_rate, ..Config::default() });
    let general = desk.channel("general", DURABLE, &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.heard(ann);
    for sequence in 1..=6 {
        desk.send_publish(ann, u32::try_from(sequence).unwrap() + 10, general, sequence, b"x");
    }
    desk.settle();
    let refused = desk.heard(ann);
    let expect = [
        Heard::Error(14, Code::RateLimited),
        Heard::Error(15, Code::Blocked),
        Heard::Error(16, Code::Blocked),
        Heard::Published(11, 1),
        Heard::Published(12, 2),
        Heard::Published(13, 3),
    ];
    assert_eq!(refused, expect);
    assert!((1..=101).contains(&desk.last_retry_after_ms), "{}", desk.last_retry_after_ms);
    desk.pass(u64::from(desk.last_retry_after_ms));
    desk.publish(ann, 20, general, 4, b"x");
    assert_eq!(desk.heard(ann), [Heard::Published(20, 4)]);
}

/// Refusals count, too: of a channel that is not the session's, that only others may write to, of a message that is too large.
#[test]
fn a_rate_is_kept_for_what_is_refused_anyway() {
    let check = |members: &[&str], body: &[u8], expect: Code| {
        let publish_rate = Rate { per_second: 10, burst: 3 };
        let mut desk = Desk::new(Config { publish_rate, ..Config::default() });
        let general = desk.channel("general", DURABLE, members);
        desk.reader(general, "bob");
        let session = desk.open(members.first().unwrap_or(&"bob"));
        if expect != Code::NotSubscribed {
            desk.subscribe(session, 1, "general", ATTACH);
        }
        desk.heard(session);
        for (request, expect) in (1..=4).zip([expect, expect, expect, Code::RateLimited]) {
            desk.publish(session, request, general, 1, body);
            assert_eq!(desk.heard(session), [Heard::Error(request, expect)]);
        }
        assert!((1..=101).contains(&desk.last_retry_after_ms), "{}", desk.last_retry_after_ms);
    };
    check(&["ann"], b"x", Code::NotSubscribed);
    check(&[], b"x", Code::ReadOnly);
    check(&["ann"], &[0; 16 * 1024 + 1], Code::TooLarge);
}

#[test]
fn a_client_that_asks_and_never_reads_meets_its_end() {
    let mut desk = Desk::new(Config { control_frames_max: 50, ..Config::default() });
    let general = desk.channel("general", DURABLE, &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.heard(ann);
    desk.stop_reading(ann);
    for sequence in 1..=60 {
        desk.publish(ann, 2, general, sequence, b"x");
    }
    assert_eq!(desk.closed(ann), Some(Code::SlowConsumer));
    let queued = desk.queued_bytes(ann);
    assert!(queued < 200, "{queued}: what waited is dropped");
}

#[test]
fn a_slow_reader_costs_its_queue_and_nobody_else_anything() {
    let mut desk = Desk::new(Config { queue_bytes_max: 128 << 10, ..Config::default() });
    let general = desk.channel("general", DURABLE, &["ann", "bob", "cyd"]);
    let ann = desk.open("ann");
    let (slow, quick) = (desk.open("bob"), desk.open("cyd"));
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.subscribe(slow, 1, "general", LIVE);
    desk.subscribe(quick, 1, "general", LIVE);
    desk.heard(slow);
    desk.heard(quick);
    desk.stop_reading(slow);
    for sequence in 1..=20 {
        desk.publish(ann, 1, general, sequence, &[7; 10_000]);
        assert_eq!(desk.heard(quick), [Heard::Message(general, sequence)]);
        assert!(desk.queued_bytes(slow) <= 128 << 10);
    }
    assert_eq!((desk.closed(slow), desk.closed(quick)), (Some(Code::SlowConsumer), None));
    // It comes back and misses nothing.
    let again = desk.open("bob");
    desk.subscribe(again, 1, "general", desk::after(0));
    let mut expect = vec![Heard::Resumed(1, general, 20)];
    expect.extend((1..=20).map(|offset| Heard::Message(general, offset)));
    assert_eq!(desk.heard(again), expect);
}

#[test]
fn a_reader_of_a_skipping_channel_is_told_what_it_missed() {
    let mut desk = Desk::new(Config { queue_bytes_max: 128 << 10, ..Config::default() });
    let general = desk.channel("general", (HistoryClass::Durable, SlowConsumer::Skip), &["ann", "bob"]);
    let (ann, bob) = (desk.open("ann"), desk.open("bob"));
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.subscribe(bob, 1, "general", LIVE);
    desk.heard(bob);
    desk.stop_reading(bob);
    for sequence in 1..=40 {
        desk.publish(ann, 1, general, sequence, &[7; 10_000]);
    }
    desk.start_reading(bob);
    let heard = desk.heard(bob);
    assert_eq!(desk.closed(bob), None);
    let mut next = 1;
    let mut skips = 0;
    for item in &heard {
        match *item {
            Heard::Message(_, offset) => {
                assert_eq!(offset, next);
                next = offset + 1;
            }
            Heard::Skipped(_, first, last) => {
                assert_eq!(first, next);
                next = last + 1;
                skips += 1;
            }
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, skips), (41, 1), "{heard:?}");
}

#[test]
fn a_burst_is_no_slow_reader() {
    let mut desk = Desk::new(Config { queue_bytes_max: 128 << 10, ..Config::default() });
    let general = desk.channel("general", DURABLE, &["ann", "bob"]);
    let (ann, bob) = (desk.open("ann"), desk.open("bob"));
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.subscribe(bob, 1, "general", LIVE);
    desk.heard(bob);
    // Ten times the queue arrives in one turn.
    for sequence in 1..=90 {
        desk.send_publish(ann, 0, general, sequence, &[7; 10_000]);
    }
    desk.settle();
    let expect: Vec<_> = (1..=90).map(|offset| Heard::Message(general, offset)).collect();
    assert_eq!(desk.heard(bob), expect);
    assert_eq!(desk.closed(bob), None);
}

#[test]
fn a_windowed_channel_is_acknowledged_at_once_and_bounded_in_what_it_may_lose() {
    let mut desk = desk();
    let general = desk.channel("general", (HistoryClass::Windowed, SlowConsumer::Skip), &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", LIVE);
    desk.heard(ann);
    desk.publish(ann, 2, general, 1, b"x");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 1), Heard::Published(2, 1)]);
    assert_eq!(desk.stored(general), 0, "written behind");
    desk.pass(300);
    assert_eq!(desk.stored(general), 1);
    desk.publish(ann, 3, general, 1, b"x");
    assert_eq!(desk.heard(ann), [Heard::Duplicate(3, 1)]);
    // With the link cut it goes on for a second.
    desk.cut();
    desk.publish(ann, 4, general, 2, b"x");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 2), Heard::Published(4, 2)]);
    desk.pass(1_000);
    desk.publish(ann, 5, general, 3, b"x");
    assert_eq!(desk.heard(ann), [Heard::Error(5, Code::Unavailable)]);
    desk.link();
    desk.pass(300);
    assert_eq!(desk.stored(general), 2, "nothing of it was lost");
    desk.publish(ann, 6, general, 3, b"x");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 3), Heard::Published(6, 3)]);
}

/// What was acknowledged a moment before the channel is archived is stored all the same, even if the store is busy at first.
#[test]
fn an_archived_windowed_channel_keeps_what_it_acknowledged() {
    let mut desk = desk();
    let general = desk.channel("general", (HistoryClass::Windowed, SlowConsumer::Skip), &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", LIVE);
    desk.publish(ann, 2, general, 1, b"x");
    desk.pass(300);
    desk.publish(ann, 3, general, 2, b"x");
    desk.heard(ann);
    assert_eq!(desk.stored(general), 1, "the second is not written yet");
    desk.refuse_all(true);
    desk.archive(general);
    assert_eq!(desk.heard(ann), [Heard::Unsubscribed(0, general, Some(Code::Archived))]);
    desk.order(4, general, 1);
    assert_eq!(desk.answers(), [(4, Err(Code::Archived))]);
    desk.pass(500);
    assert_eq!(desk.stored(general), 1);
    desk.refuse_all(false);
    desk.pass(500);
    assert_eq!((desk.stored(general), desk.is_given_back(general)), (2, true));
}

#[test]
fn without_the_control_plane_live_subscriptions_stay_and_the_rest_is_refused() {
    let mut desk = desk();
    let general = desk.channel("general", DURABLE, &["ann", "bob"]);
    let (ann, bob) = (desk.open("ann"), desk.open("bob"));
    desk.subscribe(ann, 1, "general", LIVE);
    desk.subscribe(bob, 1, "general", LIVE);
    desk.heard(ann);
    desk.heard(bob);
    desk.cut();
    desk.publish(ann, 2, general, 1, b"x");
    assert_eq!(desk.heard(ann), [Heard::Error(2, Code::Unavailable)]);
    let late = desk.open("ann");
    desk.subscribe(late, 1, "general", LIVE);
    assert_eq!(desk.heard(late), [Heard::Error(1, Code::Unavailable)]);
    // Bob is removed while nobody can tell us.
    desk.remove_member(general, "bob");
    desk.link();
    assert_eq!(desk.heard(bob), [Heard::Unsubscribed(0, general, Some(Code::Removed))]);
    assert_eq!(desk.heard(ann), []);
    desk.publish(ann, 3, general, 1, b"x");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 1), Heard::Published(3, 1)]);
    assert_eq!((desk.heard(bob), desk.closed(bob)), (vec![], None));
}

/// Bodies are the smaller part of short messages: what waits in many channels comes in frames that the link takes all the same.
#[test]
fn short_messages_of_many_channels_fit_the_link() {
    const CHANNELS: u64 = 100;
    const MESSAGES: u64 = 513;
    let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let mut desk = Desk::new(Config { publish_rate: rate, hop_requests_max: 100_000, ..Config::default() });
    let long = "a".repeat(128);
    let mut channels = Vec::new();
    for number in 0..CHANNELS {
        let name = format!("channel{number}");
        let channel = desk.channel(&name, DURABLE, &[&long]);
        let session = desk.open(&long);
        desk.subscribe(session, 1, &name, ATTACH);
        channels.push((channel, session));
    }
    // The first batch of each channel is one message; the rest waits for its outcome, which the cut leaves unknown.
    desk.hold_control();
    for &(channel, session) in &channels {
        desk.publish(session, 1, channel, 1, b"x");
        for sequence in 2..=MESSAGES {
            desk.send_publish(session, 0, channel, sequence, b"x");
            if sequence % 64 == 0 {
                desk.settle();
            }
        }
    }
    desk.settle();
    desk.cut();
    desk.link();
    for (channel, _) in channels {
        assert_eq!(desk.stored(channel), MESSAGES);
    }
}

/// A list on the control link has its limit, and a node may have more homes than that.
#[test]
fn homes_are_given_back_in_batches() {
    let mut config = Config::default();
    config.home.open_batch_max = 8;
    let mut desk = Desk::new(config);
    let ann = desk.open("ann");
    let channels: Vec<_> = (0..30)
        .map(|number| {
            let name = format!("channel{number}");
            let channel = desk.channel(&name, (HistoryClass::Windowed, SlowConsumer::Skip), &["ann"]);
            desk.subscribe(ann, 1, &name, LIVE);
            channel
        })
        .collect();
    assert!(channels.iter().all(|&channel| !desk.is_given_back(channel)));
    desk.drain(Drain { over: Duration::from_secs(1), endpoints: Vec::new() });
    assert!(desk.drained() && channels.iter().all(|&channel| desk.is_given_back(channel)));
}

/// History that waits for a slow reader is not read any more once its membership is over.
/// Short pages that are at hand are not paced turn by turn.
#[test]
fn a_resume_of_many_channels_leaves_in_one_write() {
    let mut desk = desk();
    let names: Vec<String> = (0..40).map(|number| format!("room-{number}")).collect();
    let bob = desk.open("bob");
    for name in &names {
        let channel = desk.channel(name, DURABLE, &["ann", "bob"]);
        desk.subscribe(bob, 2, name, LIVE);
        desk.publish(bob, 3, channel, 1, b"missed");
    }
    let mut resume = || {
        let ann = desk.connect();
        let subscriptions = names.iter().map(|name| Subscribe { channel: name, start: after(0) }).collect();
        let (version_min, version_max) = (VERSION, VERSION);
        let hello = Hello { version_min, version_max, features: 0, token: "ann", agent: "", subscriptions };
        desk.ask(ann, 1, ClientBody::Hello(hello));
        let heard = desk.heard(ann);
        let count = |what: fn(&Heard) -> bool| heard.iter().filter(|heard| what(heard)).count();
        assert_eq!(count(|heard| matches!(heard, Heard::Resumed(1, _, 1))), names.len());
        assert_eq!(count(|heard| matches!(heard, Heard::Message(_, 1))), names.len());
        desk.writes(ann)
    };
    // The welcome does not wait for what the control plane says of the channels.
    assert_eq!(resume(), 2);
    assert_eq!(resume(), 1, "all is known");
}

#[test]
fn a_page_that_waits_goes_with_the_membership() {
    let mut desk = desk();
    let general = desk.channel("general", DURABLE, &["ann", "bob"]);
    let (ann, bob) = (desk.open("ann"), desk.open("bob"));
    desk.subscribe(ann, 1, "general", ATTACH);
    desk.subscribe(bob, 1, "general", ATTACH);
    desk.publish(ann, 2, general, 1, b"for members");
    desk.heard(bob);
    desk.stop_reading(bob);
    let request = HistoryRequest { channel: general, messages_max: 5, range: HistoryRange::Newest };
    desk.ask(bob, 7, ClientBody::History(request));
    desk.ask(bob, 8, ClientBody::History(request));
    assert!(desk.queued_bytes(bob) > 0);
    desk.cut();
    desk.remove_member(general, "bob");
    desk.link();
    desk.start_reading(bob);
    let expect = [
        Heard::Unsubscribed(0, general, Some(Code::Removed)),
        Heard::Error(7, Code::NotSubscribed),
        Heard::Error(8, Code::NotSubscribed),
    ];
    assert_eq!(desk.heard(bob), expect);
}

#[test]
fn a_publish_right_behind_a_long_cut_is_held() {
    let mut desk = desk();
    let general = desk.channel("general", DURABLE, &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", LIVE);
    desk.heard(ann);
    desk.cut();
    desk.pass(20_000);
    // The link is back; the home's request to open is under way.
    desk.hold_control();
    desk.link();
    desk.publish(ann, 2, general, 1, b"x");
    desk.pass(1_000);
    assert_eq!(desk.heard(ann), [], "nobody has waited for long");
    desk.pass(10_000);
    assert_eq!(desk.heard(ann), [Heard::Error(2, Code::Unavailable)]);
}

#[test]
fn publishes_are_timed_until_they_are_acknowledged_and_delivered() {
    let mut desk = desk();
    let general = desk.channel("general", DURABLE, &["ann", "bob"]);
    let (ann, bob) = (desk.open("ann"), desk.open("bob"));
    desk.subscribe(ann, 1, "general", LIVE);
    desk.subscribe(bob, 1, "general", LIVE);
    desk.publish(ann, 2, general, 1, b"x");
    let quick = desk.stats().clone();
    assert_eq!((quick.publish_ack.count(), quick.publish_ack.sum_us()), (1, 0));
    assert_eq!((quick.delivery.count(), quick.delivery.sum_us()), (2, 0), "once for each of them");
    // The outcome of the next one is known 300 ms later. What is refused has no time of its own.
    desk.hold_control();
    desk.publish(ann, 3, general, 2, b"x");
    desk.pass(300);
    desk.cut();
    desk.publish(ann, 4, general, 3, b"x");
    desk.link();
    desk.heard(ann);
    let stats = desk.stats();
    let (ack, delivery) = (stats.publish_ack.since(&quick.publish_ack), stats.delivery.since(&quick.delivery));
    let (ack, delivery) = (ack.expect("it counts on"), delivery.expect("it counts on"));
    assert_eq!((ack.count(), ack.sum_us()), (1, 300_000));
    assert_eq!((delivery.count(), delivery.sum_us()), (2, 600_000));
}

#[test]
fn an_order_over_rest_is_answered_on_its_own_link() {
    let mut desk = desk();
    let general = desk.channel("general", DURABLE, &["ann"]);
    let ann = desk.open("ann");
    desk.subscribe(ann, 1, "general", LIVE);
    desk.heard(ann);
    desk.order(41, general, 1);
    assert_eq!(desk.answers(), [(41, Ok(1))]);
    assert_eq!(desk.heard(ann), [Heard::Message(general, 1)]);
    // The link is cut between the order and its commit.
    desk.hold_control();
    desk.order(42, general, 2);
    desk.cut();
    desk.link();
    desk.release_control();
    assert_eq!(desk.answers(), [], "its link is gone");
    assert_eq!(desk.heard(ann), [Heard::Message(general, 2)], "it was offered again");
    desk.order(42, general, 2);
    assert_eq!(desk.answers(), [(42, Ok(2))], "a retry finds out");
}

#[test]
fn a_clean_stop_spreads_clients_and_stores_everything() {
    let mut desk = desk();
    let windowed = desk.channel("windowed", (HistoryClass::Windowed, SlowConsumer::Skip), &["u0"]);
    let sessions: Vec<_> = (0..100).map(|n| desk.open(&format!("u{n}"))).collect();
    desk.subscribe(sessions[0], 1, "windowed", LIVE);
    desk.publish(sessions[0], 2, windowed, 1, b"x");
    desk.heard(sessions[0]);
    assert_eq!(desk.stored(windowed), 0);
    desk.drain(Drain { over: Duration::from_secs(10), endpoints: vec!["wss://b".into()] });
    assert_eq!(desk.stored(windowed), 1);
    assert!(desk.is_given_back(windowed) && desk.drained());
    let delays: Vec<u32> = sessions
        .iter()
        .map(|&session| match desk.heard(session)[..] {
            [Heard::GoAway(after_ms)] => after_ms,
            ref other => panic!("{other:?}"),
        })
        .collect();
    assert!(delays.iter().all(|&ms| ms <= 10_000));
    for decile in 0..5 {
        let range = decile * 2_000..(decile + 1) * 2_000;
        let count = delays.iter().filter(|ms| range.contains(*ms)).count();
        assert!((5..=40).contains(&count), "{count} of 100 in {range:?}");
    }
    desk.publish(sessions[0], 3, windowed, 2, b"x");
    assert_eq!(desk.heard(sessions[0]), [Heard::Error(3, Code::GoingAway)]);
    assert_eq!(desk.refused_connect(), Some(Code::GoingAway));
    desk.pass(10_000 + 2 * SHARD_TICK_MS);
    assert!(sessions.iter().all(|&session| desk.closed(session) == Some(Code::GoingAway)));
}
