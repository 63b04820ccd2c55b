//! What is done to frames on their way to a client, and which came by.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use anyhow::{Result, bail};

use super::Unit;
use crate::scenario::How;

/// Of one client, over all of its connections.
#[derive(Default)]
pub(super) struct Traffic {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tampers: Vec<(String, How)>,
    /// Frames that came by, by name.
    counts: BTreeMap<&'static str, usize>,
}

impl Traffic {
    /// What becomes of the next message with this text.
    pub(super) fn tamper(&self, text: &str, how: How) {
        self.lock().tampers.push((text.to_owned(), how));
    }

    /// What of these frames goes on, and in which order. `swapped` is a message of the same stream that waits for the next one.
    pub(super) fn pass(&self, units: Vec<Unit>, swapped: &mut Option<Vec<u8>>) -> Vec<u8> {
        let mut state = self.lock();
        let mut bytes = Vec::new();
        for unit in units {
            *state.counts.entry(unit.name).or_default() += 1;
            let tampered = unit.text.as_ref().and_then(|text| state.tampers.iter().position(|(of, _)| of == text));
            match tampered.map(|index| state.tampers.remove(index).1) {
                Some(How::Drop) => {}
                Some(How::Double) => {
                    bytes.extend_from_slice(&unit.bytes);
                    bytes.extend_from_slice(&unit.bytes);
                }
                Some(How::Swap) => *swapped = Some(unit.bytes),
                None => {
                    bytes.extend_from_slice(&unit.bytes);
                    if unit.text.is_some() {
                        bytes.extend(swapped.take().into_iter().flatten());
                    }
                }
            }
        }
        self.changed.notify_all();
        bytes
    }

    /// Waits until so many frames of this name came by.
    pub(super) fn until_seen(&self, name: &str, count: usize, deadline: Instant) -> Result<()> {
        let mut state = self.lock();
        loop {
            let seen = state.counts.get(name).copied().unwrap_or(0);
            if seen >= count {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{seen} of {count} {name} frames came by in time");
            }
            state = self.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}
