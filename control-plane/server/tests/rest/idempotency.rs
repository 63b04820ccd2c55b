//! Requests that are sent twice.

use std::sync::Arc;

use millrace_store::open_memory;
use serde_json::json;

use crate::plane::FakePlane;
use crate::{Answer, OPERATOR, World, text, until};

fn post(world: &World, path: &str, credential: &str, key: &str, body: &serde_json::Value) -> Answer {
    world.request("POST", path).bearer(credential).header("idempotency-key", key).json(body).send()
}

#[test]
fn a_repeated_request_gets_the_same_answer() {
    let world = World::new();
    let draft = json!({"name": "general", "kind": "group", "members": [{"user": "ann", "role": "owner"}]});
    let first = post(&world, "/v1/channels", &world.api, "k1", &draft);
    first.expect(201);
    assert_eq!(first.header("idempotency-replayed"), "");
    world.plane.told();
    let second = post(&world, "/v1/channels", &world.api, "k1", &draft);
    assert_eq!((second.expect(201), second.header("location")), (first.body(), first.header("location")));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(world.plane.told(), []);
    post(&world, "/v1/channels", &world.api, "k2", &draft).problem(409, "already-exists");
}

/// Secrets are shown once, but a lost answer is not a lost secret, and the store has it in no readable form.
#[test]
fn a_lost_secret_is_shown_again_to_the_same_credential() {
    let world = World::new();
    let first = post(&world, "/v1/keys", &world.api, "k", &json!({})).expect(201);
    let again = post(&world, "/v1/keys", &world.api, "k", &json!({})).expect(201);
    assert_eq!(first["key"], again["key"]);
    let other = post(&world, "/v1/keys", OPERATOR, "k", &json!({})).expect(201);
    assert_ne!(first["key"], other["key"], "keys of requests belong to their credential");

    let secret = text(&first["key"]);
    // `mr_<id>_<secret>`; a secret may have such lines in it, too.
    let secret = secret.splitn(3, '_').nth(2).unwrap().as_bytes().to_vec();
    let rows = world.runtime.block_on(async {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut transaction = world.store.begin(deadline).await.unwrap();
        let all = millrace_store::KeyRange { start: bytes::Bytes::new(), end: bytes::Bytes::from_static(&[0xFF]) };
        transaction.scan(all, millrace_store::Direction::Forward, 4096).await.unwrap()
    });
    assert!(rows.len() > 10);
    assert!(rows.iter().all(|(_, value)| !value.windows(secret.len()).any(|window| window == secret)));
}

#[test]
fn a_key_belongs_to_one_request() {
    let world = World::new();
    let body = json!({"user": "ann"});
    post(&world, "/v1/tokens", &world.api, "k", &body).expect(201);
    post(&world, "/v1/tokens", &world.api, "k", &json!({"user": "bob"})).problem(422, "idempotency-key-reused");
    post(&world, "/v1/keys", &world.api, "k", &body).wrong_fields(&["/user"]);
    post(&world, "/v1/keys", &world.api, "k", &json!({})).problem(422, "idempotency-key-reused");
    // What was refused was not done: the key is free for the mended request.
    post(&world, "/v1/tokens", &world.api, "k2", &json!({"user": ""})).wrong_fields(&["/user"]);
    post(&world, "/v1/tokens", &world.api, "k2", &body).expect(201);
    post(&world, "/v1/tokens", &world.api, &"x".repeat(256), &body).wrong_fields(&["Idempotency-Key"]);
    post(&world, "/v1/tokens", &world.api, "", &body).wrong_fields(&["Idempotency-Key"]);
    // Which of two would count?
    let two = world.request("POST", "/v1/tokens").bearer(&world.api).header("idempotency-key", "a");
    two.header("idempotency-key", "b").json(&body).send().wrong_fields(&["Idempotency-Key"]);
}

#[test]
fn a_refresh_may_be_repeated_with_a_key() {
    let world = World::new();
    let pair = world.post("/v1/tokens", &world.api, &json!({"user": "ann"})).expect(201);
    let body = json!({"refresh_token": pair["refresh_token"]});
    let exchange =
        |key: &str| world.request("POST", "/v1/tokens/refresh").header("idempotency-key", key).json(&body).send();
    let first = exchange("k").expect(201);
    assert_eq!(exchange("k").expect(201), first);
    assert_eq!(world.get("/v1/channels", &text(&first["token"])).status, 200, "a retry is no theft");
    exchange("another").problem(401, "unauthenticated");
}

#[test]
fn the_same_request_twice_at_once_waits_for_itself() {
    let plane = Arc::new(FakePlane::default());
    let world = World::over(open_memory(), plane.clone(), plane.clone(), |_| {});
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let publish = || post(&world, "/v1/channels/general/messages", &ann, "k", &json!({"text": "x"}));
    let taken = world.runtime.block_on(plane.gate.acquire_many(1_000)).unwrap();
    std::thread::scope(|scope| {
        // Whichever comes second while the first one waits at the gate is sent away.
        let handles: Vec<_> = (0..2).map(|_| scope.spawn(publish)).collect();
        until(|| handles.iter().any(|handle| handle.is_finished()));
        drop(taken);
        let mut answers: Vec<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        answers.sort_by_key(|answer| answer.status);
        answers[0].expect(201);
        answers[1].problem(409, "idempotency-in-progress");
        assert_eq!(answers[1].header("retry-after"), "1");
    });
    assert_eq!(publish().expect(201)["offset"], 1);
    assert_eq!(plane.orders().len(), 1);
}

/// The home knows the request again even if the answer was never kept.
#[test]
fn a_message_is_the_same_producers_first_one() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let publish = |credential: &str, key: &str, body| {
        post(&world, "/v1/channels/general/messages", credential, key, &body).expect(201)
    };
    publish(&ann, "k", json!({"text": "x"}));
    publish(&ann, "k", json!({"text": "x"}));
    publish(&ann, "k2", json!({"text": "x"}));
    publish(&world.api, "k", json!({"text": "x", "user": "ann"}));
    world.post("/v1/channels/general/messages", &ann, &json!({"text": "x"})).expect(201);
    let orders = world.plane.orders();
    let mut producers: Vec<_> = orders.iter().map(|order| order.message.producer.get()).collect();
    assert!(orders.iter().all(|order| order.message.sequence.get() == 1));
    producers.sort_unstable();
    producers.dedup();
    assert_eq!(producers.len(), 4);
    let other = post(&world, "/v1/channels/general/messages", &ann, "k", &json!({"text": "y"}));
    other.problem(422, "idempotency-key-reused");
}
