//! Read positions over REST: they only move on, and unread counts follow.

use serde_json::{Value, json};

use crate::messages::{linked, publish};
use crate::{World, text};

const ANN: &str = "/v1/channels/general/members/ann/read";

fn mark(world: &World, credential: &str, epoch: u32, offset: u64) -> crate::Answer {
    world.put(ANN, credential, &json!({"epoch": epoch, "offset": offset}))
}

/// Epoch and offset of what is read and of the newest message, and what is unread.
fn standing(view: &Value) -> [u64; 5] {
    [
        &view["read"]["epoch"],
        &view["read"]["offset"],
        &view["newest"]["epoch"],
        &view["newest"]["offset"],
        &view["unread"],
    ]
    .map(|number| number.as_u64().unwrap_or_else(|| panic!("{view}")))
}

#[test]
fn a_position_moves_on_and_counts_follow() {
    let (world, _node) = linked();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let (ann, bob) = (world.token("ann"), world.token("bob"));
    let reads_in_list = |credential: &str| {
        let page = world.get("/v1/channels", credential).expect(200);
        standing(&page["channels"][0]["reads"])
    };
    assert_eq!(standing(&world.get(ANN, &ann).expect(200)), [1, 0, 1, 0, 0]);
    for said in ["one", "two", "three"] {
        publish(&world, &bob, said);
    }
    assert_eq!(standing(&world.get(ANN, &ann).expect(200)), [1, 0, 1, 3, 3]);
    assert_eq!(standing(&mark(&world, &ann, 1, 2).expect(200)), [1, 2, 1, 3, 1]);
    assert_eq!(standing(&mark(&world, &ann, 1, 1).expect(200)), [1, 2, 1, 3, 1], "never back");
    assert_eq!(standing(&mark(&world, &ann, 1, 0).expect(200)), [1, 2, 1, 3, 1]);
    assert_eq!(reads_in_list(&ann), [1, 2, 1, 3, 1]);
    assert_eq!(reads_in_list(&bob), [1, 0, 1, 3, 3], "each has a position of their own");
    assert_eq!(standing(&world.get("/v1/channels/general", &ann).expect(200)["reads"]), [1, 2, 1, 3, 1]);
    mark(&world, &ann, 1, 4).problem(409, "conflict");
    mark(&world, &ann, 2, 1).problem(409, "conflict");
    // Roles change beside it.
    world.patch("/v1/channels/general/members/bob", &ann, &json!({"role": "reader"})).expect(200);
    let bobs = "/v1/channels/general/members/bob/read";
    world.put(bobs, &bob, &json!({"epoch": 1, "offset": 3})).expect(200);
    world.patch("/v1/channels/general/members/bob", &ann, &json!({"role": "member"})).expect(200);
    assert_eq!(standing(&world.get(bobs, &bob).expect(200)), [1, 3, 1, 3, 0]);
    // What was said before somebody came is not unread, and a member who left and came back is such a one.
    world.post("/v1/channels/general/members", &ann, &json!({"user": "cyd"})).expect(201);
    assert_eq!(reads_in_list(&world.token("cyd")), [1, 3, 1, 3, 0]);
    publish(&world, &bob, "four");
    assert_eq!(reads_in_list(&world.token("cyd")), [1, 3, 1, 4, 1]);
    // An archived channel can still be read, hence read up.
    world.delete("/v1/channels/general", &ann).expect(200);
    assert_eq!(standing(&mark(&world, &ann, 1, 4).expect(200)), [1, 4, 1, 4, 0]);
}

#[test]
fn nobody_reads_for_another() {
    let (world, _node) = linked();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let (ann, bob, eve) = (world.token("ann"), world.token("bob"), world.token("eve"));
    publish(&world, &ann, "one");
    world.get(ANN, &bob).problem(403, "wrong-scope");
    mark(&world, &bob, 1, 1).problem(403, "wrong-scope");
    world.get("/v1/channels/general/members/eve/read", &eve).problem(404, "not-found");
    world.get("/v1/channels/nowhere/members/ann/read", &ann).problem(404, "not-found");
    world.get("/v1/channels/general/members/eve/read", &world.api).problem(404, "not-found");
    world.request("GET", ANN).send().problem(401, "unauthenticated");
    assert_eq!(standing(&mark(&world, &world.api, 1, 1).expect(200)), [1, 1, 1, 1, 0], "an application server may");
    assert_eq!(standing(&world.get(ANN, &world.api).expect(200)), [1, 1, 1, 1, 0]);
    let seen_by_the_server = world.get("/v1/channels?user=ann", &world.api).expect(200);
    assert_eq!(standing(&seen_by_the_server["channels"][0]["reads"]), [1, 1, 1, 1, 0]);
    let of_nobody = world.get("/v1/channels", &world.api).expect(200);
    assert_eq!(of_nobody["channels"][0].get("reads"), None);
    assert_eq!(text(&of_nobody["channels"][0]["name"]), "general");
}

#[test]
fn fields_and_channels_that_cannot_be_are_refused() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let draft =
        json!({"name": "typing", "kind": "group", "history": "none", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &draft).expect(201);
    let ann = world.token("ann");
    world.put(ANN, &ann, &json!({})).wrong_fields(&["/epoch", "/offset"]);
    world.put(ANN, &ann, &json!({"epoch": 0, "offset": -1, "at": 1})).wrong_fields(&["/epoch", "/offset", "/at"]);
    world.put(ANN, &ann, &json!({"epoch": 1, "offset": 1})).problem(409, "conflict");
    let typing = "/v1/channels/typing/members/ann/read";
    world.get(typing, &ann).problem(409, "no-history");
    world.put(typing, &ann, &json!({"epoch": 1, "offset": 0})).problem(409, "no-history");
    assert_eq!(world.get("/v1/channels/typing", &ann).expect(200).get("reads"), None);
}
