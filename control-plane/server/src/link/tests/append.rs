//! Appends.

use millrace_protocol::node::{AppendOutcome, ChannelAppend, ChannelAppended, Head};

use super::faulty::{Fate, FaultyStore};
use super::home::{append, open};
use super::*;

type Outcomes = Result<Vec<AppendOutcome>, Refusal>;

async fn send(node: &mut FakeNode, appends: Vec<ChannelAppend>) -> Vec<ChannelAppended> {
    match node.call(NodeBody::Append(appends)).await {
        NodeBody::Appended(appended) => appended,
        other => panic!("{other:?}"),
    }
}

async fn one(node: &mut FakeNode, head: &Head, messages: Vec<NewMessage>) -> Outcomes {
    let request = append(node, 1, head, messages);
    send(node, vec![request]).await.remove(0).result
}

fn stored(places: impl IntoIterator<Item = u64>) -> Outcomes {
    Ok(places.into_iter().map(|place| AppendOutcome::Stored(offset(place))).collect())
}

#[tokio::test]
async fn many_channels_in_one_frame() {
    let world = World::new();
    for number in 1..=300 {
        world.channel(number, HistoryClass::Durable).await;
    }
    let mut node = world.node().await;
    let all = (1..=300).map(channel_id).collect();
    let NodeBody::HomesOpened(heads) = node.call(NodeBody::OpenHomes(all)).await else { panic!("no answer") };
    let mut heads: Vec<Head> = heads.into_iter().map(|(_, head)| head.unwrap()).collect();
    let before = world.store.stats();
    for round in 0..3 {
        let batch = |head: &Head, number: u64| {
            append(&node, number, head, vec![message("ann", 1, round * 2 + 1), message("ann", 1, round * 2 + 2)])
        };
        let appends = heads.iter().zip(1..).map(|(head, number)| batch(head, number)).collect();
        for (appended, head) in send(&mut node, appends).await.into_iter().zip(&mut heads) {
            assert_eq!(appended.result, stored([round * 2 + 1, round * 2 + 2]));
            head.next_offset = head.next_offset.plus(2);
        }
    }
    let after = world.store.stats();
    assert_eq!(after.commits - before.commits, 3 * 5, "64 channels share a transaction");
    assert_eq!(world.metric("millrace_control_append_messages_total", "stored"), 1800);
}

/// A group of channels is stored together or, when one of them is in the way, each for itself.
#[tokio::test]
async fn channels_of_one_transaction_have_their_own_answers() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    for number in 1..=4 {
        world.channel(number, HistoryClass::Durable).await;
    }
    let mut node = world.node().await;
    let mut heads = Vec::new();
    for number in 1..=3 {
        heads.push(open(&mut node, number).await.unwrap());
    }
    // Of four channels the second repeats what it sent, the third is behind, the fourth is not open.
    let repeated = append(&node, 2, &heads[1], vec![message("ann", 1, 1)]);
    assert_eq!(send(&mut node, vec![repeated]).await.remove(0).result, stored([1]));
    heads[1].next_offset = offset(2);
    heads[2].next_offset = offset(7);
    let before = world.metric("millrace_control_append_messages_total", "stored");
    let mut check = async |fates: &[Fate], sequence: u64, expect: [Result<AppendOutcome, Code>; 4]| {
        store.next_commits(fates.iter().copied());
        let first = Head { next_offset: offset(sequence), ..heads[0].clone() };
        let appends = vec![
            append(&node, 1, &first, vec![message("ann", 1, sequence)]),
            append(&node, 2, &heads[1], vec![message("ann", 1, 1)]),
            append(&node, 3, &heads[2], vec![message("ann", 1, 1)]),
            append(&node, 4, &heads[0], vec![message("ann", 1, 1)]),
        ];
        let results: Vec<_> = send(&mut node, appends).await.into_iter().map(|appended| appended.result).collect();
        let results = results.into_iter().map(|result| result.map(|one| one[0]).map_err(|refusal| refusal.code));
        assert_eq!(results.collect::<Vec<_>>(), expect, "{fates:?}");
    };
    let again = Ok(AppendOutcome::Duplicate(Some(offset(1))));
    let outdated = Err(Code::UnknownOutcome);
    let stored_at = |place| Ok(AppendOutcome::Stored(offset(place)));
    check(&[], 1, [stored_at(1), again, outdated, outdated]).await;
    check(&[Fate::Conflict], 2, [stored_at(2), again, outdated, outdated]).await;
    check(&[Fate::Conflict, Fate::Conflict], 3, [stored_at(3), again, outdated, outdated]).await;
    check(&[Fate::Fail], 4, [Err(Code::Unavailable), Err(Code::Unavailable), outdated, outdated]).await;
    check(&[], 4, [stored_at(4), again, outdated, outdated]).await;
    // Not even the repeated one is answered with what was read: nobody has said that it was so.
    check(&[Fate::WrittenUnknown], 5, [outdated, outdated, outdated, outdated]).await;
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!(head.next_offset, offset(6), "it was stored");
    assert_eq!(world.metric("millrace_control_append_messages_total", "stored") - before, 4);
}

/// The same channel twice in one frame: the second append sees the first.
#[tokio::test]
async fn a_channel_may_come_twice_in_a_frame() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    let next = Head { next_offset: offset(2), ..head.clone() };
    let twice = vec![
        append(&node, 1, &head, vec![message("ann", 1, 1)]),
        append(&node, 1, &next, vec![message("ann", 1, 2)]),
        append(&node, 1, &next, vec![message("ann", 1, 3)]),
    ];
    let results: Vec<_> = send(&mut node, twice).await.into_iter().map(|appended| appended.result).collect();
    assert_eq!(results[..2], [stored([1]), stored([2])]);
    assert_eq!(results[2].as_ref().unwrap_err().code, Code::UnknownOutcome, "where it was sent from is taken");
}

#[tokio::test]
async fn an_old_term_appends_no_more() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    let mut old = world.node().await;
    let head = open(&mut old, 1).await.unwrap();
    assert_eq!(one(&mut old, &head, vec![message("ann", 1, 1)]).await, stored([1]));
    let late = append(&old, 1, &Head { next_offset: offset(2), ..head.clone() }, vec![message("ann", 1, 2)]);
    drop(old);

    let mut new = world.node().await;
    let before = open(&mut new, 1).await.unwrap();
    assert_eq!(before.next_offset, offset(2));
    let refused = send(&mut new, vec![late]).await.remove(0).result.unwrap_err();
    assert_eq!(refused.code, Code::Fenced);
    assert_eq!(one(&mut new, &before, vec![message("ann", 1, 2)]).await, stored([2]));
    // Not open, wrong epoch, wrong offset.
    world.channel(2, HistoryClass::Durable).await;
    let unopened = append(&new, 2, &head, vec![message("ann", 1, 1)]);
    let epoch_ahead = append(&new, 1, &Head { epoch: epoch(2), next_offset: offset(3), ..head.clone() }, vec![]);
    let offset_behind = append(&new, 1, &before, vec![message("ann", 1, 3)]);
    for appended in send(&mut new, vec![unopened, epoch_ahead, offset_behind]).await {
        assert_eq!(appended.result.unwrap_err().code, Code::UnknownOutcome, "open again and see");
    }
    assert_eq!(world.metric("millrace_control_homes_outdated_total", ""), 4);
    assert_eq!(world.metric("millrace_control_appends_refused_total", "fenced"), 1);
}

#[tokio::test]
async fn what_does_not_fit_into_a_transaction_is_stored_in_order() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    let large = |sequence| NewMessage { body: vec![7; 60_000].into(), ..message("ann", 1, sequence) };
    let batch: Vec<_> = (1..=60).map(large).collect();
    assert_eq!(one(&mut node, &head, batch).await, stored(1..=60));
    // More producers than one transaction may read.
    let head = Head { next_offset: offset(61), ..head };
    let batch: Vec<_> = (1..=5000).map(|producer| message("bob", producer, 1)).collect();
    assert_eq!(one(&mut node, &head, batch).await, stored(61..=5060));

    // The second part fails: the first is stored, so the answer must not be that nothing is.
    let head = Head { next_offset: offset(5061), ..head };
    let batch: Vec<_> = (61..=90).map(large).collect();
    store.next_commits([Fate::Conflict, Fate::WrittenUnknown]);
    assert_eq!(one(&mut node, &head, batch.clone()).await.unwrap_err().code, Code::UnknownOutcome);
    let head = open(&mut node, 1).await.unwrap();
    let first_part = head.next_offset.get() - 5061;
    assert!((1..30).contains(&first_part), "{first_part}");
    let outcomes = one(&mut node, &head, batch).await.unwrap();
    for (index, outcome) in (0..).zip(&outcomes) {
        let expect = match index < first_part {
            true => AppendOutcome::Duplicate(Some(offset(5061 + index))),
            false => AppendOutcome::Stored(offset(5061 + index)),
        };
        assert_eq!(*outcome, expect, "{index}");
    }
}

#[tokio::test]
async fn store_failures_have_an_honest_answer() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let mut head = open(&mut node, 1).await.unwrap();
    let mut check = async |fates: &[Fate], expect: Result<AppendOutcome, Code>, next: u64| {
        store.next_commits(fates.iter().copied());
        let result = one(&mut node, &head, vec![message("ann", 1, 1)]).await;
        assert_eq!(result.map(|outcomes| outcomes[0]).map_err(|refusal| refusal.code), expect, "{fates:?}");
        head = open(&mut node, 1).await.unwrap();
        assert_eq!(head.next_offset.get(), next, "{fates:?}");
    };
    check(&[Fate::Fail], Err(Code::Unavailable), 1).await;
    check(&[Fate::Conflict; ATTEMPTS_MAX as usize], Err(Code::Busy), 1).await;
    check(&[Fate::LostUnknown], Err(Code::UnknownOutcome), 1).await;
    check(&[Fate::Conflict, Fate::WrittenUnknown], Err(Code::UnknownOutcome), 2).await;
    check(&[], Ok(AppendOutcome::Duplicate(Some(offset(1)))), 2).await;
}

/// Rows of producers expire; while they live, the sweep finds out and enters them again.
#[tokio::test]
async fn producers_are_forgotten_after_their_time() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!(one(&mut node, &head, vec![message("ann", 1, 1)]).await, stored([1]));
    let head = Head { next_offset: offset(2), ..head };
    let sweep = |now_ms| record::expiry::sweep(&*world.store, now_ms, 1000);

    let day_ms = 24 * 3600 * 1000;
    assert_eq!(sweep(now_unix_ms() + 6 * day_ms).await.unwrap().removed, 0);
    let outcome = one(&mut node, &head, vec![message("ann", 1, 1)]).await.unwrap();
    assert_eq!(outcome, [AppendOutcome::Duplicate(Some(offset(1)))]);
    assert_eq!(sweep(now_unix_ms() + 8 * day_ms).await.unwrap().removed, 1);
    let outcome = one(&mut node, &head, vec![message("ann", 1, 2)]).await.unwrap();
    assert_eq!(outcome, [AppendOutcome::OutOfOrder { expected: ProducerSequence::FIRST }]);
}
