//! Limits, the keys that all shards share, and the transport's settings.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use millrace_webtransport::FIELDS_BYTES_MAX;
use quinn_proto::{EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};

use crate::cid::{CidKey, LastCid, ShardCids};
use crate::congestion::Congestion;
use crate::handshake::Handshakes;

/// Limits of one shard's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections, those included that are being opened or closed. Default 65,536. About 20 KiB each.
    pub connections_max: usize,
    /// Handshakes under way above which first packets are not even answered. Default 4,096. About 28 KiB each.
    pub half_open_max: usize,
    /// Handshakes under way above which a client has to show its address by a Retry, at the price of a round trip. Default 512.
    pub retry_above_half_open: usize,
    /// Handshakes a second that clients of one network (/24 of IPv4, /56 of IPv6) may begin without a Retry. Default 500.
    pub prefix_handshakes_per_second: u32,
    /// The same at once, after a pause. Default 2,000.
    pub prefix_handshakes_burst: u32,
    /// Stateless resets a second to one network. Default 1,000.
    pub prefix_resets_per_second: u32,
    /// How long a handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection that nothing has come from for so long is gone, without a word. Default 90 s: the heartbeat is to end it first.
    pub idle_timeout: Duration,
    /// How long a client of WebTransport may take to read why its session ended, and to close the connection. Default 2 s.
    pub linger: Duration,
    /// Bytes that a client may send on a stream before they are taken. Default 16 KiB.
    pub stream_window_bytes: u32,
    /// The same on all streams of a connection together, once somebody has signed in on it; before that 8 KiB more than on one stream.
    /// Default 64 KiB.
    pub receive_window_bytes: u32,
    /// Bytes on their way to a client, or waiting to be sent, that it has not acknowledged. Default 128 KiB. What does not fit
    /// waits in the session's queue.
    pub send_window_bytes: u64,
    /// Bytes of datagrams that wait, in each direction. Default 4 KiB.
    pub datagram_bytes_max: usize,
    /// Connection resets, version negotiations and the like that wait for the socket. Default 1,024, of at most 1,200 bytes.
    pub responses_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 65_536,
            half_open_max: 4096,
            retry_above_half_open: 512,
            prefix_handshakes_per_second: 500,
            prefix_handshakes_burst: 2000,
            prefix_resets_per_second: 1000,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            linger: Duration::from_secs(2),
            stream_window_bytes: 16 << 10,
            receive_window_bytes: 64 << 10,
            send_window_bytes: 128 << 10,
            datagram_bytes_max: 4 << 10,
            responses_max: 1024,
        }
    }
}

impl Limits {
    /// What a client that has not signed in may send before it is taken: what one stream may hold, and a request beside it. It is not
    /// counted anywhere else.
    fn strangers_window_bytes(&self) -> u32 {
        self.receive_window_bytes.min(self.stream_window_bytes.saturating_add(FIELDS_BYTES_MAX))
    }
}

/// The keys that all shards of a node share, and that survive its restart.
#[derive(Clone)]
pub struct Keys {
    /// Makes and reads connection ids.
    pub cid: CidKey,
    /// Makes stateless resets: after a restart clients learn at once that their connection is gone.
    reset: Arc<hmac::Key>,
    /// Makes the tokens of a Retry.
    token: Arc<hkdf::Prk>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("cid", &self.cid).finish_non_exhaustive()
    }
}

struct Bytes<const N: usize>;

impl<const N: usize> hkdf::KeyType for Bytes<N> {
    fn len(&self) -> usize {
        N
    }
}

impl Keys {
    /// Keys from a secret of at least 16 bytes that only the deployment knows, for the node of this name.
    ///
    /// # Errors
    /// None that can come: the lengths are constants.
    pub fn derive(secret: &[u8], node: &str) -> Result<Self, KeyError> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"millrace quic").extract(secret);
        fn expand<const N: usize>(root: &hkdf::Prk, info: &[&[u8]]) -> Result<[u8; N], KeyError> {
            let mut bytes = [0; N];
            let filled = root.expand(info, Bytes::<N>).and_then(|okm| okm.fill(&mut bytes));
            filled.map(|()| bytes).map_err(|_| KeyError)
        }
        let cid = expand::<8>(&root, &[b"connection ids", node.as_bytes()])?;
        let reset = expand::<64>(&root, &[b"stateless resets", node.as_bytes()])?;
        let token = expand::<32>(&root, &[b"address tokens", node.as_bytes()])?;
        Ok(Self {
            cid: CidKey::new(cid),
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&token)),
        })
    }
}

/// Keys could not be derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("keys could not be derived")]
pub struct KeyError;

/// A TLS configuration that QUIC cannot use: its provider lacks TLS_AES_128_GCM_SHA256, which protects first packets.
#[derive(Debug, thiserror::Error)]
#[error("no cipher suite for first packets")]
pub struct NoSuite(#[from] quinn_proto::crypto::rustls::NoInitialCipherSuite);

/// What every shard's endpoint serves with: certificates, keys, limits. Shared by all of them.
#[derive(Clone)]
pub struct Server {
    pub(crate) config: ServerConfig,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("keys", &self.keys).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves by a TLS configuration of version 1.3 that offers [`Protocol::OFFERED`](crate::Protocol::OFFERED). For early data it
    /// has to take `u32::MAX` bytes and to remember its sessions itself: each ticket then counts once, for all shards.
    ///
    /// # Errors
    /// [`NoSuite`] if its provider cannot protect first packets.
    pub fn new(tls: Arc<rustls::ServerConfig>, keys: Keys, limits: Limits) -> Result<Self, NoSuite> {
        let handshakes = Arc::new(Handshakes::new(tls)?);
        let mut config = ServerConfig::new(Arc::clone(&handshakes) as _, keys.token.clone());
        config.migration(true);
        // A first packet is dealt with as it comes, so nothing waits for a decision.
        config.max_incoming(limits.half_open_max).incoming_buffer_size(16 << 10).incoming_buffer_size_total(1 << 20);
        // Tokens for the next connection (NEW_TOKEN): none, they would have to be remembered.
        config.validation_token_config(quinn_proto::ValidationTokenConfig::default().sent(0).clone());
        Ok(Self { config, handshakes, keys, limits })
    }

    /// What a shard's endpoint serves with: its connections count there what they lose.
    pub(crate) fn config(&self, congestion: &Arc<Congestion>) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.crypto = Arc::new(self.handshakes.again());
        config.transport_config(Arc::new(transport(&self.limits, congestion)));
        Arc::new(config)
    }

    pub(crate) fn endpoint(&self, shard: u8, seed: [u64; 4], last: &LastCid) -> EndpointConfig {
        let mut config = EndpointConfig::new(self.keys.reset.clone());
        let (key, [a, b, ..], last) = (self.keys.cid, seed, last.clone());
        config.cid_generator(move || Box::new(ShardCids::new(key, shard, [a, b], last.clone())));
        // Bounded for each network instead; this one alone would tell 50 clients a second after a restart.
        config.min_reset_interval(Duration::ZERO);
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(seed) {
            to.copy_from_slice(&word.rotate_left(17).to_le_bytes());
        }
        config.rng_seed(Some(bytes));
        config
    }
}

/// Lean: what a connection may open decides what it costs while idle, the windows what it costs at worst.
fn transport(limits: &Limits, congestion: &Arc<Congestion>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle_ms = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    transport
        // The control stream. HTTP/3 gets more once it is chosen, but its clients take it for granted from the first packet that they
        // may open their three (RFC 9114 §6.2): Chromium gives up where fewer are said.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(3))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(limits.strangers_window_bytes()))
        .send_window(limits.send_window_bytes)
        .datagram_receive_buffer_size(Some(limits.datagram_bytes_max))
        .datagram_send_buffer_size(limits.datagram_bytes_max)
        .crypto_buffer_size(16 << 10)
        .mtu_discovery_config(None)
        .congestion_controller_factory(Arc::clone(congestion) as _);
    transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_secret_and_the_node() {
        let cid = |secret: &[u8], node: &str| Keys::derive(secret, node).unwrap().cid.key;
        assert_eq!(cid(b"0123456789abcdef", "a"), cid(b"0123456789abcdef", "a"));
        assert_ne!(cid(b"0123456789abcdef", "a"), cid(b"0123456789abcdef", "b"));
        assert_ne!(cid(b"0123456789abcdef", "a"), cid(b"0123456789abcdeg", "a"));
    }
}
