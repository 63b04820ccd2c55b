//! How a link begins: challenge, hello with a proof, welcome or refusal.

use aws_lc_rs::{hmac, rand};
use bytes::BytesMut;
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::node::{self, FrameReader, LinkHello, NodeBody, NodeFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{LinkEnd, Shared};

/// Longest frame of somebody who has not shown yet who they are.
const HELLO_BYTES_MAX: usize = 16 << 10;
/// Longest name of a node, in bytes.
const NODE_NAME_BYTES_MAX: usize = 128;
/// What one read takes in at most.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Challenges the node and checks its proof.
///
/// # Errors
/// [`LinkEnd`]; a node that is refused has been told why.
pub(super) async fn greet(
    shared: &Shared,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    reader: &mut FrameReader,
) -> Result<LinkHello, LinkEnd> {
    reader.set_frame_bytes_max(HELLO_BYTES_MAX);
    let mut nonce = [0; 32];
    if rand::fill(&mut nonce).is_err() {
        tracing::error!("no randomness for a challenge");
        return Err(LinkEnd::Internal);
    }
    send(stream, NodeBody::Challenge { nonce, version: node::VERSION }).await?;
    let frame = loop {
        if let Some(frame) = reader.next_frame().map_err(|_too_large| LinkEnd::BadFrame)? {
            break node::decode(frame).map_err(|_bad| LinkEnd::BadFrame)?;
        }
        read(stream, reader.buffer()).await?;
    };
    let NodeBody::Hello(hello) = frame.body else { return Err(LinkEnd::BadFrame) };
    if let Err(refusal) = check(&shared.config.cluster_secret, &nonce, &hello) {
        // Anybody can send a hello without the secret.
        if shared.stranger_told.may(std::time::Instant::now()) {
            tracing::warn!(node = hello.node, %refusal, "data node refused; told once a minute");
        }
        send(stream, NodeBody::Refused(refusal)).await?;
        return Err(LinkEnd::Refused);
    }
    reader.set_frame_bytes_max(node::FRAME_BYTES_MAX);
    Ok(hello)
}

fn check(secret: &[u8], nonce: &[u8; 32], hello: &LinkHello) -> Result<(), Refusal> {
    let mut signed = nonce.to_vec();
    signed.extend_from_slice(hello.node.as_bytes());
    // The proof first: who does not know the secret learns nothing else.
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &signed, &hello.proof).map_err(|_wrong| {
        Refusal::new(Code::BadToken, "the proof is wrong: does the node have this cluster's secret?")
    })?;
    if hello.version != node::VERSION {
        let message = format!("the node speaks link version {}, this control node {}", hello.version, node::VERSION);
        return Err(Refusal::new(Code::UnsupportedVersion, message));
    }
    if !(1..=NODE_NAME_BYTES_MAX).contains(&hello.node.len()) {
        let message = format!("the node's name must have 1 to {NODE_NAME_BYTES_MAX} bytes");
        return Err(Refusal::new(Code::Invalid, message));
    }
    Ok(())
}

/// Writes one frame of the handshake.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), body: NodeBody) -> Result<(), LinkEnd> {
    let mut bytes = Vec::new();
    node::encode_delimited(&NodeFrame { id: 0, body }, &mut bytes).map_err(|_too_large| LinkEnd::Internal)?;
    stream.write_all(&bytes).await.map_err(|_broken| LinkEnd::Closed)?;
    stream.flush().await.map_err(|_broken| LinkEnd::Closed)
}

/// Reads some bytes.
///
/// # Cancel safety
/// Nothing is lost: what was read is in the buffer.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<(), LinkEnd> {
    buffer.reserve(READ_BYTES);
    match stream.read_buf(buffer).await {
        Ok(0) => Err(LinkEnd::Closed),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, "control link broke");
            Err(LinkEnd::Closed)
        }
    }
}
