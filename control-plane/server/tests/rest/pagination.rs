//! Lists that come in pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{OPERATOR, World, text};

/// Goes through a list page by page; gives the entries and checks that no page is over its limit.
fn all(world: &World, path: &str, credential: &str, list: &str, limit: usize) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let page = world.get(&format!("{path}{separator}limit={limit}{cursor}"), credential).expect(200);
        let found = page[list].as_array().unwrap();
        assert!(found.len() <= limit);
        entries.extend(found.iter().cloned());
        match page["next"].as_str() {
            Some(next) => {
                assert_eq!(found.len(), limit, "only the last page is short");
                cursor = format!("&cursor={next}");
            }
            None => return entries,
        }
    }
}

fn ids(entries: &[Value], field: &str) -> Vec<String> {
    entries.iter().map(|entry| text(&entry[field])).collect()
}

#[test]
fn every_entry_is_on_one_page() {
    let world = World::new();
    let users: Vec<String> = (0..23).map(|number| format!("user{number:02}")).collect();
    let mut members: Vec<_> = users.iter().map(|user| (user.as_str(), "member")).collect();
    members[0].1 = "owner";
    let channels: Vec<String> = (0..7).map(|number| format!("channel{number}")).collect();
    for channel in &channels {
        world.group(channel, &members);
    }
    world.group("of-another", &[("eve", "owner")]);
    let user = world.token("user05");
    for limit in [1, 5, 7, 100] {
        let found = all(&world, "/v1/channels/channel3/members", &user, "members", limit);
        assert_eq!(ids(&found, "user"), users, "limit {limit}");
        let found = all(&world, "/v1/channels", &user, "channels", limit);
        let found: BTreeSet<_> = ids(&found, "name").into_iter().collect();
        assert!(found.iter().eq(&channels), "limit {limit}: {found:?}");
        assert_eq!(all(&world, "/v1/channels?user=user05", &world.api, "channels", limit).len(), channels.len());
        let found = all(&world, "/v1/channels", &world.api, "channels", limit);
        assert_eq!(ids(&found, "name")[..7], channels, "by name");
        assert_eq!(found.len(), 8);
        assert_eq!(all(&world, "/v1/users", &world.api, "users", limit).len(), 24);
    }
    for _ in 0..4 {
        world.post("/v1/keys", &world.api, &json!({})).expect(201);
    }
    assert_eq!(all(&world, "/v1/keys", &world.api, "keys", 2).len(), 5);
    assert_eq!(all(&world, "/v1/keys?tenant=acme", OPERATOR, "keys", 2).len(), 5);
    assert_eq!(all(&world, "/v1/keys", OPERATOR, "keys", 2).len(), 0, "the operator's own");
    world.tenant("second");
    world.tenant("third");
    let mut names = ids(&all(&world, "/v1/tenants", OPERATOR, "tenants", 1), "name");
    names.sort();
    assert_eq!(names, ["acme", "second", "third"]);
}

/// What comes or goes between two pages moves no other entry.
#[test]
fn pages_are_stable_under_change() {
    let world = World::new();
    for name in ["b", "d", "f"] {
        world.put(&format!("/v1/users/{name}"), &world.api, &json!({})).expect(201);
    }
    let page = world.get("/v1/users?limit=2", &world.api).expect(200);
    assert_eq!(ids(page["users"].as_array().unwrap(), "id"), ["b", "d"]);
    world.delete("/v1/users/d", &world.api).expect(204);
    for name in ["a", "e"] {
        world.put(&format!("/v1/users/{name}"), &world.api, &json!({})).expect(201);
    }
    let next = world.get(&format!("/v1/users?limit=2&cursor={}", text(&page["next"])), &world.api).expect(200);
    assert_eq!(ids(next["users"].as_array().unwrap(), "id"), ["e", "f"]);
    assert!(next["next"].is_null());
}

#[test]
fn parameters_are_checked() {
    let world = World::new();
    world.group("general", &[("ann", "owner")]);
    let check = |path: &str, fields: &[&str]| world.get(path, &world.api).wrong_fields(fields);
    check("/v1/users?limit=0", &["?limit"]);
    check("/v1/users?limit=101", &["?limit"]);
    check("/v1/users?limit=x&cursor=%21&order=up", &["?limit", "?cursor", "?order"]);
    check("/v1/users?limit=1&limit=2", &["?limit"]);
    // A cursor of something else.
    check("/v1/channels?user=ann&cursor=MWFubg", &["?cursor"]);
    check("/v1/channels/general/messages?cursor=MWFubg", &["?cursor"]);
    check("/v1/channels/general/messages?before=1&after=2", &["?cursor"]);
    check("/v1/channels/general/messages?before=0", &["?before"]);
}
