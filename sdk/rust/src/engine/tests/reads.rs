//! Read positions by script: what a node says, what the engine does about it.

use millrace_protocol::client::{Recovery, ServerBody};
use millrace_protocol::code::Code;

use super::super::subscription::Start;
use super::bench::{Asked, Bench, at, channel, refusal, subscribed};
use super::node::welcome;
use super::*;

fn read(offset: u64) -> ServerBody<'static> {
    ServerBody::Read { channel: channel(), position: at(offset) }
}

#[test]
fn marks_go_one_at_a_time_and_again_after_a_reconnect() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    bench.say(0, read(0));
    bench.push(1);
    bench.push(2);
    bench.push(3);
    assert_eq!(bench.unread, [Some(0), Some(1), Some(2), Some(3)]);
    for offset in [1, 2] {
        bench.engine.mark_read(bench.now, key, at(offset));
    }
    bench.engine.mark_read(bench.now, key, at(1));
    let frames = bench.frames();
    assert_eq!(frames.iter().map(|(_, asked)| asked).collect::<Vec<_>>(), [&Asked::MarkRead(1)], "one at a time");
    bench.engine.mark_read(bench.now, key, at(3));
    assert_eq!(bench.frames(), []);
    bench.say(frames[0].0, read(1));
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::MarkRead(3), "of those that came meanwhile the furthest");
    // The answer never comes: it is sent again on the next connection, behind the answer to the subscription.
    bench.engine.handle_disconnected(bench.now, Error::disconnected("cut"));
    bench.pass(Duration::from_millis(100));
    bench.engine.handle_connected(bench.now);
    let hello = bench.frames();
    bench.say(hello[0].0, ServerBody::Welcome(welcome()));
    bench.say(hello[0].0, subscribed("general", 3, Recovery::Whole));
    bench.say(0, read(1));
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::MarkRead(3));
    // For a while, then for good.
    bench.say(frames[0].0, refusal(Code::Busy));
    assert_eq!(bench.frames(), []);
    bench.pass(Duration::from_secs(1));
    let frames = bench.frames();
    assert_eq!(frames.last().map(|(_, asked)| asked), Some(&Asked::MarkRead(3)));
    bench.unread.clear();
    bench.say(frames.last().unwrap().0, refusal(Code::PositionAhead));
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::MarkRead(2), "the one behind it is another mark");
    bench.say(frames[0].0, refusal(Code::PositionAhead));
    bench.act();
    let told = [Some(1), Some(2)];
    assert_eq!((bench.frames(), &bench.unread[..]), (vec![], &told[..]), "what the node says is what counts");
}

#[test]
fn a_node_that_knows_no_read_positions_is_not_told_any() {
    let mut bench = Bench::new(config());
    bench.engine.handle_token(bench.now, Ok("token".into()));
    bench.engine.handle_connected(bench.now);
    let hello = bench.frames();
    bench.say(hello[0].0, ServerBody::Welcome(millrace_protocol::client::Welcome { features: 0, ..welcome() }));
    let key = bench.open("general", Some(Start::Live));
    bench.push(1);
    bench.engine.mark_read(bench.now, key, at(1));
    assert_eq!((bench.frames(), &bench.unread[..]), (vec![], &[][..]));
}

#[test]
fn a_client_that_closes_takes_its_last_mark_along() {
    let mut bench = Bench::welcomed(config());
    let key = bench.open("general", Some(Start::Live));
    bench.say(0, read(0));
    bench.push(1);
    bench.engine.mark_read(bench.now, key, at(1));
    bench.engine.close(bench.now);
    let frames = bench.frames();
    assert_eq!(frames[0].1, Asked::MarkRead(1));
    assert!(bench.log().is_empty(), "it waits for the answer");
    bench.say(frames[0].0, read(1));
    assert_eq!(bench.log(), ["disconnect", "closed None"]);
}
