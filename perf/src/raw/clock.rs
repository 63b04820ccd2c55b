//! The CPU clock of another process.

use std::io;
use std::time::Duration;

/// CPU time of all threads that a process has or had, from the scheduler, to the nanosecond. Children are not in it.
///
/// # Errors
/// When there is no such process.
pub(crate) fn process_cpu(process: u32) -> io::Result<Duration> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live local, which the call writes to and does not keep.
    let outcome = unsafe { libc::clock_getcpuclockid(process, &raw mut clock) };
    if outcome != 0 {
        return Err(io::Error::from_raw_os_error(outcome));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Ok(Duration::new(seconds.map_err(io::Error::other)?, nanos.map_err(io::Error::other)?))
}
