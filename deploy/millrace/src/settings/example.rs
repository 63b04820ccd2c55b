//! The settings file that `millrace config example` prints.

use anyhow::{Context, Result};

use super::Settings;

/// What each setting means, for the file that `config example` prints.
const MEANINGS: &[(&str, &str)] = &[
    ("log.filter", "A level, or target=level pairs with commas between them."),
    ("log.format", "`text` for people, `json` for collectors."),
    ("store.engine", "`fjall`, `redb`, or `memory`, which forgets all when it stops. Control node."),
    ("store.path", "Its folder; made if missing."),
    ("store.cache", "Memory for reads."),
    ("cluster.secret", "The same on every node, at least 32 bytes. This or the file is needed."),
    ("cluster.secret_file", "A file with it, so that it stands in no environment and no process list."),
    ("control.rest_address", "REST API."),
    ("control.link_address", "Where data nodes link to."),
    ("control.operator_key", "Makes tenants and their API keys; at least 32 bytes."),
    ("control.operator_key_file", "A file with it."),
    ("data.name", "In logs and towards clients; the host's name if empty."),
    ("data.client_address", "WebSocket clients."),
    (
        "data.client_tls_address",
        "The same over TLS, with the certificate below; empty: nowhere. `dev` has it on, with a certificate of its own.",
    ),
    (
        "data.client_quic_address",
        "Clients over QUIC (UDP); empty: the port number of client_tls_address, if that is set; `off`: nowhere.",
    ),
    ("data.tls_certificate", "PEM file: the node's certificate, then those that lead to its root."),
    ("data.tls_key", "PEM file: the certificate's private key, not encrypted."),
    ("data.tls_client_ca", "PEM file: roots of clients' certificates, which all clients over TLS then need."),
    ("data.tls_check", "How often these files are looked at; a change comes into force without a restart."),
    ("data.admin_address", "Metrics and health. Not for strangers."),
    ("data.control_address", "The control node's link_address."),
    ("data.shards", "One thread each; 0 for one per core."),
    ("data.pin", "Pin each shard to a core."),
    ("data.compression", "`on` or `off`: for WebSocket clients that offer it, as browsers do."),
    ("data.compress_from", "Messages and pages below this are not compressed."),
    ("data.linger", "How long a client that was told why it ends may take to read that."),
    ("data.endpoints", "URLs under which clients reach this node; none: the one they came by."),
    ("data.drain", "How long a stop may take."),
    ("limits.payload", "Largest body of a message; at most 64 KiB."),
    ("limits.queue", "Messages that wait for a slow reader; at least four payloads."),
    ("limits.subscriptions", "Of one session; at most 1000."),
    ("limits.connections", "Of the node; 0 for what the file descriptors allow."),
    ("limits.publish_rate", "Publishes per second of one session, sustained."),
    ("limits.publish_burst", "Publishes of one session that may come at once."),
    ("limits.handshake", "From connection to hello."),
    ("limits.handshakes", "Connections of a shard that have not said hello yet; above it who dawdles longest ends."),
    ("limits.handshakes_per_address", "Those of one IPv4 address or IPv6 /64; 0 for no bound, as behind a proxy."),
    ("limits.heartbeat", "Silence after which a client is pinged; twice that ends its session."),
    (
        "webhooks.networks",
        "Networks that requests to applications' endpoints may go to beside public addresses, such as \"10.1.0.0/16\".",
    ),
    (
        "webhooks.denied",
        "Networks that they may not go to, public as they may be, such as the public addresses of your own.",
    ),
    ("webhooks.plain_http", "Whether such requests may be plain http to other hosts than this machine."),
    ("webhooks.ca", "PEM file: authorities that such requests trust beside the machine's."),
    ("limits.replay", "Messages that a resume sends again; beyond, the client reads history."),
];

/// A settings file with every key at its default, and what it means.
///
/// # Errors
/// If the defaults cannot be written as TOML.
pub(crate) fn example() -> Result<String> {
    let defaults = toml::to_string(&Settings::default()).context("write the settings as TOML")?;
    let mut text =
        "# Millrace's settings, all at their defaults. Each may also be given as MILLRACE_SECTION_KEY in the\n\
         # environment, or as --set section.key=value, which wins over both.\n\n"
            .to_owned();
    let mut section = "";
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        }
        let key = line.split_once(" = ").map(|(key, _)| format!("{section}.{key}"));
        if let Some((_, meaning)) = MEANINGS.iter().find(|(name, _)| key.as_deref() == Some(*name)) {
            text.push_str(&format!("# {meaning}\n"));
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_there_with_its_meaning() {
        let text = example().unwrap();
        let defaults = toml::Table::try_from(Settings::default()).unwrap();
        assert_eq!(toml::from_str::<toml::Table>(&text).unwrap(), defaults);
        let keys: usize = defaults.values().map(|section| section.as_table().unwrap().len()).sum();
        assert_eq!(MEANINGS.len(), keys);
        for (name, meaning) in MEANINGS {
            let (_, key) = name.split_once('.').unwrap();
            assert!(text.contains(&format!("# {meaning}\n{key} = ")), "{name}");
        }
    }
}
