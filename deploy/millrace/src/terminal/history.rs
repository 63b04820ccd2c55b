//! `millrace history`: read a channel's history, as much as asked for.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::Args;
use millrace_client::{Message, Sender};

use super::connect;
use super::credentials::Connection;
use super::output::{self, Format, Output, Shown};
use super::progress::Progress;

/// Messages of one page.
const PAGE: u32 = 500;

/// Read a channel's history.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace history general\n  millrace history general --limit 1000 --json\n  \
    millrace history general --before 1200\n  millrace history general --after 0 --limit 10      from the beginning")]
pub(crate) struct History {
    /// The channel to read
    channel: String,
    /// At most so many messages
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    limit: u64,
    /// The messages just before this offset
    #[arg(long, value_name = "OFFSET", conflicts_with = "after")]
    before: Option<u64>,
    /// The messages just after this offset
    #[arg(long, value_name = "OFFSET")]
    after: Option<u64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(command: &History) -> Result<()> {
    let client = connect(&command.connection).await?;
    let sender = client.sender(&command.channel).await.with_context(|| format!("open channel {}", command.channel))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let format = command.output.format();
    let read = match command.after {
        Some(after) => forward(&sender, after, command.limit, |message| write(&mut out, format, message)).await,
        None => backward(&sender, command.before, command.limit, |message| write(&mut out, format, message)).await,
    };
    read.with_context(|| format!("read the history of {}", command.channel))?;
    out.flush().context("write")?;
    // Nothing was changed; a close that fails takes nothing back.
    let _ = client.close().await;
    Ok(())
}

async fn forward(
    sender: &Sender,
    after: u64,
    mut left: u64,
    mut each: impl FnMut(&Message) -> io::Result<()>,
) -> Result<()> {
    let mut after = after;
    while left > 0 {
        let page = sender.history().after(after).limit(page_size(left)).await?;
        for message in &page.messages {
            each(message).context("write")?;
            after = message.position.offset;
        }
        left = left.saturating_sub(page.messages.len() as u64);
        if page.messages.is_empty() || !page.more {
            break;
        }
    }
    Ok(())
}

/// Pages come from the newest back, and are shown from the oldest on.
async fn backward(
    sender: &Sender,
    before: Option<u64>,
    mut left: u64,
    mut each: impl FnMut(&Message) -> io::Result<()>,
) -> Result<()> {
    let mut pages = Vec::new();
    let mut before = before;
    let (mut progress, mut count) = (Progress::begin(), 0);
    while left > 0 {
        let history = sender.history().limit(page_size(left));
        let page = match before {
            Some(before) => history.before(before).await?,
            None => history.await?,
        };
        left = left.saturating_sub(page.messages.len() as u64);
        count += page.messages.len() as u64;
        progress.show(count, "messages read");
        before = page.messages.first().map(|message| message.position.offset);
        let last = page.messages.is_empty() || !page.more;
        pages.push(page.messages);
        if last {
            break;
        }
    }
    progress.end();
    pages.iter().rev().flatten().try_for_each(&mut each).context("write")
}

fn page_size(left: u64) -> u32 {
    u32::try_from(left).unwrap_or(u32::MAX).min(PAGE)
}

fn write(out: &mut impl Write, format: Format, message: &Message) -> io::Result<()> {
    output::message(out, format, Shown::of(message))
}
