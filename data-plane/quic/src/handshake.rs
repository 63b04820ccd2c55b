//! TLS of a connection, for as long as its handshake takes. `quinn-proto` brings a TLS session of its own, which keeps all of a handshake's
//! state for as long as the connection lives: 2 KiB of the 20 that an idle one costs. This one lets go of it.
//!
//! What is asked of TLS later is the keys of the next key update (RFC 9001 §6), for which the secrets are enough. What a client says after
//! its handshake in TLS's own words can only be an error: QUIC has forbidden all of it (RFC 9001 §4.4, §6).

mod first;

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn_proto::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::quic::{KeyChange, Keys as Pair, Secrets, ServerConnection, Version};

use self::first::{Last, Unpadded};
use crate::Protocol;

/// TLS alerts (RFC 8446 §6) that are told without asking rustls.
const UNEXPECTED_MESSAGE: u8 = 10;
const INTERNAL_ERROR: u8 = 80;

/// What a client has chosen, as [`Session::handshake_data`] gives it.
pub(crate) struct Chosen(pub(crate) Option<Protocol>);

/// How a shard's handshakes are led.
pub(crate) struct Handshakes {
    tls: Arc<rustls::ServerConfig>,
    /// Makes the keys of first packets and the tags of Retries.
    first: Arc<QuicServerConfig>,
    last: Last,
}

impl Handshakes {
    pub(crate) fn new(tls: Arc<rustls::ServerConfig>) -> Result<Self, NoInitialCipherSuite> {
        Ok(Self { first: Arc::new(QuicServerConfig::try_from(Arc::clone(&tls))?), tls, last: Last::default() })
    }

    /// The same for another shard.
    pub(crate) fn again(&self) -> Self {
        Self { tls: Arc::clone(&self.tls), first: Arc::clone(&self.first), last: Last::default() }
    }
}

impl ServerConfig for Handshakes {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.last.keys(version, dst_cid, || self.first.initial_keys(version, dst_cid))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.first.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let mut ours = Vec::new();
        params.write(&mut ours);
        // Versions 29 to 32 of the draft had labels of their own; whatever else is served is as RFC 9001 says.
        let of_labels = if matches!(version, 0xFF00_001D..=0xFF00_0020) { Version::V1Draft } else { Version::V1 };
        let tls = ServerConnection::new(Arc::clone(&self.tls), of_labels, ours).map(Box::new);
        Box::new(Handshake { tls: Stage::UnderWay(tls), next: None, chosen: None, config: self, version })
    }
}

enum Stage {
    /// Boxed, so that nothing of it stays. An error, which only a configuration that is none for QUIC brings about, is told with the first
    /// thing that is read.
    UnderWay(Result<Box<ServerConnection>, rustls::Error>),
    Over,
}

struct Handshake {
    tls: Stage,
    /// Of the next key update. Boxed: it comes with the handshake's end.
    next: Option<Box<Secrets>>,
    /// Told when it is known.
    chosen: Option<Option<Protocol>>,
    config: Arc<Handshakes>,
    version: u32,
}

impl Handshake {
    fn tls(&self) -> Option<&ServerConnection> {
        match &self.tls {
            Stage::UnderWay(tls) => tls.as_deref().ok(),
            Stage::Over => None,
        }
    }
}

fn error(alert: u8, reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason }
}

/// Of what rustls refuses without an alert.
fn violation(reason: String) -> TransportError {
    TransportError { code: TransportErrorCode::PROTOCOL_VIOLATION, frame: None, reason }
}

impl Session for Handshake {
    fn initial_keys(&self, dst_cid: &ConnectionId, _side: Side) -> Keys {
        let keys = self.config.initial_keys(self.version, dst_cid);
        keys.unwrap_or_else(|UnsupportedVersion| unreachable!("the session began with keys of this version"))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.chosen.map(|chosen| Box::new(Chosen(chosen)) as Box<dyn Any>)
    }

    /// Certificates of clients are verified, and then nobody asks for them.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.tls()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match &self.tls {
            Stage::UnderWay(Ok(tls)) => tls.is_handshaking(),
            Stage::UnderWay(Err(_)) => true,
            Stage::Over => false,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let tls = match &mut self.tls {
            Stage::UnderWay(Ok(tls)) => tls,
            Stage::UnderWay(Err(why)) => return Err(error(INTERNAL_ERROR, why.to_string())),
            Stage::Over => return Err(error(UNEXPECTED_MESSAGE, "TLS after the handshake".to_owned())),
        };
        if let Err(why) = tls.read_hs(buf) {
            return Err(match tls.alert() {
                Some(alert) => error(alert.into(), why.to_string()),
                None => violation(why.to_string()),
            });
        }
        // Not by the name that it asks for: a client whose key shares do not suit says that first and its protocol in a second hello.
        let known = tls.alpn_protocol().is_some() || !tls.is_handshaking();
        if self.chosen.is_some() || !known {
            return Ok(false);
        }
        self.chosen = Some(tls.alpn_protocol().and_then(Protocol::named));
        Ok(true)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(theirs) = self.tls().and_then(|tls| tls.quic_transport_parameters()) else { return Ok(None) };
        Ok(Some(TransportParameters::read(Side::Server, &mut Cursor::new(theirs))?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Stage::UnderWay(Ok(tls)) = &mut self.tls else { return None };
        let (local, remote, opens): (_, _, Box<dyn PacketKey>) = match tls.write_hs(buf) {
            Some(KeyChange::Handshake { keys: Pair { local, remote } }) => {
                (local, remote.header, Box::new(Unpadded(remote.packet)))
            }
            Some(KeyChange::OneRtt { keys: Pair { local, remote }, next }) => {
                self.next = Some(Box::new(next));
                (local, remote.header, Box::new(remote.packet))
            }
            // Nothing is left to be said, the ticket included.
            None => {
                if !tls.is_handshaking() && self.next.is_some() {
                    self.tls = Stage::Over;
                }
                return None;
            }
        };
        Some(Keys {
            header: KeyPair { local: Box::new(local.header), remote: Box::new(remote) },
            packet: KeyPair { local: Box::new(local.packet), remote: opens },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    /// Retries come to clients.
    fn is_valid_retry(&self, _orig_dst_cid: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        false
    }

    /// The secret for it went with the handshake.
    fn export_keying_material(&self, _: &mut [u8], _: &[u8], _: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

#[cfg(test)]
mod tests;
