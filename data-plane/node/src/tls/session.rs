//! One connection's TLS, as a plain state machine: bytes from the socket in, clear bytes out, and back. No socket, no clock, and
//! nothing kept while nothing is under way: what is left of a record that came in part, what a socket did not take.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{Error, HandshakeKind, PeerIncompatible, ServerConfig};

/// Most clear bytes that one write seals: two full records. What a socket does not take of it stays in memory, sealed.
pub(crate) const SEAL_BYTES_MAX: usize = 32 << 10;
/// Most bytes that wait for the rest of a record or of a message that came in several records. A whole record is at most
/// 16,645 bytes.
pub(crate) const UNFINISHED_BYTES_MAX: usize = 32 << 10;
/// Most bytes of a handshake. A hello takes up to 2 KiB, a chain of client certificates some KiB more.
const HANDSHAKE_BYTES_MAX: usize = 32 << 10;
/// Header of a record: type 1, version 2, length 2 (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;
/// What a record adds to its content at most: header, explicit nonce of TLS 1.2, content type, tag.
const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 8 + 1 + 16;
const RECORD_CONTENT_BYTES_MAX: usize = 16 << 10;
const HANDSHAKE_RECORD: u8 = 22;

/// Why a handshake or a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The first bytes are a request of clear HTTP.
    ClearHttp,
    /// The first bytes are no TLS.
    NotTls,
    /// Client and server have no version, cipher or protocol in common.
    Incompatible,
    /// The client has no certificate that leads to our roots, and needs one.
    Certificate,
    /// The client ended it with an alert: most likely it does not trust our certificate.
    Alert,
    /// What came breaks the protocol, or was changed on its way.
    Malformed,
    /// More came than any handshake or record takes.
    Oversize,
}

/// What became of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// It goes on.
    GoOn,
    /// It goes on, and the handshake came to its end with this input.
    Established {
        /// With a ticket, so without a certificate being shown.
        resumed: bool,
    },
    /// The peer will say no more.
    End,
    /// It is over. What waits to be sent tells the peer why.
    Failed(Failure),
}

/// One connection's end of TLS. Idle, it owns two keys and no buffer.
pub(crate) struct TlsSession {
    state: State,
    /// The beginning of what is still to come whole, as rustls left it: records are opened in place.
    unfinished: Vec<u8>,
    /// Bytes of the handshake so far.
    handshake_bytes: usize,
    unsent: Vec<u8>,
    /// How many of `unsent` are sent.
    sent: usize,
}

enum State {
    /// Nothing has come: a silent connection costs no keys.
    Silent(Arc<ServerConfig>),
    Shaking(Box<UnbufferedServerConnection>),
    Established(Box<UnbufferedServerConnection>),
    Over,
}

/// Sealed bytes on their way to a socket, in a buffer that all connections of a shard share.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    buffer: Vec<u8>,
    len: usize,
}

impl Sealed {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        // A chain of certificates may be long; what one handshake took is not kept for ever.
        self.buffer.truncate(2 * SEAL_BYTES_MAX);
        self.buffer.shrink_to(2 * SEAL_BYTES_MAX);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room for so many more bytes. They were zeroed once, not each time.
    fn space(&mut self, bytes: usize) -> &mut [u8] {
        if self.buffer.len() < self.len + bytes {
            self.buffer.resize(self.len + bytes, 0);
        }
        &mut self.buffer[self.len..]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl TlsSession {
    /// A connection on which nothing has come.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        Self { state: State::Silent(config), unfinished: Vec::new(), handshake_bytes: 0, unsent: Vec::new(), sent: 0 }
    }

    /// Whether the handshake is still to be done.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Silent(_) | State::Shaking(_))
    }

    /// What must stand before new input.
    pub(crate) fn unfinished(&self) -> &[u8] {
        &self.unfinished
    }

    /// Takes in `input`: the [unfinished](Self::unfinished) bytes, and behind them new ones. Clear bytes go to the front of `clear`,
    /// which must be as long as `input`; gives how many. What is to be sent at once goes behind what is in `sealed`.
    pub(crate) fn open(&mut self, input: &mut [u8], clear: &mut [u8], sealed: &mut Sealed) -> (Opened, usize) {
        debug_assert!(clear.len() >= input.len() && input.starts_with(&self.unfinished));
        let new_bytes = input.len() - self.unfinished.len();
        let shaking = self.is_handshaking();
        if shaking {
            self.handshake_bytes += new_bytes;
        }
        if let State::Silent(config) = &self.state {
            if let Some(failure) = refuse(input) {
                return (self.refused(failure, sealed), 0);
            }
            if input.len() < RECORD_HEADER_BYTES {
                self.keep(input);
                return (Opened::GoOn, 0);
            }
            self.state = match UnbufferedServerConnection::new(Arc::clone(config)) {
                Ok(connection) => State::Shaking(Box::new(connection)),
                Err(error) => {
                    tracing::error!(%error, "a TLS configuration cannot be used");
                    State::Over
                }
            };
        }
        let (State::Shaking(connection) | State::Established(connection)) = &mut self.state else {
            return (Opened::End, 0);
        };
        let (mut begin, mut clear_bytes) = (0, 0);
        let step = loop {
            let UnbufferedStatus { mut discard, state } = connection.process_tls_records(&mut input[begin..]);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        None => break None,
                        Some(Ok(record)) => {
                            discard += record.discard;
                            clear[clear_bytes..][..record.payload.len()].copy_from_slice(record.payload);
                            clear_bytes += record.payload.len();
                        }
                        Some(Err(error)) => break Some(Step::Failed(error)),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, sealed).err().map(|()| Step::End),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Step::Shaking),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Step::Established),
                // No early data is offered, and what is new to us is not for us.
                Ok(_) => Some(Step::End),
                Err(error) => Some(Step::Failed(error)),
            };
            begin += discard;
            if let Some(step) = step {
                break step;
            }
        };
        let rest = begin..input.len();
        match step {
            Step::End => {
                self.keep(&input[rest]);
                (Opened::End, clear_bytes)
            }
            Step::Failed(error) => {
                tracing::debug!(%error, "TLS ended");
                // The alert waits in the connection. It is shown the same bytes as before, because it may still point at them; and it
                // is asked only while something waits: to go on after an error is an error of ours.
                while connection.wants_write() {
                    let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut input[begin..]);
                    let Ok(ConnectionState::EncodeTlsData(data)) = state else { break };
                    if encode(data, sealed).is_err() {
                        break;
                    }
                    begin += discard;
                }
                self.over();
                (Opened::Failed(failure_of(&error)), clear_bytes)
            }
            Step::Shaking | Step::Established => {
                let unfinished = rest.len();
                let established = matches!(step, Step::Established) && shaking;
                let resumed = established && connection.handshake_kind() == Some(HandshakeKind::Resumed);
                if unfinished > UNFINISHED_BYTES_MAX
                    || !established && shaking && self.handshake_bytes > HANDSHAKE_BYTES_MAX
                {
                    self.over();
                    return (Opened::Failed(Failure::Oversize), clear_bytes);
                }
                self.keep(&input[rest]);
                if !established {
                    return (Opened::GoOn, clear_bytes);
                }
                if let State::Shaking(connection) = std::mem::replace(&mut self.state, State::Over) {
                    self.state = State::Established(connection);
                }
                (Opened::Established { resumed }, clear_bytes)
            }
        }
    }

    /// Seals clear bytes, in records as large as they may be, behind what is in `sealed`. Before the handshake is done, and when the
    /// connection is over, nothing can be sealed: `false`.
    pub(crate) fn seal(&mut self, clear: &[u8], sealed: &mut Sealed) -> bool {
        let bytes = clear.len() + (clear.len() / RECORD_CONTENT_BYTES_MAX + 1) * RECORD_OVERHEAD_BYTES;
        self.encrypt(bytes, sealed, |traffic, space| traffic.encrypt(clear, space))
    }

    /// Whatever is to go out as the last: what waits, these clear bytes, and that no more will come.
    pub(crate) fn last_words(&mut self, clear: &[u8]) -> Vec<u8> {
        let mut sealed = Sealed::default();
        sealed.push(&self.unsent[self.sent..]);
        if clear.is_empty() || self.seal(clear, &mut sealed) {
            let alert = RECORD_OVERHEAD_BYTES + 2;
            self.encrypt(alert, &mut sealed, |traffic, space| traffic.queue_close_notify(space));
        }
        self.over();
        sealed.buffer.truncate(sealed.len);
        sealed.buffer
    }

    fn encrypt(
        &mut self,
        mut bytes: usize,
        sealed: &mut Sealed,
        mut write: impl FnMut(&mut WriteTraffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> bool {
        let State::Established(connection) = &mut self.state else { return false };
        loop {
            // The connection may point into what is unfinished, so it is shown that and nothing else.
            let written = match connection.process_tls_records(&mut self.unfinished).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => write(&mut traffic, sealed.space(bytes)),
                Ok(ConnectionState::EncodeTlsData(data)) => match encode(data, sealed) {
                    Ok(()) => continue,
                    Err(()) => return false,
                },
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    continue;
                }
                _ => return false,
            };
            match written {
                Ok(written) => {
                    sealed.len += written;
                    return true;
                }
                // A key update goes first.
                Err(EncryptError::InsufficientSize(needed)) if needed.required_size > bytes => {
                    bytes = needed.required_size
                }
                Err(_) => return false,
            }
        }
    }

    /// Sealed bytes that the socket did not take.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.unsent[self.sent..]
    }

    /// Keeps sealed bytes for later, behind what waits.
    pub(crate) fn keep_unsent(&mut self, bytes: &[u8]) {
        self.unsent.drain(..self.sent);
        self.sent = 0;
        self.unsent.extend_from_slice(bytes);
    }

    /// The socket took so many of them. Once all are, they own no memory.
    pub(crate) fn handle_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.unsent.len() {
            self.unsent = Vec::new();
            self.sent = 0;
        }
    }

    fn keep(&mut self, input: &[u8]) {
        // Exactly as much as is counted for it.
        self.unfinished = input.to_vec();
    }

    fn over(&mut self) {
        self.state = State::Over;
        self.unfinished = Vec::new();
    }

    fn refused(&mut self, failure: Failure, sealed: &mut Sealed) -> Opened {
        self.over();
        if failure == Failure::ClearHttp {
            let body = "this port speaks TLS: connect with wss://\n";
            let len = body.len();
            let head = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8";
            sealed.push(format!("{head}\r\nContent-Length: {len}\r\n\r\n{body}").as_bytes());
        }
        Opened::Failed(failure)
    }
}

type WriteTraffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;
type EncodeTlsData<'c> = rustls::unbuffered::EncodeTlsData<'c, rustls::server::ServerConnectionData>;

enum Step {
    Shaking,
    Established,
    End,
    Failed(Error),
}

/// A part of a flight goes behind what is in `sealed`.
fn encode(mut data: EncodeTlsData<'_>, sealed: &mut Sealed) -> Result<(), ()> {
    let mut bytes = RECORD_OVERHEAD_BYTES;
    loop {
        match data.encode(sealed.space(bytes)) {
            Ok(written) => {
                sealed.len += written;
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > bytes => bytes = needed.required_size,
            Err(_) => return Err(()),
        }
    }
}

/// Whether the first bytes cannot be those of TLS: a record that holds a handshake, of any version 3, and not empty.
fn refuse(first: &[u8]) -> Option<Failure> {
    let is_tls = match *first {
        [] => true,
        [kind] => kind == HANDSHAKE_RECORD,
        [kind, major, ref rest @ ..] => {
            kind == HANDSHAKE_RECORD
                && major == 3
                && !matches!(*rest, [_, high, low, ..] if !(1..=RECORD_CONTENT_BYTES_MAX).contains(&(usize::from(high) << 8 | usize::from(low))))
        }
    };
    if is_tls {
        return None;
    }
    let methods: [&[u8]; 4] = [b"GET ", b"POST", b"HEAD", b"OPTI"];
    let is_http = methods.iter().any(|method| first.starts_with(method));
    Some(if is_http { Failure::ClearHttp } else { Failure::NotTls })
}

fn failure_of(error: &Error) -> Failure {
    match error {
        Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)
        | Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::UnsupportedNameType => Failure::Certificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
        Error::AlertReceived(_) => Failure::Alert,
        Error::PeerSentOversizedRecord => Failure::Oversize,
        _ => Failure::Malformed,
    }
}

#[cfg(test)]
mod tests;
