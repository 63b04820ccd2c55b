//! Grants, and that none is older than a change which the node has been told.

use millrace_protocol::node::{Authorize, ChannelRef, Grant, MemberChanged};

use super::faulty::FaultyStore;
use super::*;
use crate::record::key;

fn by_id(of: TenantId, name: &str, number: u64) -> Authorize {
    Authorize { tenant: of, user: user(name), channel: ChannelRef::Id(channel_id(number)) }
}

fn by_name(name: &str, channel: &str) -> Authorize {
    let channel = ChannelRef::Name(ChannelName::new(channel).unwrap());
    Authorize { tenant: tenant(), user: user(name), channel }
}

async fn ask(node: &mut FakeNode, asked: Vec<Authorize>) -> Vec<Result<Grant, Refusal>> {
    match node.call(NodeBody::Authorize(asked)).await {
        NodeBody::Authorized(grants) => grants,
        other => panic!("{other:?}"),
    }
}

fn member_changed(number: u64, name: &str, membership: Option<(Role, bool)>) -> NodeBody {
    NodeBody::MemberChanged(MemberChanged {
        tenant: tenant(),
        channel: channel_id(number),
        user: user(name),
        membership,
    })
}

#[tokio::test]
async fn members_get_grants_and_others_learn_nothing() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    world.channel(2, HistoryClass::Windowed).await;
    world.channel(3, HistoryClass::Durable).await;
    world.archive(3, HistoryClass::Durable).await;
    world.member(1, "ann", Some(Role::Reader)).await;
    world.member(2, "ann", Some(Role::Member)).await;
    world.member(3, "ann", Some(Role::Owner)).await;
    let mut node = world.node().await;
    let stranger = TenantId::new(8).unwrap();
    let asked = vec![
        by_id(tenant(), "ann", 1),
        by_name("ann", "c2"),
        by_id(tenant(), "bob", 1),
        by_name("ann", "nowhere"),
        by_id(tenant(), "ann", 99),
        by_id(stranger, "ann", 1),
        by_id(tenant(), "ann", 3),
    ];
    let grants = ask(&mut node, asked).await;
    let reader = grants[0].as_ref().unwrap();
    assert_eq!((reader.channel, reader.role, reader.can_publish), (channel_id(1), Role::Reader, false));
    let member = grants[1].as_ref().unwrap();
    assert_eq!((member.channel, member.history, member.can_publish), (channel_id(2), HistoryClass::Windowed, true));
    let nothing = grants[2].as_ref().unwrap_err();
    assert_eq!(nothing.code, Code::NoAccess);
    assert!(grants[2..6].iter().all(|grant| grant.as_ref() == Err(nothing)), "one refusal for all: {grants:?}");
    assert_eq!(grants[6].as_ref().unwrap_err().code, Code::Archived);

    let many = (0..2000).map(|index| by_id(tenant(), "ann", 1 + index % 2)).collect();
    let grants = ask(&mut node, many).await;
    assert!(
        grants
            .iter()
            .enumerate()
            .all(|(index, grant)| { grant.as_ref().is_ok_and(|grant| grant.channel.get() == 1 + index as u64 % 2) })
    );
    assert!(ask(&mut node, vec![]).await.is_empty());
}

/// The race: a look-up has read a membership, then the membership ends and the node is told, then the look-up goes on.
#[tokio::test]
async fn a_grant_is_never_queued_behind_the_change_that_ended_it() {
    for by in [by_id(tenant(), "ann", 1), by_name("ann", "c1")] {
        let store = FaultyStore::new();
        let world = World::over(store.clone(), test_config());
        world.channel(1, HistoryClass::Durable).await;
        world.member(1, "ann", Some(Role::Member)).await;
        let mut node = world.node().await;

        let hold = store.hold_next_read(key::member(channel_id(1), &user("ann")));
        let id = node.send(NodeBody::Authorize(vec![by])).await;
        hold.reached.notified().await;
        world.member(1, "ann", None).await;
        world.server.announce(member_changed(1, "ann", None));
        let told = node.receive().await;
        assert_eq!(told.body, member_changed(1, "ann", None), "the change is not held up by the look-up");
        hold.release.notify_one();

        let NodeBody::Authorized(grants) = node.reply(id).await else { panic!("no answer") };
        assert_eq!(grants[0].as_ref().unwrap_err().code, Code::NoAccess, "the old grant was looked up again");
        assert_eq!(world.metric("millrace_control_link_lookups_repeated_total", ""), 1);
    }
}

/// The other order: the answer is queued first, then the change follows it.
#[tokio::test]
async fn a_change_follows_the_grant_that_it_ends() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    world.member(1, "ann", Some(Role::Member)).await;
    let mut node = world.node().await;
    assert!(ask(&mut node, vec![by_id(tenant(), "ann", 1)]).await[0].is_ok());
    world.member(1, "ann", None).await;
    world.server.announce(member_changed(1, "ann", None));
    assert_eq!(node.receive().await.body, member_changed(1, "ann", None));
}

/// Changes that concern nobody who was asked about cost no second look-up.
#[tokio::test]
async fn only_what_a_change_concerns_is_looked_up_again() {
    let store = FaultyStore::new();
    let world = World::over(store.clone(), test_config());
    for number in 1..=3 {
        world.channel(number, HistoryClass::Durable).await;
        world.member(number, "ann", Some(Role::Member)).await;
    }
    world.member(2, "bob", Some(Role::Member)).await;
    let mut node = world.node().await;
    let hold = store.hold_next_read(key::member(channel_id(3), &user("ann")));
    let asked = (1..=3).map(|number| by_id(tenant(), "ann", number)).collect();
    let id = node.send(NodeBody::Authorize(asked)).await;
    hold.reached.notified().await;
    world.server.announce(member_changed(2, "bob", Some((Role::Member, true))));
    node.receive().await;
    world.archive(1, HistoryClass::Durable).await;
    let name = ChannelName::new("c1").unwrap();
    let archived = NodeBody::ChannelChanged { tenant: tenant(), channel: channel_id(1), name, archived: true };
    world.server.announce(archived.clone());
    assert_eq!(node.receive().await.body, archived);
    hold.release.notify_one();
    let NodeBody::Authorized(grants) = node.reply(id).await else { panic!("no answer") };
    assert_eq!(grants[0].as_ref().unwrap_err().code, Code::Archived);
    assert!(grants[1].is_ok() && grants[2].is_ok());
    assert_eq!(world.metric("millrace_control_link_lookups_repeated_total", ""), 1);
}
