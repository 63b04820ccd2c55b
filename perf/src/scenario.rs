//! Scenarios: what is asked of a subject, as TOML. Those in `perf/scenarios` are built in; a path names another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::subject::{Credential, History};

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its file's name without the end; not in the file.
    #[serde(skip)]
    pub(crate) name: String,
    /// What it shows, in a line.
    pub(crate) title: String,
    /// Times that everything is measured, in turns between the subjects.
    pub(crate) runs: u32,
    /// Subjects that it makes sense for; empty: all.
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(flatten)]
    pub(crate) workload: Workload,
}

/// What is done; one table of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    Fanout(Fanout),
}

/// Messages to channels, to all their subscribers, at steady rates. Open loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Fanout {
    pub(crate) channels: Vec<u32>,
    /// Of each channel.
    pub(crate) subscribers: Vec<u32>,
    /// Messages per second to all channels together, in turn.
    pub(crate) rates: Vec<f64>,
    /// Bytes.
    pub(crate) payloads: Vec<usize>,
    #[serde(default)]
    pub(crate) history: History,
    #[serde(with = "humantime_serde")]
    pub(crate) warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) measure: Duration,
    /// Then: rates from the last on, half as much again each time, until p99 passes this or messages are lost.
    #[serde(default, with = "humantime_serde::option")]
    pub(crate) saturate_until_p99: Option<Duration>,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each scenario that comes with the program.
        pub(crate) const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

built_in!["big-room", "fanout", "fanout-saturation", "fanout-sizes", "rooms", "smoke"];

impl Scenario {
    /// A scenario by the name of a built-in one, or by the path of a file.
    ///
    /// # Errors
    /// When there is none, or it makes no sense.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        let known = || BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{name:?} is neither a scenario ({}) nor a file that can be read", known()))?;
        let stem = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&stem, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        scenario.name = name.to_owned();
        ensure!(
            (1..=100).contains(&scenario.runs),
            "scenario {name}: runs is {}, it has to be 1 to 100",
            scenario.runs
        );
        scenario.workload.check().with_context(|| format!("scenario {name}"))?;
        Ok(scenario)
    }
}

impl Workload {
    fn check(&self) -> Result<()> {
        match self {
            Self::Fanout(fanout) => fanout.check(),
        }
    }
}

impl Fanout {
    fn check(&self) -> Result<()> {
        let lists = [self.channels.len(), self.subscribers.len(), self.rates.len(), self.payloads.len()];
        ensure!(lists.iter().all(|&length| length > 0), "channels, subscribers, rates and payloads each need a value");
        ensure!(self.channels.iter().all(|&count| count > 0), "channels have to be 1 or more");
        ensure!(self.subscribers.iter().all(|&count| count > 0), "subscribers have to be 1 or more");
        ensure!(
            self.rates.iter().all(|&rate| rate > 0.0 && rate <= 1e7),
            "rates have to be above 0, and 10,000,000/s at most"
        );
        let least = crate::stamp::BYTES_MIN;
        ensure!(
            self.payloads.iter().all(|bytes| (least..=60_000).contains(bytes)),
            "payloads have to be {least} to 60000 bytes: the time of sending is in them"
        );
        ensure!(!self.measure.is_zero(), "measure has to be longer than nothing");
        Ok(())
    }
}

/// The credential that a workload asks for.
impl Workload {
    pub(crate) fn credential(&self) -> Credential {
        Credential::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_folder_is_built_in_and_makes_sense() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(files, known);
        for name in known {
            Scenario::load(name).expect(name);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        let good = "title = 'x'\nruns = 1\n[fanout]\nchannels = [1]\nsubscribers = [10]\nrates = [1]\npayloads = [20]\nwarm-up = '1s'\nmeasure = '1s'\n";
        Scenario::parse("good", good).expect("a scenario");
        for (from, to, reason) in [
            ("runs = 1", "runs = 0", "runs is 0"),
            ("payloads = [20]", "payloads = [19]", "20 to 60000 bytes"),
            ("rates = [1]", "rates = []", "need a value"),
            ("rates = [1]", "rates = [0]", "above 0"),
            ("subscribers = [10]", "subscribers = [0]", "1 or more"),
            ("title = 'x'", "title = 'x'\nspeed = 1", "speed"),
            ("measure = '1s'", "measure = 'soon'", "soon"),
        ] {
            let text = good.replace(from, to);
            let error = format!("{:#}", Scenario::parse("bad", &text).expect_err(to));
            assert!(error.contains(reason), "{to}: {error}");
        }
    }

    #[test]
    fn an_unknown_name_tells_the_known_ones() {
        let error = format!("{:#}", Scenario::load("fanuot").expect_err("no such scenario"));
        assert!(error.contains("fanout"), "{error}");
    }
}
