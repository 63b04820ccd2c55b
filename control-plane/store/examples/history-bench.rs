//! Pages of 50 messages from one long channel, from its newest to its oldest. Prints a table for the README.
//!
//! `cargo run --release -p millrace-store --example history-bench [MESSAGES [FOLDER]]`: how many messages (default 10,000,000: about
//! 3 GB on disk while it runs), and where to put the stores (default: a temporary folder).
//!
//! Fills one channel with messages of 170 bytes behind other keys and opens the store again, so that nothing is left in the engine's
//! own caches (the system's file cache stays as the filling left it). Then reads what the control plane reads for a page: the
//! channel's head, and 50 rows backward from a random offset, in each tenth of the channel in turn. Nothing else runs meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, Direction, EngineKind, KeyRange, Store};

type Error = Box<dyn std::error::Error + Send + Sync>;

const MESSAGE_BYTES: usize = 170;
const PAGE: u32 = 50;
const PAGES_PER_TENTH: u64 = 2_000;
/// Messages of one transaction, below every limit of one.
const BATCH: u64 = 4_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments.next().map_or(Ok(10_000_000), |messages| messages.parse())?;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    println!("| engine | messages | age | p50 ms | p95 ms | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|---|");
    for engine in [EngineKind::Fjall, EngineKind::Redb] {
        let path = folder.join(engine.to_string());
        runtime.block_on(measure(engine, &path, messages))?;
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}

async fn measure(engine: EngineKind, path: &Path, messages: u64) -> Result<(), Error> {
    let store = engine.open(path)?;
    let begun = Instant::now();
    fill(&store, messages).await?;
    store.close().await?;
    drop(store);
    eprintln!("{engine}: {messages} messages written in {:.0} s", begun.elapsed().as_secs_f64());
    let store = engine.open(path)?;
    let tenth = (messages / 10).max(u64::from(PAGE));
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for age in 0..10 {
        let newest = messages.saturating_sub(age * tenth);
        let mut latencies = Vec::new();
        for _ in 0..PAGES_PER_TENTH {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let before = (newest - (random >> 33) % tenth.min(newest)).max(u64::from(PAGE)) + 1;
            latencies.push(page(&store, before).await?);
        }
        latencies.sort_unstable();
        let at =
            |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)].as_secs_f64() * 1e3;
        println!(
            "| {engine} | {messages} | tenth {} | {:.3} | {:.3} | {:.3} | {:.2} |",
            age + 1,
            at(50),
            at(95),
            at(99),
            at(100),
        );
    }
    store.close().await?;
    Ok(())
}

fn key(kind: u8, offset: u64) -> Bytes {
    let mut key = b"M\0\0\0\x07\x12\x34\x56\x78".to_vec();
    key.push(kind);
    key.extend_from_slice(&offset.to_be_bytes());
    key.into()
}

/// Messages as they come: each transaction writes the next ones, the head, and a producer's row.
async fn fill(store: &Arc<dyn Store>, messages: u64) -> Result<(), Error> {
    let mut next = 1;
    while next <= messages {
        let mut transaction = store.begin(Instant::now() + PATIENCE).await?;
        let end = (next + BATCH).min(messages + 1);
        for offset in next..end {
            // Not all alike: tables are compressed.
            let mut body = Vec::with_capacity(MESSAGE_BYTES);
            let mut word = offset;
            while body.len() < MESSAGE_BYTES {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(offset);
                body.extend_from_slice(&word.to_be_bytes());
            }
            body.truncate(MESSAGE_BYTES);
            transaction.put(key(1, offset), body.into());
        }
        let last = Bytes::copy_from_slice(&(end - 1).to_be_bytes());
        transaction.put(key(0, 0), last.clone());
        transaction.put(key(2, 1), last);
        match transaction.commit().await {
            CommitOutcome::Committed => next = end,
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}

/// Reads the page before an offset, and gives how long that took.
async fn page(store: &Arc<dyn Store>, before: u64) -> Result<Duration, Error> {
    let begun = Instant::now();
    let mut transaction = store.begin(begun + PATIENCE).await?;
    transaction.get(&key(0, 0)).await?.ok_or("the head is missing")?;
    let range = KeyRange { start: key(1, before - u64::from(PAGE)), end: key(1, before) };
    let rows = transaction.scan(range, Direction::Backward, PAGE).await?;
    let took = begun.elapsed();
    if rows.len() != PAGE as usize || rows.first().map(|(row, _)| row) != Some(&key(1, before - 1)) {
        return Err(format!("the page before {before} has {} rows", rows.len()).into());
    }
    Ok(took)
}
