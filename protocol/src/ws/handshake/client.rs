//! The client's side of the handshake (RFC 6455 §4.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Collected, HEAD_BYTES_MAX, HEADERS_MAX, Head, accept_key, has_token, single, values};
use crate::ws::deflate::offer::{CLIENT_OFFER, is_agreed};

/// What to connect to.
#[derive(Debug, Clone, Copy)]
pub struct ClientRequest<'a> {
    /// Host and, unless it is the scheme's own, port: `example.com`, `127.0.0.1:8080`, `[::1]:8080`.
    pub host: &'a str,
    /// Path and query: `/v1/connect`.
    pub target: &'a str,
    /// Sub-protocols to offer, the one liked best first.
    pub subprotocols: &'a [&'a str],
    /// 16 random bytes, fresh for each connection.
    pub nonce: [u8; 16],
}

/// Checks the response to one request over any number of reads, then is done.
#[derive(Debug)]
pub struct ClientHandshake {
    head: Head,
    accept: String,
    offered: Vec<String>,
    offers_deflate: bool,
}

/// The server accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The sub-protocol that the server chose, one of those offered; `None` if it speaks none of them.
    pub subprotocol: Option<String>,
    /// Messages may be compressed both ways, without context takeover. Only if that was offered.
    pub deflate: bool,
    /// Bytes of the input that the head took; frames may follow.
    pub consumed: usize,
}

/// Why there is no WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The caller's mistake: the request cannot be written.
    #[error("{field} is empty or has a character that cannot be in a request: {value:?}")]
    Request {
        /// Which field of [`ClientRequest`].
        field: &'static str,
        /// What it was.
        value: String,
    },
    /// It is no HTTP/1.1 response.
    #[error("the answer is no HTTP/1.1 response")]
    Malformed,
    /// The head exceeds [`HEAD_BYTES_MAX`] or [`HEADERS_MAX`].
    #[error("the response head is over the limit of {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} header fields")]
    HeadTooLong,
    /// The server refused.
    #[error("the server answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, as far as it came with the head, at most 256 bytes.
        text: String,
    },
    /// A header field that is missing, repeated or wrong: something other than a WebSocket server answered 101.
    #[error("the response's header field {name} is missing, repeated or wrong")]
    Header {
        /// Its name.
        name: &'static str,
    },
}

impl ClientHandshake {
    /// The handshake, and the request to write.
    ///
    /// # Errors
    /// [`ResponseError::Request`] if a field would break out of its place in the request.
    ///
    /// Source: RFC 6455 §4.1.
    pub fn new(request: &ClientRequest<'_>) -> Result<(Self, Vec<u8>), ResponseError> {
        Self::begin(request, false)
    }

    /// As [`new`](Self::new), and offers compression (RFC 7692): messages must then go through a
    /// [`Decoder`](crate::ws::Decoder) that is fed with an [`Inflater`](crate::ws::deflate::Inflater) if the server agrees.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn offering_deflate(request: &ClientRequest<'_>) -> Result<(Self, Vec<u8>), ResponseError> {
        Self::begin(request, true)
    }

    fn begin(request: &ClientRequest<'_>, offers_deflate: bool) -> Result<(Self, Vec<u8>), ResponseError> {
        let refuse = |field, value: &str| Err(ResponseError::Request { field, value: value.into() });
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let ClientRequest { host, target, subprotocols, nonce } = *request;
        if !printable(host) || host.contains(['/', '?', '#', '@']) {
            return refuse("host", host);
        }
        if !printable(target) || !target.starts_with('/') || target.contains('#') {
            return refuse("target", target);
        }
        if let Some(wrong) = subprotocols.iter().find(|name| !printable(name) || name.contains([',', ';', '"'])) {
            return refuse("subprotocols", wrong);
        }

        let key = STANDARD.encode(nonce);
        let mut out = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if !subprotocols.is_empty() {
            out.extend(["Sec-WebSocket-Protocol: ", &subprotocols.join(", "), "\r\n"]);
        }
        if offers_deflate {
            out.extend(["Sec-WebSocket-Extensions: ", CLIENT_OFFER, "\r\n"]);
        }
        out.push_str("\r\n");
        let offered = subprotocols.iter().map(|&name| name.into()).collect();
        let accept = accept_key(key.as_bytes());
        Ok((Self { head: Head::default(), accept, offered, offers_deflate }, out.into_bytes()))
    }

    /// Takes in what was read. `None` while the head is not whole. What follows [`Accepted::consumed`] are frames.
    ///
    /// # Errors
    /// [`ResponseError`] if the server refused, or is no WebSocket server. The connection is of no further use.
    ///
    /// Source: RFC 6455 §4.1, the list after "once the client's opening handshake has been sent".
    pub fn feed(&mut self, input: &[u8]) -> Result<Option<Accepted>, ResponseError> {
        if self.head.first_byte(input).is_some_and(|byte| byte != b'H') {
            return Err(ResponseError::Malformed);
        }
        match self.head.collect(input) {
            Collected::Partly => Ok(None),
            Collected::TooLong => Err(ResponseError::HeadTooLong),
            Collected::Whole(head, consumed) => {
                let (subprotocol, deflate) = self.check(&head, &input[consumed..])?;
                Ok(Some(Accepted { subprotocol, deflate, consumed }))
            }
        }
    }

    fn check(&self, head: &[u8], body: &[u8]) -> Result<(Option<String>, bool), ResponseError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::HeadTooLong),
            Ok(httparse::Status::Partial) | Err(_) => return Err(ResponseError::Malformed),
        }
        let (Some(status), Some(1)) = (response.code, response.version) else {
            return Err(ResponseError::Malformed);
        };
        if status != 101 {
            let body = String::from_utf8_lossy(&body[..body.len().min(256)]);
            let text = if body.trim().is_empty() { response.reason.unwrap_or_default() } else { body.trim() };
            return Err(ResponseError::Refused { status, text: text.into() });
        }

        let headers = &*response.headers;
        let wrong = |name| Err(ResponseError::Header { name });
        if !matches!(single(headers, "Upgrade"), Ok(Some(value)) if value.eq_ignore_ascii_case(b"websocket")) {
            return wrong("Upgrade");
        }
        if !has_token(headers, "Connection", "upgrade") {
            return wrong("Connection");
        }
        if single(headers, "Sec-WebSocket-Accept") != Ok(Some(self.accept.as_bytes())) {
            return wrong("Sec-WebSocket-Accept");
        }
        // None but what was offered can be in force, and that once.
        let mut extensions = values(headers, "Sec-WebSocket-Extensions").filter(|value| !value.trim_ascii().is_empty());
        let deflate = match (extensions.next(), extensions.next()) {
            (None, _) => false,
            (Some(answer), None) if self.offers_deflate && is_agreed(answer) => true,
            _ => return wrong("Sec-WebSocket-Extensions"),
        };
        match single(headers, "Sec-WebSocket-Protocol") {
            Ok(None) => Ok((None, deflate)),
            Ok(Some(chosen)) => match self.offered.iter().find(|offered| offered.as_bytes() == chosen) {
                Some(offered) => Ok((Some(offered.clone()), deflate)),
                None => wrong("Sec-WebSocket-Protocol"),
            },
            Err(()) => wrong("Sec-WebSocket-Protocol"),
        }
    }
}
