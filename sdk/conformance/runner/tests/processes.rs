//! Drivers that are no drivers: what a process may do wrong before a scenario begins or when it ends.

use std::path::Path;
use std::process::Command;

use millrace_conformance::driver::Driver;
use millrace_conformance::drivers::{DriverSpec, Places};
use serde_json::json;

const READY: &str = r#"{"event":"ready","protocol":1,"sdk":"sh","version":"1","capabilities":["lazy"]}"#;

fn start(script: &str) -> Result<Driver, String> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("READY", READY);
    Driver::start(&mut command, Box::new(|_, _| {})).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_driver_says_that_it_is_ready() {
    let mut driver = start(r#"echo "$READY"; cat > /dev/null"#).expect("as told");
    assert_eq!(driver.capabilities, ["lazy"]);
    driver.finish().expect("as told");
}

#[test]
fn what_is_no_driver_is_told() {
    let check = |script: &str, expect: &str| match start(script) {
        Ok(_) => panic!("{script} passed for a driver"),
        Err(error) => assert!(error.contains(expect), "{script}: {error}"),
    };
    check("exit 0", "the driver has ended");
    check("echo 'module not found' >&2; exit 1", "is not ready");
    check(r#"echo '{"event":"done","id":1}'"#, "the driver's first line is");
    check(r#"echo '{"event":"ready","protocol":2,"capabilities":[]}'"#, "speaks protocol 2");
    check(r#"echo '{"event":"ready","protocol":1}'"#, "lists its capabilities");
    check("printf '{'", "without an end");
    check("head -c 2000000 /dev/zero | tr '\\0' x", "without an end, or over");
}

#[test]
fn a_driver_must_end_well() {
    let mut driver = start(r#"echo "$READY"; cat > /dev/null; exit 3"#).expect("as told");
    let error = driver.finish().unwrap_err().to_string();
    assert!(error.contains("exit status: 3"), "{error}");
}

#[test]
fn commands_are_numbered_lines() {
    let script =
        r#"echo "$READY"; read -r one; read -r two; printf '{"event":"echo","one":%s,"two":%s}\n' "$one" "$two""#;
    let driver = start(script).expect("as told");
    let link = driver.link();
    assert_eq!(link.command(json!({ "command": "close", "client": "a" })).expect("as told"), 1);
    assert_eq!(link.command(json!({ "command": "close", "client": "ö\n" })).expect("as told"), 2);
    let echo = driver.transcript().wait(std::time::Instant::now() + std::time::Duration::from_secs(20), |transcript| {
        transcript.entries.iter().find_map(|entry| match entry {
            millrace_conformance::transcript::Entry::Event(event) if event["event"] == "echo" => Some(event.clone()),
            _ => None,
        })
    });
    let echo = echo.expect("as told");
    assert_eq!(echo["one"], json!({ "id": 1, "command": "close", "client": "a" }));
    assert_eq!(echo["two"], json!({ "id": 2, "command": "close", "client": "ö\n" }));
}

fn places(folder: &Path) -> Places {
    let (root, target, ca) = (folder.to_path_buf(), folder.to_path_buf(), folder.join("ca.pem"));
    Places { root, target, ca, spki: "a hash".to_owned() }
}

fn spec(text: &str) -> DriverSpec {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drivers.toml");
    std::fs::write(&file, format!("[one]\ntitle = \"One\"\ntransports = [\"ws\"]\n{text}")).expect("written");
    DriverSpec::load_all(&file).map(|mut all| all.remove("one").expect("declared")).expect("as declared")
}

#[test]
fn what_drivers_share_is_started_once_and_ends_behind_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = places(folder.path());
    let mut spec = spec(
        r#"host = ["sh", "-c", "echo here; cat > /dev/null; echo ended > {out}/end"]
           run = ["sh", "-c", "echo {host} {spki} $CA"]
           env = { CA = "{ca}" }"#,
    );
    let host = spec.start_host("one", &places).expect("it starts").expect("there is one");
    let output = spec.process("one", &places).expect("a process").output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("here a hash {}/ca.pem\n", folder.path().display()));
    let end = folder.path().join("conformance/one/end");
    assert!(!end.exists());
    drop(host);
    assert!(end.exists(), "it was waited for");
}

#[test]
fn a_host_that_does_not_start_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = places(folder.path());
    let mut spec = spec("host = [\"sh\", \"-c\", \"printf half\"]\nrun = [\"echo\", \"{host}\"]");
    let error = spec.start_host("one", &places).err().expect("it does not start");
    assert!(format!("{error:#}").contains("has ended"), "{error:#}");
}
