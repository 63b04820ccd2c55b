//! A Millrace that runs already, here or elsewhere: nothing is started or stopped, channels are made through its API.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use super::api::Api;
use super::guarantee;
use crate::dialect;
use crate::process::Family;
use crate::subject::{History, Missing, Needs, Running, Subject};
use crate::transport::{Transport, Trust, Way};

/// Where it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArguments {
    /// Measure the cluster with clients at this address, such as ws://203.0.113.7:7400, wss://chat.example or quic://chat.example, in
    /// place of a server of its own
    #[arg(long, value_name = "URL", requires = "api", requires = "api_key", conflicts_with = "server")]
    pub(crate) url: Option<String>,
    /// The cluster's REST API, such as http://203.0.113.7:7410
    #[arg(long, value_name = "URL", requires = "url")]
    pub(crate) api: Option<String>,
    /// A key of the tenant that the run's channels are made in; they are named perf-TIME-NUMBER and stay
    #[arg(long, value_name = "KEY", requires = "url", env = "MILLRACE_PERF_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Certificates that sign the cluster's, PEM, for wss and quic; the system's otherwise
    #[arg(long, value_name = "FILE", requires = "url", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub(crate) ca: PathBuf,
    /// Processes of the cluster on this machine, whose CPU time and memory are told
    #[arg(long, value_name = "PID", requires = "url", value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
}

/// A cluster by its address.
pub(crate) struct Cluster {
    address: SocketAddr,
    transport: Transport,
    way: Way,
    api: String,
    key: String,
    processes: Vec<u32>,
}

/// Transport, host and port of a URL; the port of the web where it names none.
fn parts(url: &str) -> Result<(Transport, &str, u16)> {
    let (scheme, rest) = url.split_once("://").with_context(|| format!("{url:?} is not as ws://HOST:PORT"))?;
    let transport: Transport = scheme.parse()?;
    let authority = rest.split('/').next().unwrap_or_default();
    let usual = if transport == Transport::Ws { 80 } else { 443 };
    // An IPv6 address is in brackets, and its colons are no port's.
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host, port.parse().with_context(|| format!("{port:?} is no port"))?),
        None => (authority, usual),
    };
    anyhow::ensure!(!host.is_empty(), "{url:?} names no host");
    Ok((transport, host.trim_start_matches('[').trim_end_matches(']'), port))
}

impl Cluster {
    /// `None` if no cluster was named.
    ///
    /// # Errors
    /// When its address cannot be read or found.
    pub(crate) fn new(arguments: &ClusterArguments) -> Result<Option<Self>> {
        let (Some(url), Some(api), Some(key)) = (&arguments.url, &arguments.api, &arguments.api_key) else {
            return Ok(None);
        };
        let (transport, host, port) = parts(url)?;
        let address = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
        let address = address.with_context(|| format!("{host:?} is no address that can be found"))?;
        let way = if transport == Transport::Ws {
            Way::Clear
        } else {
            let ca = arguments.ca.display();
            let pem = std::fs::read(&arguments.ca).with_context(|| format!("read {ca}"))?;
            Trust::new(host, &pem).with_context(|| format!("trust {ca}"))?.way(transport)
        };
        let (api, key, processes) = (api.clone(), key.clone(), arguments.pid.clone());
        Ok(Some(Self { address, transport, way, api, key, processes }))
    }
}

impl Subject for Cluster {
    fn name(&self) -> &'static str {
        "cluster"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        Some(guarantee(history))
    }

    fn transports(&self) -> &'static [Transport] {
        match self.transport {
            Transport::Ws => &[Transport::Ws],
            Transport::Wss => &[Transport::Wss],
            Transport::Quic => &[Transport::Quic],
        }
    }

    fn resumes(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let api = Api::new(&self.api, &self.key);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        // A run leaves its channels behind, and the next one must not meet them.
        let channels = api.channels(&format!("perf-{}", since.as_millis()), needs)?;
        let producers = u64::try_from(since.as_nanos() & u128::from(u64::MAX >> 1))?;
        let (target, tokens) = ("/v1/connect".to_owned(), api.tokens(needs)?);
        let family = Family::of(self.processes.clone());
        let (tokens, owner) = (tokens.of_users, tokens.of_owner);
        let acknowledges = needs.transport == Transport::Quic;
        Ok(Running {
            address: self.address,
            dialect: Arc::new(dialect::millrace::Millrace { target, tokens, owner, channels, acknowledges, producers }),
            way: self.way.clone(),
            version: format!("at {}", self.address),
            session_family: family.clone(),
            family,
            cores: None,
            brake: None,
            owned: Vec::new(),
            folder: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_and_where() {
        for (url, expect) in [
            ("ws://203.0.113.7:7400", (Transport::Ws, "203.0.113.7", 7400)),
            ("wss://chat.example/v1/connect", (Transport::Wss, "chat.example", 443)),
            ("quic://[2001:db8::1]:7443", (Transport::Quic, "2001:db8::1", 7443)),
            ("quic://[2001:db8::1]", (Transport::Quic, "2001:db8::1", 443)),
            ("ws://localhost", (Transport::Ws, "localhost", 80)),
        ] {
            assert_eq!(parts(url).expect(url), expect);
        }
        for url in ["chat.example", "http://chat.example", "ws://", "ws://host:port", "ws://host:99999"] {
            assert!(parts(url).is_err(), "{url}");
        }
    }
}
