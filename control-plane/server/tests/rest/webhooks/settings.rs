//! What can be registered, changed and removed, and by whom.

use millrace_control::WEBHOOK_EVENTS;
use millrace_store::{Direction, KeyRange};
use serde_json::json;

use super::{Receiver, Reply, deliveries, names, put_user, quick, register, show};
use crate::{OPERATOR, World, text, until};

#[test]
fn a_webhook_is_registered_shown_changed_and_removed() {
    let world = World::telling(quick());
    let draft = json!({"url": "https://example.com/x", "events": ["user.updated"], "label": "desk"});
    let made = world.post("/v1/webhooks", &world.api, &draft);
    let location = made.header("location").to_owned();
    let made = made.expect(201);
    let secret = text(&made["secret"]);
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let id = text(&made["id"]);
    assert_eq!(location, format!("/v1/webhooks/{id}"));
    let shown = show(&world, &id);
    assert!(shown.get("secret").is_none() && !shown.to_string().contains(&secret[6..]), "shown once");
    assert_eq!((&shown["state"], &shown["off_reason"], &shown["label"]), (&json!("on"), &json!(null), &json!("desk")));
    assert_eq!(shown["health"]["waiting_events"], 0);

    let change = json!({"events": ["message.sent"], "channel_prefix": "a", "label": null, "state": "off"});
    let changed = world.patch(&location, &world.api, &change).expect(200);
    assert_eq!((&changed["events"], &changed["channel_prefix"]), (&json!(["message.sent"]), &json!("a")));
    assert_eq!(
        (&changed["state"], &changed["off_reason"], &changed["label"]),
        (&json!("off"), &json!("asked"), &json!(null))
    );
    let changed = world.patch(&location, &world.api, &json!({"channel_prefix": null, "state": "on"})).expect(200);
    assert_eq!((&changed["state"], &changed["channel_prefix"]), (&json!("on"), &json!(null)));
    assert_eq!(world.get("/v1/webhooks", &world.api).expect(200)["webhooks"], json!([changed]));

    let (_, other) = world.tenant("other");
    for credential in [&other, &world.api] {
        let expect = if credential == &other { 404 } else { 204 };
        assert_eq!(world.delete(&location, credential).status, expect);
    }
    world.get(&location, &world.api).problem(404, "not-found");
    assert_eq!(world.get("/v1/webhooks", &world.api).expect(200), json!({"webhooks": []}));
}

#[test]
fn only_application_servers_have_webhooks() {
    let world = World::new();
    let ann = world.token("ann");
    for credential in [OPERATOR, &ann] {
        world.get("/v1/webhooks", credential).problem(403, "wrong-scope");
        world.post("/v1/webhooks", credential, &json!({})).problem(403, "wrong-scope");
    }
}

#[test]
fn what_is_no_webhook_is_refused() {
    let world = World::new();
    let check = |draft: serde_json::Value, fields: &[&str]| {
        world.post("/v1/webhooks", &world.api, &draft).wrong_fields(fields);
    };
    let url = "https://example.com";
    check(json!({}), &["/url", "/events"]);
    check(json!({"url": url, "events": []}), &["/events"]);
    check(json!({"url": url, "events": ["user.updated", "user.updated"]}), &["/events"]);
    check(json!({"url": url, "events": ["user.danced"]}), &["/events"]);
    check(json!({"url": url, "events": ["user.updated"], "channel_prefix": ""}), &["/channel_prefix"]);
    check(json!({"url": url, "events": ["user.updated"], "secret": "x"}), &["/secret"]);
    // No plain text over the internet, and nothing inside.
    for bad in [
        "ftp://example.com",
        "https://me:pw@example.com",
        "https://exa mple.com",
        "http://example.com",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
    ] {
        check(json!({"url": bad, "events": ["user.updated"]}), &["/url"]);
    }
    let id = register(&world, url, &["user.updated"]).0;
    let change =
        world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"url": "https://10.0.0.1", "state": "on"}));
    change.wrong_fields(&["/url"]);
    assert_eq!(show(&world, &id)["url"], url);
}

/// The console and the API's document have the events that there are: no list of them says something else.
#[test]
fn every_list_of_events_is_the_same() {
    let source = include_str!("../../../../console/src/operate/webhooks-api.ts");
    let list = source.split_once("EVENTS = [").unwrap().1.split_once(']').unwrap().0;
    let listed: Vec<_> =
        list.split(',').map(|item| item.trim().trim_matches('"')).filter(|item| !item.is_empty()).collect();
    assert_eq!(listed, WEBHOOK_EVENTS);
    let world = World::new();
    let document = world.request("GET", "/v1/openapi.json").send().expect(200);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["EventKind"]["enum"], json!(WEBHOOK_EVENTS));
    for name in ["CreateWebhook", "UpdateWebhook"] {
        assert_eq!(schemas[name]["properties"]["events"]["maxItems"], WEBHOOK_EVENTS.len(), "{name}");
    }
}

#[test]
fn a_tenant_has_sixteen_at_most() {
    let world = World::new();
    for _ in 0..15 {
        register(&world, "https://example.com", &["user.updated"]);
    }
    let (id, _) = register(&world, "https://example.com", &["user.updated"]);
    let draft = json!({"url": "https://example.com", "events": ["user.updated"]});
    world.post("/v1/webhooks", &world.api, &draft).problem(409, "conflict");
    world.delete(&format!("/v1/webhooks/{id}"), &world.api).expect(204);
    world.post("/v1/webhooks", &world.api, &draft).expect(201);
}

#[test]
fn while_a_secret_is_replaced_both_sign() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(200));
    let (id, first) = register(&world, &receiver.url(), &["user.created"]);
    let rotate = |overlap| {
        let path = format!("/v1/webhooks/{id}/rotate-secret");
        world.post(&path, &world.api, &json!({"overlap_seconds": overlap})).expect(200)
    };
    let rotated = rotate(3_600);
    let second = text(&rotated["secret"]);
    assert!(rotated["old_secret_until_ms"].as_i64() > rotated["updated_ms"].as_i64());
    put_user(&world, "ann", "Ann");
    until(|| receiver.count() == 1);
    let both = &receiver.received()[0];
    assert!(both.is_signed_with(&first) && both.is_signed_with(&second));
    assert_eq!(both.headers["webhook-signature"].split(' ').count(), 2);

    let third = text(&rotate(0)["secret"]);
    put_user(&world, "bob", "Bob");
    until(|| receiver.count() == 2);
    let one = &receiver.received()[1];
    assert!(one.is_signed_with(&third) && !one.is_signed_with(&second) && !one.is_signed_with(&first));
    let path = format!("/v1/webhooks/{id}/rotate-secret");
    world.post(&path, &world.api, &json!({"overlap_seconds": 604_801})).wrong_fields(&["/overlap_seconds"]);
}

#[test]
fn a_test_says_at_once_what_became_of_it() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(418));
    let (id, secret) = register(&world, &receiver.url(), &["user.created"]);
    world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"state": "off"})).expect(200);
    let path = format!("/v1/webhooks/{id}/test");
    let tested = world.post(&path, &world.api, &json!({})).expect(200);
    assert_eq!((&tested["result"], &tested["status"]), (&json!("failed"), &json!(418)));
    assert_eq!(tested["error"], "the endpoint answered 418");
    receiver.answer(|_| Reply::Status(200));
    let call =
        || world.request("POST", &path).bearer(&world.api).header("idempotency-key", "k").json(&json!({})).send();
    let again = call().expect(200);
    assert_eq!((&again["result"], &again["type"]), (&json!("delivered"), &json!("webhook.test")));
    assert_eq!(call().expect(200), again, "a repeated request gets its answer");
    assert_eq!(receiver.count(), 2);
    let told = &receiver.received()[1];
    assert!(told.is_signed_with(&secret));
    assert_eq!(told.body()["data"]["webhook"], id);
    assert_eq!(deliveries(&world, &id), [again, tested], "and is kept among the attempts");
    world.post("/v1/webhooks/nothing/test", &world.api, &json!({})).problem(404, "not-found");
}

#[test]
fn one_that_is_off_hears_nothing_of_what_happens_meanwhile() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Hang);
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    put_user(&world, "ann", "before");
    until(|| receiver.count() == 1);
    let path = format!("/v1/webhooks/{id}");
    world.patch(&path, &world.api, &json!({"state": "off"})).expect(200);
    put_user(&world, "bob", "meanwhile");
    receiver.answer(|_| Reply::Status(200));
    receiver.release();
    until(|| deliveries(&world, &id).len() == 1);
    world.patch(&path, &world.api, &json!({"state": "on"})).expect(200);
    put_user(&world, "eve", "after");
    until(|| receiver.count() == 3);
    let mut told = names(&receiver.received()[1..]);
    told.sort();
    assert_eq!(told, ["after", "before"], "what waited is told");
    until(|| show(&world, &id)["health"]["last_success_ms"].is_number());
}

#[test]
fn what_was_kept_for_a_removed_webhook_is_swept() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(500));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    for number in 0..20 {
        put_user(&world, &format!("u{number}"), "x");
    }
    until(|| !deliveries(&world, &id).is_empty());
    world.delete(&format!("/v1/webhooks/{id}"), &world.api).expect(204);
    let kept = || {
        world.runtime.block_on(async {
            let mut transaction =
                world.store.begin(std::time::Instant::now() + super::Duration::from_secs(5)).await.unwrap();
            let of_webhook = transaction.scan(KeyRange::prefix(b"w"), Direction::Forward, 100).await.unwrap();
            let webhooks = transaction.scan(KeyRange::prefix(b"W"), Direction::Forward, 100).await.unwrap();
            of_webhook.len() + webhooks.len()
        })
    };
    assert!(kept() > 0);
    until(|| kept() == 0);
}
