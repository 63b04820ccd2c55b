//! Read positions on one shard: marks go together, every device of the user hears, nothing goes back.
#![expect(clippy::unwrap_used, reason = "a test throughout")]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "behaviour/desk.rs"]
mod desk;

use std::time::Duration;

use desk::{ATTACH, Desk, Heard, LIVE, SHARD_TICK_MS, after};
use millrace_core::{Config, Drain};
use millrace_protocol::client::{ClientBody, HistoryClass};
use millrace_protocol::node::SlowConsumer;
use millrace_protocol::{ChannelId, Code, Epoch, Position};

const DURABLE: (HistoryClass, SlowConsumer) = (HistoryClass::Durable, SlowConsumer::Disconnect);
const WINDOWED: (HistoryClass, SlowConsumer) = (HistoryClass::Windowed, SlowConsumer::Disconnect);
const NOTHING: (HistoryClass, SlowConsumer) = (HistoryClass::None, SlowConsumer::Disconnect);

/// Longer than marks wait.
const SOON_MS: u64 = 200 + 2 * SHARD_TICK_MS;

fn desk() -> Desk {
    Desk::new(Config::default())
}

/// A channel of ann's and bob's with so many messages.
fn general(desk: &mut Desk, messages: u64) -> ChannelId {
    let general = desk.channel("general", DURABLE, &["ann", "bob"]);
    let writer = desk.open("bob");
    desk.subscribe(writer, 2, "general", ATTACH);
    for sequence in 1..=messages {
        desk.publish(writer, 0, general, sequence, b"hello");
    }
    general
}

#[test]
fn every_device_of_the_user_hears_and_nobody_else() {
    let mut desk = desk();
    let general = general(&mut desk, 5);
    let (phone, laptop, old) = (desk.open_reading("ann"), desk.open_reading("ann"), desk.open("ann"));
    let bob = desk.open_reading("bob");
    for session in [phone, laptop, old, bob] {
        desk.subscribe(session, 2, "general", LIVE);
    }
    let subscribed = Heard::Subscribed(2, general, 5);
    assert_eq!(desk.heard(phone), [subscribed.clone(), Heard::Read(0, general, 0)]);
    assert_eq!(
        desk.heard(old),
        std::slice::from_ref(&subscribed),
        "who did not ask for the feature hears nothing of it"
    );
    desk.heard(laptop);
    desk.heard(bob);

    desk.mark_read(phone, 3, general, 4);
    assert_eq!(desk.heard(phone), [], "the answer comes when it is stored");
    desk.pass(SOON_MS);
    assert_eq!(desk.read_of(general, "ann"), Some(4));
    assert_eq!(desk.heard(phone), [Heard::Read(3, general, 4)], "once");
    assert_eq!(desk.heard(laptop), [Heard::Read(0, general, 4)]);
    assert_eq!((desk.heard(old), desk.heard(bob)), (vec![], vec![]));

    // A device that comes later, and one that comes back.
    let tablet = desk.open_reading("ann");
    desk.subscribe(tablet, 2, "general", ATTACH);
    assert_eq!(desk.heard(tablet), [subscribed, Heard::Read(0, general, 4)]);
    desk.subscribe(laptop, 4, "general", after(3));
    let resumed = [Heard::Resumed(4, general, 5), Heard::Read(0, general, 4)];
    assert_eq!(desk.heard(laptop)[..2], resumed);
}

#[test]
fn marks_that_come_together_are_stored_as_one() {
    let mut desk = desk();
    let general = general(&mut desk, 50);
    let (phone, laptop) = (desk.open_reading("ann"), desk.open_reading("ann"));
    desk.subscribe(phone, 2, "general", LIVE);
    desk.subscribe(laptop, 2, "general", LIVE);
    desk.heard(phone);
    desk.heard(laptop);
    for offset in 1..=40 {
        desk.mark_read(phone, 100 + u32::try_from(offset).unwrap(), general, offset);
    }
    desk.mark_read(laptop, 7, general, 30);
    desk.mark_read(laptop, 0, general, 35);
    desk.pass(SOON_MS);
    assert_eq!(desk.marks_sent, 1);
    let expect: Vec<_> = (101..=140).map(|request| Heard::Read(request, general, 40)).collect();
    assert_eq!(desk.heard(phone), expect);
    assert_eq!(desk.heard(laptop), [Heard::Read(7, general, 40)], "request 0 asks for no answer");
    desk.mark_read(laptop, 0, general, 41);
    desk.pass(SOON_MS);
    let told = [Heard::Read(0, general, 41)];
    assert_eq!(desk.heard(laptop), told, "who asks for no answer hears of it as everybody does");
    assert_eq!(desk.heard(phone), told);

    // What moves nothing is answered at once, and costs the control plane nothing.
    desk.mark_read(phone, 8, general, 12);
    desk.mark_read(phone, 0, general, 40);
    desk.mark_read(laptop, 9, general, 0);
    assert_eq!(desk.heard(phone), [Heard::Read(8, general, 41)]);
    assert_eq!(desk.heard(laptop), [Heard::Read(9, general, 41)]);
    desk.pass(SOON_MS);
    assert_eq!(desk.marks_sent, 2);
}

/// A slip of one device costs the others nothing.
#[test]
fn a_mark_ahead_takes_no_other_with_it() {
    let mut desk = desk();
    let general = general(&mut desk, 9);
    let (phone, laptop, tablet) = (desk.open_reading("ann"), desk.open_reading("ann"), desk.open_reading("ann"));
    for session in [phone, laptop, tablet] {
        desk.subscribe(session, 2, "general", LIVE);
        desk.heard(session);
    }
    desk.mark_read(laptop, 3, general, 4);
    desk.mark_read(phone, 3, general, 99);
    desk.mark_read(laptop, 4, general, 7);
    desk.mark_read(tablet, 3, general, 50);
    desk.mark_read(phone, 4, general, 99);
    desk.pass(3 * SOON_MS);
    let (ahead, told) = (|request| Heard::Error(request, Code::PositionAhead), Heard::Read(0, general, 7));
    assert_eq!(desk.heard(phone), [ahead(3), ahead(4), told.clone()]);
    assert_eq!(desk.heard(tablet), [ahead(3), told]);
    assert_eq!(desk.heard(laptop), [Heard::Read(3, general, 7), Heard::Read(4, general, 7)]);
    assert_eq!(desk.marks_sent, 3);
    // Their requests are no longer counted as waiting.
    desk.mark_read(phone, 5, general, 9);
    desk.pass(SOON_MS);
    assert_eq!(desk.heard(phone), [Heard::Read(5, general, 9)]);
}

#[test]
fn what_a_mark_ahead_leaves_waits_within_the_bound() {
    let mut desk = Desk::new(Config { marks_max: 1, ..Config::default() });
    let general = general(&mut desk, 3);
    desk.channel("random", DURABLE, &["ann"]);
    let session = desk.open_reading("ann");
    desk.subscribe(session, 2, "general", LIVE);
    desk.subscribe(session, 2, "random", LIVE);
    desk.heard(session);
    desk.mark_read(session, 3, general, 2);
    desk.mark_read(session, 4, general, 8);
    desk.hold_control();
    desk.pass(SOON_MS);
    desk.mark_read(session, 5, ChannelId::new(2).unwrap(), 1);
    desk.answer_held();
    let refused = [Heard::Error(4, Code::PositionAhead), Heard::Error(3, Code::Busy)];
    assert_eq!(desk.heard(session), refused, "the place was taken meanwhile");
}

#[test]
fn refusals_have_names() {
    let mut desk = Desk::new(Config { marks_max: 1, requests_in_flight_max: 2, ..Config::default() });
    let general = general(&mut desk, 3);
    let random = desk.channel("random", DURABLE, &["ann"]);
    let typing = desk.channel("typing", NOTHING, &["ann"]);
    let session = desk.open_reading("ann");
    for channel in ["general", "random", "typing"] {
        desk.subscribe(session, 2, channel, LIVE);
    }
    assert_eq!(
        desk.heard(session),
        [
            Heard::Subscribed(2, general, 3),
            Heard::Read(0, general, 0),
            Heard::Subscribed(2, random, 0),
            Heard::Read(0, random, 0),
            Heard::Subscribed(2, typing, 0),
        ],
        "without history there is nothing to have read"
    );
    desk.mark_read(session, 3, ChannelId::new(99).unwrap(), 1);
    desk.mark_read(session, 0, ChannelId::new(99).unwrap(), 1);
    desk.mark_read(session, 4, typing, 1);
    assert_eq!(
        desk.heard(session),
        [Heard::Error(3, Code::NotSubscribed), Heard::Error(0, Code::NotSubscribed), Heard::Error(4, Code::NoHistory)]
    );
    desk.mark_read(session, 5, general, 4);
    desk.mark_read(session, 6, random, 1);
    assert_eq!(desk.heard(session), [Heard::Error(6, Code::Busy)], "one place for a mark, and it is taken");
    desk.mark_read(session, 7, general, 2);
    desk.mark_read(session, 8, general, 3);
    assert_eq!(desk.heard(session), [Heard::Error(8, Code::Busy)], "two requests wait for their answers");
    desk.pass(2 * SOON_MS);
    assert_eq!(desk.heard(session), [Heard::Error(5, Code::PositionAhead), Heard::Read(7, general, 2)]);
    assert_eq!(desk.read_of(general, "ann"), Some(2));
    desk.mark_read(session, 9, general, 3);
    desk.pass(SOON_MS);
    assert_eq!(desk.heard(session), [Heard::Read(9, general, 3)]);
    desk.refuse_all(true);
    desk.publish(session, 0, general, 1, b"one more");
    desk.mark_read(session, 10, general, 4);
    desk.pass(SOON_MS);
    let heard = desk.heard(session);
    assert!(
        heard.iter().any(
            |heard| matches!(heard, Heard::Error(10, code) if code.advice() == millrace_protocol::code::Advice::Retry)
        ),
        "{heard:?}"
    );
}

#[test]
fn a_cut_link_answers_what_waits_and_tells_what_moved_meanwhile() {
    let mut desk = desk();
    let general = general(&mut desk, 9);
    let (phone, laptop) = (desk.open_reading("ann"), desk.open_reading("ann"));
    desk.subscribe(phone, 2, "general", LIVE);
    desk.subscribe(laptop, 2, "general", LIVE);
    desk.heard(phone);
    desk.heard(laptop);
    desk.hold_control();
    desk.mark_read(phone, 3, general, 5);
    desk.pass(SOON_MS);
    desk.mark_read(phone, 4, general, 6);
    desk.pass(SOON_MS);
    desk.cut();
    let unavailable = |request| Heard::Error(request, Code::Unavailable);
    assert_eq!(desk.heard(phone), [unavailable(3), unavailable(4)], "one under way, and one that waited for it");
    desk.mark_read(phone, 5, general, 6);
    assert_eq!(desk.heard(phone), [unavailable(5)]);
    desk.read_elsewhere(general, "ann", 7);
    desk.link();
    assert_eq!(desk.heard(laptop), [Heard::Read(0, general, 7)], "it moved while nobody could tell");
    desk.mark_read(phone, 6, general, 6);
    assert_eq!(desk.heard(phone), [Heard::Read(0, general, 7), Heard::Read(6, general, 7)]);
    desk.read_elsewhere(general, "ann", 8);
    assert_eq!(desk.heard(laptop), [Heard::Read(0, general, 8)]);
}

#[test]
fn a_position_that_moves_before_subscribed_is_told_behind_it() {
    let mut desk = desk();
    let general = general(&mut desk, 9);
    let session = desk.open_reading("ann");
    // The grant is in memory from here on; the home is slow to answer, as it has to be opened first.
    desk.subscribe(session, 2, "general", ATTACH);
    desk.heard(session);
    desk.read_elsewhere(general, "ann", 4);
    assert_eq!(desk.heard(session), [Heard::Read(0, general, 4)]);
    desk.subscribe(session, 3, "general", LIVE);
    assert_eq!(desk.heard(session), [Heard::Subscribed(3, general, 9), Heard::Read(0, general, 4)]);
    // A later epoch counts more than any offset.
    let position = Position { epoch: Epoch::FIRST.next(), offset: 2 };
    desk.ask(session, 4, ClientBody::MarkRead { channel: general, position });
    desk.pass(SOON_MS);
    assert_eq!(desk.heard(session), [Heard::Read(4, general, 2)]);
}

#[test]
fn a_node_that_drains_sends_what_waits() {
    let mut desk = desk();
    let general = general(&mut desk, 3);
    let session = desk.open_reading("ann");
    desk.subscribe(session, 2, "general", LIVE);
    desk.mark_read(session, 3, general, 2);
    desk.drain(Drain { over: Duration::from_secs(1), endpoints: Vec::new() });
    assert_eq!(desk.read_of(general, "ann"), Some(2));
}

/// A data node that died took messages along that people had read. Who comes back is told where that leaves them: the first session,
/// whose grant was looked up before the home began the new epoch, and those after it, who take that grant from memory.
#[test]
fn what_was_lost_with_an_epoch_is_unread_for_every_session() {
    let mut desk = desk();
    let ticker = desk.channel("ticker", WINDOWED, &["ann", "bob"]);
    let writer = desk.open("bob");
    desk.subscribe(writer, 2, "ticker", ATTACH);
    for sequence in 1..=5 {
        desk.publish(writer, 0, ticker, sequence, b"hello");
    }
    desk.pass(2_000);
    assert_eq!(desk.stored(ticker), 5);
    // Ten were delivered and read, and five of them are lost.
    desk.read_elsewhere(ticker, "ann", 10);
    desk.restart(Config::default());

    let first = desk.open_reading("ann");
    desk.subscribe(first, 2, "ticker", LIVE);
    let read = |offset| Heard::Read(0, ticker, offset);
    assert_eq!(desk.heard(first), [Heard::Subscribed(2, ticker, 5), read(10), read(5)]);
    let writer = desk.open("bob");
    desk.subscribe(writer, 2, "ticker", ATTACH);
    for sequence in 6..=10 {
        desk.publish(writer, 0, ticker, sequence, b"hello again");
    }
    for start in [LIVE, ATTACH] {
        let later = desk.open_reading("ann");
        desk.subscribe(later, 2, "ticker", start);
        assert_eq!(desk.heard(later), [Heard::Subscribed(2, ticker, 10), read(5)]);
    }
    let asked = desk.stats().grants_asked_total;
    let last = desk.open_reading("ann");
    desk.subscribe(last, 2, "ticker", LIVE);
    assert_eq!(desk.heard(last), [Heard::Subscribed(2, ticker, 10), read(5)]);
    assert_eq!(desk.stats().grants_asked_total, asked, "what is right is remembered");
}

/// Two changes of a membership in one moment are told as one: the newest.
#[test]
fn who_was_removed_and_is_back_has_read_what_a_new_member_has() {
    let mut desk = desk();
    let general = general(&mut desk, 9);
    let session = desk.open_reading("ann");
    desk.subscribe(session, 2, "general", LIVE);
    desk.heard(session);
    desk.add_again(general, "ann", 9);
    assert_eq!(desk.heard(session), [Heard::Read(0, general, 9)]);
}
