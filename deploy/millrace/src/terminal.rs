//! Commands for people at a terminal, and for their scripts: standard output carries only what was asked for, everything else goes
//! to standard error, and `--json` is stable.

mod channel;
pub(crate) mod console;
pub(crate) mod credentials;
mod history;
mod inspect;
mod member;
mod node;
mod output;
mod progress;
mod rest;
mod send;
mod tail;
mod token;
mod webhook;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use clap::Subcommand;
use millrace_client::{Advice, Client, State, StateWatch};

use credentials::Connection;

/// What can be done at a terminal.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send messages: one from the command line, or one for each line of standard input
    Send(send::Send),
    /// Follow a channel
    Tail(tail::Tail),
    /// Read a channel's history
    History(history::History),
    /// Issue, inspect and revoke access tokens
    Token(token::Token),
    /// Create, list, show, update and archive channels
    Channel(channel::Channel),
    /// Add, list, change and remove the members of a channel
    Member(member::Member),
    /// Tell applications what happens: register, show, test and update webhooks
    Webhook(webhook::Webhook),
    /// List, show and drain data nodes
    Node(node::Node),
    /// Print a link that opens the web console and signs in, once
    Console(console::Console),
    /// Look into a user's sessions or a channel's subscribers, live
    Inspect(inspect::Inspect),
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Send(command) => block_on(send::run(&command)),
        Command::Tail(command) => block_on(tail::run(&command)),
        Command::History(command) => block_on(history::run(&command)),
        Command::Token(command) => token::run(&command),
        Command::Channel(command) => channel::run(&command),
        Command::Member(command) => member::run(&command),
        Command::Webhook(command) => webhook::run(&command),
        Command::Node(command) => node::run(&command),
        Command::Console(command) => console::run(&command),
        Command::Inspect(command) => inspect::run(&command),
    }
}

/// The reader of our output has seen enough, as `head` does: the end of a good run.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

fn block_on<F: Future<Output = Result<()>>>(future: F) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?.block_on(future)
}

/// Connects as the user that the flags, the environment or the credentials file name.
///
/// A token that was given is used as it is. With an API key at hand the client issues tokens itself, so that a `tail` of many days
/// outlives each of them.
async fn connect(connection: &Connection) -> Result<Client> {
    let credentials = connection.resolve()?;
    let url = credentials.need_url()?.to_owned();
    let mut urls = url.split(',').map(str::trim);
    let mut builder =
        Client::builder(urls.next().unwrap_or_default()).agent(concat!("millrace/", env!("CARGO_PKG_VERSION")));
    for url in urls {
        builder = builder.url(url);
    }
    if let Some(pem) = credentials.ca_pem()? {
        builder = builder.ca(pem);
    }
    let user = connection.user.clone().unwrap_or_else(|| credentials.user.clone());
    let given = connection.token.is_some() && connection.user.is_none();
    let builder = if given || user.is_empty() || credentials.api_key.is_empty() {
        builder.token(credentials.need_token()?)
    } else {
        let api = Arc::new(rest::Api::new(&credentials)?);
        // The first one here, so that what is wrong with the key or the user is told as it is.
        let first = Arc::new(Mutex::new(Some(token_of(&api, &user)?)));
        builder.token_provider(move || {
            let (api, user) = (Arc::clone(&api), user.clone());
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                match first {
                    Some(token) => anyhow::Ok(token),
                    None => {
                        tokio::task::spawn_blocking(move || token_of(&api, &user)).await.context("issue a token")?
                    }
                }
            }
        })
    };
    let client = builder.connect().await.map_err(|error| {
        let hint = match error.advice() {
            Advice::Authenticate => " (`millrace token issue USER` makes a new token)",
            Advice::Retry | Advice::Reconnect if is_unreachable(&error) => " (does `millrace dev` run?)",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("connect to {url}{hint}"))
    })?;
    tokio::spawn(tell_state(client.watch_state()));
    Ok(client)
}

/// Nobody answered, as far as this machine can tell; whoever answers and is refused says more.
fn is_unreachable(error: &millrace_client::Error) -> bool {
    let source = std::error::Error::source(error);
    matches!(error, millrace_client::Error::TimedOut(_)) || source.is_some_and(|source| source.is::<io::Error>())
}

/// Says when the connection is lost and when it is back: silence would look like a channel where nothing is said.
async fn tell_state(mut watch: StateWatch) {
    let mut lost = false;
    while let Some(state) = watch.changed().await {
        match state {
            State::Reconnecting { error, .. } if !lost => {
                lost = true;
                eprintln!("connection lost, trying again: {:#}", anyhow::Error::new(error));
            }
            State::Connected { .. } if lost => {
                lost = false;
                eprintln!("connected again");
            }
            _ => {}
        }
    }
}

fn token_of(api: &rest::Api, user: &str) -> Result<String> {
    let answer = api.issue_token(user, None)?;
    Ok(answer["token"].as_str().context("the answer has no token")?.to_owned())
}
