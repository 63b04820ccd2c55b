//! `docs/quickstart.md`, executed as a stranger would: block by block, once for each language, in a folder of its own, without the
//! network where the packages have been fetched before.

use std::collections::hash_map::DefaultHasher;
use std::fs::{DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;
use crate::tally::Tally;

mod document;
mod reader;

use document::{Action, Step};
use reader::Reader;

const DOCUMENT: &str = "docs/quickstart.md";
/// Each has its subsection.
const LANGUAGES: [&str; 3] = ["Rust", "TypeScript", "Go"];
/// What the TypeScript SDK's folder has that a fresh clone has not.
const BUILT: [&str; 4] = ["node_modules", "dist", "build", "docs"];

/// Fetches what readers fetch: the document is executed without the network.
///
/// # Errors
/// If cargo, npm or go cannot.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    workspace.step("fetch crates", workspace.cargo().args(["fetch", "--quiet", "--locked"]))?;
    crate::js::install(workspace)?;
    crate::go::setup(workspace)
}

pub(crate) fn everything(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    workspace.build("build millrace", &["--package", "millrace"])?;
    std::fs::create_dir_all(workspace.tools()).context("create the tools folder")?;
    let lock = File::create(workspace.tools().join("quickstart.lock")).context("make the lock")?;
    lock.lock().context("wait for another run")?;
    let text = std::fs::read_to_string(workspace.path(DOCUMENT)).with_context(|| format!("read {DOCUMENT}"))?;
    let steps = document::parse(&text).context(DOCUMENT)?;
    let languages = document::alternatives(&steps);
    ensure!(languages == LANGUAGES, "{DOCUMENT} has subsections for {languages:?}, not for {LANGUAGES:?}");

    let (mut passed, mut failed) = (0, 0);
    for language in LANGUAGES {
        eprintln!("\n== {DOCUMENT}: {language}");
        let begun = Instant::now();
        if let Err(error) = read(workspace, &steps, language, &mut passed) {
            failed += 1;
            println!("FAILED {DOCUMENT}, {language}: {error:#}");
        }
        eprintln!("== {DOCUMENT}: {language}: {:.0} s", begun.elapsed().as_secs_f32());
    }
    let counts = format!("{passed} passed, {failed} failed");
    println!("{counts}");
    tally.line(&counts);
    Ok(())
}

/// Reads the document as somebody who takes this language. A block that fails ends it, as it would for them.
fn read(workspace: &Workspace, steps: &[Step], language: &str, passed: &mut u64) -> Result<()> {
    let scratch = scratch(workspace)?;
    let clone = clone(workspace, &scratch)?;
    let mut reader = Reader::new(&scratch, &clone, &environment(workspace))?;
    for step in steps.iter().filter(|step| step.alternative.as_deref().is_none_or(|other| other == language)) {
        let shown = step.shown.as_ref();
        match &step.action {
            Action::Serve => reader.serve(&step.body, shown),
            Action::Run => reader.run(&step.body, shown),
            Action::Write(name) => reader.write(name, &step.body),
        }
        .with_context(|| format!("line {}", step.line))?;
        *passed += 1;
    }
    reader.finish()?;
    std::fs::remove_dir_all(&scratch).context("remove the folder")
}

/// An empty folder outside of the workspace, of which a project of a reader is no member. Its name is always the same, so that what
/// cargo and go have built for it is found again.
fn scratch(workspace: &Workspace) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    workspace.path("").hash(&mut hasher);
    let folder = std::env::temp_dir().join(format!("millrace-quickstart-{:016x}", hasher.finish()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    // Nobody else can have put something there: it must be new, and it is ours alone.
    DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("make {}", folder.display()))?;
    folder.canonicalize().context("the folder's name")
}

/// What a reader has cloned, and built: links to what is here, apart from where the reader's commands write.
fn clone(workspace: &Workspace, scratch: &Path) -> Result<PathBuf> {
    let clone = scratch.join("millrace");
    let release = clone.join("target/release");
    std::fs::create_dir_all(&release).context("make the clone")?;
    symlink(workspace.target().join("debug/millrace"), release.join("millrace")).context("link to millrace")?;
    link(&workspace.path(""), &clone, &[".git", ".millrace", "target", "sdk"])?;
    let sdk = clone.join("sdk");
    std::fs::create_dir(&sdk).context("make sdk")?;
    link(&workspace.path("sdk"), &sdk, &["js"])?;
    copy(&workspace.path("sdk/js"), &sdk.join("js"), &BUILT)?;
    Ok(clone)
}

/// A link to each of `from`.
fn link(from: &Path, to: &Path, but: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let name = entry.with_context(|| format!("list {}", from.display()))?.file_name();
        if !but.iter().any(|but| name == *but) {
            symlink(from.join(&name), to.join(&name)).with_context(|| format!("link to {}", name.display()))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, but: &[&str]) -> Result<()> {
    std::fs::create_dir(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let name = entry.file_name();
        if but.iter().any(|but| name == *but) {
            continue;
        }
        if entry.file_type().context("what a file is")?.is_dir() {
            copy(&entry.path(), &to.join(&name), &[])?;
        } else {
            std::fs::copy(entry.path(), to.join(&name)).with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// What `setup` fetched is there, and what was built is kept.
fn environment(workspace: &Workspace) -> Vec<(&'static str, String)> {
    vec![
        ("CARGO_TARGET_DIR", workspace.target().display().to_string()),
        ("CARGO_NET_OFFLINE", "true".into()),
        ("GOFLAGS", "-mod=mod".into()),
        ("GOPROXY", "off".into()),
        ("GOSUMDB", "off".into()),
        ("npm_config_prefer_offline", "true".into()),
        ("npm_config_audit", "false".into()),
        ("npm_config_fund", "false".into()),
        ("npm_config_update_notifier", "false".into()),
    ]
}
