//! Commands that run nodes.

pub(crate) mod config;
mod control;
pub(crate) mod dev;
mod logging;
pub(crate) mod node;
mod plan;
mod stop;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::settings::Settings;

/// Where settings come from, the same for every node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sources {
    /// Settings file (TOML)
    #[arg(long, env = "MILLRACE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over file and environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

impl Sources {
    fn load(&self) -> Result<Settings> {
        // Names that are not UTF-8 cannot be ours.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Settings::load(self.config.as_deref(), environment, &self.overrides)
    }
}
