//! A driver that runs: commands go in, and what comes out is in a transcript. `../../DRIVER.md` is its contract.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::judge::Fault;
use crate::transcript::{Entry, Shared};

/// Version of the driver protocol.
const PROTOCOL: u64 = 1;
/// Longest line.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Until a driver is ready, and until one ends that was told to.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of standard error is kept.
const STDERR_BYTES_MAX: usize = 16 << 10;
/// Between two looks at a process that ends.
const LOOK: Duration = Duration::from_millis(5);

/// The way to a driver. Clones share it.
#[derive(Clone)]
pub struct Link(Arc<LinkState>);

struct LinkState {
    input: Mutex<Option<Box<dyn Write + Send>>>,
    next_id: AtomicU64,
    transcript: Shared,
}

/// See the module. Its process ends with it.
pub struct Driver {
    child: Option<Child>,
    link: Link,
    stderr: Arc<Mutex<String>>,
    /// What it says it has.
    pub capabilities: Vec<String>,
}

/// What is done about an event as soon as it comes, on the thread that reads it.
pub type OnEvent = Box<dyn FnMut(&Link, &Value) + Send>;

impl Driver {
    /// Starts a process and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, or says something else than that it is ready.
    pub fn start(command: &mut Command, on_event: OnEvent) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        let (stdin, stdout) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        let stderr = Arc::<Mutex<String>>::default();
        let (mut errors, kept) = (child.stderr.take().context("piped")?, stderr.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Somebody must go on reading, or a talkative driver would stand still.
            while let Ok(count @ 1..) = errors.read(&mut buffer) {
                let mut kept = kept.lock().expect("no holder panics");
                if kept.len() < STDERR_BYTES_MAX {
                    kept.push_str(&String::from_utf8_lossy(&buffer[..count]));
                }
            }
        });
        let mut driver = Self::over(Box::new(stdout), Box::new(stdin), on_event);
        driver.child = Some(child);
        driver.stderr = stderr;
        driver.until_ready()?;
        Ok(driver)
    }

    /// A driver behind any pair of streams; [`Self::until_ready`] comes next.
    pub fn over(output: Box<dyn Read + Send>, input: Box<dyn Write + Send>, mut on_event: OnEvent) -> Self {
        let transcript = Shared::default();
        let state = LinkState { input: Mutex::new(Some(input)), next_id: AtomicU64::new(1), transcript };
        let link = Link(Arc::new(state));
        let reader = link.clone();
        std::thread::spawn(move || {
            let end = read(output, &reader, &mut on_event);
            reader.0.transcript.end(&end.map_or_else(|error| format!("{error:#}"), |()| "the driver has ended".into()));
        });
        Self { child: None, link, stderr: Arc::default(), capabilities: Vec::new() }
    }

    /// Waits for the first line.
    ///
    /// # Errors
    /// If it does not come, or is another.
    pub fn until_ready(&mut self) -> Result<()> {
        let first = self.link.0.transcript.wait(Instant::now() + PATIENCE, |transcript| {
            transcript.entries.iter().find_map(|entry| match entry {
                Entry::Event(event) => Some(event.clone()),
                _ => None,
            })
        });
        let first = match first {
            Ok(first) => first,
            Err(why) => bail!("the driver is not ready: {why}\n{}", self.stderr()),
        };
        ensure!(first["event"] == "ready", "the driver's first line is {first}");
        ensure!(first["protocol"] == PROTOCOL, "the driver speaks protocol {}, not {PROTOCOL}", first["protocol"]);
        let capabilities = first["capabilities"].as_array().context("a driver lists its capabilities")?;
        self.capabilities = capabilities.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        Ok(())
    }

    /// The way to it.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// What it said and was told.
    pub fn transcript(&self) -> Shared {
        self.link.0.transcript.clone()
    }

    /// What it wrote to standard error.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no holder panics").clone()
    }

    /// Ends it and reads what it still says.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        *self.link.0.input.lock().expect("no holder panics") = None;
        let ended = self.link.0.transcript.wait(deadline, |transcript| transcript.end.clone());
        if let Err(why) = ended {
            bail!("standard input has ended, the driver has not: {why}");
        }
        let Some(mut child) = self.child.take() else { return Ok(()) };
        loop {
            match child.try_wait().context("wait for the driver")? {
                Some(status) => {
                    ensure!(status.success(), "the driver ended with {status}");
                    return Ok(());
                }
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("the driver closed standard output and did not end");
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Link {
    /// Gives a command a number, and the driver the command.
    ///
    /// # Errors
    /// If the driver has gone.
    pub fn command(&self, mut command: Value) -> Result<u64> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        command["id"] = id.into();
        let line = format!("{command}\n");
        // Held over both, so that the transcript has the order of the lines.
        let mut input = self.0.input.lock().expect("no holder panics");
        self.0.transcript.push(Entry::Command(command));
        let input = input.as_mut().context("the driver was told to end")?;
        let told = input.write_all(line.as_bytes()).and_then(|()| input.flush());
        // Whether it is heard of here or by the end of what the driver says is a matter of luck.
        let why = match &told {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => "the driver has ended",
            _ => "tell the driver",
        };
        told.context(why)?;
        Ok(id)
    }
}

fn read(output: Box<dyn Read + Send>, link: &Link, on_event: &mut OnEvent) -> Result<()> {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("read the driver")?;
        if count == 0 {
            return Ok(());
        }
        ensure!(line.ends_with(b"\n"), "the driver wrote a line without an end, or over {LINE_BYTES_MAX} bytes");
        match serde_json::from_slice::<Value>(&line) {
            Ok(event) if event["event"].is_string() => {
                link.0.transcript.push(Entry::Event(event.clone()));
                on_event(link, &event);
            }
            _ => {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                link.0.transcript.push(Entry::Note(format!("not an event: {line}")));
                link.0.transcript.lock().ledger.faults.push(Fault::BadEvent { line });
            }
        }
    }
}
