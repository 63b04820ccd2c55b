//! What a shard waits on: one epoll set for its connections, doorbell and timer, and within it another for whoever comes after them: its
//! listeners, and those who have not signed in. A crowd of these is one ready descriptor to the first set, so nobody waits behind it.
//!
//! monoio waits for the set as a whole, through io_uring or its own epoll, whichever the machine allows; the shard then
//! takes what is ready without waiting. So a connection costs no task, no buffer and no operation in flight, and nothing
//! that is dropped can lose bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Who, as given to [`Poller::add`].
    pub(crate) token: u64,
    /// There are bytes, connections or an end to take.
    pub(crate) readable: bool,
    /// There is room to write again.
    pub(crate) writable: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Input, or the end of it.
    Read,
    /// Input, and room for output.
    ReadWrite,
    /// Room for output only: its input waits in the kernel.
    Write,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        let read = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        match self {
            Self::Read => read,
            Self::ReadWrite => read | epoll::EventFlags::OUT,
            Self::Write => epoll::EventFlags::OUT,
        }
    }
}

/// An epoll set with a timer, waited for through monoio.
pub(crate) struct Poller {
    set: OwnedFd,
    /// The set of those who come after.
    behind: OwnedFd,
    /// It had something when the first set was asked last.
    behind_is_ready: bool,
    /// The same set as something that monoio can wait for.
    waiter: monoio::net::UnixStream,
    timer: OwnedFd,
    timer_at: Option<Instant>,
    ready: Vec<epoll::Event>,
}

impl Poller {
    /// Token of the timer in [`Poller::take_ready`].
    pub(crate) const TIMER: u64 = u64::MAX;
    /// Token of the set within the set, which nobody else hears of.
    const BEHIND: u64 = u64::MAX - 16;

    /// Sets that yield at most `events_max` events at a time. Must be called inside a monoio runtime.
    ///
    /// # Errors
    /// From the operating system: no descriptor is left, or no memory.
    pub(crate) fn new(events_max: usize) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // monoio only polls it for readability, which an epoll set answers like any other descriptor.
        let waiter = monoio::net::UnixStream::from_std(StdUnixStream::from(set.try_clone()?))?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let behind = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ready = Vec::with_capacity(events_max.max(1));
        let poller = Self { set, behind, behind_is_ready: false, waiter, timer, timer_at: None, ready };
        poller.add(&poller.timer, Self::TIMER, Interest::Read)?;
        poller.add(&poller.behind, Self::BEHIND, Interest::Read)?;
        Ok(poller)
    }

    /// Puts a descriptor in, among those who come after the others. It leaves the set when it is closed.
    ///
    /// # Errors
    /// From the operating system: no memory, or the limit of watches is reached.
    pub(crate) fn add_behind(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.behind, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Moves a descriptor from those who come after to the others.
    ///
    /// # Errors
    /// From the operating system. It may be in no set then.
    pub(crate) fn move_ahead(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        epoll::delete(&self.behind, &fd)?;
        self.add(fd, token, interest)
    }

    /// Puts a descriptor in. It leaves the set when it is closed.
    ///
    /// # Errors
    /// From the operating system: no memory, or the limit of watches is reached.
    pub(crate) fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.set, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a descriptor waits for.
    ///
    /// # Errors
    /// From the operating system, if the descriptor is not in the set.
    pub(crate) fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let change = |set| epoll::modify(set, &fd, epoll::EventData::new_u64(token), interest.flags());
        match change(&self.set) {
            Err(Errno::NOENT) => Ok(change(&self.behind)?),
            changed => Ok(changed?),
        }
    }

    /// Takes a descriptor out that stays open.
    ///
    /// # Errors
    /// From the operating system, if the descriptor is not in the set.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        match epoll::delete(&self.set, &fd) {
            Err(Errno::NOENT) => Ok(epoll::delete(&self.behind, &fd)?),
            removed => Ok(removed?),
        }
    }

    /// Sets when [`Poller::TIMER`] becomes ready, or never. Costs a system call only when the instant changes.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn set_timer(&mut self, now: Instant, at: Option<Instant>) -> io::Result<()> {
        if at == self.timer_at {
            return Ok(());
        }
        self.timer_at = at;
        // An instant in the past must fire at once; a value of zero would switch the timer off.
        let value = at.map(|at| at.saturating_duration_since(now).max(Duration::from_nanos(1)));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = value.map_or(Ok(zero), Timespec::try_from).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: value })?;
        Ok(())
    }

    /// Appends what is ready now to `into`, without waiting; of those who come after nothing. A timer that fired is taken back and must be
    /// set again.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn take_ready(&mut self, into: &mut impl Extend<Ready>) -> io::Result<()> {
        take(&self.set, &mut self.ready)?;
        self.behind_is_ready = false;
        for event in &self.ready {
            match event.data.u64() {
                Self::BEHIND => {
                    self.behind_is_ready = true;
                    continue;
                }
                Self::TIMER => {
                    let mut expirations = [0_u8; 8];
                    let _ = rustix::io::read(&self.timer, &mut expirations);
                    self.timer_at = None;
                }
                _ => {}
            }
            into.extend([Ready::of(event)]);
        }
        Ok(())
    }

    /// Appends what is ready now of those who come after, if [`take_ready`](Self::take_ready) has found that there is something.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn take_ready_behind(&mut self, into: &mut impl Extend<Ready>) -> io::Result<()> {
        if std::mem::take(&mut self.behind_is_ready) {
            take(&self.behind, &mut self.ready)?;
            into.extend(self.ready.iter().map(Ready::of));
        }
        Ok(())
    }

    /// Waits until something is ready.
    ///
    /// # Cancel safety
    /// Nothing is lost: readiness is not consumed.
    ///
    /// # Errors
    /// From the driver.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.waiter.readable(false).await
    }
}

fn take(set: &OwnedFd, into: &mut Vec<epoll::Event>) -> io::Result<()> {
    into.clear();
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(set, rustix::buffer::spare_capacity(into), Some(&zero)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Ready {
    fn of(event: &epoll::Event) -> Self {
        let flags = event.flags;
        // An error or a hang-up shows itself in whichever call comes next.
        let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        Self {
            token: event.data.u64(),
            readable: broken || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
            writable: broken || flags.contains(epoll::EventFlags::OUT),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use monoio::RuntimeBuilder;

    use super::*;

    /// Runs on each driver that this machine has; the choice by environment is tested from outside.
    fn on_both_drivers(test: impl AsyncFn()) {
        RuntimeBuilder::<monoio::LegacyDriver>::new().build().expect("epoll driver").block_on(test());
        if monoio::utils::detect_uring() {
            RuntimeBuilder::<monoio::IoUringDriver>::new().build().expect("io_uring driver").block_on(test());
        }
    }

    async fn next(poller: &mut Poller) -> Vec<Ready> {
        let mut ready = Vec::new();
        poller.take_ready(&mut ready).expect("epoll");
        if ready.is_empty() {
            poller.wait().await.expect("wait");
            poller.take_ready(&mut ready).expect("epoll");
        }
        ready
    }

    #[test]
    fn readiness_is_level_triggered() {
        on_both_drivers(async || {
            let mut poller = Poller::new(8).expect("poller");
            let (mut peer, ours) = StdUnixStream::pair().expect("pair");
            poller.add(&ours, 7, Interest::Read).expect("add");
            peer.write_all(b"ab").expect("write");
            for left in [2, 1] {
                let ready = next(&mut poller).await;
                assert_eq!(ready, [Ready { token: 7, readable: true, writable: false }], "{left} bytes are unread");
                rustix::io::read(&ours, &mut [0_u8; 1]).expect("read");
            }
            drop(peer);
            assert!(next(&mut poller).await[0].readable, "the end is readable");
        });
    }

    #[test]
    fn writability_is_told_only_when_asked_for() {
        on_both_drivers(async || {
            let mut poller = Poller::new(8).expect("poller");
            let (_peer, ours) = StdUnixStream::pair().expect("pair");
            poller.add(&ours, 1, Interest::Read).expect("add");
            let mut ready = Vec::new();
            poller.take_ready(&mut ready).expect("epoll");
            assert_eq!(ready, []);
            poller.change(&ours, 1, Interest::ReadWrite).expect("change");
            assert_eq!(next(&mut poller).await, [Ready { token: 1, readable: false, writable: true }]);
            poller.remove(&ours).expect("remove");
            poller.take_ready(&mut ready).expect("epoll");
            assert_eq!(ready, []);
        });
    }

    /// A thousand who wait are one to those who are in the first set, and wake the shard as one.
    #[test]
    fn who_comes_after_the_others_takes_nobodys_place() {
        on_both_drivers(async || {
            let mut poller = Poller::new(2).expect("poller");
            let crowd: Vec<_> = (0..10).map(|_| StdUnixStream::pair().expect("pair")).collect();
            for (token, (peer, ours)) in (100..).zip(&crowd) {
                poller.add_behind(ours, token, Interest::Read).expect("add");
                (&*peer).write_all(b"a").expect("write");
            }
            poller.wait().await.expect("wait");
            let (mut first, mut behind) = (Vec::new(), Vec::new());
            poller.take_ready_behind(&mut behind).expect("epoll");
            assert_eq!(behind, [], "nobody has looked whether there is one");
            let (peer, ours) = StdUnixStream::pair().expect("pair");
            poller.add(&ours, 7, Interest::Read).expect("add");
            (&peer).write_all(b"a").expect("write");
            poller.take_ready(&mut first).expect("epoll");
            assert_eq!(first.iter().map(|ready| ready.token).collect::<Vec<_>>(), [7]);
            poller.take_ready_behind(&mut behind).expect("epoll");
            assert_eq!(behind.len(), 2, "as many as it yields at a time");

            // Changes and removals find it wherever it is.
            let (_, last) = &crowd[9];
            poller.change(last, 200, Interest::Read).expect("change");
            poller.move_ahead(last, 201, Interest::Read).expect("move");
            poller.change(last, 202, Interest::Read).expect("change");
            crowd[..9].iter().for_each(|(_, ours)| poller.remove(ours).expect("remove"));
            (first, behind) = (Vec::new(), Vec::new());
            poller.take_ready(&mut first).expect("epoll");
            poller.take_ready_behind(&mut behind).expect("epoll");
            first.sort_by_key(|ready| ready.token);
            assert_eq!(first.iter().map(|ready| ready.token).collect::<Vec<_>>(), [7, 202]);
            assert_eq!(behind, []);
            poller.change(&peer, 1, Interest::Read).expect_err("it is in no set");
        });
    }

    #[test]
    fn the_timer_fires_even_for_an_instant_that_has_passed() {
        on_both_drivers(async || {
            let mut poller = Poller::new(8).expect("poller");
            let now = Instant::now();
            for at in [now, now + Duration::from_millis(5)] {
                poller.set_timer(now, Some(at)).expect("timer");
                let ready = next(&mut poller).await;
                assert_eq!(ready.len(), 1);
                assert_eq!(ready[0].token, Poller::TIMER);
                assert!(Instant::now() >= at);
            }
            poller.set_timer(now, Some(now + Duration::from_secs(3600))).expect("timer");
            poller.set_timer(now, None).expect("timer");
            let mut ready = Vec::new();
            poller.take_ready(&mut ready).expect("epoll");
            assert_eq!(ready, []);
        });
    }
}
