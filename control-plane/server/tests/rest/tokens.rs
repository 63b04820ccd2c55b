//! Access tokens and refresh tokens.

use millrace_protocol::node::{NodeBody, RevokedTokens};
use serde_json::{Value, json};

use crate::{Answer, World, text};

fn refresh(world: &World, token: &Value) -> Answer {
    // No credential but the one in the body.
    let body = json!({"refresh_token": token});
    world.request("POST", "/v1/tokens/refresh").json(&body).send()
}

fn issue(world: &World, user: &str) -> Value {
    world.post("/v1/tokens", &world.api, &json!({"user": user})).expect(201)
}

fn is_valid(world: &World, pair: &Value) -> bool {
    world.get("/v1/channels", &text(&pair["token"])).status == 200
}

#[test]
fn a_token_says_what_was_asked() {
    let world = World::new();
    let body = json!({"user": "ann", "ttl_seconds": 60, "roles": ["a", "b"], "device": "phone"});
    let pair = world.post("/v1/tokens", &world.api, &body).expect(201);
    let token = text(&pair["token"]);
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["sub"], &claims["tenant"]), (&json!("ann"), &json!(world.tenant)));
    assert_eq!((&claims["roles"], &claims["device"]), (&json!(["a", "b"]), &json!("phone")));
    assert_eq!(claims["jti"], pair["token_id"]);
    let life = claims["exp"].as_f64().unwrap() - claims["iat"].as_f64().unwrap();
    assert!((59.9..60.1).contains(&life), "{life}");
    assert_eq!(world.get("/v1/users/ann", &token).expect(200)["id"], "ann", "and the user exists");

    let wrong = json!({"user": "", "ttl_seconds": 86_401, "roles": ["x".repeat(65)], "device": "", "sub": 1});
    world.post("/v1/tokens", &world.api, &wrong).wrong_fields(&["/user", "/ttl_seconds", "/roles", "/device", "/sub"]);
}

#[test]
fn a_changed_or_foreign_token_is_refused() {
    let world = World::new();
    let token = world.token("ann");
    world.get("/v1/channels", &token).expect(200);
    let parts: Vec<_> = token.split('.').collect();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[1]).unwrap();
    let claims = String::from_utf8(claims).unwrap().replace("\"ann\"", "\"bob\"");
    let claims = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims);
    let forged = format!("{}.{claims}.{}", parts[0], parts[2]);
    world.get("/v1/channels", &forged).problem(401, "unauthenticated");
    world.get("/v1/channels", &format!("{}.{}.", parts[0], parts[1])).problem(401, "unauthenticated");
}

#[test]
fn a_refresh_token_is_exchanged_once() {
    let world = World::new();
    let first = issue(&world, "ann");
    let second = refresh(&world, &first["refresh_token"]).expect(201);
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_ne!(second["token_id"], first["token_id"]);
    assert!(is_valid(&world, &first) && is_valid(&world, &second), "access tokens live out their life");
    let third = refresh(&world, &second["refresh_token"]).expect(201);
    assert!(is_valid(&world, &third));
    refresh(&world, &json!("mrr_unknown_x")).problem(401, "unauthenticated");
    refresh(&world, &json!("hunter2")).wrong_fields(&["/refresh_token"]);
}

/// A copy in other hands shows itself by being used a second time, by either of them.
#[test]
fn a_refresh_token_that_is_used_twice_ends_the_sign_in() {
    let world = World::new();
    let first = issue(&world, "ann");
    let second = refresh(&world, &first["refresh_token"]).expect(201);
    let others = issue(&world, "bob");
    world.plane.told();
    refresh(&world, &first["refresh_token"]).problem(401, "unauthenticated");
    refresh(&world, &second["refresh_token"]).problem(401, "unauthenticated");
    assert!(!is_valid(&world, &first) && !is_valid(&world, &second) && is_valid(&world, &others));
    assert!(matches!(&world.plane.told()[..], [NodeBody::TokensRevoked(revoked)]
        if matches!(&revoked.which, RevokedTokens::UserBefore(user, _) if user.as_str() == "ann")));
    let anew = issue(&world, "ann");
    assert!(is_valid(&world, &anew), "and begins anew");
}

#[test]
fn one_token_is_revoked_with_its_sign_in() {
    let world = World::new();
    let (one, other) = (issue(&world, "ann"), issue(&world, "ann"));
    world.plane.told();
    world.post("/v1/tokens/revoke", &world.api, &json!({"token_id": one["token_id"]})).expect(204);
    assert!(matches!(&world.plane.told()[..], [NodeBody::TokensRevoked(revoked)]
        if revoked.which == RevokedTokens::Token(text(&one["token_id"]))));
    assert!(!is_valid(&world, &one) && is_valid(&world, &other));
    refresh(&world, &one["refresh_token"]).problem(401, "unauthenticated");
    refresh(&world, &other["refresh_token"]).expect(201);
    world.post("/v1/tokens/revoke", &world.api, &json!({"token_id": "of-nobody"})).expect(204);
}

#[test]
fn all_tokens_of_a_user_are_revoked() {
    let world = World::new();
    let pairs: Vec<_> = (0..3).map(|_| issue(&world, "ann")).collect();
    let others = issue(&world, "bob");
    world.post("/v1/tokens/revoke", &world.api, &json!({"user": "ann"})).expect(204);
    for pair in &pairs {
        assert!(!is_valid(&world, pair));
        refresh(&world, &pair["refresh_token"]).problem(401, "unauthenticated");
    }
    assert!(is_valid(&world, &others));
    world.post("/v1/tokens/revoke", &world.api, &json!({})).wrong_fields(&["/token_id"]);
    world.post("/v1/tokens/revoke", &world.api, &json!({"user": "a", "token_id": "b"})).wrong_fields(&["/user"]);
}

#[test]
fn users_sign_out_by_themselves() {
    let world = World::new();
    let (one, other) = (issue(&world, "ann"), issue(&world, "ann"));
    let token = text(&one["token"]);
    world.post("/v1/tokens/revoke", &token, &json!({"token_id": other["token_id"]})).problem(403, "wrong-scope");
    world.post("/v1/tokens/revoke", &token, &json!({"user": "ann"})).problem(403, "wrong-scope");
    world.post("/v1/tokens/revoke", &token, &json!({})).expect(204);
    assert!(!is_valid(&world, &one) && is_valid(&world, &other));
    refresh(&world, &one["refresh_token"]).problem(401, "unauthenticated");
}

/// One tenant's API key cannot end another's sign-ins.
#[test]
fn revocations_stay_within_the_tenant() {
    let world = World::new();
    let (_, other) = world.tenant("other");
    let pair = issue(&world, "ann");
    world.post("/v1/tokens/revoke", &other, &json!({"token_id": pair["token_id"]})).expect(204);
    world.post("/v1/tokens/revoke", &other, &json!({"user": "ann"})).expect(204);
    assert!(is_valid(&world, &pair));
    refresh(&world, &pair["refresh_token"]).expect(201);
}
