//! Settings of the REST API.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use millrace_domain::Rate;

/// Settings of the REST API; plain, so that whoever starts the server parses files and flags.
#[derive(Clone)]
pub struct RestConfig {
    /// Where the API listens. Default 127.0.0.1:7480; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/metrics` is served, beside `/healthz` and `/readyz`, which the API has too. Default `None`: on `listen`.
    pub admin_listen: Option<SocketAddr>,
    /// A credential of the operator scope beside those in the store; 32 to 1024 visible ASCII characters. Default `None`.
    pub operator_key: Option<String>,
    /// Largest payload of a message, in bytes. Default 16 KiB; the data nodes' limit should be the same.
    pub payload_bytes_max: usize,
    /// Requests of an API or operator key. Default 2,000 per second, 4,000 at once.
    pub rate_of_key: Rate,
    /// Requests of a user. Default 50 per second, 200 at once.
    pub rate_of_user: Rate,
    /// Refused requests without a valid credential, per IP address. Default 20 per second, 100 at once.
    pub rate_of_address: Rate,
    /// How long a transaction may take, retries included. Default 5 s.
    pub store_deadline: Duration,
    /// How long a message may take to its channel's home and back. Default 10 s.
    pub publish_deadline: Duration,
    /// How long a caller may take to send the headers, and then the body. Default 10 s each. An idle connection ends after it, too.
    pub read_deadline: Duration,
    /// Connections at once; more wait in the kernel's queue. Default 4,096, about 20 KiB each.
    pub connections_max: usize,
    /// How often data nodes are asked for their figures, of which the last 600 are kept. Default 1 s.
    pub figures_interval: Duration,
    /// How long a data node may take to answer what an operator asks of it. Default 2 s.
    pub node_deadline: Duration,
    /// How long requests under way may go on when the server stops. Default 10 s.
    pub stop_grace: Duration,
}

impl Default for RestConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7480)),
            admin_listen: None,
            operator_key: None,
            payload_bytes_max: 16 << 10,
            rate_of_key: Rate::per_second(4_000, 2_000),
            rate_of_user: Rate::per_second(200, 50),
            rate_of_address: Rate::per_second(100, 20),
            store_deadline: Duration::from_secs(5),
            publish_deadline: Duration::from_secs(10),
            read_deadline: Duration::from_secs(10),
            connections_max: 4_096,
            figures_interval: Duration::from_secs(1),
            node_deadline: Duration::from_secs(2),
            stop_grace: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for RestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the operator key.
        f.debug_struct("RestConfig")
            .field("listen", &self.listen)
            .field("admin_listen", &self.admin_listen)
            .field("payload_bytes_max", &self.payload_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Why the REST API cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody else listens there, or the address is not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Too short to be secret, or not what fits into a header.
    #[error("the operator key has to be {OPERATOR_KEY_BYTES_MIN} to {OPERATOR_KEY_BYTES_MAX} visible ASCII characters")]
    OperatorKey,
    /// Metrics of the same names exist already.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Shortest operator key, in bytes.
pub(crate) const OPERATOR_KEY_BYTES_MIN: usize = 32;
/// Longest operator key, in bytes.
pub(crate) const OPERATOR_KEY_BYTES_MAX: usize = 1024;
