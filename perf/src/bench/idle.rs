//! Memory of sessions with one subscription that only wait: the slope between two populations, so that what a server costs once does not
//! count.

use std::time::Duration;

use anyhow::Result;

use crate::figure::{Figure, per};
use crate::old::Scale;
use crate::server::Server;
use crate::wire::{self, Wire};

const NAME: &str = "idle session";
const FEW: usize = 2_000;
const MANY: usize = 12_000;

pub(crate) async fn run(server: &Server, scale: Scale) -> Result<Vec<Figure>> {
    let (few, many) = (scale.of(FEW), scale.of(MANY));
    let mut wires = Vec::with_capacity(many);
    grow(server, &mut wires, few).await?;
    let low = server.private_bytes()?;
    grow(server, &mut wires, many).await?;
    let high = server.private_bytes()?;
    let before = server.cpu()?;
    let quiet = Duration::from_secs(5);
    tokio::time::sleep(quiet).await;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(vec![
        Figure::new(
            NAME,
            format!("user memory each, slope from {few} to {many}"),
            per(high.saturating_sub(low), (many - few) as u64),
            "B",
        ),
        Figure::new(
            NAME,
            format!("server CPU each per second, {many} waiting"),
            per(u64::try_from(cpu.as_micros())?, (many as u64) * quiet.as_secs()),
            "µs",
        ),
    ])
}

async fn grow(server: &Server, wires: &mut Vec<Wire>, to: usize) -> Result<()> {
    while wires.len() < to {
        let (mut wire, _) = Wire::session(server, u32::try_from(wires.len())?, vec![wire::live("general")]).await?;
        wire.rest();
        wires.push(wire);
    }
    Ok(())
}
