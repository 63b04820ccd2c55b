//! What a data node is asked in an operator's name.

use std::time::Duration;

use millrace_protocol::node::NodeFigures;

use super::*;
use crate::data_plane::DataPlane;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_answer_reaches_whoever_asked() {
    let world = World::new();
    let ask = |question: NodeBody| world.server.ask("node", question, PATIENCE);
    assert_eq!(ask(NodeBody::Report).await.unwrap_err().code, Code::Unavailable, "nobody is linked");
    let mut node = world.node().await;
    let linked = world.server.nodes();
    assert_eq!((linked[0].name.as_str(), linked[0].term, linked[0].ready), ("node", node.term, true));
    assert_eq!((linked[0].endpoints.as_slice(), linked.len()), (&["ws://localhost".to_owned()][..], 1));
    assert!(linked[0].linked_ms > 0);

    let figures = NodeFigures { connections: 3, ..NodeFigures::default() };
    let answering = async {
        // In the other order than they were asked.
        let (first, second) = (node.receive().await, node.receive().await);
        assert_eq!((&first.body, &second.body), (&NodeBody::Report, &NodeBody::Drain { over_ms: 5 }));
        node.send_frame(second.id, NodeBody::Draining).await;
        node.send_frame(first.id, NodeBody::Reported(figures.clone())).await;
        let third = node.receive().await;
        node.send_frame(third.id, NodeBody::Refused(Refusal::new(Code::Busy, "later"))).await;
        // An answer to nobody is dropped.
        node.send_frame(99, NodeBody::Draining).await;
    };
    let asking = async {
        let (report, drain) = tokio::join!(ask(NodeBody::Report), ask(NodeBody::Drain { over_ms: 5 }));
        assert_eq!((report, drain), (Ok(NodeBody::Reported(figures.clone())), Ok(NodeBody::Draining)));
        assert_eq!(ask(NodeBody::Report).await.unwrap_err(), Refusal::new(Code::Busy, "later"));
    };
    tokio::join!(answering, asking);
    assert_eq!(world.server.ask("another", NodeBody::Report, PATIENCE).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn nobody_waits_for_ever_and_not_too_many_wait() {
    let world = World::new();
    let node = world.node().await;
    let short = world.server.ask("node", NodeBody::Report, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!((short.code, short.message.as_str()), (Code::Unavailable, "the data node did not answer in time"));

    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let server = world.server.clone();
        waiting.spawn(async move { server.ask("node", NodeBody::Report, PATIENCE).await });
    }
    let mut busy = 0;
    // As many as there may be wait for the node; the others are refused at once.
    while busy < 200 - 64 {
        let refusal = waiting.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refusal.code, Code::Busy);
        busy += 1;
    }
    drop(node);
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap_err().code, Code::Unavailable, "the link was cut");
    }
    assert!(world.server.nodes().is_empty());
}
