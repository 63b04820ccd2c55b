//! How a session begins and ends on one shard: hello, storms, silence, tokens and the keys behind them.
#![expect(clippy::unwrap_used, reason = "a test throughout")]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "behaviour/desk.rs"]
mod desk;

use desk::{Desk, Heard, LIVE, SHARD_TICK_MS, after};
use millrace_core::{Config, SessionKey};
use millrace_protocol::Code;
use millrace_protocol::client::{ClientBody, Hello, HistoryClass, Start, Subscribe, VERSION};
use millrace_protocol::node::{NodeBody, RevokedTokens, SlowConsumer, TokensRevoked};

fn desk() -> Desk {
    Desk::new(Config::default())
}

#[test]
fn a_connection_without_hello_ends() {
    let mut desk = desk();
    let silent = desk.connect();
    desk.pass(10_000 - 2 * SHARD_TICK_MS);
    assert_eq!(desk.closed(silent), None);
    desk.pass(4 * SHARD_TICK_MS);
    assert_eq!(desk.closed(silent), Some(Code::HandshakeTimeout));
    desk.hello(silent, "ann");
    assert_eq!(desk.heard(silent), [], "frames of an ended session are ignored");
}

/// When a network comes back: who was in the middle of something is answered first, whoever came first.
#[test]
fn resumes_come_before_logins() {
    let mut desk = desk();
    desk.channel("room", (HistoryClass::Durable, SlowConsumer::Disconnect), &["ann", "bob"]);
    let come = |desk: &mut Desk, start: Start| {
        let session = desk.connect();
        desk.hello_with(session, "ann", vec![Subscribe { channel: "room", start }]);
        session
    };
    let welcomed =
        |desk: &Desk, all: &[SessionKey]| -> usize { all.iter().filter(|&&session| desk.is_welcomed(session)).count() };
    // Nobody waits as long as there is no crowd.
    let early = come(&mut desk, LIVE);
    assert!(desk.is_welcomed(early));
    let crowd: Vec<_> = (0..32).map(|_| come(&mut desk, after(0))).collect();
    let (mut logins, mut resumes) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        logins.push(come(&mut desk, LIVE));
        resumes.push(come(&mut desk, after(0)));
    }
    desk.settle();
    let counts = [&crowd, &resumes, &logins].map(|all| welcomed(&desk, all));
    assert_eq!((counts, desk.stats().put_off), ([32, 20, 0], 20));
    // One says more behind its hello, and is heard in order; another one goes.
    desk.ask(logins[7], 5, ClientBody::Pong);
    desk.leave(logins[8]);
    assert_eq!(welcomed(&desk, &logins), 1);
    // They come for longer than anybody waits.
    for _ in 0..9 {
        desk.pass(100);
        for _ in 0..32 {
            resumes.push(come(&mut desk, after(0)));
        }
        desk.settle();
        assert_eq!(welcomed(&desk, &logins), 1);
    }
    desk.pass(100);
    desk.settle();
    assert_eq!(welcomed(&desk, &logins), 19, "after a second");
    assert_eq!(welcomed(&desk, &resumes), resumes.len());
    // Whom the shell could not see signing in.
    assert_eq!(desk.signed_in.len(), 19);
    logins.remove(8);
    logins.into_iter().for_each(|session| assert!(desk.signed_in.contains(&session)));
    assert_eq!((desk.stats().put_off, desk.stats().hellos_put_off_total), (0, 20));

    // A crowd that is over keeps nobody: the next turn after it takes them.
    let waits = come(&mut desk, LIVE);
    desk.settle();
    assert!(!desk.is_welcomed(waits));
    desk.pass(250 + SHARD_TICK_MS);
    assert!(desk.is_welcomed(waits));
}

/// While more begin than are done with, those who come back have places that newcomers cannot take, and everybody else is told when.
#[test]
fn in_a_storm_those_who_come_back_begin_first() {
    let mut desk = Desk::new(Config { beginning_max: 4, ..Config::default() });
    desk.channel("room", (HistoryClass::Durable, SlowConsumer::Disconnect), &["ann", "bob"]);
    desk.hold_control();
    let come = |desk: &mut Desk, start: Start| {
        let session = desk.connect();
        desk.hello_with(session, "ann", vec![Subscribe { channel: "room", start }]);
        session
    };
    let newcomers = [come(&mut desk, LIVE), come(&mut desk, LIVE)];
    let away = come(&mut desk, LIVE);
    assert_eq!(desk.heard(away), [Heard::Error(1, Code::Busy)]);
    assert_eq!(desk.closed(away), Some(Code::Busy));
    assert!((1_000..=4_001).contains(&desk.last_retry_after_ms), "{}", desk.last_retry_after_ms);
    let back = [come(&mut desk, after(0)), come(&mut desk, after(0))];
    assert_eq!(desk.stats().beginning, 4);
    let away = come(&mut desk, after(0));
    assert_eq!(desk.heard(away), [Heard::Error(1, Code::Busy)]);
    assert_eq!(desk.closed(away), Some(Code::Busy));
    assert!((200..=1_001).contains(&desk.last_retry_after_ms), "{}", desk.last_retry_after_ms);
    let stats = desk.stats();
    let taken = (stats.hellos_login_total, stats.hellos_resume_total);
    assert_eq!((taken, stats.hellos_login_busy_total, stats.hellos_resume_busy_total), ((2, 2), 1, 1));

    desk.answer_held();
    for session in newcomers.into_iter().chain(back) {
        assert_eq!(desk.heard(session).len(), 1, "it is subscribed");
    }
    assert_eq!(desk.stats().beginning, 0);
    come(&mut desk, LIVE);
    assert_eq!(desk.stats().hellos_login_total, 3);
}

/// Who goes while beginning leaves no trace of it.
#[test]
fn a_session_that_ends_while_it_begins_gives_its_place_back() {
    let mut desk = Desk::new(Config { beginning_max: 4, ..Config::default() });
    desk.channel("room", (HistoryClass::Durable, SlowConsumer::Disconnect), &["ann"]);
    desk.hold_control();
    for token in ["ann.2000", "ann.2000"] {
        let session = desk.connect();
        desk.hello_with(session, token, vec![Subscribe { channel: "room", start: LIVE }]);
    }
    assert_eq!(desk.stats().beginning, 2);
    desk.pass(3_000);
    assert_eq!(desk.stats().beginning, 0, "their tokens have expired");
    desk.answer_held();
    assert_eq!(desk.stats().beginning, 0);
}

/// Whoever goes on asking would else hold a place for as long as they like.
#[test]
fn what_a_session_asks_meanwhile_does_not_keep_it_beginning() {
    let mut desk = desk();
    let kept = (HistoryClass::Durable, SlowConsumer::Disconnect);
    let room = desk.channel("room", kept, &["ann"]);
    desk.channel("other", kept, &["ann"]);
    let first = desk.open("ann");
    desk.subscribe(first, 2, "room", LIVE);
    desk.publish(first, 0, room, 1, b"hello");
    desk.hold_control();
    let session = desk.connect();
    let subscribe = |channel| Subscribe { channel, start: LIVE };
    desk.hello_with(session, "ann", vec![subscribe("room"), subscribe("other")]);
    assert_eq!(desk.stats().beginning, 1);
    // It waits for its batch, and with it a request of the session.
    desk.mark_read(session, 3, room, 1);
    desk.answer_held();
    assert_eq!(desk.stats().beginning, 0);
}

#[test]
fn the_first_frame_decides() {
    let hello = |version: u16, token: &'static str| {
        ClientBody::Hello(Hello {
            version_min: version,
            version_max: version,
            features: 0,
            token,
            agent: "",
            subscriptions: Vec::new(),
        })
    };
    let check = |body: ClientBody<'_>, expect: Code| {
        let mut desk = desk();
        let session = desk.connect();
        desk.ask(session, 7, body);
        assert_eq!(desk.heard(session), [Heard::Error(7, expect)]);
        assert_eq!(desk.closed(session), Some(expect));
    };
    check(hello(VERSION + 1, "ann"), Code::UnsupportedVersion);
    check(hello(0, "ann"), Code::UnsupportedVersion);
    check(hello(VERSION, "bad"), Code::BadToken);
    check(hello(VERSION, "expired"), Code::TokenExpired);
    check(ClientBody::Pong, Code::UnexpectedFrame);

    let mut desk = desk();
    let session = desk.open("ann");
    desk.ask(session, 8, hello(VERSION, "ann"));
    assert_eq!(desk.closed(session), Some(Code::UnexpectedFrame));
    let session = desk.open("ann");
    desk.bytes(session, b"no frame at all");
    assert_eq!(desk.heard(session), [Heard::Error(0, Code::BadFrame)]);
    assert_eq!(desk.closed(session), Some(Code::BadFrame));
}

#[test]
fn silence_is_pinged_and_then_ended() {
    let mut desk = desk();
    let session = desk.open("ann");
    desk.pass(20_000);
    desk.ask(session, 0, ClientBody::Pong);
    desk.pass(24_000);
    assert_eq!(desk.heard(session), [], "any frame puts the ping off");
    desk.pass(2_000);
    assert_eq!(desk.heard(session), [Heard::Ping]);
    desk.pass(22_000);
    assert_eq!((desk.heard(session), desk.closed(session)), (vec![], None), "one ping is enough");
    desk.pass(4_000);
    assert_eq!(desk.closed(session), Some(Code::HeartbeatTimeout));
}

/// A transport that acknowledges a ping has answered it. It spares nobody the next one: a client that heard nothing meanwhile would be gone.
#[test]
fn who_acknowledges_is_heard() {
    let mut desk = desk();
    let session = desk.open_in_lanes("ann");
    desk.pass(20_000);
    desk.acknowledges(session);
    desk.pass(4_000);
    assert_eq!(desk.heard(session), []);
    desk.pass(2_000);
    assert_eq!(desk.heard(session), [Heard::Ping]);
    // However late it is acknowledged, the next one comes a heartbeat after this one.
    desk.pass(20_000);
    desk.acknowledges(session);
    desk.pass(6_000);
    assert_eq!((desk.heard(session), desk.closed(session)), (vec![Heard::Ping], None));
    desk.pass(22_000);
    assert_eq!((desk.heard(session), desk.closed(session)), (vec![], None), "nothing but that answers a ping");
    desk.pass(4_000);
    assert_eq!(desk.closed(session), Some(Code::HeartbeatTimeout));
}

#[test]
fn tokens_end_and_are_refreshed() {
    let mut desk = desk();
    let short = desk.open("ann.5000");
    let renewed = desk.open("bob.5000");
    desk.ask(renewed, 1, ClientBody::Refresh { token: "cyd.90000" });
    desk.ask(renewed, 2, ClientBody::Refresh { token: "bad" });
    desk.ask(renewed, 3, ClientBody::Refresh { token: "bob.10000" });
    let expect = [Heard::Error(1, Code::TokenMismatch), Heard::Error(2, Code::BadToken), Heard::Refreshed(3)];
    assert_eq!(desk.heard(renewed), expect);
    desk.pass(5_000 + 2 * SHARD_TICK_MS);
    assert_eq!((desk.closed(short), desk.closed(renewed)), (Some(Code::TokenExpired), None));
    desk.pass(5_000);
    assert_eq!(desk.closed(renewed), Some(Code::TokenExpired));
    // A refresh may also shorten it.
    let shortened = desk.open("dan.90000");
    desk.ask(shortened, 1, ClientBody::Refresh { token: "dan.1000" });
    desk.pass(1_000 + 2 * SHARD_TICK_MS);
    assert_eq!(desk.closed(shortened), Some(Code::TokenExpired));
}

#[test]
fn revoked_tokens_end_their_sessions_only() {
    let mut desk = desk();
    let (ann, other, bob) = (desk.open("ann"), desk.open("ann.7000"), desk.open("bob"));
    let third = desk.open("ann.8000");
    let revoked = |which: RevokedTokens| TokensRevoked { tenant: desk::tenant(), which, forget_after_ms: 0 };
    let revoke = |desk: &mut Desk, which: RevokedTokens| desk.revoke(&[revoked(which)]);
    // Those of one turn are looked for together.
    let tokens = ["ann.8000", "nobody's"].map(|id| revoked(RevokedTokens::Token(id.into())));
    desk.revoke(&tokens);
    assert_eq!((desk.closed(ann), desk.closed(third)), (None, Some(Code::TokenRevoked)));
    revoke(&mut desk, RevokedTokens::Token("ann.7000".into()));
    assert_eq!((desk.closed(ann), desk.closed(other)), (None, Some(Code::TokenRevoked)));
    revoke(&mut desk, RevokedTokens::UserBefore(desk::user("ann"), i64::MAX));
    assert_eq!((desk.closed(ann), desk.closed(bob)), (Some(Code::TokenRevoked), None));
}

/// A key that is out ends the sessions of its tokens: they would go on until these expire.
#[test]
fn sessions_end_with_the_key_of_their_token() {
    for told in [NodeBody::Keys(Vec::new()), NodeBody::Synced] {
        let mut desk = desk();
        let (ann, bob, renewed) = (desk.open("ann"), desk.open("bob+"), desk.open("cyd+"));
        let early = desk.connect();
        desk.ask(renewed, 1, ClientBody::Refresh { token: "cyd" });
        desk.remove_key(told);
        assert_eq!((desk.closed(ann), desk.closed(bob)), (None, Some(Code::TokenRevoked)));
        assert_eq!((desk.closed(renewed), desk.closed(early)), (None, None), "of the key that is left, or of none yet");
        desk.hello(early, "bob+");
        assert_eq!(desk.closed(early), Some(Code::BadToken));
    }
}
