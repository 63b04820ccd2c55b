//! `millrace channel`: make channels and look after them, with an application server's key.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::credentials::Connection;
use super::output::{line, table};
use super::rest::{Api, segment};

/// Create, list, show, update and archive channels.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace channel create plans --owner alice --member bob\n  \
    millrace channel create news --kind broadcast --owner alice\n  millrace channel create --kind dm --member alice --member bob\n  \
    millrace channel list --json\n  millrace channel archive plans")]
pub(crate) struct Channel {
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
    /// Make a channel
    Create(Create),
    /// List the tenant's channels
    List,
    /// Show a channel
    Show {
        /// Its name
        name: String,
    },
    /// Change what people see of a channel, or how it treats slow readers
    Update(Update),
    /// End a channel: its history stays readable over REST, nothing is published any more
    Archive {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Unique in the tenant; a dm is named after its members
    name: Option<String>,
    /// What it is for
    #[arg(long, value_enum, default_value_t = Kind::Group)]
    kind: Kind,
    /// What is kept; by default durable, for a broadcast windowed
    #[arg(long, value_enum)]
    history: Option<History>,
    /// What happens to a session that reads too slowly; by default disconnect, for a broadcast skip
    #[arg(long, value_enum)]
    slow_consumer: Option<SlowConsumer>,
    /// For people to read
    #[arg(long)]
    display_name: Option<String>,
    /// A user who owns it; may be repeated. By default whoever the credentials are for
    #[arg(long, value_name = "USER")]
    owner: Vec<String>,
    /// A user who is in it from the start; may be repeated
    #[arg(long, value_name = "USER")]
    member: Vec<String>,
}

#[derive(Debug, Args)]
struct Update {
    /// Its name
    name: String,
    /// For people to read; empty takes it away
    #[arg(long)]
    display_name: Option<String>,
    /// What happens to a session that reads too slowly
    #[arg(long, value_enum)]
    slow_consumer: Option<SlowConsumer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Two people, or one with themselves
    Dm,
    /// Many people who all may write
    Group,
    /// Few write, many read
    Broadcast,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum History {
    /// Acknowledged and delivered once it is on disk
    Durable,
    /// Delivered at once, on disk within a second
    Windowed,
    /// Not kept
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SlowConsumer {
    /// The session ends and resumes whole
    Disconnect,
    /// The session skips to the newest message and is told
    Skip,
}

/// The word of a choice, as flags and the API spell it.
fn word(value: impl ValueEnum) -> Value {
    value.to_possible_value().map_or(Value::Null, |value| value.get_name().into())
}

pub(crate) fn run(command: &Channel) -> Result<()> {
    let api = Api::new(&command.connection.resolve()?)?;
    match &command.action {
        Action::Create(create) => {
            let made = api.post("/v1/channels", &draft(create, &command.connection.resolve()?.user))?;
            show(command.json, &made)
        }
        Action::List => {
            let channels = api.list("/v1/channels", "channels")?;
            table(command.json, &channels, &["name", "kind", "history", "id", "display_name"])
        }
        Action::Show { name } => show(command.json, &api.get(&path(name))?),
        Action::Update(update) => {
            let mut body = json!({});
            if let Some(name) = &update.display_name {
                body["display_name"] = if name.is_empty() { Value::Null } else { name.as_str().into() };
            }
            if let Some(policy) = update.slow_consumer {
                body["slow_consumer"] = word(policy);
            }
            show(command.json, &api.patch(&path(&update.name), &body)?)
        }
        Action::Archive { name } => show(command.json, &api.delete(&path(name))?),
    }
}

/// Somebody must own a channel that is no dm: with nobody named, whoever the credentials are for.
fn draft(create: &Create, default_owner: &str) -> Value {
    let mut body = json!({ "kind": word(create.kind) });
    if let Some(name) = &create.name {
        body["name"] = name.as_str().into();
    }
    if let Some(history) = create.history {
        body["history"] = word(history);
    }
    if let Some(policy) = create.slow_consumer {
        body["slow_consumer"] = word(policy);
    }
    if let Some(name) = &create.display_name {
        body["display_name"] = name.as_str().into();
    }
    let mut owners: Vec<&str> = create.owner.iter().map(String::as_str).collect();
    if create.kind != Kind::Dm && owners.is_empty() && !default_owner.is_empty() {
        owners.push(default_owner);
    }
    // An owner is a member already: naming them as both asks for nothing more.
    let others = create.member.iter().map(String::as_str).filter(|user| !owners.contains(user));
    let members = owners.iter().map(|user| json!({ "user": user, "role": "owner" }));
    body["members"] = members.chain(others.map(|user| json!({ "user": user }))).collect();
    body
}

fn path(name: &str) -> String {
    format!("/v1/channels/{}", segment(name))
}

fn show(as_json: bool, channel: &Value) -> Result<()> {
    let rows = if channel.is_null() { &[] } else { std::slice::from_ref(channel) };
    if as_json {
        return line(channel);
    }
    let rows: Vec<Value> = rows.iter().map(with_state).collect();
    table(false, &rows, &["name", "kind", "history", "slow_consumer", "state", "id", "display_name"])
}

/// The channel with a word for whether it is in use.
fn with_state(channel: &Value) -> Value {
    let mut row = channel.clone();
    row["state"] = if channel["archived_ms"].is_null() { "open" } else { "archived" }.into();
    row
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    #[test]
    fn an_archived_channel_says_so() {
        assert_eq!(with_state(&json!({ "name": "x", "archived_ms": null }))["state"], "open");
        assert_eq!(with_state(&json!({ "name": "x", "archived_ms": 5 }))["state"], "archived");
    }

    #[test]
    fn somebody_owns_a_new_channel() {
        let check = |arguments: &[&str], expect: Value| {
            let line = Line::parse_from([&["create"], arguments].concat());
            assert_eq!(draft(&line.create, "alice")["members"], expect, "{arguments:?}");
        };
        let alice = json!({ "user": "alice", "role": "owner" });
        let bob = json!({ "user": "bob" });
        check(&["plans"], json!([alice]));
        check(&["plans", "--member", "bob"], json!([alice, bob]));
        check(&["plans", "--member", "alice", "--member", "bob"], json!([alice, bob]));
        check(&["plans", "--owner", "bob"], json!([{ "user": "bob", "role": "owner" }]));
        check(&["plans", "--owner", "alice", "--member", "alice"], json!([alice]));
        check(&["--kind", "dm", "--member", "alice", "--member", "bob"], json!([{ "user": "alice" }, bob]));
    }
}
