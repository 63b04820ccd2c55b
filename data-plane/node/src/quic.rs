//! What all shards share of QUIC: the address, the keys, and what a client is served with.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand;
use millrace_quic::{Keys, Limits, Protocol, Server};

use crate::config::{Config, QuicAddress, QuicLimits, StartError, Steering};
use crate::ring::{Doorbell, forwards};
use crate::shard::QuicSetup;
use crate::tls::{Profile, Resumption, Tls};
use crate::udp;

/// Datagrams that one shard holds for another that they did not land on. Their senders send again what finds no room.
const FORWARD_SLOTS: usize = 1024;

/// What each shard gets; and where clients find it.
///
/// # Errors
/// [`StartError`] says what to do about it.
pub(crate) fn set_up(
    config: &Config,
    address: SocketAddr,
    tls: &Tls,
    secret: &[u8],
    bells: &[Arc<Doorbell>],
) -> Result<(SocketAddr, Vec<QuicSetup>), StartError> {
    let shards = bells.len();
    let remembered = usize::try_from(config.quic.remembered_max).unwrap_or(usize::MAX);
    let resumption = Resumption::Remembered { sessions_max: remembered };
    let profile = Profile { alpn: Protocol::OFFERED, tls12: false, resumption, early_data_bytes_max: u32::MAX };
    let keys = Keys::derive(secret, &config.core.node).map_err(failed("keys for QUIC"))?;
    let server = Server::new(tls.server_config(profile)?, keys.clone(), limits(config.quic, shards))
        .map_err(failed("cipher suites for QUIC"))?;
    let steered_by = (config.quic_steering == Steering::Kernel).then_some(&keys.cid);
    let sockets = match udp::bind(address, shards, steered_by) {
        // The system chose this port for TCP, and for UDP it is somebody's. Nobody counts on its number.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && port_is_any(config) => {
            udp::bind(SocketAddr::new(address.ip(), 0), shards, steered_by)
        }
        bound => bound,
    };
    let sockets = sockets.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { what: "client QUIC", address },
        _ => StartError::Bind { what: "client QUIC", address, source },
    })?;
    let bound = sockets[0].local_addr().map_err(failed("QUIC socket"))?;
    let setups = sockets.into_iter().zip(forwards(bells, FORWARD_SLOTS)).map(|(socket, forwards)| {
        let seed = seed().map_err(failed("source of randomness"))?;
        Ok(QuicSetup { socket, server: server.clone(), forwards, seed })
    });
    Ok((bound, setups.collect::<Result<_, StartError>>()?))
}

/// Whether the port of the listener over TLS, which is this one's too, was left to the system.
fn port_is_any(config: &Config) -> bool {
    config.client_quic_address == QuicAddress::WithTls
        && config.client_tls_address.is_some_and(|address| address.port() == 0)
}

/// Each shard's part. Clients are spread by a hash, so a part is larger than its share.
fn limits(all: QuicLimits, shards: usize) -> Limits {
    let part = |all: u32| {
        let all = usize::try_from(all).unwrap_or(usize::MAX);
        if shards == 1 { all } else { (all / shards).saturating_add(all / shards / 4).max(1) }
    };
    Limits {
        connections_max: part(all.connections_max),
        half_open_max: part(all.half_open_max),
        retry_above_half_open: part(all.retry_above_half_open),
        ..Limits::default()
    }
}

fn seed() -> Result<[u64; 4], aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    let mut seed = [0; 4];
    for (word, bytes) in seed.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    Ok(seed)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Setup { what, source: io::Error::other(source) }
}
