//! Sends to many sockets with one system call. Not a runtime: a batch is submitted and waited for, and nothing is under way between two.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use rustix::process::{Resource, getrlimit};

/// Sends of one system call, at most.
pub(crate) const BATCH: usize = 512;
/// Sockets that one ring knows, at most; the limit on open files where that is lower.
const SOCKETS_MAX: u64 = 65_536;

/// A ring for sends to the sockets that are put into it.
pub(crate) struct SendRing {
    ring: IoUring,
    /// Bytes that the kernel took of each send of the batch.
    taken: Vec<usize>,
}

impl SendRing {
    /// A ring for the thread that makes it.
    ///
    /// # Errors
    /// When the kernel is older than 6.1, or does not let this process have a ring.
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // One thread, completions only when it waits, and one bad request does not hold up the others.
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
        let ring = builder.build(u32::try_from(BATCH).unwrap_or(u32::MAX))?;
        let open_files_max = getrlimit(Resource::Nofile).current.unwrap_or(SOCKETS_MAX);
        let sockets = u32::try_from(SOCKETS_MAX.min(open_files_max)).unwrap_or(u32::MAX);
        // Registered, a socket's reference count need not be touched for each send.
        ring.submitter().register_files_sparse(sockets)?;
        Ok(Self { ring, taken: Vec::with_capacity(BATCH) })
    }

    /// Makes a socket known under this number. The ring keeps it open until it is [removed](Self::remove).
    ///
    /// # Errors
    /// When the number is beyond what the ring knows.
    pub(crate) fn put(&self, number: u32, socket: impl AsFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(number, &[socket.as_fd().as_raw_fd()]).map(drop)
    }

    /// Forgets the socket of this number.
    ///
    /// # Errors
    /// When the number is beyond what the ring knows.
    pub(crate) fn remove(&self, number: u32) -> io::Result<()> {
        self.ring.submitter().register_files_update(number, &[-1]).map(drop)
    }

    /// Sends each of these to the socket of its number, without waiting for room, and says how many bytes each took: 0 too when the socket
    /// is full or gone. A socket must not be in the batch twice: what follows a short send would be sent all the same.
    ///
    /// # Panics
    /// With more than [`BATCH`] of them.
    pub(crate) fn send(&mut self, batch: &[(u32, &[u8])]) -> &[usize] {
        assert!(batch.len() <= BATCH, "a batch of {}", batch.len());
        self.taken.clear();
        self.taken.resize(batch.len(), 0);
        let mut queue = self.ring.submission();
        for (place, (number, bytes)) in (0_u64..).zip(batch) {
            // A longer one is a short send.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(Fixed(*number), bytes.as_ptr(), length);
            let send = send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build().user_data(place);
            // SAFETY: `bytes` is borrowed for the whole call, which ends when all of the batch's sends are complete (or with the process).
            let pushed = unsafe { queue.push(&send) };
            pushed.expect("the queue has a place for each of a batch, and is empty between batches");
        }
        drop(queue);
        let mut complete = 0;
        while complete < batch.len() {
            match self.ring.submit_and_wait(batch.len() - complete) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    // Sends may be under way with buffers that the caller is about to use again: there is no way back.
                    eprintln!("io_uring: {error}");
                    std::process::abort();
                }
            }
            for completion in self.ring.completion() {
                complete += 1;
                let place = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let (Some(taken), Ok(bytes)) = (self.taken.get_mut(place), usize::try_from(completion.result())) {
                    *taken = bytes;
                }
            }
        }
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    /// No container is obliged to allow io_uring; then the subject is missing, which its own test says.
    fn ring() -> Option<SendRing> {
        SendRing::new().inspect_err(|error| eprintln!("no io_uring here: {error}")).ok()
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        (client, listener.accept().expect("accept").0)
    }

    #[test]
    fn each_socket_gets_its_own_bytes() {
        let Some(mut ring) = ring() else { return };
        let pairs = [pair(), pair(), pair()];
        for (number, (_, server)) in (0..).zip(&pairs) {
            ring.put(number, server).expect("known");
        }
        assert_eq!(ring.send(&[(0, b"a"), (2, b"ccc"), (1, b"bb")]), [1, 3, 2]);
        for ((client, _), bytes) in pairs.iter().zip([&b"a"[..], b"bb", b"ccc"]) {
            let mut found = [0; 8];
            let count = (&*client).read(&mut found).expect("read");
            assert_eq!(&found[..count], bytes);
        }
        ring.remove(1).expect("it was there");
        assert_eq!(ring.send(&[(1, b"gone"), (0, b"there")]), [0, 5], "one that is gone does not hold up the others");
    }

    #[test]
    fn a_full_socket_takes_a_part_and_then_nothing() {
        let Some(mut ring) = ring() else { return };
        let (mut client, server) = pair();
        ring.put(0, &server).expect("known");
        let bytes = vec![7; 64 << 20];
        let mut sent = 0;
        loop {
            let taken = ring.send(&[(0, &bytes)])[0];
            sent += taken;
            if taken == 0 {
                break;
            }
        }
        assert!(sent > 0 && sent < bytes.len(), "{sent}");
        drop((ring, server));
        let mut found = Vec::new();
        client.read_to_end(&mut found).expect("read");
        assert_eq!(found.len(), sent, "what it said it took is what arrives");
    }
}
