//! The high-water mark: a small file that says which commit must be found again at the next start.
//!
//! An engine that loses the end of its log opens without complaint; the mark, written by another way, tells. It is raised about every
//! second, so it lags behind the newest commit by at most that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::StoreError;

/// Two copies, each in a sector of its own and written in turn: a torn write leaves the other one.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
/// Shape: magic (8 bytes), engine (8, zero-padded), turn (8), baseline (8), high water (8), checksum of these (8); big-endian.
const SLOT_BYTES: usize = 48;
const MAGIC: [u8; 8] = *b"MRHWATR1";

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) engine: [u8; 8],
    /// Counts writes; the higher copy is the newer one.
    pub(super) turn: u64,
    /// Commits up to here may be missing: a person has accepted that.
    pub(super) baseline: u64,
    /// This commit must be there.
    pub(super) high_water: u64,
}

impl Mark {
    pub(super) fn new(engine: &str) -> Self {
        let mut padded = [0; 8];
        for (slot, byte) in padded.iter_mut().zip(engine.bytes()) {
            *slot = byte;
        }
        Self { engine: padded, turn: 0, baseline: 0, high_water: 0 }
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.engine);
        bytes[16..24].copy_from_slice(&self.turn.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.baseline.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.high_water.to_be_bytes());
        let sum = checksum(&bytes[..40]);
        bytes[40..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        if bytes[..8] != MAGIC || number(40)? != checksum(&bytes[..40]) {
            return None;
        }
        Some(Self {
            engine: bytes[8..16].try_into().ok()?,
            turn: number(16)?,
            baseline: number(24)?,
            high_water: number(32)?,
        })
    }
}

/// FNV-1a, 64 bits: against torn writes, not against people.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The open file.
pub(super) struct HighWater {
    file: File,
    mark: Mark,
}

impl HighWater {
    /// Creates the file under `draft`, makes it durable and gives it its name: it is there whole or not at all.
    pub(super) fn create(path: &Path, draft: &Path, mark: Mark) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(draft)?;
        for offset in SLOT_OFFSETS {
            file.write_all_at(&mark.encode(), offset)?;
        }
        file.sync_all()?;
        std::fs::rename(draft, path)?;
        Ok(Self { file, mark })
    }

    /// Reads the file.
    pub(super) fn open(path: &Path, engine: &str) -> Result<Self, StoreError> {
        let io = |error| StoreError::Engine(Box::new(error));
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let mut newest: Option<Mark> = None;
        for offset in SLOT_OFFSETS {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(io(error)),
            }
            newest = newest.into_iter().chain(Mark::decode(&bytes)).max_by_key(|mark| mark.turn);
        }
        let path = path.display();
        let Some(mark) = newest else {
            return Err(StoreError::Damaged(format!(
                "{path} cannot be read; restore the folder from a backup, or delete this file to go on with what is left"
            )));
        };
        if mark.engine != Mark::new(engine).engine {
            let theirs = String::from_utf8_lossy(&mark.engine).trim_end_matches('\0').to_owned();
            return Err(StoreError::Config(format!(
                "{path} belongs to the engine {theirs}, not to {engine}: choose that engine, or another folder"
            )));
        }
        Ok(Self { file, mark })
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Raises the mark and makes it durable.
    pub(super) fn raise(&mut self, sequence: u64) -> io::Result<()> {
        let mark = Mark { turn: self.mark.turn + 1, high_water: self.mark.high_water.max(sequence), ..self.mark };
        let slot = SLOT_OFFSETS[usize::from(mark.turn % 2 == 1)];
        self.file.write_all_at(&mark.encode(), slot)?;
        self.file.sync_data()?;
        self.mark = mark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_copy_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mut file = HighWater::create(&path, &folder.path().join("draft"), Mark::new("fjall")).unwrap();
        file.raise(7).unwrap();
        file.raise(9).unwrap();
        assert_eq!(HighWater::open(&path, "fjall").unwrap().mark().high_water, 9);
        // The copy with 9 is torn: the one with 7 is left.
        let slot = SLOT_OFFSETS[usize::from(file.mark().turn % 2 == 1)];
        file.file.write_all_at(b"torn", slot).unwrap();
        assert_eq!(HighWater::open(&path, "fjall").unwrap().mark().high_water, 7);
        for offset in SLOT_OFFSETS {
            file.file.write_all_at(b"torn", offset).unwrap();
        }
        assert!(matches!(HighWater::open(&path, "fjall"), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mark = Mark { turn: 3, baseline: 5, high_water: 1 << 40, ..Mark::new("redb") };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        for bit in 0..SLOT_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn another_engines_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        HighWater::create(&path, &folder.path().join("draft"), Mark::new("redb")).unwrap();
        let Err(StoreError::Config(message)) = HighWater::open(&path, "fjall") else { panic!("opened") };
        assert!(message.contains("belongs to the engine redb"), "{message}");
    }
}
