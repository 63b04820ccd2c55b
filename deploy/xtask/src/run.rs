//! Running other programs: where the workspace is, what is printed, how a failure reads.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The checkout that this task was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    /// Every program of the workspace is built as it stands.
    built: AtomicBool,
}

impl Workspace {
    pub(crate) fn find() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.ancestors().nth(2).unwrap_or(here).to_path_buf();
        Self { root, built: AtomicBool::new(false) }
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
        step(title, self.cargo().args(["build", "--quiet"]).args(arguments))
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
}

/// Prints a heading, runs the command, prints how long it took.
///
/// # Errors
/// If it cannot be started or does not end well.
pub(crate) fn step(title: &str, command: &mut Command) -> Result<()> {
    each_line(title, command, |_| {})
}

/// As [`step`], and hands every line of standard output on while passing it through.
pub(crate) fn each_line(title: &str, command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
    filtered(title, command, |line| {
        on_line(line);
        true
    })
}

/// As [`each_line`], and passes through only the lines that `takes` says yes to.
pub(crate) fn filtered(title: &str, command: &mut Command, mut takes: impl FnMut(&str) -> bool) -> Result<()> {
    eprintln!("\n== {title}");
    let begun = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {program}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("read what {program} prints"))?;
            if takes(&line) {
                println!("{line}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("wait for {program}"))?;
    eprintln!("== {title}: {:.0} s", begun.elapsed().as_secs_f32());
    if !status.success() {
        bail!("{title} failed ({status})");
    }
    Ok(())
}
