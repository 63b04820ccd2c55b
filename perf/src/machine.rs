//! The machine: which cores run what, and what a report says of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::subject::Missing;

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

    /// All that this thread may use.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) fn allowed() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("ask which cores may be used")?;
        Ok(Self((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()))
    }

    /// The first core for what is measured and the next for the load; one for both where there is no other.
    pub(crate) fn sensible() -> Result<(Self, Self)> {
        let Self(cores) = Self::allowed()?;
        let first = *cores.first().context("no core may be used")?;
        Ok((Self(vec![first]), Self(vec![*cores.get(1).unwrap_or(&first)])))
    }

    /// # Errors
    /// Names the first of these cores that is not among the others.
    fn check_within(&self, allowed: &Self, what: &str) -> Result<()> {
        let strange = self.0.iter().find(|core| !allowed.0.contains(core));
        ensure!(
            strange.is_none(),
            "{what}: core {} is not among those that may be used, {allowed}",
            strange.unwrap_or(&0)
        );
        Ok(())
    }

    /// How long these cores had nothing to do so far, together. `None` where the system does not tell.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle_in(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn idle_in(&self, stat: &str) -> Option<Duration> {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let idle = |core: &usize| -> Option<Duration> {
            let mut fields =
                stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?.split_whitespace();
            // User, nice, system; then idle, and idle while something waits for a disk.
            let mut ticks = |skip| fields.nth(skip).and_then(|ticks| ticks.parse::<u64>().ok());
            let ticks = ticks(3)?.saturating_add(ticks(0)?);
            Some(Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second))
        };
        self.0.iter().map(idle).sum()
    }

    /// Each of them alone.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        self.0.iter().map(|&core| Self(vec![core]))
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

/// Who runs on which cores.
#[derive(Debug, Clone)]
pub(crate) struct Seats {
    pub(crate) subject: Cores,
    pub(crate) load: Cores,
    /// Where a subject with several shards may be: the subject's cores, and those that nobody was given.
    spare: Cores,
}

impl Seats {
    /// As they were asked for; otherwise the first core is the subject's and the second the load's. To be asked before this thread is
    /// bound to a core.
    ///
    /// # Errors
    /// When a core does not exist or may not be used.
    pub(crate) fn new(subject: Option<&Cores>, load: Option<&Cores>) -> Result<Self> {
        let allowed = Cores::allowed()?;
        for (cores, what) in [(subject, "--subject-cores"), (load, "--load-cores")] {
            cores.map_or(Ok(()), |cores| cores.check_within(&allowed, what))?;
        }
        let (first, second) = Cores::sensible()?;
        let load = load.cloned().unwrap_or(second);
        let spare = match subject {
            Some(subject) => subject.clone(),
            None => Cores(allowed.0.iter().copied().filter(|core| !load.0.contains(core)).collect()),
        };
        Ok(Self { subject: subject.cloned().unwrap_or(first), load, spare })
    }

    /// One core for each shard.
    ///
    /// # Errors
    /// When there are fewer.
    pub(crate) fn for_shards(&self, shards: u16) -> Result<Cores, Missing> {
        let needed = usize::from(shards);
        if needed > self.spare.count().max(self.subject.count()) {
            let mut all = [&self.subject.0[..], &self.load.0, &self.spare.0].concat();
            all.sort_unstable();
            all.dedup();
            return Err(Missing {
                why: format!(
                    "it needs {} cores, one for each shard and one for the load generator; here are {}",
                    needed + 1,
                    all.len()
                ),
                install: String::new(),
            });
        }
        Ok(Cores(if needed <= self.subject.count() { &self.subject.0 } else { &self.spare.0 }[..needed].to_vec()))
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
    fn cores_that_do_not_exist_are_refused() {
        let allowed = Cores::allowed().expect("cores");
        let none: Cores = (CpuSet::MAX_CPU - 1).to_string().parse().expect("a number of a core");
        assert!(!allowed.overlaps(&none), "no machine has so many");
        for (subject, load, what) in [
            (Some(&none), None, "--subject-cores"),
            (None, Some(&none), "--load-cores"),
            (Some(&none), Some(&none), "--subject-cores"),
        ] {
            let error = Seats::new(subject, load).expect_err("no such core").to_string();
            assert!(error.contains(what) && error.contains(&none.to_string()), "{error}");
        }
        Seats::new(Some(&allowed), Some(&allowed)).expect("all of them exist");
    }

    #[test]
    fn the_time_in_which_cores_were_idle_is_read() {
        let stat = "cpu  1 1 1 700 50 0 0 0 0 0\ncpu0 1 1 1 300 20 0 0 0 0 0\ncpu1 0 0 0 400 30 0 0 0 0 0\nintr 5\n";
        let per_second = rustix::param::clock_ticks_per_second();
        let idle = |cores: &str| cores.parse::<Cores>().expect(cores).idle_in(stat);
        let ticks = |count: u64| Some(Duration::from_micros(count * 1_000_000 / per_second));
        assert_eq!((idle("1"), idle("0,1"), idle("0,2")), (ticks(430), ticks(750), None));
        assert!(Cores::allowed().expect("cores").idle().is_some());
    }

    #[test]
    fn each_shard_has_a_core_or_the_report_says_how_many_are_missing() {
        let cores = |text: &str| text.parse::<Cores>().expect(text);
        let seats = Seats { subject: cores("0"), load: cores("1"), spare: cores("0,2,3") };
        assert_eq!(seats.for_shards(1), Ok(cores("0")));
        assert_eq!(seats.for_shards(3), Ok(cores("0,2,3")));
        let missing = seats.for_shards(4).expect_err("there are three");
        assert_eq!(missing.why, "it needs 5 cores, one for each shard and one for the load generator; here are 4");
        let two = Seats { subject: cores("0"), load: cores("1"), spare: cores("0") };
        assert!(two.for_shards(2).expect_err("there is one").why.contains("needs 3 cores"));
        // Where there is one core for both.
        let one = Seats { subject: cores("0"), load: cores("0"), spare: Cores(Vec::new()) };
        assert_eq!(one.for_shards(1), Ok(cores("0")));
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
