//! Files changed behind the store's back: it opens with everything that the high-water mark vouches for, or it refuses. Never a silent loss.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{
    CommitOutcome, Direction, FjallConfig, KeyRange, RedbConfig, Store, StoreError, WriterConfig, open_fjall, open_redb,
};

const COMMITS: u64 = 300;

/// Every acknowledged commit is below the mark.
fn strict() -> WriterConfig {
    WriterConfig { high_water_interval: Duration::ZERO, ..WriterConfig::default() }
}

fn fjall(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    open_fjall(path, FjallConfig { writer: strict(), ..FjallConfig::default() })
}

fn redb(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    open_redb(path, RedbConfig { writer: strict(), ..RedbConfig::default() })
}

type Open = fn(&Path) -> Result<Arc<dyn Store>, StoreError>;

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// What a crash leaves of a store with [`COMMITS`] acknowledged commits: its files as they are while it is open.
async fn crashed(open: Open, folder: &Path) -> PathBuf {
    let (live, crashed) = (folder.join("live"), folder.join("crashed"));
    let store = open(&live).expect("open");
    for number in 0..COMMITS {
        let mut transaction = store.begin(deadline()).await.expect("begin");
        transaction.put(Bytes::copy_from_slice(&number.to_be_bytes()), Bytes::from(vec![b'v'; 100]));
        let outcome = transaction.commit().await;
        assert!(matches!(outcome, CommitOutcome::Committed), "{outcome:?}");
    }
    copy_folder(&live, &crashed);
    crashed
}

async fn count(store: &Arc<dyn Store>) -> Result<u64, StoreError> {
    let mut transaction = store.begin(deadline()).await?;
    let range = KeyRange { start: Bytes::new(), end: Bytes::from_static(&[0xFF]) };
    let rows = transaction.scan(range, Direction::Forward, 4096).await?;
    for (number, (key, value)) in (0_u64..).zip(&rows) {
        assert_eq!(key.as_ref(), number.to_be_bytes(), "a hole");
        assert_eq!(value.as_ref(), [b'v'; 100], "a changed value");
    }
    Ok(rows.len() as u64)
}

/// Whether a damaged store shows everything or refuses; anything else fails. `true` if it refused.
async fn whole_or_refused(open: Open, path: &Path, what: &str) -> bool {
    let found = match open(path) {
        Ok(store) => count(&store).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(rows) => {
            assert_eq!(rows, COMMITS, "{what}: opened without a word");
            false
        }
        Err(StoreError::Damaged(message)) => {
            assert!(!message.is_empty());
            true
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Bytes of a file up to the zeros at its end.
fn used(path: &Path) -> u64 {
    let bytes = std::fs::read(path).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn flip(path: &Path, at: u64, bit: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).expect("write");
}

#[tokio::test]
async fn a_damaged_fjall_journal_is_never_a_silent_loss() {
    let folder = tempfile::tempdir().unwrap();
    let image = crashed(fjall, folder.path()).await;
    assert!(!whole_or_refused(fjall, &copy(&image, folder.path(), "untouched"), "untouched").await);
    let journal_bytes = used(&image.join("fjall").join("0.jnl"));
    assert!(journal_bytes > COMMITS * 100, "the rows are in the journal, not in a table");
    let (mut random, mut refused) = (0x5EED, 0);
    for round in 0..24_u32 {
        let at = next(&mut random) % journal_bytes;
        let path = copy(&image, folder.path(), "damaged");
        let journal = path.join("fjall").join("0.jnl");
        let what = if round % 3 == 0 {
            OpenOptions::new().write(true).open(&journal).unwrap().set_len(at).unwrap();
            format!("cut at {at} of {journal_bytes}")
        } else {
            flip(&journal, at, round % 8);
            format!("bit {} of byte {at} of {journal_bytes}", round % 8)
        };
        if whole_or_refused(fjall, &path, &what).await {
            refused += 1;
            // Recovery has cut the journal by now; that must not make it acceptable.
            assert!(whole_or_refused(fjall, &path, &what).await, "{what}: the second try opened");
        }
        std::fs::remove_dir_all(path).unwrap();
    }
    assert!(refused >= 20, "only {refused} of 24 were noticed or mattered");
}

#[tokio::test]
async fn a_lost_fjall_journal_is_never_a_silent_loss() {
    let folder = tempfile::tempdir().unwrap();
    let image = crashed(fjall, folder.path()).await;
    std::fs::remove_file(image.join("fjall").join("0.jnl")).unwrap();
    assert!(whole_or_refused(fjall, &image, "without its journal").await);
    std::fs::remove_dir_all(image.join("fjall")).unwrap();
    assert!(whole_or_refused(fjall, &image, "without its files").await);
}

#[tokio::test]
async fn a_damaged_redb_file_is_never_a_silent_loss() {
    let folder = tempfile::tempdir().unwrap();
    let image = crashed(redb, folder.path()).await;
    assert!(!whole_or_refused(redb, &copy(&image, folder.path(), "untouched"), "untouched").await);
    let file_bytes = used(&image.join("rows.redb"));
    let mut random = 0x5EED;
    for round in 0..24_u32 {
        let at = next(&mut random) % file_bytes;
        let path = copy(&image, folder.path(), "damaged");
        let file = path.join("rows.redb");
        let what = if round % 3 == 0 {
            OpenOptions::new().write(true).open(&file).unwrap().set_len(at).unwrap();
            format!("cut at {at} of {file_bytes}")
        } else {
            flip(&file, at, round % 8);
            format!("bit {} of byte {at} of {file_bytes}", round % 8)
        };
        whole_or_refused(redb, &path, &what).await;
        std::fs::remove_dir_all(path).unwrap();
    }
    std::fs::remove_file(image.join("rows.redb")).unwrap();
    assert!(whole_or_refused(redb, &image, "without its file").await);
}

fn copy(image: &Path, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    copy_folder(image, &path);
    path
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}
