//! Logs of a node, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
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
/// If the filter cannot be read. A word that is no level is refused, although the library takes it as a target: alone it would
/// silence everything else.
pub(crate) fn filter(log: &Log) -> Result<EnvFilter> {
    let how = "write a level (off, error, warn, info, debug, trace), or target=level pairs with commas between them";
    for part in log.filter.split(',').map(str::trim) {
        let is_known = part.contains('=') || part.parse::<LevelFilter>().is_ok();
        ensure!(is_known, "log.filter {:?}: {part:?} is no level; {how}", log.filter);
    }
    EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter {:?}: {how}", log.filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_pairs() {
        let check = |text: &str, expect: Option<&str>| {
            let log = Log { filter: text.into(), ..Log::default() };
            match (filter(&log), expect) {
                (Ok(_), None) => {}
                (Err(error), Some(expect)) => assert!(format!("{error:#}").contains(expect), "{error:#}"),
                (result, _) => panic!("{text:?}: {result:?}"),
            }
        };
        for good in ["info", "WARN", "off", "info,millrace_data=debug", "warn,millrace_core[session{id=1}]=trace"] {
            check(good, None);
        }
        check("loud", Some("\"loud\" is no level"));
        check("info,millrace_data", Some("\"millrace_data\" is no level"));
        check("millrace_data=loud", Some("millrace_data=loud"));
    }
}
