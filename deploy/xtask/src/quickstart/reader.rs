//! Who reads the document: a clone, a terminal in which the server runs, and a terminal of their own.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::document::Shown;

/// How long a block may take: a build from nothing on a busy machine is the longest.
const BLOCK: Duration = Duration::from_secs(240);
/// Between two looks at a process that may have ended.
const LOOK: Duration = Duration::from_millis(200);
/// Lines that wait to be compared.
const LINES_MAX: usize = 1024;
/// What the shell prints when it is through with a block.
const DONE: &str = "\u{1}done";
/// What the shell prints when it ends, which it does at the first command that fails.
const ENDED: &str = "\u{1}ended";
/// The last line that `dev` prints when it is ready.
const READY: &str = "Ctrl-C stops it.";

/// Programs that write into one terminal. Ends with this value, and everything that was started in it.
struct Terminal {
    child: Child,
    lines: Receiver<String>,
}

impl Terminal {
    fn open(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        command.stdout(writer.try_clone().context("a second end of the pipe")?).stderr(writer).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("start {program}"))?;
        // The command holds ends of the pipe, and has to let go of them: the end of the output is told by theirs alone.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child, lines: read(reader) })
    }

    /// The next line, `None` when there will be none.
    fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("nothing more came within {} s", BLOCK.as_secs()),
        }
    }
}

fn read(reader: PipeReader) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its group is its own: whatever was started in it ends, too. What has ended already is as good.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// Where the server is, as it said, and as the document says.
type Addresses = Vec<(String, &'static str)>;

/// One reader. Their clone is a folder of links into this one.
pub(super) struct Reader {
    clone: PathBuf,
    scratch: PathBuf,
    server: Option<Terminal>,
    addresses: Addresses,
    shell: Terminal,
    input: ChildStdin,
    blocks: usize,
}

impl Reader {
    /// `scratch` is empty, and has a folder `clone`; `environment` is what this machine adds, so that nothing needs the network.
    pub(super) fn new(scratch: &Path, clone: &Path, environment: &[(&str, String)]) -> Result<Self> {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(clone).stdin(Stdio::piped());
        without_ours(&mut command);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut shell = Terminal::open(&mut command)?;
        let mut input = shell.child.stdin.take().context("standard input is piped")?;
        writeln!(input, "set -e -o pipefail; trap 'printf \"%s\\n\" \"{ENDED} $?\"' EXIT")
            .context("prepare the shell")?;
        Ok(Self {
            clone: clone.to_path_buf(),
            scratch: scratch.to_path_buf(),
            server: None,
            addresses: Addresses::new(),
            shell,
            input,
            blocks: 0,
        })
    }

    /// Starts the server as `cargo run --release -- dev` does, though not that build and not on those ports.
    pub(super) fn serve(&mut self, body: &str, shown: Option<&Shown>) -> Result<()> {
        ensure!(body == "cargo run --release -- dev\n", "only `cargo run --release -- dev` starts the server");
        if let Some(mut last) = self.server.take() {
            wait(&mut last.child).context("the last server")?;
        }
        let mut command = Command::new("target/release/millrace");
        command.arg("dev").current_dir(&self.clone).stdin(Stdio::null());
        without_ours(&mut command);
        if self.addresses.is_empty() {
            command.arg("--ephemeral-ports");
        }
        let settings = [
            ("ws://127.0.0.1:7400", "data.client_address"),
            ("wss://127.0.0.1:7443", "data.client_tls_address"),
            ("quic://127.0.0.1:7443", "data.client_quic_address"),
            ("http://127.0.0.1:7410", "control.rest_address"),
            ("http://127.0.0.1:7401", "data.admin_address"),
        ];
        for (told, said) in &self.addresses {
            let setting = settings.iter().find(|(address, _)| address == said).map_or("", |(_, setting)| setting);
            let address = told.split_once("://").map_or("", |(_, address)| address);
            command.args(["--set", &format!("{setting}={address}")]);
        }
        let mut server = Terminal::open(&mut command)?;
        let mut lines = Vec::new();
        let deadline = Instant::now() + BLOCK;
        while lines.last().is_none_or(|line| line != READY) {
            let line = server.line(deadline)?;
            lines.push(line.with_context(|| format!("the server ended after it said {lines:#?}"))?);
        }
        self.server = Some(server);
        if self.addresses.is_empty() {
            for (label, (said, _)) in ["clients", "over TLS", "over QUIC", "REST", "metrics"].iter().zip(settings) {
                let found = lines.iter().find_map(|line| line.trim_start().strip_prefix(label));
                let told = found.with_context(|| format!("the server does not say {label}"))?.trim();
                let (scheme, rest) = told.split_once("://").with_context(|| format!("{told} is no address"))?;
                let host = rest.split('/').next().unwrap_or_default();
                self.addresses.push((format!("{scheme}://{host}"), said));
            }
        }
        let lines: Vec<String> = lines.iter().map(|line| self.as_written(line)).collect();
        if let Some(shown) = shown {
            ensure!(
                shown.begins_with(&lines) && lines.len() == shown.lines.len(),
                "the server says\n{}",
                lines.join("\n")
            );
        }
        Ok(())
    }

    /// The line with the addresses that the document has.
    fn as_written(&self, line: &str) -> String {
        self.addresses.iter().fold(line.to_owned(), |line, (told, said)| line.replace(told, said))
    }

    /// Types a block into the own terminal, and compares what is to be seen until it is done, and all of that has come.
    pub(super) fn run(&mut self, body: &str, shown: Option<&Shown>) -> Result<()> {
        self.blocks += 1;
        let file = self.scratch.join(format!("block-{}.sh", self.blocks));
        std::fs::write(&file, body).context("write the block")?;
        let file = file.display();
        // A block that reads standard input must not read the next ones.
        writeln!(self.input, ". '{file}' < /dev/null; printf '%s\\n' '{DONE}'").context("type the block")?;
        let deadline = Instant::now() + BLOCK;
        let mut lines = Vec::new();
        let mut is_done = false;
        while !is_done || shown.is_some_and(|shown| lines.len() < shown.lines.len()) {
            let line = self.shell.line(deadline).with_context(|| format!("it printed\n{}", lines.join("\n")))?;
            let line = line.context("the shell ended")?;
            if line == DONE {
                is_done = true;
            } else if line.starts_with(ENDED) {
                bail!("a command failed; it printed\n{}", lines.join("\n"));
            } else {
                lines.push(self.as_written(&line));
                let fits = shown.is_none_or(|shown| shown.begins_with(&lines));
                ensure!(fits, "the last line is not what the document shows:\n{}", lines.join("\n"));
            }
        }
        Ok(())
    }

    /// Puts a file where the shell is.
    pub(super) fn write(&mut self, name: &str, body: &str) -> Result<()> {
        let source = self.scratch.join("file");
        std::fs::write(&source, body).context("write the file")?;
        self.run(&format!("cp '{}' '{name}'\n", source.display()), None)
    }

    /// Everything that runs in the own terminal ends by itself and well, and has nothing more to say.
    pub(super) fn finish(mut self) -> Result<()> {
        let nothing = Shown { lines: Vec::new(), order: super::document::Order::Exact };
        let jobs = "for job in $(jobs -p); do wait \"$job\"; done\n";
        self.run(jobs, Some(&nothing)).context("what still runs at the document's end")
    }
}

/// What belongs to this task, or to whoever runs it, is no reader's.
fn without_ours(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_cargo = text.starts_with("CARGO") && text != "CARGO_HOME";
        if is_cargo || text.starts_with("MILLRACE_") || text == "BASH_ENV" {
            command.env_remove(name);
        }
    }
}

/// The end of a process that was killed, or is about to end.
fn wait(child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + BLOCK;
    while child.try_wait().context("look at it")?.is_none() {
        ensure!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(LOOK);
    }
    Ok(())
}
