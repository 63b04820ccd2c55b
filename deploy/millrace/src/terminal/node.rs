//! `millrace node`: the data nodes of a deployment, with the operator's key.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::credentials::Connection;
use super::output::{bytes, line, table};
use super::rest::{Api, segment};

/// List, show and drain data nodes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace node list\n  millrace node show data-1\n  \
    millrace node show data-1 --json | jq .latencies\n  millrace node drain data-1 --over 30s\n\n\
    The operator's key is needed: --operator-key, MILLRACE_OPERATOR_KEY, or a folder where `millrace dev` runs.")]
pub(crate) struct Node {
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
    /// List the data nodes: those that are linked, and those that were in the last ten minutes
    List,
    /// Show a data node and each of its shards
    Show {
        /// Its name
        node: String,
    },
    /// Send a data node's clients away, store everything, and stop it. It cannot be taken back
    Drain {
        /// Its name
        node: String,
        /// Spread the clients' return over this time; at most 10m
        #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "TIME")]
        over: Duration,
    },
}

pub(crate) fn run(command: &Node) -> Result<()> {
    let api = Api::operator(&command.connection.resolve()?)?;
    match &command.action {
        Action::List => {
            let nodes = api.list("/v1/nodes", "nodes")?;
            if command.json {
                return table(true, &nodes, &[]);
            }
            let rows: Vec<Value> = nodes.iter().map(row).collect();
            table(
                false,
                &rows,
                &["node", "state", "version", "shards", "slots", "sessions", "memory", "cpu", "deliveries/s"],
            )
        }
        Action::Show { node } => {
            let found = api.get(&path(node))?;
            if command.json { line(found) } else { show(&found) }
        }
        Action::Drain { node, over } => {
            let over_ms = u64::try_from(over.as_millis()).context("--over is too long")?;
            let drain = api.post(&format!("{}/drain", path(node)), &json!({ "over_ms": over_ms }))?;
            if command.json {
                return line(drain);
            }
            let sessions = drain["sessions"].as_u64().unwrap_or_default();
            eprintln!("{node} drains: {sessions} sessions are sent away over {}", humantime::format_duration(*over));
            eprintln!("{}", drain["effect"].as_str().unwrap_or_default());
            Ok(())
        }
    }
}

fn path(node: &str) -> String {
    format!("/v1/nodes/{}", segment(node))
}

/// A node for a table.
fn row(node: &Value) -> Value {
    json!({
        "node": node["id"],
        "state": node["state"],
        "version": node["version"],
        "shards": node["shards"],
        "slots": node["slots"],
        "sessions": node["sessions"],
        "memory": node["resident_bytes"].as_u64().map(bytes),
        "cpu": node["cpu"].as_f64().map(|cpu| format!("{:.0}%", cpu * 100.0)),
        "deliveries/s": node["deliveries_per_s"].as_f64().map(|rate| format!("{rate:.0}")),
    })
}

/// A shard for a table.
fn shard_row(shard: &Value) -> Value {
    let whole = |name: &str| shard[name].as_f64().map(|rate| format!("{rate:.0}"));
    json!({
        "shard": shard["shard"],
        "slots": shard["slots"],
        "sessions": shard["sessions"],
        "homes": shard["homes"],
        "queued": shard["queued_bytes"].as_u64().map(bytes),
        "cpu": shard["cpu"].as_f64().map(|cpu| format!("{:.0}%", cpu * 100.0)),
        "turn": shard["turn_us"].as_f64().map(|us| format!("{us:.0} µs")),
        "deliveries/s": whole("deliveries_per_s"),
        "messages/s": whole("messages_per_s"),
        "ring": format!("{}/{}", shard["ring_items"], shard["ring_slots"]),
    })
}

/// How long something took, for a table.
fn latency_row(latency: &Value) -> Value {
    let ms = |name: &str| latency[name].as_f64().map(|ms| format!("{ms:.2} ms"));
    json!({ "what": latency["what"], "count": latency["count"], "p50": ms("p50_ms"), "p90": ms("p90_ms"), "p99": ms("p99_ms") })
}

fn show(node: &Value) -> Result<()> {
    table(false, &[row(node)], &["node", "state", "version", "slots", "sessions", "memory", "cpu", "deliveries/s"])?;
    let rows = |name: &str, row: fn(&Value) -> Value| -> Vec<Value> {
        node[name].as_array().into_iter().flatten().map(row).collect()
    };
    let shards = rows("shard_details", shard_row);
    if shards.is_empty() {
        return line("\nIt has not told its figures.");
    }
    line("")?;
    table(
        false,
        &shards,
        &["shard", "slots", "sessions", "homes", "queued", "cpu", "turn", "deliveries/s", "messages/s", "ring"],
    )?;
    line("\nIn the last minute, as the control node measures it:")?;
    table(false, &rows("latencies", latency_row), &["what", "count", "p50", "p90", "p99"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_figures_has_gaps_and_not_zeros() {
        let row = row(&json!({ "id": "n", "state": "starting", "cpu": null, "resident_bytes": null }));
        assert_eq!((&row["node"], &row["cpu"], &row["memory"]), (&json!("n"), &Value::Null, &Value::Null));
        let full =
            self::row(&json!({ "id": "n", "cpu": 1.504, "resident_bytes": 3_145_728, "deliveries_per_s": 12.6 }));
        assert_eq!(
            (&full["cpu"], &full["memory"], &full["deliveries/s"]),
            (&json!("150%"), &json!("3.0 MiB"), &json!("13"))
        );
        let shard = shard_row(&json!({ "ring_items": 3, "ring_slots": 1024, "turn_us": null }));
        assert_eq!((&shard["ring"], &shard["turn"]), (&json!("3/1024"), &Value::Null));
        assert_eq!(latency_row(&json!({ "p50_ms": 1.239 }))["p50"], "1.24 ms");
    }
}
