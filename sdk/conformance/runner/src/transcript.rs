//! What was said between runner and driver, in order, and how to wait for more of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ledger::Ledger;

/// One line.
#[derive(Debug, Clone)]
pub enum Entry {
    /// The runner told the driver.
    Command(Value),
    /// The driver told the runner.
    Event(Value),
    /// The runner did something else.
    Note(String),
}

/// All lines, and what they come to.
#[derive(Debug, Default)]
pub struct Transcript {
    /// In the order in which the runner wrote and read them.
    pub entries: Vec<Entry>,
    /// When each came, from the first on.
    pub times: Vec<Duration>,
    begun: Option<Instant>,
    /// Kept up to date with them.
    pub ledger: Ledger,
    /// Why the driver says no more, once it does not.
    pub end: Option<String>,
}

/// A transcript that one thread reads into and another waits on.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<(Mutex<Transcript>, Condvar)>);

impl Shared {
    /// The transcript so far.
    pub fn lock(&self) -> MutexGuard<'_, Transcript> {
        self.0.0.lock().expect("no holder panics")
    }

    /// Adds a line.
    pub fn push(&self, entry: Entry) {
        let mut transcript = self.lock();
        let index = transcript.entries.len();
        transcript.ledger.take(index, &entry);
        transcript.entries.push(entry);
        let elapsed = transcript.begun.get_or_insert_with(Instant::now).elapsed();
        transcript.times.push(elapsed);
        self.0.1.notify_all();
    }

    /// Nothing follows.
    pub fn end(&self, why: &str) {
        self.lock().end.get_or_insert_with(|| why.to_owned());
        self.0.1.notify_all();
    }

    /// Waits until `look` finds something. `Err` holds what is lacking: the time is over, or the driver says no more.
    ///
    /// # Errors
    /// As above.
    pub fn wait<T>(&self, deadline: Instant, mut look: impl FnMut(&mut Transcript) -> Option<T>) -> Result<T, String> {
        let mut transcript = self.lock();
        loop {
            if let Some(found) = look(&mut transcript) {
                return Ok(found);
            }
            if let Some(end) = &transcript.end {
                return Err(end.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("it did not come in time".into());
            }
            transcript = self.0.1.wait_timeout(transcript, left).expect("no holder panics").0;
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, text) = match self {
            Self::Command(command) => ("->", command.to_string()),
            Self::Event(event) => ("<-", event.to_string()),
            Self::Note(note) => ("--", note.clone()),
        };
        // Bodies can be large, and the fault is seldom at their end.
        let end = text.floor_char_boundary(300);
        write!(f, "{sign} {}{}", &text[..end], if end < text.len() { "…" } else { "" })
    }
}
