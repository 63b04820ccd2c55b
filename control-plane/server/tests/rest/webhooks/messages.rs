//! Messages, told from their channels' history.

use std::time::Duration;

use millrace_control::WebhookConfig;
use serde_json::{Value, json};

use super::{Received, Receiver, Reply, failures, put_user, quick, show};
use crate::messages::{linked_telling, linked_to_another, publish};
use crate::{World, text, until};

fn register(world: &World, url: &str, prefix: Option<&str>) -> String {
    let draft = json!({"url": url, "events": ["message.sent"], "channel_prefix": prefix});
    text(&world.post("/v1/webhooks", &world.api, &draft).expect(201)["id"])
}

fn texts(received: &[Received]) -> Vec<String> {
    received.iter().map(|request| text(&request.body()["data"]["message"]["text"])).collect()
}

fn waits(world: &World, id: &str) -> bool {
    show(world, id)["health"]["waiting_channels"] != 0
}

#[test]
fn messages_are_told_once_and_in_order() {
    let (world, _runtime) = linked_telling(quick());
    let channel = world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    publish(&world, &ann, "before there was a webhook");
    let receiver = Receiver::new(|_| Reply::Status(200));
    let id = register(&world, &receiver.url(), None);
    let other = Receiver::new(|_| Reply::Status(200));
    register(&world, &other.url(), Some("support-"));
    let said: Vec<_> = (0..70).map(|number| format!("message {number}")).collect();
    for text in &said {
        publish(&world, &ann, text);
    }
    until(|| receiver.count() >= 70);
    until(|| !waits(&world, &id));
    let told = receiver.received();
    assert_eq!(texts(&told), said);
    assert_eq!(other.count(), 0);
    let first = &told[0];
    assert_eq!((first.kind().as_str(), first.id()), ("message.sent", &*format!("msg_{}_1_2", text(&channel["id"]))));
    let data = &first.body()["data"];
    assert_eq!(data["channel"], json!({"id": channel["id"], "name": "general"}));
    assert_eq!(data["message"], world.get("/v1/channels/general/messages/2", &ann).expect(200), "as the API shows it");
}

#[test]
fn a_message_that_is_refused_is_given_up_and_the_next_one_follows() {
    let (world, _runtime) = linked_telling(quick());
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    world.group("random", &[("ann", "owner")]);
    let is_bad = |request: &Received| request.body()["data"]["message"]["text"] == "bad";
    let receiver = Receiver::new(move |request| Reply::Status(if is_bad(request) { 400 } else { 200 }));
    let id = register(&world, &receiver.url(), None);
    for said in ["good", "bad", "better"] {
        publish(&world, &ann, said);
    }
    // Of another channel it goes on taking messages.
    let mut others = 0;
    until(|| {
        others += 1;
        let said = format!("other {others}");
        world.post("/v1/channels/random/messages", &ann, &json!({"text": said})).expect(201);
        until(|| texts(&receiver.received()).contains(&said));
        texts(&receiver.received()).contains(&"better".to_owned())
    });
    let mut told = texts(&receiver.received());
    told.retain(|text| !text.starts_with("other"));
    assert!((6..10).contains(&told.len()), "four attempts, or a few more if nothing else was taken between: {told:?}");
    told.dedup();
    assert_eq!(told, ["good", "bad", "better"]);
    until(|| !waits(&world, &id));
    until(|| failures(&world, &id).len() == 1);
    let before = receiver.count();
    receiver.answer(|_| Reply::Status(200));
    let event = text(&failures(&world, &id)[0]["event"]);
    world.post(&format!("/v1/webhooks/{id}/failures/{event}/retry"), &world.api, &json!({})).expect(202);
    until(|| receiver.count() == before + 1);
    let last = receiver.received().pop().unwrap();
    assert_eq!((last.id(), &*texts(std::slice::from_ref(&last))[0]), (&*event, "bad"), "read again");
}

/// A message that another control node stores than the one which took the webhook on is told, from the answer on.
#[test]
fn a_webhook_is_known_to_every_control_node_when_it_is_answered_for() {
    // Nobody looks at all of them by itself within the test.
    let (world, _runtime) = linked_to_another(WebhookConfig { look: Duration::from_secs(3_600), ..quick() });
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    publish(&world, &ann, "before there was a webhook");
    let receiver = Receiver::new(|_| Reply::Status(200));
    let id = register(&world, &receiver.url(), None);
    publish(&world, &ann, "one");
    until(|| receiver.count() == 1);
    world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"channel_prefix": "x"})).expect(200);
    publish(&world, &ann, "not wanted");
    world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"channel_prefix": "gen"})).expect(200);
    publish(&world, &ann, "two");
    until(|| receiver.count() >= 2);
    world.delete(&format!("/v1/webhooks/{id}"), &world.api).expect(204);
    let other = Receiver::new(|_| Reply::Status(200));
    register(&world, &other.url(), None);
    publish(&world, &ann, "three");
    until(|| other.count() == 1);
    let mut told = texts(&receiver.received());
    // Where messages waited, what was not wanted meanwhile may be told with them.
    told.retain(|text| text != "not wanted");
    assert_eq!((told, texts(&other.received())), (vec!["one".to_owned(), "two".into()], vec!["three".to_owned()]));
}

/// While an endpoint takes nothing, changes and messages find out in turn whether it is back: neither waits behind the other one.
#[test]
fn what_is_tried_while_an_endpoint_fails_alternates() {
    let (world, _runtime) = linked_telling(WebhookConfig { hurry: 10, ..quick() });
    let ann = world.token("ann");
    let channels = ["one", "two", "three", "four"];
    for name in channels {
        world.group(name, &[("ann", "owner")]);
    }
    let receiver = Receiver::new(|_| Reply::Status(503));
    let draft = json!({"url": receiver.url(), "events": ["message.sent", "user.updated"]});
    let id = text(&world.post("/v1/webhooks", &world.api, &draft).expect(201)["id"]);
    // From its first failure on one request at a time is made.
    put_user(&world, "ann", "x");
    until(|| show(&world, &id)["health"]["failing_since_ms"].is_number());
    for name in channels {
        put_user(&world, name, "x");
        put_user(&world, name, "y");
        world.post(&format!("/v1/channels/{name}/messages"), &ann, &json!({"text": "x"})).expect(201);
    }
    let before = receiver.count();
    until(|| receiver.count() >= before + 4);
    let kinds: Vec<_> = receiver.received()[before..].iter().map(Received::kind).collect();
    assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "{kinds:?}");
}

/// What waits is not wanted any more, or its channel is not.
#[test]
fn messages_that_are_not_wanted_any_more_are_not_told() {
    for narrower in [json!({"events": ["user.created"]}), json!({"channel_prefix": "support-"})] {
        let (world, _runtime) = linked_telling(quick());
        world.group("general", &[("ann", "owner")]);
        let ann = world.token("ann");
        let receiver = Receiver::new(|_| Reply::Hang);
        let id = register(&world, &receiver.url(), None);
        for said in ["one", "two", "three"] {
            publish(&world, &ann, said);
        }
        until(|| receiver.count() == 1);
        world.patch(&format!("/v1/webhooks/{id}"), &world.api, &narrower).expect(200);
        receiver.answer(|_| Reply::Status(200));
        receiver.release();
        until(|| !waits(&world, &id));
        assert_eq!(receiver.count(), 1, "{narrower}: {:?}", texts(&receiver.received()));
    }
}

#[test]
fn channels_do_not_wait_for_each_other_and_an_outage_loses_nothing() {
    let (world, _runtime) = linked_telling(quick());
    let ann = world.token("ann");
    for name in ["general", "random", "other"] {
        world.group(name, &[("ann", "owner")]);
    }
    let receiver = Receiver::new(|_| Reply::Status(503));
    let id = register(&world, &receiver.url(), None);
    let mut said = Vec::new();
    for number in 0..20 {
        for name in ["general", "random", "other"] {
            let text = format!("{name} {number}");
            world.post(&format!("/v1/channels/{name}/messages"), &ann, &json!({"text": text})).expect(201);
            said.push(text);
        }
    }
    until(|| receiver.count() >= 5);
    assert!(waits(&world, &id));
    receiver.answer(|_| Reply::Status(200));
    until(|| !waits(&world, &id));
    let told = texts(&receiver.received());
    for name in ["general", "random", "other"] {
        let mut of_channel: Vec<_> = told.iter().filter(|text| text.starts_with(name)).collect();
        of_channel.dedup();
        let expect: Vec<_> = said.iter().filter(|text| text.starts_with(name)).collect();
        assert_eq!(of_channel, expect, "in order, and one that failed again before the next");
    }
}

#[test]
fn a_channel_that_keeps_nothing_for_good_tells_nothing() {
    let (world, _runtime) = linked_telling(quick());
    let draft = json!({"name": "live", "kind": "broadcast", "members": [{"user": "ann", "role": "owner"}]});
    world.post("/v1/channels", &world.api, &draft).expect(201);
    world.group("general", &[("ann", "owner")]);
    let ann = world.token("ann");
    let receiver = Receiver::new(|_| Reply::Status(200));
    register(&world, &receiver.url(), None);
    world.post("/v1/channels/live/messages", &ann, &json!({"text": "windowed"})).expect(201);
    publish(&world, &ann, "durable");
    until(|| receiver.count() == 1);
    assert_eq!(texts(&receiver.received()), ["durable"]);
    let _: Value = receiver.received()[0].body();
}
