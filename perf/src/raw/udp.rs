//! Segmentation offload of UDP: one system call for many datagrams, on either side.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// From now on, what is sent in one piece leaves as datagrams of `bytes` each.
///
/// # Errors
/// When the kernel is older than 4.18.
pub(crate) fn segment(socket: impl AsFd, bytes: u16) -> io::Result<()> {
    set(socket, libc::UDP_SEGMENT, bytes.into())
}

/// From now on, datagrams that arrived together are received together.
///
/// # Errors
/// When the kernel is older than 5.0.
pub(crate) fn receive_together(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::UDP_GRO, 1)
}

fn set(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed and thus open, and the option's value is a live `c_int` of the length that is given.
    let outcome = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_UDP, option, (&raw const value).cast(), length)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
