//! Endpoints that do not do what they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_control::{Networks, WebhookConfig};
use serde_json::json;

use super::{Received, Receiver, Reply, deliveries, failures, names, put_user, quick, register, show};
use crate::{World, text, until};

fn is_of(request: &Received, user: &str) -> bool {
    request.body()["data"]["user"]["id"] == user
}

#[test]
fn what_fails_is_tried_again_and_nothing_overtakes_it() {
    let world = World::telling(quick());
    let failed = Arc::new(AtomicUsize::new(0));
    let count = failed.clone();
    let receiver = Receiver::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        1 => Reply::Status(500),
        2 => Reply::With(503, "retry-after: 0".into()),
        _ => Reply::Status(200),
    });
    let (id, _) = register(&world, &receiver.url(), &["user.created", "user.updated"]);
    for name in ["one", "two", "three"] {
        put_user(&world, "ann", name);
    }
    until(|| receiver.count() >= 6);
    until(|| show(&world, &id)["health"]["waiting_events"] == 0);
    assert_eq!(names(&receiver.received()), ["one", "one", "one", "one", "two", "three"]);
    let same: std::collections::BTreeSet<_> =
        receiver.received()[..4].iter().map(|told| told.id().to_owned()).collect();
    assert_eq!(same.len(), 1, "the same event");
    let mut told = deliveries(&world, &id);
    told.reverse();
    let results: Vec<_> =
        told.iter().map(|attempt| (text(&attempt["result"]), attempt["attempt"].as_u64().unwrap())).collect();
    let expect =
        [("retrying", 1), ("retrying", 2), ("retrying", 3), ("delivered", 4), ("delivered", 1), ("delivered", 1)];
    assert_eq!(results, expect.map(|(result, attempt)| (result.to_owned(), attempt)));
    assert_eq!((&told[1]["status"], &told[1]["error"]), (&json!(500), &json!("the endpoint answered 500")));
    assert!(told[0]["status"].is_null() && text(&told[0]["error"]).contains("broke"), "{}", told[0]);
    assert!(told[0]["next_ms"].is_number() && told[3]["next_ms"].is_null());
    let health = &show(&world, &id)["health"];
    assert!(health["failing_since_ms"].is_null() && health["last_failure_ms"].is_number(), "{health}");
}

/// Until something holds, others are told: what works meanwhile keeps the endpoint from being taken for dead.
fn go_on(world: &World, receiver: &Receiver, holds: impl Fn() -> bool) {
    let mut others = 0;
    until(|| {
        others += 1;
        let user = format!("other{others}");
        put_user(world, &user, "good");
        until(|| receiver.received().iter().any(|request| is_of(request, &user)));
        holds()
    });
}

/// An endpoint that does not know our signatures answers 400 to everything: that is not the fault of an event.
#[test]
fn one_that_refuses_everything_is_failing_and_loses_nothing_soon() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(400));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    for number in 0..3 {
        put_user(&world, &format!("u{number}"), "x");
    }
    // Of the events that four attempts would have ended, one is at its fifth.
    until(|| {
        let received = receiver.received();
        received.iter().any(|request| received.iter().filter(|other| other.id() == request.id()).count() == 5)
    });
    assert!(failures(&world, &id).is_empty());
    assert!(show(&world, &id)["health"]["failing_since_ms"].is_number());
    receiver.answer(|_| Reply::Status(200));
    until(|| show(&world, &id)["health"]["waiting_events"] == 0);
    assert!(failures(&world, &id).is_empty());
}

/// Of an outage nothing is left once what failed was given up: the next failure, days later, is the first one.
#[test]
fn nothing_fails_while_nothing_waits() {
    // A day is 0.9 s.
    let world = World::telling(WebhookConfig { hurry: 100_000, ..quick() });
    let receiver = Receiver::new(|_| Reply::Status(500));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    put_user(&world, "ann", "x");
    until(|| receiver.count() == 11);
    until(|| failures(&world, &id).len() == 1);
    until(|| show(&world, &id)["health"]["failing_since_ms"].is_null());
    assert_eq!(show(&world, &id)["state"], "on");
}

/// The status is what counts: a body that comes late does not make a time-out of it, and a second request.
#[test]
fn an_answer_whose_body_is_late_counts() {
    let world = World::telling(WebhookConfig { attempt_limit: Duration::from_millis(300), ..quick() });
    let receiver = Receiver::new(|_| Reply::Late);
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let tested = world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200);
    assert_eq!((&tested["result"], &tested["status"], receiver.count()), (&json!("delivered"), &json!(200), 1));
    receiver.release();
}

/// One event that an endpoint stumbles over holds up what belongs to it, and nothing else.
#[test]
fn a_poisonous_event_is_given_up_and_can_be_told_later() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|request| if is_of(request, "ann") { Reply::Status(422) } else { Reply::Status(200) });
    let (id, _) = register(&world, &receiver.url(), &["user.created", "user.updated"]);
    put_user(&world, "ann", "bad");
    for number in 0..5 {
        put_user(&world, &format!("u{number}"), "good");
    }
    until(|| receiver.received().iter().filter(|request| !is_of(request, "ann")).count() == 5);
    go_on(&world, &receiver, || failures(&world, &id).len() == 1);
    let attempts = receiver.received().iter().filter(|request| is_of(request, "ann")).count();
    // Four, or a few more if nothing else was taken between two of them.
    assert!((4..8).contains(&attempts), "another day would not mend it: {attempts}");
    let failure = failures(&world, &id).remove(0);
    assert_eq!((&failure["attempts"], &failure["type"]), (&json!(attempts), &json!("user.created")));
    assert_eq!(failure["error"], "the endpoint answered 422");
    assert_eq!(show(&world, &id)["state"], "on");

    receiver.answer(|_| Reply::Status(200));
    let path = format!("/v1/webhooks/{id}/failures/{}/retry", text(&failure["event"]));
    world.post(&path, &world.api, &json!({})).expect(202);
    until(|| receiver.received().iter().filter(|request| is_of(request, "ann")).count() == attempts + 1);
    assert_eq!(receiver.received().last().unwrap().id(), text(&failure["event"]));
    assert!(failures(&world, &id).is_empty());
    world.post(&path, &world.api, &json!({})).problem(404, "not-found");
}

#[test]
fn an_event_that_always_fails_is_tried_eleven_times_and_holds_up_no_other_user() {
    // A day is 0.9 s.
    let world = World::telling(WebhookConfig { hurry: 100_000, ..quick() });
    let receiver = Receiver::new(|request| if is_of(request, "ann") { Reply::Status(500) } else { Reply::Status(200) });
    let (id, _) = register(&world, &receiver.url(), &["user.created", "user.updated"]);
    put_user(&world, "ann", "bad");
    put_user(&world, "ann", "behind it");
    go_on(&world, &receiver, || failures(&world, &id).len() == 1);
    let of_ann: Vec<_> = receiver.received().into_iter().filter(|request| is_of(request, "ann")).collect();
    assert_eq!(names(&of_ann[..11]), vec!["bad"; 11], "nothing overtakes it");
    let failure = failures(&world, &id).remove(0);
    assert_eq!((&failure["attempts"], &failure["error"]), (&json!(11), &json!("the endpoint answered 500")));
    assert_eq!(show(&world, &id)["state"], "on");
}

#[test]
fn one_that_wants_no_more_is_turned_off() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Status(410));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    put_user(&world, "ann", "x");
    until(|| show(&world, &id)["state"] == "off");
    let shown = show(&world, &id);
    assert_eq!((&shown["off_reason"], &shown["health"]["waiting_events"]), (&json!("gone"), &json!(1)));
    receiver.answer(|_| Reply::Status(200));
    world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"state": "on"})).expect(200);
    until(|| show(&world, &id)["health"]["waiting_events"] == 0);
    assert_eq!(receiver.count(), 2, "what waited is told");
}

#[test]
fn one_that_takes_nothing_for_long_is_turned_off() {
    // Three days are 26 ms, a day 9 ms.
    let world = World::telling(WebhookConfig { hurry: 10_000_000, ..quick() });
    let receiver = Receiver::new(|_| Reply::Status(500));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    for number in 0..200 {
        put_user(&world, &format!("u{number}"), "x");
        if show(&world, &id)["state"] == "off" {
            break;
        }
    }
    until(|| show(&world, &id)["state"] == "off");
    let shown = show(&world, &id);
    assert_eq!(shown["off_reason"], "failing");
    assert_eq!(shown["health"]["last_error"], "the endpoint answered 500");
}

#[test]
fn more_than_may_wait_turns_it_off() {
    let world = World::telling(WebhookConfig { waiting_max: 20, hurry: 100, ..quick() });
    let receiver = Receiver::new(|_| Reply::Status(500));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let mut number = 0;
    until(|| {
        number += 1;
        if number <= 40 {
            put_user(&world, &format!("u{number}"), "x");
        }
        show(&world, &id)["state"] == "off"
    });
    let shown = show(&world, &id);
    assert_eq!(shown["off_reason"], "backlog");
    assert!(shown["health"]["waiting_events"].as_u64() >= Some(21), "{shown}");
    // It can be turned on with all that waits, and more may.
    let path = format!("/v1/webhooks/{id}");
    world.patch(&path, &world.api, &json!({"state": "on"})).expect(200);
    let before = receiver.count();
    until(|| receiver.count() >= before + 5);
    assert_eq!(show(&world, &id)["state"], "on");
    receiver.answer(|_| Reply::Status(200));
    until(|| show(&world, &id)["health"]["waiting_events"] == 0);
    assert_eq!(show(&world, &id)["state"], "on");
}

/// Whoever turns one on again and again that takes nothing comes to an end.
#[test]
fn what_waits_has_an_end_also_if_it_is_turned_on_again_and_again() {
    let world = World::telling(WebhookConfig { waiting_max: 2, hurry: 10_000, ..quick() });
    let receiver = Receiver::new(|_| Reply::Status(503));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let mut number = 0;
    until(|| {
        number += 1;
        put_user(&world, &format!("u{number}"), "x");
        let answer = world.patch(&format!("/v1/webhooks/{id}"), &world.api, &json!({"state": "on"}));
        if answer.status == 409 {
            assert!(text(&answer.problem(409, "conflict")["detail"]).contains("more than 20 events wait"));
        }
        answer.status == 409
    });
    assert!(show(&world, &id)["health"]["waiting_events"].as_u64() > Some(20));
}

#[test]
fn a_silent_endpoint_harms_no_other() {
    let world = World::telling(WebhookConfig { attempt_limit: Duration::from_millis(300), ..quick() });
    let (silent, good) = (Receiver::new(|_| Reply::Hang), Receiver::new(|_| Reply::Status(200)));
    let (slow_id, _) = register(&world, &silent.url(), &["user.created"]);
    let (good_id, _) = register(&world, &good.url(), &["user.created"]);
    for number in 0..30 {
        put_user(&world, &format!("u{number}"), "x");
    }
    until(|| good.count() >= 30);
    until(|| !deliveries(&world, &slow_id).is_empty());
    let attempt = deliveries(&world, &slow_id).pop().unwrap();
    assert_eq!(attempt["error"], "no answer within 300ms");
    assert!(attempt["latency_ms"].as_u64() >= Some(300) && attempt["status"].is_null(), "{attempt}");
    assert!(silent.count() < 30, "few at a time");
    until(|| deliveries(&world, &good_id).iter().filter(|attempt| attempt["result"] == "delivered").count() >= 30);
    silent.release();
}

#[test]
fn redirects_are_not_followed() {
    let world = World::telling(quick());
    let inside = Receiver::new(|_| Reply::Status(200));
    let location = format!("location: {}", inside.url());
    let receiver = Receiver::new(move |_| Reply::With(307, location.clone()));
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let tested = world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200);
    assert_eq!(tested["error"], "the endpoint answered 307; redirects are not followed");
    assert_eq!((receiver.count(), inside.count()), (1, 0));
}

#[test]
fn an_answer_without_end_is_not_read() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Huge);
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let tested = world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200);
    assert_eq!((&tested["result"], &tested["status"]), (&json!("delivered"), &json!(200)));
    assert!(tested["latency_ms"].as_u64() < Some(4_000), "{tested}");
}

/// Interim answers are of an answer, too: whoever sends nothing else is not listened to until the time is over.
#[test]
fn interim_answers_have_an_end() {
    let world = World::telling(quick());
    let receiver = Receiver::new(|_| Reply::Interim);
    let (id, _) = register(&world, &receiver.url(), &["user.created"]);
    let tested = world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200);
    assert!(text(&tested["error"]).ends_with("the answer is too long"), "{tested}");
    assert!(tested["latency_ms"].as_u64() < Some(4_000), "{tested}");
}

/// An endpoint with a certificate of an authority that the operator trusts; another one is refused.
#[test]
fn authorities_of_the_operator_are_trusted_too() {
    use std::io::{Read, Write};

    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(own.cert.der().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            // Who does not trust it goes.
            if stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            }
        }
    });
    let test = |ca_pem: Option<String>| {
        let world = World::telling(WebhookConfig { ca_pem: ca_pem.map(String::into_bytes), ..quick() });
        let (id, _) = register(&world, &format!("https://localhost:{port}/"), &["user.created"]);
        world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200)
    };
    let trusted = test(Some(own.cert.pem()));
    assert_eq!(trusted["status"], 204, "{trusted}");
    let refused = test(None);
    assert_eq!(refused["error"], "TLS failed: certificate", "and nothing of what it says");
}

/// A name is judged by what it resolves to, when it is connected to.
#[test]
fn a_name_that_leads_inside_is_refused() {
    let receiver = Receiver::new(|_| Reply::Status(200));
    let url = format!("http://localhost:{}/hook", receiver.port());
    let test = |networks: Networks| {
        let world = World::telling(WebhookConfig { networks, ..quick() });
        let (id, _) = register(&world, &url, &["user.created"]);
        world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200)
    };
    let refused = test(Networks::default());
    let error = text(&refused["error"]);
    assert!(error.starts_with("localhost has no public address") && !error.contains("127."), "{refused}");
    assert_eq!((receiver.connections(), &refused["status"]), (0, &json!(null)), "nobody connected");
    let allowed = test(Networks::new(vec!["127.0.0.0/8".parse().unwrap()]));
    assert_eq!((&allowed["result"], receiver.count()), (&json!("delivered"), 1));
}

#[test]
fn what_cannot_be_reached_says_why() {
    let world = World::telling(quick());
    let test = |url: &str| {
        let (id, _) = register(&world, url, &["user.created"]);
        text(&world.post(&format!("/v1/webhooks/{id}/test"), &world.api, &json!({})).expect(200)["error"])
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = test(&format!("http://127.0.0.1:{port}/"));
    assert!(refused.starts_with("cannot connect to 127.0.0.1:"), "{refused}");
    let named = test(&format!("http://localhost:{port}/"));
    assert_eq!(named, format!("cannot connect to localhost:{port}: connection refused"), "no address that it found");
    let plain = Receiver::new(|_| Reply::Status(200));
    let tls = test(&format!("https://127.0.0.1:{}/", plain.port()));
    assert_eq!(tls, "TLS failed: handshake");
}
