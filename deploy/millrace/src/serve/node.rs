//! `millrace control` and `millrace data`: one node each, joined by the control link over TCP.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use millrace_data::{LinkConfig, LinkTarget};
use serde_json::json;
use tokio::net::TcpListener;

use super::control::ControlNode;
use super::stop::{Reload, Stop};
use super::{Sources, logging, plan};

/// Between two questions to the probe while a node starts.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// Run a control node: REST API, membership, history.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  head -c 32 /dev/urandom | base64 > secret.txt\n  \
    head -c 32 /dev/urandom | base64 > operator.txt\n  \
    millrace control --set cluster.secret_file=secret.txt --set control.operator_key_file=operator.txt\n  \
    millrace control --config millrace.toml\n\n\
    The operator key makes tenants and their API keys, over REST.\n\
    `millrace config example` prints every setting.")]
pub(crate) struct Control {
    /// Print one line of JSON with the addresses when ready
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

/// Run a data node: client connections and fan-out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace data --set cluster.secret_file=secret.txt\n  \
    millrace data --config millrace.toml --set data.shards=4\n  \
    millrace data --config millrace.toml --set data.client_tls_address=0.0.0.0:443 \\\n    \
    --set data.tls_certificate=fullchain.pem --set data.tls_key=privkey.pem\n\n\
    New certificates come into force by themselves, and at once with SIGHUP.\n`millrace config example` prints every setting.")]
pub(crate) struct Data {
    /// Print one line of JSON with the addresses when clients can connect
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) fn control(command: &Control) -> Result<()> {
    let settings = command.sources.load()?;
    logging::start(&settings.log)?;
    let secret = settings.cluster.secret()?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let address = plan::address("control.link_address", &settings.control.link_address)?;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("listen on control.link_address {address}"))?;
        let node = ControlNode::start(&settings, &secret).await?;
        let link_address = listener.local_addr().context("link address")?;
        tracing::info!(rest = %node.rest_address(), link = %link_address, "control node runs");
        if settings.control.operator_key()?.is_none() {
            tracing::warn!(
                "control.operator_key is not set: only operator keys that are in the store can make tenants and their API keys"
            );
        }
        if command.json {
            ready(&json!({ "api": format!("http://{}", node.rest_address()), "link": link_address.to_string() }))?;
        }
        let link = node.link();
        let accept = tokio::spawn(async move { link.serve_tcp(listener).await });
        stop.asked().await;
        tracing::info!("stopping");
        accept.abort();
        node.stop().await
    })
}

pub(crate) fn data(command: &Data) -> Result<()> {
    let settings = command.sources.load()?;
    logging::start(&settings.log)?;
    let secret = settings.cluster.secret()?;
    let config = plan::data(&settings)?;
    let target = LinkTarget::Tcp { address: settings.data.control_address.clone() };
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let mut reload = Reload::listen(config.tls.is_some())?;
        let node = millrace_data::start(config, LinkConfig { target, secret }).context("start the data node")?;
        if command.json {
            tokio::select! {
                ready = until_ready(node.admin_address) => ready?,
                // A stop that comes first is a stop, not a failure to start.
                () = stop.asked() => return drain(node, settings.data.drain, &mut stop).await,
            }
            let (url, admin) = (format!("ws://{}", node.client_address), format!("http://{}", node.admin_address));
            let mut told = json!({ "url": url, "admin": admin });
            if let Some(address) = node.client_tls_address {
                told["tls_url"] = json!(format!("wss://{address}"));
            }
            if let Some(address) = node.client_quic_address {
                told["quic_url"] = json!(format!("quic://{address}"));
            }
            ready(&told)?;
        }
        loop {
            tokio::select! {
                () = stop.asked() => return drain(node, settings.data.drain, &mut stop).await,
                () = reload.asked() => match node.reload_certificates() {
                    Ok(()) => tracing::info!("the certificate's files were read again and are in force"),
                    Err(error) => {
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::error!(error, "the certificate's files cannot be used; the old ones stay");
                    }
                },
                () = node.ended() => {
                    tracing::info!("drained by order of the control plane, the process ends");
                    return tokio::task::spawn_blocking(move || node.join()).await.context("wait for the data node");
                }
            }
        }
    })
}

/// Waits until the data node's own probe says that clients can sign in: its link is up and it has heard of every key.
///
/// # Errors
/// If the probe cannot be asked at all.
pub(super) async fn until_ready(admin: SocketAddr) -> Result<()> {
    let probe = format!("http://{admin}/readyz");
    loop {
        let asked = probe.clone();
        let answer = tokio::task::spawn_blocking(move || ureq::get(asked).call()).await.context("ask the probe")?;
        match answer {
            Ok(_) => return Ok(()),
            Err(ureq::Error::StatusCode(_)) => tokio::time::sleep(PROBE_INTERVAL).await,
            Err(error) => return Err(error).with_context(|| format!("ask {probe}")),
        }
    }
}

/// Tells a script where the node is, on standard output.
fn ready(addresses: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{addresses}").and_then(|()| out.flush()).context("say that the node is ready")
}

/// A clean stop of the data node; a second signal cuts it short.
pub(super) async fn drain(node: millrace_data::DataNode, grace: Duration, stop: &mut Stop) -> Result<()> {
    tracing::info!(
        grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        "stopping: clients are told to come back"
    );
    node.drain(grace);
    let joined = tokio::task::spawn_blocking(move || node.join());
    tokio::select! {
        joined = joined => joined.context("wait for the data node"),
        () = stop.asked() => anyhow::bail!("stopped at once by a second signal"),
    }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}
