//! The course of a run of many stages: which are alone and which run side by side, how long each took, and what came of all of them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

/// A name, and what is done.
pub(crate) type Stage<'a> = (&'static str, &'a (dyn Fn(&Workspace, &mut Tally) -> Result<()> + Sync));

/// A stage that has run.
struct Ran {
    name: &'static str,
    /// Since the beginning of the course.
    began: Duration,
    took: Duration,
    tally: Tally,
    outcome: Result<()>,
}

/// What has run so far, in the order in which it was asked for.
pub(crate) struct Course<'a> {
    workspace: &'a Workspace,
    began: Instant,
    ran: Vec<Ran>,
}

impl<'a> Course<'a> {
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, began: Instant::now(), ran: Vec::new() }
    }

    /// Runs a stage that has the machine for itself. Whether it could run at all; what it found is in its tally.
    pub(crate) fn alone(&mut self, stage: Stage<'_>) -> bool {
        let ran = run(self.workspace, self.began, stage);
        let is_ok = ran.outcome.is_ok();
        self.ran.push(ran);
        is_ok
    }

    /// Runs lanes of stages at the same time, within a lane one after the other. Whether all of them could run.
    pub(crate) fn side_by_side(&mut self, lanes: &[&[Stage<'_>]]) -> bool {
        let (workspace, began) = (self.workspace, self.began);
        let before = self.ran.len();
        std::thread::scope(|scope| {
            let lanes: Vec<_> = lanes
                .iter()
                .map(|lane| {
                    let workspace = workspace.beside();
                    let thread = scope
                        .spawn(move || lane.iter().map(|stage| run(&workspace, began, *stage)).collect::<Vec<_>>());
                    (lane.first().map_or("", |(name, _)| name), thread)
                })
                .collect();
            for (name, thread) in lanes {
                self.ran.extend(thread.join().unwrap_or_else(|_| vec![panicked(name)]));
            }
        });
        self.ran[before..].iter().all(|ran| ran.outcome.is_ok())
    }

    /// Prints where the time went, and adds all counts to `tally`.
    ///
    /// # Errors
    /// Those of all stages that could not run.
    pub(crate) fn finish(self, tally: &mut Tally) -> Result<()> {
        println!("\n{}", table(&self.ran, self.began.elapsed()));
        let mut errors = Vec::new();
        for ran in self.ran {
            tally.add(ran.tally);
            if let Err(error) = ran.outcome {
                errors.push(format!("{}: {error:#}", ran.name));
            }
        }
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }
}

fn run(workspace: &Workspace, course: Instant, (name, what): Stage<'_>) -> Ran {
    let began = course.elapsed();
    let mut tally = Tally::default();
    let outcome = what(workspace, &mut tally);
    Ran { name, began, took: course.elapsed().saturating_sub(began), tally, outcome }
}

/// Of a lane that came to no end, whose stages are not known any more.
fn panicked(first: &'static str) -> Ran {
    let outcome = Err(anyhow::anyhow!("the lane of this stage panicked"));
    Ran { name: first, began: Duration::ZERO, took: Duration::ZERO, tally: Tally::default(), outcome }
}

fn table(ran: &[Ran], all: Duration) -> String {
    let mut table = format!("{:20} {:>7} {:>7} {:>7} {:>7}", "stage", "from s", "took s", "passed", "failed");
    for Ran { name, began, took, tally, .. } in ran {
        let (began, took) = (began.as_secs_f32(), took.as_secs_f32());
        let line = format!("\n{name:20} {began:>7.0} {took:>7.0} {:>7} {:>7}", tally.passed(), tally.failed());
        table.push_str(&line);
    }
    table + &format!("\n{:20} {:>7} {:>7.0}", "all", "", all.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn lanes_run_at_the_same_time_and_are_told_in_their_order() {
        let workspace = Workspace::find();
        let mut course = Course::new(&workspace);
        // Each waits for the other: in turns they would never end.
        let both = Barrier::new(2);
        let meet = |_: &Workspace, tally: &mut Tally| {
            both.wait();
            tally.line("2 passed, 0 failed");
            Ok(())
        };
        let fail = |_: &Workspace, tally: &mut Tally| {
            tally.check("a check", &Err(anyhow::anyhow!("it is wrong")));
            anyhow::bail!("no disk")
        };
        assert!(!course.side_by_side(&[&[("one", &meet), ("two", &fail)], &[("three", &meet)]]));
        assert!(course.alone(("four", &|_, _| Ok(()))));
        let names: Vec<&str> = course.ran.iter().map(|ran| ran.name).collect();
        assert_eq!(names, ["one", "two", "three", "four"]);
        let mut tally = Tally::default();
        let error = course.finish(&mut tally).expect_err("one could not run");
        assert_eq!((tally.passed(), tally.failed()), (4, 1));
        assert_eq!(error.to_string(), "two: no disk");
    }

    #[test]
    fn a_lane_that_panics_is_a_failure_and_the_others_count() {
        let workspace = Workspace::find();
        let mut course = Course::new(&workspace);
        let count = |_: &Workspace, tally: &mut Tally| {
            tally.line("1 passed, 0 failed");
            Ok(())
        };
        assert!(!course.side_by_side(&[&[("one", &|_, _| panic!("by a mistake"))], &[("two", &count)]]));
        let mut tally = Tally::default();
        let error = course.finish(&mut tally).expect_err("one panicked");
        assert_eq!((tally.passed(), error.to_string().starts_with("one: ")), (1, true));
    }
}
