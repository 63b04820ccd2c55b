//! How a server stops, and how it bears callers that hang up.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use millrace_control::{RestConfig, serve_rest};
use millrace_store::open_memory;
use prometheus::Registry;
use serde_json::json;

use crate::World;
use crate::plane::FakePlane;

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
        // The request is under way when the channel's readers wait for their answer: another connection sees it in the metrics.
        while !world.request("GET", "/metrics").send().text.contains("millrace_rest_requests 2") {
            std::thread::yield_now();
        }
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
    let world = World::new();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    world.plane.told();
    let mut stream = TcpStream::connect(world.base.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "DELETE /v1/channels/general/members/bob HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        world.api
    )
    .unwrap();
    drop(stream);
    // The request may not have been read at all when the connection ended; if it was done, it was told.
    while world.get("/v1/channels/general/members/bob", &world.api).status == 200 {
        world.delete("/v1/channels/general/members/bob", &world.api);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !world.plane.told().iter().any(|told| crate::plane::ends_membership(told, "bob")) {
        assert!(std::time::Instant::now() < deadline, "a removal that is stored was never told");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |config: RestConfig, registry: &Registry| {
        let plane = Arc::new(FakePlane::default());
        runtime.block_on(serve_rest(config, open_memory(), plane, registry.clone())).map_err(|error| error.to_string())
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
