//! Progress of long work on standard error: nothing in the first second, nothing when nobody watches.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const FIRST_AFTER: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(200);

/// One line that is written over itself.
pub(crate) struct Progress {
    begun: Instant,
    shown: Option<Instant>,
    watched: bool,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), shown: None, watched: std::io::stderr().is_terminal() }
    }

    /// Shows `count` of `what` so far, if it is time to.
    pub(crate) fn show(&mut self, count: u64, what: &str) {
        let now = Instant::now();
        let due = self.shown.map_or(self.begun + FIRST_AFTER, |last| last + EVERY);
        if !self.watched || now < due {
            return;
        }
        self.shown = Some(now);
        let seconds = now.duration_since(self.begun).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let rate = count as f64 / seconds;
        eprint!("\r\x1b[K{count} {what}, {rate:.0}/s");
        // A terminal that cannot be written to has nobody to tell.
        let _ = std::io::stderr().flush();
    }

    /// Clears the line and tells how long it took.
    pub(crate) fn end(&self) -> Duration {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
        self.begun.elapsed()
    }
}
