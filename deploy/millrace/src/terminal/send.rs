//! `millrace send`: one message from the command line, or every line of standard input.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use millrace_client::{Sender, Ticket};
use serde_json::json;
use tokio::sync::mpsc;

use super::connect;
use super::credentials::Connection;
use super::output::line;
use super::progress::Progress;

/// Longest line that is taken; the node may allow less.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Lines and acknowledgements that wait, so that a fast reader of a file does not hold all of it.
const WAITING_MAX: usize = 1024;

/// Send messages: one from the command line, or one for each line of standard input.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millrace send general hello, world\n  tail -f app.log | millrace send logs\n  \
    millrace send general --as alice \"good morning\"\n\nIt ends when every message is acknowledged: on disk, for a durable channel.")]
pub(crate) struct Send {
    /// The channel to send to
    channel: String,
    /// The message; without one, standard input is sent line by line
    text: Vec<String>,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What became of the messages.
#[derive(Debug, Default)]
struct Summary {
    sent: u64,
    first: Option<u64>,
    last: Option<u64>,
}

pub(crate) async fn run(command: &Send) -> Result<()> {
    let client = connect(&command.connection).await?;
    let sender = client.sender(&command.channel).await.with_context(|| format!("open channel {}", command.channel))?;
    let mut progress = Progress::begin();
    let sent = if command.text.is_empty() {
        lines(sender, &mut progress).await
    } else {
        let position = sender.send(command.text.join(" ")).await;
        position
            .map(|position| Summary { sent: 1, first: Some(position.offset), last: Some(position.offset) })
            .context("send")
    };
    let took = progress.end();
    let sent = sent?;
    // Everything is acknowledged; a connection that does not close in time takes nothing back.
    let _ = client.close().await;
    report(command, &sent, took)
}

/// Sends each line; stops at the first that cannot be sent, or is not acknowledged, saying how many were.
async fn lines(sender: Sender, progress: &mut Progress) -> Result<Summary> {
    if std::io::stdin().is_terminal() {
        eprintln!("one message a line; end with Ctrl-D");
    }
    let (queue, mut lines) = mpsc::channel(WAITING_MAX);
    // Reading standard input blocks, so a thread does; it ends with the input or with this command.
    std::thread::spawn(move || read_lines(std::io::stdin().lock(), &queue));
    let (tickets, mut waiting) = mpsc::channel::<Ticket>(WAITING_MAX);
    let submit = async move {
        let mut number = 0_u64;
        while let Some(line) = lines.recv().await {
            number += 1;
            // What cannot be sent is found here, before any line behind it is.
            let ticket = sender.submit(line?).await.with_context(|| format!("line {number}"))?;
            if tickets.send(ticket).await.is_err() {
                // The other side met an error, which is the one to tell.
                break;
            }
        }
        anyhow::Ok(())
    };
    let mut summary = Summary::default();
    let confirm = async {
        while let Some(ticket) = waiting.recv().await {
            let position = ticket.await.with_context(|| {
                let number = summary.sent + 1;
                format!("message {number} (all before it are acknowledged, some behind it may be stored)")
            })?;
            summary.sent += 1;
            summary.first.get_or_insert(position.offset);
            summary.last = Some(position.offset);
            progress.show(summary.sent, "acknowledged");
        }
        drop(waiting);
        anyhow::Ok(())
    };
    let (submitted, confirmed) = tokio::join!(submit, confirm);
    confirmed?;
    submitted.with_context(|| format!("stopped after {} acknowledged messages", summary.sent))?;
    Ok(summary)
}

/// Cuts the input into lines without their ends. Empty lines are messages, too: what comes out is what went in.
fn read_lines(mut input: impl BufRead, queue: &mpsc::Sender<Result<Vec<u8>>>) {
    let mut number = 0_u64;
    loop {
        number += 1;
        let line = read_line(&mut input).with_context(|| format!("line {number}"));
        let ends = line.is_err();
        match line.transpose() {
            None => return,
            Some(line) => {
                if queue.blocking_send(line).is_err() || ends {
                    return;
                }
            }
        }
    }
}

fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = std::io::Read::take(&mut *input, LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).context("read")?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > LINE_BYTES_MAX {
        bail!("is longer than {LINE_BYTES_MAX} bytes, which no message may be");
    }
    ensure!(line.len() as u64 <= LINE_BYTES_MAX, "is longer than {LINE_BYTES_MAX} bytes, which no message may be");
    Ok(Some(line))
}

fn report(command: &Send, sent: &Summary, took: Duration) -> Result<()> {
    if command.json {
        let summary = json!({
            "channel": command.channel, "sent": sent.sent, "first_offset": sent.first, "last_offset": sent.last,
            "seconds": took.as_secs_f64(),
        });
        return line(summary);
    }
    let what = if sent.sent == 1 { "message" } else { "messages" };
    let place = match (sent.first, sent.last) {
        (Some(first), Some(last)) if first != last && last > 0 => format!(", offsets {first} to {last}"),
        (Some(only), _) if only > 0 => format!(", offset {only}"),
        _ => String::new(),
    };
    eprintln!("{} {what} to {}{place}", sent.sent, command.channel);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in() {
        let check = |input: &[u8], expect: &[&[u8]]| {
            let (queue, mut lines) = mpsc::channel(16);
            read_lines(input, &queue);
            drop(queue);
            let mut found = Vec::new();
            while let Ok(line) = lines.try_recv() {
                found.push(line.unwrap());
            }
            assert_eq!(found, expect);
        };
        check(b"", &[]);
        check(b"a\nb\n", &[b"a", b"b"]);
        check(b"a\n\nb", &[b"a", b"", b"b"]);
        check(b"\xff\r\n", &[b"\xff\r"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let mut input = b"ok\n".to_vec();
        input.extend(vec![b'x'; 65_537]);
        let (queue, mut lines) = mpsc::channel(16);
        read_lines(input.as_slice(), &queue);
        assert_eq!(lines.try_recv().unwrap().unwrap(), b"ok");
        let error = format!("{:#}", lines.try_recv().unwrap().unwrap_err());
        assert!(error.contains("line 2") && error.contains("65536"), "{error}");
        assert!(lines.try_recv().is_err());
    }
}
