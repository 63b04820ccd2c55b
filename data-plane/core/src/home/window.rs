//! The newest messages of a channel, encoded, bounded in count and bytes: what resumes and newest pages are answered from.

use std::collections::VecDeque;

use crate::run::{Run, page_of};

/// Runs that follow each other without gaps.
#[derive(Default)]
pub(crate) struct Window {
    runs: VecDeque<Run>,
    messages: u32,
    bytes: usize,
}

/// How much a window may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) messages_max: u32,
    pub(crate) bytes_max: usize,
}

impl Window {
    /// Offset of the oldest message in it, or `None` when it is empty.
    pub(crate) fn first(&self) -> Option<u64> {
        self.runs.front().map(|run| run.first)
    }

    /// Adds the channel's newest messages. What is at or above `keep_from` stays whatever the limits: it is stored nowhere else.
    pub(crate) fn push(&mut self, run: Run, limits: WindowLimits, keep_from: u64) {
        if self.runs.back().is_some_and(|last| last.last + 1 != run.first) {
            debug_assert!(false, "a home orders its channel");
            self.clear();
        }
        self.messages += run.count;
        self.bytes += run.len();
        self.runs.push_back(run);
        self.trim(limits, keep_from);
    }

    /// Lets the oldest go until the limits hold.
    pub(crate) fn trim(&mut self, limits: WindowLimits, keep_from: u64) {
        while self.messages > limits.messages_max || self.bytes > limits.bytes_max {
            if self.runs.len() <= 1 || self.runs.front().is_none_or(|oldest| oldest.last >= keep_from) {
                break;
            }
            let Some(oldest) = self.runs.pop_front() else { break };
            self.messages -= oldest.count;
            self.bytes -= oldest.len();
        }
    }

    /// Takes in older messages that were read from the store, as far as there is room and no gap. `tail` is the channel's newest offset.
    pub(crate) fn prepend(&mut self, runs: &[Run], limits: WindowLimits, tail: u64) {
        for run in runs.iter().rev() {
            let next = self.first().unwrap_or(tail + 1);
            let fits = self.messages + run.count <= limits.messages_max && self.bytes + run.len() <= limits.bytes_max;
            if run.last + 1 != next || !fits {
                return;
            }
            self.messages += run.count;
            self.bytes += run.len();
            self.runs.push_front(run.clone());
        }
    }

    /// A page of what follows `offset`: at least one message if there is one. The caller has checked that the window reaches back so far.
    pub(crate) fn after(&self, offset: u64, messages_max: u32, bytes_max: usize) -> Vec<Run> {
        let start = self.runs.partition_point(|run| run.last <= offset);
        page_of(self.runs.range(start..), offset, messages_max, bytes_max)
    }

    /// The messages from `first` to `last`, both in it, as frames without transport header.
    pub(crate) fn frames(&self, first: u64, last: u64) -> impl Iterator<Item = &[u8]> {
        let start = self.runs.partition_point(|run| run.last < first);
        self.runs
            .range(start..)
            .flat_map(|run| (run.first..).zip(run.frames()))
            .skip_while(move |&(offset, _)| offset < first)
            .take_while(move |&(offset, _)| offset <= last)
            .map(|(_, frame)| frame)
    }

    /// Lets go of everything from `offset` on.
    pub(crate) fn cut(&mut self, offset: u64) {
        while let Some(run) = self.runs.pop_back() {
            self.messages -= run.count;
            self.bytes -= run.len();
            if run.first < offset {
                if let Some(kept) = if run.last < offset { Some(run) } else { run.until(offset - 1) } {
                    self.messages += kept.count;
                    self.bytes += kept.len();
                    self.runs.push_back(kept);
                }
                return;
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::run;

    const LIMITS: WindowLimits = WindowLimits { messages_max: 6, bytes_max: 100_000 };

    fn span(runs: &[Run]) -> Option<(u64, u64)> {
        assert!(runs.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
        Some((runs.first()?.first, runs.last()?.last))
    }

    #[test]
    fn pages_are_bounded_and_never_empty() {
        let mut window = Window::default();
        for first in [1, 3, 5] {
            window.push(run(first, &[100, 100]), LIMITS, u64::MAX);
        }
        let one = run(1, &[100]).len();
        let check = |after: u64, messages: u32, bytes: usize, expect: Option<(u64, u64)>| {
            assert_eq!(span(&window.after(after, messages, bytes)), expect, "{after} {messages} {bytes}");
        };
        check(0, 99, 99_999, Some((1, 6)));
        check(3, 99, 99_999, Some((4, 6)));
        check(0, 3, 99_999, Some((1, 3)));
        check(1, 99, 2 * one, Some((2, 3)));
        check(1, 99, 1, Some((2, 2)));
        check(6, 99, 99_999, None);
    }

    #[test]
    fn the_oldest_go_unless_they_are_stored_nowhere() {
        let mut window = Window::default();
        for first in [1, 3, 5, 7] {
            window.push(run(first, &[1, 1]), LIMITS, 3);
        }
        assert_eq!(window.first(), Some(3));
        window.push(run(9, &[1]), LIMITS, 3);
        assert_eq!(window.first(), Some(3), "kept beyond the limit");
        window.trim(LIMITS, 9);
        assert_eq!(window.first(), Some(5));
    }

    #[test]
    fn the_newest_can_be_cut_off() {
        let mut window = Window::default();
        for first in [1, 3, 5] {
            window.push(run(first, &[9, 9]), LIMITS, u64::MAX);
        }
        let check = |window: &mut Window, offset: u64, expect: Option<(u64, u64)>| {
            window.cut(offset);
            assert_eq!(span(&window.after(0, 99, 99_999)), expect, "{offset}");
            let bytes: usize = window.runs.iter().map(Run::len).sum();
            assert_eq!((window.bytes, window.messages), (bytes, window.runs.iter().map(|run| run.count).sum()));
        };
        check(&mut window, 7, Some((1, 6)));
        check(&mut window, 4, Some((1, 3)));
        check(&mut window, 3, Some((1, 2)));
        check(&mut window, 1, None);
    }

    #[test]
    fn older_messages_are_taken_in_without_a_gap() {
        let mut window = Window::default();
        window.prepend(&[run(8, &[1]), run(9, &[1, 1])], LIMITS, 10);
        assert_eq!(window.first(), Some(8));
        window.prepend(&[run(4, &[1])], LIMITS, 10);
        assert_eq!(window.first(), Some(8), "5 to 7 are missing");
        window.prepend(&[run(2, &[1, 1, 1]), run(5, &[1, 1, 1])], LIMITS, 10);
        assert_eq!(window.first(), Some(5), "there is room for one of the two");
        assert_eq!(window.frames(6, 9).count(), 4);
    }
}
