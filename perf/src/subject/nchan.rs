//! nchan, a module of nginx.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::launch::{self, Launch, free_port, printed, program};
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;

pub(crate) struct Nchan;

const INSTALL: &str =
    "apt-get install nginx libnginx-mod-nchan (or cargo xtask peers, which keeps its service from starting)";

/// The folder of nginx's modules, if nchan is among them.
fn modules() -> Option<PathBuf> {
    let folders = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules"];
    folders.map(PathBuf::from).into_iter().find(|folder| folder.join("ngx_nchan_module.so").exists())
}

fn version(nginx: &Path) -> Result<String> {
    let text = printed(Command::new(nginx).arg("-v"))?;
    let nginx = text.rsplit('/').next().unwrap_or_default();
    // The module does not tell its own.
    let package = printed(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "libnginx-mod-nchan"]));
    let module = package.unwrap_or_default();
    Ok(if module.is_empty() { format!("nginx {nginx}") } else { format!("{module}, nginx {nginx}") })
}

impl Subject for Nchan {
    fn name(&self) -> &'static str {
        "nchan"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        match history {
            History::None => Some("at most once"),
            History::Windowed => Some("resumes from memory"),
            History::Durable => None,
        }
    }

    fn missing(&self) -> Option<Missing> {
        launch::missing(program("nginx").as_deref(), "nginx", INSTALL)
            .or_else(|| launch::missing(modules().as_deref(), "nchan among nginx's modules", INSTALL))
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let (nginx, modules) = (program("nginx"), modules());
        let (nginx, modules) = (nginx.context("there is no nginx")?, modules.context("there is no nchan")?);
        let launch = Launch::new()?;
        let port = free_port()?;
        let folder = launch.folder().to_owned();
        let places = [
            ("@PORT@", &*port.to_string()),
            ("@CORES@", &*needs.cores.count().to_string()),
            ("@FOLDER@", &*folder.display().to_string()),
            ("@MODULES@", &*modules.display().to_string()),
        ];
        let config = launch.write("nginx.conf", include_str!("../../peers/nchan/nginx.conf"), &places)?;
        let class = if needs.history == History::None { "live" } else { "recover" };
        let dialect = Arc::new(dialect::nchan::Nchan { class });
        let mut command = Command::new(&nginx);
        command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(config);
        let version = version(&nginx)?;
        needs.cores.while_pinned(|| launch.at(port, &mut command, dialect, version))
    }
}
