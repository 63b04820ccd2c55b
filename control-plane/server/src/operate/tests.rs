use millrace_protocol::id::Term;
use millrace_protocol::node::ShardFigures;

use super::*;

fn linked(name: &str, term: u64, ready: bool) -> LinkedNode {
    LinkedNode { name: name.into(), endpoints: Vec::new(), linked_ms: 1, term: Term(term), ready }
}

fn at(seconds: u64) -> Moment {
    Moment { unix_ms: i64::try_from(seconds).unwrap() * 1000, steady: Duration::from_secs(seconds) }
}

fn figures(deliveries: u64, draining: bool) -> NodeFigures {
    let shard = ShardFigures { answers: true, deliveries, sessions: 3, ..ShardFigures::default() };
    NodeFigures { draining, shards: vec![shard; 2], ..NodeFigures::default() }
}

#[test]
fn a_node_goes_through_its_states() {
    let mut state = State::default();
    let mut check = |change: &dyn Fn(&mut State), expect: NodeState| {
        change(&mut state);
        assert_eq!(state.node("n").unwrap().state(), expect);
    };
    check(&|state| state.see(at(1), &[linked("n", 1, false)]), NodeState::Starting);
    check(&|state| state.see(at(2), &[linked("n", 1, true)]), NodeState::Serving);
    check(&|state| state.observe(at(2), "n", Some(figures(0, false))), NodeState::Serving);
    check(&|state| state.observe(at(3), "n", None), NodeState::Silent);
    check(&|state| state.observe(at(4), "n", Some(figures(1, false))), NodeState::Serving);
    check(&|state| state.drains("n", 9_000), NodeState::Draining);
    check(&|state| state.see(at(6), &[]), NodeState::Gone);
    // A new link is a new start.
    check(&|state| state.see(at(7), &[linked("n", 2, true)]), NodeState::Serving);
    check(&|state| state.observe(at(8), "n", Some(figures(1, true))), NodeState::Draining);
}

#[test]
fn samples_are_kept_for_the_node_and_each_shard_and_bounded() {
    let mut state = State::default();
    for second in 0..700 {
        state.see(at(second), &[linked("n", 1, true)]);
        state.observe(at(second), "n", Some(figures(10 * second, false)));
    }
    let node = state.node("n").unwrap();
    assert_eq!(node.series(None).unwrap().since(0).count(), STEPS_MAX);
    assert_eq!(node.series(None).unwrap().since(699_000).count(), 1);
    assert_eq!(node.newest(None).unwrap().deliveries_per_s, 20.0);
    assert_eq!(node.newest(Some(1)).unwrap().deliveries_per_s, 10.0);
    assert!(node.newest(Some(2)).is_none());
    state.observe(at(700), "nobody", Some(figures(0, false)));
}

#[test]
fn nodes_that_are_gone_are_forgotten_in_the_end() {
    let mut state = State::default();
    for second in 0..200 {
        state.see(at(second), &[linked(&format!("n{second}"), 1, true)]);
    }
    assert_eq!(state.nodes().count(), 1 + GONE_MAX);
    assert!(state.node("n0").is_none() && state.node("n198").is_some());
    state.see(at(199 + GONE_SHOWN.as_secs()), &[linked("n199", 1, true)]);
    assert_eq!(state.nodes().map(|node| node.linked.name.as_str()).collect::<Vec<_>>(), ["n199"]);
}
