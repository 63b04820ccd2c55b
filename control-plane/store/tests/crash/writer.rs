//! The process that is killed: writes numbered records from many committers and prints each acknowledgement, one line per commit: the
//! committer and the record's number.
//!
//! Committer `w` writes, in one transaction, record `n`: `log/ w n`, `copy/ w n` and `head/ w = n`; every fourth time it also adds one
//! to `sum`, which all of them share.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, EngineKind, FjallConfig, Store, open_fjall};

/// Commits until the process ends.
pub(crate) fn run(engine: EngineKind, folder: &Path, committers: u8) -> Result<(), Box<dyn std::error::Error>> {
    let store = match engine {
        // Small memtables, so that flushes and compactions are under way when the end comes.
        EngineKind::Fjall => open_fjall(folder, FjallConfig { memtable_bytes: 64 << 10, ..FjallConfig::default() })?,
        other => other.open(folder)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..committers).map(|committer| tokio::spawn(commit_forever(Arc::clone(&store), committer))).collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}

async fn commit_forever(store: Arc<dyn Store>, committer: u8) -> Result<(), String> {
    let head = Bytes::from([b"head/".as_slice(), &[committer]].concat());
    loop {
        let mut transaction = store.begin(deadline()).await.map_err(|error| error.to_string())?;
        let last = number(transaction.get(&head).await.map_err(|error| error.to_string())?);
        let next = last + 1;
        let record = [&[committer], next.to_be_bytes().as_slice()].concat();
        transaction.put(Bytes::from([b"log/", record.as_slice()].concat()), filler(committer, next));
        transaction.put(Bytes::from([b"copy/", record.as_slice()].concat()), filler(committer, next));
        transaction.put(head.clone(), Bytes::copy_from_slice(&next.to_be_bytes()));
        if next.is_multiple_of(4) {
            let sum = number(transaction.get(b"sum").await.map_err(|error| error.to_string())?) + 1;
            transaction.put(Bytes::from_static(b"sum"), Bytes::copy_from_slice(&sum.to_be_bytes()));
        }
        match transaction.commit().await {
            // One write, straight to the pipe: what was acknowledged is with the reader, whatever happens next.
            CommitOutcome::Committed => std::io::stdout()
                .write_all(format!("{committer} {next}\n").as_bytes())
                .map_err(|error| error.to_string())?,
            CommitOutcome::Conflict => {}
            other => return Err(format!("{other:?}")),
        }
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn number(value: Option<Bytes>) -> u64 {
    value.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// 0 to 600 bytes that belong to one record only.
pub(crate) fn filler(committer: u8, number: u64) -> Bytes {
    let length = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 600;
    (0..length).map(|at| committer.wrapping_add((number + at).to_le_bytes()[0])).collect()
}
