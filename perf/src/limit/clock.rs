//! CPU time of many of the same, and the smallest system call.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Place, ROUNDS, Rounds, SYSTEM_CALL};
use crate::process::thread_cpu;
use crate::workload::count_f64;

/// How long a round goes on.
pub(super) const ROUND: Duration = Duration::from_millis(30);

/// Nanoseconds of this thread's CPU time that `act` takes for each of `count`, one value per round. `settle` comes between two and is not
/// counted.
pub(super) fn cpu_ns(
    count: u64,
    mut act: impl FnMut() -> Result<()>,
    mut settle: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    // The first is of cold caches.
    act()?;
    settle()?;
    let round = |_| {
        let (began, mut spent, mut acts) = (Instant::now(), Duration::ZERO, 0);
        while began.elapsed() < ROUND {
            let before = thread_cpu();
            act()?;
            spent += thread_cpu() - before;
            acts += count;
            settle()?;
        }
        Ok(spent.as_secs_f64() * 1e9 / count_f64(acts))
    };
    (0..ROUNDS).map(round).collect()
}

/// A system call that does nothing.
pub(super) fn system_call(_: Place<'_>) -> Result<Rounds> {
    let calls = || {
        for _ in 0..1_000 {
            black_box(rustix::process::getppid());
        }
        Ok(())
    };
    Ok(vec![(SYSTEM_CALL, "ns", cpu_ns(1_000, calls, || Ok(()))?)])
}
