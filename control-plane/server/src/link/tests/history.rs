//! Pages of history.

use millrace_protocol::node::{AppendOutcome, Head, HistoryRange, ReadHistory};

use super::home::{append, open};
use super::*;

async fn page(node: &mut FakeNode, range: HistoryRange, messages_max: u32, bytes_max: u32) -> (Vec<u64>, bool) {
    let read = ReadHistory { channel: channel_id(1), messages_max, bytes_max, range };
    match node.call(NodeBody::ReadHistory(read)).await {
        NodeBody::History(history) => {
            for stored in &history.messages {
                assert_eq!(stored.message.sequence.get(), stored.offset.get());
                assert_eq!(stored.epoch, Epoch::FIRST);
            }
            (history.messages.iter().map(|stored| stored.offset.get()).collect(), history.more)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pages_go_both_ways_within_their_limits() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    assert_eq!(page(&mut node, HistoryRange::Newest, 10, 1000).await, (vec![], false), "no head");
    let head = open(&mut node, 1).await.unwrap();
    for range in [HistoryRange::Newest, HistoryRange::After(0), HistoryRange::Before(offset(1))] {
        assert_eq!(page(&mut node, range, 10, 1000).await, (vec![], false), "no message");
    }
    let batch = (1..=1500).map(|sequence| NewMessage { body: vec![1; 100].into(), ..message("ann", 1, sequence) });
    let request = append(&node, 1, &head, batch.collect());
    let NodeBody::Appended(appended) = node.call(NodeBody::Append(vec![request])).await else { panic!("no answer") };
    assert_eq!(appended[0].result.as_ref().unwrap()[1499], AppendOutcome::Stored(offset(1500)));

    let mut check = async |range, messages_max, bytes_max, expect: std::ops::RangeInclusive<u64>, more| {
        let found = page(&mut node, range, messages_max, bytes_max).await;
        assert_eq!(found, (expect.collect(), more), "{range:?} {messages_max} {bytes_max}");
    };
    let plenty = 1 << 20;
    check(HistoryRange::Newest, 3, plenty, 1498..=1500, true).await;
    check(HistoryRange::Newest, 5000, plenty, 501..=1500, true).await;
    check(HistoryRange::Newest, 100, 250, 1499..=1500, true).await;
    check(HistoryRange::Newest, 100, 0, 1500..=1500, true).await;
    check(HistoryRange::Newest, 0, plenty, 1500..=1500, true).await;
    check(HistoryRange::Before(offset(501)), 500, plenty, 1..=500, false).await;
    check(HistoryRange::Before(offset(502)), 500, plenty, 2..=501, true).await;
    check(HistoryRange::Before(offset(2)), 5, plenty, 1..=1, false).await;
    #[expect(clippy::reversed_empty_ranges, reason = "nothing is before the first")]
    check(HistoryRange::Before(offset(1)), 5, plenty, 1..=0, false).await;
    check(HistoryRange::Before(offset(u64::MAX)), 2, plenty, 1499..=1500, true).await;
    check(HistoryRange::After(0), 100, plenty, 1..=100, true).await;
    check(HistoryRange::After(1400), 100, plenty, 1401..=1500, false).await;
    check(HistoryRange::After(1399), 100, plenty, 1400..=1499, true).await;
    check(HistoryRange::After(10), 100, 1000, 11..=20, true).await;
    check(HistoryRange::After(10), 100, 1, 11..=11, true).await;
    #[expect(clippy::reversed_empty_ranges, reason = "nothing is after the last")]
    check(HistoryRange::After(1500), 5, plenty, 1..=0, false).await;
    #[expect(clippy::reversed_empty_ranges, reason = "nothing is there")]
    check(HistoryRange::After(u64::MAX), 5, plenty, 1..=0, false).await;
}

/// Many pages at once: requests are bounded by the room for their replies, and all are answered.
#[tokio::test]
async fn a_node_that_asks_much_is_answered_as_it_reads() {
    let config = LinkConfig { queue_bytes_max: 64 << 10, requests_bytes_max: 256 << 10, ..test_config() };
    let world = World::over(open_memory(), config);
    world.channel(1, HistoryClass::Durable).await;
    let mut node = world.node().await;
    let head: Head = open(&mut node, 1).await.unwrap();
    let batch = (1..=20).map(|sequence| NewMessage { body: vec![1; 10_000].into(), ..message("ann", 1, sequence) });
    let request = append(&node, 1, &head, batch.collect());
    node.call(NodeBody::Append(vec![request])).await;
    let range = HistoryRange::Newest;
    let read = ReadHistory { channel: channel_id(1), messages_max: 20, bytes_max: 1 << 20, range };
    let mut waiting = std::collections::HashSet::new();
    for _ in 0..100 {
        waiting.insert(node.send(NodeBody::ReadHistory(read)).await);
    }
    while !waiting.is_empty() {
        let frame = node.receive().await;
        assert!(matches!(&frame.body, NodeBody::History(history) if history.messages.len() == 20));
        assert!(waiting.remove(&frame.id));
    }
}
