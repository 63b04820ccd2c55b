//! Commits of which nobody hears what became of them.

use millrace_protocol::node::NodeBody;
use serde_json::{Value, json};

use crate::faulty::Fate;
use crate::plane::ends_membership;
use crate::{World, text};

/// Whatever became of a commit that nobody heard of: the change is made once, the answer says so, and nodes were told.
#[test]
fn a_change_is_made_once_and_told() {
    for fate in [Fate::WrittenUnknown, Fate::LostUnknown, Fate::Conflict] {
        let (world, store) = World::faulty();
        let change = |method: &str, path: &str, body: Value, statuses: &[u16]| {
            world.plane.told();
            store.next_commits([fate]);
            let answer = world.request(method, path).bearer(&world.api).json(&body).send();
            assert!(statuses.contains(&answer.status), "{fate:?} {method} {path}: {answer:?}");
            assert!(store.fates_have_come());
            answer.body()
        };
        let draft = json!({"name": "general", "kind": "group", "members": [{"user": "ann", "role": "owner"}]});
        change("POST", "/v1/channels", draft, &[201]);
        assert!(matches!(world.plane.told()[..], [NodeBody::ChannelChanged { .. }]), "{fate:?}");
        change("POST", "/v1/channels/general/members", json!({"user": "bob"}), &[200, 201]);
        assert!(matches!(world.plane.told()[..], [NodeBody::MemberChanged(_)]), "{fate:?}");
        change("PATCH", "/v1/channels/general/members/bob", json!({"role": "reader"}), &[200]);
        assert!(matches!(world.plane.told()[..], [NodeBody::MemberChanged(_)]), "{fate:?}");
        change("DELETE", "/v1/channels/general/members/bob", json!({}), &[204]);
        assert!(matches!(&world.plane.told()[..], [told] if ends_membership(told, "bob")), "{fate:?}");
        change("PATCH", "/v1/channels/general", json!({"slow_consumer": "skip"}), &[200]);
        assert!(matches!(world.plane.told()[..], [NodeBody::ChannelChanged { .. }]), "{fate:?}");

        let key = text(&change("POST", "/v1/keys", json!({}), &[201])["key"]);
        world.get("/v1/channels", &key).expect(200);
        let id = key.split('_').nth(1).unwrap();
        change("DELETE", &format!("/v1/keys/{id}"), json!({}), &[204]);
        world.get("/v1/channels", &key).problem(401, "unauthenticated");

        let pair = change("POST", "/v1/tokens", json!({"user": "ann"}), &[201]);
        let next = change("POST", "/v1/tokens/refresh", json!({"refresh_token": pair["refresh_token"]}), &[201]);
        world.get("/v1/channels", &text(&next["token"])).expect(200);
        let last = change("POST", "/v1/tokens/refresh", json!({"refresh_token": next["refresh_token"]}), &[201]);
        change("POST", "/v1/tokens/revoke", json!({"token_id": last["token_id"]}), &[204]);
        assert!(matches!(world.plane.told()[..], [NodeBody::TokensRevoked(_)]), "{fate:?}");
        world.get("/v1/channels", &text(&last["token"])).problem(401, "unauthenticated");

        let secret = json!({"algorithm": "HS256", "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="});
        let id = text(&change("POST", "/v1/signing-keys", secret, &[201])["id"]);
        assert!(matches!(&world.plane.told()[..], [NodeBody::Keys(keys)] if keys.len() == 2), "{fate:?}");
        change("DELETE", &format!("/v1/signing-keys/{id}"), json!({}), &[204]);
        assert!(matches!(&world.plane.told()[..], [NodeBody::Keys(keys)] if keys.len() == 2), "{fate:?}");
        assert_eq!(world.get("/v1/signing-keys", &world.api).body()["signing_keys"].as_array().unwrap().len(), 1);
    }
}

/// Nobody knows whether it was done: the answer says that, and nodes ask again for what they believe.
#[test]
fn what_stays_unknown_is_called_so() {
    let (world, store) = World::faulty();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let remove = || world.delete("/v1/channels/general/members/bob", &world.api);
    world.plane.told();
    store.next_commits([Fate::LostUnknown, Fate::Fail]);
    let unknown = remove();
    unknown.problem(503, "unknown-outcome");
    assert_eq!(unknown.header("retry-after"), "1");
    assert!(matches!(world.plane.told()[..], [NodeBody::ChannelChanged { archived: false, .. }]));

    store.next_commits([Fate::Fail]);
    remove().problem(503, "unavailable");
    store.next_commits([Fate::Conflict; 16]);
    remove().problem(503, "unavailable");
    world.get("/v1/channels/general/members/bob", &world.api).expect(200);
    remove().expect(204);
}

/// A repeated request finds the answer of the one whose commit was not heard of.
#[test]
fn an_idempotency_key_resolves_an_unknown_outcome() {
    let (world, store) = World::faulty();
    let create = || {
        let request = world.request("POST", "/v1/keys").bearer(&world.api).header("idempotency-key", "k");
        request.json(&json!({})).send()
    };
    store.next_commits([Fate::WrittenUnknown, Fate::Fail]);
    // The second run finds the answer of the first one and has nothing to write.
    let first = create();
    first.expect(201);
    assert_eq!(create().expect(201), first.body());
    assert_eq!(world.get("/v1/keys", &world.api).body()["keys"].as_array().unwrap().len(), 2);
}
