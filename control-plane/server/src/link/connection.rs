//! The life of one link: reading requests, answering them side by side, writing what waits, heartbeats both ways.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_protocol::Code;
use millrace_protocol::FrameError;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::Term;
use millrace_protocol::node::{self, FrameReader, NodeBody, NodeFrame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::metrics::RequestKind;
use super::{Active, CHANGES_WAITING_MAX, Claim, LinkEnd, Shared, announce, handshake, history, next_term};

/// Either side ends a link that is silent for so many heartbeats.
const SILENT_HEARTBEATS_MAX: u32 = 3;
/// What a request takes at least of [`requests_bytes_max`](super::LinkConfig::requests_bytes_max).
const REQUEST_UNIT_BYTES: usize = 16 << 10;
/// A buffer that grew larger is given back once it is written.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Serves a link from its handshake to its end.
pub(super) async fn serve<S>(shared: &Arc<Shared>, mut stream: S) -> LinkEnd
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Ok(handshake) = shared.handshakes.try_acquire() else {
        // Strangers may come as often as they like.
        if shared.crowd_told.may(std::time::Instant::now()) {
            tracing::warn!("too many connections in their handshake are closed; told once a minute");
        }
        return LinkEnd::Refused;
    };
    let mut reader = FrameReader::default();
    let (changes, changes_waiting) = mpsc::channel(CHANGES_WAITING_MAX);
    let began = timeout(shared.config.handshake_timeout, begin(shared, &mut stream, &mut reader, changes)).await;
    drop(handshake);
    let (claim, term) = match began {
        Ok(Ok(began)) => began,
        Ok(Err(end)) => return end,
        Err(_elapsed) => return LinkEnd::HandshakeTimeout,
    };

    let active = &claim.active;
    tracing::info!(node = active.node, term = term.0, "data node linked");
    shared.metrics.up.set(1);
    let link = Link { shared: shared.clone(), active: active.clone(), term };
    let (read, write) = tokio::io::split(stream);
    let end = tokio::select! {
        end = link.write(write) => end,
        end = link.answer(read, reader, changes_waiting) => end,
    };
    tracing::info!(node = active.node, term = term.0, reason = end.name(), "data node unlinked");
    end
}

async fn begin<'a, S: AsyncRead + AsyncWrite + Unpin>(
    shared: &'a Shared,
    stream: &mut S,
    reader: &mut FrameReader,
    changes: mpsc::Sender<NodeBody>,
) -> Result<(Claim<'a>, Term), LinkEnd> {
    let hello = handshake::greet(shared, stream, reader).await?;
    let claimed = match Claim::take(shared, &hello, changes) {
        Ok(claim) => next_term(&shared.db).await.map(|term| (claim, term)),
        Err(refusal) => Err(refusal),
    };
    match claimed {
        Ok((claim, term)) => {
            claim.active.term.store(term.0, Ordering::Release);
            let heartbeat_ms = u32::try_from(shared.config.heartbeat.as_millis()).unwrap_or(u32::MAX);
            handshake::send(stream, NodeBody::Welcome { term, heartbeat_ms }).await?;
            tracing::debug!(node = hello.node, endpoints = ?hello.endpoints, "data node welcome");
            shared.met(hello.endpoints, hello.certificate_hashes);
            Ok((claim, term))
        }
        Err(refusal) => {
            tracing::warn!(node = hello.node, %refusal, "data node refused");
            handshake::send(stream, NodeBody::Refused(refusal)).await?;
            Err(LinkEnd::Refused)
        }
    }
}

/// What every part of a link shares.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<Active>,
    pub(super) term: Term,
}

impl Link {
    fn silence_max(&self) -> Duration {
        self.shared.config.heartbeat * SILENT_HEARTBEATS_MAX
    }

    /// Writes what waits, and a ping at every heartbeat, until the link ends.
    async fn write<S: AsyncRead + AsyncWrite>(&self, mut write: WriteHalf<S>) -> LinkEnd {
        let heartbeat = self.shared.config.heartbeat;
        let outbox = &self.active.outbox;
        let mut buffer = Vec::new();
        let mut ping_at = Instant::now() + heartbeat;
        loop {
            tokio::select! {
                taken = outbox.take(&mut buffer) => if let Err(end) = taken {
                    // Best effort: the peer sees the end of the stream, whether or not it is told politely.
                    drop(timeout(heartbeat, write.shutdown()).await);
                    return end;
                },
                () = sleep_until(ping_at) => {
                    ping_at = Instant::now() + heartbeat;
                    match outbox.urgent(&NodeFrame { id: 0, body: NodeBody::Ping }) {
                        Ok(true) => {}
                        Ok(false) => return LinkEnd::QueueFull,
                        Err(end) => return end,
                    }
                    continue;
                }
            }
            self.shared.metrics.queue_bytes.set(i64::try_from(outbox.bytes()).unwrap_or(i64::MAX));
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                // Any progress will do: a large page may take its time.
                match timeout(self.silence_max(), write.write(rest)).await {
                    Ok(Ok(0) | Err(_)) => return LinkEnd::Closed,
                    Ok(Ok(written)) => rest = &rest[written..],
                    Err(_elapsed) => return LinkEnd::Stuck,
                }
            }
            match timeout(self.silence_max(), write.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return LinkEnd::Closed,
                Err(_elapsed) => return LinkEnd::Stuck,
            }
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES_KEPT);
            outbox.written();
        }
    }

    /// Tells the node everything it has to know, then answers its requests and tells it of changes, until the link ends.
    async fn answer<S: AsyncRead + AsyncWrite>(
        &self,
        read: ReadHalf<S>,
        reader: FrameReader,
        changes: mpsc::Receiver<NodeBody>,
    ) -> LinkEnd {
        if let Err(end) = announce::tell_everything(self).await {
            return end;
        }
        self.active.ready.store(true, Ordering::Release);
        tokio::select! {
            end = self.read(read, reader) => end,
            end = announce::tell_changes(self, changes) => end,
        }
    }

    async fn read<S: AsyncRead>(&self, mut read: ReadHalf<S>, mut reader: FrameReader) -> LinkEnd {
        let units = self.shared.config.requests_bytes_max / REQUEST_UNIT_BYTES;
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(units));
        let mut requests = JoinSet::new();
        let mut heard_at = Instant::now();
        loop {
            loop {
                let frame = match reader.next_frame() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return self.bad_frame(&error),
                };
                let bytes = frame.len();
                let frame = match node::decode(frame) {
                    Ok(frame) => frame,
                    Err(error) => return self.bad_frame(&error),
                };
                if let Err(end) = self.handle(frame, bytes, &room, units, &mut requests).await {
                    return end;
                }
                // The wait for room was ours, not the peer's silence.
                heard_at = Instant::now();
            }
            tokio::select! {
                result = handshake::read(&mut read, reader.buffer()) => match result {
                    Ok(()) => heard_at = Instant::now(),
                    Err(end) => return end,
                },
                Some(done) = requests.join_next(), if !requests.is_empty() => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(end)) => return end,
                    Err(panic) => {
                        tracing::error!(error = %panic, "a request of the data node failed");
                        return LinkEnd::Internal;
                    }
                },
                () = sleep_until(heard_at + self.silence_max()) => return LinkEnd::Silent,
            }
        }
    }

    fn bad_frame(&self, error: &FrameError) -> LinkEnd {
        tracing::warn!(
            node = self.active.node,
            error = error as &dyn std::error::Error,
            "bad frame on the control link"
        );
        LinkEnd::BadFrame
    }

    async fn handle(
        &self,
        frame: NodeFrame,
        bytes: usize,
        room: &Arc<Semaphore>,
        units: usize,
        requests: &mut JoinSet<Result<(), LinkEnd>>,
    ) -> Result<(), LinkEnd> {
        let NodeFrame { id, body } = frame;
        let (kind, reply_bytes) = match &body {
            NodeBody::Ping => return self.urgent(NodeFrame { id, body: NodeBody::Pong }),
            NodeBody::Pong => return Ok(()),
            NodeBody::Published(_) => {
                if let NodeBody::Published(result) = body
                    && let Some(answer) = self.active.publishes().remove(&id)
                {
                    // Nobody waits any more: fine.
                    drop(answer.send(result));
                }
                return Ok(());
            }
            NodeBody::CertificateHashes(hashes) => {
                self.shared.shows(hashes.clone());
                return Ok(());
            }
            NodeBody::Reported(_) | NodeBody::Inspected(_) | NodeBody::Draining => {
                self.active.inquiries.answered(id, Ok(body));
                return Ok(());
            }
            // The node refused one of our requests: a publish or an inquiry, which share their numbers.
            NodeBody::Refused(refusal) => {
                self.active.inquiries.answered(id, Err(refusal.clone()));
                if let Some(answer) = self.active.publishes().remove(&id) {
                    drop(answer.send(Err(refusal.clone())));
                }
                return Ok(());
            }
            NodeBody::Authorize(_) => (RequestKind::Authorize, 0),
            NodeBody::MarkReads(_) => (RequestKind::MarkReads, 0),
            NodeBody::OpenHomes(_) => (RequestKind::OpenHomes, 0),
            NodeBody::Append(_) => (RequestKind::Append, 0),
            NodeBody::CloseHomes(_) => (RequestKind::CloseHomes, 0),
            NodeBody::ReadHistory(read) => (RequestKind::ReadHistory, history::reply_bytes_max(read)),
            NodeBody::Unknown => {
                let refusal = Refusal::new(Code::UnexpectedFrame, "this control node does not know the request");
                return self.urgent(NodeFrame { id, body: NodeBody::Refused(refusal) });
            }
            _ => {
                tracing::warn!(node = self.active.node, "a frame that no data node sends");
                return Err(LinkEnd::BadFrame);
            }
        };
        let cost = ((bytes + reply_bytes) / REQUEST_UNIT_BYTES + 1).min(units);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = room.clone().acquire_many_owned(cost).await.map_err(|_closed| LinkEnd::Internal)?;
        requests.spawn(self.clone().request(id, body, kind, permit));
        Ok(())
    }

    fn urgent(&self, frame: NodeFrame) -> Result<(), LinkEnd> {
        match self.active.outbox.urgent(&frame) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LinkEnd::QueueFull),
            Err(end) => Err(end),
        }
    }

    async fn request(
        self,
        id: u64,
        body: NodeBody,
        kind: RequestKind,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), LinkEnd> {
        let timer = self.shared.metrics.request(kind);
        let reply = match body {
            NodeBody::Authorize(asked) => {
                let result = self.authorize(id, asked).await;
                timer.observe_duration();
                return result;
            }
            NodeBody::MarkReads(marks) => {
                let result = self.mark_reads(id, marks).await;
                timer.observe_duration();
                return result;
            }
            NodeBody::OpenHomes(channels) => NodeBody::HomesOpened(self.open_homes(channels).await),
            NodeBody::Append(appends) => NodeBody::Appended(self.append(appends).await),
            NodeBody::CloseHomes(homes) => {
                self.close_homes(homes).await;
                NodeBody::HomesClosed
            }
            NodeBody::ReadHistory(read) => match self.read_history(read).await {
                Ok(history) => NodeBody::History(history),
                Err(refusal) => NodeBody::Refused(refusal),
            },
            _ => unreachable!("handle spawns requests only"),
        };
        timer.observe_duration();
        let result = self.active.outbox.reply(id, reply).await;
        // Held until the reply is queued: what waits for room counts as under way.
        drop(permit);
        result
    }
}
