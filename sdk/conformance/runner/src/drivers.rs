//! Which drivers there are: `../../drivers.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::host::Host;
use crate::transport::Transport;

/// One SDK's driver: how it is built and started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// The SDK's name for people.
    pub title: String,
    /// Where its commands run, from the repository's root.
    #[serde(default)]
    pub folder: PathBuf,
    /// What its SDK has, of all transports.
    pub transports: Vec<Transport>,
    /// Programs without which it is left out.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Builds it; nothing to do if empty.
    #[serde(default)]
    pub build: Vec<String>,
    /// Starts what its processes share, whose first line is `{host}` in `run`; nothing is shared if empty.
    #[serde(default)]
    pub host: Vec<String>,
    /// Starts it.
    pub run: Vec<String>,
    /// Set for all three.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The repository.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// File of the authority that servers' certificates are from.
    pub ca: PathBuf,
    /// What Chromium takes instead; see [`Trust::spki`](crate::trust::Trust::spki).
    pub spki: String,
}

impl DriverSpec {
    /// Reads `drivers.toml`; SDKs by their short names, in the order of those.
    ///
    /// # Errors
    /// If it is not what it should be.
    pub fn load_all(path: &Path) -> Result<BTreeMap<String, Self>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let specs: BTreeMap<String, Self> = toml::from_str(&text).with_context(|| path.display().to_string())?;
        for (name, spec) in &specs {
            ensure!(!spec.run.is_empty(), "{name} has nothing to run");
            ensure!(spec.transports.contains(&Transport::Ws), "{name} has no transport, or not the one that all have");
            ensure!(spec.transports.is_sorted_by(|a, b| a < b), "the transports of {name} are not in order");
            let names_host = spec.run.iter().any(|word| word.contains("{host}"));
            ensure!(
                names_host != spec.host.is_empty(),
                "{name} must have both `host` and {{host}} in `run`, or neither"
            );
        }
        Ok(specs)
    }

    /// The first of its needs that this machine does not have.
    pub fn missing(&self) -> Option<&str> {
        let folders: Vec<PathBuf> =
            std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        let has = |program: &&String| folders.iter().any(|folder| folder.join(program).is_file());
        self.needs.iter().find(|program| !has(program)).map(String::as_str)
    }

    /// Builds the driver.
    ///
    /// # Errors
    /// If that fails.
    pub fn build(&self, name: &str, places: &Places) -> Result<()> {
        if self.build.is_empty() {
            return Ok(());
        }
        let status = self.command(name, &self.build, places)?.status();
        let status = status.with_context(|| format!("build the driver of {name}: {:?}", self.build))?;
        ensure!(status.success(), "build the driver of {name}: {status}");
        Ok(())
    }

    /// Starts what its processes share, if there is anything, and lets them know. It ends when the host is dropped.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_host(&mut self, name: &str, places: &Places) -> Result<Option<Host>> {
        if self.host.is_empty() {
            return Ok(None);
        }
        let mut command = self.command(name, &self.host, places)?;
        let host = Host::start(&mut command).with_context(|| format!("start the host of {name}"))?;
        for word in &mut self.run {
            *word = word.replace("{host}", &host.line);
        }
        Ok(Some(host))
    }

    /// The process to start.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn process(&self, name: &str, places: &Places) -> Result<Command> {
        self.command(name, &self.run, places)
    }

    fn command(&self, name: &str, words: &[String], places: &Places) -> Result<Command> {
        let out = places.target.join("conformance").join(name);
        std::fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
        let fill = |word: &String| {
            word.replace("{out}", &out.to_string_lossy())
                .replace("{target}", &places.target.to_string_lossy())
                .replace("{ca}", &places.ca.to_string_lossy())
                .replace("{spki}", &places.spki)
        };
        let mut words = words.iter().map(fill);
        let program = words.next().context("a command has a program")?;
        let mut command = Command::new(program);
        command.args(words).current_dir(places.root.join(&self.folder)).env("CARGO_TARGET_DIR", &places.target);
        command.envs(self.env.iter().map(|(name, value)| (name, fill(value))));
        Ok(command)
    }
}
