//! Who gets in, and with which credential to what.

use serde_json::json;

use crate::{OPERATOR, World, text};

#[test]
fn without_a_valid_credential_nobody_gets_in() {
    let world = World::new();
    let missing = world.request("GET", "/v1/channels").send();
    missing.problem(401, "unauthenticated");
    assert!(missing.header("www-authenticate").starts_with("Bearer"));

    let (id, secret) = world.api.strip_prefix("mr_").unwrap().split_once('_').unwrap();
    let wrong_secret = format!("mr_{id}_{}x", &secret[1..]);
    let said =
        |credential: &str| text(&world.get("/v1/channels", credential).problem(401, "unauthenticated")["detail"]);
    assert_eq!(said(&wrong_secret), said("mr_nobody_nothing"), "nobody learns which keys there are");
    said("hunter2");
    said("mrr_a_b");
    said("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.");
    said(&"x".repeat(5_000));
    world.request("GET", "/v1/channels").header("authorization", "Basic YTpi").send().problem(401, "unauthenticated");
    world.request("GET", "/v1/channels").bearer(&world.api).bearer(&world.api).send().problem(401, "unauthenticated");
    world.request("GET", "/v1/channels").header("authorization", &format!("bEARER {}", world.api)).send().expect(200);
}

#[test]
fn scopes_are_separate() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let user = world.token("ann");
    let check = |method: &str, path: &str, allowed: [bool; 3]| {
        for (credential, allowed) in [OPERATOR, &world.api, &user].into_iter().zip(allowed) {
            // Bodies are wrong on purpose: what matters is which refusal comes first.
            let answer = world.request(method, path).bearer(credential).json(&json!({})).send();
            assert_eq!(answer.status != 403, allowed, "{method} {path} {answer:?}");
            if !allowed {
                answer.problem(403, "wrong-scope");
            }
        }
    };
    check("GET", "/v1/tenants", [true, false, false]);
    check("GET", "/v1/tenants/acme", [true, false, false]);
    check("GET", "/v1/keys", [true, true, false]);
    check("POST", "/v1/sign-in-codes", [true, false, false]);
    check("DELETE", "/v1/keys/none", [true, true, false]);
    check("GET", "/v1/users", [false, true, false]);
    check("PUT", "/v1/users/ann", [false, true, false]);
    check("GET", "/v1/users/ann", [false, true, true]);
    check("GET", "/v1/users/bob", [false, true, false]);
    check("DELETE", "/v1/users/nobody", [false, true, false]);
    check("GET", "/v1/signing-keys", [false, true, false]);
    check("DELETE", "/v1/signing-keys/none", [false, true, false]);
    check("GET", "/v1/channels", [false, true, true]);
    check("GET", "/v1/channels/general", [false, true, true]);
    check("GET", "/v1/channels/general/members", [false, true, true]);
    check("GET", "/v1/channels/general/messages", [false, true, true]);
    check("GET", "/v1/channels?user=bob", [false, true, false]);
    check("POST", "/v1/channels", [false, true, true]);
    check("POST", "/v1/tenants", [true, false, false]);
    check("POST", "/v1/tokens", [false, true, false]);
    // Ends the user's token.
    check("POST", "/v1/tokens/revoke", [false, true, true]);
}

#[test]
fn tenants_do_not_see_each_other() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    world.put("/v1/users/ann", &world.api, &json!({"display_name": "Ann"})).expect(200);
    let (_, other) = world.tenant("other");
    world.get("/v1/channels/general", &other).problem(404, "not-found");
    world.get("/v1/users/ann", &other).problem(404, "not-found");
    assert_eq!(world.get("/v1/channels", &other).expect(200)["channels"], json!([]));
    let key = world.get("/v1/keys", &world.api).expect(200)["keys"][0]["id"].clone();
    world.delete(&format!("/v1/keys/{}", text(&key)), &other).problem(404, "not-found");
    // The same names may be taken by both.
    let draft = json!({"name": "general", "kind": "group", "members": [{"user": "ann", "role": "owner"}]});
    let theirs = world.post("/v1/channels", &other, &draft).expect(201);
    assert_ne!(theirs["id"], world.get("/v1/channels/general", &world.api).expect(200)["id"]);
    world.post("/v1/tenants", OPERATOR, &json!({"name": "other"})).problem(409, "already-exists");
}

#[test]
fn a_revoked_key_opens_nothing() {
    let world = World::new();
    let new = world.post("/v1/keys", &world.api, &json!({"label": "second"})).expect(201);
    let (id, key) = (text(&new["id"]), text(&new["key"]));
    assert_eq!(new["tenant"], world.tenant);
    world.get("/v1/channels", &key).expect(200);
    let listed = world.get("/v1/keys", &world.api).expect(200);
    assert!(listed["keys"].as_array().unwrap().iter().any(|listed| listed["id"] == new["id"]));
    assert!(!listed.to_string().contains(key.rsplit('_').next().unwrap()), "secrets are shown once");
    world.delete(&format!("/v1/keys/{id}"), &key).problem(409, "conflict");
    world.delete(&format!("/v1/keys/{id}"), &world.api).expect(204);
    world.get("/v1/channels", &key).problem(401, "unauthenticated");
    world.delete(&format!("/v1/keys/{id}"), &world.api).problem(404, "not-found");
    world.post("/v1/keys", &world.api, &json!({"tenant": "other"})).wrong_fields(&["/tenant"]);
    world.post("/v1/keys", OPERATOR, &json!({"tenant": "nobody"})).wrong_fields(&["/tenant"]);
}

#[test]
fn an_operator_makes_operator_keys() {
    let world = World::new();
    let new = world.post("/v1/keys", OPERATOR, &json!({})).expect(201);
    assert!(new["tenant"].is_null());
    let key = text(&new["key"]);
    assert_eq!(world.get("/v1/tenants", &key).expect(200)["tenants"][0]["name"], "acme");
    world.get("/v1/channels", &key).problem(403, "wrong-scope");
}

/// So many at once, and then nothing for as long as any test takes.
fn slow(burst: u32) -> millrace_control::Rate {
    millrace_control::Rate { burst, interval: std::time::Duration::from_secs(60) }
}

#[test]
fn too_many_requests_are_told_when_to_come_back() {
    let world = World::with(|config| {
        config.rate_of_user = slow(3);
        config.rate_of_address = slow(2);
    });
    let (ann, bob) = (world.token("ann"), world.token("bob"));
    for left in ["2", "1", "0"] {
        let answer = world.get("/v1/channels", &ann);
        answer.expect(200);
        assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("3", left));
        assert!((1..=180).contains(&answer.header("ratelimit-reset").parse::<u32>().unwrap()));
    }
    let refused = world.get("/v1/channels", &ann);
    refused.problem(429, "rate-limited");
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    assert_eq!(refused.header("ratelimit-remaining"), "0");
    world.get("/v1/channels", &bob).expect(200);
    // Whoever guesses is slowed down by where they are, and nobody else is.
    for _ in 0..2 {
        world.get("/v1/channels", "mr_guess_guess").problem(401, "unauthenticated");
    }
    world.get("/v1/channels", "mr_other_guess").problem(429, "rate-limited");
    world.get("/v1/channels", &bob).expect(200);
}

/// Many users share an address: continuing their sign-ins costs it nothing, and each of them is bounded for themselves.
#[test]
fn sign_ins_are_continued_at_their_own_rate() {
    let world = World::with(|config| {
        config.rate_of_user = slow(3);
        config.rate_of_address = slow(1);
    });
    let refresh = |pair: &serde_json::Value| {
        let body = json!({"refresh_token": pair["refresh_token"]});
        world.request("POST", "/v1/tokens/refresh").json(&body).send()
    };
    let mut pair = world.post("/v1/tokens", &world.api, &json!({"user": "ann"})).expect(201);
    for _ in 0..3 {
        pair = refresh(&pair).expect(201);
    }
    let refused = refresh(&pair);
    refused.problem(429, "rate-limited");
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
}
