//! Running other programs: where the workspace is, what is printed, how a failure reads.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What becomes of the output of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// It is passed through as it comes.
    Passed,
    /// It is held back and shown in one piece when the program has ended: others print at the same time.
    Held,
}

/// The checkout that this task was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    output: Output,
    /// Every program of the workspace is built as it stands.
    built: AtomicBool,
}

impl Workspace {
    pub(crate) fn find() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.ancestors().nth(2).unwrap_or(here).to_path_buf();
        Self { root, output: Output::Passed, built: AtomicBool::new(false) }
    }

    /// The same for one of several stages that run at the same time.
    pub(crate) fn beside(&self) -> Self {
        let built = AtomicBool::new(self.built.load(Ordering::Relaxed));
        Self { root: self.root.clone(), output: Output::Held, built }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's target folder, which also holds what `setup` installs.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.path("target"),
        }
    }

    /// Where `setup` puts tools that belong to no system package.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("xtask")
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.tools().join("venv/bin/python")
    }

    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    pub(crate) fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Builds what a suite needs, `arguments` of `cargo build`, unless everything is built.
    ///
    /// # Errors
    /// If it does not compile.
    pub(crate) fn build(&self, title: &str, arguments: &[&str]) -> Result<()> {
        if self.built.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.step(title, self.cargo().args(["build", "--quiet"]).args(arguments))
    }

    /// Builds all programs at once, with the features that the tests were built with: each suite by itself would ask for others, and
    /// have most of the graph compiled anew.
    ///
    /// # Errors
    /// If something does not compile.
    pub(crate) fn build_all(&self) -> Result<()> {
        self.build("build all programs", &["--workspace", "--lib", "--bins", "--tests", "--examples"])?;
        self.built.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Prints a heading, runs the command, prints how long it took.
    ///
    /// # Errors
    /// If it cannot be started or does not end well.
    pub(crate) fn step(&self, title: &str, command: &mut Command) -> Result<()> {
        self.each_line(title, command, |_| {})
    }

    /// As [`Self::step`], and hands every line of standard output on while passing it through.
    pub(crate) fn each_line(&self, title: &str, command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
        self.filtered(title, command, |line| {
            on_line(line);
            true
        })
    }

    /// As [`Self::each_line`], and passes through only the lines that `takes` says yes to.
    pub(crate) fn filtered(&self, title: &str, command: &mut Command, takes: impl FnMut(&str) -> bool) -> Result<()> {
        let begun = Instant::now();
        let outcome = match self.output {
            Output::Passed => {
                eprintln!("\n== {title}");
                let outcome = passed(command, takes);
                eprintln!("== {title}: {:.0} s", begun.elapsed().as_secs_f32());
                outcome
            }
            Output::Held => {
                println!("== {title} …");
                let mut shown = format!("\n== {title}\n");
                let outcome = held(command, takes, &mut shown);
                // Writing into a string cannot fail.
                let _ = writeln!(shown, "== {title}: {:.0} s", begun.elapsed().as_secs_f32());
                println!("{shown}");
                outcome
            }
        };
        let status = outcome.with_context(|| title.to_owned())?;
        if !status.success() {
            bail!("{title} failed ({status})");
        }
        Ok(())
    }
}

/// Runs a command whose standard output is passed through line by line, and whose errors go where ours go.
fn passed(command: &mut Command, mut takes: impl FnMut(&str) -> bool) -> Result<ExitStatus> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {program}"))?;
    if let Some(stdout) = child.stdout.take() {
        each(stdout, |line| {
            if takes(line) {
                println!("{line}");
            }
        })
        .with_context(|| format!("read what {program} prints"))?;
    }
    child.wait().with_context(|| format!("wait for {program}"))
}

/// Runs a command, and adds to `shown` what it printed, errors among the rest where they came.
fn held(command: &mut Command, mut takes: impl FnMut(&str) -> bool, shown: &mut String) -> Result<ExitStatus> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let shown = Mutex::new(shown);
    let add = |line: &str| {
        let mut shown = lock(&shown);
        shown.push_str(line);
        shown.push('\n');
    };
    std::thread::scope(|scope| {
        let errors = stderr.map(|stderr| scope.spawn(|| each(stderr, add)));
        let lines = stdout.map_or(Ok(()), |stdout| {
            each(stdout, |line| {
                if takes(line) {
                    add(line);
                }
            })
        });
        let errors = errors.map_or(Ok(()), |errors| errors.join().unwrap_or(Ok(())));
        lines.and(errors)
    })
    .with_context(|| format!("read what {program} prints"))?;
    child.wait().with_context(|| format!("wait for {program}"))
}

/// Hands on every line; bytes that are no UTF-8 are shown as such.
fn each(from: impl Read, mut on_line: impl FnMut(&str)) -> std::io::Result<()> {
    for line in BufReader::new(from).split(b'\n') {
        let line = line?;
        on_line(String::from_utf8_lossy(&line).trim_end_matches('\r'));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_whole_and_handed_on() {
        let workspace = Workspace::find();
        let mut shown = String::new();
        let mut seen = Vec::new();
        let mut command = workspace.command("sh");
        command.args(["-c", "printf 'one\\n2 passed, 1 failed\\n\\377\\nhidden\\nno end'; echo wrong >&2; exit 3"]);
        let takes = |line: &str| {
            seen.push(line.to_owned());
            line != "hidden"
        };
        let status = held(&mut command, takes, &mut shown).expect("sh runs");
        assert_eq!(status.code(), Some(3));
        assert_eq!(seen, ["one", "2 passed, 1 failed", "\u{fffd}", "hidden", "no end"]);
        let mut lines: Vec<&str> = shown.lines().collect();
        lines.retain(|line| *line != "wrong");
        assert_eq!(lines, ["one", "2 passed, 1 failed", "\u{fffd}", "no end"], "all but the hidden, in their order");
        assert!(shown.contains("wrong\n"), "errors are among them");
    }

    #[test]
    fn a_step_that_fails_says_which_it_is() {
        let workspace = Workspace::find().beside();
        let error = workspace.step("a title", &mut workspace.command("false")).expect_err("it fails");
        assert!(error.to_string().starts_with("a title failed"), "{error:#}");
        let error = workspace.step("a title", &mut workspace.command("no-such-program")).expect_err("it is not there");
        assert_eq!(format!("{error}"), "a title");
    }
}
