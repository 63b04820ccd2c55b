//! Transport security of the node's listeners: certificates from files that may change while connections stay, the keys of
//! session tickets, and which clients' certificates are taken.
//!
//! Everything that can change stands behind the configurations that [`Tls`] hands out: a reload reaches all listeners and all
//! shards at once, and nobody asks for a configuration again. In reading order: [`TlsConfig`], [`Tls`]; `certificate` (files),
//! `shared` (what handshakes ask), `validity` (when a certificate ends); and apart from all that `session`, one connection.

mod certificate;
mod session;
mod shared;
mod validity;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;

use self::certificate::{Identity, Stamp};
use self::shared::{Certificates, ClientVerifier, Sessions, Tickets};

pub use self::certificate::CertificateStatus;
pub(crate) use self::session::{Failure, Opened, SEAL_BYTES_MAX, Sealed, TlsSession};

/// Protocol of a WebSocket's first request (RFC 7301).
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Where certificate and key are. All files are PEM, and are read again when they change and on
/// [`DataNode::reload_certificates`](crate::DataNode::reload_certificates).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate, then the ones that lead to its root.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// Roots of clients' certificates. With it, a client without a certificate that leads to one of them does not get in.
    /// Default `None`: clients show no certificate.
    pub client_ca: Option<PathBuf>,
    /// How often files are looked at. Default 30 s, at least 100 ms. Costs three `stat` each.
    pub check_interval: Duration,
}

impl TlsConfig {
    /// Certificate and key in these files, everything else at its default.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
            check_interval: Duration::from_secs(30),
        }
    }
}

/// Why certificates cannot be used. What was in force before stays so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The operator's: a file cannot be read or holds no PEM of that kind.
    #[error("{what} {}: no {what} in PEM format can be read from it", path.display())]
    File {
        /// `certificate`, `key` or `client CA`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: rustls::pki_types::pem::Error,
    },
    /// The operator's: a file is PEM, and what is in it is not what it should be.
    #[error("{what} {}: it holds none that can be used", path.display())]
    Unusable {
        /// `certificate`, `key` or `client CA`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The operator's: the certificate is for another key.
    #[error("key {} is not the one that certificate {} is for", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The operator's: nobody would take a certificate that has ended.
    #[error("certificate {}: it expired {days_ago} days ago", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Whole days since then.
        days_ago: u64,
    },
    /// The operator's: no client could be let in by these roots.
    #[error("client CA {}: it holds no root that clients' certificates could lead to", path.display())]
    NoRoots {
        /// The file.
        path: PathBuf,
    },
    /// The machine's: cryptography is not available, as without a source of randomness.
    #[error("cryptography is not available")]
    Crypto(#[source] rustls::Error),
}

/// How clients of a configuration come back without a whole handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// With tickets that any shard can open and nobody stores. No early data: what a ticket was used for is not known.
    Tickets,
    /// From a memory of so many sessions that all users of the configuration share. Each ticket serves once, so early data is
    /// safe from being played again to this node.
    Remembered {
        /// About 0.4 KiB each; the oldest goes.
        sessions_max: usize,
    },
}

/// What a listener's handshakes offer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile<'a> {
    /// Protocols, most wanted first. A client that offers none of them is refused; one that offers nothing at all is not.
    pub(crate) alpn: &'a [&'a [u8]],
    /// Also TLS 1.2. Not for QUIC.
    pub(crate) tls12: bool,
    pub(crate) resumption: Resumption,
    /// Bytes that a client that resumes may send with its first flight: 0, or `u32::MAX` for QUIC, which bounds them itself.
    pub(crate) early_data_bytes_max: u32,
}

impl Profile<'static> {
    /// WebSocket over TLS over TCP. TLS 1.2 is there for who needs a WebSocket most: clients behind proxies that inspect TLS.
    pub(crate) const WEBSOCKET: Self =
        Self { alpn: &[ALPN_HTTP1], tls12: true, resumption: Resumption::Tickets, early_data_bytes_max: 0 };
}

/// The node's certificate, ticket keys and client roots, shared by all its listeners and shards.
#[derive(Debug)]
pub(crate) struct Tls {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
    certificates: Arc<Certificates>,
    /// `None` if clients show no certificate.
    clients: Option<Arc<ClientVerifier>>,
    tickets: Arc<Tickets>,
    /// Of all configurations that remember sessions: who may no longer come in must not come back by one either.
    sessions: Mutex<Vec<Arc<Sessions>>>,
    /// What the files looked like when they were last read, for better or worse.
    seen: Mutex<Vec<Stamp>>,
    reloads_total: AtomicU64,
    reload_failures_total: AtomicU64,
    /// Hashes of the certificate in force, for whoever is to hear of another one.
    hashes: watch::Sender<Vec<[u8; 32]>>,
}

/// What became of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Unchanged,
    Reloaded,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it. An expired certificate is none here: a node that starts again goes
    /// on to serve everybody who does not ask for it, and says so in its log and metrics.
    pub(crate) fn load(config: TlsConfig) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(provider());
        let stamps = stamps(&config);
        let identity = Identity::read(&config.certificate, &config.key, &provider)?;
        if let Err(error) = identity.check(unix_seconds(), &config.certificate) {
            tracing::error!(%error, "clients will refuse this node's certificate");
        }
        let clients = match &config.client_ca {
            None => None,
            Some(path) => Some(Arc::new(ClientVerifier::new(certificate::read_roots(path, &provider)?))),
        };
        let (hashes, _) = watch::channel(hashes(&identity.status));
        Ok(Arc::new(Self {
            certificates: Arc::new(Certificates::new(identity)),
            hashes,
            clients,
            tickets: Arc::new(Tickets::new().map_err(TlsError::Crypto)?),
            sessions: Mutex::new(Vec::new()),
            seen: Mutex::new(stamps),
            reloads_total: AtomicU64::new(0),
            reload_failures_total: AtomicU64::new(0),
            provider,
            config,
        }))
    }

    /// A configuration for a listener. It stays good: reloads reach it.
    ///
    /// # Errors
    /// [`TlsError::Crypto`] if the provider lacks what the profile asks for.
    pub(crate) fn server_config(&self, profile: Profile<'_>) -> Result<Arc<ServerConfig>, TlsError> {
        let versions: &[_] = if profile.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(TlsError::Crypto)?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as _),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.certificates) as _);
        config.ignore_client_order = true;
        config.alpn_protocols = profile.alpn.iter().map(|name| name.to_vec()).collect();
        config.max_early_data_size = profile.early_data_bytes_max;
        // One is what a client that comes back needs; each costs it and us some microseconds.
        config.send_tls13_tickets = 1;
        match profile.resumption {
            Resumption::Tickets => {
                config.ticketer = Arc::clone(&self.tickets) as _;
                config.session_storage = Arc::new(NoServerSessionStorage {});
            }
            Resumption::Remembered { sessions_max } => {
                let sessions = Arc::new(Sessions::new(ServerSessionMemoryCache::new(sessions_max), sessions_max));
                lock(&self.sessions).push(Arc::clone(&sessions));
                config.session_storage = sessions;
            }
        }
        Ok(Arc::new(config))
    }

    /// Reads the files again. Handshakes from now on see what is new; connections that are there do not notice.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it; everything stays as it was.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        // Before the files are read: what changes meanwhile is noticed at the next look.
        let mut seen = lock(&self.seen);
        *seen = stamps(&self.config);
        let read = self.read();
        let counter = if read.is_ok() { &self.reloads_total } else { &self.reload_failures_total };
        counter.fetch_add(1, Ordering::Relaxed);
        read
    }

    /// Reads the files again if they have changed since they were last read.
    ///
    /// # Errors
    /// As [`Tls::reload`], once for each change.
    pub(crate) fn check_files(&self) -> Result<Checked, TlsError> {
        if *lock(&self.seen) == stamps(&self.config) {
            return Ok(Checked::Unchanged);
        }
        self.reload().map(|()| Checked::Reloaded)
    }

    fn read(&self) -> Result<(), TlsError> {
        // All files before any is put in force.
        let identity = Identity::read(&self.config.certificate, &self.config.key, &self.provider)?;
        identity.check(unix_seconds(), &self.config.certificate)?;
        let roots = match &self.config.client_ca {
            None => None,
            Some(path) => Some(certificate::read_roots(path, &self.provider)?),
        };
        if let (Some(clients), Some(roots)) = (&self.clients, roots)
            && clients.replace(roots)
        {
            // A ticket stands for a certificate that was verified with the roots of its time.
            self.tickets.replace().map_err(TlsError::Crypto)?;
            lock(&self.sessions).iter().for_each(|sessions| sessions.clear());
        }
        let shown = hashes(&identity.status);
        self.hashes.send_if_modified(|told| std::mem::replace(told, shown.clone()) != shown);
        self.certificates.replace(identity);
        Ok(())
    }

    /// What browsers take the certificate in force by, now and whenever it changes: SHA-256 of one that they take by its hash alone.
    pub(crate) fn hashes(&self) -> watch::Receiver<Vec<[u8; 32]>> {
        self.hashes.subscribe()
    }

    /// The certificate that is in force.
    pub(crate) fn status(&self) -> CertificateStatus {
        self.certificates.status()
    }

    /// How often the files are to be looked at.
    pub(crate) fn check_interval(&self) -> Duration {
        self.config.check_interval.max(Duration::from_millis(100))
    }

    /// Times that files were read again and put in force, and times that they were not because something was wrong with them.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloads_total.load(Ordering::Relaxed), self.reload_failures_total.load(Ordering::Relaxed))
    }
}

fn hashes(status: &CertificateStatus) -> Vec<[u8; 32]> {
    Some(status.sha256).filter(|_| status.is_short_lived()).into_iter().collect()
}

fn stamps(config: &TlsConfig) -> Vec<Stamp> {
    [Some(&config.certificate), Some(&config.key), config.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| Stamp::of(path))
        .collect()
}

fn unix_seconds() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_secs()).unwrap_or(i64::MAX)
}

/// What the node encrypts with, most wanted first: the suites of AES-256 come last. They hash with SHA-384, for which processors have no
/// instructions; that was a sixth of the work of a handshake. Who has nothing else still gets them.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite().as_str().is_some_and(|name| name.contains("AES_256")));
    provider
}

/// What a thread that panicked left is whole: every change behind these locks is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
