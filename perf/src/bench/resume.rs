//! Sessions that come back with a position in ten channels and one missed message in each.

use std::time::Instant;

use anyhow::{Context, Result};
use millrace_protocol::client::{ServerBody, Start, Subscribe};
use tokio::task::LocalSet;

use crate::figure::{Figure, per};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Joined, Wire};

const NAME: &str = "resume";
const CHANNELS: usize = 10;
const RESUMES: usize = 5_000;
const SIDE_BY_SIDE: usize = 16;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("resume-{number}")).collect();
    for name in &names {
        server.channel(name, "durable")?;
    }
    // Positions first, then one message more in each channel.
    let (mut wire, joined) = Wire::session(server, 0, names.iter().map(|name| wire::live(name)).collect()).await?;
    for (number, joined) in joined.iter().enumerate() {
        wire.publish(1, joined.channel, wire::producer(number as u64), 1, b"missed");
    }
    wire.flush().await?;
    let mut acknowledged = 0;
    wire.until(|frame| {
        acknowledged += usize::from(matches!(frame.body, ServerBody::Published(_)));
        acknowledged == CHANNELS
    })
    .await?;
    LocalSet::new().run_until(measure(server, names, joined, scale.of(RESUMES))).await
}

async fn measure(server: &Server, names: Vec<String>, joined: Vec<Joined>, resumes: usize) -> Result<Vec<Figure>> {
    let before = server.cpu()?;
    let begun = Instant::now();
    let address = server.address;
    let mut clients = Vec::with_capacity(SIDE_BY_SIDE);
    for client in 0..SIDE_BY_SIDE {
        let (token, names, joined) = (server.token().to_owned(), names.clone(), joined.clone());
        clients.push(tokio::task::spawn_local(async move {
            for number in (client..resumes).step_by(SIDE_BY_SIDE) {
                let mut wire = Wire::open(address, u32::try_from(number)?).await?;
                resume(&mut wire, &token, &names, &joined).await?;
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await.context("a client")??;
    }
    let elapsed = begun.elapsed();
    let cpu = server.cpu()?.saturating_sub(before);
    let micros = u64::try_from(cpu.as_micros())?;
    let what = format!("connect + resume of {CHANNELS} channels, one missed message in each");
    Ok(vec![
        Figure::new(
            NAME,
            format!("{what}, here"),
            per(resumes as u64 * 1000, u64::try_from(elapsed.as_millis())?),
            "/s",
        ),
        Figure::new(NAME, format!("{what}, server CPU each"), per(micros, resumes as u64), "µs"),
    ])
}

/// A whole resume in one frame; done when every missed message is here.
async fn resume(wire: &mut Wire, token: &str, names: &[String], joined: &[Joined]) -> Result<()> {
    let subscriptions = names
        .iter()
        .zip(joined)
        .map(|(name, joined)| Subscribe { channel: name, start: Start::After(joined.position) })
        .collect();
    wire.send_hello(token, subscriptions).await?;
    let mut missed = 0;
    wire.until(|frame| {
        missed += usize::from(matches!(frame.body, ServerBody::Message(_)));
        missed == joined.len()
    })
    .await
}
