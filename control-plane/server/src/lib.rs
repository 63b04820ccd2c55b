//! The control node: REST API, node link, records and housekeeping over one store.
#![forbid(unsafe_code)]

mod bootstrap;
mod config;
mod console;
mod data_plane;
mod housekeeping;
mod link;
mod operate;
mod record;
mod rest;
mod secret;
mod transact;
mod webhooks;

pub use bootstrap::{BootstrapError, Dev, ensure_dev, random_secret};
pub use config::{RestConfig, ServeError};
pub use data_plane::{DataPlane, LinkedNode};
pub use housekeeping::{Housekeeping, HousekeepingConfig};
pub use link::{CLUSTER_SECRET_BYTES_MIN, LinkConfig, LinkConfigError, LinkEnd, LinkServer};
pub use millrace_domain::Rate;
pub use millrace_domain::{Network, Networks, WEBHOOK_EVENTS};
pub use rest::{RestServer, SignIn, serve_rest};
pub use webhooks::{WebhookConfig, WebhookError, Webhooks};
