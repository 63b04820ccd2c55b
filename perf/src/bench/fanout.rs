//! One message to a thousand subscribers at a steady rate. Open loop: latency counts from when a message should have been sent, so a
//! server that stalls cannot hide it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_protocol::client::ServerBody;
use tokio::task::LocalSet;

use crate::figure::{Figure, histogram, per, times};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Wire};

const SUBSCRIBERS: usize = 1_000;
const RATE_PER_SECOND: u32 = 100;
const BODY_BYTES: usize = 64;
const SECONDS: usize = 20;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    server.channel("fanout", "durable")?;
    LocalSet::new().run_until(measure(server, scale)).await
}

async fn measure(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    let subscribers = scale.of(SUBSCRIBERS);
    let messages = scale.of(SECONDS * RATE_PER_SECOND as usize) as u64;
    let latencies = Rc::new(RefCell::new(histogram()));
    let origin = Instant::now();
    let mut readers = Vec::with_capacity(subscribers);
    for number in 0..subscribers {
        let (mut wire, _) = Wire::session(server, u32::try_from(number)?, vec![wire::live("fanout")]).await?;
        let latencies = Rc::clone(&latencies);
        readers.push(tokio::task::spawn_local(async move {
            let mut seen = 0;
            wire.until(|frame| {
                if let ServerBody::Message(message) = &frame.body {
                    seen += 1;
                    let intended =
                        message.body.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
                    let now = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latencies.borrow_mut().saturating_record(now.saturating_sub(intended.unwrap_or_default()).max(1));
                }
                seen == messages
            })
            .await
        }));
    }

    let (mut publisher, joined) =
        Wire::session(server, u32::try_from(subscribers)?, vec![wire::attach("fanout")]).await?;
    let channel = joined.first().context("the channel")?.channel;
    let before = server.cpu()?;
    let first = origin.elapsed() + Duration::from_millis(100);
    let mut body = [0; BODY_BYTES];
    for number in 0..messages {
        let intended = first + Duration::from_micros(number * 1_000_000 / u64::from(RATE_PER_SECOND));
        tokio::time::sleep_until((origin + intended).into()).await;
        body[..8].copy_from_slice(&u64::try_from(intended.as_micros())?.to_le_bytes());
        publisher.publish(0, channel, wire::producer(0), number + 1, &body);
        publisher.flush().await?;
    }
    for reader in readers {
        reader.await.context("a subscriber")??;
    }
    let cpu = server.cpu()?.saturating_sub(before);

    let deliveries = messages * subscribers as u64;
    let what = format!("1 → {subscribers} at {RATE_PER_SECOND}/s");
    let name = "fan-out, durable";
    let mut figures = vec![Figure::new(
        name,
        format!("{what}, server CPU per delivery"),
        per(u64::try_from(cpu.as_nanos())?, deliveries) / 1000.0,
        "µs",
    )];
    figures.extend(times(name, &format!("{what}, intended send to delivery"), &latencies.borrow()));
    Ok(figures)
}
