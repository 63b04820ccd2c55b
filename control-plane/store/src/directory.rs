//! A store's folder: the lock that keeps other processes out, and the high-water mark that finds lost commits.
//!
//! Shape: `LOCK` (held while open; the owner's process id in text), `HIGH-WATER` ([`high_water`]), and the engine's own files.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;

mod high_water;

use high_water::{HighWater, Mark};

const LOCK: &str = "LOCK";
const HIGH_WATER: &str = "HIGH-WATER";
const HIGH_WATER_DRAFT: &str = "HIGH-WATER.new";

/// An open folder. Dropping it lets the next process in.
pub(crate) struct Directory {
    path: PathBuf,
    engine: &'static str,
    high_water: Option<HighWater>,
    /// Last, so that it is released after the rest.
    _lock: File,
}

impl Directory {
    /// Creates the folder if need be, locks it, and reads its mark.
    pub(crate) fn open(path: &Path, engine: &'static str) -> Result<Self, StoreError> {
        let io = |error| StoreError::Engine(Box::new(error));
        create_durably(path).map_err(io)?;
        let lock = Self::lock(path)?;
        let mut directory = Self { path: path.to_owned(), engine, high_water: None, _lock: lock };
        if path.join(HIGH_WATER).try_exists().map_err(io)? {
            directory.high_water = Some(HighWater::open(&path.join(HIGH_WATER), engine)?);
        } else if directory.is_new().map_err(io)? {
            // Before the engine's first file, so that a store without a mark is always one whose mark was taken away.
            directory.create_mark(Mark::new(engine)).map_err(io)?;
        }
        Ok(directory)
    }

    fn create_mark(&mut self, mark: Mark) -> std::io::Result<()> {
        let created = HighWater::create(&self.path.join(HIGH_WATER), &self.path.join(HIGH_WATER_DRAFT), mark)?;
        self.high_water = Some(created);
        sync_names(&self.path)
    }

    fn lock(path: &Path) -> Result<File, StoreError> {
        let io = |error| StoreError::Engine(Box::new(error));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message: whoever holds the lock may not have written its number yet.
                let owner = match lock.read_to_string(&mut owner) {
                    Ok(length) if length > 0 => format!("process {}", owner.trim()),
                    _ => "another process".into(),
                };
                let path = path.display();
                return Err(StoreError::Unavailable(format!("the store at {path} is in use by {owner}")));
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        lock.set_len(0).map_err(io)?;
        lock.rewind().map_err(io)?;
        writeln!(lock, "{}", std::process::id()).map_err(io)?;
        Ok(lock)
    }

    fn is_new(&self) -> std::io::Result<bool> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name != LOCK && name != HIGH_WATER_DRAFT {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The commit from which on none may be missing.
    pub(crate) fn baseline(&self) -> u64 {
        // Without a mark, a person has accepted what is left.
        self.high_water.as_ref().map_or(u64::MAX, |high_water| high_water.mark().baseline)
    }

    /// Compares what the engine recovered with the mark, and makes the names of the engine's files durable.
    pub(crate) fn check(&mut self, recovered: u64) -> Result<(), StoreError> {
        let io = |error| StoreError::Engine(Box::new(error));
        sync_names(&self.path).map_err(io)?;
        let Some(high_water) = &self.high_water else {
            let path = self.path.display();
            tracing::warn!(%path, recovered, "the store has no high-water mark: what is left is accepted");
            let mark = Mark { baseline: recovered, high_water: recovered, ..Mark::new(self.engine) };
            return self.create_mark(mark).map_err(io);
        };
        let known = high_water.mark().high_water;
        if recovered < known {
            return Err(self.explain(StoreError::Damaged(format!(
                "commit {known} was acknowledged, but the newest one found is {recovered}"
            ))));
        }
        Ok(())
    }

    /// Adds to a damage report where it is and what to do.
    pub(crate) fn explain(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Damaged(what) => {
                let path = self.path.display();
                StoreError::Damaged(format!(
                    "{what}; restore {path} from a backup, or, to go on with what is left, delete {path}/{HIGH_WATER} and start again"
                ))
            }
            error => error,
        }
    }

    /// Makes the mark durable: no later start may find less than `sequence`.
    pub(crate) fn raise(&mut self, sequence: u64) -> std::io::Result<()> {
        match &mut self.high_water {
            Some(high_water) => high_water.raise(sequence),
            None => Ok(()),
        }
    }
}

/// Creates a folder and its parents so that they survive a loss of power.
fn create_durably(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_names(parent)
}

/// Makes the names in a folder durable.
fn sync_names(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}
