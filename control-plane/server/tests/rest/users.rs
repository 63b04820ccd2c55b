//! Users.

use millrace_protocol::node::{NodeBody, RevokedTokens};
use serde_json::json;

use crate::plane::ends_membership;
use crate::{World, text};

#[test]
fn a_user_is_written_and_found() {
    let world = World::new();
    let made =
        world.put("/v1/users/ann", &world.api, &json!({"display_name": "Ann", "metadata": {"age": 5}})).expect(201);
    assert_eq!((&made["id"], &made["metadata"]), (&json!("ann"), &json!({"age": 5})));
    let changed = world.put("/v1/users/ann", &world.api, &json!({})).expect(200);
    assert_eq!(
        (&changed["display_name"], &changed["metadata"]),
        (&json!(null), &json!({})),
        "a put replaces all of it"
    );
    assert_eq!(changed["created_ms"], made["created_ms"]);
    assert_eq!(world.get("/v1/users/ann", &world.token("ann")).expect(200)["id"], "ann");
    world.get("/v1/users/bob", &world.api).problem(404, "not-found");
    world.put("/v1/users/a%20b", &world.api, &json!({})).wrong_fields(&["user"]);
    let large = json!({"metadata": {"k": "x".repeat(4_100)}, "display_name": "x".repeat(257)});
    world.put("/v1/users/ann", &world.api, &large).wrong_fields(&["/display_name", "/metadata"]);
    // Other scripts are names, too.
    let path = format!("/v1/users/{}", "%E4%B8%96%E7%95%8C");
    assert_eq!(world.put(&path, &world.api, &json!({})).expect(201)["id"], "世界");
}

#[test]
fn whoever_is_named_exists() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    world.post("/v1/channels/general/members", &world.api, &json!({"user": "bob"})).expect(201);
    world.token("cem");
    let listed = world.get("/v1/users", &world.api).expect(200);
    let ids: Vec<_> = listed["users"].as_array().unwrap().iter().map(|user| text(&user["id"])).collect();
    assert_eq!(ids, ["ann", "bob", "cem"]);
}

#[test]
fn a_deleted_user_leaves_everything_in_order() {
    let world = World::new();
    world.group("kept", &[("ann", "owner"), ("bob", "owner")]);
    world.group("inherited", &[("ann", "owner"), ("bob", "reader"), ("cem", "moderator")]);
    world.group("orphaned", &[("ann", "owner")]);
    world.group("other", &[("bob", "owner")]);
    let dm = json!({"kind": "dm", "members": [{"user": "ann"}, {"user": "bob"}]});
    world.post("/v1/channels", &world.api, &dm).expect(201);
    let pair = world.post("/v1/tokens", &world.api, &json!({"user": "ann"})).expect(201);
    let (token, refresh) = (text(&pair["token"]), text(&pair["refresh_token"]));
    world.get("/v1/channels", &token).expect(200);
    world.plane.told();

    world.delete("/v1/users/ann", &world.api).expect(204);
    let told = world.plane.told();
    let left = told.iter().filter(|told| ends_membership(told, "ann")).count();
    assert_eq!(left, 4);
    let revoked = told.iter().position(|told| {
        matches!(told, NodeBody::TokensRevoked(revoked)
            if matches!(&revoked.which, RevokedTokens::UserBefore(user, _) if user.as_str() == "ann"))
    });
    assert!(revoked.unwrap() < told.iter().position(|told| ends_membership(told, "ann")).unwrap());

    world.get("/v1/channels", &token).problem(401, "unauthenticated");
    world.post("/v1/tokens/refresh", "", &json!({"refresh_token": refresh})).problem(401, "unauthenticated");
    world.get("/v1/users/ann", &world.api).problem(404, "not-found");
    world.delete("/v1/users/ann", &world.api).problem(404, "not-found");
    let channel = |name: &str| world.get(&format!("/v1/channels/{name}"), &world.api).expect(200);
    let role = |name: &str, user: &str| {
        world.get(&format!("/v1/channels/{name}/members/{user}"), &world.api).body()["role"].clone()
    };
    assert!(channel("kept")["archived_ms"].is_null() && channel("other")["archived_ms"].is_null());
    assert_eq!((role("inherited", "cem"), role("inherited", "bob")), (json!("owner"), json!("reader")));
    assert!(channel("inherited")["archived_ms"].is_null());
    assert!(channel("orphaned")["archived_ms"].is_i64() && channel("dm:ann~bob")["archived_ms"].is_i64());
    assert_eq!(world.get("/v1/channels?user=ann", &world.api).expect(200)["channels"], json!([]));
}
