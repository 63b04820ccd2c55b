//! A past for channels: messages that are there before anybody is measured.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{PATIENCE, Run, Stopwatch};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::subject::Running;

/// Messages under way, of each publisher.
const IN_FLIGHT: u64 = 512;
/// Who waits is told how far it is this often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A subject rests when it used less than this share of a core,
const BUSY: f64 = 0.05;
/// so many times one after the other,
const RESTS: u32 = 4;
/// for this long.
const REST: Duration = Duration::from_millis(250);
/// No longer than this is waited.
const REST_WITHIN: Duration = Duration::from_secs(120);

/// Publishes so many messages into each channel, and waits until all are accepted.
///
/// # Errors
/// When the subject refuses one, or falls silent.
pub(crate) fn fill(running: &Running, channels: u32, messages: u64, payload: usize, run: &Run<'_>) -> Result<()> {
    let mut fleet = Fleet::new(running.target())?;
    let mut sink = Filling::default();
    let numbers: Vec<u32> = (0..channels).collect();
    let mut publishers = Vec::new();
    for share in numbers.chunks(running.dialect.channels_max()) {
        let client = fleet.open(Plan { publish: share.to_vec(), ..Plan::default() })?;
        publishers.push(Publisher { client, channels: share.len(), sent: 0, wanted: share.len() as u64 * messages });
        let all = publishers.len();
        fleet.until(&mut sink, PATIENCE, "publishers join", |_, sink| sink.ready == all)?;
    }
    sink.acknowledged = vec![0; publishers.iter().map(|one| one.client + 1).max().unwrap_or_default()];
    let wanted = u64::from(channels) * messages;
    let mut told = Instant::now();
    (run.progress)(&format!("{wanted} messages are stored first"));
    while sink.total < wanted && !(run.stop)() {
        for publisher in &mut publishers {
            let under_way = |sent: u64, sink: &Filling| sent - sink.acknowledged[publisher.client];
            while publisher.sent < publisher.wanted && under_way(publisher.sent, &sink) < IN_FLIGHT {
                let place = usize::try_from(publisher.sent % publisher.channels as u64)?;
                let number = u32::try_from(publisher.sent % (1 << 31))?;
                publisher.sent += 1;
                fleet.publish(publisher.client, place, number, payload, 0);
            }
        }
        let before = sink.total;
        fleet.until(&mut sink, PATIENCE, "messages are stored", |_, sink| sink.total > before)?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            (run.progress)(&format!("{} of {wanted} messages are stored", sink.total));
        }
    }
    Ok(())
}

/// Waits until the subject no longer works at what it was given, such as a store that sorts what came. What is measured next is then what it says it
/// is. Does not wait for ever: who is measured all the same shows as a busy subject in the figures.
///
/// # Errors
/// When the subject is gone.
pub(crate) fn rest(running: &Running, run: &Run<'_>) -> Result<()> {
    let began = Instant::now();
    let mut at_rest = 0;
    while at_rest < RESTS && began.elapsed() < REST_WITHIN && !(run.stop)() {
        let watch = Stopwatch::start(running)?;
        std::thread::sleep(REST);
        at_rest = if watch.read()?.subject_busy() < BUSY { at_rest + 1 } else { 0 };
    }
    let waited = began.elapsed().as_secs_f64();
    let word = if at_rest == RESTS { "came to rest" } else { "is still busy with what it was given" };
    (run.progress)(&format!("the subject {word} after {waited:.0} s"));
    Ok(())
}

struct Publisher {
    client: usize,
    channels: usize,
    sent: u64,
    wanted: u64,
}

#[derive(Default)]
struct Filling {
    ready: usize,
    /// By client.
    acknowledged: Vec<u64>,
    total: u64,
}

impl Sink for Filling {
    fn delivered(&mut self, _: usize, _: u64, _: u64) {}

    fn event(&mut self, client: usize, event: Event, _: u64) -> Result<()> {
        match event {
            Event::Ready => self.ready += 1,
            Event::Acknowledged { .. } => {
                self.total += 1;
                if let Some(acknowledged) = self.acknowledged.get_mut(client) {
                    *acknowledged += 1;
                }
            }
            Event::Page { .. } | Event::Busy { .. } => {}
        }
        Ok(())
    }
}
