use super::*;

fn load(file: Option<&str>, environment: &[(&str, &str)], overrides: &[&str]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = file.map(|text| {
        let path = folder.path().join("millrace.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let overrides: Vec<String> = overrides.iter().map(|one| (*one).to_owned()).collect();
    Settings::load(path.as_deref(), environment, &overrides).map_err(|error| format!("{error:#}"))
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file = "[data]\nshards = 3\ndrain = \"2s\"\n[limits]\npayload = \"8 KiB\"\n";
    let settings = load(Some(file), &[("MILLRACE_DATA_SHARDS", "4")], &["data.shards=5"]).unwrap();
    assert_eq!(settings.data.shards, 5);
    assert_eq!(settings.data.drain, Duration::from_secs(2));
    assert_eq!(settings.limits.payload, ByteSize::kib(8));
    assert_eq!(settings.limits.subscriptions, 1000, "what nobody sets keeps its default");
    assert_eq!(load(Some(file), &[("MILLRACE_DATA_SHARDS", "4")], &[]).unwrap().data.shards, 4);
}

#[test]
fn names_of_several_words_are_found_in_the_environment() {
    let settings = load(None, &[("MILLRACE_DATA_CLIENT_ADDRESS", "0.0.0.0:1"), ("MILLRACE_TOKEN", "x")], &[]).unwrap();
    assert_eq!(settings.data.client_address, "0.0.0.0:1");
}

#[test]
fn what_is_wrong_is_named() {
    let check = |file: Option<&str>, environment: &[(&str, &str)], overrides: &[&str], expect: &[&str]| {
        let error = load(file, environment, overrides).unwrap_err();
        for part in expect {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    check(Some("[data]\nshard = 3"), &[], &[], &["millrace.toml", "shard", "shards"]);
    check(Some("[dta]\nshards = 3"), &[], &[], &["millrace.toml", "dta"]);
    check(Some("[limits]\nheartbeat = \"soon\""), &[], &[], &["millrace.toml", "soon"]);
    check(None, &[("MILLRACE_DATA_SHARD", "3")], &[], &["MILLRACE_DATA_SHARD", "shards"]);
    check(None, &[("MILLRACE_DATA_SHARDS", "many")], &[], &["MILLRACE_DATA_SHARDS", "many", "whole number"]);
    check(None, &[], &["data.shards"], &["section.key=value"]);
    check(None, &[], &["limits.payload=1 MiB"], &["limits.payload", "65536"]);
    check(None, &[], &["limits.queue=16 KiB"], &["limits.queue", "65536"]);
    check(None, &[], &["data.client_address=nonsense"], &["data.client_address", "nonsense", "HOST:PORT"]);
    check(None, &[], &["data.client_tls_address=7443"], &["data.client_tls_address", "HOST:PORT"]);
    check(None, &[], &["data.client_quic_address=on"], &["data.client_quic_address", "HOST:PORT"]);
    check(None, &[], &["data.tls_key=key.pem"], &["data.tls_certificate", "both"]);
    check(None, &[], &["data.tls_client_ca=ca.pem"], &["data.tls_client_ca", "data.tls_key"]);
    check(None, &[], &["webhooks.networks=10.0.0.0"], &["webhooks.networks", "10.0.0.0", "10.1.0.0/16"]);
    check(None, &[], &["webhooks.denied=8.8.8.8/33"], &["webhooks.denied", "8.8.8.8/33", "10.1.0.0/16"]);
    check(None, &[], &["control.rest_address=:7410"], &["control.rest_address", "HOST:PORT"]);
    check(None, &[], &["data.control_address=control:99999"], &["data.control_address", "HOST:PORT"]);
}

#[test]
fn a_short_or_doubled_secret_is_refused() {
    let cluster = |secret: &str, file: &str| Cluster { secret: secret.into(), secret_file: file.into() };
    assert!(cluster("", "").secret().unwrap_err().to_string().contains("cluster.secret is not set"));
    assert!(cluster("short", "").secret().unwrap_err().to_string().contains("at least 32"));
    assert!(cluster("x", "y").secret().unwrap_err().to_string().contains("keep one"));
    assert_eq!(cluster(&"s".repeat(32), "").secret().unwrap().len(), 32);
}
