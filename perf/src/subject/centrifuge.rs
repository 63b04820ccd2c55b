//! Centrifuge, the engine of Centrifugo, behind the server in `perf/peers/centrifuge`; and Centrifugo itself, if somebody has installed it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::launch::{self, Launch, built, printed, program};
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::dialect::centrifuge::{LIVE, RECOVER};

/// The library or the product.
pub(crate) enum Centrifuge {
    Library,
    Centrifugo,
}

impl Centrifuge {
    fn binary(&self) -> Option<PathBuf> {
        match self {
            Self::Library => built("centrifuge"),
            Self::Centrifugo => program("centrifugo"),
        }
    }
}

/// What channel names begin with, in the settings of both.
fn namespace(history: History) -> &'static str {
    match history {
        History::None => LIVE,
        History::Windowed | History::Durable => RECOVER,
    }
}

impl Subject for Centrifuge {
    fn name(&self) -> &'static str {
        match self {
            Self::Library => "centrifuge",
            Self::Centrifugo => "centrifugo",
        }
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        match history {
            History::None => Some("at most once"),
            History::Windowed => Some("resumes from memory"),
            History::Durable => None,
        }
    }

    fn resumes(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<Missing> {
        match self {
            Self::Library => {
                launch::missing(self.binary().as_deref(), "build of perf/peers/centrifuge", launch::INSTALL)
            }
            Self::Centrifugo => launch::missing(
                self.binary().as_deref(),
                "centrifugo in PATH",
                "see https://centrifugal.dev/docs/getting-started/installation, version 6",
            ),
        }
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let binary = self.binary().context("it is not installed")?;
        let launch = Launch::new()?;
        let mut command = Command::new(&binary);
        command.current_dir(launch.folder()).env("GOMAXPROCS", needs.cores.count().to_string());
        let dialect = Arc::new(dialect::centrifuge::Centrifuge::new(launch::tokens(), namespace(needs.history)));
        let version = printed(Command::new(&binary).arg("version"))?;
        let version = version.trim_start_matches("Centrifugo v").trim_start_matches('v').to_owned();
        needs.cores.while_pinned(|| match self {
            Self::Library => launch.announced(&mut command, dialect, version),
            Self::Centrifugo => {
                let port = launch::free_port()?;
                let settings = include_str!("../../peers/centrifugo/config.yaml");
                let config = launch.write("config.yaml", settings, &[("@PORT@", &port.to_string())])?;
                launch.at(port, command.arg("--config").arg(config), dialect, version)
            }
        })
    }
}
