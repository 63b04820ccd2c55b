//! ejabberd: rooms of XMPP over WebSocket.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::launch::{self, Launch, free_port, program};
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::dialect::token::SECRET;

pub(crate) struct Ejabberd;

const INSTALL: &str = "apt-get install ejabberd (or cargo xtask peers, which keeps its service from starting)";

/// Where its code is: Erlang's library folder, and the folder in it that names the version.
fn library() -> Option<(PathBuf, String)> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.chain([PathBuf::from("/usr/lib")]).find_map(|folder| {
        let entries = std::fs::read_dir(&folder).ok()?.flatten();
        let version = entries
            .filter(|entry| entry.path().join("ebin/ejabberd.app").exists())
            .find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("ejabberd-")?.to_owned()))?;
        Some((folder, version))
    })
}

impl Subject for Ejabberd {
    fn name(&self) -> &'static str {
        "ejabberd"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        (history != History::Durable).then_some("at most once")
    }

    fn missing(&self) -> Option<Missing> {
        let library = library().map(|(folder, _)| folder);
        launch::missing(library.as_deref(), "ejabberd", INSTALL)
            .or_else(|| launch::missing(program("erl").as_deref(), "erl", INSTALL))
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let (library, version) = library().context("there is no ejabberd")?;
        let launch = Launch::new()?;
        let port = free_port()?;
        let folder = launch.folder().to_owned();
        let places = [("@PORT@", &*port.to_string()), ("@FOLDER@", &*folder.display().to_string())];
        let config = launch.write("ejabberd.yml", include_str!("../../peers/ejabberd/ejabberd.yml"), &places)?;
        let key = BASE64_URL_SAFE_NO_PAD.encode(SECRET);
        launch.write("jwt.json", &format!(r#"{{"kty":"oct","alg":"HS256","k":"{key}"}}"#), &[])?;
        let schedulers = needs.cores.count().to_string();
        let mut command = Command::new("erl");
        // As its own control script starts it, but for the schedulers, and without a name: nobody is to find this node.
        command.args(["+K", "true", "+P", "250000", "+S", &schedulers]);
        // Its schedulers would spin for a while before they sleep: on a core of their own that gains microseconds, but it is counted here.
        command.args(["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none", "-noinput", "-mnesia", "dir"]);
        command.arg(format!("\"{}\"", folder.join("mnesia").display())).args(["-s", "ejabberd"]);
        command
            .current_dir(&folder)
            .env("ERL_LIBS", library)
            .env("ERL_MAX_PORTS", "200000")
            .env("ERL_CRASH_DUMP", folder.join("crash.dump"))
            .env("EJABBERD_CONFIG_PATH", config)
            .env("EJABBERD_LOG_PATH", folder.join("ejabberd.log"));
        let dialect = Arc::new(dialect::ejabberd::Ejabberd { tokens: launch::tokens() });
        needs.cores.while_pinned(|| launch.at(port, &mut command, dialect, version))
    }
}
