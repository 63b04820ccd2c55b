//! Members and roles.

use millrace_protocol::node::{NodeBody, Role};
use serde_json::json;

use crate::World;
use crate::plane::ends_membership;

#[test]
fn members_come_change_and_go_and_nodes_hear_of_it() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    world.plane.told();

    let added = world.post("/v1/channels/general/members", &ann, &json!({"user": "bob", "role": "reader"}));
    assert_eq!(added.expect(201)["role"], "reader");
    assert_eq!(added.header("location"), "/v1/channels/general/members/bob");
    let membership = |told: &[NodeBody]| match told {
        [NodeBody::MemberChanged(changed)] => (changed.user.to_string(), changed.membership),
        other => panic!("{other:?}"),
    };
    assert_eq!(membership(&world.plane.told()), ("bob".into(), Some((Role::Reader, false))));
    world.post("/v1/channels/general/members", &ann, &json!({"user": "bob", "role": "reader"})).expect(200);
    assert_eq!(world.plane.told(), [], "nothing has changed");
    world.post("/v1/channels/general/members", &ann, &json!({"user": "bob"})).problem(409, "already-exists");

    let changed = world.patch("/v1/channels/general/members/bob", &ann, &json!({"role": "member"})).expect(200);
    assert_eq!(changed["since_ms"], added.body()["since_ms"], "a role changes, the membership goes on");
    assert_eq!(membership(&world.plane.told()), ("bob".into(), Some((Role::Member, true))));
    world.put("/v1/users/bob", &world.api, &json!({"display_name": "Bob"})).expect(200);
    let found = world.get("/v1/channels/general/members/bob", &ann).expect(200);
    assert_eq!((&found["role"], &found["display_name"]), (&json!("member"), &json!("Bob")));

    world.delete("/v1/channels/general/members/bob", &ann).expect(204);
    assert!(ends_membership(&world.plane.told()[0], "bob"));
    world.get("/v1/channels/general/members/bob", &ann).problem(404, "not-found");
    world.delete("/v1/channels/general/members/bob", &ann).problem(404, "not-found");
}

#[test]
fn roles_are_ranks() {
    let world = World::new();
    world.group("general", &[("ann", "owner"), ("mod", "moderator"), ("bob", "member")]);
    let (moderator, bob) = (world.token("mod"), world.token("bob"));
    let add = |credential: &str, role: &str| {
        world.post("/v1/channels/general/members", credential, &json!({"user": "new", "role": role})).status
    };
    assert_eq!(add(&bob, "reader"), 403);
    assert_eq!(add(&moderator, "owner"), 403);
    assert_eq!(add(&moderator, "moderator"), 201);
    world.patch("/v1/channels/general/members/ann", &moderator, &json!({"role": "reader"})).problem(403, "not-allowed");
    world.delete("/v1/channels/general/members/ann", &moderator).problem(403, "not-allowed");
    world.patch("/v1/channels/general/members/bob", &moderator, &json!({"role": "owner"})).problem(403, "not-allowed");
    world.delete("/v1/channels/general/members/bob", &bob).expect(204);
    world.get("/v1/channels/general", &bob).problem(404, "not-found");
}

#[test]
fn the_last_owner_stays() {
    let world = World::new();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let ann = world.token("ann");
    for credential in [&ann, &world.api] {
        world.delete("/v1/channels/general/members/ann", credential).problem(409, "conflict");
        world
            .patch("/v1/channels/general/members/ann", credential, &json!({"role": "member"}))
            .problem(409, "conflict");
    }
    world.patch("/v1/channels/general/members/bob", &ann, &json!({"role": "owner"})).expect(200);
    world.delete("/v1/channels/general/members/ann", &ann).expect(204);
    world.delete("/v1/channels/general/members/bob", &world.api).problem(409, "conflict");
}

/// Owners who all demote each other at once do not leave the channel to nobody.
#[test]
fn concurrent_changes_keep_an_owner() {
    let world = World::new();
    let owners: Vec<String> = (0..8).map(|number| format!("owner{number}")).collect();
    let members: Vec<_> = owners.iter().map(|owner| (owner.as_str(), "owner")).collect();
    world.group("general", &members);
    std::thread::scope(|scope| {
        for owner in &owners {
            let world = &world;
            scope.spawn(move || {
                let path = format!("/v1/channels/general/members/{owner}");
                let status = world.patch(&path, &world.api, &json!({"role": "reader"})).status;
                assert!([200, 409].contains(&status), "{status}");
            });
        }
    });
    let listed = world.get("/v1/channels/general/members", &world.api).expect(200);
    let left = listed["members"].as_array().unwrap().iter().filter(|member| member["role"] == "owner").count();
    assert_eq!(left, 1);
}

#[test]
fn bodies_are_checked() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let add = |body| world.post("/v1/channels/general/members", &world.api, &body);
    add(json!({})).wrong_fields(&["/user"]);
    add(json!({"user": "a b", "role": "king", "x": 1})).wrong_fields(&["/user", "/role", "/x"]);
    world.patch("/v1/channels/general/members/ann", &world.api, &json!({"role": 1})).wrong_fields(&["/role"]);
    world.patch("/v1/channels/general/members/bob", &world.api, &json!({"role": "reader"})).problem(404, "not-found");
}
