//! A store's folder: reopening, the lock, another engine's files, the high-water mark taken away.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_store::{CommitOutcome, Direction, EngineKind, KeyRange, Store, StoreError};

const DURABLE: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Redb];

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
    let mut transaction = store.begin(deadline()).await.expect("begin");
    transaction.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    let outcome = transaction.commit().await;
    assert!(matches!(outcome, CommitOutcome::Committed), "{outcome:?}");
}

async fn rows(store: &Arc<dyn Store>) -> Vec<(Bytes, Bytes)> {
    let mut transaction = store.begin(deadline()).await.expect("begin");
    transaction.scan(KeyRange::prefix(b"k"), Direction::Forward, 1000).await.expect("scan")
}

fn refused(engine: EngineKind, path: &Path) -> StoreError {
    match engine.open(path) {
        Ok(_) => panic!("{engine} opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_closing_and_after_dropping() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("on the way");
        for round in 0..4 {
            let store = engine.open(&path).unwrap();
            assert_eq!(rows(&store).await.len(), round, "{engine}");
            put(&store, &format!("k{round}"), "value").await;
            if round % 2 == 0 {
                store.close().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_store_in_use_says_by_whom() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let store = engine.open(folder.path()).unwrap();
        let error = refused(engine, folder.path());
        let expect = format!("the store at {} is in use by process {}", folder.path().display(), std::process::id());
        assert!(matches!(&error, StoreError::Unavailable(message) if *message == expect), "{error}");
        store.close().await.unwrap();
        engine.open(folder.path()).unwrap();
    }
}

#[tokio::test]
async fn another_engines_folder_is_refused_and_left_alone() {
    for (ours, theirs) in [(EngineKind::Fjall, EngineKind::Redb), (EngineKind::Redb, EngineKind::Fjall)] {
        let folder = tempfile::tempdir().unwrap();
        let store = theirs.open(folder.path()).unwrap();
        put(&store, "k", "value").await;
        drop(store);
        let error = refused(ours, folder.path());
        assert!(matches!(&error, StoreError::Config(message) if message.contains(theirs.name())), "{error}");
        assert_eq!(rows(&theirs.open(folder.path()).unwrap()).await.len(), 1);
    }
}

/// The files of an older copy under a newer mark: what a wrong restore leaves.
#[tokio::test]
async fn an_older_copy_under_a_newer_mark_is_damage_until_it_is_accepted() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
        let store = engine.open(&live).unwrap();
        put(&store, "k1", "value").await;
        drop(store);
        copy_folder(&live, &copy);
        let store = engine.open(&live).unwrap();
        put(&store, "k2", "value").await;
        drop(store);
        std::fs::copy(live.join("HIGH-WATER"), copy.join("HIGH-WATER")).unwrap();

        let error = refused(engine, &copy);
        let StoreError::Damaged(message) = &error else { panic!("{error}") };
        assert!(message.contains("commit 2 was acknowledged, but the newest one found is 1"), "{message}");
        assert!(message.contains("restore") && message.contains("delete"), "{message}");
        assert!(matches!(refused(engine, &copy), StoreError::Damaged(_)), "it stays refused");

        std::fs::remove_file(copy.join("HIGH-WATER")).unwrap();
        let store = engine.open(&copy).unwrap();
        assert_eq!(rows(&store).await.len(), 1);
        put(&store, "k3", "value").await;
        drop(store);
        assert_eq!(rows(&engine.open(&copy).unwrap()).await.len(), 2);
    }
}

#[test]
fn engines_are_called_by_name() {
    for engine in [EngineKind::Fjall, EngineKind::Redb, EngineKind::Memory] {
        assert_eq!(engine.to_string().parse::<EngineKind>().unwrap(), engine);
    }
    let error = "rocksdb".parse::<EngineKind>().unwrap_err();
    assert_eq!(error.to_string(), "no store engine is called \"rocksdb\": use fjall, redb or memory");
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
