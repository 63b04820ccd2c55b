//! Which webhooks want the messages of which channels: what an append asks, in memory. Without any such webhook it costs an append one look at a flag.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_domain::{EventKind, Webhook};
use millrace_protocol::id::{ChannelId, ChannelName, TenantId};

/// Channels whose answer is remembered; at more, all are forgotten and asked anew.
const CHANNELS_MAX: usize = 65_536;

/// A webhook by tenant and id.
pub(super) type Name = (TenantId, Arc<str>);

#[derive(Default)]
pub(super) struct Interest {
    any: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of each tenant, those that are on and want messages.
    webhooks: HashMap<TenantId, Vec<Webhook>>,
    channels: HashMap<ChannelId, Arc<[Name]>>,
    /// Changes with the webhooks.
    version: u64,
}

impl Interest {
    /// Whether anybody wants any message.
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes the webhooks of one tenant.
    pub(super) fn set(&self, tenant: TenantId, webhooks: &[Webhook]) {
        let mut known = self.known();
        known.webhooks.remove(&tenant);
        known.insert(webhooks);
        self.changed(&mut known);
    }

    /// Takes the webhooks of all tenants.
    pub(super) fn set_all(&self, webhooks: &[Webhook]) {
        let mut known = self.known();
        let before = std::mem::take(&mut known.webhooks);
        known.insert(webhooks);
        // What was found out about channels holds as long as nothing has changed.
        if known.webhooks != before {
            self.changed(&mut known);
        }
    }

    /// Who wants the messages of a channel, if it was asked before; else the version to answer with.
    pub(super) fn of(&self, channel: ChannelId) -> Result<Arc<[Name]>, u64> {
        let known = self.known();
        known.channels.get(&channel).cloned().ok_or(known.version)
    }

    /// Finds out who does, and remembers it unless webhooks have changed meanwhile.
    pub(super) fn learn(&self, channel: ChannelId, tenant: TenantId, name: &ChannelName, version: u64) -> Arc<[Name]> {
        let mut known = self.known();
        let of_tenant = known.webhooks.get(&tenant).into_iter().flatten();
        let wanting = of_tenant.filter(|webhook| webhook.wants(EventKind::MessageSent, Some(name.as_str())));
        let names: Arc<[Name]> = wanting.map(|webhook| (tenant, Arc::from(webhook.id.as_str()))).collect();
        if known.version == version {
            if known.channels.len() >= CHANNELS_MAX {
                known.channels.clear();
            }
            known.channels.insert(channel, names.clone());
        }
        names
    }

    fn changed(&self, known: &mut Known) {
        known.channels.clear();
        known.version += 1;
        self.any.store(!known.webhooks.is_empty(), Ordering::Release);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, webhooks: &[Webhook]) {
        let wanting = |webhook: &&Webhook| webhook.is_on() && webhook.events.contains(&EventKind::MessageSent);
        for webhook in webhooks.iter().filter(wanting) {
            self.webhooks.entry(webhook.tenant).or_default().push(webhook.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(tenant: u32, id: &str, events: Vec<EventKind>, prefix: Option<&str>) -> Webhook {
        Webhook {
            id: id.into(),
            tenant: TenantId::new(tenant).unwrap(),
            url: "https://example.com".parse().unwrap(),
            events,
            channel_prefix: prefix.map(str::to_owned),
            label: None,
            secrets: Vec::new(),
            off: None,
            removed_ms: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }

    #[test]
    fn it_is_as_fresh_as_the_webhooks() {
        let interest = Interest::default();
        let (one, channel) = (TenantId::new(1).unwrap(), ChannelId::new(7).unwrap());
        let name = ChannelName::new("support-7").unwrap();
        let wanting = |interest: &Interest| -> Vec<String> {
            let names = interest.of(channel).unwrap_or_else(|version| interest.learn(channel, one, &name, version));
            names.iter().map(|(_, id)| id.to_string()).collect()
        };
        assert!(!interest.is_any());
        interest.set(one, &[webhook(1, "users", vec![EventKind::UserCreated], None)]);
        assert!(!interest.is_any(), "nobody wants messages");
        let sent = || vec![EventKind::MessageSent];
        interest.set_all(&[
            webhook(1, "all", sent(), None),
            webhook(1, "support", sent(), Some("support-")),
            webhook(1, "sales", sent(), Some("sales-")),
            webhook(2, "other", sent(), None),
        ]);
        assert!(interest.is_any());
        assert_eq!(wanting(&interest), ["all", "support"]);
        assert!(interest.of(channel).is_ok(), "remembered");
        let same = [webhook(1, "support", sent(), Some("support-"))];
        interest.set_all(&same);
        assert_eq!(wanting(&interest), ["support"]);
        interest.set_all(&same);
        assert!(interest.of(channel).is_ok(), "a look that finds nothing new forgets nothing");
        let version = {
            interest.set(one, &[webhook(1, "support", sent(), Some("support-"))]);
            interest.of(channel).unwrap_err()
        };
        interest.set(one, &[webhook(1, "newer", sent(), None)]);
        interest.learn(channel, one, &name, version);
        assert!(interest.of(channel).is_err(), "what was found out under other webhooks is not remembered");
        assert_eq!(wanting(&interest), ["newer"]);
        interest.set_all(&[]);
        assert!(!interest.is_any());
    }
}
