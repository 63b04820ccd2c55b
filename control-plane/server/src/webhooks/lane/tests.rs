use std::collections::HashMap;
use std::sync::mpsc;

use millrace_domain::WebhookSecret;
use millrace_protocol::id::{TenantId, UserId};
use millrace_store::{CommitOutcome, Store, Transaction};
use prometheus::Registry;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::record::webhook::tests::example;
use crate::record::webhook::{Health, health, put_health};
use crate::record::webhook_queue;
use crate::webhooks::event::Event;
use crate::webhooks::{WebhookConfig, Webhooks};

type Headers = HashMap<String, String>;

/// Takes every request; gives the URL, and the headers of what comes.
async fn endpoint() -> (String, mpsc::Receiver<Headers>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut headers = Headers::new();
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        match line.trim().split_once(": ") {
                            Some((name, value)) => drop(headers.insert(name.to_owned(), value.to_owned())),
                            None if line.trim().is_empty() => break,
                            None => {}
                        }
                    }
                    let mut body = vec![0; headers["content-length"].parse().unwrap()];
                    stream.read_exact(&mut body).await.unwrap();
                    // Nobody listens any more when a test is over.
                    let _ = sender.send(headers);
                    stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    (url, receiver)
}

struct World {
    store: Arc<dyn Store>,
    webhooks: Webhooks,
    webhook: Webhook,
    requests: mpsc::Receiver<Headers>,
}

impl World {
    async fn new() -> Self {
        let (url, requests) = endpoint().await;
        let store = millrace_store::open_memory();
        let config = WebhookConfig { networks: millrace_domain::Networks::with_loopback(), ..WebhookConfig::default() };
        let webhooks = Webhooks::start(store.clone(), config, &Registry::new()).await.unwrap();
        let webhook = Webhook { url: url.parse().unwrap(), ..example(TenantId::new(1).unwrap(), "w") };
        let world = Self { store, webhooks, webhook, requests };
        let webhook = world.webhook.clone();
        world.write(|transaction| webhook::put(transaction, &webhook)).await;
        world
    }

    async fn write(&self, write: impl FnOnce(&mut dyn Transaction)) {
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        write(&mut *transaction);
        assert!(matches!(transaction.commit().await, CommitOutcome::Committed));
    }

    /// Something happens to a user, and is told soon if somebody is woken.
    async fn happen(&self) {
        let user = UserId::new("ann").unwrap();
        let event = Event::of_user(EventKind::UserUpdated, self.webhook.tenant, &user, &1);
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        self.webhooks.keep(&mut *transaction, &[event]).await.unwrap();
        assert!(matches!(transaction.commit().await, CommitOutcome::Committed));
    }

    fn wake(&self) {
        self.webhooks.wake([(self.webhook.tenant, Arc::from("w"))]);
    }

    async fn waiting(&self) -> Vec<(Bytes, Waiting)> {
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        webhook_queue::page(&mut *transaction, "w", None, 100).await.unwrap().0
    }

    async fn health(&self) -> Health {
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        health(&mut *transaction, "w").await.unwrap()
    }

    async fn until_nothing_waits(&self) {
        let give_up_at = std::time::Instant::now() + Duration::from_secs(10);
        while !self.waiting().await.is_empty() {
            assert!(std::time::Instant::now() < give_up_at, "it waits for ever: {:?}", self.health().await);
            tokio::task::yield_now().await;
        }
    }

    fn job(&self, webhook: Webhook) -> (Job, Arc<Endpoint>) {
        let endpoint = Arc::new(Endpoint::new(self.webhooks.0.client.clone(), webhook.tenant, webhook.url.clone()));
        let job = Job {
            hub: self.webhooks.0.clone(),
            webhook: Arc::new(webhook),
            endpoint: endpoint.clone(),
            is_over: Arc::default(),
            taken_ms: Arc::default(),
            most: 1,
        };
        (job, endpoint)
    }
}

/// All places of the tenant, so that the next one waits.
async fn all_places(endpoint: &Endpoint) -> Vec<Place> {
    let mut places = Vec::new();
    while let Ok(place) = tokio::time::timeout(Duration::from_millis(20), endpoint.place()).await {
        places.push(place);
    }
    places
}

/// A secret that ended while a request waited for its place signs nothing.
#[tokio::test]
async fn requests_are_signed_after_their_wait() {
    let world = World::new().await;
    world.happen().await;
    let until_ms = now_ms() + 200;
    let mut webhook = world.webhook.clone();
    webhook.secrets.push(WebhookSecret { key: "c2Vjb25k".into(), until_ms: Some(until_ms) });
    let (job, endpoint) = world.job(webhook);
    let places = all_places(&endpoint).await;
    let telling = tokio::spawn(job.events("user:ann".into(), world.waiting().await));
    while now_ms() <= until_ms {
        tokio::task::yield_now().await;
    }
    drop(places);
    let end = telling.await.unwrap();
    assert!(end.success_ms.is_some());
    let headers = world.requests.recv().unwrap();
    assert_eq!(headers["webhook-signature"].split(' ').count(), 1, "{headers:?}");
    let timestamp_ms = headers["webhook-timestamp"].parse::<i64>().unwrap() * 1_000;
    assert!(timestamp_ms >= until_ms / 1_000 * 1_000, "{headers:?}");
}

/// Where requests went before is not asked any more once the settings are others, however long a request has waited for its place.
#[tokio::test]
async fn settings_that_changed_while_a_request_waited_hold() {
    let world = World::new().await;
    world.happen().await;
    let (job, endpoint) = world.job(world.webhook.clone());
    let (places, is_over) = (all_places(&endpoint).await, job.is_over.clone());
    let telling = tokio::spawn(job.events("user:ann".into(), world.waiting().await));
    while endpoint.waits_for_place() == 0 {
        tokio::task::yield_now().await;
    }
    is_over.store(true, Ordering::Release);
    drop(places);
    let end = telling.await.unwrap();
    assert!(end.success_ms.is_none() && end.failing.is_none());
    assert!(world.requests.try_recv().is_err(), "no request");
    let waiting = world.waiting().await;
    assert_eq!((waiting.len(), waiting[0].1.attempts), (1, 0), "it is told under the new settings");
}

/// An event that there is nothing to tell of any more goes without a request, and does not say that the endpoint is well.
#[tokio::test]
async fn nothing_to_tell_is_no_success() {
    let world = World::new().await;
    let event = Waiting {
        id: "evt_x".into(),
        kind: EventKind::MessageSent,
        lane: "1".into(),
        content: Content::Message { channel: 1, offset: 1 },
        time_ms: now_ms(),
        attempts: 0,
        tried_ms: 0,
        next_ms: 0,
    };
    let row = world.webhooks.row("w");
    world.write(|transaction| webhook_queue::put(transaction, row, &event)).await;
    let (job, _) = world.job(world.webhook.clone());
    let end = job.events("1".into(), world.waiting().await).await;
    assert_eq!((end.done, end.success_ms), (1, None));
    world.until_nothing_waits().await;
    assert!(world.requests.try_recv().is_err());
    let mut transaction = world.store.begin(deadline()).await.unwrap();
    assert_eq!(webhook_log::attempts(&mut *transaction, "w").await.unwrap(), [], "nor was it an attempt");
}

/// A control node whose clock was a day ahead died: what it held is not held for a day.
#[tokio::test]
async fn a_lease_from_the_future_is_none() {
    let world = World::new().await;
    world.happen().await;
    let far_ms = now_ms() + 24 * 3_600_000;
    let held = Health { owner: "another".into(), lease_until_ms: far_ms, ..Health::default() };
    world.write(|transaction| put_health(transaction, "w", &held)).await;
    world.wake();
    world.until_nothing_waits().await;
}

/// Nor is an endpoint left alone for a day because it failed when the clock was a day ahead.
#[tokio::test]
async fn a_failure_in_the_future_holds_nothing_up() {
    let world = World::new().await;
    world.happen().await;
    let far_ms = now_ms() + 24 * 3_600_000;
    let failing = Health {
        failures: 3,
        failing_since_ms: Some(far_ms),
        last_failure_ms: Some(far_ms),
        retry_at_ms: far_ms + 1_000,
        ..Health::default()
    };
    world.write(|transaction| put_health(transaction, "w", &failing)).await;
    world.wake();
    world.until_nothing_waits().await;
}

/// A node that only tests now and then numbers its tests behind what another one, which delivers, has done meanwhile.
#[tokio::test]
async fn a_test_is_the_newest_attempt() {
    let world = World::new().await;
    let mut newest = 0;
    for round in 0..3 {
        let tested = world.webhooks.test(&world.webhook).await.unwrap();
        assert_eq!(tested.result, AttemptResult::Delivered);
        let mut transaction = world.store.begin(deadline()).await.unwrap();
        let attempts = webhook_log::attempts(&mut *transaction, "w").await.unwrap();
        assert_eq!((attempts[0].event.as_str(), attempts.len()), (tested.event.as_str(), 11 * round + 1));
        newest = attempts[0].number.max(newest);
        drop(transaction);
        world
            .write(|transaction| {
                for _ in 0..10 {
                    newest += 1;
                    webhook_log::put_attempt(transaction, "w", &Attempt { number: newest, ..tested.clone() });
                }
            })
            .await;
    }
}

/// What is swept may be large.
#[tokio::test]
async fn large_events_of_a_removed_webhook_are_swept() {
    let world = World::new().await;
    let body = "x".repeat(60 << 10);
    for _ in 0..40 {
        world
            .write(|transaction| {
                for _ in 0..10 {
                    let waiting = Waiting {
                        id: "evt_x".into(),
                        kind: EventKind::UserUpdated,
                        lane: "user:ann".into(),
                        content: Content::Body(body.clone()),
                        time_ms: 0,
                        attempts: 0,
                        tried_ms: 0,
                        next_ms: 0,
                    };
                    webhook_queue::put(transaction, world.webhooks.row("w"), &waiting);
                }
            })
            .await;
    }
    crate::webhooks::dispatcher::sweep(&world.webhooks.0, &world.webhook).await.unwrap();
    assert!(world.waiting().await.is_empty());
}
