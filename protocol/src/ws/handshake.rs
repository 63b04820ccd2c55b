//! The opening handshake (RFC 6455 §4): one HTTP/1.1 request, one response, then frames.
//!
//! - [`server`]: parses a request, answers it;
//! - [`client`]: builds a request, checks the response.

pub mod client;
pub mod server;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

pub use client::{Accepted, ClientHandshake, ClientRequest, ResponseError};
pub use server::{Endpoint, Request, RequestError, ServerHandshake};

/// Longest head of a request or a response, in bytes up to and with its empty line.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most header fields in a head.
pub const HEADERS_MAX: usize = 64;

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`: base64 of SHA-1 of the key and a fixed id.
///
/// Source: RFC 6455 §4.2.2, point 5.4.
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Collects a head over reads. It is looked at once, when it is whole: a peer that sends byte by byte costs no more.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
}

/// What [`Head::collect`] has found.
enum Collected<'a> {
    Partly,
    /// The head, and how much of the input it took.
    Whole(Cow<'a, [u8]>, usize),
    TooLong,
}

impl Head {
    fn collect<'a>(&mut self, input: &'a [u8]) -> Collected<'a> {
        // The end may straddle reads: its last three bytes at most are in an earlier one.
        let before = self.bytes.len();
        let overlap = before.min(3);
        let mut window = [0; 6];
        window[..overlap].copy_from_slice(&self.bytes[before - overlap..]);
        let ahead = input.len().min(3);
        window[overlap..overlap + ahead].copy_from_slice(&input[..ahead]);
        let straddling = find_end(&window[..overlap + ahead]).map(|end| end.saturating_sub(overlap));

        let consumed = straddling.or_else(|| find_end(input));
        if before + consumed.unwrap_or(input.len()) > HEAD_BYTES_MAX {
            self.bytes = Vec::new();
            return Collected::TooLong;
        }
        match consumed {
            Some(consumed) if before == 0 => Collected::Whole(Cow::Borrowed(&input[..consumed]), consumed),
            Some(consumed) => {
                let mut head = std::mem::take(&mut self.bytes);
                head.extend_from_slice(&input[..consumed]);
                Collected::Whole(Cow::Owned(head), consumed)
            }
            None => {
                self.bytes.extend_from_slice(input);
                Collected::Partly
            }
        }
    }

    /// The first byte, here or in the input. A head begins with a letter; a TLS hello, for one, does not.
    fn first_byte(&self, input: &[u8]) -> Option<u8> {
        self.bytes.first().or(input.first()).copied()
    }
}

/// Where the first empty line ends. A line may end with a bare line feed (RFC 9112 §2.2).
fn find_end(bytes: &[u8]) -> Option<usize> {
    let feeds = bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
    feeds.map(|(at, _)| at + 1).find_map(|at| match bytes[at..] {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// The values of a header field, in order.
fn values<'h, 'b>(headers: &'h [httparse::Header<'b>], name: &'h str) -> impl Iterator<Item = &'b [u8]> + 'h {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The value of a header field that must not come twice: `Err` if it does.
fn single<'b>(headers: &[httparse::Header<'b>], name: &str) -> Result<Option<&'b [u8]>, ()> {
    let mut values = values(headers, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(<[u8]>::trim_ascii)),
        _ => Err(()),
    }
}

/// The elements of a header field that is a comma-separated list, over all its lines.
fn elements<'h, 'b: 'h>(headers: &'h [httparse::Header<'b>], name: &'h str) -> impl Iterator<Item = &'b [u8]> + 'h {
    let lines = values(headers, name);
    lines
        .flat_map(|line| line.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a list has the token, in any case.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests;
