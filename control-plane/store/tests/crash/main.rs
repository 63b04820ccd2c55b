//! Kills a process that commits, at random points, and looks at what it left: everything acknowledged, every transaction whole, no gap.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{Direction, EngineKind, KeyRange, Store, Transaction};
use writer::filler;

mod writer;

const COMMITTERS: u8 = 16;
const KILLS: u32 = 12;
const LINES_MAX: u64 = 800;

/// Not a harness of the usual kind, because this program is also the one that it kills: `crash writer ENGINE FOLDER`.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, engine, folder] = arguments.as_slice()
        && mode == "writer"
    {
        let engine = engine.parse().expect("an engine");
        writer::run(engine, Path::new(folder), COMMITTERS).expect("write until the end");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for (engine, seed) in [(EngineKind::Fjall, 0x5EED_0001), (EngineKind::Redb, 0x5EED_0002)] {
        let records = runtime.block_on(kill_again_and_again(engine, seed));
        println!("test {engine} keeps what it acknowledged ... ok ({records} records, {KILLS} kills)");
    }
}

async fn kill_again_and_again(engine: EngineKind, seed: u64) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seed;
    let mut acknowledged: BTreeMap<u8, u64> = BTreeMap::new();
    let mut stored = 0;
    for round in 0..KILLS {
        // Every fourth round ends before the first acknowledgement is read, most likely while the store is being opened.
        let lines = if round % 4 == 3 { 0 } else { next(&mut random) % LINES_MAX };
        run_and_kill(engine, folder.path(), lines, &mut acknowledged);
        let store = engine.open(folder.path()).expect("what a kill leaves is no damage");
        let found = verify(&store, &acknowledged).await;
        assert!(found >= stored, "{engine}, round {round} of seed {seed:#x}: {found} records, {stored} before");
        stored = found;
        store.close().await.expect("close");
    }
    assert!(stored >= 500, "{engine}: only {stored} records in {KILLS} rounds show nothing");
    stored
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Starts the writer, kills it after `lines` acknowledgements, and notes all that it gave until then.
fn run_and_kill(engine: EngineKind, folder: &Path, lines: u64, acknowledged: &mut BTreeMap<u8, u64>) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["writer", engine.name(), folder.to_str().expect("a path in UTF-8")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the writer");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut note = |line: std::io::Result<String>| {
        let line = line.expect("read");
        let (committer, number) = line.split_once(' ').expect("two numbers");
        let (committer, number) = (committer.parse().expect("a number"), number.parse().expect("a number"));
        let last = acknowledged.insert(committer, number).unwrap_or(0);
        // Records that landed without an acknowledgement before the last kill are skipped over.
        assert!(number > last, "committer {committer}: {number} after {last}");
    };
    for _ in 0..lines {
        note(output.next().expect("the writer ended by itself"));
    }
    child.kill().expect("kill");
    // What is in the pipe was acknowledged, too.
    output.for_each(note);
    child.wait().expect("wait");
}

/// Reads everything back; returns the number of records.
async fn verify(store: &Arc<dyn Store>, acknowledged: &BTreeMap<u8, u64>) -> u64 {
    let mut transaction = store.begin(Instant::now() + Duration::from_secs(60)).await.expect("begin");
    let (mut records, mut fourths) = (0, 0);
    for committer in 0..COMMITTERS {
        let head = number(transaction.get(&[b"head/".as_slice(), &[committer]].concat()).await.expect("get"));
        let known = acknowledged.get(&committer).copied().unwrap_or(0);
        assert!(head >= known, "committer {committer}: {known} acknowledged, {head} stored");
        let log = read_all(&mut transaction, &[b"log/".as_slice(), &[committer]].concat()).await;
        let copy = read_all(&mut transaction, &[b"copy/".as_slice(), &[committer]].concat()).await;
        assert_eq!(log.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>());
        assert!(log == copy, "committer {committer}: half a transaction");
        for (number, value) in &log {
            assert_eq!(*value, filler(committer, *number), "committer {committer}, record {number}");
        }
        records += head;
        fourths += head / 4;
    }
    let sum = number(transaction.get(b"sum").await.expect("get"));
    assert_eq!(sum, fourths, "increments lost or counted twice");
    records
}

async fn read_all(transaction: &mut Box<dyn Transaction>, prefix: &[u8]) -> Vec<(u64, Bytes)> {
    let mut rows = Vec::new();
    let mut range = KeyRange::prefix(prefix);
    loop {
        let page = transaction.scan(range.clone(), Direction::Forward, 4096).await.expect("scan");
        let Some((last, _)) = page.last() else { return rows };
        range.start = Bytes::from([last.as_ref(), &[0]].concat());
        rows.extend(page.into_iter().map(|(key, value)| (number(Some(key.slice(prefix.len()..))), value)));
    }
}

fn number(value: Option<Bytes>) -> u64 {
    value.map_or(0, |value| u64::from_be_bytes(value.as_ref().try_into().expect("eight bytes")))
}
