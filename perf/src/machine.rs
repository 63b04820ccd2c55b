//! The machine: which cores run what, and what a report says of it.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// A set of cores, as `0`, `0,2` or `1-3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores(Vec<usize>);

impl FromStr for Cores {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<usize>().with_context(|| format!("{text:?} is no core"));
            let (first, last) = (number(first)?, number(last)?);
            ensure!(
                first <= last && last < CpuSet::MAX_CPU,
                "cores {part:?}: from low to high, below {}",
                CpuSet::MAX_CPU
            );
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl Cores {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|core| other.0.contains(core))
    }

    /// The first core for what is measured and the next for the load; one for both where there is no other.
    pub(crate) fn sensible() -> Result<(Self, Self)> {
        let allowed = sched_getaffinity(None).context("ask which cores may be used")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
        let first = *cores.first().context("no core may be used")?;
        Ok((Self(vec![first]), Self(vec![*cores.get(1).unwrap_or(&first)])))
    }

    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        for &core in &self.0 {
            set.set(core);
        }
        set
    }

    /// Keeps this thread, and what it starts from now on, on these cores.
    ///
    /// # Errors
    /// When the machine has none of them.
    pub(crate) fn pin(&self) -> Result<()> {
        sched_setaffinity(None, &self.set()).with_context(|| format!("run on core {self}"))
    }

    /// Runs `start` on these cores: processes that it starts stay there. This thread comes back.
    ///
    /// # Errors
    /// When the machine has none of them, and from `start`.
    pub(crate) fn while_pinned<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = sched_getaffinity(None).context("ask which cores may be used")?;
        self.pin()?;
        let started = start();
        sched_setaffinity(None, &before).context("go back to the cores of before")?;
        started
    }
}

/// What figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(separator))
                .map_or_else(|| "unknown".to_owned(), |value| value.trim().trim_matches('"').to_owned())
        };
        let cpus = read("/proc/cpuinfo");
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal", ':');
        Self {
            processor: field(&cpus, "model name", ':'),
            // Not what this thread may use: it is pinned to the load's cores.
            cores: cpus.lines().filter(|line| line.starts_with("processor")).count().max(1),
            memory_bytes: memory_kib.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
                * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_people_write_them() {
        for (text, cores) in [("0", "0"), ("2,0", "0,2"), ("1-3", "1,2,3"), ("0,0-1", "0,1")] {
            assert_eq!(text.parse::<Cores>().expect(text).to_string(), cores);
        }
        for text in ["", "a", "3-1", "-1", "1,", "99999"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pinned_thread_sees_the_whole_machine() {
        let free = Machine::this();
        let allowed = std::thread::available_parallelism().expect("cores").get();
        assert!(free.cores >= allowed, "{} of {allowed}", free.cores);
        let (one, _) = Cores::sensible().expect("a core");
        let pinned = std::thread::spawn(move || one.while_pinned(|| Ok(Machine::this()))).join().expect("a thread");
        assert_eq!(pinned.expect("the machine"), free);
    }

    #[test]
    fn what_is_started_while_pinned_stays_and_this_thread_comes_back() {
        let before = sched_getaffinity(None).expect("affinity");
        let (one, _) = Cores::sensible().expect("a core");
        let output = one
            .while_pinned(|| Ok(std::process::Command::new("cat").arg("/proc/self/status").output()?))
            .expect("run cat");
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(status.contains(&format!("Cpus_allowed_list:\t{one}\n")), "{status}");
        assert_eq!(sched_getaffinity(None).expect("affinity"), before);
    }
}
