//! `millrace member`: who is in a channel, with an application server's key.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::credentials::Connection;
use super::output::{line, table};
use super::rest::{Api, segment};

/// Add, list, change and remove the members of a channel.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace member add plans bob\n  millrace member add news carol --role moderator\n  \
    millrace member role plans bob reader\n  millrace member remove plans bob\n  millrace member list plans --json"
)]
pub(crate) struct Member {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Let a user in
    Add {
        /// The channel's name
        channel: String,
        /// Who
        user: String,
        /// What they may do
        #[arg(long, value_enum, default_value_t = Role::Member)]
        role: Role,
    },
    /// List the members
    List {
        /// The channel's name
        channel: String,
    },
    /// Change what a member may do
    Role {
        /// The channel's name
        channel: String,
        /// Who
        user: String,
        /// What they may do from now on
        #[arg(value_enum)]
        role: Role,
    },
    /// Take a user out: open sessions hear of it at once
    Remove {
        /// The channel's name
        channel: String,
        /// Who
        user: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Everything, including archiving and naming owners
    Owner,
    /// Manages members below them
    Moderator,
    /// Reads, and publishes except in a broadcast
    Member,
    /// Reads
    Reader,
}

impl Role {
    fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

pub(crate) fn run(command: &Member) -> Result<()> {
    let api = Api::new(&command.connection.resolve()?)?;
    let members = |channel: &str| format!("/v1/channels/{}/members", segment(channel));
    let one = |channel: &str, user: &str| format!("{}/{}", members(channel), segment(user));
    let changed = match &command.action {
        Action::List { channel } => {
            return table(command.json, &api.list(&members(channel), "members")?, &["user", "role"]);
        }
        Action::Add { channel, user, role } => {
            api.post(&members(channel), &json!({ "user": user, "role": role.word() }))?
        }
        Action::Role { channel, user, role } => api.patch(&one(channel, user), &json!({ "role": role.word() }))?,
        Action::Remove { channel, user } => api.delete(&one(channel, user))?,
    };
    if command.json {
        return line(changed);
    }
    if changed.is_null() {
        eprintln!("removed");
        return Ok(());
    }
    table(false, std::slice::from_ref(&changed), &["user", "role"])
}
