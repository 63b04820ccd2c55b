//! Installs what tests need and a fresh machine does not have. Each step looks first and does nothing when it is done already.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;

/// Newest at the time of writing; raised by hand, as its configuration changes between versions.
const CARGO_DENY: &str = "0.20.2";

/// A Debian package, and a file that tells that it is there.
struct Package {
    name: &'static str,
    proof: &'static str,
}

const PACKAGES: &[Package] = &[
    // Regenerates the checked-in code; decodes the vectors as a second implementation.
    Package { name: "capnproto", proof: "/usr/bin/capnp" },
    // libFuzzer is C++.
    Package { name: "g++", proof: "/usr/bin/g++" },
    // Counts instructions.
    Package { name: "valgrind", proof: "/usr/bin/valgrind" },
    // Namespaces, in which clients change their addresses.
    Package { name: "iproute2", proof: "/usr/sbin/ip" },
    Package { name: "python3-venv", proof: "/usr/share/doc/python3-venv" },
    // The TypeScript SDK runs in a browser, too.
    Package { name: "chromium", proof: "/usr/bin/chromium" },
    // Real text in several languages for the main job.
    Package { name: "fortunes", proof: "/usr/share/games/fortunes/literature" },
    Package { name: "fortunes-de", proof: "/usr/share/doc/fortunes-de" },
    Package { name: "fortunes-es", proof: "/usr/share/doc/fortunes-es" },
    Package { name: "fortunes-ru", proof: "/usr/share/doc/fortunes-ru" },
    Package { name: "fortunes-zh", proof: "/usr/share/doc/fortunes-zh" },
];

pub(crate) fn everything(workspace: &Workspace) -> Result<()> {
    sources(workspace)?;
    tools(workspace)
}

/// What the compiler needs: crates, and the system's packages.
pub(crate) fn sources(workspace: &Workspace) -> Result<()> {
    std::fs::create_dir_all(workspace.tools()).context("create the tools folder")?;
    // Every system's, not only this one's: cargo-deny reads the licences of all, without the network.
    workspace.step("fetch crates", workspace.cargo().args(["fetch", "--quiet", "--locked"]))?;
    debian(workspace)
}

/// What the suites run: programs, and packages of other languages.
pub(crate) fn tools(workspace: &Workspace) -> Result<()> {
    // What waits for the network goes beside what waits for the compiler.
    std::thread::scope(|scope| {
        let deny = scope.spawn(|| cargo_deny(workspace));
        let others = python(workspace)
            .and_then(|()| npm(workspace))
            .and_then(|()| crate::go::setup(workspace))
            .and_then(|()| crate::js::install(workspace))
            .and_then(|()| crate::console::install(workspace));
        let deny = deny.join().map_err(|_| anyhow::anyhow!("the installation of cargo-deny panicked"))?;
        others.and(deny)
    })
}

fn debian(workspace: &Workspace) -> Result<()> {
    let missing: Vec<&str> = PACKAGES.iter().filter(|p| !Path::new(p.proof).exists()).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "tests need {}: install them with this system's package manager and run again",
        missing.join(", ")
    );
    let sudo = !succeeds(Command::new("test").args(["-w", "/var/lib/dpkg"]));
    let apt = |arguments: &[&str]| {
        let mut command = workspace.command(if sudo { "sudo" } else { "apt-get" });
        if sudo {
            command.arg("apt-get");
        }
        command.arg("-qq").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    };
    workspace.step("install: apt-get update", &mut apt(&["update"]))?;
    let mut install = apt(&["install", "--yes", "--no-install-recommends"]);
    workspace.step(&format!("install: {}", missing.join(" ")), install.args(&missing))
}

fn python(workspace: &Workspace) -> Result<()> {
    let requirements = workspace.path("sdk/conformance/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).with_context(|| format!("read {}", requirements.display()))?;
    let stamp = workspace.tools().join("venv/requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let venv = workspace.tools().join("venv");
    workspace.step("install: Python environment", workspace.command("python3").args(["-m", "venv"]).arg(&venv))?;
    let mut pip = workspace.command(workspace.python());
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
    workspace.step("install: Python packages", &mut pip)?;
    std::fs::write(stamp, wanted).context("note what is installed")
}

fn npm(workspace: &Workspace) -> Result<()> {
    let folder = workspace.path("sdk/conformance/clients");
    let lock = std::fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let mut npm = workspace.command("npm");
    npm.current_dir(&folder).args(["ci", "--silent", "--no-audit", "--no-fund"]);
    workspace.step("install: npm packages", &mut npm)?;
    std::fs::write(stamp, lock).context("note what is installed")
}

fn cargo_deny(workspace: &Workspace) -> Result<()> {
    let binary = workspace.tools().join("bin/cargo-deny");
    let installed = Command::new(&binary).arg("--version").stderr(Stdio::null()).output();
    if installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(CARGO_DENY)) {
        return Ok(());
    }
    let mut install = workspace.cargo();
    // A debug build of it, without what a debugger wants, is ready in a third of the time and still checks in a second.
    install.args([
        "install",
        "cargo-deny",
        "--version",
        CARGO_DENY,
        "--locked",
        "--debug",
        "--no-default-features",
        "--quiet",
    ]);
    install.arg("--root").arg(workspace.tools()).env("CARGO_TARGET_DIR", workspace.tools().join("build"));
    install.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_INCREMENTAL", "0");
    workspace.step("install: cargo-deny (some minutes, once)", &mut install)
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
