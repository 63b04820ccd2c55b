//! Durable appends per second and their latency, by engine and number of concurrent committers. Prints a table for the README.
//!
//! `cargo run --release -p millrace-store --example append-bench [SECONDS [FOLDER]]`: seconds per cell (default 3), and where to put the
//! stores (default: a temporary folder; a folder in memory shows nothing).
//!
//! An append is what the control plane does for one message: read and rewrite the channel's head, write a message of 300 bytes and the
//! producer's row. Each committer has a channel of its own and waits for each append: closed loop, from an empty store.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, EngineKind, Store};

type Error = Box<dyn std::error::Error + Send + Sync>;

const COMMITTERS: [u32; 4] = [1, 8, 64, 512];
const MESSAGE_BYTES: usize = 300;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    println!("| engine | committers | appends/s | p50 ms | p99 ms | max ms | appends per sync | mean sync ms |");
    println!("|---|---|---|---|---|---|---|---|");
    for engine in [EngineKind::Memory, EngineKind::Fjall, EngineKind::Redb] {
        for committers in COMMITTERS {
            let path = folder.join(format!("{engine}-{committers}"));
            let row = runtime.block_on(measure(engine, &path, committers, Duration::from_secs(seconds)))?;
            println!("{row}");
            if engine != EngineKind::Memory {
                std::fs::remove_dir_all(path)?;
            }
        }
    }
    Ok(())
}

async fn measure(engine: EngineKind, path: &Path, committers: u32, length: Duration) -> Result<String, Error> {
    let store = engine.open(path)?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..committers)
        .map(|channel| tokio::spawn(append_until(Arc::clone(&store), channel, start + length)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let stats = store.stats();
    store.close().await?;
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the list")]
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    Ok(format!(
        "| {engine} | {committers} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} | {:.2} |",
        latencies.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0),
        stats.commits as f64 / stats.groups.max(1) as f64,
        stats.sync_time.as_secs_f64() * 1e3 / stats.groups.max(1) as f64,
    ))
}

async fn append_until(store: Arc<dyn Store>, channel: u32, end: Instant) -> Result<Vec<Duration>, Error> {
    let key = |kind: &[u8]| Bytes::from([b"M".as_slice(), &channel.to_be_bytes(), kind].concat());
    let (head, producer, body) = (key(&[0]), key(&[2]), Bytes::from(vec![b'm'; MESSAGE_BYTES]));
    let mut latencies = Vec::new();
    let mut offset = 0_u64;
    while Instant::now() < end {
        let begun = Instant::now();
        let mut transaction = store.begin(begun + Duration::from_secs(10)).await?;
        let last = transaction.get(&head).await?;
        assert_eq!(last.map_or(0, |last| u64::from_be_bytes(last.as_ref().try_into().expect("eight bytes"))), offset);
        offset += 1;
        let number = Bytes::copy_from_slice(&offset.to_be_bytes());
        transaction.put(key(&[&[1], offset.to_be_bytes().as_slice()].concat()), body.clone());
        transaction.put(head.clone(), number.clone());
        transaction.put(producer.clone(), number);
        match transaction.commit().await {
            CommitOutcome::Committed => latencies.push(begun.elapsed()),
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(latencies)
}
