//! Starting a peer: its settings, its folder, its port, and how one knows that it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{Missing, Running};
use crate::dialect::Dialect;
use crate::dialect::token::Tokens;
use crate::process::{self, Owned};

/// What puts peers in place, unless one has a way of its own.
pub(crate) const INSTALL: &str = "cargo xtask peers";
/// A peer that is not ready by then will not be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const TOKENS_VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// A peer that is about to be started.
pub(crate) struct Launch {
    folder: TempDir,
}

impl Launch {
    /// # Errors
    /// When there is no room for a temporary folder.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().context("make a folder for the peer")? })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes settings with their places filled in, such as `@PORT@`, and returns where they are.
    ///
    /// # Errors
    /// When a place is left, and from the file system.
    pub(crate) fn write(&self, name: &str, settings: &str, places: &[(&str, &str)]) -> Result<PathBuf> {
        let text = places.iter().fold(settings.to_owned(), |text, (place, value)| text.replace(place, value));
        let is_comment = |line: &&str| line.trim_start().starts_with('#');
        let left = text.lines().filter(|line| !is_comment(line)).find(|line| has_place(line));
        ensure!(left.is_none(), "{name}: nothing to put into {left:?}");
        let path = self.folder().join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Starts a server that listens where it was told; it is ready when it answers a request there, whatever it answers.
    ///
    /// # Errors
    /// When it does not start, ends, or takes too long; what it said is in the error.
    pub(crate) fn at(
        self,
        port: u16,
        command: &mut Command,
        dialect: Arc<dyn Dialect>,
        version: String,
    ) -> Result<Running> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let log = self.log()?;
        let mut owned = Owned::start(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))?;
        let deadline = Instant::now() + PATIENCE;
        while !answers(address) {
            let program = command.get_program().display();
            ensure!(!owned.has_ended()?, "{program} ended: {}", self.said());
            ensure!(Instant::now() < deadline, "{program} does not answer after {PATIENCE:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self.running(address, owned, dialect, version))
    }

    /// Starts one of our own small servers, which says where it listens.
    ///
    /// # Errors
    /// When it does not start or ends; what it said is in the error.
    pub(crate) fn announced(
        self,
        command: &mut Command,
        dialect: Arc<dyn Dialect>,
        version: String,
    ) -> Result<Running> {
        let log = self.log()?;
        let mut owned = Owned::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log))?;
        let program = command.get_program().display().to_string();
        let line = owned.first_line(PATIENCE).with_context(|| format!("{program}: {}", self.said()))?;
        let ready: Option<Value> = serde_json::from_str(&line).ok();
        let address = ready.as_ref().and_then(|ready| ready["listening"].as_str()?.parse().ok());
        let Some(address) = address else { bail!("{program} said {line:?}: {}", self.said()) };
        Ok(self.running(address, owned, dialect, version))
    }

    fn running(self, address: SocketAddr, owned: Owned, dialect: Arc<dyn Dialect>, version: String) -> Running {
        Running { folder: Some(self.folder), ..Running::one(address, dialect, version, owned) }
    }

    fn log(&self) -> Result<File> {
        File::create(self.folder().join("log")).context("make a log for the peer")
    }

    /// The end of what the peer has printed.
    fn said(&self) -> String {
        let bytes = std::fs::read(self.folder().join("log")).unwrap_or_default();
        let start = bytes.len().saturating_sub(2000);
        String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
    }
}

/// Whether somebody who speaks HTTP is there: a parent process listens before its workers are there to answer.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        socket.read(&mut [0; 12])
    };
    ask().is_ok_and(|count| count > 0)
}

/// Whether a line has a place that was not filled in: capitals between two `@`.
fn has_place(line: &str) -> bool {
    let parts: Vec<&str> = line.split('@').collect();
    parts.len() > 2 && parts[1..parts.len() - 1].iter().any(|part| is_name(part))
}

fn is_name(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// A port that is free now. A peer that cannot choose one itself gets it; should another program be faster, the peer says so and the run fails.
///
/// # Errors
/// From the operating system.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// Tokens that outlive the run.
pub(crate) fn tokens() -> Tokens {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Tokens::new((now + TOKENS_VALID).as_secs())
}

/// A file of `perf/peers`.
pub(crate) fn settings(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(path)
}

/// A program that was built into the target folder, above this program.
pub(crate) fn built(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().map(|folder| folder.join("peers/bin").join(name)).find(|path| path.exists())
}

/// A program of this system.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    // Servers are often where only the administrator's PATH leads.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&folders).chain(more).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// [`Missing`], unless it is there.
pub(crate) fn missing(found: Option<&Path>, what: &str, install: &str) -> Option<Missing> {
    match found {
        Some(path) if path.exists() => None,
        _ => Some(Missing { why: format!("there is no {what}"), install: install.to_owned() }),
    }
}

/// What a program prints, trimmed.
///
/// # Errors
/// When it does not run or does not end.
pub(crate) fn printed(command: &mut Command) -> Result<String> {
    process::output_of(command, PATIENCE)
}

/// The version in a `package.json`.
///
/// # Errors
/// When it cannot be read or has none.
pub(crate) fn package_version(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let package: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    Ok(package["version"].as_str().with_context(|| format!("{} has no version", path.display()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_when_every_place_is_filled() {
        let launch = Launch::new().expect("a folder");
        let text = "# @PORT@ is replaced\nlisten @PORT@;\nmail a@b.c;\n";
        let path = launch.write("x.conf", text, &[("@PORT@", "80")]).expect("all filled");
        assert_eq!(std::fs::read_to_string(path).expect("written"), "# 80 is replaced\nlisten 80;\nmail a@b.c;\n");
        let error = launch.write("x.conf", "dir @FOLDER@/x", &[("@PORT@", "80")]).expect_err("a place is left");
        assert!(error.to_string().contains("@FOLDER@"), "{error}");
    }

    #[test]
    fn a_peer_that_ends_at_once_is_told_with_its_words() {
        let script = "echo the disk is full; exit 3";
        let mut command = Command::new("sh");
        let dialect = Arc::new(crate::dialect::bare::Bare);
        let launch = Launch::new().expect("a folder");
        let port = free_port().expect("a port");
        let started = launch.at(port, command.args(["-c", script]), dialect.clone(), String::new());
        let error = format!("{:#}", started.err().expect("it ended"));
        assert!(error.contains("the disk is full"), "{error}");
        let launch = Launch::new().expect("a folder");
        let script = "echo no port >&2; echo what";
        let started = launch.announced(Command::new("sh").args(["-c", script]), dialect, String::new());
        let error = format!("{:#}", started.err().expect("it ended"));
        assert!(error.contains("no port") && error.contains("what"), "{error}");
    }
}
