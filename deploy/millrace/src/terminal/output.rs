//! How messages look: for a person at a terminal, as the bytes that were sent, or as JSON lines.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use millrace_client::Message;
use serde_json::{Value, json};

/// How messages are written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Time, user and text, made safe for a terminal.
    Text,
    /// The payload as it was sent, and a line feed.
    Raw,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Text on a terminal, raw in a pipe, unless said otherwise
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Output {
    pub(crate) fn format(self) -> Format {
        match (self.json, self.format) {
            (true, _) => Format::Json,
            (false, Some(format)) => format,
            (false, None) if io::stdout().is_terminal() => Format::Text,
            (false, None) => Format::Raw,
        }
    }
}

/// A message as the output sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) epoch: u32,
    pub(crate) offset: u64,
    pub(crate) time_ms: i64,
    pub(crate) user: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> Shown<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        Self {
            epoch: message.position.epoch.get(),
            offset: message.position.offset,
            time_ms: message.time_ms,
            user: &message.user,
            body: &message.body,
        }
    }
}

/// Writes one message.
///
/// # Errors
/// If the output is closed, as when `head` has seen enough.
pub(crate) fn message(out: &mut impl Write, format: Format, shown: Shown<'_>) -> io::Result<()> {
    match format {
        Format::Raw => {
            out.write_all(shown.body)?;
            out.write_all(b"\n")
        }
        Format::Text => {
            let text = String::from_utf8_lossy(shown.body);
            writeln!(out, "{}  {}: {}", clock(shown.time_ms), shown.user, safe(&text))
        }
        Format::Json => {
            let mut object = json!({
                "epoch": shown.epoch, "offset": shown.offset, "time_ms": shown.time_ms, "user": shown.user,
            });
            match std::str::from_utf8(shown.body) {
                Ok(text) => object["text"] = text.into(),
                Err(_) => object["data_base64"] = STANDARD.encode(shown.body).into(),
            }
            writeln!(out, "{object}")
        }
    }
}

/// Text that cannot steer a terminal: a stranger's escape sequences are shown, not obeyed.
pub(crate) fn safe(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            // Right-to-left overrides and their kin make a line lie about its order.
            let steers =
                (c.is_control() && c != '\t') || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
            let shown: Box<dyn Iterator<Item = char>> =
                if steers { Box::new(c.escape_unicode()) } else { Box::new(std::iter::once(c)) };
            shown
        })
        .collect()
}

/// Hours, minutes and seconds of a Unix time in UTC.
fn clock(time_ms: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time_ms).unwrap_or_default());
    let whole = humantime::format_rfc3339_seconds(time).to_string();
    whole.get(11..19).unwrap_or_default().to_owned()
}

/// A size for people.
pub(crate) fn bytes(size: u64) -> String {
    bytesize::ByteSize::b(size).display().iec().to_string()
}

/// How long ago a Unix time in ms was, in whole seconds.
pub(crate) fn ago(time_ms: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time_ms).unwrap_or_default());
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    format!("{} ago", humantime::format_duration(Duration::from_secs(seconds)))
}

/// Writes one line to standard output. Unlike `println!`, a reader that has gone is an error, which the caller ends quietly with.
///
/// # Errors
/// If the output is closed.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("write")
}

/// Writes rows as aligned columns, or as one JSON object a line.
///
/// # Errors
/// If the output is closed.
pub(crate) fn table(as_json: bool, rows: &[Value], columns: &[&str]) -> Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        return rows.iter().try_for_each(|row| writeln!(out, "{row}")).context("write");
    }
    let cell = |row: &Value, column: &str| match &row[column] {
        Value::Null => "-".to_owned(),
        Value::String(text) => safe(text),
        other => other.to_string(),
    };
    let header: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end()).context("write")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_shows_a_message() {
        let check = |format, body: &[u8], expect: &str| {
            let mut out = Vec::new();
            let shown = Shown { epoch: 1, offset: 7, time_ms: 3_723_000, user: "alice", body };
            message(&mut out, format, shown).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), expect);
        };
        check(Format::Raw, "größe".as_bytes(), "größe\n");
        check(Format::Text, b"hi", "01:02:03  alice: hi\n");
        check(Format::Text, b"\x1b[2Jhi\r\xE2\x80\xAEx", "01:02:03  alice: \\u{1b}[2Jhi\\u{d}\\u{202e}x\n");
        let json = "{\"epoch\":1,\"offset\":7,\"text\":\"hi\",\"time_ms\":3723000,\"user\":\"alice\"}\n";
        check(Format::Json, b"hi", json);
        let json = "{\"data_base64\":\"/w==\",\"epoch\":1,\"offset\":7,\"time_ms\":3723000,\"user\":\"alice\"}\n";
        check(Format::Json, b"\xFF", json);
    }
}
