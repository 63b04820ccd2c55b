//! `millrace inspect`: who is connected and how far each of them is, live; and what went wrong lately.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::credentials::Connection;
use super::output::{ago, bytes, line, table};
use super::rest::{Api, segment};

/// Look into a user's sessions or a channel's subscribers, live.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace inspect user alice\n  millrace inspect channel general\n  \
    millrace inspect channel general --json | jq '.sessions[] | select(.subscriptions[0].behind > 0)'\n  \
    millrace inspect user alice --tenant acme      with the operator's key\n\n\
    Why did this client miss this message? Its subscription's OFFSET is the last message that went into its queue, QUEUED what\n\
    it has not read; the incidents below say which sessions ended, what was refused and what was skipped.")]
pub(crate) struct Inspect {
    #[command(subcommand)]
    action: Action,
    /// At most so many sessions and so many incidents
    #[arg(long, global = true, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Of which tenant: needs the operator's key. By default that of the API key
    #[arg(long, global = true)]
    tenant: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// A user's sessions, on all channels
    User {
        /// The tenant's name for them
        user: String,
    },
    /// A channel's subscribers, and where the channel stands
    Channel {
        /// Its name
        channel: String,
    },
}

pub(crate) fn run(command: &Inspect) -> Result<()> {
    let credentials = command.connection.resolve()?;
    let (api, of) = match &command.tenant {
        Some(tenant) => (Api::operator(&credentials)?, format!("&tenant={}", segment(tenant))),
        None => (Api::new(&credentials)?, String::new()),
    };
    let path = match &command.action {
        Action::User { user } => format!("users/{}", segment(user)),
        Action::Channel { channel } => format!("channels/{}", segment(channel)),
    };
    let found = api.get(&format!("/v1/inspect/{path}?limit={}{of}", command.limit))?;
    if command.json {
        return line(found);
    }
    if let Action::Channel { .. } = command.action {
        line(standing(&found))?;
        line("")?;
    }
    sessions(&found)?;
    incidents(&found)
}

/// Where a channel stands, in a line.
fn standing(found: &Value) -> String {
    let last = |head: &Value| head["next_offset"].as_u64().map_or("-".to_owned(), |next| (next - 1).to_string());
    let home = &found["home"];
    let home = match home["state"].as_str() {
        Some(state) => format!(
            "home {state} on {} shard {}, last offset {}, {} waiting",
            home["node"].as_str().unwrap_or("-"),
            home["shard"],
            last(home),
            home["waiting"]
        ),
        None => "no home in memory: nobody uses it".to_owned(),
    };
    let text = |name: &str| found[name].as_str().unwrap_or("-").to_owned();
    format!(
        "{} ({}, {}), last stored offset {}; {home}",
        text("channel"),
        text("kind"),
        text("history"),
        last(&found["stored"])
    )
}

/// One row for each subscription, and one for a session without any.
fn session_rows(session: &Value) -> Vec<Value> {
    let row = |subscription: &Value| {
        json!({
            "user": session["user"],
            "session": session["id"].as_str().map(|id| id.chars().take(8).collect::<String>()),
            "remote": session["remote"],
            "agent": session["agent"],
            "connected": session["connected_ms"].as_i64().map(ago),
            "queued": session["queued_bytes"].as_u64().map(bytes),
            "stalled": session["stalled_ms"].as_u64().filter(|ms| *ms > 0).map(|ms| format!("{ms} ms")),
            "channel": subscription["channel"],
            "state": subscription["state"],
            "epoch": subscription["epoch"],
            "offset": subscription["offset"],
            "behind": subscription["behind"],
        })
    };
    let subscriptions = session["subscriptions"].as_array();
    match subscriptions.filter(|subscriptions| !subscriptions.is_empty()) {
        Some(subscriptions) => subscriptions.iter().map(row).collect(),
        None => vec![row(&Value::Null)],
    }
}

fn sessions(found: &Value) -> Result<()> {
    let rows: Vec<Value> = found["sessions"].as_array().into_iter().flatten().flat_map(session_rows).collect();
    if rows.is_empty() {
        line("No session is connected.")?;
    } else {
        let columns = [
            "user",
            "session",
            "remote",
            "agent",
            "connected",
            "channel",
            "state",
            "epoch",
            "offset",
            "behind",
            "queued",
            "stalled",
        ];
        table(false, &rows, &columns)?;
    }
    if found["more"] == true {
        line(format!("… of {} sessions", found["sessions_total"]))?;
    }
    if found["incomplete"] == true {
        eprintln!("a part of the data plane did not answer in time: what it knows is missing");
    }
    Ok(())
}

/// An incident for a table.
fn incident_row(incident: &Value) -> Value {
    let channel = |of: &Value| {
        let name = of["channel"].as_str().unwrap_or("-");
        match (of["first_offset"].as_u64(), of["last_offset"].as_u64()) {
            (Some(first), Some(last)) if first == last => format!("{name}@{last}"),
            (Some(first), Some(last)) => format!("{name}@{first}-{last}"),
            _ => name.to_owned(),
        }
    };
    let channels: Vec<String> = incident["channels"].as_array().into_iter().flatten().map(channel).collect();
    json!({
        "when": incident["time_ms"].as_i64().map(ago),
        "what": incident["kind"],
        "code": incident["code_name"].as_str().map_or_else(|| incident["code"].clone(), Value::from),
        "times": incident["count"],
        "user": incident["user"],
        "session": incident["session"].as_str().map(|id| id.chars().take(8).collect::<String>()),
        "channels": if channels.is_empty() { Value::Null } else { channels.join(" ").into() },
        "reason": incident["reason"],
    })
}

fn incidents(found: &Value) -> Result<()> {
    let rows: Vec<Value> = found["incidents"].as_array().into_iter().flatten().map(incident_row).collect();
    line("")?;
    if rows.is_empty() {
        return line("Nothing is remembered to have gone wrong.");
    }
    table(false, &rows, &["when", "what", "code", "times", "user", "session", "channels", "reason"])?;
    if found["incidents_more"] == true {
        line("… and older ones")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subscription_is_a_row_and_no_session_is_lost() {
        let check = |subscriptions: Value, expect: &[Value]| {
            let session =
                json!({ "id": "0123456789abcdef", "user": "ann", "subscriptions": subscriptions, "stalled_ms": 0 });
            let rows = session_rows(&session);
            assert_eq!(rows.iter().map(|row| row["channel"].clone()).collect::<Vec<_>>(), expect);
            assert!(rows.iter().all(|row| row["session"] == "01234567" && row["stalled"].is_null()));
        };
        check(json!([]), &[Value::Null]);
        check(json!([{ "channel": "a" }, { "channel": "b" }]), &[json!("a"), json!("b")]);
    }

    #[test]
    fn an_incident_says_where() {
        let check = |channels: Value, expect: Value| {
            assert_eq!(incident_row(&json!({ "channels": channels, "code": 4201 }))["channels"], expect);
        };
        check(json!([]), Value::Null);
        check(json!([{ "channel": "a", "first_offset": 3, "last_offset": 9 }]), json!("a@3-9"));
        check(json!([{ "channel": "a", "first_offset": 3, "last_offset": 3 }, { "channel": "b" }]), json!("a@3 b"));
        assert_eq!(incident_row(&json!({ "code": 4201, "code_name": "SlowConsumer" }))["code"], "SlowConsumer");
    }

    #[test]
    fn a_channel_says_where_it_stands() {
        let found = json!({
            "channel": "general", "kind": "group", "history": "durable", "stored": { "next_offset": 8 },
            "home": { "state": "open", "node": "n", "shard": 1, "next_offset": 9, "waiting": 1 },
        });
        let expect = "general (group, durable), last stored offset 7; home open on n shard 1, last offset 8, 1 waiting";
        assert_eq!(standing(&found), expect);
        let unused = json!({ "channel": "x", "kind": "group", "history": "none", "stored": null, "home": null });
        assert_eq!(standing(&unused), "x (group, none), last stored offset -; no home in memory: nobody uses it");
    }
}
