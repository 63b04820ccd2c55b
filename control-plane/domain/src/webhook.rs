//! Webhooks: which events a tenant wants to be told of, where, and what became of telling it.
//!
//! - [`Webhook`]: what is registered, and its secrets; [`WebhookUrl`]: where it goes;
//! - [`EventKind`]: what there is to be told of;
//! - [`Networks`]: which addresses requests may go to;
//! - [`Outcome`], [`retry_delay`], [`endpoint_pause`]: what an answer means, and when to try again.

use std::fmt;

use millrace_protocol::id::TenantId;
use serde::{Deserialize, Serialize};

use crate::text::DisplayName;
use crate::word::{self, Word};

mod network;
mod schedule;
mod url;

pub use network::{Network, NetworkError, Networks};
pub use schedule::{
    ATTEMPTS_MAX, CLOCKS_APART_MS, FAILING_MAX, Outcome, RETRY_AFTER_MAX, endpoint_pause, first_of_messages,
    has_failed_for_good, is_ahead, retry_delay,
};
pub use url::{WebhookHost, WebhookUrl, WebhookUrlError};

/// Most webhooks of a tenant: each change is kept for all that want it, in one transaction.
pub const WEBHOOKS_MAX: usize = 16;
/// How long a secret that was replaced goes on signing at most, in ms: a week.
pub const SECRET_OVERLAP_MS_MAX: i64 = 7 * 24 * 3_600_000;

/// Something that happens, which a webhook may want to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A channel began.
    ChannelCreated,
    /// A channel's settings changed.
    ChannelUpdated,
    /// A channel was archived.
    ChannelArchived,
    /// Somebody became a member of a channel that was there.
    MemberAdded,
    /// A member has another role.
    MemberUpdated,
    /// Somebody is no member any more.
    MemberRemoved,
    /// A user was named for the first time.
    UserCreated,
    /// What is known of a user changed.
    UserUpdated,
    /// A user was deleted.
    UserDeleted,
    /// A message was stored in a durable channel.
    MessageSent,
}

impl Word for EventKind {
    const WHAT: &'static str = "event";
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::ChannelCreated, "channel.created"),
        (Self::ChannelUpdated, "channel.updated"),
        (Self::ChannelArchived, "channel.archived"),
        (Self::MemberAdded, "member.added"),
        (Self::MemberUpdated, "member.updated"),
        (Self::MemberRemoved, "member.removed"),
        (Self::UserCreated, "user.created"),
        (Self::UserUpdated, "user.updated"),
        (Self::UserDeleted, "user.deleted"),
        (Self::MessageSent, "message.sent"),
    ];
}

/// The words of all events, in the order of [`EventKind::ALL`].
pub const WEBHOOK_EVENTS: [&str; EventKind::ALL.len()] = {
    let mut words = [""; EventKind::ALL.len()];
    let mut index = 0;
    while index < words.len() {
        words[index] = EventKind::ALL[index].1;
        index += 1;
    }
    words
};

/// Why a webhook is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffReason {
    /// Somebody turned it off.
    Asked,
    /// Nothing was delivered for three days.
    Failing,
    /// The endpoint answered 410: it wants no more.
    Gone,
    /// More waited for it than may.
    Backlog,
}

impl Word for OffReason {
    const WHAT: &'static str = "reason";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Asked, "asked"), (Self::Failing, "failing"), (Self::Gone, "gone"), (Self::Backlog, "backlog")];
}

/// Since when a webhook is off, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// Why.
    #[serde(with = "word::as_word")]
    pub reason: OffReason,
    /// Since when; Unix time, ms.
    pub since_ms: i64,
}

/// What requests of a webhook are signed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSecret {
    /// The key in base64; the text that is shown is `whsec_` and this.
    pub key: String,
    /// Until when it signs; `None`: it is the newest one. Unix time, ms.
    pub until_ms: Option<i64>,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("WebhookSecret").field("until_ms", &self.until_ms).finish_non_exhaustive()
    }
}

/// What a tenant wants to be told, and where. The shape that is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Names it; unique in the deployment.
    pub id: String,
    /// Whose.
    #[serde(with = "word::as_number")]
    pub tenant: TenantId,
    /// Where requests go.
    #[serde(with = "word::as_text")]
    pub url: WebhookUrl,
    /// What it wants; each once.
    #[serde(with = "word::as_words")]
    pub events: Vec<EventKind>,
    /// Only of channels whose name begins so. Events of users are of no channel, and come.
    pub channel_prefix: Option<String>,
    /// What it is used for, in the words of whoever made it.
    pub label: Option<DisplayName>,
    /// The newest one first.
    pub secrets: Vec<WebhookSecret>,
    /// `None`: it is on.
    pub off: Option<Off>,
    /// Events that waited when it was last turned on: so many more may wait, or a backlog would turn it off before it could be told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting_when_on: u64,
    /// When it was removed; what was kept for it is swept after that. Unix time, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_ms: Option<i64>,
    /// When it was made; Unix time, ms.
    pub created_ms: i64,
    /// When its settings last changed; Unix time, ms.
    pub updated_ms: i64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Webhook {
    /// Whether it is there and on.
    pub fn is_on(&self) -> bool {
        self.off.is_none() && self.removed_ms.is_none()
    }

    /// Whether it wants to hear of such an event; `channel` is the name of the channel in which it happened.
    pub fn wants(&self, kind: EventKind, channel: Option<&str>) -> bool {
        let in_scope = match (channel, self.channel_prefix.as_deref()) {
            (Some(channel), Some(prefix)) => channel.starts_with(prefix),
            _ => true,
        };
        self.is_on() && in_scope && self.events.contains(&kind)
    }

    /// Signs with another key from now on, and with the present one for some time longer. A secret before that ends at once.
    pub fn rotate(&mut self, key: String, overlap_ms: i64, now_ms: i64) {
        self.secrets.retain(|secret| secret.until_ms.is_none());
        if overlap_ms <= 0 {
            self.secrets.clear();
        }
        for secret in &mut self.secrets {
            secret.until_ms = Some(now_ms.saturating_add(overlap_ms.min(SECRET_OVERLAP_MS_MAX)));
        }
        self.secrets.insert(0, WebhookSecret { key, until_ms: None });
        self.updated_ms = now_ms;
    }

    /// The keys that sign at a moment, in base64, the newest one first.
    pub fn keys_at(&self, now_ms: i64) -> impl Iterator<Item = &str> {
        let is_valid = move |secret: &&WebhookSecret| secret.until_ms.is_none_or(|until_ms| now_ms < until_ms);
        self.secrets.iter().filter(is_valid).map(|secret| secret.key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        Webhook {
            id: "w".into(),
            tenant: TenantId::new(1).unwrap(),
            url: "https://example.com/hook".parse().unwrap(),
            events: vec![EventKind::MemberAdded, EventKind::UserUpdated],
            channel_prefix: Some("support-".into()),
            label: None,
            secrets: vec![WebhookSecret { key: "first".into(), until_ms: None }],
            off: None,
            waiting_when_on: 0,
            removed_ms: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }

    #[test]
    fn every_event_has_a_word() {
        assert_eq!(WEBHOOK_EVENTS.len(), 10);
        assert!(WEBHOOK_EVENTS.iter().all(|word| EventKind::from_word(word).is_some_and(|kind| kind.word() == *word)));
    }

    #[test]
    fn it_wants_what_it_asked_for() {
        let mut webhook = webhook();
        let check = |webhook: &Webhook, kind, channel, expect: bool| {
            assert_eq!(webhook.wants(kind, channel), expect, "{kind:?} {channel:?}");
        };
        check(&webhook, EventKind::MemberAdded, Some("support-1"), true);
        check(&webhook, EventKind::MemberAdded, Some("general"), false);
        check(&webhook, EventKind::MemberRemoved, Some("support-1"), false);
        check(&webhook, EventKind::UserUpdated, None, true);
        webhook.off = Some(Off { reason: OffReason::Asked, since_ms: 1 });
        check(&webhook, EventKind::UserUpdated, None, false);
        webhook.off = None;
        webhook.removed_ms = Some(1);
        check(&webhook, EventKind::UserUpdated, None, false);
    }

    #[test]
    fn both_secrets_sign_for_a_time_and_never_more_than_two() {
        let mut webhook = webhook();
        let keys = |webhook: &Webhook, now_ms| webhook.keys_at(now_ms).map(str::to_owned).collect::<Vec<_>>();
        webhook.rotate("second".into(), 100, 1_000);
        assert_eq!(keys(&webhook, 1_099), ["second", "first"]);
        assert_eq!(keys(&webhook, 1_100), ["second"]);
        webhook.rotate("third".into(), 100, 1_050);
        assert_eq!(keys(&webhook, 1_060), ["third", "second"], "the one before the last ends at once");
        webhook.rotate("fourth".into(), 0, 1_070);
        assert_eq!(keys(&webhook, 1_070), ["fourth"], "without an overlap only the new one");
        webhook.rotate("fifth".into(), i64::MAX, 0);
        assert_eq!(keys(&webhook, SECRET_OVERLAP_MS_MAX), ["fifth"], "an overlap has a bound");
    }

    #[test]
    fn it_is_stored_and_read_back_without_its_secret_in_debug_text() {
        let mut webhook = webhook();
        webhook.off = Some(Off { reason: OffReason::Backlog, since_ms: 7 });
        let text = serde_json::to_string(&webhook).unwrap();
        assert_eq!(serde_json::from_str::<Webhook>(&text).unwrap(), webhook);
        assert!(text.contains("\"member.added\"") && text.contains("\"backlog\""), "{text}");
        assert!(!format!("{webhook:?}").contains("first"));
    }
}
