//! From settings to what each node is started with.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_control::{Network, Networks, WebhookConfig};
use millrace_data::{AdmissionLimits, Compressing, Pinning, QuicAddress, TlsConfig};
use millrace_store::Store;

use crate::settings::{self, Compression, Engine, QUIC_OFF, Settings};

/// The data node's configuration, checked.
pub(crate) fn data(settings: &Settings) -> Result<millrace_data::Config> {
    let Settings { data, limits, .. } = settings;
    let mut core = millrace_core::Config {
        node: if data.name.is_empty() { host_name() } else { data.name.clone() },
        handshake_timeout: limits.handshake,
        heartbeat: limits.heartbeat,
        payload_bytes_max: u32::try_from(limits.payload.as_u64()).context("limits.payload")?,
        subscriptions_max: limits.subscriptions,
        queue_bytes_max: u32::try_from(limits.queue.as_u64()).context("limits.queue")?,
        publish_rate: millrace_core::Rate { per_second: limits.publish_rate, burst: limits.publish_burst },
        replay_messages_max: limits.replay.into(),
        compress_from_bytes: u32::try_from(data.compress_from.as_u64()).context("data.compress_from")?,
        ..millrace_core::Config::default()
    };
    // A page of replay must leave room in the queue for what is live meanwhile, and hold the largest message.
    let largest = core.payload_bytes_max + 1024;
    core.page_bytes_max = core.page_bytes_max.min(core.queue_bytes_max / 2).max(largest);
    Ok(millrace_data::Config {
        client_address: address("data.client_address", &data.client_address)?,
        client_tls_address: match data.client_tls_address.as_str() {
            "" => None,
            text => Some(address("data.client_tls_address", text)?),
        },
        client_quic_address: match data.client_quic_address.as_str() {
            "" => QuicAddress::WithTls,
            QUIC_OFF => QuicAddress::Off,
            text => QuicAddress::At(address("data.client_quic_address", text)?),
        },
        tls: tls(data),
        admin_address: address("data.admin_address", &data.admin_address)?,
        endpoints: data.endpoints.clone(),
        shards: NonZeroU16::new(data.shards),
        pinning: if data.pin { Pinning::Pinned } else { Pinning::Floating },
        connections_max: (limits.connections > 0).then_some(limits.connections),
        admission: AdmissionLimits {
            places_max: limits.handshakes,
            address_places_max: match limits.handshakes_per_address {
                0 => u32::MAX,
                bounded => bounded,
            },
        },
        compression: match data.compression {
            Compression::On => Compressing::On,
            Compression::Off => Compressing::Off,
        },
        linger: data.linger,
        core,
        ..millrace_data::Config::default()
    })
}

/// Where the node's certificate is, if it has one.
fn tls(data: &settings::Data) -> Option<TlsConfig> {
    let is_set = |path: &std::path::Path| !path.as_os_str().is_empty();
    is_set(&data.tls_certificate).then(|| TlsConfig {
        client_ca: is_set(&data.tls_client_ca).then(|| data.tls_client_ca.clone()),
        check_interval: data.tls_check,
        ..TlsConfig::new(&data.tls_certificate, &data.tls_key)
    })
}

/// How webhooks are delivered, checked.
pub(crate) fn webhooks(settings: &settings::Webhooks) -> Result<WebhookConfig> {
    let read =
        |networks: &[String]| networks.iter().map(|network| network.parse()).collect::<Result<Vec<Network>, _>>();
    let opened = read(&settings.networks).context("webhooks.networks")?;
    let denied = read(&settings.denied).context("webhooks.denied")?;
    let ca_pem = if settings.ca.as_os_str().is_empty() {
        None
    } else {
        let path = settings.ca.display();
        Some(std::fs::read(&settings.ca).with_context(|| format!("read webhooks.ca from {path}"))?)
    };
    Ok(WebhookConfig {
        networks: Networks::new(opened).without(denied),
        plain_http: settings.plain_http,
        ca_pem,
        ..WebhookConfig::default()
    })
}

/// Opens the store that the settings name. Telling a person that it takes long is the caller's.
pub(crate) fn store(settings: &settings::Store) -> Result<Arc<dyn Store>> {
    let cache_bytes = settings.cache.as_u64();
    let opened = match settings.engine {
        Engine::Memory => Ok(millrace_store::open_memory()),
        Engine::Fjall => {
            let config = millrace_store::FjallConfig { cache_bytes, ..millrace_store::FjallConfig::default() };
            millrace_store::open_fjall(&settings.path, config)
        }
        Engine::Redb => {
            let cache_bytes = usize::try_from(cache_bytes).context("store.cache")?;
            let config = millrace_store::RedbConfig { cache_bytes, ..millrace_store::RedbConfig::default() };
            millrace_store::open_redb(&settings.path, config)
        }
    };
    opened.with_context(|| format!("open the store in {}", settings.path.display()))
}

/// An address to listen on or to link to: a number, or a name that the system resolves.
pub(crate) fn address(name: &str, text: &str) -> Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let mut found =
        text.to_socket_addrs().with_context(|| format!("{name} {text:?}: write HOST:PORT, such as 0.0.0.0:7400"))?;
    found.next().with_context(|| format!("{name} {text:?} has no address"))
}

/// What this machine calls itself.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "local".to_owned() } else { name.chars().take(64).collect() }
}

/// How long everything but the data node's drain may take at a stop.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_is_where_tls_is_or_elsewhere_or_nowhere() {
        let check = |text: &str, expect: QuicAddress| {
            let overrides = [format!("data.client_quic_address={text}")];
            let settings = Settings::load(None, std::iter::empty(), &overrides).unwrap();
            assert_eq!(data(&settings).unwrap().client_quic_address, expect, "{text:?}");
        };
        check("", QuicAddress::WithTls);
        check("127.0.0.1:8443", QuicAddress::At(([127, 0, 0, 1], 8443).into()));
        check("off", QuicAddress::Off);
    }
}
