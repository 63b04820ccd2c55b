//! A brake on cores: a thread before all others takes a fixed share of each, and whoever runs there has the rest.
//!
//! Where the load generator needs more of its core for a delivery than the subject of its own, the subject's end is never seen. On a
//! braked core it is, with the load generator well below its limit. The share is taken in slices of about a millisecond, from all threads and
//! processes of a subject alike, so ratios between subjects on braked cores are ratios of what they do with as much of a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machine::Cores;
use crate::process::thread_cpu;
use crate::raw::priority;

/// How often it takes what it is owed.
const PERIOD: Duration = Duration::from_millis(1);

/// Brakes until it is dropped.
pub(crate) struct Brake {
    stop: Arc<AtomicBool>,
    pedals: Vec<Pedal>,
}

/// What holds one core.
struct Pedal {
    spent_ns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Brake {
    /// Leaves `percent` of each of these cores, 10 to 99.
    ///
    /// # Errors
    /// When this process may not have threads that run before all others, or a core does not exist.
    pub(crate) fn on(cores: &Cores, percent: u32) -> Result<Self> {
        let share = f64::from(100 - percent.clamp(10, 99)) / 100.0;
        let mut brake = Self { stop: Arc::default(), pedals: Vec::new() };
        for core in cores.each() {
            let (stop, spent_ns) = (Arc::clone(&brake.stop), Arc::<AtomicU64>::default());
            let (told, begun) = sync_channel(1);
            let spent = Arc::clone(&spent_ns);
            let thread = std::thread::Builder::new().name("brake".to_owned());
            let thread = thread.spawn(move || hold(&core, share, &stop, &spent, &told)).context("start a thread")?;
            brake.pedals.push(Pedal { spent_ns, thread: Some(thread) });
            begun.recv().context("a brake ended at once")??;
        }
        Ok(brake)
    }

    /// Time that it has taken so far, of all cores together; up to date to a few milliseconds.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.pedals.iter().map(|pedal| pedal.spent_ns.load(Ordering::Relaxed)).sum())
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.pedals.iter_mut().filter_map(|pedal| pedal.thread.take()) {
            // One that panicked brakes no more.
            let _ = thread.join();
        }
    }
}

fn hold(core: &Cores, share: f64, stop: &AtomicBool, spent_ns: &AtomicU64, told: &SyncSender<Result<()>>) {
    let begun = core.pin().and_then(|()| priority::before_all_others().context("run before all others"));
    let holds = begun.is_ok();
    if told.send(begun).is_err() || !holds {
        return;
    }
    let (began, mut taken) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        // A long system call of the subject's is not interrupted: what was missed meanwhile is taken after it, so that who makes long
        // calls has neither more of the core nor less.
        let owed = now.duration_since(began).mul_f64(share).saturating_sub(taken);
        while now.elapsed() < owed {
            std::hint::spin_loop();
        }
        taken += now.elapsed();
        spent_ns.store(u64::try_from(thread_cpu().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        std::thread::sleep(PERIOD.mul_f64(1.0 - share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_on_a_braked_core_has_the_rest_of_it() {
        let (core, _) = Cores::sensible().expect("a core");
        // Not everybody may ask for that; scenarios that need it say so then.
        let Ok(brake) = Brake::on(&core, 25).inspect_err(|error| eprintln!("no brake here: {error:#}")) else { return };
        let had = std::thread::spawn(move || {
            core.pin().expect("the core is there");
            let (began, before) = (Instant::now(), thread_cpu());
            while began.elapsed() < Duration::from_millis(200) {
                std::hint::spin_loop();
            }
            (thread_cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64()
        });
        let had = had.join().expect("it spins");
        // Others may be at work on that core, so there is no lower bound.
        assert!(had < 0.4, "{had} of the core");
        assert!(brake.spent() >= Duration::from_millis(80), "{:?}", brake.spent());
    }
}
