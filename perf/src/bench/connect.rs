//! Connect, upgrade, authenticate, subscribe, close, by a few clients side by side.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::task::LocalSet;

use crate::figure::{Figure, per};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Wire};

const NAME: &str = "connect";
const CONNECTS: usize = 20_000;
const SIDE_BY_SIDE: usize = 32;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    LocalSet::new().run_until(measure(server, scale.of(CONNECTS))).await
}

async fn measure(server: &Server, connects: usize) -> Result<Vec<Figure>> {
    let before = server.cpu()?;
    let begun = Instant::now();
    let address = server.address;
    let mut clients = Vec::with_capacity(SIDE_BY_SIDE);
    for client in 0..SIDE_BY_SIDE {
        let token = server.token().to_owned();
        clients.push(tokio::task::spawn_local(async move {
            for number in (client..connects).step_by(SIDE_BY_SIDE) {
                let mut wire = Wire::open(address, u32::try_from(number)?).await?;
                wire.hello(&token, vec![wire::live("general")]).await?;
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
    Ok(vec![
        Figure::new(
            NAME,
            "connect + authenticate + subscribe + close, here",
            per(connects as u64 * 1000, u64::try_from(elapsed.as_millis())?),
            "/s",
        ),
        Figure::new(NAME, "server CPU each", per(micros, connects as u64), "µs"),
        Figure::new(NAME, "per core of server CPU", per(connects as u64 * 1_000_000, micros), "/s"),
    ])
}
