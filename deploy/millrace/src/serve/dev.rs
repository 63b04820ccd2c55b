//! `millrace dev`: a whole deployment in one process, with something in it to try.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use millrace_control::SignIn;
use millrace_data::{LinkConfig, LinkTarget};
use serde_json::json;

use super::control::ControlNode;
use super::stop::Stop;
use super::{Sources, logging, node, plan};
use crate::settings::Settings;
use crate::terminal;
use crate::terminal::credentials::{self, Credentials};

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
    prepare(command, &mut settings)?;
    logging::start(&settings.log)?;
    node::runtime()?.block_on(serve(command, &settings, begun))
}

/// What a development server does differently: everything under its folder, and quiet enough to read.
fn prepare(command: &Dev, settings: &mut Settings) -> Result<()> {
    std::fs::create_dir_all(&command.dir).with_context(|| format!("make the folder {}", command.dir.display()))?;
    settings.store.path = command.dir.join("store");
    let defaults = Settings::default();
    if settings.log.filter == defaults.log.filter {
        settings.log.filter = "warn".into();
    }
    if command.ephemeral_ports {
        for address in
            [&mut settings.data.client_address, &mut settings.data.admin_address, &mut settings.control.rest_address]
        {
            *address = "127.0.0.1:0".into();
        }
    }
    Ok(())
}

async fn serve(command: &Dev, settings: &Settings, begun: Instant) -> Result<()> {
    let mut stop = Stop::listen()?;
    // Nobody outside this process links, so a secret that nobody else knows is the right one.
    let secret = millrace_control::random_secret();
    let control = ControlNode::start(settings, &secret).await?;
    let made =
        millrace_control::ensure_dev(&control.store()).await.context("make the tenant, users and channel to try")?;
    let target = LinkTarget::InProcess { dial: control.dial() };
    let data =
        millrace_data::start(plan::data(settings)?, LinkConfig { target, secret }).context("start the data node")?;

    let credentials = Credentials {
        url: format!("ws://{}", data.client_address),
        ca: String::new(),
        api: format!("http://{}", control.rest_address()),
        user: made.user,
        token: made.token,
        api_key: made.api_key,
        operator_key: made.operator_key,
    };
    let path = command.dir.join(credentials::FILE);
    credentials.write(&path)?;
    node::until_ready(data.admin_address).await?;
    let admin = format!("http://{}", data.admin_address);
    let console = console(&control, &credentials);
    announce(command, &credentials, &admin, &console, begun).context("say that the server is ready")?;

    tokio::select! {
        () = stop.asked() => {}
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

fn announce(command: &Dev, credentials: &Credentials, admin: &str, console: &str, begun: Instant) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if command.json {
        let mut ready = serde_json::to_value(credentials).context("write credentials as JSON")?;
        ready["admin"] = json!(admin);
        ready["console"] = json!(console);
        ready["ready_ms"] = json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        writeln!(out, "{ready}")?;
    } else {
        let Credentials { url, api, user, token, api_key, .. } = credentials;
        let millrace = std::env::args().next().unwrap_or_else(|| "millrace".into());
        writeln!(out, "Millrace is ready after {:.1} s.\n", begun.elapsed().as_secs_f64())?;
        writeln!(out, "  Console: {console}")?;
        writeln!(out, "           (signs you in once, within ten minutes; `{millrace} console` prints another)\n")?;
        writeln!(out, "  clients   {url}\n  REST      {api}/v1/docs\n  metrics   {admin}/metrics")?;
        writeln!(out, "  user      {user}\n  token     {token}\n  API key   {api_key}")?;
        writeln!(out, "  kept in   {}\n", command.dir.display())?;
        writeln!(out, "Try, in two more terminals:")?;
        let file = command.dir.join(credentials::FILE);
        if !credentials::is_found(&file) {
            writeln!(out, "  export MILLRACE_CREDENTIALS={}", file.canonicalize().unwrap_or(file).display())?;
        }
        writeln!(out, "  {millrace} tail general\n  {millrace} send general \"hello, world\"\n")?;
        writeln!(out, "Ctrl-C stops it.")?;
    }
    out.flush()?;
    Ok(())
}
