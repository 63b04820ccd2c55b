//! Peers that are libraries of JavaScript, behind the servers in `perf/peers`: Socket.IO, `ws`, and uWebSockets in bun.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use super::launch::{self, Launch, package_version, printed, program, settings};
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect::{self, Dialect};

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JavaScript {
    SocketIo,
    Ws,
    UWebSockets,
}

impl JavaScript {
    fn folder(self) -> &'static str {
        match self {
            Self::SocketIo => "socketio",
            Self::Ws => "ws",
            Self::UWebSockets => "uwebsockets",
        }
    }

    fn file(self, name: &str) -> PathBuf {
        settings(self.folder()).join(name)
    }

    /// What runs its server.
    fn runtime(self) -> Option<PathBuf> {
        match self {
            Self::SocketIo | Self::Ws => program("node"),
            Self::UWebSockets => Some(self.file("node_modules/.bin/bun")),
        }
    }

    /// Its package's version, and its runtime's if that is another.
    fn version(self, runtime: &PathBuf) -> Result<String> {
        let runtime_version = printed(Command::new(runtime).arg("--version"))?;
        let package = |name: &str| package_version(&self.file("node_modules").join(name).join("package.json"));
        Ok(match self {
            Self::SocketIo => format!("{}, ws {}, Node {runtime_version}", package("socket.io")?, package("ws")?),
            Self::Ws => format!("{}, Node {runtime_version}", package("ws")?),
            Self::UWebSockets => format!("bun {runtime_version}"),
        })
    }
}

impl Subject for JavaScript {
    fn name(&self) -> &'static str {
        match self {
            Self::SocketIo => "socket.io",
            Self::Ws => "ws",
            Self::UWebSockets => "uwebsockets",
        }
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        match (self, history) {
            (_, History::Durable) => None,
            (Self::SocketIo, History::Windowed) => Some("resumes from memory"),
            _ => Some("at most once"),
        }
    }

    fn missing(&self) -> Option<Missing> {
        let modules = self.file("node_modules");
        launch::missing(Some(&modules), &format!("{}", modules.display()), launch::INSTALL)
            .or_else(|| launch::missing(self.runtime().as_deref(), "program that runs it", launch::INSTALL))
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let runtime = self.runtime().unwrap_or_default();
        let launch = Launch::new()?;
        let mut command = Command::new(&runtime);
        command.current_dir(launch.folder()).arg(self.file("server.mjs")).arg("0").env("DO_NOT_TRACK", "1");
        if *self == Self::SocketIo && needs.history != History::None {
            command.arg("recovery");
        }
        let tokens = launch::tokens();
        let dialect: Arc<dyn Dialect> = match self {
            Self::SocketIo => Arc::new(dialect::socketio::SocketIo { tokens }),
            Self::Ws | Self::UWebSockets => Arc::new(dialect::rooms::Rooms { tokens }),
        };
        let version = self.version(&runtime)?;
        needs.cores.while_pinned(|| launch.announced(&mut command, dialect, version))
    }
}
