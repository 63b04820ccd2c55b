//! How many sessions may begin at once, by class. What begins costs grants, joins and pages; in a storm all of that would be under way for
//! everybody, and nobody would be done.
//!
//! A session *begins* from its hello until each of its subscriptions is answered. Who comes back has a share that newcomers cannot
//! take: they were in the middle of something.

use std::time::Duration;

use millrace_protocol::client::{Hello, Start};

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

/// Sessions that begin.
#[derive(Debug)]
pub(crate) struct Admission {
    beginning: u32,
    beginning_max: u32,
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
        let (max, (least, most)) = match class {
            Class::Resume => (self.beginning_max, RESUME_WAIT),
            Class::Login => (self.beginning_max / 2, LOGIN_WAIT),
        };
        if self.beginning < max {
            return Ok(());
        }
        let spread_ms = u64::try_from((most - least).as_millis()).unwrap_or(0);
        Err(least + Duration::from_millis(draw % (spread_ms + 1)))
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
