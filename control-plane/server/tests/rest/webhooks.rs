//! Webhooks: registered, told, retried, given up, turned off.

mod failing;
mod messages;
mod receiver;
mod settings;

use std::time::Duration;

use millrace_control::{Networks, WEBHOOK_EVENTS, WebhookConfig};
use serde_json::{Value, json};

use crate::{World, text, until};
use receiver::{Received, Receiver, Reply};

/// Waits after failures are a thousandth of what they are, and this machine may be reached.
fn quick() -> WebhookConfig {
    WebhookConfig {
        networks: Networks::with_loopback(),
        attempt_limit: Duration::from_secs(5),
        lease: Duration::from_secs(2),
        look: Duration::from_millis(100),
        interest_life: Duration::from_millis(5),
        hurry: 1_000,
        ..WebhookConfig::default()
    }
}

/// A webhook of the tenant; gives its id and secret.
fn register(world: &World, url: &str, events: &[&str]) -> (String, String) {
    let made = world.post("/v1/webhooks", &world.api, &json!({"url": url, "events": events})).expect(201);
    (text(&made["id"]), text(&made["secret"]))
}

fn show(world: &World, id: &str) -> Value {
    world.get(&format!("/v1/webhooks/{id}"), &world.api).expect(200)
}

fn deliveries(world: &World, id: &str) -> Vec<Value> {
    let list = world.get(&format!("/v1/webhooks/{id}/deliveries?limit=100"), &world.api).expect(200);
    list["deliveries"].as_array().unwrap().clone()
}

fn failures(world: &World, id: &str) -> Vec<Value> {
    let page = world.get(&format!("/v1/webhooks/{id}/failures"), &world.api).expect(200);
    page["failures"].as_array().unwrap().clone()
}

fn put_user(world: &World, user: &str, name: &str) {
    let answer = world.put(&format!("/v1/users/{user}"), &world.api, &json!({"display_name": name}));
    assert!([200, 201].contains(&answer.status), "{answer:?}");
}

/// Names of users, in the order in which they were told.
fn names(received: &[Received]) -> Vec<String> {
    received.iter().map(|request| text(&request.body()["data"]["user"]["display_name"])).collect()
}

/// All events but messages.
fn changes() -> Vec<&'static str> {
    WEBHOOK_EVENTS.into_iter().filter(|event| *event != "message.sent").collect()
}

#[test]
fn everything_that_happens_is_told_signed_and_in_order() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(204));
    let (id, secret) = register(&world, &receiver.url(), &changes());
    world.group("general", &[("ann", "owner")]);
    let channel = "/v1/channels/general";
    world.patch(channel, &world.api, &json!({"display_name": "General"})).expect(200);
    world.post(&format!("{channel}/members"), &world.api, &json!({"user": "bob", "role": "member"})).expect(201);
    world.patch(&format!("{channel}/members/bob"), &world.api, &json!({"role": "owner"})).expect(200);
    world.delete(&format!("{channel}/members/bob"), &world.api).expect(204);
    world.delete(channel, &world.api).expect(200);
    put_user(&world, "bob", "Bob");
    world.delete("/v1/users/bob", &world.api).expect(204);
    // What changes nothing tells nothing.
    world.delete(channel, &world.api).expect(200);
    until(|| receiver.count() >= 10);

    let received = receiver.received();
    let kinds = |about: &str| -> Vec<String> {
        received.iter().filter(|request| request.kind().starts_with(about)).map(Received::kind).collect()
    };
    let of_channel: Vec<_> = received.iter().map(Received::kind).filter(|kind| !kind.starts_with("user")).collect();
    assert_eq!(
        of_channel,
        ["channel.created", "channel.updated", "member.added", "member.updated", "member.removed", "channel.archived"],
        "in the order in which it happened"
    );
    let of_bob = received.iter().filter(|request| request.body()["data"]["user"]["id"] == "bob");
    assert_eq!(of_bob.map(Received::kind).collect::<Vec<_>>(), ["user.created", "user.updated", "user.deleted"]);
    assert_eq!(kinds("user").len(), 4, "and ann's beginning");
    let ids: std::collections::BTreeSet<_> = received.iter().map(Received::id).collect();
    assert_eq!(ids.len(), received.len(), "each event has a name of its own, and came once");
    for request in &received {
        assert!(request.is_signed_with(&secret), "{request:?}");
        assert_eq!((request.target.as_str(), &*request.headers["content-type"]), ("/hook", "application/json"));
        assert_eq!(request.headers["host"], format!("127.0.0.1:{}", receiver.port()));
        assert!(text(&request.body()["timestamp"]).ends_with('Z'));
    }

    // The same names as in the API.
    let data = |kind: &str| received.iter().find(|request| request.kind() == kind).unwrap().body()["data"].clone();
    let created = data("channel.created");
    assert_eq!((&created["channel"]["name"], &created["channel"]["kind"]), (&json!("general"), &json!("group")));
    assert_eq!((&created["members"][0]["user"], &created["members"][0]["role"]), (&json!("ann"), &json!("owner")));
    assert_eq!(data("channel.updated")["channel"]["display_name"], "General");
    assert_eq!(data("channel.archived")["channel"], world.get(channel, &world.api).expect(200));
    let updated = data("member.updated");
    assert_eq!((&updated["member"]["user"], &updated["member"]["role"]), (&json!("bob"), &json!("owner")));
    assert_eq!(updated["channel"], json!({"id": created["channel"]["id"], "name": "general"}));
    assert_eq!(data("member.removed")["member"]["user"], "bob");

    until(|| show(&world, &id)["health"]["waiting_events"] == 0);
    let told = deliveries(&world, &id);
    assert_eq!(told.len(), 10);
    assert!(
        told.iter()
            .all(|attempt| attempt["result"] == "delivered" && attempt["status"] == 204 && attempt["attempt"] == 1)
    );
    assert!(receiver.connections() < 10, "connections are used again");
}

#[test]
fn only_what_was_asked_for_is_told() {
    let world = World::telling(quick());
    let (support, all) = (Receiver::new(|_| Reply::Status(200)), Receiver::new(|_| Reply::Status(200)));
    let draft =
        json!({"url": support.url(), "events": ["channel.created", "user.created"], "channel_prefix": "support-"});
    world.post("/v1/webhooks", &world.api, &draft).expect(201);
    register(&world, &all.url(), &["channel.created"]);
    let (_, other) = world.tenant("other");
    let foreign = Receiver::new(|_| Reply::Status(200));
    world.post("/v1/webhooks", &other, &json!({"url": foreign.url(), "events": changes()})).expect(201);
    world.group("general", &[("ann", "owner")]);
    world.group("support-1", &[("ann", "owner")]);
    until(|| support.count() >= 2 && all.count() >= 2);
    let mut kinds: Vec<_> = support.received().iter().map(Received::kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["channel.created", "user.created"]);
    let named = |received: Vec<Received>| -> Vec<String> {
        received
            .iter()
            .filter_map(|request| request.body()["data"]["channel"]["name"].as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(named(support.received()), ["support-1"]);
    let mut both = named(all.received());
    both.sort();
    assert_eq!(both, ["general", "support-1"]);
    assert_eq!(foreign.count(), 0, "another tenant's");
}

#[test]
fn of_two_control_nodes_one_tells_and_the_other_goes_on() {
    use std::sync::Arc;

    use millrace_control::Webhooks;
    use prometheus::Registry;

    use crate::Telling;
    use crate::plane::FakePlane;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = millrace_store::open_memory();
    let start = || runtime.block_on(Webhooks::start(store.clone(), quick(), &Registry::new())).unwrap();
    let (first, _second) = (start(), start());
    let plane = Arc::new(FakePlane::default());
    let world = World::assemble(store.clone(), plane.clone(), plane, Telling::Begun(first.clone()), |_| {});
    let receiver = Receiver::new(|_| Reply::Status(200));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let told = |from: usize, to: usize| {
        for number in from..to {
            put_user(&world, &format!("u{number}"), "x");
        }
        until(|| show(&world, &id)["health"]["waiting_events"] == 0 && receiver.count() >= to);
        assert_eq!(receiver.count(), to, "each once");
    };
    told(0, 60);
    runtime.block_on(first.stop());
    told(60, 80);
}

/// Of a commit that nobody knows the outcome of, and that runs again, a receiver knows that it is told twice.
#[test]
fn a_change_that_is_made_twice_tells_one_event() {
    use crate::Telling;
    use crate::faulty::{Fate, FaultyStore};
    use crate::plane::FakePlane;

    let (store, plane) = (FaultyStore::new(), std::sync::Arc::new(FakePlane::default()));
    let world = World::assemble(store.clone(), plane.clone(), plane, Telling::By(quick()), |_| {});
    let receiver = Receiver::new(|_| Reply::Hang);
    register(&world, &receiver.url(), &["user.created", "user.updated", "member.added"]);
    world.group("general", &[("ann", "owner")]);
    until(|| receiver.count() == 1);
    store.next_commits([Fate::WrittenUnknown]);
    world.post("/v1/channels/general/members", &world.api, &json!({"user": "ann", "role": "owner"})).expect(200);
    store.forget_fates();
    receiver.answer(|_| Reply::Status(200));
    receiver.release();
    until(|| receiver.count() >= 2);
    store.next_commits([Fate::WrittenUnknown]);
    put_user(&world, "eve", "Eve");
    store.forget_fates();
    put_user(&world, "eve", "Eva");
    until(|| names(&receiver.received()[2..]).contains(&"Eva".to_owned()));
    let told = receiver.received();
    let of_eve: std::collections::BTreeSet<_> =
        told[2..].iter().filter(|request| names(std::slice::from_ref(request)) == ["Eve"]).map(Received::id).collect();
    assert_eq!(of_eve.len(), 1, "{told:?}");
}

/// The largest change, told to as many webhooks as there may be: what it writes fits into a transaction, and goes with the last that told it.
#[test]
fn the_largest_change_is_told_to_all_webhooks() {
    use millrace_store::{Direction, KeyRange};

    let world = World::telling(quick());
    let receivers: Vec<_> = (0..16).map(|_| Receiver::new(|_| Reply::Status(204))).collect();
    let ids: Vec<_> = receivers.iter().map(|receiver| register(&world, &receiver.url(), &changes()).0).collect();
    let members: Vec<_> = (0..100).map(|number| json!({"user": format!("{number:0>128}"), "role": "owner"})).collect();
    let name = "n".repeat(128);
    // Quotes take two bytes where text is written in text.
    let metadata = json!({"a": "\"".repeat(2_000)});
    let draft = json!({
        "name": name, "kind": "group", "members": members, "display_name": "d".repeat(256), "metadata": metadata,
    });
    world.post("/v1/channels", &world.api, &draft).expect(201);
    for receiver in &receivers {
        until(|| receiver.count() >= 101);
    }
    until(|| ids.iter().all(|id| show(&world, id)["health"]["waiting_events"] == 0));
    for receiver in &receivers {
        let received = receiver.received();
        let created = received.iter().find(|request| request.kind() == "channel.created").unwrap().body();
        assert_eq!(created["data"]["members"].as_array().map(Vec::len), Some(100));
        assert_eq!(created["data"]["channel"]["metadata"], metadata);
        let users: std::collections::BTreeSet<_> = received.iter().map(Received::id).collect();
        assert_eq!(users.len(), 101);
    }
    let bodies = || {
        world.runtime.block_on(async {
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            let mut transaction = world.store.begin(deadline).await.unwrap();
            transaction.scan(KeyRange::prefix(b"E"), Direction::Forward, 4_096).await.unwrap().len()
        })
    };
    assert_eq!(bodies(), 0, "bodies are freed with the last webhook that told them");
    // Those of a webhook that is removed are, too.
    for (receiver, id) in receivers.iter().zip(&ids) {
        receiver.answer(|_| Reply::Status(503));
        world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"events": ["user.created"]})).expect(200);
    }
    put_user(&world, "ann", "x");
    assert_eq!(bodies(), 2);
    for id in &ids {
        world.delete(&format!("/v1/webhooks/{id}"), &world.api).expect(204);
    }
    until(|| bodies() == 0);
}

/// Of two requests that delete a user one does, and tells it; one that writes what is there already changes nothing.
#[test]
fn what_changes_nothing_of_a_user_tells_nothing() {
    use millrace_store::{Direction, KeyRange};

    use crate::Telling;
    use crate::faulty::FaultyStore;
    use crate::plane::FakePlane;

    let (store, plane) = (FaultyStore::new(), std::sync::Arc::new(FakePlane::default()));
    let world = World::assemble(store.clone(), plane.clone(), plane, Telling::By(quick()), |_| {});
    let receiver = Receiver::new(|_| Reply::Status(200));
    register(&world, &receiver.url(), &["user.created", "user.updated", "user.deleted"]);
    put_user(&world, "ann", "Ann");
    put_user(&world, "ann", "Ann");
    let users = world.runtime.block_on(async {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let mut transaction = world.store.begin(deadline).await.unwrap();
        transaction.scan(KeyRange::prefix(b"U"), Direction::Forward, 2).await.unwrap()
    });
    let [(ann, _)] = &users[..] else { panic!("{users:?}") };
    let hold = store.hold_next_read(ann.clone());
    std::thread::scope(|scope| {
        // It has seen her, and goes on only when she is gone.
        let late = scope.spawn(|| world.delete("/v1/users/ann", &world.api).expect(204));
        world.runtime.block_on(hold.reached.notified());
        world.delete("/v1/users/ann", &world.api).expect(204);
        hold.release.notify_one();
        late.join().unwrap();
    });
    put_user(&world, "ann", "Anna");
    until(|| names(&receiver.received()).contains(&"Anna".to_owned()));
    let told: Vec<_> = receiver.received().iter().map(Received::kind).collect();
    assert_eq!(told, ["user.created", "user.deleted", "user.created"]);
}
