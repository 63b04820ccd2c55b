//! The model node on QUIC: the control stream of the client, and a stream for each subscription that carries messages.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, ServerBody, decode_server};
use millrace_protocol::id::ChannelId;
use millrace_protocol::stream::FrameReader;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, SendStream, TransportConfig, VarInt};
use rustls::server::ServerSessionMemoryCache;
use tokio::task::JoinSet;

use super::{Shared, State, Transport, forget_session};
use crate::node::Node;

pub(super) fn config(tls: &rustls::ServerConfig) -> quinn::ServerConfig {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"millrace.v1".to_vec()];
    tls.max_early_data_size = u32::MAX;
    tls.session_storage = ServerSessionMemoryCache::new(256);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(1_u32.into()).max_concurrent_uni_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    config
}

pub(super) async fn accept(endpoint: quinn::Endpoint, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // Ready before the handshake is complete, so that early data is read.
            if let Ok(Ok((connection, handshake))) = incoming.accept().map(|connecting| connecting.into_0rtt()) {
                let code = serve(&connection, &shared).await.unwrap_or_default();
                // Before that, no code reaches a client (RFC 9000 §10.2.3).
                handshake.await;
                connection.close(VarInt::from_u32(code.into()), b"closing");
            }
        });
        while connections.try_join_next().is_some_and(|result| result.is_ok()) {}
    }
}

/// Where a frame belongs.
enum To {
    Control,
    /// A stream that begins with it; an older one of the channel ends.
    Begin(ChannelId),
    Of(ChannelId),
    /// The channel's stream, which ends with it, or the control stream if there is none.
    End(ChannelId),
    /// The control stream, and an older stream of the channel ends.
    Instead(ChannelId),
}

/// Takes what the node says, while it is known what it says it to.
fn route(node: &mut Node, queue: &mut VecDeque<(To, Vec<u8>)>) {
    while let Some(frame) = node.out.pop_front() {
        let to = match decode_server(&frame).unwrap().body {
            ServerBody::Subscribed(answer) if node.session.get(answer.name) == Some(&true) => To::Begin(answer.channel),
            ServerBody::Subscribed(answer) => To::Instead(answer.channel),
            ServerBody::Message(message) => To::Of(message.channel),
            ServerBody::Skipped { channel, .. } => To::Of(channel),
            ServerBody::Unsubscribed { channel, .. } => To::End(channel),
            _ => To::Control,
        };
        queue.push_back((to, frame));
    }
}

/// The code to close with.
async fn serve(connection: &Connection, shared: &Shared) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    let (mut control, mut input) = connection.accept_bi().await?;
    let is_early = input.is_0rtt();
    let (number, mut budget) = shared.begin(Transport::Quic, is_early);
    let mut reader = FrameReader::new();
    let mut streams: HashMap<ChannelId, SendStream> = HashMap::new();
    let mut queue = VecDeque::new();
    let mut held: Option<Bytes> = None;
    let mut breaks_then = false;
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let mut is_over = false;
        let (closing, is_stalled) = {
            let mut state = shared.state.lock().unwrap();
            if state.connections != number {
                return Ok(0);
            }
            if !state.is_stalled
                && let Some(chunk) = held.take()
            {
                take_in(&mut reader, chunk, &mut state, &mut queue);
                is_over = breaks_then;
            }
            route(&mut state.node, &mut queue);
            (state.node.closing, state.is_stalled)
        };
        if is_over {
            return Ok(forget_session(number, shared).map(|()| 0)?);
        }
        if !queue.is_empty() {
            shared.changed.notify_waiters();
        }
        while let Some((to, frame)) = queue.pop_front() {
            let (passes, breaks) = budget.take(frame.len());
            let bytes = &frame[..passes];
            match to {
                To::Control => control.write_all(bytes).await?,
                To::Begin(channel) => {
                    let mut stream = connection.open_uni().await?;
                    stream.write_all(bytes).await?;
                    if let Some(mut old) = streams.insert(channel, stream) {
                        old.finish()?;
                    }
                }
                To::Of(channel) => {
                    if let Some(stream) = streams.get_mut(&channel) {
                        stream.write_all(bytes).await?;
                    }
                }
                To::End(channel) => match streams.remove(&channel) {
                    Some(mut stream) => {
                        stream.write_all(bytes).await?;
                        stream.finish()?;
                    }
                    None => control.write_all(bytes).await?,
                },
                To::Instead(channel) => {
                    if let Some(mut stream) = streams.remove(&channel) {
                        stream.finish()?;
                    }
                    control.write_all(bytes).await?;
                }
            }
            if breaks {
                return Ok(0);
            }
        }
        if let Some(code) = closing {
            return Ok(code.number());
        }
        tokio::select! {
            () = &mut changed => {}
            chunk = input.read_chunk(16 << 10, true), if !is_stalled && held.is_none() => {
                let Some(chunk) = chunk?.map(|chunk| chunk.bytes) else { return Ok(forget_session(number, shared).map(|()| 0)?) };
                let (passes, breaks) = budget.take(chunk.len());
                if passes == 0 {
                    return Ok(forget_session(number, shared).map(|()| 0)?);
                }
                // It may have been stalled meanwhile.
                held = Some(chunk.slice(..passes));
                breaks_then = breaks;
            }
            _ = connection.closed() => return Ok(forget_session(number, shared).map(|()| 0)?),
        }
    }
}

/// Gives frames to the model.
fn take_in(reader: &mut FrameReader, chunk: Bytes, state: &mut State, queue: &mut VecDeque<(To, Vec<u8>)>) {
    reader.push(chunk);
    while let Some(frame) = reader.front(CLIENT_FRAME_BYTES_MAX).unwrap() {
        state.node.receive(frame);
        route(&mut state.node, queue);
        reader.pop();
    }
}
