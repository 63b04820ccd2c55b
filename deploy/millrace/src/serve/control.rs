//! A control node put together: store, REST API, control link, housekeeping.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_control::{
    Housekeeping, HousekeepingConfig, LinkConfig, LinkServer, RestConfig, RestServer, SignIn, Webhooks, serve_rest,
};
use millrace_data::Dial;
use millrace_store::Store;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::plan;
use crate::settings::Settings;

/// A start that takes longer than this says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A running control node.
pub(super) struct ControlNode {
    store: Arc<dyn Store>,
    rest: RestServer,
    link: LinkServer,
    webhooks: Webhooks,
    housekeeping: JoinHandle<()>,
}

impl ControlNode {
    /// Opens the store and serves REST. Links are the caller's to bring: by TCP or by a pipe.
    ///
    /// # Errors
    /// Says which part did not start and what to do about it.
    pub(super) async fn start(settings: &Settings, secret: &[u8]) -> Result<Self> {
        let store = open_store(settings).await?;
        let registry = prometheus::Registry::new();
        let webhooks = Webhooks::start(Arc::clone(&store), plan::webhooks(&settings.webhooks)?, &registry)
            .await
            .context("deliver webhooks")?;
        let link =
            LinkServer::new(Arc::clone(&store), LinkConfig::new(secret.to_vec()), &registry).context("control link")?;
        let link = link.with_webhooks(webhooks.clone());
        let listen = plan::address("control.rest_address", &settings.control.rest_address)?;
        let config = RestConfig {
            listen,
            operator_key: settings.control.operator_key()?,
            payload_bytes_max: usize::try_from(settings.limits.payload.as_u64()).context("limits.payload")?,
            ..RestConfig::default()
        };
        let rest = serve_rest(config, Arc::clone(&store), Arc::new(link.clone()), webhooks.clone(), registry.clone())
            .await
            .with_context(|| format!("serve REST on control.rest_address {listen}"))?;
        let housekeeping =
            Housekeeping::new(Arc::clone(&store), HousekeepingConfig::default(), &registry).context("housekeeping")?;
        let housekeeping = tokio::spawn(housekeeping.run());
        Ok(Self { store, rest, link, webhooks, housekeeping })
    }

    pub(super) fn rest_address(&self) -> SocketAddr {
        self.rest.address()
    }

    /// A code that the console exchanges for these credentials, once.
    pub(super) fn sign_in_code(&self, sign_in: SignIn) -> String {
        self.rest.sign_in_code(sign_in)
    }

    pub(super) fn link(&self) -> LinkServer {
        self.link.clone()
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// A way for a data node of this process to open its link, served on this runtime.
    pub(super) fn dial(&self) -> Dial {
        let (link, runtime) = (self.link.clone(), Handle::current());
        Arc::new(move || {
            let _entered = runtime.enter();
            io::Result::Ok(link.connect_in_process())
        })
    }

    /// Stops in the order in which nothing that is promised is lost: callers, links, store.
    ///
    /// # Errors
    /// If the store could not be closed cleanly.
    pub(super) async fn stop(self) -> Result<()> {
        self.rest.stop().await;
        self.link.stop();
        self.webhooks.stop().await;
        // A pass is a row of transactions: cut off, it has removed some and the next one goes on.
        self.housekeeping.abort();
        tokio::time::timeout(plan::CLOSE_TIMEOUT, self.store.close())
            .await
            .context("the store did not close in time")?
            .context("close the store")
    }
}

/// Opens the store without holding the runtime up, and says so when it takes long: after a crash it reads its journal.
async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>> {
    let begun = Instant::now();
    let (chosen, path) = (settings.store.clone(), settings.store.path.clone());
    let mut opening = tokio::task::spawn_blocking(move || plan::store(&chosen));
    loop {
        match tokio::time::timeout(PATIENCE, &mut opening).await {
            Ok(opened) => return opened.context("open the store")?,
            Err(_) => {
                let seconds = begun.elapsed().as_secs();
                tracing::info!(path = %path.display(), seconds, "opening the store: what a crash left is read");
            }
        }
    }
}
