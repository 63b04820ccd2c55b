//! HTTP/3 around a session (`SPEC.md` §1.3): the streams that every such connection has, the request that opens the session, and its end.
//! What is the session's goes to [`Session`](crate::Session), which frames cannot tell from one without HTTP/3.

use std::time::Instant;

use bytes::Bytes;
use millrace_protocol::client::CONNECT_PATH;
use millrace_webtransport::{Action, Connection, Error, ErrorCode};
use quinn_proto::{Dir, StreamId, VarInt};

use crate::session::{Owner, READ_BYTES_MAX, Writes};
use crate::{Driver, Key, Read, Write};

/// Streams that a client may have open at a time: the session's request, its control stream and another request; control, encoder,
/// decoder, and one of a kind that nobody knows.
const STREAMS: (u32, u32) = (3, 4);

/// What HTTP/3 connections have come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebCounts {
    /// Sessions that were opened.
    pub opened: u64,
    /// Requests that were answered with a refusal.
    pub refused: u64,
}

/// A connection's HTTP/3.
#[derive(Debug)]
pub(crate) struct Web {
    http: Connection,
    /// Our control stream, once the client lets us open one.
    control: Option<StreamId>,
    /// What streams of ours begin with, once the session is open.
    pub(crate) prefix: Bytes,
    counts: WebCounts,
}

/// What reading led to.
#[derive(Debug)]
pub(crate) enum Step {
    /// A stream of the session, and what was read of it.
    Stream(StreamId, Bytes),
    /// The client is done with the session.
    Closed,
}

impl Web {
    pub(crate) fn new() -> Self {
        Self { http: Connection::new(CONNECT_PATH), control: None, prefix: Bytes::new(), counts: WebCounts::default() }
    }

    /// Opens what every connection has, as far as the client allows.
    pub(crate) fn begin(&mut self, driver: &mut Driver, key: Key, writes: &mut Writes) {
        if self.control.is_some() {
            return;
        }
        driver.allow_streams(key, STREAMS.0, STREAMS.1);
        if let Some(stream) = driver.open_stream(key) {
            self.control = Some(stream);
            writes.write(driver, key, stream, Owner::Http, Connection::control_stream(), false);
        }
    }

    /// Reads a stream of the client that is not known to be the session's. `on_step` gets what concerns that.
    pub(crate) fn read(
        &mut self,
        driver: &mut Driver,
        key: Key,
        stream: StreamId,
        writes: &mut Writes,
        mut on_step: impl FnMut(Step),
    ) -> Result<(), Error> {
        let mut streams = vec![stream];
        while let Some(stream) = streams.pop() {
            let id = u64::from(stream);
            // What is no more to be read here is known from what was read.
            let mut goes_on = true;
            while goes_on && self.http.wants(id) {
                match driver.read(key, stream, READ_BYTES_MAX) {
                    Read::Chunk(bytes) => self.http.handle_bytes(id, bytes)?,
                    Read::Blocked => break,
                    Read::Finished => {
                        goes_on = false;
                        self.http.handle_end(id)?;
                    }
                    Read::Gone => {
                        goes_on = false;
                        self.http.handle_reset(id)?;
                    }
                }
                while let Some(action) = self.http.poll_action() {
                    match action {
                        Action::Write { stream, bytes, last } => {
                            writes.write(driver, key, stream_id(stream), Owner::Http, bytes, last);
                        }
                        Action::Stop { stream, code } => {
                            goes_on &= stream != id;
                            driver.stop(key, stream_id(stream), code.number());
                        }
                        Action::Reject { stream, code } => {
                            goes_on &= stream != id;
                            let of = stream_id(stream);
                            driver.stop(key, of, code.number());
                            if of.dir() == Dir::Bi {
                                driver.reset(key, of, code.number());
                            }
                        }
                        Action::Open => {
                            self.counts.opened += 1;
                            if let Some(session) = self.http.session() {
                                self.prefix = Connection::stream_prefix(session);
                                streams.extend((session != id).then_some(stream_id(session)));
                            }
                        }
                        Action::Refused(_) => self.counts.refused += 1,
                        Action::Stream { stream, first } => {
                            goes_on &= stream != id;
                            on_step(Step::Stream(stream_id(stream), first));
                        }
                        Action::Closed(_) => {
                            on_step(Step::Closed);
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The client wants no more of a stream: whether it may. `Some` if that ends the session.
    pub(crate) fn handle_stopped(&mut self, stream: StreamId) -> Result<Option<Step>, Error> {
        if self.control == Some(stream) {
            return Err(Error {
                code: ErrorCode::ClosedCriticalStream,
                reason: "a stream was stopped that has no end",
            });
        }
        self.http.handle_stopped(u64::from(stream));
        Ok(self.http.poll_action().map(|_closed| Step::Closed))
    }

    /// The session's part of a datagram.
    pub(crate) fn datagram(&self, datagram: &Bytes) -> Result<Option<Bytes>, Error> {
        self.http.datagram(datagram)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.http.held_bytes()
    }

    pub(crate) fn take_counts(&mut self) -> WebCounts {
        std::mem::take(&mut self.counts)
    }

    /// Ends the session in its own words, if there is one, and else the connection.
    pub(crate) fn close(
        &mut self,
        driver: &mut Driver,
        now: Instant,
        key: Key,
        writes: &Writes,
        (code, reason): (u32, &str),
    ) {
        if let Some((stream, mut bytes)) = self.http.close(code, reason) {
            let stream = stream_id(stream);
            if !writes.has_rest_on(stream) && driver.write(key, stream, &mut bytes) == Write::Taken {
                driver.finish(key, stream);
                // Who is in a handshake may not be where it says, and has no place to keep.
                return if driver.is_early(key) {
                    driver.close(key, ErrorCode::NoError.number(), "");
                } else {
                    driver.linger(now, key, ErrorCode::NoError.number());
                };
            }
        }
        // A goodbye was the client's, and so is whatever it says next.
        let with = if code == 0 { ErrorCode::NoError } else { ErrorCode::RequestRejected };
        driver.close(key, with.number(), reason);
    }
}

fn stream_id(stream: u64) -> StreamId {
    // Numbers of streams that QUIC gave us.
    StreamId::from(VarInt::from_u64(stream).unwrap_or(VarInt::MAX))
}
