//! `millrace config`: what can be set, and whether a file is right.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Sources, logging};
use crate::settings;

/// Show or check settings.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  millrace config example > millrace.toml\n  millrace config check --config millrace.toml\n  \
    MILLRACE_DATA_SHARDS=4 millrace config check"
)]
pub(crate) enum Config {
    /// Print a settings file with every key at its default
    Example,
    /// Check file, environment and flags, and print the settings that would be in force
    Check {
        #[command(flatten)]
        sources: Sources,
    },
}

pub(crate) fn run(command: &Config) -> Result<()> {
    match command {
        Config::Example => write(&settings::example()?),
        Config::Check { sources } => {
            let mut settings = sources.load()?;
            // What a node would read at its start; a secret that is not set may come from elsewhere then.
            logging::filter(&settings.log)?;
            settings.cluster.given()?;
            settings.control.operator_key()?;
            // Shown to people and pasted into tickets.
            for secret in [&mut settings.cluster.secret, &mut settings.control.operator_key] {
                if !secret.is_empty() {
                    *secret = "(set)".into();
                }
            }
            write(&toml::to_string(&settings).context("write the settings as TOML")?)
        }
    }
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write")
}
