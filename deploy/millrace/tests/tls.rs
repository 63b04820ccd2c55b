//! TLS as an operator and a developer meet it: the development server's authority, and a node whose certificate changes.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, KeyPair};
use support::{Dev, MILLRACE, Owned};

/// The certificate that a port shows, in PEM, and whether it leads to `ca`; as OpenSSL sees it.
fn shown(url: &str, ca: &Path) -> (String, bool) {
    let address = url.trim_start_matches("wss://");
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", address, "-verify_return_error", "-verify_hostname", "localhost", "-CAfile"]);
    let output = openssl.arg(ca).stdin(Stdio::null()).output().expect("run openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap_or_default();
    let end = text.find("-----END CERTIFICATE-----").unwrap_or_default();
    (text[begin..end].to_owned(), output.status.success())
}

#[test]
fn the_development_server_is_reached_over_tls_with_its_authority() {
    let mut dev = Dev::start(&[]);
    let ca = dev.ready["ca"].as_str().expect("the server tells its authority").to_owned();
    let url = dev.ready["tls_url"].as_str().expect("the server listens for TLS").to_owned();
    let sent = dev.command(&["send", "general", "sealed", "--url", &url]).output().expect("run millrace");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(dev.output(&["history", "general", "--after", "0", "--format", "raw"]), "sealed\n");
    let (certificate, is_good) = shown(&url, Path::new(&ca));
    assert!(is_good && !certificate.is_empty(), "{certificate}");

    // The hash that a browser is given is the one of what is shown, and REST tells it too.
    let hashes = dev.ready["certificate_hashes"].clone();
    assert_eq!(hashes[0]["algorithm"], "sha-256");
    let endpoints = format!("{}/v1/endpoints", dev.ready["api"].as_str().expect("an address"));
    let mut told = ureq::get(&endpoints).call().expect("ask");
    let told: serde_json::Value = serde_json::from_reader(told.body_mut().as_reader()).expect("JSON");
    assert_eq!(told["certificate_hashes"], hashes);
    let quic_url = &dev.ready["quic_url"];
    assert!(quic_url.as_str().is_some_and(|url| url.starts_with("quic://127.0.0.1:")), "{quic_url}");
    let in_browsers = quic_url.as_str().map(|url| url.replace("quic://", "https://"));
    assert_eq!(told["endpoints"], serde_json::json!([dev.url(), url, quic_url, in_browsers]));

    // The authority stays, so that it is trusted once; what it signs is new each time.
    dev.restart();
    assert_eq!(dev.ready["ca"], ca.as_str());
    assert_ne!(dev.ready["certificate_hashes"], hashes);
    let (again, is_good) = shown(&url, Path::new(&ca));
    assert!(is_good && again != certificate);
}

#[test]
fn a_node_takes_a_new_certificate_at_a_signal_and_keeps_the_old_one_when_it_is_bad() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = || {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("certificate").pem();
        // One file for both, so that they change together.
        std::fs::write(path("new.pem"), format!("{certificate}{}", key.serialize_pem())).expect("write");
        std::fs::rename(path("new.pem"), path("node.pem")).expect("rename");
        certificate.replace("\r\n", "\n")
    };
    let first = write();
    let settings = [
        format!("cluster.secret={}", "s".repeat(32)),
        "data.client_address=127.0.0.1:0".into(),
        "data.client_tls_address=127.0.0.1:0".into(),
        "data.admin_address=127.0.0.1:0".into(),
        format!("data.tls_certificate={}", path("node.pem")),
        format!("data.tls_key={}", path("node.pem")),
        // Only the signal counts here.
        "data.tls_check=1h".into(),
        "data.shards=1".into(),
        "log.format=json".into(),
    ];
    let mut command = Command::new(MILLRACE);
    command.arg("data").args(settings.iter().flat_map(|setting| ["--set", setting])).stderr(Stdio::piped());
    let mut node = Owned(command.spawn().expect("start millrace data"));
    let stderr = node.0.stderr.take().expect("standard error is piped");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let mut line_with = |text: &str| -> serde_json::Value {
        let line = lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("it ended without saying {text:?}"));
        serde_json::from_str(&line).expect("JSON")
    };
    let url = line_with("data node runs")["over_tls"].as_str().expect("an address").to_owned();
    let hang_up = |node: &Owned| {
        let pid = node.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("run kill").success());
    };
    let is = |expect: &str| {
        let (certificate, is_good) = shown(&url, &folder.path().join("root.pem"));
        is_good && expect.contains(certificate.trim())
    };
    std::fs::write(path("root.pem"), &first).expect("write");
    assert!(is(&first));

    let second = write();
    hang_up(&node);
    line_with("are in force");
    std::fs::write(path("root.pem"), &second).expect("write");
    assert!(is(&second));

    std::fs::write(path("node.pem"), "nothing").expect("write");
    hang_up(&node);
    let told = line_with("the old ones stay");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("node.pem")), "{told}");
    assert!(is(&second));
    node.end();
}
