//! Sessions that only wait: memory and CPU time of each, as the slope between two populations, so that what a subject costs without
//! anybody is not in it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{PATIENCE, Run, Stopwatch};
use crate::dialect::{Event, Plan};
use crate::load::{Fleet, Sink};
use crate::process;
use crate::report;
use crate::scenario::Idle;
use crate::subject::{Algorithm, Needs, Users};

const CONNECTING_MAX: usize = 64;
/// Between the last join and the first reading: what came with it is freed or kept.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn run(idle: &Idle, run: &mut Run<'_>) -> Result<()> {
    let needs = Needs {
        channels: idle.channels,
        history: idle.history,
        clients: idle.populations[1] + 1,
        // Each of its own: what a user costs is in what a session costs.
        users: Users::of((0..idle.populations[1]).map(|user| vec![user % idle.channels]).collect()),
        algorithm: Algorithm::default(),
        transport: run.transport,
        cores: run.seats.subject.clone(),
    };
    let Some((running, guarantee)) = run.start(&needs)? else { return Ok(()) };
    let mut fleet = Fleet::new(running.target())?;
    let mut sink = Joined { ready: 0 };
    let mut readings = Vec::new();
    for population in idle.populations {
        (run.progress)(&format!("{population} sessions join, then wait for {:?}", idle.hold));
        while fleet.len() < population as usize {
            let number = fleet.len();
            let user = u32::try_from(number)?;
            fleet.open(Plan { subscribe: vec![user % idle.channels], token: Some(user), ..Plan::default() })?;
            fleet.until(&mut sink, PATIENCE, "sessions join", |_, sink| sink.ready + CONNECTING_MAX > number)?;
        }
        fleet.until(&mut sink, PATIENCE, "all sessions join", |fleet, sink| sink.ready == fleet.len())?;
        wait(&mut fleet, &mut sink, SETTLE, run)?;
        let watch = Stopwatch::start(&running)?;
        wait(&mut fleet, &mut sink, idle.hold, run)?;
        let cost = watch.read()?;
        readings.push(Reading {
            sessions: f64::from(population),
            private: super::count_f64(process::private_bytes(&running.family.members())?),
            kernel: super::count_f64(process::kernel_bytes()),
            cpu_us_per_second: cost.subject_busy() * 1e6,
        });
        if (run.stop)() {
            return Ok(());
        }
    }
    let [few, many] = &readings[..] else { return Ok(()) };
    let slope = |of: fn(&Reading) -> f64| (of(many) - of(few)) / (many.sessions - few.sessions);
    let point = [("from sessions", few.sessions), ("to sessions", many.sessions)];
    let mut values = vec![(report::KERNEL_PER_SESSION, slope(|reading| reading.kernel))];
    if !running.family.is_empty() {
        values.push((report::MEMORY_PER_SESSION, slope(|reading| reading.private)));
        values.push((report::CPU_PER_IDLE_SECOND, slope(|reading| reading.cpu_us_per_second)));
    }
    run.record(guarantee, &point, false, &values);
    Ok(())
}

/// What a population showed.
struct Reading {
    sessions: f64,
    private: f64,
    kernel: f64,
    cpu_us_per_second: f64,
}

/// Answers heartbeats for a while.
fn wait(fleet: &mut Fleet, sink: &mut Joined, time: Duration, run: &Run<'_>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end && !(run.stop)() {
        fleet.turn(end.min(Instant::now() + Duration::from_millis(100)), sink)?;
    }
    Ok(())
}

struct Joined {
    ready: usize,
}

impl Sink for Joined {
    fn delivered(&mut self, _: usize, _: u64, _: u64) {}

    fn event(&mut self, _: usize, event: Event, _: u64) -> Result<()> {
        self.ready += usize::from(event == Event::Ready);
        Ok(())
    }
}
