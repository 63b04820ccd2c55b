//! What a node is told unasked, and publishes from REST.

use millrace_protocol::id::Position;
use millrace_protocol::node::{MemberChanged, RevokedTokens, TenantKey, TokensRevoked};

use super::*;

fn revoked(id: &str, forget_after_ms: i64) -> TokensRevoked {
    TokensRevoked { tenant: tenant(), which: RevokedTokens::Token(id.into()), forget_after_ms }
}

#[tokio::test]
async fn revocations_and_keys_come_before_anything_else() {
    let world = World::new();
    let live = revoked("live", now_unix_ms() + 60_000);
    world
        .write(|transaction| {
            record::revocation::put(transaction, &live);
            record::revocation::put(transaction, &revoked("over", now_unix_ms() - 1));
        })
        .await;
    for number in 1..=40 {
        let of = TenantId::new(number).unwrap();
        for index in 0..2 {
            world.signing_key(of, &format!("{number}.{index}")).await;
        }
    }
    let mut node = world.greeted("node").await.unwrap();
    let id = node.send(NodeBody::Authorize(vec![])).await;
    assert_eq!(node.receive().await.body, NodeBody::TokensRevoked(live));
    let NodeBody::Keys(keys) = node.receive().await.body else { panic!("no keys") };
    assert_eq!(keys.len(), 80);
    assert_eq!(node.receive().await.body, NodeBody::Synced);
    assert_eq!(node.receive().await.id, id);
}

#[tokio::test]
async fn a_node_without_keys_is_told_that_there_are_none() {
    let world = World::new();
    let mut node = world.greeted("node").await.unwrap();
    assert_eq!(node.receive().await.body, NodeBody::Synced);
}

/// More keys than fit a frame come in several, no tenant's in two; what ends them is the only thing that says so.
#[tokio::test]
async fn many_keys_come_in_several_frames_and_their_end_is_told() {
    let world = World::new();
    for number in 1..=300 {
        let of = TenantId::new(number).unwrap();
        for index in 0..32 {
            world.signing_key(of, &format!("{number}.{index}")).await;
        }
    }
    let mut node = world.greeted("node").await.unwrap();
    let (mut frames, mut told) = (0, 0);
    let mut tenants = std::collections::HashSet::new();
    loop {
        match node.receive().await.body {
            NodeBody::Keys(keys) => {
                frames += 1;
                told += keys.len();
                let named: std::collections::HashSet<_> = keys.iter().map(|key| key.tenant).collect();
                assert!(named.iter().all(|&tenant| tenants.insert(tenant)), "a tenant's keys are in one frame");
            }
            NodeBody::Synced => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((frames, told), (2, 300 * 32));
}

/// Whatever order two requests announce in, the node ends with what the store says.
#[tokio::test]
async fn a_change_tells_the_newest_state() {
    let world = World::new();
    world.channel(1, HistoryClass::Durable).await;
    world.member(1, "ann", Some(Role::Reader)).await;
    world.signing_key(tenant(), "7.a").await;
    let mut node = world.node().await;
    let told = |membership| {
        NodeBody::MemberChanged(MemberChanged {
            tenant: tenant(),
            channel: channel_id(1),
            user: user("ann"),
            membership,
        })
    };
    // Announced late: meanwhile the member is a reader.
    world.server.announce(told(Some((Role::Owner, true))));
    assert_eq!(node.receive().await.body, told(Some((Role::Reader, false))));
    world.server.announce(told(None));
    assert_eq!(node.receive().await.body, told(Some((Role::Reader, false))));

    let named = |of: TenantId, id: &str| TenantKey { tenant: of, id: id.into(), key: None };
    world.server.announce(NodeBody::Keys(vec![named(tenant(), "7.b"), named(TenantId::new(8).unwrap(), "8.a")]));
    let NodeBody::Keys(keys) = node.receive().await.body else { panic!("no keys") };
    let found: Vec<_> = keys.iter().map(|key| (key.tenant.get(), &key.id[..], key.key.is_some())).collect();
    assert_eq!(found, [(7, "7.a", true), (8, "8.a", false)], "all keys of the tenants named, and that 8 has none");
}

#[tokio::test]
async fn changes_keep_their_order_and_too_many_end_the_link() {
    let world = World::new();
    let mut node = world.node().await;
    for number in 0..100 {
        world.server.announce(NodeBody::TokensRevoked(revoked(&format!("t{number}"), i64::MAX)));
    }
    for number in 0..100 {
        assert_eq!(node.receive().await.body, NodeBody::TokensRevoked(revoked(&format!("t{number}"), i64::MAX)));
    }
    // Nothing is awaited here, so the link has no turn to take them.
    for number in 0..=CHANGES_WAITING_MAX {
        world.server.announce(NodeBody::TokensRevoked(revoked(&format!("t{number}"), i64::MAX)));
    }
    while node.try_receive().await.is_some() {}
    assert_eq!(world.node().await.term.0, node.term.0 + 1, "it links anew");
    assert_eq!(world.metric("millrace_control_link_ends_total", "queue_full"), 1);
}

fn order(sequence: u64) -> PublishOrder {
    PublishOrder {
        tenant: tenant(),
        channel: channel_id(1),
        history: HistoryClass::Durable,
        message: message("ann", 1, sequence),
    }
}

#[tokio::test]
async fn publishes_reach_the_home_and_its_answer_comes_back() {
    let world = World::new();
    assert_eq!(world.server.publish(order(1)).await.unwrap_err().code, Code::Unavailable, "no node");

    let mut node = world.node().await;
    let at = |offset| {
        let position = Position { epoch: Epoch::FIRST, offset };
        PublishedAt { position, time_ms: 3, duplicate: false }
    };
    let both = tokio::spawn({
        let server = world.server.clone();
        async move { tokio::join!(server.publish(order(1)), server.publish(order(2)), server.publish(order(3))) }
    });
    let mut asked = Vec::new();
    for _ in 0..3 {
        let frame = node.receive().await;
        let NodeBody::Publish(order) = frame.body else { panic!("no publish") };
        asked.push((frame.id, order.message.sequence.get()));
    }
    // Answers overtake each other, one is a refusal, one is for nobody.
    for (id, sequence) in asked.into_iter().rev() {
        let body = match sequence {
            3 => NodeBody::Refused(Refusal::new(Code::Busy, "later")),
            _ => NodeBody::Published(Ok(at(sequence))),
        };
        node.send_frame(id, body).await;
    }
    node.send_frame(999, NodeBody::Published(Ok(at(9)))).await;
    let (first, second, third) = both.await.unwrap();
    assert_eq!((first, second), (Ok(at(1)), Ok(at(2))));
    assert_eq!(third.unwrap_err().code, Code::Busy);

    let cut = tokio::spawn({
        let server = world.server.clone();
        async move { server.publish(order(4)).await }
    });
    node.receive().await;
    drop(node);
    assert_eq!(cut.await.unwrap().unwrap_err().code, Code::UnknownOutcome, "the link was cut");
}

#[tokio::test]
async fn publishes_are_bounded_in_time_and_number() {
    let config = LinkConfig { publish_timeout: Duration::from_millis(20), publishes_max: 1, ..test_config() };
    let world = World::over(open_memory(), config);
    let _node = world.node().await;
    let (first, second) = tokio::join!(world.server.publish(order(1)), world.server.publish(order(2)));
    assert_eq!(first.unwrap_err().code, Code::UnknownOutcome);
    assert_eq!(second.unwrap_err().code, Code::Busy);
    assert!(world.server.0.active().unwrap().publishes().is_empty(), "who waits no more is forgotten");
}
