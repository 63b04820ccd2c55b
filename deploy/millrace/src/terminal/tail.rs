//! `millrace tail`: follow a channel.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use futures_util::FutureExt;
use millrace_client::{Channel, Client, Code, Event, HistoryClass, Skipped, Start};
use serde_json::json;

use super::connect;
use super::credentials::Connection;
use super::output::{self, Format, Output, Shown};

/// Messages of a page while a time is looked up.
const PAGE: u32 = 500;

/// Follow a channel.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace tail general\n  millrace tail general --since start\n  millrace tail general --since 1200 --json\n  \
    millrace tail general --since 10m\n  millrace tail general --count 3\n\n\
    On a terminal messages come with time and user; in a pipe, as they were sent. A lost connection is made again, and nothing is missed."
)]
pub(crate) struct Tail {
    /// The channel to follow
    channel: String,
    /// Begin earlier: `start`, after an offset, or so long ago (90s, 10m, 2h)
    #[arg(long, value_name = "WHERE")]
    since: Option<Since>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// From where to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// After this offset; 0 is the start.
    Offset(u64),
    /// With the first message accepted at or after this time; Unix time, ms.
    Time(i64),
}

impl FromStr for Since {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "start" {
            return Ok(Self::Offset(0));
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let ago = humantime::parse_duration(text)
            .map_err(|_| anyhow!("write `start`, an offset such as 1200, or a time such as 10m"))?;
        let time = SystemTime::now().checked_sub(ago).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let time_ms = i64::try_from(time.unwrap_or_default().as_millis()).context("a time that long ago")?;
        Ok(Self::Time(time_ms))
    }
}

pub(crate) async fn run(command: &Tail) -> Result<()> {
    let client = connect(&command.connection).await?;
    let mut channel = open(&client, command).await.with_context(|| format!("follow channel {}", command.channel))?;
    match (channel.history_class(), command.since) {
        (HistoryClass::None, Some(_)) => eprintln!("{} keeps no history: following it from now on", command.channel),
        (HistoryClass::None, None) => eprintln!("following {}", command.channel),
        _ => eprintln!("following {} after offset {}", command.channel, channel.position().offset),
    }
    let followed = follow(command, &mut channel).await;
    // Only reading was done here; whatever the server thinks of the close, nothing is lost.
    let _ = client.close().await;
    followed
}

async fn open(client: &Client, command: &Tail) -> Result<Channel> {
    let start = match command.since {
        None => Start::Live,
        Some(Since::Offset(offset)) => Start::AfterOffset(offset),
        Some(Since::Time(time_ms)) => Start::AfterOffset(offset_before(client, &command.channel, time_ms).await?),
    };
    Ok(client.subscribe_from(&command.channel, start).await?)
}

/// The offset of the last message before a time: pages go back from the newest, because recent times are asked for most.
async fn offset_before(client: &Client, channel: &str, time_ms: i64) -> Result<u64> {
    let sender = client.sender(channel).await?;
    let mut page = sender.history().limit(PAGE).await?;
    loop {
        if let Some(last) = page.messages.iter().rev().find(|message| message.time_ms < time_ms) {
            return Ok(last.position.offset);
        }
        match page.messages.first() {
            Some(first) if page.more => page = sender.history().before(first.position.offset).limit(PAGE).await?,
            Some(first) => return Ok(first.position.offset.saturating_sub(1)),
            None => return Ok(0),
        }
    }
}

async fn follow(command: &Tail, channel: &mut Channel) -> Result<()> {
    let format = command.output.format();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = command.count.unwrap_or(u64::MAX);
    while left > 0 {
        // What was written becomes visible before anything is waited for, and not before: a long catch-up writes in large pieces.
        let event = match channel.next().now_or_never() {
            Some(event) => event,
            None => {
                out.flush().context("write")?;
                tokio::select! {
                    event = channel.next() => event,
                    _ = tokio::signal::ctrl_c() => break,
                }
            }
        };
        match event {
            Some(Event::Message(message)) => {
                output::message(&mut out, format, Shown::of(&message)).context("write")?;
                left -= 1;
            }
            Some(other) => tell(&mut out, format, &command.channel, other)?,
            None => break,
        }
    }
    out.flush().context("write")
}

/// What is no message: for JSON a line of its own, else a word on standard error.
fn tell(out: &mut impl Write, format: Format, channel: &str, event: Event) -> Result<()> {
    let (kind, text) = match event {
        Event::Skipped(Skipped::SlowConsumer { first, last }) => {
            ("skipped", format!("skipped offsets {} to {}: this reader was too slow", first.offset, last.offset))
        }
        Event::Skipped(Skipped::QueueFull { messages }) => {
            ("skipped", format!("skipped {messages} messages: this reader was too slow"))
        }
        Event::Skipped(_) => ("skipped", "messages may be missing: the connection was interrupted".to_owned()),
        Event::Reset { reason, position } => {
            let why = match reason {
                Code::PositionAhead => "the channel is not as long as that",
                Code::PositionTooOld => "older messages are not kept any more",
                _ => "messages that were seen before may be lost",
            };
            ("reset", format!("{why} ({reason}); going on after offset {}", position.offset))
        }
        Event::CanPublish(can_publish) => ("can_publish", can_publish.to_string()),
        Event::Ended(error) => return Err(error).with_context(|| format!("channel {channel} ended")),
        _ => return Ok(()),
    };
    match format {
        Format::Json => writeln!(out, "{}", json!({ "event": kind, "detail": text })).context("write")?,
        Format::Text | Format::Raw => eprintln!("{channel}: {kind}: {text}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_place_or_a_time() {
        assert_eq!("start".parse::<Since>().unwrap(), Since::Offset(0));
        assert_eq!("1200".parse::<Since>().unwrap(), Since::Offset(1200));
        assert!(matches!("10m".parse::<Since>().unwrap(), Since::Time(time) if time > 0));
        assert!("soon".parse::<Since>().unwrap_err().to_string().contains("10m"));
    }
}
