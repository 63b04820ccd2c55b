//! One subscriber that never reads, among a thousand that do: what it costs the others and the server, and how it ends.
//!
//! Runs with and without it alternate, and medians are compared: one pair says nothing on a noisy machine.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use millrace_protocol::ChannelId;
use millrace_protocol::client::{ServerBody, Start, Subscribe};
use tokio::task::LocalSet;

use crate::figure::{Figure, histogram, per};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Joined, Wire};

const NAME: &str = "slow reader among 1,000";
const CHANNEL: &str = "slow";
const SUBSCRIBERS: usize = 1_000;
const MESSAGES: usize = 500;
const INTERVAL: Duration = Duration::from_millis(20);
const BODY_BYTES: usize = 2_048;
const PAIRS: usize = 3;
/// A second channel that only the reader in question has: what the system itself buffers for a socket is megabytes, and it must be full
/// before a server can tell that somebody does not read.
const HEAVY_CHANNEL: &str = "slow-heavy";
const HEAVY_BODY_BYTES: usize = 16_000;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    server.channel(CHANNEL, "durable")?;
    server.channel(HEAVY_CHANNEL, "durable")?;
    LocalSet::new().run_until(measure(server, scale)).await
}

async fn measure(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    let subscribers = scale.of(SUBSCRIBERS);
    // Never fewer: the slow reader's queue has to fill.
    let messages = MESSAGES as u64;
    let pairs = scale.of(PAIRS).min(PAIRS);
    let latencies = Rc::new(RefCell::new(histogram()));
    let received = Rc::new(RefCell::new(0_u64));
    let origin = Instant::now();
    for number in 0..subscribers {
        let (mut wire, _) = Wire::session(server, u32::try_from(number)?, vec![wire::live(CHANNEL)]).await?;
        let (latencies, received) = (Rc::clone(&latencies), Rc::clone(&received));
        tokio::task::spawn_local(async move {
            // Ends with the connection, when the server does.
            let _ = wire
                .until(|frame| {
                    if let ServerBody::Message(message) = &frame.body {
                        let intended =
                            message.body.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
                        let now = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
                        latencies
                            .borrow_mut()
                            .saturating_record(now.saturating_sub(intended.unwrap_or_default()).max(1));
                        *received.borrow_mut() += 1;
                    }
                    false
                })
                .await;
        });
    }
    let mut load = Load::new(server, subscribers, origin, latencies, received).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let (mut grown_without, mut grown_with) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let number = u32::try_from(subscribers + 2 * pair)?;
        let both = || vec![wire::live(CHANNEL), wire::live(HEAVY_CHANNEL)];
        // The same load with a reader that reads: what is compared is the reading alone.
        let (mut quick, _) = Wire::session(server, number, both()).await?;
        let quick = tokio::task::spawn_local(async move { quick.until(|_| false).await });
        let before = server.private_bytes()?;
        let p99_without = load.round(messages).await?.value_at_quantile(0.99);
        let between = server.private_bytes()?;
        quick.abort();
        let (mut slow, joined) = Wire::narrow_session(server, number + 1, both()).await?;
        let p99_with = load.round(messages).await?.value_at_quantile(0.99);
        let after = server.private_bytes()?;
        let joined = *joined.first().context("the slow reader's channel")?;
        let got = slow.until_closed(4201, joined.channel).await?;
        whole_again(server, joined, got, load.published).await?;
        // The first pair warms up.
        if pair > 0 {
            without.push(p99_without);
            with.push(p99_with);
            grown_without.push(between.saturating_sub(before));
            grown_with.push(after.saturating_sub(between));
        }
    }
    let median = |values: &mut Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (without, with) = (median(&mut without), median(&mut with));
    let (grown_without, grown_with) = (median(&mut grown_without), median(&mut grown_with));
    Ok(vec![
        Figure::new(NAME, format!("p99 of the others without it, median of {pairs}"), per(without, 1000), "ms"),
        Figure::new(NAME, format!("p99 of the others with it, median of {pairs}"), per(with, 1000), "ms"),
        Figure::new(NAME, "ratio", per(with, without), ""),
        // The store is in the same process, and a round writes megabytes into it: only the difference is the reader's.
        Figure::new(NAME, "memory grown in a round without it", per(grown_without, 1024), "KiB"),
        Figure::new(NAME, "memory grown in a round with it", per(grown_with, 1024), "KiB"),
    ])
}

/// The publisher, and what the subscribers have counted.
struct Load {
    publisher: Wire,
    channel: ChannelId,
    heavy: ChannelId,
    subscribers: u64,
    published: u64,
    delivered: u64,
    origin: Instant,
    latencies: Rc<RefCell<Histogram<u64>>>,
    received: Rc<RefCell<u64>>,
}

impl Load {
    async fn new(
        server: &Server,
        subscribers: usize,
        origin: Instant,
        latencies: Rc<RefCell<Histogram<u64>>>,
        received: Rc<RefCell<u64>>,
    ) -> Result<Self> {
        let subscriptions = vec![wire::attach(CHANNEL), wire::attach(HEAVY_CHANNEL)];
        let (publisher, joined) = Wire::session(server, 0, subscriptions).await?;
        let [channel, heavy] = joined[..] else { bail!("the publisher joined {} channels, not 2", joined.len()) };
        let (channel, heavy) = (channel.channel, heavy.channel);
        Ok(Self {
            publisher,
            channel,
            heavy,
            subscribers: subscribers as u64,
            published: 0,
            delivered: 0,
            origin,
            latencies,
            received,
        })
    }

    /// Publishes at the steady rate until every subscriber that reads has everything.
    async fn round(&mut self, messages: u64) -> Result<Histogram<u64>> {
        self.latencies.borrow_mut().reset();
        let first = self.origin.elapsed() + INTERVAL;
        let mut body = [0; BODY_BYTES];
        for number in 0..messages {
            let intended = first + INTERVAL * u32::try_from(number)?;
            tokio::time::sleep_until((self.origin + intended).into()).await;
            body[..8].copy_from_slice(&u64::try_from(intended.as_micros())?.to_le_bytes());
            self.published += 1;
            self.publisher.publish(0, self.channel, wire::producer(0), self.published, &body);
            self.publisher.publish(0, self.heavy, wire::producer(0), self.published, &[0; HEAVY_BODY_BYTES]);
            self.publisher.flush().await?;
        }
        self.delivered += messages * self.subscribers;
        let patience = Instant::now() + Duration::from_secs(30);
        while *self.received.borrow() < self.delivered {
            ensure!(Instant::now() < patience, "subscribers have {} of {}", self.received.borrow(), self.delivered);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.latencies.borrow().clone())
    }
}

/// The slow reader comes back with the last offset that it has read, and gets the rest without a gap.
async fn whole_again(server: &Server, joined: Joined, got: u64, published: u64) -> Result<()> {
    let position = millrace_protocol::Position { epoch: joined.position.epoch, offset: joined.position.offset + got };
    let start = Start::After(position);
    let mut next = position.offset + 1;
    let mut gap = None;
    let mut wire = Wire::open(server.address, 0).await?;
    wire.send_hello(server.token(), vec![Subscribe { channel: CHANNEL, start }]).await?;
    wire.until(|frame| {
        if let ServerBody::Message(message) = &frame.body {
            if message.position.offset != next {
                gap = Some((next, message.position.offset));
            }
            next += 1;
        }
        gap.is_some() || next > published
    })
    .await?;
    ensure!(gap.is_none(), "after the resume {gap:?} (expected, got)");
    Ok(())
}
