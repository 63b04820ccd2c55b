//! The data node's shell: sockets, threads, rings, clocks, metrics and the control link around the pure
//! [core](millrace_core).
//!
//! One thread for each shard, pinned, with everything it owns: a listener on the shared port, connections, an epoll set that
//! monoio waits for, and a core that decides. One more thread, the backplane, carries frames to and from the control plane
//! and serves the admin port. Threads share nothing but bounded rings.
//!
//! In reading order: [`Config`]; [`start`] and [`DataNode`]; then `shard` (the loop), `listener`, `poller`, `ring`, `keys`
//! (a shard's surroundings); `tls` (certificates and keys); `quic` and `udp` (what shards share of QUIC, and their sockets); `backplane` (router and link); `admin`, `report`, `figures` (what operators see); `machine`.

mod admin;
mod backplane;
mod config;
mod figures;
mod keys;
mod listener;
mod machine;
mod node;
mod poller;
mod quic;
mod report;
mod ring;
mod shard;
mod tls;
mod udp;

pub use backplane::{Dial, LinkTarget};
pub use config::{
    AdmissionLimits, Compressing, Config, Pinning, QuicAddress, QuicLimits, StartError, Steering, TurnLimits,
};
pub use node::{DataNode, LinkConfig, start};
pub use tls::{CertificateStatus, TlsConfig, TlsError};
