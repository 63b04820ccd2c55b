//! Starting and stopping a data node.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use millrace_core::ShardIndex;
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use crate::backplane::{self, Command, Identity, LinkTarget, Surroundings};
use crate::config::{Config, Pinning, QuicAddress, StartError};
use crate::tls::{CertificateStatus, Checked, Profile, Tls, TlsError};
use crate::{admin, listener, machine, quic, ring, shard};

/// Requests for a report that wait; more wait in their connections.
const REPORTS_MAX: usize = 16;

/// How the node reaches the control plane.
#[derive(Clone)]
pub struct LinkConfig {
    /// Where it is.
    pub target: LinkTarget,
    /// The cluster secret: the node proves that it knows it, and never sends it.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkConfig").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A running data node. Dropping it stops the node at once, without a word to clients, and does not wait.
#[derive(Debug)]
pub struct DataNode {
    /// Where clients connect: `ws://{client_address}/v1/connect`.
    pub client_address: SocketAddr,
    /// Where clients connect over TLS, if anywhere: `wss://{client_tls_address}/v1/connect`.
    pub client_tls_address: Option<SocketAddr>,
    /// Where clients connect by QUIC, if anywhere: `quic://{client_quic_address}`.
    pub client_quic_address: Option<SocketAddr>,
    /// Where metrics and health are.
    pub admin_address: SocketAddr,
    tls: Option<Arc<Tls>>,
    commands: mpsc::Sender<Command>,
    /// Closed when the node has stopped.
    running: watch::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a data node and returns when it takes clients. The control link is opened in the background and again whenever it
/// ends; until it is up, clients are held or told to try again.
///
/// A thread of the node that panics or cannot go on ends the whole process, with the reason in the log: half a node would
/// keep the slots of the other half from everybody.
///
/// # Errors
/// [`StartError`] says what to do about it.
pub fn start(config: Config, link: LinkConfig) -> Result<DataNode, StartError> {
    config.check()?;
    let processors = machine::processors();
    let shards = config.shard_count(machine::parallelism());
    // Under a quota the processors are others' too: a shard that floats finds the idle one.
    let pinning = if machine::parallelism() < processors.len() { Pinning::Floating } else { config.pinning };
    let tls = config.tls.clone().map(Tls::load).transpose()?;
    let connections_max = config.connection_limit(machine::raise_descriptor_limit(), shards)?;
    let listeners =
        listener::bind(config.client_address, shards.into()).map_err(bind_error("client", config.client_address))?;
    let sealed = sealed_listeners(&config, tls.as_deref(), shards)?;
    let client_tls_address = sealed
        .first()
        .map(|(listener, _)| listener.local_addr())
        .transpose()
        .map_err(setup_error("client TLS listener"))?;
    let (admin, admin_address) = bind_admin(config.admin_address)?;
    let client_address = listeners[0].local_addr().map_err(setup_error("client listener"))?;
    let (shard_rings, rings) =
        ring::mesh(shards.into(), config.ring_slots).map_err(setup_error("rings between threads"))?;

    let bells: Vec<_> = shard_rings.iter().map(|rings| Arc::clone(&rings.bell)).collect();
    let quic = match (quic_address(&config, client_tls_address), &tls) {
        (None, _) => None,
        (Some(address), Some(tls)) => Some(quic::set_up(&config, address, tls, &link.secret, &bells)?),
        (Some(address), None) => return Err(StartError::NoCertificate { what: "client_quic_address", address }),
    };
    let (client_quic_address, quic) = quic.unzip();
    let mut quic = quic.into_iter().flatten();

    let connections = Arc::new(AtomicU32::new(0));
    let (commands, from_owner) = mpsc::channel(1);
    let mut threads = Vec::with_capacity(usize::from(shards) + 1);
    let mut sealed = sealed.into_iter();
    for (index, (listener, rings)) in (0..shards).zip(listeners.into_iter().zip(shard_rings)) {
        let processor = match pinning {
            // Two shards on one processor would only wait for each other.
            Pinning::Pinned => processors.get(usize::from(index)).copied(),
            Pinning::Floating => None,
        };
        let setup = shard::Setup {
            index: ShardIndex(index),
            shards,
            processor,
            listener,
            tls: sealed.next(),
            quic: quic.next(),
            rings,
            core: config.core.clone(),
            keys: config.keys.clone(),
            turn: config.turn,
            unfinished_bytes_max: config.unfinished_bytes_max,
            admission: config.admission,
            compression: config.compression,
            linger: config.linger,
            seed: seed()?,
            connections: Arc::clone(&connections),
            connections_max,
        };
        let (ready, started) = sync_channel(1);
        threads.push(spawn(format!("shard-{index}"), move || shard::run(setup, &ready))?);
        wait_for(&started, "shard")?;
    }

    let (report_requests, reports) = mpsc::channel(REPORTS_MAX);
    // Who asks the control plane where to connect gets an answer, also of a node that nobody gave a name.
    let endpoints = if config.endpoints.is_empty() {
        let sealed = client_tls_address.map(|address| format!("wss://{address}"));
        let in_lanes = client_quic_address.map(|address| format!("quic://{address}"));
        let in_browsers = client_quic_address.map(|address| format!("https://{address}"));
        [Some(format!("ws://{client_address}")), sealed, in_lanes, in_browsers].into_iter().flatten().collect()
    } else {
        config.endpoints.clone()
    };
    // Without a certificate there is nobody to tell of another one.
    let certificate_hashes = tls.as_ref().map_or_else(|| watch::channel(Vec::new()).1, |tls| tls.hashes());
    let identity = Identity { node: config.core.node.clone(), endpoints, certificate_hashes, secret: link.secret };
    let surroundings = Surroundings {
        node: config.core.node,
        tls: tls.clone(),
        udp_port: client_quic_address.map(|address| address.port()),
        endpoints: config.endpoints,
        connections,
        connections_max,
        linger: config.linger,
        commands: from_owner,
        reports,
    };
    let (running_until_dropped, running) = watch::channel(());
    let (ready, started) = sync_channel(1);
    let watched = tls.clone();
    threads.push(spawn("backplane".into(), move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let prepared = tokio::net::TcpListener::from_std(admin)
                .and_then(|admin| Ok((admin, backplane::BellWaiter::new(&rings)?)));
            let (admin, bell) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return Ok(());
                }
            };
            // Whoever starts the node waits for it.
            let _ = ready.send(Ok(()));
            let admin = tokio::spawn(admin::serve(admin, report_requests));
            let watch = watched.map(|tls| tokio::spawn(watch_certificates(tls)));
            backplane::run(rings, bell, link.target, identity, surroundings).await;
            admin.abort();
            if let Some(watch) = watch {
                watch.abort();
            }
            drop(running_until_dropped);
            Ok(())
        })
    })?);
    wait_for(&started, "backplane")?;
    let over_tls = client_tls_address.map(tracing::field::display);
    let over_quic = client_quic_address.map(tracing::field::display);
    tracing::info!(
        clients = %client_address, over_tls, over_quic, admin = %admin_address, shards, connections_max, "data node runs"
    );
    Ok(DataNode {
        client_address,
        client_tls_address,
        client_quic_address,
        admin_address,
        tls,
        commands,
        running,
        threads,
    })
}

impl DataNode {
    /// Begins a clean stop: no new clients; those that are here are told to come back, spread over `grace`, elsewhere or when
    /// the node is back; what was delivered is stored and every home is given back. Returns at once; [`DataNode::join`]
    /// waits for the end, which comes at most 5 s and the linger time after `grace`. A second call changes nothing.
    pub fn drain(&self, grace: Duration) {
        // Full means that a stop has been asked for already, closed that it is over.
        let _ = self.commands.try_send(Command::Drain(grace));
    }

    /// Reads certificate, key and client roots again. Handshakes from now on see what is new; connections do not notice. Without
    /// TLS it does nothing. The node also does this by itself when the files change.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it; everything stays as it was.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.reload())
    }

    /// The certificate that clients are shown, if the node has one.
    pub fn certificate(&self) -> Option<CertificateStatus> {
        self.tls.as_ref().map(|tls| tls.status())
    }

    /// Waits until the node has stopped: after [`DataNode::drain`], or because the control plane ordered a drain.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn ended(&self) {
        // Nothing is ever sent: only the end is heard.
        while self.running.clone().changed().await.is_ok() {}
    }

    /// Waits until the node has stopped, as [`DataNode::ended`] does, holding the thread up.
    pub fn join(mut self) {
        for thread in std::mem::take(&mut self.threads) {
            // A panic has ended the process already.
            let _ = thread.join();
        }
    }
}

/// Looks at the certificate's files now and then, for as long as the node runs.
async fn watch_certificates(tls: Arc<Tls>) {
    loop {
        tokio::time::sleep(tls.check_interval()).await;
        let looking = Arc::clone(&tls);
        // Files may be slow, and this thread is the link's.
        match tokio::task::spawn_blocking(move || looking.check_files()).await {
            Ok(Ok(Checked::Unchanged)) => {}
            Ok(Ok(Checked::Reloaded)) => tracing::info!("the certificate's files have changed and are in force"),
            Ok(Err(error)) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, reason, "the certificate's files have changed and cannot be used; the old one stays");
            }
            // The runtime ends.
            Err(_) => return,
        }
    }
}

/// A listener over TLS for each shard, or none at all.
fn sealed_listeners(
    config: &Config,
    tls: Option<&Tls>,
    shards: u16,
) -> Result<Vec<(TcpListener, Arc<ServerConfig>)>, StartError> {
    let Some(address) = config.client_tls_address else { return Ok(Vec::new()) };
    let tls = tls.ok_or(StartError::NoCertificate { what: "client_tls_address", address })?;
    // One for all: what it holds is shared anyway.
    let server = tls.server_config(Profile::WEBSOCKET)?;
    let listeners = listener::bind(address, shards.into()).map_err(bind_error("client TLS", address))?;
    Ok(listeners.into_iter().map(|listener| (listener, Arc::clone(&server))).collect())
}

/// Where QUIC is, given where TLS is.
fn quic_address(config: &Config, tls: Option<SocketAddr>) -> Option<SocketAddr> {
    match config.client_quic_address {
        QuicAddress::WithTls => tls,
        QuicAddress::At(address) => Some(address),
        QuicAddress::Off => None,
    }
}

fn bind_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).map_err(bind_error("admin", address))?;
    listener.set_nonblocking(true).map_err(setup_error("admin listener"))?;
    let bound = listener.local_addr().map_err(setup_error("admin listener"))?;
    Ok((listener, bound))
}

fn bind_error(what: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> StartError {
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { what, address },
        _ => StartError::Bind { what, address, source },
    }
}

fn setup_error(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Setup { what, source }
}

/// Waits until a thread serves, or says why it does not.
fn wait_for(started: &Receiver<io::Result<()>>, what: &'static str) -> Result<(), StartError> {
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended"))).map_err(setup_error(what))
}

fn seed() -> Result<u64, StartError> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(io::Error::other).map_err(setup_error("source of randomness"))?;
    Ok(u64::from_ne_bytes(seed))
}

/// A thread of the node. If it ends in any way but the planned one, so does the process.
fn spawn(name: String, body: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let thread = name.clone();
    let guarded = move || {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!(thread, %error, "a thread of the node cannot go on, the process ends"),
            // The panic hook has said where and why.
            Err(_) => tracing::error!(thread, "a thread of the node panicked, the process ends"),
        }
        std::process::abort();
    };
    Builder::new().name(name).spawn(guarded).map_err(setup_error("thread"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const TOLD: &str = "MILLRACE_TEST_PANICS";

    /// Half a node is worse than none. Runs itself in a process of its own, which must not survive.
    #[test]
    fn a_thread_that_panics_ends_the_process() {
        if std::env::var(TOLD).is_ok() {
            let thread = spawn("doomed".into(), || panic!("a bug")).expect("thread");
            let _ = thread.join();
            return;
        }
        let output = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "node::tests::a_thread_that_panics_ends_the_process", "--nocapture"])
            .env(TOLD, "1")
            .output()
            .expect("start");
        assert_eq!(output.status.signal(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("a bug"));
    }
}
