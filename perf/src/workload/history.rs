//! Pages of history, from one channel with many messages: the newest, and ever older ones.
//!
//! Closed loop, one page at a time: how long a person waits who scrolls.

use std::time::Instant;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, Stopwatch, count_f64, fill, histogram, quantile_ms};
use crate::dialect::{self, Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::HistoryPaging;
use crate::subject::{Algorithm, History, Needs, Users};

/// Depths into the past, as shares of the channel: the newest page, and the oldest.
const DEPTHS: [f64; 4] = [0.0, 0.25, 0.75, 1.0];
/// Pages that one client reads: half of what a server lets it ask for at once by default.
const PAGES_OF_A_CLIENT: u64 = 1_000;
const PAGE: u64 = dialect::PAGE as u64;

pub(crate) fn run(paging: &HistoryPaging, run: &mut Run<'_>) -> Result<()> {
    // A person may only turn so many pages at once: these are several people's, in turn.
    let pages = u64::from(paging.pages) * DEPTHS.len() as u64;
    let clients = u32::try_from(pages.div_ceil(PAGES_OF_A_CLIENT))?;
    let needs = Needs {
        channels: 1,
        history: History::Durable,
        clients: clients + 1,
        users: Users::default(),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    fill::fill(&running, 1, paging.messages, paging.payload, run)?;
    fill::rest(&running, run)?;
    if (run.stop)() {
        return Ok(());
    }
    let mut fleet = Fleet::new(running.target())?;
    let mut sink = Pages { ready: 0, page: None };
    let mut readers = Vec::new();
    for number in 1..=clients as usize {
        readers.push(fleet.open(Plan { publish: vec![0], ..Plan::default() })?);
        fleet.until(&mut sink, PATIENCE, "a client joins", |_, sink| sink.ready == number)?;
    }
    let mut in_turn = readers.iter().copied().cycle();
    for depth in DEPTHS {
        let mut times = histogram();
        let watch = Stopwatch::start(&running)?;
        for number in 0..paging.pages {
            if (run.stop)() {
                return Ok(());
            }
            let before = before(paging.messages, depth, number.into());
            let began = Instant::now();
            sink.page = None;
            let Some(client) = in_turn.next() else { return Ok(()) };
            if !fleet.history(client, 0, before, number) {
                run.cannot("it has no history to page through");
                return Ok(());
            }
            fleet.until(&mut sink, PATIENCE, "a page comes", |_, sink| sink.page.is_some())?;
            record(&mut times, began);
            let asked = Event::Page {
                number,
                messages: u32::try_from(PAGE.min(before - 1))?,
                offsets: Some((before.saturating_sub(PAGE).max(1), before - 1)),
            };
            let got = sink.page;
            ensure!(got == Some(asked), "the page before {before} is {got:?}, not {asked:?}");
        }
        let cost = watch.read()?;
        let point = [("messages", count_f64(paging.messages)), ("depth", depth)];
        let mut values: Vec<_> =
            report::PAGE.iter().map(|&(metric, quantile)| (metric, quantile_ms(&times, quantile))).collect();
        values.extend(cost.cpu_us_per(paging.pages.into()).map(|us| (report::CPU_PER_PAGE, us)));
        run.record(guarantee, &point, false, &values);
    }
    Ok(())
}

/// The offset before which page `number` of a depth ends: pages of a depth lie side by side, so that each is read once.
fn before(messages: u64, depth: f64, number: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
    let newest = messages - (count_f64(messages) * depth) as u64;
    let pages = messages / PAGE;
    // Backwards from where the depth begins; at the very end forwards from the first.
    if depth >= 1.0 {
        PAGE * (number % pages + 1) + 1
    } else {
        (newest + 1).saturating_sub(PAGE * (number % pages)).max(PAGE + 1)
    }
}

fn record(times: &mut Histogram<u64>, began: Instant) {
    times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
}

struct Pages {
    ready: usize,
    /// The last page that came.
    page: Option<Event>,
}

impl Sink for Pages {
    fn delivered(&mut self, _: usize, _: u64, _: u64) {}

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        match event {
            Event::Ready => self.ready += 1,
            Event::Acknowledged { .. } | Event::Busy { .. } => {}
            Event::Page { .. } => self.page = Some(event),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_side_by_side_inside_the_channel() {
        assert_eq!([0, 1].map(|number| before(10_000, 0.0, number)), [10_001, 9_951]);
        assert_eq!([0, 1].map(|number| before(10_000, 0.25, number)), [7_501, 7_451]);
        assert_eq!([0, 1].map(|number| before(10_000, 1.0, number)), [51, 101]);
        for depth in DEPTHS {
            for number in 0..1_000 {
                assert!((PAGE + 1..=10_001).contains(&before(10_000, depth, number)), "{depth} {number}");
            }
        }
    }
}
