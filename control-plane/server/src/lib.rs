//! The control node: REST API, node link, records and housekeeping over one store.
#![forbid(unsafe_code)]

mod config;
mod data_plane;
mod housekeeping;
mod link;
mod record;
mod secret;
mod transact;

pub use config::RestConfig;
pub use data_plane::DataPlane;
pub use housekeeping::{Housekeeping, HousekeepingConfig};
pub use link::{CLUSTER_SECRET_BYTES_MIN, LinkConfig, LinkConfigError, LinkEnd, LinkServer};
