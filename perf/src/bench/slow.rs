//! One subscriber that never reads, among a thousand that do: what it costs the others and the server, and how it ends.
//!
//! Runs with and without it alternate, and medians are compared: one pair says nothing on a noisy machine.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use millrace_protocol::client::{ServerBody, Start, Subscribe};
use tokio::task::LocalSet;

use crate::Scale;
use crate::figure::{Figure, histogram, per};
use crate::server::Server;
use crate::wire::{self, Joined, Wire};

const NAME: &str = "slow reader among 1,000";
const CHANNEL: &str = "slow";
const SUBSCRIBERS: usize = 1_000;
const MESSAGES: usize = 500;
const INTERVAL: Duration = Duration::from_millis(20);
const BODY_BYTES: usize = 2_048;
const PAIRS: usize = 5;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    server.channel(CHANNEL, "durable")?;
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
    load.round(messages).await?;

    let (mut without, mut with, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        without.push(load.round(messages).await?.value_at_quantile(0.99));
        let before = server.private_bytes()?;
        let (mut slow, joined) =
            Wire::narrow_session(server, u32::try_from(subscribers + pair)?, vec![wire::live(CHANNEL)]).await?;
        with.push(load.round(messages).await?.value_at_quantile(0.99));
        grown.push(server.private_bytes()?.saturating_sub(before));
        let joined = *joined.first().context("the slow reader's channel")?;
        let got = slow.until_closed(4201).await?;
        whole_again(server, joined, got, load.published).await?;
    }
    let median = |values: &mut Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (without, with, grown) = (median(&mut without), median(&mut with), median(&mut grown));
    Ok(vec![
        Figure::new(NAME, format!("p99 of the others without it, median of {pairs}"), per(without, 1000), "ms"),
        Figure::new(NAME, format!("p99 of the others with it, median of {pairs}"), per(with, 1000), "ms"),
        Figure::new(NAME, "ratio", per(with, without), ""),
        Figure::new(NAME, format!("memory of the server grown by, median of {pairs}"), per(grown, 1024), "KiB"),
    ])
}

/// The publisher, and what the subscribers have counted.
struct Load {
    publisher: Wire,
    channel: millrace_protocol::ChannelId,
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
        let (publisher, joined) = Wire::session(server, 0, vec![wire::attach(CHANNEL)]).await?;
        let channel = joined.first().context("the channel")?.channel;
        Ok(Self {
            publisher,
            channel,
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
