//! How many sessions may begin at once, by class, and in which order. What begins costs grants, joins and pages; in a storm all of that
//! would be under way for everybody, and nobody would be done.
//!
//! A session *begins* from its hello until each of its subscriptions is answered. Who comes back has a share that newcomers cannot
//! take: they were in the middle of something. While a crowd comes back, the hellos of newcomers wait, a bounded time.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_protocol::client::{Hello, Start};

use crate::SessionKey;
use crate::wheel::{TICK_MS, Tick};

/// What a hello asks for, as far as order matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It shows a position in at least one channel: an application goes on.
    Resume,
    /// It shows none: an application starts.
    Login,
}

/// Who is sent away comes back within this, drawn evenly, so that they do not come together again: who resumes sooner.
const RESUME_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
const LOGIN_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// So many who come back within this time are a crowd, and for as long after that.
const CROWD: u32 = 32;
const CROWD_TICKS: Tick = ticks(250);
/// How long a login waits for a crowd at most.
const LOGIN_WAITS_TICKS: Tick = ticks(1000);
/// Logins that wait: in all, and in bytes of their hellos.
const LOGINS_MAX: usize = 1024;
const LOGIN_BYTES_MAX: usize = 1 << 20;
/// A hello that may wait, in bytes: a token and some names.
const HELLO_BYTES_MAX: usize = 4 << 10;
/// Logins that a turn takes when they have waited, so that they come back as no crowd.
const LOGINS_PER_TURN: usize = 16;

const fn ticks(ms: u64) -> Tick {
    #[expect(clippy::cast_possible_truncation, reason = "seconds")]
    let ticks = ms.div_ceil(TICK_MS) as Tick;
    ticks
}

/// Logins that wait while a crowd comes back.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    /// Their hellos as they came, the oldest first.
    waiting: VecDeque<Login>,
    bytes: usize,
    /// Who has come back since `since`.
    resumed: u32,
    since: Tick,
    crowd_until: Tick,
    /// Taken in this turn.
    taken: usize,
}

#[derive(Debug)]
struct Login {
    session: SessionKey,
    since: Tick,
    hello: Box<[u8]>,
}

impl Logins {
    /// Somebody comes back.
    pub(crate) fn resumed(&mut self, now: Tick) {
        if now >= self.since + CROWD_TICKS {
            (self.since, self.resumed) = (now, 0);
        }
        self.resumed += 1;
        if self.resumed >= CROWD {
            self.crowd_until = now + CROWD_TICKS;
        }
    }

    /// Whether a login has to wait that comes now.
    pub(crate) fn is_crowded(&self, now: Tick) -> bool {
        now < self.crowd_until
    }

    /// Keeps a hello for later; `false` if there is no room for it.
    pub(crate) fn push(&mut self, now: Tick, session: SessionKey, hello: &[u8]) -> bool {
        let fits = hello.len() <= HELLO_BYTES_MAX && self.bytes + hello.len() <= LOGIN_BYTES_MAX;
        let has_room = fits && self.waiting.len() < LOGINS_MAX;
        if has_room {
            self.bytes += hello.len();
            self.waiting.push_back(Login { session, since: now, hello: hello.into() });
        }
        has_room
    }

    /// The next one whose turn it is: when the crowd is over, or it has waited long enough.
    pub(crate) fn pop(&mut self, now: Tick) -> Option<(SessionKey, Box<[u8]>)> {
        if self.taken >= LOGINS_PER_TURN || self.due()? > now {
            return None;
        }
        self.taken += 1;
        self.take(0)
    }

    /// This one, whose client has said more.
    pub(crate) fn pull(&mut self, session: SessionKey) -> Option<Box<[u8]>> {
        let place = self.waiting.iter().position(|login| login.session == session)?;
        self.take(place).map(|(_, hello)| hello)
    }

    fn take(&mut self, place: usize) -> Option<(SessionKey, Box<[u8]>)> {
        let Login { session, hello, .. } = self.waiting.remove(place)?;
        self.bytes -= hello.len();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some((session, hello))
    }

    pub(crate) fn end_turn(&mut self) {
        self.taken = 0;
    }

    /// When [`pop`](Self::pop) has something.
    pub(crate) fn due(&self) -> Option<Tick> {
        self.waiting.front().map(|login| self.crowd_until.min(login.since + LOGIN_WAITS_TICKS))
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Sessions that begin.
#[derive(Debug)]
pub(crate) struct Admission {
    beginning: u32,
    beginning_max: u32,
}

fn spread((least, most): (Duration, Duration), draw: u64) -> Duration {
    let spread_ms = u64::try_from((most - least).as_millis()).unwrap_or(0);
    least + Duration::from_millis(draw % (spread_ms + 1))
}

impl Class {
    pub(crate) fn of(hello: &Hello<'_>) -> Self {
        let resumes = hello.subscriptions.iter().any(|subscribe| matches!(subscribe.start, Start::After(_)));
        if resumes { Self::Resume } else { Self::Login }
    }
}

impl Admission {
    pub(crate) fn new(beginning_max: u32) -> Self {
        Self { beginning: 0, beginning_max }
    }

    /// Whether one more may begin.
    ///
    /// # Errors
    /// When to come again. `draw` is random.
    pub(crate) fn admit(&self, class: Class, draw: u64) -> Result<(), Duration> {
        let (max, wait) = match class {
            Class::Resume => (self.beginning_max, RESUME_WAIT),
            Class::Login => (self.beginning_max / 2, LOGIN_WAIT),
        };
        if self.beginning < max { Ok(()) } else { Err(spread(wait, draw)) }
    }

    /// How many begin.
    pub(crate) fn beginning(&self) -> u32 {
        self.beginning
    }

    /// One was admitted, and not all of its hello is answered.
    pub(crate) fn began(&mut self) {
        self.beginning += 1;
    }

    /// All is answered, or the session is gone.
    pub(crate) fn ended(&mut self) {
        debug_assert!(self.beginning > 0, "more ended than began");
        self.beginning = self.beginning.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionKey {
        SessionKey::from_u64(number)
    }

    #[test]
    fn logins_wait_for_a_crowd_and_not_for_ever() {
        let mut logins = Logins::default();
        for _ in 1..CROWD {
            logins.resumed(100);
        }
        assert!(!logins.is_crowded(100), "one fewer is none");
        logins.resumed(101);
        assert!(logins.is_crowded(101));
        assert!(logins.push(101, session(1), b"one") && logins.push(103, session(2), b"two"));
        assert_eq!((logins.due(), logins.pop(105)), (Some(106), None));
        // They go on coming.
        for now in 102..=130 {
            (0..CROWD).for_each(|_| logins.resumed(now));
        }
        assert_eq!((logins.due(), logins.pop(120)), (Some(121), None));
        assert_eq!(logins.pop(121), Some((session(1), b"one"[..].into())), "it has waited for a second");
        assert_eq!(logins.pop(121), None, "the next has not");
        // The crowd is over.
        assert_eq!(logins.due(), Some(123));
        assert_eq!(logins.pop(135), Some((session(2), b"two"[..].into())));
        assert_eq!((logins.due(), logins.len(), logins.bytes, logins.is_crowded(135)), (None, 0, 0, false));
        // So many within a longer time are none.
        for now in 0..CROWD {
            logins.resumed(200 + now * CROWD_TICKS);
        }
        assert!(!logins.is_crowded(200 + CROWD * CROWD_TICKS));
    }

    #[test]
    fn logins_that_wait_are_bounded_and_so_are_those_of_a_turn() {
        let mut logins = Logins::default();
        let kept = (0..5000).filter(|&n| logins.push(0, session(n), b"hello")).count();
        assert_eq!(kept, LOGINS_MAX);
        assert_eq!(logins.pull(session(3)), Some(b"hello"[..].into()));
        assert_eq!(logins.pull(session(3)), None);
        let popped = |logins: &mut Logins| std::iter::from_fn(|| logins.pop(1000)).count();
        assert_eq!((popped(&mut logins), popped(&mut logins)), (LOGINS_PER_TURN, 0));
        logins.end_turn();
        assert_eq!(popped(&mut logins), LOGINS_PER_TURN);
        let mut logins = Logins::default();
        assert!(!logins.push(0, session(0), &[0; HELLO_BYTES_MAX + 1]), "one alone takes no room from many");
        let kept = (0..1000).filter(|&n| logins.push(0, session(n), &[0; HELLO_BYTES_MAX])).count();
        assert_eq!(kept, LOGIN_BYTES_MAX / HELLO_BYTES_MAX);
    }

    #[test]
    fn who_comes_back_has_a_share_of_their_own() {
        let mut admission = Admission::new(4);
        let check = |admission: &Admission, resume: bool, login: bool| {
            assert_eq!(admission.admit(Class::Resume, 7).is_ok(), resume, "resume of {}", admission.beginning());
            assert_eq!(admission.admit(Class::Login, 7).is_ok(), login, "login of {}", admission.beginning());
        };
        for (resume, login) in [(true, true), (true, true), (true, false), (true, false), (false, false)] {
            check(&admission, resume, login);
            admission.began();
        }
        for _ in 0..5 {
            admission.ended();
        }
        check(&admission, true, true);
    }

    #[test]
    fn those_sent_away_are_spread() {
        let mut admission = Admission::new(2);
        admission.began();
        admission.began();
        for draw in [0, 1, 799, 800, 801, u64::MAX] {
            let resume = admission.admit(Class::Resume, draw).unwrap_err();
            let login = admission.admit(Class::Login, draw).unwrap_err();
            assert!(RESUME_WAIT.0 <= resume && resume <= RESUME_WAIT.1, "{resume:?}");
            assert!(LOGIN_WAIT.0 <= login && login <= LOGIN_WAIT.1, "{login:?}");
        }
    }
}
