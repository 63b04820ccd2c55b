//! The control node: REST API, node link, records and housekeeping over one store.
#![forbid(unsafe_code)]

mod data_plane;
mod record;

pub use data_plane::DataPlane;
