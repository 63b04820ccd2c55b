//! What an append costs when many channels are written in turn, with the rows that are rewritten remembered and without.
//!
//! `cargo run --release -p millrace-store --example many-channels-bench [CHANNELS [ROUNDS [FOLDER]]]`: channels (default 10,000), how often
//! each is appended to in either way (default 6), and where to put the stores (default: a temporary folder).
//!
//! An append is what the control plane does for one message: read and rewrite the channel's head and the producer's row, write a message of
//! 170 bytes. 64 channels share a transaction, 400 a moment, and the first round is not counted. CPU time is of the whole process, by the
//! clock tick; both ways are measured in turns.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, FjallConfig, Store, WriterConfig, open_fjall};

type Error = Box<dyn std::error::Error + Send + Sync>;

const TRANSACTION_CHANNELS: u64 = 64;
const MOMENT_CHANNELS: u64 = 400;
const MESSAGE_BYTES: usize = 170;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (channels, rounds) = (number(10_000)?, number(6)?);
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
    runtime.block_on(async {
        let ways = [("remembered", WriterConfig::default().remembered_bytes), ("not remembered", 0)];
        let stores = ways.map(|(name, bytes)| open(&folder.join(name), bytes).map(|store| (name, store)));
        println!("| round | way | CPU per append, µs | reads remembered |");
        println!("|---|---|---|---|");
        for round in 0..=rounds {
            for store in &stores {
                let (name, store) = store.as_ref().map_err(ToString::to_string)?;
                let (before, known) = (cpu()?, store.stats().remembered);
                append_to_all(store, channels, round).await?;
                if round > 0 {
                    let us = (cpu()? - before).as_secs_f64() * 1e6 / channels as f64;
                    println!("| {round} | {name} | {us:.2} | {} |", store.stats().remembered - known);
                }
            }
        }
        Ok(())
    })
}

fn open(path: &Path, remembered_bytes: usize) -> Result<Arc<dyn Store>, Error> {
    let writer = WriterConfig { remembered_bytes, ..WriterConfig::default() };
    Ok(open_fjall(path, FjallConfig { writer, ..FjallConfig::default() })?)
}

/// CPU time of this process.
fn cpu() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no process")?;
    // User and system time, in hundredths of a second on every Linux.
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

async fn append_to_all(store: &Arc<dyn Store>, channels: u64, round: u64) -> Result<(), Error> {
    for moment in (0..channels).step_by(usize::try_from(MOMENT_CHANNELS)?) {
        let end = (moment + MOMENT_CHANNELS).min(channels);
        let groups = (moment..end).step_by(usize::try_from(TRANSACTION_CHANNELS)?);
        let tasks: Vec<_> = groups
            .map(|first| {
                let store = Arc::clone(store);
                tokio::spawn(
                    async move { append(&*store, first..(first + TRANSACTION_CHANNELS).min(end), round).await },
                )
            })
            .collect();
        for task in tasks {
            task.await??;
        }
    }
    Ok(())
}

async fn append(store: &dyn Store, channels: std::ops::Range<u64>, round: u64) -> Result<(), Error> {
    let mut transaction = store.begin(Instant::now() + Duration::from_secs(10)).await?;
    for channel in channels {
        // Numbers of channels are random.
        let id = channel.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let key = |kind: u8, rest: &[u8]| Bytes::from([b"M".as_slice(), &id, &[kind], rest].concat());
        let (head, producer) = (key(0, b""), key(2, b"somebody who writes"));
        let value = Bytes::copy_from_slice(&[round.to_be_bytes(); 4].concat());
        for row in [&head, &producer] {
            let last = transaction.get(row).await?;
            assert_eq!(last.is_some(), round > 0, "each round rewrites it");
        }
        transaction.put(key(1, &round.to_be_bytes()), Bytes::from(vec![b'm'; MESSAGE_BYTES]));
        transaction.put(head, value.clone());
        transaction.put(producer, value);
    }
    match transaction.commit().await {
        CommitOutcome::Committed => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
