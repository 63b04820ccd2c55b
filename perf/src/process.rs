//! What the kernel's books say of a subject's processes: CPU time, memory.

use std::collections::{BTreeSet, HashMap};
use std::process::{Child, ChildStdout, Command};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// Processes that were started and have not been ended.
static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends everything that was started: for an end of this program that drops nothing.
pub(crate) fn end_all() {
    let started = std::mem::take(&mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner));
    started.into_iter().for_each(kill);
}

/// A process that ends, with all its children, with this value.
pub(crate) struct Owned(Child);

impl Owned {
    /// Starts a process in a group of its own: Ctrl-C at the terminal is for this program, which ends it in its time.
    ///
    /// # Errors
    /// From the operating system; the error names the program.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
        STARTED.lock().unwrap_or_else(PoisonError::into_inner).insert(child.id());
        Ok(Self(child))
    }

    /// Its standard output, if it was started with a pipe for it and nobody has taken it yet.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.0.stdout.take().context("standard output is piped")
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait().context("ask for a process")?.is_some())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        kill(self.0.id());
        STARTED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0.id());
        let _ = self.0.wait();
    }
}

/// It may have died by itself; the run has said so then. Parents first: some would start their children again.
fn kill(root: u32) {
    for process in tree(root) {
        if let Some(process) = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

/// CPU time of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// In all, from the scheduler, to the nanosecond.
    pub(crate) total: Duration,
    /// What of it was spent outside the kernel, by the clock tick.
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// User time as a share of all, 0 to 1.
    pub(crate) fn user_share(self) -> f64 {
        let sum = self.user.as_secs_f64() + self.system.as_secs_f64();
        if sum > 0.0 { self.user.as_secs_f64() / sum } else { 0.0 }
    }
}

/// CPU time so far of these processes.
///
/// # Errors
/// When one of them is gone.
pub(crate) fn cpu(processes: &[u32]) -> Result<Cpu> {
    let mut sum = Cpu::default();
    for &process in processes {
        let one = cpu_of(process).with_context(|| format!("process {process} of the subject is gone"))?;
        sum.total += one.total;
        sum.user += one.user;
        sum.system += one.system;
    }
    Ok(sum)
}

fn cpu_of(process: u32) -> Option<Cpu> {
    let mut total_ns = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total_ns += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
    }
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(|field| field.parse::<u64>().unwrap_or_default());
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let mut time = || Duration::from_micros(ticks.next().unwrap_or_default() * 1_000_000 / per_second);
    let (user, system) = (time(), time());
    Some(Cpu { total: Duration::from_nanos(total_ns), user, system })
}

/// Private memory of these processes in bytes: what they alone cost.
///
/// # Errors
/// When one of them is gone or another user's.
pub(crate) fn private_bytes(processes: &[u32]) -> Result<u64> {
    let mut kib = 0;
    for process in processes {
        let path = format!("/proc/{process}/smaps_rollup");
        let rollup = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        kib += rollup
            .lines()
            .filter(|line| line.starts_with("Private_Dirty:") || line.starts_with("Private_Clean:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(kib * 1024)
}

/// The kernel's own memory for sockets and the like, of the whole machine, in bytes.
pub(crate) fn kernel_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or_default()
    };
    (kib("Slab:") + kib("KernelStack:") + kib("PageTables:")) * 1024
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A process and all that came of it, parents first. Reads the whole process table: not while something is measured.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(process);
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children.remove(process).unwrap_or_default());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_process_ends_with_its_children() {
        let script = "tail -f /dev/null & echo $!; wait";
        let mut command = Command::new("sh");
        let mut owned =
            Owned::start(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped())).expect("start");
        let mut output = BufReader::new(owned.stdout().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the child's number");
        let grandchild: u32 = line.trim().parse().expect("a number");
        let processes = tree(owned.id());
        assert!(processes.contains(&grandchild), "{processes:?}");
        assert!(cpu(&processes).expect("they run").total > Duration::ZERO);
        assert!(private_bytes(&processes).expect("they run") > 0);
        drop(owned);
        // Both held the other end of it.
        assert_eq!(output.read_to_string(&mut line).expect("the end"), 0);
        cpu(&processes).expect_err("they are gone");
    }
}
