//! Many sends with one system call, for a turn in which many connections have one piece to write: an io_uring of the shard's own. Not
//! a runtime: a batch is submitted and waited for, nothing is under way between two, and no socket is waited for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use super::connection::SEND_FLAGS;

/// Sends of one system call, at most.
pub(super) const BATCH_MAX: usize = 512;
/// With fewer sends than this, a system call each costs as little.
pub(super) const BATCH_LEAST: usize = 4;

/// A ring for batches of sends.
pub(super) struct SendBatch {
    ring: IoUring,
    /// The batch, empty between two.
    sends: Vec<squeue::Entry>,
    /// What became of each send of the batch.
    results: Vec<Result<usize, Errno>>,
}

impl SendBatch {
    /// A ring for the thread that makes it.
    ///
    /// # Errors
    /// When the kernel is older than 6.1, or does not let this process have a ring.
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // One thread, completions only when it waits, and one bad request does not hold up the others.
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
        let ring = builder.build(u32::try_from(BATCH_MAX).unwrap_or(u32::MAX))?;
        Ok(Self { ring, sends: Vec::with_capacity(BATCH_MAX), results: Vec::with_capacity(BATCH_MAX) })
    }

    /// Sends each of these, at most [`BATCH_MAX`], without waiting for room; gives the bytes that each took, in order. A socket must not
    /// be in the batch twice: what follows a short send would be sent all the same.
    pub(super) fn send<'a>(
        &mut self,
        batch: impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])>,
    ) -> &[Result<usize, Errno>] {
        self.results.clear();
        // Whole before any of it is in the queue: of an iterator that panics nothing stays there.
        self.sends.clear();
        let flags = i32::try_from(SEND_FLAGS.bits()).unwrap_or_default();
        for (place, (socket, bytes)) in (0..).zip(batch.take(BATCH_MAX)) {
            // A longer one is a short send.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), length).flags(flags).build();
            self.sends.push(send.user_data(place));
        }
        self.results.resize(self.sends.len(), Err(Errno::AGAIN));
        let mut queue = self.ring.submission();
        #[expect(unsafe_code, reason = "no safe crate offers a batch of sends")]
        // SAFETY: sockets and bytes are borrowed for the whole call, which ends when all of the batch's sends are complete (or with
        // the process).
        let pushed = unsafe { queue.push_multiple(&self.sends) };
        pushed.expect("the queue has a place for each of a batch, and is empty between batches");
        drop(queue);
        let mut complete = 0;
        while complete < self.results.len() {
            match self.ring.submit_and_wait(self.results.len() - complete) {
                Ok(_) => {}
                // No memory for it just now, or results to be taken first.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) => {
                    tracing::error!(%error, "io_uring broke down, the process ends");
                    // Sends may be under way with buffers that are about to be used again: there is no way back.
                    std::process::abort();
                }
            }
            for completion in self.ring.completion() {
                complete += 1;
                let place = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(result) = self.results.get_mut(place) {
                    *result = usize::try_from(completion.result())
                        .map_err(|_| Errno::from_raw_os_error(completion.result().saturating_neg()));
                }
            }
        }
        &self.results
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    /// No container is obliged to allow io_uring; then shards send one by one.
    fn ring() -> Option<SendBatch> {
        SendBatch::new().inspect_err(|error| eprintln!("no io_uring here: {error}")).ok()
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        (client, listener.accept().expect("accept").0)
    }

    #[test]
    fn each_socket_gets_its_own_bytes_and_one_that_broke_holds_up_nobody() {
        let Some(mut ring) = ring() else { return };
        let pairs = [pair(), pair(), pair()];
        pairs[1].1.shutdown(std::net::Shutdown::Write).expect("shut");
        let pieces = [&b"a"[..], b"bb", b"ccc"];
        let batch = pairs.iter().zip(pieces).map(|((_, server), piece)| (server.as_fd(), piece));
        assert_eq!(ring.send(batch), [Ok(1), Err(Errno::PIPE), Ok(3)]);
        for place in [0, 2] {
            let mut found = [0; 8];
            let count = (&pairs[place].0).read(&mut found).expect("read");
            assert_eq!(&found[..count], pieces[place]);
        }
        assert_eq!(ring.send(std::iter::empty()), []);
    }

    /// Of a batch that was never whole nothing is sent, now or with the next one.
    #[test]
    fn an_iterator_that_panics_leaves_nothing_behind() {
        let Some(mut ring) = ring() else { return };
        let (first, second) = (pair(), pair());
        let pieces = [Some((first.1.as_fd(), &b"a"[..])), None];
        let batch = pieces.into_iter().map(|piece| piece.expect("a bug"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.send(batch).len()));
        assert!(panicked.is_err());
        assert_eq!(ring.send(std::iter::once((second.1.as_fd(), &b"bb"[..]))), [Ok(2)]);
        drop((ring, first.1, second.1));
        let read = |mut client: TcpStream| {
            let mut found = Vec::new();
            client.read_to_end(&mut found).map(|_| found)
        };
        assert_eq!(read(first.0).expect("read"), b"");
        assert_eq!(read(second.0).expect("read"), b"bb");
    }

    #[test]
    fn a_full_socket_takes_a_part_and_then_nothing() {
        let Some(mut ring) = ring() else { return };
        let (mut client, server) = pair();
        let bytes = vec![7; 64 << 20];
        let mut sent = 0;
        loop {
            match ring.send(std::iter::once((server.as_fd(), &bytes[sent..])))[0] {
                Ok(taken) => sent += taken,
                Err(error) => {
                    assert_eq!(error, Errno::AGAIN);
                    break;
                }
            }
        }
        assert!(sent > 0 && sent < bytes.len(), "{sent}");
        drop((ring, server));
        let mut found = Vec::new();
        client.read_to_end(&mut found).expect("read");
        assert_eq!(found.len(), sent, "what it said it took is what arrives");
    }
}
