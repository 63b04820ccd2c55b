//! Scripts: what a node says, what the engine does about it.

use bytes::Bytes;
use millrace_protocol::client::{
    HistoryClass, HistoryRange, Published, Recovery, ServerBody, Start as WireStart, Subscribed,
};
use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::ProducerSequence;

use super::super::subscription::Start;
use super::bench::{Asked, Bench, HEARTBEAT, at, channel, message, refusal, subscribed};
use super::node::welcome;
use super::*;
use crate::error::Awaited;

#[test]
fn a_client_connects_and_resumes_everything_in_its_hello() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.log(), ["token"]);
    bench.connect();
    bench.open("general", Some(Start::Live));
    bench.push(1);
    bench.engine.handle_disconnected(bench.now, Error::disconnected("cut"));
    assert_eq!(bench.log(), ["reconnecting 1"]);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.log(), ["connect ws://a"], "the token is still good");
    bench.engine.handle_connected(bench.now);
    let hello = bench.frames();
    let expect = Asked::Hello("token".into(), vec![("general".into(), WireStart::After(at(1)))]);
    assert_eq!(hello[0].1, expect);
    bench.say(hello[0].0, ServerBody::Welcome(welcome()));
    bench.say(hello[0].0, subscribed("general", 2, Recovery::Whole));
    bench.push(2);
    assert_eq!(bench.log(), ["connected"]);
    assert_eq!(bench.events.iter().map(|(_, event)| event.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(bench.frames(), []);
}

#[test]
fn silence_for_two_heartbeats_is_a_dead_connection() {
    let mut bench = Bench::welcomed(config());
    bench.pass(HEARTBEAT * 2 - Duration::from_millis(1));
    bench.say(0, ServerBody::Ping);
    assert_eq!(bench.frames(), [(0, Asked::Pong)]);
    bench.pass(HEARTBEAT * 2 - Duration::from_millis(1));
    assert_eq!(bench.log(), [] as [&str; 0]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.log(), ["disconnect", "reconnecting 1"]);
}

#[test]
fn pings_that_are_not_taken_are_answered_once() {
    let mut bench = Bench::welcomed(config());
    for _ in 0..1_000 {
        bench.say(0, ServerBody::Ping);
    }
    assert_eq!(bench.frames(), [(0, Asked::Pong)]);
}

#[test]
fn a_node_that_answers_pings_and_nothing_else_is_left() {
    let mut bench = Bench::welcomed(config());
    bench.engine.open(bench.now, "general", None, 1).unwrap();
    for _ in 0..4 {
        bench.pass(Duration::from_millis(7_400));
        bench.say(0, ServerBody::Ping);
    }
    // The call gives up at the same time as the connection: it fails, and the next one finds another connection.
    bench.pass(Duration::from_secs(1));
    assert!(bench.log().contains(&"disconnect".to_owned()));
    assert!(matches!(bench.opened[..], [(1, Err(Error::TimedOut(Awaited::Answer)))]), "{:?}", bench.opened);
}

#[test]
fn a_node_that_leaves_says_when_and_where_to() {
    let mut bench = Bench::welcomed(config());
    let go_away =
        ServerBody::GoAway { code: Code::GoingAway.number(), after_ms: 3_000, endpoints: vec!["b:1", "ftp://no"] };
    bench.say(0, go_away.clone());
    bench.pass(Duration::from_millis(2_999));
    assert_eq!(bench.log(), [] as [&str; 0]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.log(), ["disconnect", "reconnecting 1", "connect ws://b:1"]);

    // If it closes before, the client still comes when it was told.
    let mut bench = Bench::welcomed(config());
    bench.say(0, go_away);
    bench.engine.handle_disconnected(bench.now, Error::refused(4200, "bye", 0));
    bench.pass(Duration::from_millis(2_999));
    assert_eq!(bench.log(), ["reconnecting 1"]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.log(), ["connect ws://b:1"]);
}

#[test]
fn a_session_that_was_ended_is_not_tried_again() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    bench.engine.handle_disconnected(bench.now, Error::refused(Code::Ended.number(), "ended by an operator", 0));
    assert_eq!(bench.log(), ["closed Some(\"ended by an operator (ended)\")"]);
    assert_eq!(bench.events, [(key, "ended ended by an operator (ended)".into())]);
    assert_eq!(bench.engine.next_timeout(), None);
    let error = bench.engine.open(bench.now, "general", None, 1).unwrap_err();
    assert_eq!((error.code(), error.advice()), (Some(Code::Ended), Advice::DoNotRetry));
}

#[test]
fn a_token_is_renewed_in_time_and_on_the_same_connection() {
    let mut bench = Bench::new(config());
    bench.engine.handle_token(bench.now, Ok("first".into()));
    bench.engine.handle_connected(bench.now);
    let (request, _) = bench.frames().remove(0);
    let hour_ms = 3_600_000;
    let token_expires_ms = 1_700_000_000_000 + hour_ms;
    bench.say(request, ServerBody::Welcome(millrace_protocol::client::Welcome { token_expires_ms, ..welcome() }));
    bench.log();
    for _ in 0..60 {
        bench.pass(Duration::from_secs(45));
        bench.say(0, ServerBody::Ping);
    }
    assert_eq!(bench.log(), [] as [&str; 0], "three quarters are not over");
    for _ in 0..12 {
        bench.pass(Duration::from_secs(45));
        bench.say(0, ServerBody::Ping);
    }
    assert_eq!(bench.log(), ["token"], "nine tenths are over");
    bench.frames();
    bench.engine.handle_token(bench.now, Ok("second".into()));
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::Refresh("second".into()));
    bench.say(frames[0].0, ServerBody::Refreshed { token_expires_ms: token_expires_ms + hour_ms });
    assert_eq!(bench.log(), [] as [&str; 0]);
}

#[test]
fn refused_tokens_are_renewed_and_then_given_up() {
    let refuse = |bench: &mut Bench| {
        bench.engine.handle_connected(bench.now);
        let (request, _) = bench.frames().remove(0);
        bench.say(request, refusal(Code::TokenExpired));
    };
    let mut bench = Bench::new(config());
    for _ in 0..2 {
        bench.engine.handle_token(bench.now, Ok("token".into()));
        refuse(&mut bench);
        bench.pass(Duration::from_secs(1));
    }
    bench.engine.handle_token(bench.now, Ok("token".into()));
    bench.log();
    refuse(&mut bench);
    assert_eq!(bench.log(), ["disconnect", "closed Some(\"refused (token-expired)\")"]);

    // A fixed token does not get better.
    let mut bench = Bench::new(Config { tokens_renew: false, ..config() });
    bench.engine.handle_token(bench.now, Ok("token".into()));
    bench.log();
    refuse(&mut bench);
    assert_eq!(bench.log(), ["disconnect", "closed Some(\"refused (token-expired)\")"]);
}

#[test]
fn a_first_connection_may_have_to_succeed() {
    let mut bench = Bench::new(Config { fail_fast: true, ..config() });
    bench.engine.handle_token(bench.now, Ok("token".into()));
    bench.engine.handle_disconnected(bench.now, Error::disconnected("refused"));
    assert_eq!(bench.log().last().unwrap(), "closed Some(\"the connection was lost: refused\")");

    let mut bench = Bench::welcomed(Config { fail_fast: true, ..config() });
    bench.engine.handle_disconnected(bench.now, Error::disconnected("cut"));
    assert_eq!(bench.log(), ["reconnecting 1"]);
}

/// Who waits for a first connection waits for what passes: each URL is tried once, and a node that asks for another try gets it.
#[test]
fn a_first_connection_is_tried_as_long_as_a_node_asks_for_it() {
    let started = |endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|&url| url.into()).collect();
        let mut bench = Bench::new(Config { fail_fast: true, endpoints, ..config() });
        bench.engine.handle_token(bench.now, Ok("token".into()));
        bench.log();
        bench
    };
    let refused = |code: Code| Error::refused(code.number(), "not now", 0);
    let tries_on = |bench: &mut Bench, error: Error| {
        bench.engine.handle_disconnected(bench.now, error);
        let log = bench.log();
        let goes_on = log.last().unwrap().starts_with("reconnecting");
        assert!(goes_on || log.last().unwrap().starts_with("closed Some"), "{log:?}");
        bench.engine.next_timeout().filter(|_| goes_on).map(|at| {
            bench.now = at;
            bench.engine.handle_timeout(at);
            bench.log();
        })
    };
    let mut bench = started(&["ws://a", "ws://b"]);
    assert!(tries_on(&mut bench, Error::disconnected("nobody there")).is_some(), "there is another URL");
    assert!(tries_on(&mut bench, Error::disconnected("nobody there")).is_none(), "each was tried");
    let mut bench = started(&["ws://a", "ws://b"]);
    assert!(tries_on(&mut bench, refused(Code::BadToken)).is_none(), "it is bad everywhere");

    for code in [Code::Busy, Code::Unavailable, Code::GoingAway] {
        let mut bench = started(&["ws://a"]);
        let began = bench.now;
        let tries = std::iter::from_fn(|| tries_on(&mut bench, refused(code))).count();
        assert!(tries > 3, "{code} {tries}");
        assert!(bench.now <= began + config().request_timeout, "{code}");
    }
}

#[test]
fn each_subscription_of_a_hello_gets_its_own_refusal() {
    let mut bench = Bench::new(config());
    for (ticket, name) in ["a", "b", "c"].into_iter().enumerate() {
        bench.engine.open(bench.now, name, Some(Start::Live), ticket).unwrap();
    }
    bench.engine.handle_token(bench.now, Ok("token".into()));
    bench.engine.handle_connected(bench.now);
    let (hello, asked) = bench.frames().remove(0);
    let Asked::Hello(_, names) = asked else { panic!("{asked:?}") };
    assert_eq!(names.len(), 3);
    bench.say(hello, ServerBody::Welcome(welcome()));
    let refuse =
        |code: Code, channel| ServerBody::Error { code: code.number(), message: "refused", retry_after_ms: 0, channel };
    bench.say(hello, refuse(Code::NoAccess, "b"));
    bench.say(hello, refuse(Code::Unavailable, "c"));
    bench.say(hello, subscribed("a", 0, Recovery::None));
    assert!(matches!(&bench.opened[..], [(1, Err(error)), (0, Ok(_))] if error.code() == Some(Code::NoAccess)));
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.frames().remove(0).1, Asked::Subscribe("c".into(), WireStart::Live));
}

#[test]
fn a_reader_that_is_full_pulls_and_others_go_on() {
    let queue = QueueLimits { messages_max: 4, bytes_max: 1 << 20 };
    let mut bench = Bench::welcomed(Config { queue, ..config() });
    let key = bench.open("general", Some(Start::Live));
    (1..=4).for_each(|offset| bench.push(offset));
    assert_eq!(bench.log(), ["starved"]);
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::Subscribe("general".into(), WireStart::Attach));
    (5..=9).for_each(|offset| bench.push(offset));
    assert_eq!(bench.events.len(), 4, "messages are taken that have no room");
    bench.say(frames[0].0, subscribed("general", 9, Recovery::None));
    assert_eq!(bench.frames(), []);
    bench.engine.taken(bench.now, key, 2, 4);
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::History(HistoryRange::After(4), 2));
    let page = ServerBody::Page { channel: channel(), messages: vec![message(5, b"m"), message(6, b"m")], more: true };
    bench.say(frames[0].0, page);
    assert_eq!(bench.log(), ["starved"]);
    bench.engine.taken(bench.now, key, 4, 8);
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::History(HistoryRange::After(6), 4));
    let messages = (7..=9).map(|offset| message(offset, b"m")).collect();
    bench.say(frames[0].0, ServerBody::Page { channel: channel(), messages, more: false });
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::Subscribe("general".into(), WireStart::After(at(9))));
    bench.say(frames[0].0, subscribed("general", 9, Recovery::Whole));
    bench.push(10);
    let events: Vec<_> = bench.events.iter().map(|(_, event)| event.parse::<u64>().unwrap()).collect();
    assert_eq!(events, (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_removed_user_is_told_and_what_was_sent_has_its_end() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"sent"));
    assert_eq!(bench.frames().remove(0).1, Asked::Publish(1, "sent".into()));
    bench.engine.send(bench.now, key, 6, Bytes::from_static(b"waiting"));
    bench.say(0, ServerBody::Unsubscribed { channel: channel(), code: Code::Removed.number(), reason: "removed" });
    assert!(matches!(&bench.sent[..], [(5, Err(Error::Unconfirmed { .. })), (6, Err(Error::Refused { .. }))]));
    assert_eq!(bench.events, [(key, "ended removed (removed)".into())]);
    bench.engine.send(bench.now, key, 7, Bytes::new());
    bench.act();
    assert!(matches!(&bench.sent[2..], [(7, Err(error))] if error.code() == Some(Code::Removed)));
    // Let in again, the user opens the channel anew.
    let again = bench.open("general", None);
    assert_ne!(again, key);
}

#[test]
fn a_message_over_the_limit_does_not_leave() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.send(bench.now, key, 5, Bytes::from(vec![0; (16 << 10) + 1]));
    bench.act();
    assert!(matches!(bench.sent[..], [(5, Err(Error::TooLarge { bytes: 16_385, bytes_max: 16_384 }))]));
    assert_eq!(bench.frames(), []);
}

#[test]
fn a_handle_is_tried_until_its_time_is_over() {
    let mut bench = Bench::welcomed(config());
    bench.engine.open(bench.now, "general", Some(Start::Live), 3).unwrap();
    let mut tries = 0;
    while bench.opened.is_empty() {
        for (request, asked) in bench.frames() {
            if let Asked::Subscribe(..) = asked {
                tries += 1;
                bench.say(request, refusal(Code::Unavailable));
            }
        }
        bench.pass(Duration::from_millis(50));
        bench.say(0, ServerBody::Ping);
    }
    assert!((5..40).contains(&tries), "{tries} tries");
    assert!(matches!(&bench.opened[..], [(3, Err(error))] if error.code() == Some(Code::Unavailable)));
    assert!(bench.engine.channels.is_empty(), "nobody wants it any more");
}

#[test]
fn a_session_that_lost_a_subscription_is_mended() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    let (request, _) = bench.frames().remove(0);
    bench.say(request, refusal(Code::NotSubscribed));
    bench.pass(Duration::from_millis(200));
    let frames = bench.frames();
    let (request, asked) = &frames[1];
    assert_eq!(*asked, Asked::Subscribe("general".into(), WireStart::Attach), "{frames:?}");
    bench.say(*request, subscribed("general", 0, Recovery::None));
    bench.pass(Duration::from_millis(200));
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::Publish(1, "a".into()));
    let producer = bench.engine.channels[&key].outbox.producer();
    let (sequence, position) = (ProducerSequence::FIRST, at(1));
    let published = Published { channel: channel(), producer, sequence, position, duplicate: false };
    bench.say(frames[0].0, ServerBody::Published(published));
    assert!(matches!(bench.sent[..], [(5, Ok(position))] if position == at(1)));
}

#[test]
fn a_page_is_asked_for_again_on_the_next_connection() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.history(bench.now, key, 8, HistoryRange::Newest, 50);
    assert_eq!(bench.frames().remove(0).1, Asked::History(HistoryRange::Newest, 50));
    bench.engine.handle_disconnected(bench.now, Error::disconnected("cut"));
    bench.pass(Duration::from_millis(100));
    bench.engine.handle_connected(bench.now);
    let (hello, _) = bench.frames().remove(0);
    bench.say(hello, ServerBody::Welcome(welcome()));
    bench.say(hello, subscribed("general", 1, Recovery::None));
    let (request, asked) = bench.frames().remove(0);
    assert_eq!(asked, Asked::History(HistoryRange::Newest, 50));
    bench.say(request, ServerBody::Page { channel: channel(), messages: vec![message(1, b"m")], more: false });
    assert!(matches!(&bench.pages[..], [(8, Ok(page))] if page.messages.len() == 1 && !page.more));
    for ticket in 0..65 {
        bench.engine.history(bench.now, key, ticket, HistoryRange::Newest, 50);
    }
    bench.act();
    assert!(matches!(bench.pages[1..], [(64, Err(Error::TooManyRequests))]));
}

/// Until it leaves, the client hears what comes; what it asks belongs on the next connection.
#[test]
fn a_node_that_leaves_refuses_and_is_not_left_early() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    let code = Code::GoingAway.number();
    bench.say(0, ServerBody::GoAway { code, after_ms: 3_000, endpoints: vec![] });
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    let (request, _) = bench.frames().remove(0);
    bench.say(request, refusal(Code::GoingAway));
    bench.push(1);
    assert_eq!(bench.events, [(key, "1".into())]);
    assert_eq!(bench.log(), [] as [&str; 0]);
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.log(), ["disconnect", "reconnecting 1", "connect ws://a"]);
    bench.engine.handle_connected(bench.now);
    let (hello, _) = bench.frames().remove(0);
    bench.say(hello, ServerBody::Welcome(welcome()));
    bench.say(hello, subscribed("general", 1, Recovery::Whole));
    assert_eq!(bench.frames().remove(0).1, Asked::Publish(1, "a".into()));
}

/// Answers to what was sent before the node ended the subscription do not count for what is sent after.
#[test]
fn answers_that_come_late_are_for_nobody() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    let (late, _) = bench.frames().remove(0);
    let code = Code::Unavailable.number();
    bench.say(0, ServerBody::Unsubscribed { channel: channel(), code, reason: "away" });
    bench.pass(Duration::from_millis(100));
    let (request, _) = bench.frames().remove(0);
    bench.say(request, subscribed("general", 0, Recovery::None));
    assert_eq!(bench.frames().remove(0).1, Asked::Publish(1, "a".into()));
    bench.say(late, refusal(Code::TooLarge));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    bench.say(late, refusal(Code::RateLimited));
    bench.engine.send(bench.now, key, 6, Bytes::from_static(b"b"));
    assert_eq!(bench.frames().remove(0).1, Asked::Publish(2, "b".into()), "nothing halts");
}

#[test]
fn a_refused_page_is_asked_for_again_while_there_is_time() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    for ticket in 0..6 {
        bench.engine.history(bench.now, key, ticket, HistoryRange::Newest, 50);
    }
    let frames = bench.frames();
    assert_eq!(frames.len(), HISTORIES_ASKED_MAX);
    bench.say(frames[0].0, refusal(Code::NoHistory));
    assert!(matches!(&bench.pages[..], [(0, Err(error))] if error.code() == Some(Code::NoHistory)));
    let mut open: Vec<u32> = frames[1..].iter().map(|(request, _)| *request).collect();
    let mut asked = 0;
    while bench.pages.len() == 1 {
        open.drain(..).for_each(|request| bench.say(request, refusal(Code::Busy)));
        bench.pass(Duration::from_millis(500));
        bench.say(0, ServerBody::Ping);
        open = bench.frames().iter().filter(|(request, _)| *request != 0).map(|(request, _)| *request).collect();
        asked += open.len();
    }
    assert!(asked > 5, "{asked}");
    assert!(matches!(&bench.pages[1], (_, Err(error)) if error.code() == Some(Code::Busy)));
}

#[test]
fn closing_waits_for_what_was_sent() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    bench.engine.close(bench.now);
    assert_eq!(bench.log(), [] as [&str; 0]);
    assert!(matches!(bench.engine.open(bench.now, "general", None, 9), Err(Error::Closed)));
    let (request, _) = bench.frames().remove(0);
    let producer = bench.engine.channels[&key].outbox.producer();
    let (sequence, position) = (ProducerSequence::FIRST, at(1));
    let published = Published { channel: channel(), producer, sequence, position, duplicate: false };
    bench.say(request, ServerBody::Published(published));
    assert_eq!(bench.log(), ["disconnect", "closed None"]);
    assert!(bench.events.is_empty(), "a subscription that the application closes just ends");
    assert!(matches!(bench.sent[..], [(5, Ok(_))]));

    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    bench.frames();
    bench.engine.close(bench.now);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.log(), ["disconnect", "closed Some(\"timed out waiting for the last acknowledgements\")"]);
    assert!(matches!(bench.sent[..], [(5, Err(Error::Unconfirmed { .. }))]));
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    let mut bench = Bench::welcomed(config());
    bench.engine.handle_frame(bench.now, b"not a frame at all");
    assert_eq!(bench.log(), ["disconnect", "reconnecting 1"]);
    bench.engine.handle_frame(bench.now, b"late");
    assert_eq!(bench.log(), [] as [&str; 0]);
}

#[test]
fn a_dropped_handle_is_unsubscribed_after_its_messages() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    bench.engine.send(bench.now, key, 5, Bytes::from_static(b"a"));
    bench.engine.release(bench.now, key, Handle::Sender);
    let frames = bench.frames();
    assert_eq!(frames.len(), 1, "{frames:?}");
    let producer = bench.engine.channels[&key].outbox.producer();
    let (sequence, position) = (ProducerSequence::FIRST, at(1));
    let published = Published { channel: channel(), producer, sequence, position, duplicate: false };
    bench.say(frames[0].0, ServerBody::Published(published));
    assert_eq!(bench.frames().remove(0).1, Asked::Unsubscribe(7));
    assert!(bench.engine.channels.is_empty());
}

#[test]
fn a_complaint_explains_the_end_if_it_was_the_last_word() {
    let complain = |bench: &mut Bench| bench.say(0, refusal(Code::Invalid));
    let cut = |bench: &mut Bench| {
        bench.log();
        bench.engine.handle_disconnected(bench.now, Error::disconnected("cut".to_owned()));
        bench.log()
    };
    let mut bench = Bench::welcomed(config());
    complain(&mut bench);
    assert!(cut(&mut bench)[0].starts_with("closed"), "said just before, it is the reason");

    let mut bench = Bench::welcomed(config());
    complain(&mut bench);
    bench.say(0, ServerBody::Ping);
    assert_eq!(cut(&mut bench), ["reconnecting 1"], "the session went on");

    let mut bench = Bench::welcomed(config());
    complain(&mut bench);
    bench.pass(Duration::from_millis(5_001));
    assert_eq!(cut(&mut bench), ["reconnecting 1"], "long ago");
}

/// The machine slept, and the engine's clock with it; or somebody set the clock.
#[test]
fn a_clock_that_stood_still_does_not_let_a_token_run_out() {
    let mut bench = Bench::new(config());
    bench.engine.handle_token(bench.now, Ok("first".into()));
    bench.engine.handle_connected(bench.now);
    let hello = bench.frames()[0].0;
    let token_expires_ms = 1_700_000_000_000 + 3_600_000;
    bench.say(hello, ServerBody::Welcome(millrace_protocol::client::Welcome { token_expires_ms, ..welcome() }));
    bench.log();
    bench.engine.note_clock(bench.now, 1_700_000_000_000 + 2_000);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.log(), [""; 0], "clocks drift");
    bench.engine.note_clock(bench.now, 1_700_000_000_000 + 59 * 60_000);
    bench.say(0, ServerBody::Ping);
    bench.pass(Duration::from_secs(44));
    assert_eq!(bench.log(), [""; 0], "three quarters of the minute that is left, or a little more");
    bench.say(0, ServerBody::Ping);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.log(), ["token"]);
}

#[test]
fn a_channel_without_history_is_read_when_it_says_so() {
    let mut bench = Bench::welcomed(config());
    let now = bench.now;
    let answer = |bench: &mut Bench, request: u32| {
        let ServerBody::Subscribed(live) = subscribed("typing", 0, Recovery::None) else { panic!("subscribed") };
        bench.say(request, ServerBody::Subscribed(Subscribed { history: HistoryClass::None, ..live }));
    };
    bench.engine.open(now, "typing", None, 1).unwrap();
    let mut attach = bench.frames()[0].0;
    let starts = [Start::Live, Start::AfterOffset(3), Start::After(at(9))];
    for start in starts {
        let key = bench.engine.open(now, "typing", Some(start), 2).unwrap();
        answer(&mut bench, attach);
        assert!(bench.opened.iter().all(|&(ticket, _)| ticket == 1), "the right to publish is no subscription");
        let read = bench.frames();
        assert!(matches!(&read[..], [(_, Asked::Subscribe(_, asked))] if *asked == WireStart::Live), "{read:?}");
        answer(&mut bench, read[0].0);
        assert!(bench.opened.iter().any(|(ticket, result)| *ticket == 2 && result.is_ok()), "{start:?}");
        assert_eq!(bench.events, [], "nothing was interrupted");
        bench.opened.clear();
        bench.engine.release(now, key, Handle::Reader);
        bench.engine.release(now, key, Handle::Sender);
        attach = bench.frames()[0].0;
    }
}

#[test]
fn a_page_that_nobody_waits_for_gives_its_place_back() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", None);
    for ticket in 0..64 {
        bench.engine.history(bench.now, key, ticket, HistoryRange::Newest, 1);
    }
    let asked = bench.frames().len();
    for ticket in 0..asked {
        bench.engine.abandon_history(bench.now, key, ticket);
    }
    assert_eq!(bench.frames().len(), asked, "others are asked for instead");
    bench.engine.history(bench.now, key, 64, HistoryRange::Newest, 1);
    bench.act();
    assert!(bench.pages.is_empty(), "{:?}", bench.pages);
}
