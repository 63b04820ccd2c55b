//! Commits of which nobody hears what became of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use millrace_protocol::node::NodeBody;
use millrace_store::{
    BoxFuture, CommitOutcome, Direction, KeyRange, Store, StoreError, StoreStats, Transaction, open_memory,
};
use serde_json::{Value, json};

use crate::plane::{FakePlane, ends_membership};
use crate::{World, text};

/// What becomes of the next commits that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    LandsUnheard,
    LostUnheard,
    Conflicts,
    Fails,
}

type Fates = Arc<Mutex<VecDeque<Fate>>>;

struct FaultyStore {
    inner: Arc<dyn Store>,
    fates: Fates,
}

struct FaultyTransaction {
    inner: Box<dyn Transaction>,
    fates: Fates,
    writes: bool,
}

impl Store for FaultyStore {
    fn begin(&self, deadline: Instant) -> BoxFuture<'_, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let inner = self.inner.begin(deadline).await?;
            Ok(Box::new(FaultyTransaction { inner, fates: self.fates.clone(), writes: false }) as Box<dyn Transaction>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

impl Transaction for FaultyTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.inner.get(key)
    }

    fn scan(
        &mut self,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.inner.scan(range, direction, limit)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes = true;
        self.inner.put(key, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.writes = true;
        self.inner.delete(key);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, CommitOutcome> {
        let fate = if self.writes { self.fates.lock().unwrap().pop_front() } else { None };
        Box::pin(async move {
            match fate {
                None => self.inner.commit().await,
                Some(Fate::LandsUnheard) => {
                    assert!(matches!(self.inner.commit().await, CommitOutcome::Committed));
                    CommitOutcome::Unknown(StoreError::DeadlineExceeded)
                }
                Some(Fate::LostUnheard) => CommitOutcome::Unknown(StoreError::DeadlineExceeded),
                Some(Fate::Conflicts) => CommitOutcome::Conflict,
                Some(Fate::Fails) => CommitOutcome::Failed(StoreError::DeadlineExceeded),
            }
        })
    }
}

fn faulty() -> (World, Fates) {
    let fates = Fates::default();
    let store = Arc::new(FaultyStore { inner: open_memory(), fates: fates.clone() });
    let plane = Arc::new(FakePlane::default());
    (World::over(store, plane.clone(), plane, |_| {}), fates)
}

/// Whatever became of a commit that nobody heard of: the change is made once, the answer says so, and nodes were told.
#[test]
fn a_change_is_made_once_and_told() {
    for fate in [Fate::LandsUnheard, Fate::LostUnheard, Fate::Conflicts] {
        let (world, fates) = faulty();
        let change = |method: &str, path: &str, body: Value, statuses: &[u16]| {
            world.plane.told();
            fates.lock().unwrap().push_back(fate);
            let answer = world.request(method, path).bearer(&world.api).json(&body).send();
            assert!(statuses.contains(&answer.status), "{fate:?} {method} {path}: {answer:?}");
            assert!(fates.lock().unwrap().is_empty());
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
    let (world, fates) = faulty();
    world.group("general", &[("ann", "owner"), ("bob", "member")]);
    let remove = || world.delete("/v1/channels/general/members/bob", &world.api);
    world.plane.told();
    fates.lock().unwrap().extend([Fate::LostUnheard, Fate::Fails]);
    let unknown = remove();
    unknown.problem(503, "unknown-outcome");
    assert_eq!(unknown.header("retry-after"), "1");
    assert!(matches!(world.plane.told()[..], [NodeBody::ChannelChanged { archived: false, .. }]));

    fates.lock().unwrap().push_back(Fate::Fails);
    remove().problem(503, "unavailable");
    fates.lock().unwrap().extend([Fate::Conflicts; 16]);
    remove().problem(503, "unavailable");
    world.get("/v1/channels/general/members/bob", &world.api).expect(200);
    remove().expect(204);
}

/// A repeated request finds the answer of the one whose commit was not heard of.
#[test]
fn an_idempotency_key_resolves_an_unknown_outcome() {
    let (world, fates) = faulty();
    let create = || {
        let request = world.request("POST", "/v1/keys").bearer(&world.api).header("idempotency-key", "k");
        request.json(&json!({})).send()
    };
    fates.lock().unwrap().extend([Fate::LandsUnheard, Fate::Fails]);
    // The second run finds the answer of the first one and has nothing to write.
    let first = create();
    first.expect(201);
    assert_eq!(create().expect(201), first.body());
    assert_eq!(world.get("/v1/keys", &world.api).body()["keys"].as_array().unwrap().len(), 2);
}
