//! Homes open and give back channels.

use millrace_protocol::node::{ChannelAppend, CloseHome, Head};

use super::faulty::{Fate, FaultyStore};
use super::*;

pub(super) async fn open(node: &mut FakeNode, number: u64) -> Result<Head, Refusal> {
    match node.call(NodeBody::OpenHomes(vec![channel_id(number)])).await {
        NodeBody::HomesOpened(mut opened) => {
            let (channel, result) = opened.pop().unwrap();
            assert!(opened.is_empty() && channel == channel_id(number));
            result
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn append(node: &FakeNode, number: u64, head: &Head, messages: Vec<NewMessage>) -> ChannelAppend {
    ChannelAppend {
        channel: channel_id(number),
        term: node.term,
        epoch: head.epoch,
        expected_offset: head.next_offset,
        messages,
    }
}

async fn store(node: &mut FakeNode, number: u64, head: &Head, messages: Vec<NewMessage>) {
    let NodeBody::Appended(appended) = node.call(NodeBody::Append(vec![append(node, number, head, messages)])).await
    else {
        panic!("no answer")
    };
    appended[0].result.as_ref().unwrap();
}

async fn close(node: &mut FakeNode, number: u64, head: &Head, next: u64) {
    let home = CloseHome { channel: channel_id(number), term: node.term, epoch: head.epoch, next_offset: offset(next) };
    assert_eq!(node.call(NodeBody::CloseHomes(vec![home])).await, NodeBody::HomesClosed);
}

#[tokio::test]
async fn a_home_opens_what_exists_and_is_not_archived() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    world.channel(2, HistoryClass::None).await;
    world.channel(3, HistoryClass::Durable).await;
    world.archive(3, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let first = Head {
        epoch: Epoch::FIRST,
        next_offset: Offset::FIRST,
        first_offset: Offset::FIRST,
        epoch_first_offset: Offset::FIRST,
        history: HistoryClass::Durable,
        producers: vec![],
    };
    assert_eq!(open(&mut node, 1).await.unwrap(), first);
    assert_eq!(open(&mut node, 1).await.unwrap(), first, "again, under the same term");
    assert_eq!(open(&mut node, 2).await.unwrap(), Head { history: HistoryClass::None, ..first });
    assert_eq!(open(&mut node, 3).await.unwrap_err().code, Code::Archived);
    assert_eq!(open(&mut node, 9).await.unwrap_err().code, Code::NoAccess);

    let all = (1..=3).map(channel_id).collect::<Vec<_>>();
    let NodeBody::HomesOpened(opened) = node.call(NodeBody::OpenHomes(all.clone())).await else { panic!("no answer") };
    assert_eq!(opened.iter().map(|(channel, _)| *channel).collect::<Vec<_>>(), all, "in the order asked");
}

#[tokio::test]
async fn a_windowed_channel_begins_an_epoch_unless_it_was_closed() {
    let world = World::new();
    world.channel(1, HistoryClass::Windowed).await;
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    store(&mut node, 1, &head, vec![message("ann", 1, 1), message("bob", 1, 1), message("ann", 1, 2)]).await;
    close(&mut node, 1, &head, 4).await;

    drop(node);
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!((head.epoch, head.next_offset, head.epoch_first_offset), (epoch(1), offset(4), offset(1)));
    let mut known: Vec<_> =
        head.producers.iter().map(|one| (one.user.as_str(), one.sequence.get(), one.offset.get())).collect();
    known.sort_unstable();
    assert_eq!(known, [("ann", 2, 3), ("bob", 1, 2)], "a clean restart forgets no producer");

    // It says that it delivered one more than it stored: nothing is clean about that.
    close(&mut node, 1, &head, 5).await;
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!((head.epoch, head.next_offset, head.epoch_first_offset), (epoch(2), offset(4), offset(4)));

    drop(node);
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!((head.epoch, head.next_offset, head.first_offset), (epoch(3), offset(4), offset(1)));
}

/// More producers than a scan gives and a home is told of: it hears of those that stored last.
#[tokio::test]
async fn a_home_hears_of_the_producers_that_stored_last() {
    let world = World::new();
    world.channel(1, HistoryClass::Windowed).await;
    let mut node = world.node().await;
    let head = open(&mut node, 1).await.unwrap();
    // Descending numbers: the rows that are read first belong to those that stored last, and the other way round.
    let batch = (1..=9000).map(|number| message("ann", if number % 2 == 0 { number } else { 20_000 - number }, 1));
    store(&mut node, 1, &head, batch.collect()).await;
    close(&mut node, 1, &head, 9001).await;
    let head = open(&mut node, 1).await.unwrap();
    let mut offsets: Vec<_> = head.producers.iter().map(|producer| producer.offset.get()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (9001 - 4096..=9000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_durable_channel_keeps_its_epoch_however_its_home_ends() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    for round in 1..4 {
        let mut node = world.node().await;
        let head = open(&mut node, 1).await.unwrap();
        assert_eq!((head.epoch, head.next_offset.get()), (epoch(1), round));
        store(&mut node, 1, &head, vec![message("ann", 1, round)]).await;
    }
}

#[tokio::test]
async fn opening_wins_races_and_reports_what_it_cannot_know() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    store.next_commits([Fate::Conflict, Fate::Conflict]);
    assert!(open(&mut node, 1).await.is_ok());
    for fate in [Fate::Fail, Fate::LostUnknown, Fate::WrittenUnknown] {
        store.next_commits([fate]);
        assert_eq!(open(&mut node, 1).await.unwrap_err().code, Code::Unavailable, "{fate:?}");
    }
    store.next_commits([Fate::Conflict; ATTEMPTS_MAX as usize]);
    assert_eq!(open(&mut node, 1).await.unwrap_err().code, Code::Busy);
    assert!(open(&mut node, 1).await.is_ok());
}
