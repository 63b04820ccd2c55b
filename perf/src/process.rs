//! What the kernel's books say of a subject's processes: CPU time, memory.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::raw::clock;

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

    /// The first line that it prints, at most 64 KiB. What it prints afterwards has no reader.
    ///
    /// # Errors
    /// When it closes its output before, or says nothing for so long; what it has said is in the error.
    pub(crate) fn first_line(&mut self, patience: Duration) -> Result<String> {
        let output = self.stdout()?;
        let mut said = Vec::new();
        let whole = read_until(&output, Some(b'\n'), patience, &mut said)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(whole, "it has not said a whole line after {patience:?}, only {said:?}");
        Ok(said)
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

/// All that a program prints until it ends, at most 64 KiB.
///
/// # Errors
/// When it does not start, or goes on for longer; the error names it.
pub(crate) fn output_of(command: &mut Command, patience: Duration) -> Result<String> {
    let name = command.get_program().display().to_string();
    let mut owned = Owned::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (output, errors) = (owned.stdout()?, owned.0.stderr.take().context("standard error is piped")?);
    let (began, mut said) = (Instant::now(), Vec::new());
    for part in [output.as_fd(), errors.as_fd()] {
        let whole = read_until(part, None, patience.saturating_sub(began.elapsed()), &mut said)?;
        ensure!(whole, "{name} has not ended after {patience:?}");
    }
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// More than this is no answer to anything that is asked here.
const SAID_BYTES_MAX: usize = 64 << 10;

/// Reads until this byte has come, or the end. Whether it has within this time.
fn read_until(output: impl AsFd, end: Option<u8>, patience: Duration, said: &mut Vec<u8>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 4096];
    while !end.is_some_and(|end| said.contains(&end)) {
        ensure!(said.len() < SAID_BYTES_MAX, "it says more than {} KiB", SAID_BYTES_MAX >> 10);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: left.subsec_nanos().into() };
        let mut wait = [PollFd::new(&output, PollFlags::IN)];
        match rustix::event::poll(&mut wait, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).context("wait for a process"),
        }
        match rustix::io::read(&output, &mut buffer).context("listen to a process")? {
            0 => return Ok(true),
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(true)
}

/// It may have died by itself; the run has said so then. Parents first: some would start their children again.
fn kill(root: u32) {
    for process in tree(&[root]) {
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

    fn and(self, other: Self) -> Self {
        Self { total: self.total + other.total, user: self.user + other.user, system: self.system + other.system }
    }

    /// User time as a share of all, 0 to 1.
    pub(crate) fn user_share(self) -> f64 {
        let sum = self.user.as_secs_f64() + self.system.as_secs_f64();
        if sum > 0.0 { self.user.as_secs_f64() / sum } else { 0.0 }
    }
}

/// The processes of a subject: those that were named or started, and whatever comes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Family(Vec<u32>);

impl Family {
    /// These, and their children; of no process it is a subject that runs elsewhere.
    pub(crate) fn of(roots: Vec<u32>) -> Self {
        Self(roots)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who is there now. Reads the whole process table: not while something is measured.
    pub(crate) fn members(&self) -> Vec<u32> {
        let mut members: Vec<u32> = tree(&self.0);
        members.sort_unstable();
        members.dedup();
        members
    }

    /// What each of them has used so far.
    ///
    /// # Errors
    /// When one that was named or started is gone.
    pub(crate) fn books(&self) -> Result<Books> {
        self.books_after(&Books::default())
    }

    /// The same again, beginning with those that were known: looking for others takes a moment.
    ///
    /// # Errors
    /// As [`books`](Self::books).
    pub(crate) fn books_after(&self, earlier: &Books) -> Result<Books> {
        let mut books = Books::default();
        for &process in earlier.0.keys().chain(&self.0) {
            books.look(process);
        }
        for process in self.members() {
            if !books.0.contains_key(&process) {
                books.look(process);
            }
        }
        for process in &self.0 {
            ensure!(books.0.contains_key(process), "process {process} of the subject is gone");
        }
        Ok(books)
    }
}

/// CPU time so far, by process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books(HashMap<u32, Account>);

#[derive(Debug, Clone, Copy)]
struct Account {
    /// When the process began, in clock ticks: numbers are used again.
    began: u64,
    /// Of all its threads, those that have ended too.
    own: Cpu,
    /// Of its children that have ended and were waited for, and of theirs; by the clock tick.
    children: Cpu,
}

impl Books {
    fn look(&mut self, process: u32) {
        if let Some(account) = Account::of(process) {
            self.0.insert(process, account);
        }
    }

    /// CPU time between two readings: of threads and processes that were there, that came, and that have ended meanwhile.
    pub(crate) fn since(&self, earlier: &Self) -> Cpu {
        let before = |process, now: &Account| earlier.0.get(process).filter(|before| before.began == now.began);
        let (mut own, mut ended) = (Cpu::default(), Cpu::default());
        for (process, now) in &self.0 {
            let (was, had) = before(process, now).map(|before| (before.own, before.children)).unwrap_or_default();
            own = own.and(now.own.since(was));
            ended = ended.and(now.children.since(had));
        }
        // Who has ended is now in its parent's account, whole: what it had before does not count.
        for (process, before) in &earlier.0 {
            if self.0.get(process).is_none_or(|now| now.began != before.began) {
                ended = ended.since(before.own).since(before.children);
            }
        }
        own.and(ended)
    }
}

impl Account {
    fn of(process: u32) -> Option<Self> {
        let total = clock::process_cpu(process).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name, in parentheses, may hold spaces. After it: utime, stime, cutime and cstime are fields 14 to 17, the start is field 22.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<u64> =
            rest.split_whitespace().skip(11).map(|field| field.parse().unwrap_or_default()).take(9).collect();
        let &[user, system, children_user, children_system, _, _, _, _, began] = &fields[..] else { return None };
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let time = |ticks: u64| Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second);
        let own = Cpu { total, user: time(user), system: time(system) };
        let (user, system) = (time(children_user), time(children_system));
        Some(Self { began, own, children: Cpu { total: user + system, user, system } })
    }
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

/// What the scheduler did with this thread so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    /// It ran.
    pub(crate) ran: Duration,
    /// It could have run, but its core was somebody else's.
    pub(crate) waited: Duration,
}

impl Turns {
    /// Of this thread. Where the kernel keeps no such books it never waits.
    pub(crate) fn of_this_thread() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited_ns = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or_default();
        Self { ran: thread_cpu(), waited: Duration::from_nanos(waited_ns) }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { ran: self.ran.saturating_sub(earlier.ran), waited: self.waited.saturating_sub(earlier.waited) }
    }
}

/// Processes and all that came of them, parents first.
fn tree(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(process);
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children.remove(process).unwrap_or_default());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests;
