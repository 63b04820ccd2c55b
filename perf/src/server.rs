//! The server under test: `millrace dev` as a process of its own, and what the kernel says of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A running server; it ends with this value.
pub(crate) struct Server {
    child: Child,
    binary: PathBuf,
    folder: tempfile::TempDir,
    ready: Ready,
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    token: String,
}

impl Server {
    pub(crate) fn start(binary: &Path, shards: u16) -> Result<Self> {
        let binary = binary.canonicalize().with_context(|| format!("find {}", binary.display()))?;
        let folder = tempfile::tempdir().context("make a folder for the server")?;
        let mut child = Command::new(&binary)
            .current_dir(folder.path())
            .args(["dev", "--json", "--ephemeral-ports", "--set", "log.filter=warn"])
            .args(["--set", &format!("data.shards={shards}")])
            // A reader that slept through a whole round still reads how it ended.
            .args(["--set", "data.linger=60s"])
            .args(["--set", "limits.publish_rate=1000000", "--set", "limits.publish_burst=1000000"])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("standard output is piped")?;
        BufReader::new(stdout).read_line(&mut line).context("wait for the server")?;
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("the server said {line:?}"))?;
        let address = ready.url.trim_start_matches("ws://").trim_end_matches('/');
        let address = address.parse().with_context(|| format!("address of the server, {}", ready.url))?;
        Ok(Self { child, binary, folder, ready, address })
    }

    /// A token of the development user.
    pub(crate) fn token(&self) -> &str {
        &self.ready.token
    }

    /// Makes a channel with the development user as its owner.
    pub(crate) fn channel(&self, name: &str, history: &str) -> Result<()> {
        let output = Command::new(&self.binary)
            .current_dir(self.folder.path())
            .args(["channel", "create", name, "--owner", "alice", "--history", history])
            .output()
            .context("run millrace channel create")?;
        ensure!(output.status.success(), "millrace channel create: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// CPU time of the process so far, user and system together.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has a name")?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
    }

    /// Private memory of the process in bytes: what it alone costs.
    pub(crate) fn private_bytes(&self) -> Result<u64> {
        let rollup = self.proc("smaps_rollup")?;
        let kib: u64 = rollup
            .lines()
            .filter(|line| line.starts_with("Private_Dirty:") || line.starts_with("Private_Clean:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        Ok(kib * 1024)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have died by itself; the benchmark has said so then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
