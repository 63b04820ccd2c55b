//! Worlds made from a seed: shards, rings, a control plane and clients, where everything that may go wrong does. What holds in
//! all of them is what clients are promised. `MILLRACE_SEED=7` runs one world, `MILLRACE_WORLDS=100000` many, both together
//! many from there on.

#![expect(clippy::unwrap_used, reason = "a simulation is a test throughout")]

#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/compression.rs"]
mod compression;
#[path = "simulation/control.rs"]
mod control;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "simulation/limits.rs"]
mod limits;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/weather.rs"]
mod weather;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

const WORLDS: u64 = 300;
const STEPS: u64 = 400;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_clients_are_promised_holds_in_every_world() {
    let seeds = match from_env("MILLRACE_SEED") {
        Some(seed) => seed..seed + from_env("MILLRACE_WORLDS").unwrap_or(1),
        None => 0..from_env("MILLRACE_WORLDS").unwrap_or(WORLDS),
    };
    let (mut messages, mut acked, mut reloads, mut skips, mut pages, mut stops) = (0, 0, 0, 0, 0, 0);
    for seed in seeds.clone() {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            world.run(STEPS);
            world.records
        }));
        let records = match result {
            Ok(records) => records,
            Err(panic) => {
                eprintln!("this world again: MILLRACE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        };
        messages += records.messages;
        acked += records.acked.len();
        reloads += records.reloads;
        skips += records.skips;
        pages += records.pages;
        stops += records.stops;
    }
    println!(
        "{messages} messages heard, {acked} acked, {reloads} reloads, {skips} skips, {pages} pages, {stops} clean stops"
    );
    if seeds.end - seeds.start >= WORLDS {
        // A simulation in which nothing happens proves nothing.
        assert!(messages > 20_000 && acked > 10_000 && reloads > 10 && skips > 10 && pages > 500 && stops > 10);
    }
}
