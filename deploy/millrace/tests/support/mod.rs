//! A real server as a process, started, killed and started again on the same addresses.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The binary under test.
pub(crate) const MILLRACE: &str = env!("CARGO_BIN_EXE_millrace");

/// `millrace dev` in a folder of its own; it ends with this value.
pub(crate) struct Dev {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ready: serde_json::Value,
    child: Option<Child>,
    settings: Vec<String>,
}

impl Dev {
    /// Starts it on ports that the system chooses, with `section.key=value` settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let mut dev = Self {
            folder: tempfile::tempdir().expect("a folder for the server"),
            ready: serde_json::Value::Null,
            child: None,
            settings: settings.iter().map(|one| (*one).to_owned()).collect(),
        };
        dev.run(&["--ephemeral-ports"]);
        dev
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> &str {
        self.ready["url"].as_str().expect("the server tells its url")
    }

    /// A token of the development user.
    pub(crate) fn token(&self) -> &str {
        self.ready["token"].as_str().expect("the server tells a token")
    }

    /// SIGKILL, now.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the server");
            child.wait().expect("wait for the server");
        }
    }

    /// SIGTERM, then its clean end; what it printed to standard error meanwhile goes through.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
        child.wait().expect("wait for the server")
    }

    /// Starts it again in the same folder, on the same addresses.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let host = |field: &str| {
            let url = self.ready[field].as_str().expect("the server tells its addresses");
            url.rsplit('/').next().expect("an address").to_owned()
        };
        let addresses = [
            format!("data.client_address={}", host("url")),
            format!("data.client_tls_address={}", host("tls_url")),
            format!("data.admin_address={}", host("admin")),
            format!("control.rest_address={}", host("api")),
        ];
        let arguments: Vec<&str> = addresses.iter().flat_map(|address| ["--set", address.as_str()]).collect();
        self.run(&arguments);
    }

    fn run(&mut self, arguments: &[&str]) {
        let mut command = Command::new(MILLRACE);
        command.current_dir(self.folder.path()).args(["dev", "--json", "--set", "log.filter=warn"]).args(arguments);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start millrace dev");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("standard output is piped");
        self.child = Some(child);
        BufReader::new(stdout).read_line(&mut line).expect("read what the server says");
        self.ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("the server said {line:?}: {error}"));
    }

    /// A command of the same binary that finds this server by its credentials file.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MILLRACE);
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    /// Runs a command to its end and returns what it printed.
    pub(crate) fn output(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run millrace");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "millrace {arguments:?}: {stderr}");
        stdout.into_owned()
    }

    /// Runs a command that must fail, and returns what it said about that.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("run millrace");
        assert!(!output.status.success(), "millrace {arguments:?} should have failed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends a child with this value, whatever the test does.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Owned {
    /// SIGKILL, now.
    pub(crate) fn end(&mut self) {
        self.0.kill().expect("kill a child");
        self.0.wait().expect("wait for a child");
    }

    /// Waits until the child ends by itself; fails the test when that takes too long.
    pub(crate) fn finish(&mut self, patience: Duration) -> std::process::ExitStatus {
        let (ended, end) = std::sync::mpsc::channel();
        let pid = self.0.id();
        let watch = std::thread::spawn(move || {
            // Nobody waits here any more when the child has ended in time.
            if end.recv_timeout(patience).is_err() {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        });
        let status = self.0.wait().expect("wait for a child");
        let _ = ended.send(());
        watch.join().expect("the watch ends");
        status
    }

    /// Reads standard error until a line holds this text.
    pub(crate) fn await_stderr(&mut self, text: &str) {
        let stderr = self.0.stderr.take().expect("standard error is piped");
        let mut lines = BufReader::new(stderr).lines();
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        assert!(found.is_some(), "a child ended without saying {text:?}");
        // Somebody must go on reading, or a talkative child would stand still.
        std::thread::spawn(move || lines.for_each(drop));
    }
}

/// Real text in several languages, with at least so many lines.
pub(crate) fn text(lines_min: usize) -> Vec<u8> {
    let root = Path::new("/usr/share/games/fortunes");
    let mut text = Vec::new();
    for name in [
        "de/witze",
        "ru/2001.03",
        "ru/2001.04",
        "ru/2001.05",
        "ru/2001.06",
        "ru/2001.07",
        "tang300",
        "literature",
        "science",
        "es/proverbios.fortunes",
    ] {
        if let Ok(part) = std::fs::read(root.join(name)) {
            text.extend_from_slice(&part);
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
        }
    }
    let lines = text.iter().filter(|&&byte| byte == b'\n').count();
    assert!(lines >= lines_min, "{lines} lines of text: `cargo xtask setup` installs Debian's fortunes");
    text
}
