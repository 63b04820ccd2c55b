//! Installs the servers that the benchmarks compare with, and tells which of them are there. Not part of `test`: a peer that is not
//! installed is missing from a report, never an error.
//!
//! Nothing of it runs as a service: the benchmark starts each peer itself, with the settings of `perf/peers/`, and stops it again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::Workspace;

struct Peer {
    name: &'static str,
    from: Source,
    /// For a person on a system where the installation here does not work.
    by_hand: &'static str,
}

enum Source {
    /// A Debian package and a file that tells that it is there; the service that it would start.
    Debian { package: &'static str, proof: &'static str, service: &'static str },
    /// A Go program, pinned in `perf/peers/<folder>/go.mod`, built into the target folder: the package to build, and the module whose
    /// version is told.
    Go { module: &'static str, folder: &'static str, target: &'static str, binary: &'static str },
    /// Not installed here, used if somebody has installed it; the argument that makes it tell its version.
    Path { program: &'static str, version: &'static str },
    /// Node packages, pinned in `perf/peers/<folder>/package-lock.json`; the one that tells the version; and the program that its
    /// installation brings, if it brings one: npm can be told to leave that out.
    Npm { folder: &'static str, package: &'static str, program: Option<&'static str> },
}

const PEERS: &[Peer] = &[
    Peer {
        name: "Centrifuge",
        from: Source::Go {
            module: "github.com/centrifugal/centrifuge",
            folder: "centrifuge",
            target: ".",
            binary: "centrifuge",
        },
        by_hand: "install Go (https://go.dev/dl) and run `cargo xtask peers`",
    },
    Peer {
        name: "Centrifugo",
        from: Source::Path { program: "centrifugo", version: "version" },
        by_hand: "https://centrifugal.dev/docs/getting-started/installation, version 6, into a folder of PATH",
    },
    Peer {
        name: "NATS",
        from: Source::Go {
            module: "github.com/nats-io/nats-server/v2",
            folder: "nats",
            target: "github.com/nats-io/nats-server/v2",
            binary: "nats-server",
        },
        by_hand: "install Go (https://go.dev/dl) and run `cargo xtask peers`",
    },
    Peer {
        name: "nchan",
        from: Source::Debian {
            package: "libnginx-mod-nchan",
            proof: "/usr/lib/nginx/modules/ngx_nchan_module.so",
            service: "nginx",
        },
        by_hand: "apt-get install nginx libnginx-mod-nchan",
    },
    Peer {
        name: "ejabberd",
        from: Source::Debian { package: "ejabberd", proof: "/usr/sbin/ejabberdctl", service: "ejabberd" },
        by_hand: "apt-get install ejabberd",
    },
    Peer {
        name: "Socket.IO",
        from: Source::Npm { folder: "socketio", package: "socket.io", program: None },
        by_hand: "install Node (https://nodejs.org) and run `npm ci` in perf/peers/socketio",
    },
    Peer {
        name: "ws",
        from: Source::Npm { folder: "ws", package: "ws", program: None },
        by_hand: "install Node (https://nodejs.org) and run `npm ci` in perf/peers/ws",
    },
    Peer {
        name: "uWebSockets",
        from: Source::Npm { folder: "uwebsockets", package: "bun", program: Some("bun") },
        by_hand: "install Node (https://nodejs.org) and run `npm ci` in perf/peers/uwebsockets",
    },
];

/// Installs what is missing, then lists all of them. One that fails does not keep the others from being installed.
///
/// # Errors
/// If one of them could not be installed or does not run, after the list was printed.
pub(crate) fn everything(workspace: &Workspace) -> Result<()> {
    let failures: Vec<Option<String>> =
        PEERS.iter().map(|peer| peer.install(workspace).err().map(|error| format!("{error:#}"))).collect();
    println!();
    let mut missing = 0;
    for (peer, failure) in PEERS.iter().zip(&failures) {
        match (peer.version(workspace), failure) {
            (Some(version), None) => println!("{:<12} {version}", peer.name),
            (None, None) if matches!(peer.from, Source::Path { .. }) => {
                println!("{:<12} missing\n{:<12} by hand: {}", peer.name, "", peer.by_hand);
            }
            (_, failure) => {
                missing += 1;
                let reason = failure.as_deref().unwrap_or("it was installed, but does not run");
                println!("{:<12} missing: {reason}\n{:<12} by hand: {}", peer.name, "", peer.by_hand);
            }
        }
    }
    ensure!(missing == 0, "{missing} of {} peers could not be installed", PEERS.len());
    Ok(())
}

impl Peer {
    /// Looks first; what is there in the pinned version is left alone.
    fn install(&self, workspace: &Workspace) -> Result<()> {
        match self.from {
            Source::Debian { proof, .. } if Path::new(proof).exists() => Ok(()),
            Source::Debian { package, service, .. } => debian(workspace, package, service),
            // Go itself looks at what has changed; a second build of the same version takes a second.
            Source::Go { folder, target, binary, .. } => {
                ensure!(answers("go", "version"), "there is no Go");
                let mut go = workspace.command("go");
                go.current_dir(settings(workspace, folder)).args(["build", "-trimpath", "-mod=readonly", "-o"]);
                go.arg(binaries(workspace).join(binary)).arg(target).env("CGO_ENABLED", "0");
                workspace.step(&format!("install: {}", self.name), &mut go)
            }
            Source::Npm { folder, .. } => {
                ensure!(answers("npm", "--version"), "there is no Node");
                npm(workspace, self.name, &settings(workspace, folder))
            }
            Source::Path { .. } => Ok(()),
        }
    }

    /// What the installed thing says of itself, `None` if it is not there or does not run.
    fn version(&self, workspace: &Workspace) -> Option<String> {
        match self.from {
            Source::Debian { package, .. } => {
                first_line(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]))
            }
            Source::Go { module, binary, .. } => {
                // Some programs print the version that their release script sets, which a plain build does not.
                let built = output(Command::new("go").args(["version", "-m"]).arg(binaries(workspace).join(binary)))?;
                built_from(&built, module)
            }
            Source::Path { program, version } => first_line(Command::new(program).arg(version)),
            Source::Npm { folder, package, program } => {
                let modules = settings(workspace, folder).join("node_modules");
                if let Some(program) = program {
                    return first_line(Command::new(modules.join(".bin").join(program)).arg("--version"));
                }
                let manifest = std::fs::read_to_string(modules.join(package).join("package.json")).ok()?;
                manifest_version(&manifest)
            }
        }
    }
}

/// Installs a Debian package without starting or enabling its service.
///
/// `policy-rc.d` keeps a service from being started by its installation; it is removed afterwards if it was not there before. A
/// service that some administrator had already is not touched: only packages that are not installed come here.
fn debian(workspace: &Workspace, package: &str, service: &str) -> Result<()> {
    ensure!(Path::new("/usr/bin/apt-get").exists(), "this system has no apt-get");
    const SCRIPT: &str = r#"
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy"
            chmod 755 "$policy"
        fi
        apt-get -qq update
        apt-get -qq install --yes --no-install-recommends "$1"
        update-rc.d "$2" disable
    "#;
    let root = output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let mut command = workspace.command(if root { "sh" } else { "sudo" });
    if !root {
        command.arg("sh");
    }
    command.args(["-c", SCRIPT, "sh", package, service]).env("DEBIAN_FRONTEND", "noninteractive");
    workspace.step(&format!("install: {package}"), command.stdin(Stdio::null()))
}

fn npm(workspace: &Workspace, name: &str, folder: &Path) -> Result<()> {
    let lock = std::fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let mut npm = workspace.command("npm");
    npm.current_dir(folder).args(["ci", "--silent", "--no-audit", "--no-fund"]);
    workspace.step(&format!("install: {name}"), &mut npm)?;
    std::fs::write(stamp, lock).context("note what is installed")
}

fn settings(workspace: &Workspace, folder: &str) -> PathBuf {
    workspace.path("perf/peers").join(folder)
}

/// Where the benchmark looks for peers that were built here.
fn binaries(workspace: &Workspace) -> PathBuf {
    workspace.target().join("peers/bin")
}

/// The version of `module` in what `go version -m` prints: `\tdep\t<module>\t<version>\t<hash>`, or `mod` if it is the main module.
fn built_from(listing: &str, module: &str) -> Option<String> {
    let mut lines = listing.lines().map(|line| line.split('\t').filter(|part| !part.is_empty()));
    lines.find_map(|mut parts| match (parts.next(), parts.next(), parts.next()) {
        (Some("dep" | "mod"), Some(name), Some(version)) if name == module => Some(version.to_owned()),
        _ => None,
    })
}

/// The top-level `version` of a package.json, which npm writes on a line of its own.
fn manifest_version(manifest: &str) -> Option<String> {
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("\"version\":"))?;
    Some(line.trim().trim_end_matches(',').trim_matches('"').to_owned())
}

fn answers(program: &str, argument: &str) -> bool {
    output(Command::new(program).arg(argument)).is_some()
}

fn first_line(command: &mut Command) -> Option<String> {
    output(command).and_then(|text| text.lines().next().map(str::to_owned))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module_itself() {
        let listing = "/bin/x: go1.26\n\tpath\texample.org/x/v2\n\tmod\tpeers/x\t(devel)\t\n\
                       \tdep\texample.org/other\tv0.1.0\th1:a=\n\tdep\texample.org/x/v2\tv2.3.4\th1:b=\n";
        assert_eq!(built_from(listing, "example.org/x/v2").as_deref(), Some("v2.3.4"));
        assert_eq!(built_from(listing, "example.org/x"), None);
    }

    #[test]
    fn a_manifest_tells_its_version() {
        let check = |manifest: &str, version: Option<&str>| assert_eq!(manifest_version(manifest).as_deref(), version);
        check("{\n  \"name\": \"ws\",\n  \"version\": \"8.1.2\",\n  \"main\": \"index.js\"\n}\n", Some("8.1.2"));
        check("{\n  \"name\": \"ws\"\n}\n", None);
    }

    /// Whatever version is installed must be the one that is written down.
    #[test]
    fn every_peer_is_pinned() {
        let workspace = Workspace::find();
        for peer in PEERS {
            let (file, wanted) = match peer.from {
                Source::Debian { .. } | Source::Path { .. } => continue,
                Source::Go { module, folder, .. } => (settings(&workspace, folder).join("go.mod"), module),
                Source::Npm { folder, package, .. } => {
                    (settings(&workspace, folder).join("package-lock.json"), package)
                }
            };
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(wanted), "{} does not name {wanted}", file.display());
        }
    }
}
