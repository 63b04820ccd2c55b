//! The `millrace` binary: the nodes, the development server, and a client for people at a terminal.
//!
//! The only place where the planes meet: it parses settings, starts what a command asks for and joins control and data node by a pipe
//! or by addresses.
#![forbid(unsafe_code)]

mod serve;
mod settings;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sessions come and go in bursts of many small pieces, freed by another thread than allocated them; the C library sorts these again
/// and again. Set up by `.cargo/config.toml`: what is freed goes back to the system within a second.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Chat, presence, calls and live streams on one platform.
#[derive(Parser)]
#[command(
    name = "millrace",
    version,
    after_help = "Try it, in three terminals:\n  \
        millrace dev                      everything on this machine, ready in a second\n  \
        millrace tail general             see what is said\n  \
        millrace send general hello       say something\n\n\
        `millrace COMMAND --help` has examples."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine, with a tenant, users and a channel to try
    Dev(serve::dev::Dev),
    /// Run a control node: REST API, membership, history
    Control(serve::node::Control),
    /// Run a data node: client connections and fan-out
    Data(serve::node::Data),
    /// Show or check settings
    #[command(subcommand)]
    Config(serve::config::Config),
    #[command(flatten)]
    Terminal(Box<terminal::Command>),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(command) => serve::dev::run(&command),
        Command::Control(command) => serve::node::control(&command),
        Command::Data(command) => serve::node::data(&command),
        Command::Config(command) => serve::config::run(&command),
        Command::Terminal(command) => terminal::run(*command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if terminal::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
