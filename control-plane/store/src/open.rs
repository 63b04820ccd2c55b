//! Opening an embedded store: which engine, in which folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::directory::Directory;
use crate::embedded::{EmbeddedStore, WriterConfig};
use crate::engine::{Engine, FjallConfig, FjallEngine, MemoryEngine, RedbConfig, RedbEngine};
use crate::{Store, StoreError};

/// Which embedded engine a deployment uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// The default: cheapest durable appends.
    #[default]
    Fjall,
    /// One file, the simpler machine, three times slower durable appends.
    Redb,
    /// Nothing survives the process.
    Memory,
}

/// A name that is no engine.
#[derive(Debug, thiserror::Error)]
#[error("no store engine is called {0:?}: use fjall, redb or memory")]
pub struct UnknownEngine(String);

impl EngineKind {
    /// The name, as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Redb => "redb",
            Self::Memory => "memory",
        }
    }

    /// Opens a store in the folder `path` with this engine's default sizes.
    ///
    /// # Errors
    /// As [`open_fjall`].
    pub fn open(self, path: &Path) -> Result<Arc<dyn Store>, StoreError> {
        match self {
            Self::Fjall => open_fjall(path, FjallConfig::default()),
            Self::Redb => open_redb(path, RedbConfig::default()),
            Self::Memory => Ok(open_memory()),
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        match name {
            "fjall" => Ok(Self::Fjall),
            "redb" => Ok(Self::Redb),
            "memory" => Ok(Self::Memory),
            _ => Err(UnknownEngine(name.into())),
        }
    }
}

/// Opens a store that lives in memory.
///
/// # Panics
/// If the system refuses a thread.
pub fn open_memory() -> Arc<dyn Store> {
    let store = open_memory_with(WriterConfig::default());
    store.expect("the default bounds are within range, and a memory engine has nothing else that can fail but the start of its thread")
}

/// Opens a store that lives in memory, with a writer of one's own choice.
///
/// # Errors
/// - [`StoreError::Config`] if a bound of the writer is out of range.
/// - [`StoreError::Engine`] if the system refuses a thread.
pub fn open_memory_with(writer: WriterConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(EmbeddedStore::start(MemoryEngine::default(), None, 0, writer)?))
}

/// Opens the fjall store in the folder `path`, or creates it. Reads the journals that a crash left: up to a second or so; do it at start.
///
/// # Errors
/// - [`StoreError::Unavailable`] if another process has it open.
/// - [`StoreError::Config`] if the folder belongs to another engine or a size is out of range.
/// - [`StoreError::Damaged`] if commits that were acknowledged are missing, or the files cannot be decoded.
/// - [`StoreError::Engine`] if the disk fails.
pub fn open_fjall(path: impl AsRef<Path>, config: FjallConfig) -> Result<Arc<dyn Store>, StoreError> {
    open(path.as_ref(), EngineKind::Fjall, config.writer.clone(), |directory| {
        FjallEngine::open(&directory.join("fjall"), &config)
    })
}

/// Opens the redb store in the folder `path`, or creates it. After a crash it reads the whole file: do it at start.
///
/// # Errors
/// As [`open_fjall`].
pub fn open_redb(path: impl AsRef<Path>, config: RedbConfig) -> Result<Arc<dyn Store>, StoreError> {
    open(path.as_ref(), EngineKind::Redb, config.writer.clone(), |directory| {
        RedbEngine::open(&directory.join("rows.redb"), &config)
    })
}

fn open<E: Engine>(
    path: &Path,
    kind: EngineKind,
    writer: WriterConfig,
    engine: impl FnOnce(&Path) -> Result<E, StoreError>,
) -> Result<Arc<dyn Store>, StoreError> {
    let mut directory = Directory::open(path, kind.name())?;
    let baseline = directory.baseline();
    // Both engines have asserts on what they read; at this point they mean damage, not a bug of the caller.
    let (engine, recovered) = catch_unwind(AssertUnwindSafe(|| {
        let engine = engine(path)?;
        let recovered = engine.recovered(baseline)?;
        Ok((engine, recovered))
    }))
    .unwrap_or_else(|_| Err(StoreError::Damaged(format!("{kind} could not read what is on disk"))))
    .map_err(|error| directory.explain(error))?;
    directory.check(recovered)?;
    Ok(Arc::new(EmbeddedStore::start(engine, Some(directory), recovered, writer)?))
}
