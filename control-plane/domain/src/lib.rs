//! The rules of the control plane: what is a valid name, text or key, who may do what in which channel, and what follows from it.
//!
//! Pure: the caller reads and writes the store, keeps the time and draws the random numbers.
#![forbid(unsafe_code)]

mod access;
pub mod append;
mod channel;
mod credential;
mod member;
mod rate;
mod read;
mod rule;
mod tenant;
mod text;
mod webhook;
pub mod word;

pub use access::{can_publish, grant, no_access, readable};
pub use channel::{Channel, ChannelDraft, ChannelPatch, INITIAL_MEMBERS_MAX, NewChannel, dm_name};
pub use credential::{Bearer, BearerError, KeyText, RefreshText};
pub use member::{Actor, Departure, MemberChange, Membership};
pub use rate::{Admission, Bucket, Rate};
pub use read::{further, in_present_epoch, mark_read, newest, unread};
pub use rule::RuleError;
pub use tenant::{ApiKey, SigningKey, Tenant, TenantName, TenantNameError, User};
pub use text::{DISPLAY_NAME_BYTES_MAX, DisplayName, METADATA_BYTES_MAX, Metadata, TextError};
pub use webhook::{
    ATTEMPTS_MAX, CLOCKS_APART_MS, EventKind, FAILING_MAX, Network, NetworkError, Networks, Off, OffReason, Outcome,
    RETRY_AFTER_MAX, SECRET_OVERLAP_MS_MAX, WEBHOOK_EVENTS, WEBHOOKS_MAX, Webhook, WebhookHost, WebhookSecret,
    WebhookUrl, WebhookUrlError, endpoint_pause, first_of_messages, has_failed_for_good, is_ahead, retry_delay,
};

/// Most entries of a page of members, channels, users or keys.
pub const PAGE_MAX: u32 = 100;
