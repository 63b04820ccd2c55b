//! How a server stops, and how it bears callers that hang up.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use millrace_control::{RestConfig, WebhookConfig, Webhooks, serve_rest};
use millrace_store::open_memory;
use prometheus::Registry;
use serde_json::json;

use crate::faulty::Fate;
use crate::plane::{FakePlane, ends_membership};
use crate::{World, until};

#[test]
fn requests_under_way_are_answered_before_the_end() {
    let plane = Arc::new(FakePlane::default());
    let mut world = World::over(open_memory(), plane.clone(), plane.clone(), |_| {});
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let server = world.server.take().unwrap();
    let taken = world.runtime.block_on(plane.gate.acquire_many(1_000)).unwrap();
    let body = json!({"text": "x"});
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| world.post("/v1/channels/general/messages", &ann, &body));
        // Another connection sees in the metrics that it is under way.
        until(|| world.request("GET", "/metrics").send().text.contains("millrace_rest_requests 2"));
        let stopping = world.runtime.spawn(server.stop());
        drop(taken);
        answer.join().unwrap().expect(201);
        world.runtime.block_on(stopping).unwrap();
    });
    assert!(TcpStream::connect(world.base.strip_prefix("http://").unwrap()).is_err(), "nobody listens any more");
}

/// Between the commit of a change and its announcement nothing may come, not even the end of the caller's connection.
#[test]
fn a_caller_who_hangs_up_does_not_stop_the_announcement() {
    let (world, store) = World::faulty();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    world.plane.told();
    store.next_commits([Fate::WrittenLate]);
    let mut stream = TcpStream::connect(world.base.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "DELETE /v1/channels/general/members/bob HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        world.api
    )
    .unwrap();
    until(|| store.waiting() == 1);
    drop(stream);
    // The server has seen the end of the connection when only the one that asks for the metrics is left.
    until(|| world.request("GET", "/metrics").send().text.contains("millrace_rest_connections 1"));
    assert_eq!(world.plane.told(), []);
    store.open_gate();
    until(|| world.plane.told().iter().any(|told| ends_membership(told, "bob")));
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |config: RestConfig, registry: &Registry| {
        let plane = Arc::new(FakePlane::default());
        runtime.block_on(async {
            let store = open_memory();
            let webhooks = Webhooks::start(store.clone(), WebhookConfig::default(), &Registry::new())
                .await
                .map_err(|error| error.to_string())?;
            serve_rest(config, store, plane, webhooks, registry.clone()).await.map_err(|error| error.to_string())
        })
    };
    let config = || RestConfig { listen: "127.0.0.1:0".parse().unwrap(), ..RestConfig::default() };
    let registry = Registry::new();
    let first = start(config(), &registry).unwrap();
    let taken = RestConfig { listen: first.address(), ..config() };
    assert!(start(taken, &Registry::new()).err().unwrap().contains(&first.address().to_string()));
    assert!(start(config(), &registry).err().unwrap().contains("metrics"));
    let short = RestConfig { operator_key: Some("short".into()), ..config() };
    assert!(start(short, &Registry::new()).err().unwrap().contains("operator key"));
}
