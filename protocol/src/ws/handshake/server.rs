//! The server's side of the handshake (RFC 6455 §4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Collected, HEAD_BYTES_MAX, HEADERS_MAX, Head, accept_key, elements, has_token, single};
use crate::ws::deflate::Agreement;

/// What a listener serves.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The only path that is served, such as `/v1/connect`; `None` serves every path.
    pub path: Option<&'a str>,
    /// Sub-protocols it speaks, the best first. If there are any, a client must offer one of them.
    pub subprotocols: &'a [&'a str],
}

/// Parses one upgrade request over any number of reads, then is done.
#[derive(Debug, Default)]
pub struct ServerHandshake {
    head: Head,
}

/// An upgrade request that may be accepted. It has what the shell decides by, and no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Path of the request target, as sent: not percent-decoded.
    pub path: String,
    /// What follows the `?`, as sent.
    pub query: Option<String>,
    /// `Host`, as sent.
    pub host: String,
    /// `Origin`, as a browser sends it. A shell that serves browsers compares it with a list (§10.2).
    pub origin: Option<String>,
    /// The sub-protocol chosen from what the client offered.
    pub subprotocol: Option<String>,
    /// Compression that the client offers and a server could keep to. The answer declines it unless it is [agreed on](Self::agree).
    pub deflate: Option<Agreement>,
    agreed: bool,
    accept: String,
    /// Bytes of the input that the head took; frames may follow.
    pub consumed: usize,
}

/// Why a request is refused. [`RequestError::response`] is what to write before closing the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It is no HTTP/1.1 request.
    #[error("this is no HTTP/1.1 request: {0}")]
    Malformed(&'static str),
    /// The head exceeds [`HEAD_BYTES_MAX`] or [`HEADERS_MAX`].
    #[error("the request head is over the limit of {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} header fields")]
    HeadTooLong,
    /// Another method than GET.
    #[error("a WebSocket is opened with the method GET")]
    Method,
    /// Another path than the one that is served.
    #[error("nothing is served at this path, connect to {served}")]
    Path {
        /// The path that is.
        served: String,
    },
    /// A plain HTTP request, or another version of WebSocket.
    #[error("this is a WebSocket endpoint: ask for Upgrade: websocket and Sec-WebSocket-Version: 13")]
    UpgradeRequired,
    /// A header field that is missing, comes twice or has a wrong value.
    #[error("the header field {name} is missing, repeated or wrong: {expect}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What it should be.
        expect: &'static str,
    },
    /// None of the sub-protocols offered is spoken here.
    #[error("no sub-protocol in common, offer one of: {spoken}")]
    Subprotocol {
        /// The ones that are.
        spoken: String,
    },
}

impl ServerHandshake {
    /// One for each connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read. `None` while the head is not whole. What follows [`Request::consumed`] are frames.
    ///
    /// # Errors
    /// [`RequestError`] if the request is refused, as soon as that shows.
    ///
    /// Source: RFC 6455 §4.2.1.
    pub fn feed(&mut self, input: &[u8], endpoint: &Endpoint<'_>) -> Result<Option<Request>, RequestError> {
        if self.head.first_byte(input).is_some_and(|byte| !byte.is_ascii_alphabetic()) {
            return Err(RequestError::Malformed("it does not begin with a method; is it TLS?"));
        }
        match self.head.collect(input) {
            Collected::Partly => Ok(None),
            Collected::TooLong => Err(RequestError::HeadTooLong),
            Collected::Whole(head, consumed) => parse(&head, endpoint, consumed).map(Some),
        }
    }
}

fn parse(head: &[u8], endpoint: &Endpoint<'_>, consumed: usize) -> Result<Request, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(RequestError::Malformed("the request line is missing")),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::HeadTooLong),
        Err(httparse::Error::Version) => return Err(RequestError::Malformed("the version is not HTTP/1.1")),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            return Err(RequestError::Malformed("a header field is not well formed"));
        }
        Err(_) => return Err(RequestError::Malformed("the request line is not well formed")),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(RequestError::Malformed("the request line is missing"));
    };
    if version != 1 {
        return Err(RequestError::Malformed("the version is not HTTP/1.1"));
    }
    if method != "GET" {
        return Err(RequestError::Method);
    }
    let (path, query) = split_target(target)?;
    if let Some(served) = endpoint.path
        && served != path
    {
        return Err(RequestError::Path { served: served.into() });
    }
    let headers = &*request.headers;
    if !has_token(headers, "upgrade", "websocket") {
        return Err(RequestError::UpgradeRequired);
    }
    if !has_token(headers, "connection", "upgrade") {
        return Err(RequestError::Header { name: "Connection", expect: "a list with the token Upgrade" });
    }
    if required(headers, "Sec-WebSocket-Version", "13, once")? != b"13" {
        return Err(RequestError::UpgradeRequired);
    }
    let host = required(headers, "Host", "a host, once")?;
    let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty());
    let host = host.ok_or(RequestError::Header { name: "Host", expect: "a host, once" })?;
    refuse_body(headers)?;

    let key = required(headers, "Sec-WebSocket-Key", KEY)?;
    let mut nonce = [0; 18];
    if key.len() != 24 || STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
        return Err(RequestError::Header { name: "Sec-WebSocket-Key", expect: KEY });
    }
    let origin = optional(headers, "Origin", "an origin, at most once")?;
    Ok(Request {
        path: path.into(),
        query: query.map(Into::into),
        host: host.into(),
        origin: origin.map(Into::into),
        subprotocol: choose_subprotocol(headers, endpoint.subprotocols)?,
        deflate: Agreement::first_of(elements(headers, "Sec-WebSocket-Extensions")),
        agreed: false,
        accept: accept_key(key),
        consumed,
    })
}

const KEY: &str = "16 random bytes in base64, once";

/// Path and query of a request target: `/path?query`, or the same behind a scheme and an authority (RFC 9112 §3.2).
fn split_target(target: &str) -> Result<(&str, Option<&str>), RequestError> {
    let local = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    if local.contains('#') || !local.starts_with(['/', '?']) {
        return Err(RequestError::Malformed("the request target is no path"));
    }
    let (path, query) = local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)));
    Ok((if path.is_empty() { "/" } else { path }, query))
}

fn required<'b>(
    headers: &[httparse::Header<'b>],
    name: &'static str,
    expect: &'static str,
) -> Result<&'b [u8], RequestError> {
    single(headers, name).ok().flatten().ok_or(RequestError::Header { name, expect })
}

fn optional<'b>(
    headers: &[httparse::Header<'b>],
    name: &'static str,
    expect: &'static str,
) -> Result<Option<&'b str>, RequestError> {
    let value = single(headers, name).map_err(|()| RequestError::Header { name, expect })?;
    value.map(|value| std::str::from_utf8(value).map_err(|_| RequestError::Header { name, expect })).transpose()
}

/// What follows the head must be frames: with a body, servers along the way could disagree where it ends.
fn refuse_body(headers: &[httparse::Header<'_>]) -> Result<(), RequestError> {
    let length = single(headers, "Content-Length");
    if !matches!(length, Ok(None | Some(b"0"))) {
        return Err(RequestError::Header { name: "Content-Length", expect: "an upgrade request has no body" });
    }
    if !matches!(single(headers, "Transfer-Encoding"), Ok(None)) {
        return Err(RequestError::Header { name: "Transfer-Encoding", expect: "an upgrade request has no body" });
    }
    Ok(())
}

/// The first of ours that the client offers, compared byte by byte (§4.2.2, point 4).
fn choose_subprotocol(headers: &[httparse::Header<'_>], spoken: &[&str]) -> Result<Option<String>, RequestError> {
    if spoken.is_empty() {
        return Ok(None);
    }
    let offered = |spoken: &str| elements(headers, "sec-websocket-protocol").any(|one| one == spoken.as_bytes());
    match spoken.iter().find(|spoken| offered(spoken)) {
        Some(&chosen) => Ok(Some(chosen.into())),
        None => Err(RequestError::Subprotocol { spoken: spoken.join(", ") }),
    }
}

impl Request {
    /// Agrees to the compression that is offered, if any: the answer says so, and from then on messages may be compressed.
    pub fn agree(&mut self) -> Option<Agreement> {
        self.agreed = self.deflate.is_some();
        self.deflate
    }

    /// The answer that opens the WebSocket.
    ///
    /// Source: RFC 6455 §4.2.2, point 5.
    pub fn response(&self) -> Vec<u8> {
        let mut out = String::with_capacity(192);
        out.push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        out.extend(["Sec-WebSocket-Accept: ", &self.accept, "\r\n"]);
        if let Some(subprotocol) = &self.subprotocol {
            out.extend(["Sec-WebSocket-Protocol: ", subprotocol, "\r\n"]);
        }
        if let Some(agreement) = self.deflate.filter(|_| self.agreed) {
            out.extend(["Sec-WebSocket-Extensions: ", &agreement.answer(), "\r\n"]);
        }
        out.push_str("\r\n");
        out.into_bytes()
    }
}

impl RequestError {
    /// The HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::Header { .. } | Self::Subprotocol { .. } => 400,
            Self::Path { .. } => 404,
            Self::Method => 405,
            Self::UpgradeRequired => 426,
            Self::HeadTooLong => 431,
        }
    }

    /// The answer that refuses: a status, a sentence for a person, and the end of the connection.
    ///
    /// Source: RFC 6455 §4.2.2 and §4.4, RFC 9110 §15.5.
    pub fn response(&self) -> Vec<u8> {
        let (phrase, extra) = match self.status() {
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            431 => ("Request Header Fields Too Large", ""),
            _ => ("Bad Request", ""),
        };
        let connection = if self.status() == 426 { "Upgrade, close" } else { "close" };
        let body = format!("{self}\n");
        let (status, len) = (self.status(), body.len());
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{extra}Connection: {connection}\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}
