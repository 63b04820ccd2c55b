//! In the client's namespace: the Rust SDK sends and reads all the time, and tells when it went on after each move.

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millrace_client::{Client, Event};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::driver::{CHANNEL, PACE};
use crate::nat::Nat;

/// Messages after a move, the last of which has to be acknowledged before the next move.
const OF_A_MOVE: u32 = 10;
/// Messages that are sent and not acknowledged, at most.
const UNDER_WAY_MAX: usize = 64;

pub(crate) fn run(url: &str, ca: &str, token: &str, way: &str) -> Result<()> {
    let address = url.trim_start_matches("quic://").parse().with_context(|| format!("{url:?} names no address"))?;
    let nat = if way == "behind-nat" { Some(Nat::start(address)?) } else { None };
    let url = match &nat {
        Some(nat) => format!("quic://localhost:{}", nat.port()?),
        None => url.to_owned(),
    };
    let ca = std::fs::read(ca).with_context(|| format!("read {ca}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
    runtime.block_on(live(&url, ca, token, nat.as_ref(), orders()))
}

/// Lines of standard input.
fn orders() -> UnboundedReceiver<String> {
    let (tell, orders) = unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    orders
}

async fn live(
    url: &str,
    ca: Vec<u8>,
    token: &str,
    nat: Option<&Nat>,
    mut orders: UnboundedReceiver<String>,
) -> Result<()> {
    let client = Client::builder(url).ca(ca).token(token).connect().await.context("connect")?;
    let mut states = client.watch_state();
    ensure!(states.current().is_connected(), "it is not connected");
    let mut channel = client.subscribe(CHANNEL).await.context("subscribe")?;
    let sender = channel.sender();
    say("ready")?;
    let (mut sent, mut own, mut others, mut reconnects) = (0_u64, 0_u64, 0_u64, 0_u32);
    let (mut moved, mut expected): (Option<(String, u32)>, _) = (None, None);
    let mut under_way = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(PACE);
    while expected != Some(others) || own < sent || !under_way.is_empty() {
        tokio::select! {
            order = orders.recv() => {
                let order = order.context("nobody gives orders any more")?;
                match order.split_once(' ') {
                    Some(("moved", number)) => {
                        nat.map_or(Ok(()), Nat::rebind)?;
                        moved = Some((number.to_owned(), OF_A_MOVE));
                    }
                    Some(("stop", number)) => expected = Some(number.parse::<u64>().context("a number")?),
                    _ => bail!("{order:?} is no order"),
                }
            }
            _ = ticks.tick(), if expected.is_none() && under_way.len() < UNDER_WAY_MAX => {
                sent += 1;
                let ticket = sender.submit(format!("own {sent}")).await.context("send")?;
                let last = moved.take_if(|(_, left)| {
                    *left -= 1;
                    *left == 0
                });
                under_way.push(async move { (ticket.await, last) });
            }
            Some((acknowledged, last)) = under_way.next() => {
                acknowledged.context("a message was not accepted")?;
                if let Some((number, _)) = last {
                    say(&format!("went on {number}"))?;
                }
            }
            event = channel.next() => {
                let Some(Event::Message(message)) = event else { bail!("in place of a message came {event:?}") };
                let text = message.text().to_string();
                let (counter, number) = match text.split_once(' ') {
                    Some(("own", number)) => (&mut own, number),
                    Some(("other", number)) => (&mut others, number),
                    _ => bail!("{text:?} was never sent"),
                };
                *counter += 1;
                ensure!(number.parse() == Ok(*counter), "{text:?} came in place of number {counter}");
            }
            Some(state) = states.changed() => {
                reconnects += u32::from(!state.is_connected());
                eprintln!("the client's state became {state:?}");
            }
        }
    }
    say(&json!({ "sent": sent, "own": own, "others": others, "reconnects": reconnects }).to_string())?;
    client.close().await.context("close")
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("nobody listens")
}
