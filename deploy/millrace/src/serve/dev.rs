//! `millrace dev`: a whole deployment in one process, with something in it to try.

mod authority;
mod secret;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use millrace_control::SignIn;
use millrace_data::{CertificateStatus, DataNode, LinkConfig, LinkTarget};
use serde_json::json;

use self::authority::Authority;
use super::control::ControlNode;
use super::stop::Stop;
use super::{Sources, logging, node, plan};
use crate::settings::Settings;
use crate::terminal;
use crate::terminal::credentials::{self, Credentials};

/// Where clients of a development server connect over TLS.
const DEV_TLS_PORT: u16 = 7443;

/// Run everything on this machine, with a tenant, users and a channel to try.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace dev\n  millrace dev --dir /tmp/try --ephemeral-ports\n  millrace dev --set data.shards=1 --set log.filter=debug\n  \
    millrace dev --json | head -1      addresses and credentials for a script\n\n\
    Everything it keeps is in its folder: delete that to begin anew. Commands find a folder named .millrace where they run or above;\n\
    for another, set MILLRACE_CREDENTIALS to the credentials.json in it."
)]
pub(crate) struct Dev {
    /// Where the store and the credentials are kept
    #[arg(long, default_value = ".millrace", value_name = "FOLDER")]
    dir: PathBuf,
    /// Let the system choose every port
    #[arg(long)]
    ephemeral_ports: bool,
    /// Print one line of JSON when ready
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) fn run(command: &Dev) -> Result<()> {
    let begun = Instant::now();
    let mut settings = command.sources.load()?;
    let authority = prepare(command, &mut settings)?;
    logging::start(&settings.log)?;
    node::runtime()?.block_on(serve(command, &settings, authority, begun))
}

/// What a development server does differently: everything under its folder, and quiet enough to read.
fn prepare(command: &Dev, settings: &mut Settings) -> Result<Option<Authority>> {
    std::fs::create_dir_all(&command.dir).with_context(|| format!("make the folder {}", command.dir.display()))?;
    settings.store.path = command.dir.join("store");
    let defaults = Settings::default();
    if settings.log.filter == defaults.log.filter {
        settings.log.filter = "warn".into();
    }
    if settings.data.client_tls_address.is_empty() {
        settings.data.client_tls_address = tls_address(&settings.data.client_address, &defaults.data.client_address);
    }
    if command.ephemeral_ports {
        settings.data.client_tls_address = "127.0.0.1:0".into();
        for address in
            [&mut settings.data.client_address, &mut settings.data.admin_address, &mut settings.control.rest_address]
        {
            *address = "127.0.0.1:0".into();
        }
    }
    if settings.webhooks.networks.is_empty() {
        settings.webhooks.networks = ["127.0.0.0/8", "::1/128"].map(str::to_owned).into();
    }
    if !settings.data.tls_certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let authority = Authority::open(command.dir.join("tls"), &plan::host_name())?;
    authority.renew()?;
    settings.data.tls_certificate = authority.node();
    settings.data.tls_key = authority.node();
    Ok(Some(authority))
}

/// Where clients connect over TLS if nobody said: on the host where they connect in clear. Beside the port that is known from
/// everywhere, one that can be known too; beside any other, one that is free.
fn tls_address(client_address: &str, default: &str) -> String {
    let host = client_address.rsplit_once(':').map_or(client_address, |(host, _)| host);
    let port = if client_address == default { DEV_TLS_PORT } else { 0 };
    format!("{host}:{port}")
}

async fn serve(command: &Dev, settings: &Settings, authority: Option<Authority>, begun: Instant) -> Result<()> {
    let mut stop = Stop::listen()?;
    let secret = secret::open(&command.dir.join("secret"))?;
    let control = ControlNode::start(settings, &secret).await?;
    let made =
        millrace_control::ensure_dev(&control.store()).await.context("make the tenant, users and channel to try")?;
    let target = LinkTarget::InProcess { dial: control.dial() };
    let data =
        millrace_data::start(plan::data(settings)?, LinkConfig { target, secret }).context("start the data node")?;

    let credentials = Credentials {
        url: format!("ws://{}", data.client_address),
        ca: authority.as_ref().map_or(Ok(String::new()), |authority| absolute(&authority.ca()))?,
        api: format!("http://{}", control.rest_address()),
        user: made.user,
        token: made.token,
        api_key: made.api_key,
        operator_key: made.operator_key,
    };
    let path = command.dir.join(credentials::FILE);
    credentials.write(&path)?;
    node::until_ready(data.admin_address).await?;
    let console = console(&control, &credentials);
    announce(command, &credentials, &data, &console, begun).context("say that the server is ready")?;

    let fresh = async {
        match &authority {
            Some(authority) => authority.keep_fresh(&data).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.asked() => {}
        never = fresh => match never {},
        () = data.ended() => {
            // REST stays up, so that whoever drained sees what came of it.
            eprintln!("the data node was drained: no client can connect until you start `millrace dev` again");
            stop.asked().await;
        }
    }
    if !command.json {
        eprintln!("stopping: clients are told to come back");
    }
    node::drain(data, settings.data.drain, &mut stop).await?;
    control.stop().await
}

/// A link to the web console, with everything that can be tried in it. It works once and soon; `millrace console` prints another.
fn console(control: &ControlNode, credentials: &Credentials) -> String {
    let Credentials { api, token, api_key, operator_key, .. } = credentials;
    let keys = vec![api_key.clone(), operator_key.clone()];
    let code = control.sign_in_code(SignIn { token: Some(token.clone()), refresh_token: None, keys });
    terminal::console::link(api, &code)
}

/// The whole path, for whoever reads it in another folder.
fn absolute(path: &Path) -> Result<String> {
    let whole = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    whole.into_os_string().into_string().map_err(|path| anyhow!("{} is no path of text", path.display()))
}

/// What a browser takes in place of an authority: `serverCertificateHashes`. Of a certificate of one's own that is none of those,
/// nothing.
fn certificate_hashes(data: &DataNode) -> Vec<[u8; 32]> {
    data.certificate()
        .filter(CertificateStatus::is_short_lived)
        .map(|certificate| certificate.sha256)
        .into_iter()
        .collect()
}

fn announce(command: &Dev, credentials: &Credentials, data: &DataNode, console: &str, begun: Instant) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let admin = format!("http://{}", data.admin_address);
    let tls_url = data.client_tls_address.map(|address| format!("wss://{address}"));
    let quic_url = data.client_quic_address.map(|address| format!("quic://{address}"));
    if command.json {
        let mut ready = serde_json::to_value(credentials).context("write credentials as JSON")?;
        ready["admin"] = json!(admin);
        ready["tls_url"] = json!(tls_url);
        ready["quic_url"] = json!(quic_url);
        ready["certificate_hashes"] = certificate_hashes(data)
            .into_iter()
            .map(|hash| json!({ "algorithm": "sha-256", "value": STANDARD.encode(hash) }))
            .collect();
        ready["console"] = json!(console);
        ready["ready_ms"] = json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        writeln!(out, "{ready}")?;
    } else {
        let Credentials { url, ca, api, user, token, api_key, .. } = credentials;
        let millrace = std::env::args().next().unwrap_or_else(|| "millrace".into());
        writeln!(out, "Millrace is ready after {:.1} s.\n", begun.elapsed().as_secs_f64())?;
        writeln!(out, "  Console: {console}")?;
        writeln!(out, "           (signs you in once, within ten minutes; `{millrace} console` prints another)\n")?;
        writeln!(out, "  clients   {url}")?;
        if let Some(tls_url) = tls_url {
            writeln!(out, "  over TLS  {tls_url}")?;
        }
        if let Some(quic_url) = quic_url {
            writeln!(out, "  over QUIC {quic_url}")?;
        }
        if !ca.is_empty() {
            writeln!(out, "  CA        {ca}")?;
        }
        writeln!(out, "  REST      {api}/v1/docs\n  metrics   {admin}/metrics")?;
        writeln!(out, "  user      {user}\n  token     {token}\n  API key   {api_key}")?;
        writeln!(out, "  kept in   {}\n", command.dir.display())?;
        writeln!(out, "Try, in two more terminals:")?;
        let file = command.dir.join(credentials::FILE);
        if !credentials::is_found(&file) {
            writeln!(out, "  export MILLRACE_CREDENTIALS={}", file.canonicalize().unwrap_or(file).display())?;
        }
        writeln!(out, "  {millrace} tail general\n  {millrace} send general \"hello, world\"\n")?;
        if !ca.is_empty() {
            writeln!(
                out,
                "Over TLS: commands and SDKs take the CA (--ca), and this makes the whole machine trust it:"
            )?;
            writeln!(
                out,
                "  sudo cp {ca} /usr/local/share/ca-certificates/millrace-dev.crt && sudo update-ca-certificates\n"
            )?;
        }
        writeln!(out, "Ctrl-C stops it.")?;
    }
    out.flush()?;
    Ok(())
}
