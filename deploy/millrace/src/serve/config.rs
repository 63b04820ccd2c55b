//! `millrace config`: what can be set, and whether a file is right.

use anyhow::{Context, Result};
use clap::Subcommand;

use super::Sources;
use crate::settings::Settings;

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
        Config::Example => print(&Settings::default()),
        Config::Check { sources } => {
            let mut settings = sources.load()?;
            // Shown to people and pasted into tickets.
            for secret in [&mut settings.cluster.secret, &mut settings.control.operator_key] {
                if !secret.is_empty() {
                    *secret = "(set)".into();
                }
            }
            print(&settings)
        }
    }
}

fn print(settings: &Settings) -> Result<()> {
    let text = toml::to_string(settings).context("write the settings as TOML")?;
    print!("{text}");
    Ok(())
}
