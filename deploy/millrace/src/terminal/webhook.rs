//! `millrace webhook`: who is told of what happens, and what became of telling them, with an application server's key.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use millrace_control::WEBHOOK_EVENTS as EVENTS;
use serde_json::{Value, json};

use super::credentials::Connection;
use super::output::{ago, line, table};
use super::rest::{Api, segment};

/// Register, show, test, update and remove webhooks.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace webhook create https://example.com/hook --event member.added --event message.sent\n  \
    millrace webhook create http://127.0.0.1:9000/ --all\n  millrace webhook list --json\n  millrace webhook test ID\n  \
    millrace webhook deliveries ID\n  millrace webhook update ID --on\n  millrace webhook rotate ID --overlap 1h\n\n\
    What is told, and how to verify it: docs/webhooks.md."
)]
pub(crate) struct Webhook {
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
    /// Register an endpoint; prints the secret that verifies its requests, this once
    Create(Create),
    /// List the tenant's webhooks and how each is doing
    List,
    /// Show a webhook
    Show {
        /// Its id
        id: String,
    },
    /// Change a webhook, or turn it on or off
    Update(Update),
    /// Remove a webhook; what waits for it is dropped
    Remove {
        /// Its id
        id: String,
    },
    /// Replace a webhook's secret; prints the new one, this once
    Rotate {
        /// Its id
        id: String,
        /// How long requests are signed with both; at most a week
        #[arg(long, value_parser = humantime::parse_duration, default_value = "24h", value_name = "TIME")]
        overlap: Duration,
    },
    /// Send a `webhook.test` at once, and say what became of it
    Test {
        /// Its id
        id: String,
    },
    /// List a webhook's recent attempts, the newest first
    Deliveries {
        /// Its id
        id: String,
        /// So many; at most 100
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// List the events that were given up within a week, the newest 500
    Failures {
        /// Its id
        id: String,
    },
    /// Try an event again that was given up
    Retry {
        /// The webhook's id
        id: String,
        /// The event's id
        event: String,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Where requests go: https, or http to this machine
    url: String,
    /// What it wants to hear of; may be repeated
    #[arg(long = "event", value_name = "EVENT", value_parser = EVENTS, required_unless_present = "all")]
    events: Vec<String>,
    /// Everything
    #[arg(long, conflicts_with = "events")]
    all: bool,
    /// Only of channels whose name begins so
    #[arg(long, value_name = "PREFIX")]
    channel_prefix: Option<String>,
    /// What it is used for
    #[arg(long)]
    label: Option<String>,
}

#[derive(Debug, Args)]
struct Update {
    /// Its id
    id: String,
    /// Where requests go
    #[arg(long)]
    url: Option<String>,
    /// What it wants to hear of, in place of what it did; may be repeated
    #[arg(long = "event", value_name = "EVENT", value_parser = EVENTS)]
    events: Vec<String>,
    /// Only of channels whose name begins so; empty: of all
    #[arg(long, value_name = "PREFIX")]
    channel_prefix: Option<String>,
    /// What it is used for; empty takes it away
    #[arg(long)]
    label: Option<String>,
    /// Turn it on; what waits is told
    #[arg(long, conflicts_with = "off")]
    on: bool,
    /// Turn it off; what happens meanwhile is not told
    #[arg(long)]
    off: bool,
}

pub(crate) fn run(command: &Webhook) -> Result<()> {
    let api = Api::new(&command.connection.resolve()?)?;
    match &command.action {
        Action::Create(create) => {
            let made = api.post("/v1/webhooks", &draft(create))?;
            show_new(command.json, &made)
        }
        Action::List => {
            let list = api.get("/v1/webhooks")?;
            show(command.json, list["webhooks"].as_array().map_or(&[], Vec::as_slice))
        }
        Action::Show { id } => {
            let found = api.get(&path(id))?;
            if command.json { line(found) } else { show(false, std::slice::from_ref(&found)) }
        }
        Action::Update(update) => {
            let body = patch(update);
            ensure!(body != json!({}), "nothing is to be changed: see --help");
            let changed = api.patch(&path(&update.id), &body)?;
            if command.json { line(changed) } else { show(false, std::slice::from_ref(&changed)) }
        }
        Action::Remove { id } => api.delete(&path(id)).map(drop),
        Action::Rotate { id, overlap } => {
            let body = json!({ "overlap_seconds": whole_seconds(*overlap) });
            show_new(command.json, &api.post(&format!("{}/rotate-secret", path(id)), &body)?)
        }
        Action::Test { id } => test(command.json, &api.post(&format!("{}/test", path(id)), &json!({}))?),
        Action::Deliveries { id, limit } => {
            let list = api.get(&format!("{}/deliveries?limit={limit}", path(id)))?;
            let attempts = list["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
            if command.json {
                return table(true, attempts, &[]);
            }
            let rows: Vec<Value> = attempts.iter().map(attempt_row).collect();
            table(false, &rows, &["time", "event", "type", "attempt", "result", "status", "latency", "error"])
        }
        Action::Failures { id } => {
            let failures = api.list(&format!("{}/failures", path(id)), "failures")?;
            if command.json {
                return table(true, &failures, &[]);
            }
            let rows: Vec<Value> = failures.iter().map(failure_row).collect();
            table(false, &rows, &["event", "type", "happened", "given up", "attempts", "error"])
        }
        Action::Retry { id, event } => {
            let waits = api.post(&format!("{}/failures/{}/retry", path(id), segment(event)), &json!({}))?;
            if command.json { line(waits) } else { line(format!("{event} is told again")) }
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/webhooks/{}", segment(id))
}

fn draft(create: &Create) -> Value {
    let events = if create.all { EVENTS.map(str::to_owned).to_vec() } else { create.events.clone() };
    let mut body = json!({ "url": create.url, "events": events });
    if let Some(prefix) = &create.channel_prefix {
        body["channel_prefix"] = prefix.as_str().into();
    }
    if let Some(label) = &create.label {
        body["label"] = label.as_str().into();
    }
    body
}

/// Only what is to change.
fn patch(update: &Update) -> Value {
    let or_null = |text: &String| if text.is_empty() { Value::Null } else { text.as_str().into() };
    let mut body = json!({});
    if let Some(url) = &update.url {
        body["url"] = url.as_str().into();
    }
    if !update.events.is_empty() {
        body["events"] = update.events.clone().into();
    }
    if let Some(prefix) = &update.channel_prefix {
        body["channel_prefix"] = or_null(prefix);
    }
    if let Some(label) = &update.label {
        body["label"] = or_null(label);
    }
    if update.on || update.off {
        body["state"] = if update.on { "on" } else { "off" }.into();
    }
    body
}

fn show(as_json: bool, webhooks: &[Value]) -> Result<()> {
    if as_json {
        return table(true, webhooks, &[]);
    }
    let rows: Vec<Value> = webhooks.iter().map(row).collect();
    table(false, &rows, &["id", "url", "state", "delivered", "failing", "waiting", "events", "label"])
}

/// With its secret, which is shown once: alone on standard output, so that a script can keep it.
fn show_new(as_json: bool, webhook: &Value) -> Result<()> {
    if as_json {
        return line(webhook);
    }
    eprintln!("webhook {}: its secret is shown this once, keep it", webhook["id"].as_str().unwrap_or_default());
    line(webhook["secret"].as_str().unwrap_or_default())
}

fn test(as_json: bool, attempt: &Value) -> Result<()> {
    if as_json {
        line(attempt)?;
    } else {
        table(false, &[attempt_row(attempt)], &["event", "result", "status", "latency", "error"])?;
    }
    // A script sees by the status what a person reads.
    if attempt["result"] != "delivered" {
        bail!("the endpoint did not take it");
    }
    Ok(())
}

/// A Unix time in ms as how long ago it was.
fn past(time_ms: &Value) -> Value {
    time_ms.as_i64().map(ago).into()
}

/// A webhook for a table.
fn row(webhook: &Value) -> Value {
    let health = &webhook["health"];
    let state = match webhook["off_reason"].as_str() {
        Some(reason) => format!("off ({reason})"),
        None => "on".to_owned(),
    };
    let events: Vec<_> = webhook["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let counts =
        [("waiting_events", "events"), ("waiting_channels", "channels")].into_iter().filter_map(|(name, what)| {
            let count = health[name].as_u64().filter(|&count| count > 0)?;
            Some(format!("{count} {what}"))
        });
    let waiting: Vec<_> = counts.collect();
    json!({
        "id": webhook["id"],
        "url": webhook["url"],
        "state": state,
        "delivered": past(&health["last_success_ms"]),
        "failing": health["failing_since_ms"].as_i64().map(|since| {
            format!("for {}: {}", ago(since).trim_end_matches(" ago"), health["last_error"].as_str().unwrap_or_default())
        }),
        "waiting": if waiting.is_empty() { Value::Null } else { waiting.join(", ").into() },
        "events": if events.len() == EVENTS.len() { "all".to_owned() } else { events.join(",") },
        "label": webhook["label"],
    })
}

/// An attempt for a table.
fn attempt_row(attempt: &Value) -> Value {
    json!({
        "time": past(&attempt["time_ms"]),
        "event": attempt["event"],
        "type": attempt["type"],
        "attempt": attempt["attempt"],
        "result": attempt["result"],
        "status": attempt["status"],
        "latency": format!("{} ms", attempt["latency_ms"]),
        "error": attempt["error"],
    })
}

/// An event that was given up, for a table.
fn failure_row(failure: &Value) -> Value {
    json!({
        "event": failure["event"],
        "type": failure["type"],
        "happened": past(&failure["time_ms"]),
        "given up": past(&failure["failed_ms"]),
        "attempts": failure["attempts"],
        "error": failure["error"],
    })
}

/// A part of a second counts as one: no overlap at all ends the present secret at once.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        webhook: Webhook,
    }

    fn parse(arguments: &[&str]) -> Result<Action, clap::Error> {
        Line::try_parse_from([&["webhook"], arguments].concat()).map(|line| line.webhook.action)
    }

    #[test]
    fn a_short_overlap_is_not_none() {
        let check = |millis, expect| assert_eq!(whole_seconds(Duration::from_millis(millis)), expect, "{millis} ms");
        check(0, 0);
        check(500, 1);
        check(1_000, 1);
        check(1_001, 2);
    }

    #[test]
    fn a_draft_has_what_was_said() {
        let check = |arguments: &[&str], expect: Value| {
            let Ok(Action::Create(create)) = parse(&[&["create", "https://a"], arguments].concat()) else { panic!() };
            assert_eq!(draft(&create), expect, "{arguments:?}");
        };
        check(&["--event", "user.created"], json!({"url": "https://a", "events": ["user.created"]}));
        check(
            &["--all", "--channel-prefix", "s-", "--label", "x"],
            json!({"url": "https://a", "events": EVENTS, "channel_prefix": "s-", "label": "x"}),
        );
        assert!(parse(&["create", "https://a"]).is_err(), "what it wants has to be said");
        assert!(parse(&["create", "https://a", "--event", "user.danced"]).is_err());
        assert!(parse(&["create", "https://a", "--all", "--event", "user.created"]).is_err());
    }

    #[test]
    fn only_what_is_said_changes() {
        let check = |arguments: &[&str], expect: Value| {
            let Ok(Action::Update(update)) = parse(&[&["update", "w"], arguments].concat()) else { panic!() };
            assert_eq!(patch(&update), expect, "{arguments:?}");
        };
        check(&[], json!({}));
        check(&["--on"], json!({"state": "on"}));
        check(
            &["--off", "--label", "", "--channel-prefix", "a"],
            json!({"state": "off", "label": null, "channel_prefix": "a"}),
        );
        check(
            &["--url", "https://b", "--event", "user.created"],
            json!({"url": "https://b", "events": ["user.created"]}),
        );
        assert!(parse(&["update", "w", "--on", "--off"]).is_err());
    }

    #[test]
    fn a_row_says_how_it_is_doing() {
        let health = json!({
            "last_success_ms": null, "failing_since_ms": 0, "last_error": "the endpoint answered 500",
            "waiting_events": 3, "waiting_channels": 0,
        });
        let row = row(&json!({"id": "w", "off_reason": "failing", "events": EVENTS, "health": health}));
        assert_eq!(
            (&row["state"], &row["waiting"], &row["events"]),
            (&json!("off (failing)"), &json!("3 events"), &json!("all"))
        );
        assert!(row["failing"].as_str().unwrap().ends_with(": the endpoint answered 500"), "{row}");
        assert!(row["delivered"].is_null());
        let attempt = attempt_row(&json!({"latency_ms": 12, "status": null, "time_ms": 0}));
        assert_eq!((&attempt["latency"], &attempt["status"]), (&json!("12 ms"), &Value::Null));
    }
}
