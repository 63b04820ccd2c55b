//! What the processes of one driver share, such as a browser: started once before the first scenario, ended after the last.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Until it says its line, and until it ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest line.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Between two looks at a process that ends.
const LOOK: Duration = Duration::from_millis(5);

/// A process that runs beside the drivers. It is told to end by the end of its standard input when this is dropped.
pub struct Host {
    child: Child,
    /// What it said first: how drivers find it.
    pub line: String,
}

impl Host {
    /// Starts a process and waits for its first line.
    ///
    /// # Errors
    /// If it cannot be started, or ends or is silent instead.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        let output = child.stdout.take().context("piped")?;
        // From here on it ends with us, whatever it says.
        let mut host = Self { child, line: String::new() };
        let (says, hears) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            let read = output.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
            // Nobody hears a host that was too late.
            let _ = says.send(read.map(|_| line));
            // Somebody must go on reading, or a talkative host would stand still.
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        });
        let line = match hears.recv_timeout(PATIENCE) {
            Ok(line) => line.with_context(|| format!("read {program}"))?,
            Err(_) => bail!("{program} says nothing"),
        };
        ensure!(line.ends_with('\n'), "{program} has ended, or says too much: {line:?}");
        host.line = line.trim_end().to_owned();
        Ok(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
