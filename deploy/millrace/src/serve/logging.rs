//! Logs of a node, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::settings::{Log, LogFormat};

/// Starts logging for the whole process.
///
/// # Errors
/// If the filter cannot be read.
pub(crate) fn start(log: &Log) -> Result<()> {
    let filter = filter(log)?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Which events are written.
///
/// # Errors
/// If the filter cannot be read.
pub(crate) fn filter(log: &Log) -> Result<EnvFilter> {
    EnvFilter::try_new(&log.filter)
        .with_context(|| format!("log.filter {:?}: write a level, or target=level pairs", log.filter))
}
