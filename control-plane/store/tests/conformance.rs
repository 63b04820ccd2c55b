//! The conformance suite over the embedded engines, and the model with random interleavings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_store::conformance::model::{SLOTS, Step, check};
use millrace_store::conformance::{BlindWrites, Subject};
use millrace_store::{Direction, EngineKind, Store};
use proptest::prelude::*;

/// A store in a folder of its own, removed when the process ends.
fn open(engine: EngineKind) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = engine.open(folder.path()).expect("open");
    Subject { store: Arc::new(Kept { store, _folder: folder }), blind_writes: BlindWrites::NeverConflict }
}

/// A store with the folder that it lives in.
struct Kept {
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

impl Store for Kept {
    fn begin(
        &self,
        deadline: std::time::Instant,
    ) -> millrace_store::BoxFuture<'_, Result<Box<dyn millrace_store::Transaction>, millrace_store::StoreError>> {
        self.store.begin(deadline)
    }

    fn close(&self) -> millrace_store::BoxFuture<'_, Result<(), millrace_store::StoreError>> {
        self.store.close()
    }

    fn stats(&self) -> millrace_store::StoreStats {
        self.store.stats()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = 0..SLOTS;
    let key = 0..8_u8;
    let step = prop_oneof![
        2 => slot.clone().prop_map(|slot| Step::Begin { slot }),
        4 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Step::Get { slot, key }),
        3 => (slot.clone(), key.clone(), 0..9_u8, any::<bool>(), 0..6_u32).prop_map(|(slot, start, end, forward, limit)| {
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            Step::Scan { slot, start, end, direction, limit }
        }),
        4 => (slot.clone(), key.clone(), any::<u16>()).prop_map(|(slot, key, value)| Step::Put { slot, key, value }),
        2 => (slot.clone(), key).prop_map(|(slot, key)| Step::Delete { slot, key }),
        3 => slot.prop_map(|slot| Step::Commit { slot }),
    ];
    prop::collection::vec(step, 1..120)
}

/// Each case under a prefix of its own in one store.
fn model(engine: EngineKind, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let subject = open(engine);
    let case = AtomicU64::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let result = runner.run(&steps(), |steps| {
        let prefix = case.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        runtime.block_on(check(&subject, &prefix, &steps));
        Ok(())
    });
    result.expect("the model");
}

macro_rules! engine {
    ($name:ident, $kind:expr, $cases:expr) => {
        mod $name {
            millrace_store::conformance_suite!(super::open($kind));

            #[test]
            fn random_interleavings_match_the_model() {
                super::model($kind, $cases);
            }
        }
    };
}

engine!(memory, millrace_store::EngineKind::Memory, 400);
engine!(fjall, millrace_store::EngineKind::Fjall, 100);
engine!(redb, millrace_store::EngineKind::Redb, 50);
