//! Channels.

use millrace_protocol::node::NodeBody;
use serde_json::json;

use crate::{World, text};

#[test]
fn a_channel_has_the_defaults_of_its_kind() {
    let world = World::new();
    let ann = world.token("ann");
    let check = |name: &str, kind: &str, history: &str, slow_consumer: &str| {
        let made = world.post("/v1/channels", &ann, &json!({"name": name, "kind": kind}));
        let channel = made.expect(201);
        assert_eq!(made.header("location"), format!("/v1/channels/{name}"));
        assert_eq!(
            (text(&channel["history"]), text(&channel["slow_consumer"])),
            (history.into(), slow_consumer.into())
        );
        assert_eq!(channel["role"], "owner");
        assert_eq!(world.get(&format!("/v1/channels/{name}"), &ann).expect(200), channel);
        // 63 bits, so that every language has a type for it.
        assert!(text(&channel["id"]).parse::<i64>().unwrap() > 0);
    };
    check("talk", "group", "durable", "disconnect");
    check("news", "broadcast", "windowed", "skip");
    let all = json!({"name": "all", "kind": "group", "history": "none", "slow_consumer": "skip",
        "display_name": "All of it", "metadata": {"k": [1, null]}});
    let made = world.post("/v1/channels", &ann, &all).expect(201);
    for (name, value) in all.as_object().unwrap() {
        assert_eq!(&made[name], value);
    }
}

#[test]
fn a_name_is_taken_once() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let again = json!({"name": "general", "kind": "broadcast", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &again).problem(409, "already-exists");
    world.post("/v1/channels", &world.api, &json!({"kind": "group"})).wrong_fields(&["/name"]);
    let reserved = json!({"name": "dm:x", "kind": "group", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &reserved).wrong_fields(&["/name"]);
    world.post("/v1/channels", &world.api, &json!({"name": "x", "kind": "group"})).wrong_fields(&["/members"]);
}

#[test]
fn two_people_have_one_dm() {
    let world = World::new();
    let (ann, bob) = (world.token("ann"), world.token("bob"));
    let draft = |one: &str, other: &str| json!({"kind": "dm", "members": [{"user": one}, {"user": other}]});
    let made = world.post("/v1/channels", &ann, &draft("ann", "bob")).expect(201);
    assert_eq!(made["name"], "dm:ann~bob");
    let same = world.post("/v1/channels", &bob, &draft("bob", "ann")).expect(200);
    assert_eq!(same["id"], made["id"]);
    world.post("/v1/channels", &world.token("eve"), &draft("ann", "bob")).problem(403, "not-allowed");
    world.get("/v1/channels/dm:ann~bob", &world.token("eve")).problem(404, "not-found");
    world.patch("/v1/channels/dm:ann~bob", &ann, &json!({"display_name": "x"})).problem(403, "not-allowed");
    world.patch("/v1/channels/dm:ann~bob", &world.api, &json!({"display_name": "x"})).expect(200);
    world.delete("/v1/channels/dm:ann~bob/members/ann", &ann).problem(409, "conflict");
}

#[test]
fn settings_change_and_nodes_hear_of_it() {
    let world = World::new();
    world.group("general", &[("ann", "owner"), ("mod", "moderator"), ("bob", "member")]);
    world.plane.told();
    let changed =
        world.patch("/v1/channels/general", &world.token("mod"), &json!({"slow_consumer": "skip"})).expect(200);
    assert_eq!((changed["slow_consumer"].as_str(), changed["role"].as_str()), (Some("skip"), Some("moderator")));
    assert!(
        matches!(&world.plane.told()[..], [NodeBody::ChannelChanged { archived: false, name, .. }] if name.as_str() == "general")
    );
    world.patch("/v1/channels/general", &world.api, &json!({"slow_consumer": "skip"})).expect(200);
    assert_eq!(world.plane.told(), [], "nothing has changed");

    let named = world.patch("/v1/channels/general", &world.api, &json!({"display_name": "G"})).expect(200);
    assert_eq!((named["display_name"].as_str(), named["slow_consumer"].as_str()), (Some("G"), Some("skip")));
    let unnamed = world.patch("/v1/channels/general", &world.api, &json!({"display_name": null})).expect(200);
    assert!(unnamed["display_name"].is_null());
    let low = world.patch("/v1/channels/general", &world.token("bob"), &json!({"display_name": "x"}));
    assert!(text(&low.problem(403, "not-allowed")["detail"]).contains("moderator"));
    for never in ["name", "kind", "history"] {
        let pointer = format!("/{never}");
        world.patch("/v1/channels/general", &world.api, &json!({never: "group"})).wrong_fields(&[&pointer]);
    }
}

#[test]
fn an_archived_channel_is_closed_and_readable() {
    let world = World::new();
    world.group("general", &[("ann", "owner"), ("bob", "moderator")]);
    world.delete("/v1/channels/general", &world.token("bob")).problem(403, "not-allowed");
    world.plane.told();
    let archived = world.delete("/v1/channels/general", &world.token("ann")).expect(200);
    assert!(archived["archived_ms"].as_i64().unwrap() > 0);
    assert!(matches!(world.plane.told()[..], [NodeBody::ChannelChanged { archived: true, .. }]));
    let again = world.delete("/v1/channels/general", &world.api).expect(200);
    assert_eq!(again["archived_ms"], archived["archived_ms"]);

    let bob = world.token("bob");
    world.post("/v1/channels/general/messages", &bob, &json!({"text": "x"})).problem(409, "archived");
    world.patch("/v1/channels/general", &world.api, &json!({"display_name": "x"})).problem(409, "archived");
    world.post("/v1/channels/general/members", &world.api, &json!({"user": "eve"})).problem(409, "archived");
    world.get("/v1/channels/general/messages", &bob).expect(200);
    world.delete("/v1/channels/general/members/bob", &bob).expect(204);
    let again = json!({"name": "general", "kind": "group", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &again).problem(409, "already-exists");
}

#[test]
fn a_channel_does_not_exist_for_strangers() {
    let world = World::new();
    world.group("secret", &[("ann", "owner")]);
    let eve = world.token("eve");
    let hidden = |method: &str, path: &str, body| {
        let there = world.request(method, &format!("/v1/channels/secret{path}")).bearer(&eve).json(&body).send();
        let nowhere = world.request(method, &format!("/v1/channels/nowhere{path}")).bearer(&eve).json(&body).send();
        let same =
            |name: &str| assert_eq!(there.problem(404, "not-found")[name], nowhere.problem(404, "not-found")[name]);
        same("detail");
        same("title");
    };
    hidden("GET", "", json!({}));
    hidden("PATCH", "", json!({"display_name": "x"}));
    hidden("DELETE", "", json!({}));
    hidden("GET", "/members", json!({}));
    hidden("POST", "/members", json!({"user": "eve"}));
    hidden("GET", "/members/ann", json!({}));
    hidden("PATCH", "/members/ann", json!({"role": "reader"}));
    hidden("DELETE", "/members/eve", json!({}));
    hidden("GET", "/messages", json!({}));
    hidden("GET", "/messages/1", json!({}));
    hidden("POST", "/messages", json!({"text": "x"}));
    assert_eq!(world.get("/v1/channels", &eve).expect(200)["channels"], json!([]));
    world.get("/v1/channels/not%20a%20name", &eve).problem(404, "not-found");
}
