//! Pages of history, from one channel with many messages: the newest, and ever older ones.
//!
//! Closed loop, one page at a time: how long a person waits who scrolls.

use std::time::Instant;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::{PATIENCE, Run, Stopwatch, count_f64, histogram, quantile_ms};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::report;
use crate::scenario::HistoryPaging;
use crate::subject::{Algorithm, History, Needs};

/// Messages under way while the channel is filled.
const FILL_IN_FLIGHT: u64 = 512;
/// Depths into the past, as shares of the channel: the newest page, and the oldest.
const DEPTHS: [f64; 4] = [0.0, 0.25, 0.75, 1.0];
const PAGE: u64 = 50;

pub(crate) fn run(paging: &HistoryPaging, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: 1,
        history: History::Durable,
        clients: 2,
        tokens: 1,
        algorithm: Algorithm::default(),
        cores: run.cores.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    let mut fleet = Fleet::new(running.address, running.dialect.clone())?;
    let mut sink = Pages { ready: 0, acknowledged: 0, pages: 0, messages: 0 };
    let client = fleet.open(Plan { publish: vec![0], ..Plan::default() })?;
    fleet.until(&mut sink, PATIENCE, "the client joins", |_, sink| sink.ready == 1)?;
    fill(&mut fleet, &mut sink, client, paging, run)?;
    for depth in DEPTHS {
        let mut times = histogram();
        let watch = Stopwatch::start(&running.processes)?;
        for number in 0..paging.pages {
            if (run.stop)() {
                return Ok(());
            }
            let before = before(paging.messages, depth, number.into());
            let began = Instant::now();
            let (pages, messages) = (sink.pages, sink.messages);
            if !fleet.history(client, 0, before) {
                (run.progress)("has no history to page through");
                return Ok(());
            }
            fleet.until(&mut sink, PATIENCE, "a page comes", |_, sink| sink.pages > pages)?;
            record(&mut times, began);
            let got = sink.messages - messages;
            ensure!(got == PAGE.min(before - 1), "the page before {before} has {got} messages");
        }
        let cost = watch.read()?;
        let point = [("messages", count_f64(paging.messages)), ("depth", depth)];
        let mut values: Vec<_> =
            report::LATENCY.iter().map(|&(metric, quantile)| (metric, quantile_ms(&times, quantile))).collect();
        values.push((report::LATENCY_P95, quantile_ms(&times, 0.95)));
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

fn fill(fleet: &mut Fleet, sink: &mut Pages, client: usize, paging: &HistoryPaging, run: &Run<'_>) -> Result<()> {
    let mut sent = 0;
    let mut told = 0;
    while sink.acknowledged < paging.messages && !(run.stop)() {
        while sent < paging.messages && sent - sink.acknowledged < FILL_IN_FLIGHT {
            sent += 1;
            fleet.publish(client, 0, u32::try_from(sent % (1 << 31))?, paging.payload, sent);
        }
        let before = sink.acknowledged;
        fleet.until(sink, PATIENCE, "messages are stored", |_, sink| sink.acknowledged > before)?;
        let tenth = sink.acknowledged * 10 / paging.messages;
        if tenth > told {
            told = tenth;
            (run.progress)(&format!("{} of {} messages are stored", sink.acknowledged, paging.messages));
        }
    }
    Ok(())
}

struct Pages {
    ready: usize,
    acknowledged: u64,
    pages: u64,
    messages: u64,
}

impl Sink for Pages {
    fn delivered(&mut self, _: usize, _: u64, _: u64) {}

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        match event {
            Event::Ready => self.ready += 1,
            Event::Acknowledged { .. } => self.acknowledged += 1,
            Event::Page { messages } => {
                self.pages += 1;
                self.messages += u64::from(messages);
            }
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
