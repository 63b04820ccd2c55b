//! What the machine gives this process: descriptors, processors, and what it has used of them so far.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Raises the soft limit of open descriptors to the hard one and returns it. `None` means there is no limit.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open descriptors stays where it is");
            limit.current
        }
    }
}

/// Processors this process may run on, ascending.
pub(crate) fn processors() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(allowed) => (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor)).collect(),
        // More processors than the mask has bits: count them, and pin nothing.
        Err(_) => Vec::new(),
    }
}

/// How many processors' worth of time this process may use: fewer than [`processors`] under a quota of a control group.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins the calling thread to one processor.
///
/// # Errors
/// From the operating system, if the processor is not there or not allowed.
pub(crate) fn pin_to(processor: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    Ok(sched_setaffinity(None, &only)?)
}

/// What this process has used, from `/proc/self`; zero where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all threads, seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, bytes.
    pub(crate) resident_bytes: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    /// Datagrams that the system dropped for lack of room in the sockets for QUIC.
    pub(crate) udp_drops: u64,
}

impl Usage {
    /// Reads it. Costs three small files and a directory: for a scrape, not for a turn.
    pub(crate) fn now(udp_port: Option<u16>) -> Self {
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
        let udp_drops = udp_port.map_or(0, |port| tables.iter().map(|table| udp_drops(table, port)).sum());
        Self { descriptors, udp_drops, ..Self::brief() }
    }

    /// Without the descriptors, which take long to count where there are many.
    pub(crate) fn brief() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&read("/proc/self/stat")).unwrap_or_default(),
            resident_bytes: resident_bytes(&read("/proc/self/statm")).unwrap_or_default(),
            descriptors: 0,
            udp_drops: 0,
        }
    }
}

/// User and system time of the calling thread, µs.
pub(crate) fn thread_cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}

/// Source: proc_pid_stat(5), fields 14 and 15.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the command in parentheses and may hold anything, so count from its end.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// Datagrams that the system dropped because a socket of this port had no room for them.
///
/// Source: the kernel's `udp4_format_sock`: the local address in hexadecimal is the second field, drops are the last.
fn udp_drops(table: &str, port: u16) -> u64 {
    let suffix = format!(":{port:04X}");
    let of_port =
        table.lines().filter(|line| line.split_ascii_whitespace().nth(1).is_some_and(|at| at.ends_with(&suffix)));
    of_port.filter_map(|line| line.split_ascii_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// Source: proc_pid_statm(5), field 2.
fn resident_bytes(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let stat = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), Some(400.0 / ticks));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(resident_bytes("100 3 2 1"), Some(3 * rustix::param::page_size() as u64));
        assert_eq!(resident_bytes("100"), None);
        let table = "  sl  local_address rem_address   st drops\n \
                     7: 0100007F:1D13 00000000:0000 07 0 2 00 0 0 0 1 2 0 5\n \
                     8: 0100007F:1D13 00000000:0000 07 0 2 00 0 0 0 1 2 0 6\n \
                     9: 0100007F:1D14 00000000:0000 07 0 2 00 0 0 0 1 2 0 9\n";
        assert_eq!((udp_drops(table, 0x1D13), udp_drops(table, 0x1D15), udp_drops("", 1)), (11, 0, 0));
        let usage = Usage::now(None);
        assert!(usage.resident_bytes > 0 && usage.descriptors > 2, "{usage:?}");
        let before = thread_cpu_us();
        while thread_cpu_us() == before {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_thread_can_be_pinned_to_a_processor_it_may_use() {
        std::thread::spawn(|| {
            let last = *processors().last().expect("at least one processor");
            pin_to(last).expect("an allowed processor");
            assert_eq!(processors(), [last]);
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn a_quota_takes_away_and_never_adds() {
        assert!((1..=processors().len()).contains(&parallelism()));
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(limit, getrlimit(Resource::Nofile).current);
    }
}
