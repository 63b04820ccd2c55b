//! What an epoch that ended, a channel that keeps nothing and an unknown outcome excuse, and what they do not. The plain lies are in
//! `tests/lies.rs`.

use serde_json::json;

use super::*;

/// Lines of a transcript: `(is a command, line)`.
fn transcript(lines: Vec<Value>) -> Transcript {
    let mut transcript = Transcript::default();
    for line in lines {
        let entry = if line["command"].is_string() { Entry::Command(line) } else { Entry::Event(line) };
        transcript.ledger.take(transcript.entries.len(), &entry);
        transcript.entries.push(entry);
    }
    transcript
}

fn subscribed(history: &str) -> Vec<Value> {
    vec![
        json!({ "id": 1, "command": "subscribe", "client": "a", "channel": "room" }),
        json!({ "id": 1, "event": "done", "position": { "epoch": 1, "offset": 0 }, "history": history }),
    ]
}

fn message(epoch: u64, offset: u64, text: &str) -> Value {
    json!({
        "event": "message", "client": "a", "channel": "room", "position": { "epoch": epoch, "offset": offset },
        "user": "bob", "time_ms": 0, "producer": "1", "sequence": text.len(), "text": text,
    })
}

fn stored(all: &[(u64, u64, &str)]) -> Vec<Stored> {
    let one = |&(epoch, offset, text): &(u64, u64, &str)| Stored {
        position: Position { epoch, offset },
        user: "bob".into(),
        body: text.into(),
        time_ms: 0,
    };
    all.iter().map(one).collect()
}

/// Facts with so much stored, all of it published by the runner but for what client `b` sends.
fn facts(all: &[(u64, u64, &str)]) -> Facts {
    let published = all.iter().map(|(_, _, text)| ("bob".to_owned(), text.as_bytes().to_vec())).collect();
    Facts {
        stored: BTreeMap::from([("room".to_owned(), stored(all))]),
        published: BTreeMap::from([("room".to_owned(), published)]),
        users: BTreeMap::from([("a".to_owned(), "alice".to_owned()), ("b".to_owned(), "bob".to_owned())]),
        explained: BTreeSet::new(),
    }
}

fn faults(lines: Vec<Value>, facts: &Facts) -> Vec<String> {
    judge(&transcript(lines), facts).iter().map(ToString::to_string).collect()
}

fn reset(epoch: u64, offset: u64) -> Value {
    json!({
        "event": "reset", "client": "a", "channel": "room", "code": 4300, "position": { "epoch": epoch, "offset": offset },
    })
}

#[test]
fn what_an_epoch_lost_may_be_missing_once_it_is_told() {
    let mut lines = subscribed("windowed");
    lines.extend([message(1, 1, "kept"), message(1, 2, "lost"), reset(2, 1), message(2, 2, "new")]);
    let mut facts = facts(&[(1, 1, "kept"), (2, 2, "new")]);
    facts.explained.insert(4);
    assert_eq!(faults(lines.clone(), &facts), [""; 0]);
    // Of an epoch that has not ended nothing is lost.
    facts.stored.insert("room".into(), stored(&[(1, 1, "kept")]));
    assert_eq!(faults(lines, &facts).len(), 2);
}

#[test]
fn skipped_messages_are_no_gap_if_they_are_the_next_ones() {
    let skipped = |first: u64, last: u64| {
        json!({
            "event": "skipped", "client": "a", "channel": "room", "reason": "slow-consumer",
            "first": { "epoch": 1, "offset": first }, "last": { "epoch": 1, "offset": last },
        })
    };
    let mut facts = facts(&[(1, 1, "1"), (1, 2, "22"), (1, 3, "333"), (1, 4, "4444")]);
    facts.explained.insert(3);
    let check = |first, last, count| {
        let mut lines = subscribed("durable");
        lines.extend([message(1, 1, "1"), skipped(first, last), message(1, 4, "4444")]);
        assert_eq!(faults(lines.clone(), &facts).len(), count, "{first} to {last}: {:?}", faults(lines, &facts));
    };
    check(2, 3, 0);
    check(3, 3, 1);
    check(2, 2, 1);
    check(1, 3, 1);
}

#[test]
fn a_channel_that_keeps_nothing_still_delivers_once() {
    let mut lines = subscribed("none");
    lines.extend([message(1, 0, "x"), message(1, 0, "xx"), message(1, 0, "x")]);
    let found = faults(lines, &Facts::default());
    assert_eq!(found, ["a was given 1/0 of room twice, or behind a later one"]);
}

#[test]
fn what_was_queued_may_follow_a_close_and_is_still_in_order() {
    let mut lines = subscribed("durable");
    lines.extend([
        message(1, 1, "1"),
        json!({ "id": 2, "command": "close", "client": "a" }),
        json!({ "id": 2, "event": "done" }),
        message(1, 2, "22"),
    ]);
    let facts = facts(&[(1, 1, "1"), (1, 2, "22"), (1, 3, "333")]);
    assert_eq!(faults(lines.clone(), &facts), [""; 0]);
    assert_eq!(incomplete(&transcript(lines.clone()), &facts.stored), None);
    lines.push(message(1, 2, "22"));
    assert_eq!(faults(lines, &facts), ["a was given 1/2 of room twice, or behind a later one"]);
}

fn send(id: u64, text: &str, answer: Value) -> Vec<Value> {
    let mut answer = answer;
    answer["id"] = id.into();
    vec![
        json!({ "id": id, "command": "send", "client": "b", "channel": "room", "text": text }),
        json!({ "event": "submitted", "id": id }),
        answer,
    ]
}

#[test]
fn an_unknown_outcome_excuses_both_but_not_twice() {
    let unconfirmed = || json!({ "event": "failed", "error": { "kind": "unconfirmed" } });
    let refused = || json!({ "event": "failed", "error": { "kind": "timed-out" } });
    assert_eq!(faults(send(1, "x", unconfirmed()), &facts(&[])), [""; 0]);
    assert_eq!(faults(send(1, "x", unconfirmed()), &facts(&[(1, 1, "x")])), [""; 0]);
    assert_eq!(
        faults(send(1, "x", unconfirmed()), &facts(&[(1, 1, "x"), (1, 2, "x")])),
        ["b's \"x\" is stored 2 times in room"]
    );
    assert_eq!(
        faults(send(1, "x", refused()), &facts(&[(1, 1, "x")])),
        ["b's \"x\" failed for certain and is stored in room"]
    );
}

#[test]
fn what_nobody_sent_is_not_there() {
    let mut facts = facts(&[(1, 1, "x")]);
    facts.published.clear();
    assert_eq!(faults(Vec::new(), &facts), ["room has \"x\", which nobody sent"]);
    let done = json!({ "event": "done", "position": { "epoch": 1, "offset": 1 } });
    assert_eq!(faults(send(1, "x", done.clone()), &facts), [""; 0]);
    // Another user's message is another message.
    facts.users.insert("b".into(), "carol".into());
    assert_eq!(faults(send(1, "x", done), &facts).len(), 2);
}

#[test]
fn bad_news_has_to_be_expected() {
    let closed = json!({ "event": "state", "client": "a", "state": "closed", "error": { "kind": "refused" } });
    assert_eq!(faults(vec![closed.clone()], &Facts::default()).len(), 1);
    let explained = Facts { explained: BTreeSet::from([0]), ..Facts::default() };
    assert_eq!(faults(vec![closed], &explained), [""; 0]);
    let wanted = json!({ "event": "state", "client": "a", "state": "closed" });
    assert_eq!(faults(vec![wanted], &Facts::default()), [""; 0]);
}
