//! Data nodes as operators see them, and draining one.

use std::time::Duration;

use millrace_protocol::node::{Inspected, NodeBody};
use serde_json::{Value, json};

use crate::{OPERATOR, World, text, until};

fn world() -> World {
    World::with(|config| config.figures_interval = Duration::from_millis(5))
}

/// The node, once it has told its figures twice: then there are rates.
fn told(world: &World, name: &str) -> Value {
    let path = format!("/v1/nodes/{name}");
    let told = || world.get(&path, OPERATOR).expect(200);
    until(|| told()["deliveries_per_s"].is_number());
    told()
}

#[test]
fn a_node_tells_its_figures_and_each_shards() {
    let world = world();
    assert_eq!(world.get("/v1/nodes", OPERATOR).expect(200), json!({"nodes": [], "next": null}));
    world.plane.link("data-1", Some(Inspected::default()));
    let node = told(&world, "data-1");
    for (name, expect) in [
        ("id", json!("data-1")),
        ("state", json!("serving")),
        ("version", json!("1.2.3")),
        ("since_ms", json!(1000)),
        ("gone_ms", Value::Null),
        ("endpoints", json!(["ws://localhost"])),
        ("shards", json!(2)),
        ("slots", json!(1024)),
        ("sessions", json!(6)),
        ("connections", json!(6)),
        ("term", json!("7")),
    ] {
        assert_eq!(node[name], expect, "{name}");
    }
    let shard = &node["shard_details"][1];
    assert_eq!((&shard["shard"], &shard["slots"], &shard["turn_us"]), (&json!(1), &json!(512), &json!(50.0)));
    assert!(shard["deliveries_per_s"].as_f64().unwrap() > 0.0, "{shard}");
    let what: Vec<_> = node["latencies"].as_array().unwrap().iter().map(|latency| text(&latency["what"])).collect();
    assert_eq!(what, ["append", "authorize", "open_homes", "read_history", "publish_rest"]);
    let listed = &world.get("/v1/nodes", OPERATOR).expect(200)["nodes"][0];
    assert_eq!((&listed["id"], &listed["shard_details"]), (&json!("data-1"), &Value::Null));
}

#[test]
fn a_series_goes_on_where_it_was_read() {
    let world = world();
    world.plane.link("data-1", Some(Inspected::default()));
    told(&world, "data-1");
    let first = world.get("/v1/nodes/data-1/series", OPERATOR).expect(200);
    let times: Vec<i64> = first["time_ms"].as_array().unwrap().iter().map(|ms| ms.as_i64().unwrap()).collect();
    assert!(times.len() >= 2 && times.is_sorted());
    for (name, column) in first.as_object().unwrap() {
        assert_eq!(column.as_array().unwrap().len(), times.len(), "{name}");
    }
    assert_eq!(
        (&first["sessions"][0], &first["deliveries_per_s"][0]),
        (&json!(6.0), &Value::Null),
        "no rate without a before"
    );
    assert!(first["deliveries_per_s"][1].as_f64().unwrap() > 0.0);

    let last = times.last().unwrap();
    let rest = format!("/v1/nodes/data-1/series?since_ms={}", last + 1);
    until(|| !world.get(&rest, OPERATOR).expect(200)["time_ms"].as_array().unwrap().is_empty());
    let newer = world.get(&rest, OPERATOR).expect(200);
    assert!(newer["time_ms"][0].as_i64().unwrap() > *last);
    let shard = world.get("/v1/nodes/data-1/series?shard=1", OPERATOR).expect(200);
    assert_eq!((&shard["sessions"][0], &shard["append_p50_ms"][0]), (&json!(3.0), &Value::Null));

    world.get("/v1/nodes/data-1/series?shard=2", OPERATOR).problem(404, "not-found");
    world.get("/v1/nodes/data-1/series?shard=x&since_ms=-1&more=1", OPERATOR).wrong_fields(&[
        "?since_ms",
        "?shard",
        "?more",
    ]);
    world.get("/v1/nodes/nobody/series", OPERATOR).problem(404, "not-found");
    world.get("/v1/nodes/nobody", OPERATOR).problem(404, "not-found");
}

#[test]
fn nodes_come_in_pages_and_those_that_are_gone_are_shown() {
    let world = world();
    for name in ["b", "c", "a"] {
        world.plane.link(name, Some(Inspected::default()));
    }
    let first = world.get("/v1/nodes?limit=2", OPERATOR).expect(200);
    let names = |page: &Value| -> Vec<String> {
        page["nodes"].as_array().unwrap().iter().map(|node| text(&node["id"])).collect()
    };
    assert_eq!(names(&first), ["a", "b"]);
    let rest = world.get(&format!("/v1/nodes?limit=2&cursor={}", text(&first["next"])), OPERATOR).expect(200);
    assert_eq!((names(&rest), &rest["next"]), (vec!["c".to_owned()], &Value::Null));

    told(&world, "a");
    world.plane.unlink();
    let gone = world.get("/v1/nodes/a", OPERATOR).expect(200);
    assert_eq!((&gone["state"], &gone["slots"], &gone["version"]), (&json!("gone"), &json!(0), &json!("1.2.3")));
    assert_eq!(
        (&gone["sessions"], &gone["cpu"], &gone["deliveries_per_s"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert!(gone["gone_ms"].as_i64().unwrap() > 0);
}

#[test]
fn a_node_that_does_not_answer_says_so() {
    let world = world();
    world.plane.link("mute", None);
    until(|| world.get("/v1/nodes/mute", OPERATOR).expect(200)["state"] == "silent");
    let node = world.get("/v1/nodes/mute", OPERATOR).expect(200);
    assert_eq!((&node["sessions"], &node["shard_details"]), (&Value::Null, &json!([])));
    assert_eq!(world.get("/v1/nodes/mute/series", OPERATOR).expect(200)["time_ms"], json!([]));
    world.post("/v1/nodes/mute/drain", OPERATOR, &json!({})).problem(503, "unavailable");
    assert_eq!(world.get("/v1/nodes/mute", OPERATOR).expect(200)["drain_ends_ms"], Value::Null);
}

#[test]
fn a_drain_is_ordered_once_and_says_what_it_means() {
    let world = world();
    world.plane.link("data-1", Some(Inspected::default()));
    told(&world, "data-1");
    let drain = |key: &str| {
        let call = world.request("POST", "/v1/nodes/data-1/drain").bearer(OPERATOR).header("idempotency-key", key);
        call.json(&json!({"over_ms": 500})).send()
    };
    let first = drain("one");
    let body = first.expect(202);
    assert_eq!((&body["node"], &body["state"], &body["over_ms"]), (&json!("data-1"), &json!("draining"), &json!(500)));
    assert_eq!((&body["sessions"], &body["slots"], &body["other_nodes"]), (&json!(6), &json!(1024), &json!(0)));
    assert!(text(&body["effect"]).contains("every slot"), "{body}");
    let again = drain("one");
    assert_eq!((again.expect(202), again.header("idempotency-replayed")), (body.clone(), "true"));
    let order = ("data-1".to_owned(), NodeBody::Drain { over_ms: 500 });
    assert_eq!(world.plane.asked(), std::slice::from_ref(&order));
    // Another order goes to the node, which goes on as it was told first.
    assert_eq!(drain("two").expect(202)["ends_by_ms"], body["ends_by_ms"]);
    assert_eq!(world.plane.asked(), [order.clone(), order]);
    assert_eq!(world.get("/v1/nodes/data-1", OPERATOR).expect(200)["state"], "draining");

    world.plane.link("data-2", Some(Inspected::default()));
    let effect = text(&world.post("/v1/nodes/data-1/drain", OPERATOR, &json!({})).expect(202)["effect"]);
    assert!(effect.contains("other data nodes"), "{effect}");
    assert_eq!(world.plane.asked().last().unwrap().1, NodeBody::Drain { over_ms: 10_000 });

    let order = |body: Value| world.post("/v1/nodes/data-1/drain", OPERATOR, &body);
    order(json!({"over_ms": 600_001, "force": true})).wrong_fields(&["/over_ms", "/force"]);
    world.post("/v1/nodes/nobody/drain", OPERATOR, &json!({})).problem(404, "not-found");
}

#[test]
fn nodes_are_for_operators() {
    let world = World::new();
    let token = world.token("ann");
    for path in ["/v1/nodes", "/v1/nodes/data-1", "/v1/nodes/data-1/series"] {
        world.get(path, &world.api).problem(403, "wrong-scope");
        world.get(path, &token).problem(403, "wrong-scope");
    }
    world.post("/v1/nodes/data-1/drain", &world.api, &json!({})).problem(403, "wrong-scope");
    assert_eq!(world.plane.asked(), []);
}
