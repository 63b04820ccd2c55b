//! Looking users and channels up on the data nodes.

use millrace_protocol::id::{ChannelId, ChannelName, SessionId, UserId};
use millrace_protocol::node::{
    HistoryClass, HomeState, HomeView, Incident, IncidentChannel, IncidentKind, Inspect, InspectSubject, Inspected,
    NodeBody, SessionView, SubscriptionState, SubscriptionView, Transport,
};
use serde_json::{Value, json};

use crate::{OPERATOR, World, text};

/// What a data node knows of ann, who is subscribed to a channel of this number.
fn inspected(channel: u64) -> Inspected {
    let channel = ChannelId::new(channel).unwrap();
    let (id, user) = (SessionId([0xab; 16]), UserId::new("ann").unwrap());
    let subscription = SubscriptionView {
        channel,
        name: ChannelName::new("plans").unwrap(),
        state: SubscriptionState::CatchingUp,
        epoch: 1,
        offset: 5,
        can_publish: true,
    };
    let session = SessionView {
        id,
        user: user.clone(),
        remote: "192.0.2.1:7".into(),
        agent: String::new(),
        shard: 1,
        transport: Transport::WebSocket,
        connected_ms: 10,
        heard_ms: 20,
        token_expires_ms: 30,
        queued_bytes: 40,
        stalled_ms: 50,
        subscriptions: vec![subscription],
        subscriptions_total: 1,
    };
    let of =
        IncidentChannel { channel: Some(channel), name: "plans".into(), epoch: 1, first_offset: 3, last_offset: 4 };
    let incident = Incident {
        time_ms: 60,
        kind: IncidentKind::Skipped,
        code: 4201,
        session: id,
        user,
        reason: "it reads too slowly".into(),
        count: 2,
        channels: vec![of],
    };
    let home = HomeView {
        shard: 0,
        state: HomeState::Opening,
        history: HistoryClass::Durable,
        epoch: 0,
        next_offset: 0,
        first_offset: 0,
        waiting: 3,
        shards: 0,
    };
    Inspected {
        sessions: vec![session],
        sessions_total: 9,
        incidents: vec![incident],
        home: Some(home),
        ..Inspected::default()
    }
}

#[test]
fn a_user_is_shown_with_sessions_and_incidents() {
    let world = World::new();
    world.plane.link("data-1", Some(inspected(7)));
    let found = world.get("/v1/inspect/users/ann?limit=20", &world.api).expect(200);
    let session = &found["sessions"][0];
    for (name, expect) in [
        ("id", json!("ab".repeat(16))),
        ("user", json!("ann")),
        ("node", json!("data-1")),
        ("shard", json!(1)),
        ("transport", json!("websocket")),
        ("remote", json!("192.0.2.1:7")),
        ("agent", Value::Null),
        ("queued_bytes", json!(40)),
        ("stalled_ms", json!(50)),
        ("subscriptions_total", json!(1)),
    ] {
        assert_eq!(session[name], expect, "{name}");
    }
    let expect = json!({
        "channel": "plans", "channel_id": "7", "state": "catching_up", "epoch": 1, "offset": 5, "behind": null, "can_publish": true,
    });
    assert_eq!(session["subscriptions"][0], expect);
    let incident = &found["incidents"][0];
    assert_eq!(
        (&incident["kind"], &incident["code"], &incident["count"]),
        (&json!("skipped"), &json!(4201), &json!(2))
    );
    assert_eq!(text(&incident["code_name"]), "SlowConsumer");
    let expect = json!({"channel": "plans", "channel_id": "7", "epoch": 1, "first_offset": 3, "last_offset": 4});
    assert_eq!(incident["channels"][0], expect);
    assert_eq!(
        (&found["sessions_total"], &found["more"], &found["incomplete"]),
        (&json!(9), &json!(true), &json!(false))
    );

    let [(node, NodeBody::Inspect(Inspect { tenant, rows_max, subject }))] = &world.plane.asked()[..] else { panic!() };
    assert_eq!((node.as_str(), u64::from(tenant.get()), *rows_max), ("data-1", world.tenant, 20));
    assert_eq!(*subject, InspectSubject::User(UserId::new("ann").unwrap()));
}

#[test]
fn a_channel_is_shown_with_its_home() {
    let world = World::new();
    world.plane.link("data-1", Some(inspected(7)));
    let channel = world.group("plans", &[("ann", "owner")]);
    let found = world.get("/v1/inspect/channels/plans", &world.api).expect(200);
    assert_eq!((&found["channel"], &found["channel_id"]), (&json!("plans"), &channel["id"]));
    assert_eq!(
        (&found["kind"], &found["history"], &found["stored"]),
        (&json!("group"), &json!("durable"), &Value::Null)
    );
    assert_eq!(found["slot"], text(&channel["id"]).parse::<u64>().unwrap() % 1024);
    let expect = json!({
        "node": "data-1", "shard": 0, "state": "opening", "epoch": null, "next_offset": null, "first_offset": null, "waiting": 3, "shards": 0,
    });
    assert_eq!(found["home"], expect);
    let [(_, NodeBody::Inspect(Inspect { subject: InspectSubject::Channel(number, name), .. }))] =
        &world.plane.asked()[..]
    else {
        panic!()
    };
    assert_eq!((number.to_string(), name.as_str()), (text(&channel["id"]), "plans"));
}

#[test]
fn operators_name_the_tenant_and_others_mean_their_own() {
    let world = World::new();
    world.plane.link("data-1", Some(Inspected::default()));
    world.group("plans", &[("ann", "owner")]);
    let (number, other) = world.tenant("globex");
    let path = "/v1/inspect/channels/plans";
    world.get(path, &other).problem(404, "not-found");
    world.get(&format!("{path}?tenant=globex"), OPERATOR).problem(404, "not-found");
    world.get(&format!("{path}?tenant=acme"), OPERATOR).expect(200);
    world.get(path, OPERATOR).wrong_fields(&["?tenant"]);
    world.get(&format!("{path}?tenant=nobody"), OPERATOR).wrong_fields(&["?tenant"]);
    world.get(&format!("{path}?tenant=acme"), &world.api).wrong_fields(&["?tenant"]);
    world.get(&format!("{path}?limit=101&tenants=x"), &world.api).wrong_fields(&["?limit", "?tenants"]);
    world.get(path, &world.token("ann")).problem(403, "wrong-scope");
    world.get("/v1/inspect/users/no%20name", &world.api).problem(404, "not-found");

    world.get("/v1/inspect/users/ann?tenant=globex", OPERATOR).expect(200);
    let asked = world.plane.asked();
    let Some((_, NodeBody::Inspect(Inspect { tenant, .. }))) = asked.last() else { panic!("{asked:?}") };
    assert_eq!(u64::from(tenant.get()), number);
}

#[test]
fn what_is_missing_is_said() {
    let world = World::new();
    world.get("/v1/inspect/users/ann", &world.api).problem(503, "unavailable");
    world.plane.link("mute", None);
    world.get("/v1/inspect/users/ann", &world.api).problem(503, "unavailable");
    let silent = Inspected { shards_silent: 1, ..Inspected::default() };
    world.plane.link("half", Some(silent));
    let found = world.get("/v1/inspect/users/ann", &world.api).expect(200);
    assert_eq!((&found["incomplete"], &found["sessions"]), (&json!(true), &json!([])));
    world.plane.unlink();
    world.plane.link("one", Some(inspected(7)));
    world.plane.link("two", Some(inspected(8)));
    let both = world.get("/v1/inspect/users/ann?limit=1", &world.api).expect(200);
    assert_eq!(
        (&both["sessions_total"], &both["more"], &both["incidents_more"]),
        (&json!(18), &json!(true), &json!(true))
    );
    assert_eq!((both["sessions"].as_array().unwrap().len(), &both["incomplete"]), (1, &json!(false)));
}
