//! Asks every data node for its figures, once in a while, and keeps what they say.

use std::sync::Arc;
use std::time::Instant;

use millrace_protocol::node::NodeBody;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Moment;
use crate::rest::{Rest, now_ms};

/// Watches until told to stop.
pub(crate) async fn run(rest: Arc<Rest>, mut stopped: Receiver<bool>) {
    let began = Instant::now();
    let mut steps = interval(rest.config.figures_interval);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = steps.tick() => step(&rest, began).await,
            _ = stopped.changed() => return,
        }
    }
}

async fn step(rest: &Arc<Rest>, began: Instant) {
    let moment = || Moment { unix_ms: now_ms(), steady: began.elapsed() };
    let families = rest.registry.gather();
    let linked = rest.data_plane.nodes();
    {
        let mut state = rest.fleet.state();
        state.latencies.push(began.elapsed(), &families);
        state.see(moment(), &linked);
    }
    let mut answers = JoinSet::new();
    for node in linked.into_iter().filter(|node| node.ready) {
        let rest = rest.clone();
        answers.spawn(async move {
            let answer = rest.data_plane.ask(&node.name, NodeBody::Report, rest.config.node_deadline).await;
            (node.name, answer)
        });
    }
    while let Some(answer) = answers.join_next().await {
        let Ok((name, answer)) = answer else { continue };
        let figures = match answer {
            Ok(NodeBody::Reported(figures)) => Some(figures),
            Ok(_) => None,
            Err(refusal) => {
                tracing::debug!(node = name, %refusal, "a data node does not tell its figures");
                None
            }
        };
        rest.fleet.state().observe(moment(), &name, figures);
    }
}
