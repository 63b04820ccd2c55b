//! The priority of this thread.

use std::io;

/// From now on this thread runs on its core whenever it wants to, before every thread of the usual kind.
///
/// # Errors
/// When this process may not ask for that.
pub(crate) fn before_all_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live local, which the call reads and does not keep; 0 is this thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
