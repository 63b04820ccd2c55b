//! Waking a thread that sleeps on another core: what it costs the one who wakes it, and when it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{Place, ROUNDS, Rounds, WAKE_COST, WAKE_DELAY};
use crate::report::median;
use crate::workload::count_f64;

const WAKES: usize = 100;
/// After this without work, a core is asleep.
const ASLEEP_AFTER: Duration = Duration::from_micros(100);
const PATIENCE: Duration = Duration::from_secs(10);

/// The sleeper's side: an epoll set with an eventfd in it, as a shard sleeps.
struct Sleeper {
    began: Instant,
    /// When it last woke up, in nanoseconds since `began`; 0 means that it has not since it was last asked.
    woken_ns: AtomicU64,
    is_over: AtomicBool,
}

/// The middle of each round's wakes.
pub(super) fn wake(place: Place<'_>) -> Result<Rounds> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll set")?;
    epoll::add(&set, &event, EventData::new_u64(0), EventFlags::IN).context("wait for the eventfd")?;
    let sleeper = Sleeper { began: Instant::now(), woken_ns: AtomicU64::new(0), is_over: AtomicBool::new(false) };
    let write = || rustix::io::write(&event, &1_u64.to_ne_bytes()).context("write to the eventfd");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            place.load.pin()?;
            let mut ready = Vec::with_capacity(1);
            while !sleeper.is_over.load(Ordering::Acquire) {
                ready.clear();
                match epoll::wait(&set, rustix::buffer::spare_capacity(&mut ready), None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error).context("wait"),
                }
                let now_ns = since(sleeper.began);
                rustix::io::read(&event, &mut [0; 8]).context("read the eventfd")?;
                sleeper.woken_ns.store(now_ns, Ordering::Release);
            }
            Ok(())
        });
        let rounds = (0..ROUNDS).map(|_| round(&sleeper, &write)).collect::<Result<Vec<_>>>();
        sleeper.is_over.store(true, Ordering::Release);
        write()?;
        thread.join().unwrap_or_else(|_| anyhow::bail!("the sleeper panicked"))?;
        let (costs, delays) = rounds?.into_iter().unzip();
        Ok(vec![(WAKE_COST, "µs", costs), (WAKE_DELAY, "µs", delays)])
    })
}

fn round(sleeper: &Sleeper, write: &impl Fn() -> Result<usize>) -> Result<(f64, f64)> {
    let (mut costs, mut delays) = (Vec::with_capacity(WAKES), Vec::with_capacity(WAKES));
    for _ in 0..WAKES {
        let resting = Instant::now();
        while resting.elapsed() < ASLEEP_AFTER {
            std::thread::yield_now();
        }
        sleeper.woken_ns.store(0, Ordering::Release);
        let before_ns = since(sleeper.began);
        write()?;
        costs.push(us(since(sleeper.began) - before_ns));
        let woken_ns = loop {
            match sleeper.woken_ns.load(Ordering::Acquire) {
                0 => {}
                woken_ns => break woken_ns,
            }
            anyhow::ensure!(resting.elapsed() < PATIENCE, "the sleeper does not wake up");
            std::thread::yield_now();
        };
        delays.push(us(woken_ns.saturating_sub(before_ns)));
    }
    Ok((median(&costs), median(&delays)))
}

/// Nanoseconds since `began`, at least 1.
fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn us(ns: u64) -> f64 {
    count_f64(ns) / 1e3
}
