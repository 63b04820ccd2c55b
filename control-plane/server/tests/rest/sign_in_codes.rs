//! Links to the console: credentials by a code, once.

use serde_json::json;

use crate::faulty::Fate;
use crate::{OPERATOR, World, text};

#[test]
fn a_code_is_exchanged_once() {
    let world = World::new();
    let token = world.token("ann");
    let given = json!({"token": token, "keys": [world.api, OPERATOR]});
    let made = world.post("/v1/sign-in-codes", OPERATOR, &given).expect(201);
    assert!(made["expires_ms"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000));
    let body = json!({"code": made["code"]});
    let exchange = |key: &str| {
        let request = world.request("POST", "/v1/sign-in-codes/exchange").header("idempotency-key", key);
        request.json(&body).send()
    };
    let expect = json!({"token": token, "refresh_token": null, "keys": [world.api, OPERATOR]});
    assert_eq!(exchange("one").expect(200), expect);
    // Whoever did not hear the answer asks again; whoever has found the link does not get it.
    assert_eq!(exchange("one").expect(200), expect);
    exchange("two").problem(401, "unauthenticated");
    world.request("POST", "/v1/sign-in-codes/exchange").json(&body).send().problem(401, "unauthenticated");
}

#[test]
fn nobody_but_an_operator_makes_one() {
    let world = World::new();
    let body = json!({"token": "a token"});
    for credential in [&world.api, &world.token("ann")] {
        world.post("/v1/sign-in-codes", credential, &body).problem(403, "wrong-scope");
    }
    world.request("POST", "/v1/sign-in-codes").json(&body).send().problem(401, "unauthenticated");
    world.post("/v1/sign-in-codes", OPERATOR, &json!({})).wrong_fields(&["/token"]);
    let many = json!({"keys": ["a", "b", "c", "d", "e"]});
    world.post("/v1/sign-in-codes", OPERATOR, &many).wrong_fields(&["/keys"]);
}

/// A repeated request makes no second code.
#[test]
fn making_one_is_repeatable() {
    let world = World::new();
    let make = |key: &str| {
        let request = world.request("POST", "/v1/sign-in-codes").bearer(OPERATOR).header("idempotency-key", key);
        text(&request.json(&json!({"keys": [OPERATOR]})).send().expect(201)["code"])
    };
    assert_eq!(make("one"), make("one"));
    assert_ne!(make("one"), make("two"));
}

/// The store failed, not the link.
#[test]
fn an_exchange_that_is_not_stored_leaves_the_code_good() {
    for fates in [&[Fate::Fail][..], &[Fate::LostUnknown, Fate::Fail]] {
        let (world, store) = World::faulty();
        let made = world.post("/v1/sign-in-codes", OPERATOR, &json!({"keys": [OPERATOR]})).expect(201);
        let exchange = |key: &str| {
            let request = world.request("POST", "/v1/sign-in-codes/exchange").header("idempotency-key", key);
            request.json(&json!({"code": made["code"]})).send()
        };
        store.next_commits(fates.iter().copied());
        assert_eq!(exchange("one").status, 503, "{fates:?}");
        assert_eq!(exchange("two").expect(200)["keys"], json!([OPERATOR]), "{fates:?}");
        exchange("one").problem(401, "unauthenticated");
    }
}
