//! Nothing acknowledged is lost: a real server is killed again and again while clients publish and read, and what it then holds is
//! compared from outside with what it had acknowledged and with what every subscriber saw.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_client::{Client, Event, Message};
use support::Dev;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const MESSAGES: u64 = 200_000;
const PUBLISHERS: u64 = 8;
const CHANNELS: u64 = 20;
const SUBSCRIBERS: u64 = 2;
const KILLS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(300);
/// Acknowledgements that one publisher waits for in one channel at a time.
const IN_FLIGHT: usize = 64;

/// What a message says: which publisher's, and its count in the channel.
fn body(publisher: u64, channel: u64, number: u64) -> Bytes {
    format!("{publisher}/{channel}/{number}").into()
}

fn channel_name(channel: u64) -> String {
    format!("crash-{channel}")
}

/// Offsets and bodies of a channel, as somebody saw them.
type Seen = Vec<(u64, Bytes)>;

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let mut dev = Dev::start(&["limits.publish_rate=1000000", "limits.publish_burst=1000000"]);
    for channel in 0..CHANNELS {
        dev.output(&["channel", "create", &channel_name(channel), "--owner", "alice"]);
    }
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5EED);
    eprintln!("MILLRACE_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));

    let (url, token) = (dev.url().to_owned(), dev.token().to_owned());
    let subscribers = runtime.block_on(subscribe(&url, &token));
    let publishers = {
        let (url, token, acknowledged) = (url.clone(), token.clone(), Arc::clone(&acknowledged));
        runtime.spawn(async move { publish(&url, &token, &acknowledged).await })
    };

    let mut random: u64 = seed;
    for kill in 0..KILLS {
        // Anywhere within its tenth of the work.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (kill * MESSAGES + (random >> 33) % MESSAGES) / KILLS;
        runtime.block_on(until(&acknowledged, at));
        dev.kill();
        dev.restart();
    }

    let published =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, publishers).await.expect("publishers end") }).unwrap();
    let stored = runtime.block_on(stored(&url, &token));
    check_stored(&stored, &published);
    for subscriber in runtime.block_on(finish(subscribers)) {
        for (channel, seen) in subscriber {
            assert!(seen == stored[&channel], "a subscriber of channel {channel} saw something else than is stored");
        }
    }
}

/// Waits until so many messages are acknowledged.
async fn until(acknowledged: &AtomicU64, at: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let waited = tokio::time::timeout(PATIENCE, async {
        while acknowledged.load(Ordering::Relaxed) < at {
            tick.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "stuck at {} of {at} acknowledged", acknowledged.load(Ordering::Relaxed));
}

async fn connect(url: &str, token: &str) -> Client {
    let client = Client::builder(url).token(token).send_timeout(None).request_timeout(Duration::from_secs(60));
    client.connect().await.expect("connect")
}

/// Every publisher's acknowledged messages: channel, offset, body.
async fn publish(url: &str, token: &str, acknowledged: &Arc<AtomicU64>) -> Vec<(u64, u64, Bytes)> {
    let each = MESSAGES / PUBLISHERS / CHANNELS;
    let mut tasks = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let client = connect(url, token).await;
        for channel in 0..CHANNELS {
            let (client, acknowledged) = (client.clone(), Arc::clone(acknowledged));
            tasks.spawn(async move {
                let sender = client.sender(channel_name(channel)).await.expect("a sender");
                let room = Arc::new(Semaphore::new(IN_FLIGHT));
                let mut tickets = JoinSet::new();
                for number in 0..each {
                    let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
                    let body = body(publisher, channel, number);
                    let ticket = sender.submit(body.clone()).await.expect("submit");
                    let acknowledged = Arc::clone(&acknowledged);
                    tickets.spawn(async move {
                        let position = ticket.await.expect("acknowledged in the end");
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                        drop(permit);
                        (channel, position.offset, body)
                    });
                }
                tickets.join_all().await
            });
        }
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Subscribers of all channels, each reading until it has seen everything.
async fn subscribe(url: &str, token: &str) -> JoinSet<HashMap<u64, Seen>> {
    let mut subscribers = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let client = connect(url, token).await;
        let mut channels = Vec::new();
        for channel in 0..CHANNELS {
            channels.push((channel, client.subscribe(channel_name(channel)).await.expect("subscribe")));
        }
        subscribers.spawn(async move {
            let mut readers = JoinSet::new();
            for (channel, mut subscription) in channels {
                readers.spawn(async move {
                    let mut seen = Seen::new();
                    while (seen.len() as u64) < MESSAGES / CHANNELS {
                        match subscription.next().await {
                            Some(Event::Message(Message { position, body, .. })) => seen.push((position.offset, body)),
                            other => panic!("channel {channel} after {} messages: {other:?}", seen.len()),
                        }
                    }
                    (channel, seen)
                });
            }
            let seen = readers.join_all().await.into_iter().collect();
            drop(client);
            seen
        });
    }
    subscribers
}

async fn finish(subscribers: JoinSet<HashMap<u64, Seen>>) -> Vec<HashMap<u64, Seen>> {
    tokio::time::timeout(PATIENCE, subscribers.join_all()).await.expect("subscribers see everything")
}

/// Everything that the server holds, read page by page by a client that had no part in it.
async fn stored(url: &str, token: &str) -> HashMap<u64, Seen> {
    let client = connect(url, token).await;
    let mut stored = HashMap::new();
    for channel in 0..CHANNELS {
        let sender = client.sender(channel_name(channel)).await.expect("a sender");
        let mut seen = Seen::new();
        loop {
            let after = seen.last().map_or(0, |(offset, _)| *offset);
            let page = sender.history().after(after).limit(1000).await.expect("a page");
            seen.extend(page.messages.into_iter().map(|message| (message.position.offset, message.body)));
            if !page.more {
                break;
            }
        }
        stored.insert(channel, seen);
    }
    stored
}

/// Acknowledged ⊆ stored, at the acknowledged place; no duplicate, no gap; every producer's messages in its order.
fn check_stored(stored: &HashMap<u64, Seen>, published: &[(u64, u64, Bytes)]) {
    assert_eq!(published.len() as u64, MESSAGES, "every message was acknowledged in the end");
    for (channel, seen) in stored {
        assert_eq!(seen.len() as u64, MESSAGES / CHANNELS, "channel {channel} holds each message once");
        assert!(seen.iter().zip(1..).all(|((offset, _), expected)| *offset == expected), "channel {channel} has a gap");
        let mut next: HashMap<u64, u64> = HashMap::new();
        for (_, body) in seen {
            let text = std::str::from_utf8(body).expect("bodies are text");
            let parts: Vec<u64> = text.split('/').map(|part| part.parse().expect("bodies are numbers")).collect();
            let expected = next.entry(parts[0]).or_default();
            assert_eq!(
                parts[2], *expected,
                "channel {channel}: a message of publisher {} is out of order or doubled",
                parts[0]
            );
            *expected += 1;
        }
    }
    for (channel, offset, body) in published {
        // Offset 0: acknowledged as a duplicate too old to find; that it is stored once is checked above.
        if *offset > 0 {
            let place = usize::try_from(offset - 1).expect("offsets fit");
            assert_eq!(
                &stored[channel][place].1, body,
                "channel {channel} offset {offset} was acknowledged for another message"
            );
        }
    }
}
