//! Durable publishes: the latency of one that waits for its acknowledgement, and the rate of many that do not.

use std::time::Instant;

use anyhow::{Context, Result};
use millrace_protocol::client::ServerBody;
use tokio::task::LocalSet;

use crate::figure::{Figure, histogram, per, times};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Wire};

const NAME: &str = "durable publish";
const ALONE: usize = 5_000;
const PUBLISHERS: usize = 32;
const EACH: usize = 10_000;
const IN_FLIGHT: usize = 128;
const BODY: [u8; 128] = [b'x'; 128];

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    server.channel("alone", "durable")?;
    for number in 0..PUBLISHERS {
        server.channel(&format!("publish-{number}"), "durable")?;
    }
    let mut figures = alone(server, scale.of(ALONE)).await?;
    figures.extend(LocalSet::new().run_until(together(server, scale.of(EACH))).await?);
    Ok(figures)
}

async fn alone(server: &Server, count: usize) -> Result<Vec<Figure>> {
    let (mut wire, joined) = Wire::session(server, 0, vec![wire::attach("alone")]).await?;
    let channel = joined.first().context("the channel")?.channel;
    let mut latencies = histogram();
    for number in 1..=count as u64 {
        let begun = Instant::now();
        wire.publish(1, channel, wire::producer(0), number, &BODY);
        wire.flush().await?;
        wire.until(|frame| matches!(frame.body, ServerBody::Published(_))).await?;
        latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?.max(1));
    }
    Ok(times(NAME, "one at a time, sent to acknowledged", &latencies))
}

async fn together(server: &Server, each: usize) -> Result<Vec<Figure>> {
    let before = server.cpu()?;
    let begun = Instant::now();
    let mut publishers = Vec::with_capacity(PUBLISHERS);
    for number in 0..PUBLISHERS {
        let name = format!("publish-{number}");
        let (mut wire, joined) = Wire::session(server, u32::try_from(number)?, vec![wire::attach(&name)]).await?;
        let channel = joined.first().context("the channel")?.channel;
        publishers.push(tokio::task::spawn_local(async move {
            let (mut sent, mut acknowledged) = (0, 0);
            while acknowledged < each {
                while sent < each && sent - acknowledged < IN_FLIGHT {
                    sent += 1;
                    wire.publish(1, channel, wire::producer(0), sent as u64, &BODY);
                }
                wire.flush().await?;
                wire.read_once(&mut |frame| {
                    acknowledged += usize::from(matches!(frame.body, ServerBody::Published(_)))
                })
                .await?;
            }
            anyhow::Ok(())
        }));
    }
    for publisher in publishers {
        publisher.await.context("a publisher")??;
    }
    let elapsed = begun.elapsed();
    let cpu = server.cpu()?.saturating_sub(before);
    let total = (each * PUBLISHERS) as u64;
    let what = format!("{PUBLISHERS} publishers, {IN_FLIGHT} in flight each");
    Ok(vec![
        Figure::new(
            NAME,
            format!("{what}, acknowledged"),
            per(total * 1000, u64::try_from(elapsed.as_millis())?),
            "/s",
        ),
        Figure::new(NAME, format!("{what}, server CPU each"), per(u64::try_from(cpu.as_micros())?, total), "µs"),
    ])
}
