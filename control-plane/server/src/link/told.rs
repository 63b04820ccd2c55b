//! What strangers bring about is told once a minute: the log is not theirs to fill.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);

/// When a line was last written.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Option<Instant>>);

impl Told {
    /// Whether the line may be written now.
    pub(super) fn may(&self, now: Instant) -> bool {
        let Ok(mut last) = self.0.lock() else { return false };
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_strangers_is_one_line_a_minute() {
        let (told, now) = (Told::default(), Instant::now());
        let lines = (0..180_u64).filter(|&second| told.may(now + Duration::from_secs(second))).count();
        assert_eq!(lines, 3);
    }
}
