//! What an answer of an endpoint means, and when to try again.
//!
//! Two things wait after a failure. The *event* waits by its own schedule, longer each time, for about a day, and only what comes after it in its channel
//! waits with it. The *endpoint* is left alone for at most five minutes at a time, while another event may find out that it is back.

use std::time::Duration;

/// After how long an endpoint that takes nothing is left alone for good: three days.
pub const FAILING_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// The longest `Retry-After` of an endpoint that is heeded.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Failures in a row that an endpoint has to its name by then, and many more: fewer are no three days, but a clock that jumped.
const FAILURES_MIN: u32 = 24;
/// Clocks of two control nodes are apart by less; one that was set back, by more.
pub const CLOCKS_APART_MS: i64 = 60_000;

/// Waits between the attempts for one event, in seconds: 23.7 hours together.
const RETRIES_S: [u64; 10] = [5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800];
/// Most attempts for one event.
pub const ATTEMPTS_MAX: u32 = 11;
/// Most attempts for an event that the endpoint calls bad while it takes others: another day will not mend it.
const REFUSED_ATTEMPTS_MAX: u32 = 4;
/// The first pause of an endpoint, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What an answer, or that there was none, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Delivered,
    /// The endpoint does not work now; so it may be with every event.
    Failed,
    /// The endpoint does not want this event: 400, 413, 415 or 422, while it takes others.
    Refused,
    /// The endpoint wants nothing any more: 410.
    Gone,
}

impl Outcome {
    /// What a status means; `None`: no answer came. A redirect is not followed and hence a failure.
    ///
    /// `takes_others`: since this event was tried before, or since it happened, the endpoint has taken something. One that answers 400 to
    /// everything, as to a signature that it does not know, is broken itself: no event is given up for that sooner than for another failure.
    pub const fn of(status: Option<u16>, takes_others: bool) -> Self {
        match status {
            Some(200..=299) => Self::Delivered,
            Some(410) => Self::Gone,
            Some(400 | 413 | 415 | 422) if takes_others => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// How long an event waits after so many attempts; `None` if it is given up. `random` spreads what failed together over a fifth each way.
pub fn retry_delay(outcome: Outcome, attempts: u32, random: u64) -> Option<Duration> {
    let max = match outcome {
        Outcome::Delivered | Outcome::Gone => return None,
        Outcome::Failed => ATTEMPTS_MAX,
        Outcome::Refused => REFUSED_ATTEMPTS_MAX,
    };
    if attempts >= max {
        return None;
    }
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = RETRIES_S.get(index).or(RETRIES_S.last()).copied().unwrap_or(1);
    Some(spread(Duration::from_secs(seconds), random))
}

/// How long an endpoint is left alone after so many failures in a row: from a second to five minutes.
pub fn endpoint_pause(failures: u32, random: u64) -> Duration {
    let doubled = PAUSE.0.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    spread(doubled.min(PAUSE.1), random)
}

/// Whether an endpoint that has failed for so long, and so often in a row, is left alone. `max` is [`FAILING_MAX`] but in tests.
pub fn has_failed_for_good(failing: Duration, failures: u32, max: Duration) -> bool {
    failing >= max && failures >= FAILURES_MIN
}

/// Whether a moment that was noted is still to come: then the clock was set back since, and what was to wait from that moment on would wait
/// for as long as it was set back. Both are Unix times in ms.
pub const fn is_ahead(noted_ms: i64, now_ms: i64) -> bool {
    noted_ms.saturating_sub(now_ms) > CLOCKS_APART_MS
}

/// How many of the places that are left messages may take before events may: up to half of all places, those among them that messages have.
/// Whichever kind has more to tell does not starve the other one; what one does not need, the other one has.
pub fn first_of_messages(left: usize, at_once: usize, busy: usize) -> usize {
    left.min(at_once.max(1).div_ceil(2).saturating_sub(busy))
}

/// Four to six fifths of a time.
fn spread(time: Duration, random: u64) -> Duration {
    let fifth = time / 5;
    let part = u32::try_from(random % 1_000).unwrap_or(0);
    fifth * 4 + fifth * 2 * part / 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_says_who_is_at_fault() {
        let check = |statuses: &[u16], expect| {
            for &status in statuses {
                assert_eq!(Outcome::of(Some(status), true), expect, "{status}");
                let by_itself = if expect == Outcome::Refused { Outcome::Failed } else { expect };
                assert_eq!(Outcome::of(Some(status), false), by_itself, "{status}, and nothing else was taken");
            }
        };
        check(&[200, 201, 202, 204, 299], Outcome::Delivered);
        check(&[301, 302, 307, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504], Outcome::Failed);
        check(&[400, 413, 415, 422], Outcome::Refused);
        check(&[410], Outcome::Gone);
        assert_eq!(Outcome::of(None, true), Outcome::Failed);
    }

    #[test]
    fn an_event_is_tried_for_about_a_day() {
        let total = |outcome, random| {
            let delays: Vec<_> = (1..).map_while(|attempts| retry_delay(outcome, attempts, random)).collect();
            (delays.len(), delays.iter().sum::<Duration>().as_secs())
        };
        assert_eq!(total(Outcome::Failed, 500), (10, 85_355));
        assert_eq!(total(Outcome::Failed, 0), (10, 68_284));
        assert_eq!(total(Outcome::Refused, 500), (3, 155));
        assert_eq!(total(Outcome::Delivered, 500), (0, 0));
        assert_eq!(u32::try_from(RETRIES_S.len()).unwrap() + 1, ATTEMPTS_MAX);
    }

    #[test]
    fn messages_have_first_what_is_left_of_their_half() {
        let check = |left, at_once, busy, expect| {
            assert_eq!(first_of_messages(left, at_once, busy), expect, "{left} of {at_once}, {busy} busy");
        };
        check(8, 8, 0, 4);
        check(1, 8, 7, 0);
        check(1, 8, 4, 0);
        check(1, 8, 3, 1);
        check(5, 8, 0, 4);
        check(2, 8, 0, 2);
        check(1, 1, 0, 1);
        check(1, 0, 0, 1);
    }

    #[test]
    fn a_clock_that_jumps_turns_nothing_off_and_holds_nothing_up() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
        let check = |failing, failures, expect| {
            assert_eq!(has_failed_for_good(failing, failures, FAILING_MAX), expect, "{failing:?} {failures}");
        };
        check(days(3), FAILURES_MIN, true);
        check(days(2), 1_000, false);
        check(days(300), FAILURES_MIN - 1, false);
        assert!(is_ahead(61_000, 0) && !is_ahead(60_000, 0) && !is_ahead(0, 61_000) && is_ahead(i64::MAX, -1));
        // Whoever fails all the time has failed more often than that within three days, also if it asks for an hour each time.
        assert!(FAILING_MAX.as_secs() / RETRY_AFTER_MAX.as_secs() > FAILURES_MIN.into());
    }

    proptest! {
        #[test]
        fn waits_are_spread_and_bounded(attempts in 1..ATTEMPTS_MAX, failures in 1..=u32::MAX, random: u64) {
            let middle = Duration::from_secs(RETRIES_S[usize::try_from(attempts - 1).unwrap()]);
            let delay = retry_delay(Outcome::Failed, attempts, random).unwrap();
            prop_assert!(delay >= middle * 4 / 5 && delay <= middle * 6 / 5, "{delay:?}");
            let pause = endpoint_pause(failures, random);
            prop_assert!(pause >= Duration::from_millis(800) && pause <= Duration::from_secs(360), "{pause:?}");
        }
    }
}
