//! Read positions: stored together, told to every session, never taken back.

use millrace_protocol::id::Position;
use millrace_protocol::node::{Authorize, ChannelRef, Head, ReadMark};

use super::faulty::{Fate, FaultyStore};
use super::home::{append, open};
use super::*;
use crate::record::key;

fn at(offset: u64) -> Position {
    Position { epoch: Epoch::FIRST, offset }
}

fn mark(number: u64, name: &str, offset: u64) -> ReadMark {
    ReadMark { tenant: tenant(), user: user(name), channel: channel_id(number), position: at(offset) }
}

async fn send(node: &mut FakeNode, marks: Vec<ReadMark>) -> Vec<Result<Position, Code>> {
    match node.call(NodeBody::MarkReads(marks)).await {
        NodeBody::ReadsMarked(results) => {
            results.into_iter().map(|result| result.map_err(|refusal| refusal.code)).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn granted(node: &mut FakeNode, number: u64, name: &str) -> Option<Position> {
    let asked = Authorize { tenant: tenant(), user: user(name), channel: ChannelRef::Id(channel_id(number)) };
    match node.call(NodeBody::Authorize(vec![asked])).await {
        NodeBody::Authorized(grants) => grants.into_iter().next().unwrap().unwrap().read,
        other => panic!("{other:?}"),
    }
}

/// A channel with so many messages, opened by the node.
async fn filled(world: &World, node: &mut FakeNode, number: u64, history: HistoryClass, messages: u64) -> Head {
    world.channel(number, history).await;
    let head = open(node, number).await.unwrap();
    let batch = (1..=messages).map(|sequence| message("bob", 1, sequence)).collect();
    let request = append(node, number, &head, batch);
    let NodeBody::Appended(appended) = node.call(NodeBody::Append(vec![request])).await else { panic!("no answer") };
    appended[0].result.as_ref().unwrap();
    head
}

#[tokio::test]
async fn marks_of_a_frame_are_stored_answered_and_told() {
    let world = World::new();
    let mut node = world.node().await;
    filled(&world, &mut node, 1, HistoryClass::Durable, 5).await;
    filled(&world, &mut node, 2, HistoryClass::Windowed, 3).await;
    world.channel(3, HistoryClass::None).await;
    for number in 1..=3 {
        world.member(number, "ann", Some(Role::Reader)).await;
    }
    assert_eq!(granted(&mut node, 1, "ann").await, None);
    let before = world.store.stats().commits;
    let foreign = ReadMark { tenant: TenantId::new(8).unwrap(), ..mark(1, "ann", 1) };
    let marks = vec![
        mark(1, "ann", 4),
        mark(2, "ann", 9),
        mark(3, "ann", 1),
        mark(1, "ann", 6),
        mark(1, "bob", 1),
        mark(77, "ann", 1),
        foreign,
        mark(1, "ann", 2),
    ];
    let results = send(&mut node, marks).await;
    assert_eq!(
        results,
        [
            Ok(at(4)),
            Ok(at(9)), // delivered before it is stored
            Err(Code::NoHistory),
            Err(Code::PositionAhead),
            Err(Code::NoAccess),
            Err(Code::NoAccess),
            Err(Code::NoAccess),
            Ok(at(4)),
        ]
    );
    assert_eq!(world.store.stats().commits - before, 1, "one transaction");
    let told = NodeBody::ReadsMoved(vec![mark(1, "ann", 4), mark(2, "ann", 9), mark(1, "ann", 4)]);
    assert_eq!(node.receive().await.body, told);
    assert_eq!((granted(&mut node, 1, "ann").await, granted(&mut node, 2, "ann").await), (Some(at(4)), Some(at(9))));
    // What is told after the answer does not lag behind a link that begins anew either.
    assert_eq!(send(&mut node, vec![mark(1, "ann", 0), mark(2, "ann", 0)]).await, [Ok(at(4)), Ok(at(9))]);
    assert!(send(&mut node, Vec::new()).await.is_empty());
}

#[tokio::test]
async fn a_membership_that_ends_takes_its_position_with_it() {
    let world = World::new();
    let mut node = world.node().await;
    filled(&world, &mut node, 1, HistoryClass::Durable, 5).await;
    world.member(1, "ann", Some(Role::Member)).await;
    assert_eq!(send(&mut node, vec![mark(1, "ann", 3)]).await, [Ok(at(3))]);
    world.member(1, "ann", None).await;
    assert_eq!(send(&mut node, vec![mark(1, "ann", 4)]).await, [Err(Code::NoAccess)]);
    world.member(1, "ann", Some(Role::Member)).await;
    assert_eq!(granted(&mut node, 1, "ann").await, None);
}

#[tokio::test]
async fn a_windowed_channel_that_lost_messages_is_read_up_to_where_it_begins_anew() {
    let world = World::new();
    let mut node = world.node().await;
    filled(&world, &mut node, 1, HistoryClass::Windowed, 5).await;
    world.member(1, "ann", Some(Role::Member)).await;
    assert_eq!(send(&mut node, vec![mark(1, "ann", 9)]).await, [Ok(at(9))]);
    // The node forgot that it has the channel: what it had delivered beyond 5 is lost.
    let head = open(&mut node, 1).await.unwrap();
    assert_eq!((head.epoch.get(), head.epoch_first_offset.get()), (2, 6));
    let anew = Position { epoch: head.epoch, offset: 5 };
    assert_eq!(granted(&mut node, 1, "ann").await, Some(anew));
    assert_eq!(send(&mut node, vec![mark(1, "ann", 8)]).await, [Ok(anew)], "of the old epoch");
}

/// The race of a look-up with a mark: told behind the mark, the older grant would take it back. Members mark all the time, so the
/// look-up is not made again for it.
#[tokio::test]
async fn a_grant_is_never_queued_behind_the_mark_that_outdates_it() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    let mut node = world.node().await;
    filled(&world, &mut node, 1, HistoryClass::Durable, 5).await;
    world.member(1, "ann", Some(Role::Member)).await;
    let hold = store.hold_next_read(key::member(channel_id(1), &user("ann")));
    let asked = Authorize { tenant: tenant(), user: user("ann"), channel: ChannelRef::Id(channel_id(1)) };
    let id = node.send(NodeBody::Authorize(vec![asked])).await;
    hold.reached.notified().await;
    for offset in [3, 5] {
        assert_eq!(send(&mut node, vec![mark(1, "ann", offset)]).await, [Ok(at(offset))]);
        assert_eq!(node.receive().await.body, NodeBody::ReadsMoved(vec![mark(1, "ann", offset)]));
    }
    hold.release.notify_one();
    let NodeBody::Authorized(grants) = node.reply(id).await else { panic!("no answer") };
    assert_eq!(grants[0].as_ref().unwrap().read, Some(at(5)));
    assert_eq!(world.metric("millrace_control_link_lookups_repeated_total", ""), 0);
}

/// A commit that landed without anybody hearing of it: the node marks again, and then everybody hears.
#[tokio::test]
async fn an_unknown_outcome_is_answered_unavailable_and_settled_by_the_next_mark() {
    for fate in [Fate::WrittenUnknown, Fate::LostUnknown] {
        let store = FaultyStore::new();
        let world = World::over(store.clone(), test_config());
        let mut node = world.node().await;
        filled(&world, &mut node, 1, HistoryClass::Durable, 5).await;
        world.member(1, "ann", Some(Role::Member)).await;
        store.next_commits([fate]);
        assert_eq!(send(&mut node, vec![mark(1, "ann", 5)]).await, [Err(Code::Unavailable)]);
        store.next_commits([Fate::Conflict]);
        assert_eq!(send(&mut node, vec![mark(1, "ann", 5)]).await, [Ok(at(5))], "a conflict is no outcome");
        assert_eq!(node.receive().await.body, NodeBody::ReadsMoved(vec![mark(1, "ann", 5)]));
    }
}
