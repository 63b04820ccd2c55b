//! Datagrams to several clients with one system call (`sendmmsg`). Neither `quinn-udp` nor another safe crate has it with what belongs to
//! each datagram of QUIC: its ECN mark and the address that it comes from.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use millrace_quic::Outgoing;
use nix::libc::{self, c_int, iovec, mmsghdr};
use socket2::SockAddr;

use super::BATCH;

/// Room for two control messages: the mark (24 bytes) and the address (32 of IPv4, 40 of IPv6).
const CONTROL_BYTES: usize = 64;

/// Control messages of one datagram, as `CMSG_NXTHDR` would lay them out.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

impl Control {
    const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES], len: 0 };

    /// `data` is 20 bytes at most.
    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let bytes = &mut self.bytes[self.len..];
        bytes[..HEADER - 8].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        bytes[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        bytes[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        bytes[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len += (HEADER + data.len()).next_multiple_of(align_of::<usize>());
    }
}

/// What says how a datagram goes; `None` if it cannot go with others: a train that is to be cut, or addresses of both kinds at once.
fn control(transmit: &Outgoing) -> Option<Control> {
    if transmit.segment_size.is_some_and(|size| size < transmit.size) {
        return None;
    }
    let mark = transmit.ecn.map_or(0, |ecn| ecn as c_int).to_ne_bytes();
    let mut control = Control::EMPTY;
    match (transmit.destination.ip(), transmit.src_ip) {
        (IpAddr::V4(_), from @ (None | Some(IpAddr::V4(_)))) => {
            control.push(libc::IPPROTO_IP, libc::IP_TOS, &mark);
            if let Some(IpAddr::V4(from)) = from {
                // `in_pktinfo`: interface (any), the address of ours, and one that only matters for what comes.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
        }
        (IpAddr::V6(to), from @ (None | Some(IpAddr::V6(_)))) if to.to_ipv4_mapped().is_none() => {
            control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &mark);
            if let Some(IpAddr::V6(from)) = from {
                // `in6_pktinfo`: the address of ours, interface (any).
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
        _ => return None,
    }
    Some(control)
}

/// Sends the datagrams at the beginning that can go together, [`BATCH`] at most, without waiting for room; how many the system took. 0 also if
/// there are not two of them.
///
/// # Errors
/// About the first one: others are sent all the same, when this is asked again without it.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a Outgoing, &'a [u8])>,
) -> io::Result<usize> {
    let mut names: [MaybeUninit<SockAddr>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
    let mut pieces = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let mut controls = [const { Control::EMPTY }; BATCH];
    let mut count = 0;
    for (transmit, bytes) in datagrams.take(BATCH) {
        let Some(control) = control(transmit) else { break };
        names[count].write(SockAddr::from(transmit.destination));
        // The kernel only reads what is sent.
        pieces[count] = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        controls[count] = control;
        count += 1;
    }
    if count < 2 {
        return Ok(0);
    }
    #[expect(unsafe_code, reason = "no safe crate sends several datagrams with control messages in one call")]
    // SAFETY: a message header of zeros is one without anything. Names are written up to `count`, and are plain bytes that need no drop;
    // they, the pieces and the control messages are in arrays of this function, and the bytes that pieces point to are borrowed for `'a`:
    // all outlive the call, which only reads them and writes the lengths in `headers`.
    let sent = unsafe {
        let mut headers: [mmsghdr; BATCH] = MaybeUninit::zeroed().assume_init();
        for place in 0..count {
            let (header, name) = (&mut headers[place].msg_hdr, names[place].assume_init_ref());
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = &raw mut pieces[place];
            header.msg_iovlen = 1;
            header.msg_control = controls[place].bytes.as_mut_ptr().cast();
            header.msg_controllen = controls[place].len;
        }
        let count = u32::try_from(count).unwrap_or_default();
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Whether the system takes no such call, or not these control messages. Not what a firewall says of one destination.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP))
}
