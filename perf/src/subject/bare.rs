//! The limit: a loop that receives a payload and sends the same bytes to every socket of a room, and does nothing else.
//!
//! It runs as a process of this program, so that its CPU time is counted as every other subject's is.

mod server;

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::launch::PATIENCE;
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::process::Owned;
use crate::raw::ring::SendRing;

pub(crate) use server::serve;

/// The plain one's name: ratios are to this.
pub(crate) const NAME: &str = "bare send";

/// How it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ring {
    /// One `send` per socket and turn.
    Send,
    /// The same sends, up to 512 of them with one system call.
    Uring,
}

pub(crate) struct Bare {
    pub(crate) ring: Ring,
}

impl Subject for Bare {
    fn name(&self) -> &'static str {
        match self.ring {
            Ring::Send => NAME,
            Ring::Uring => "bare uring",
        }
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        (history != History::Durable).then_some("none: the limit")
    }

    fn missing(&self) -> Option<Missing> {
        match self.ring {
            Ring::Send => None,
            Ring::Uring => SendRing::new().err().map(|error| Missing {
                why: format!("no io_uring: {error}"),
                install: "sysctl kernel.io_uring_disabled=0 (Linux 6.1 or newer; a container's seccomp profile must allow it)"
                    .to_owned(),
            }),
        }
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let program = std::env::current_exe().context("find this program")?;
        let ring = self.ring.to_possible_value().context("a name for the ring")?;
        let mut owned = needs.cores.while_pinned(|| {
            Owned::start(Command::new(program).args(["bare", "--ring", ring.get_name()]).stdout(Stdio::piped()))
        })?;
        let line = owned.first_line(PATIENCE).context("wait for the bare sender")?;
        let address = line.trim().parse().with_context(|| format!("the bare sender said {line:?}"))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Running::one(address, Arc::new(dialect::bare::Bare), version, owned))
    }
}
