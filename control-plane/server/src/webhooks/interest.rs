//! Which webhooks want the messages of which channels: what an append asks, in memory. Without any such webhook it costs an append one look at a flag,
//! and now and then a look at whether another control node has changed webhooks since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_domain::{EventKind, Webhook};
use millrace_protocol::id::{ChannelId, ChannelName, TenantId};

/// Channels whose answer is remembered; at more, all are forgotten and asked anew.
const CHANNELS_MAX: usize = 65_536;

/// A webhook by tenant and id.
pub(super) type Name = (TenantId, Arc<str>);

pub(super) struct Interest {
    any: AtomicBool,
    began: Instant,
    /// Since the begin, in us: what is here was so in the store at that moment, or later.
    true_at_us: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of each tenant, those that are on and want messages.
    webhooks: HashMap<TenantId, Vec<Webhook>>,
    channels: HashMap<ChannelId, Arc<[Name]>>,
    /// Changes with the webhooks.
    version: u64,
    /// The store's word for them, when all of them were read last.
    word: Bytes,
}

impl Interest {
    pub(super) fn new() -> Self {
        Self {
            any: AtomicBool::default(),
            began: Instant::now(),
            true_at_us: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Whether what is here was so in the store `life` before a moment, or later.
    pub(super) fn is_true_at(&self, at: Instant, life: Duration) -> bool {
        self.us(at).saturating_sub(self.true_at_us.load(Ordering::Acquire)) <= us(life)
    }

    /// Takes note of the store's word at a moment or later; tells whether it is still the same one.
    pub(super) fn confirm(&self, word: &Bytes, at: Instant) -> bool {
        let is_same = self.known().word == word;
        if is_same {
            self.true_at_us.fetch_max(self.us(at), Ordering::AcqRel);
        }
        is_same
    }

    fn us(&self, at: Instant) -> u64 {
        us(at.saturating_duration_since(self.began))
    }

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

    /// Takes the webhooks of all tenants, as they were in the store at a moment or later; its word for them was read before they were.
    pub(super) fn set_all(&self, webhooks: &[Webhook], word: Bytes, at: Instant) {
        let mut known = self.known();
        known.word = word;
        let before = std::mem::take(&mut known.webhooks);
        known.insert(webhooks);
        // What was found out about channels holds as long as nothing has changed.
        if known.webhooks != before {
            self.changed(&mut known);
        }
        self.true_at_us.fetch_max(self.us(at), Ordering::AcqRel);
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

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_again_after_its_life() {
        let (interest, life) = (Interest::new(), Duration::from_millis(100));
        let at = |ms| interest.began + Duration::from_millis(ms);
        interest.set_all(&[], Bytes::from_static(b"one"), at(1_000));
        assert!(interest.is_true_at(at(900), life) && interest.is_true_at(at(1_100), life));
        assert!(!interest.is_true_at(at(1_101), life));
        assert!(!interest.confirm(&Bytes::from_static(b"two"), at(1_200)) && !interest.is_true_at(at(1_200), life));
        assert!(interest.confirm(&Bytes::from_static(b"one"), at(1_200)) && interest.is_true_at(at(1_300), life));
        // One that was slow takes nothing back.
        assert!(interest.confirm(&Bytes::from_static(b"one"), at(1_150)) && interest.is_true_at(at(1_300), life));
    }

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
            waiting_when_on: 0,
            removed_ms: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }

    #[test]
    fn it_is_as_fresh_as_the_webhooks() {
        let interest = Interest::new();
        let set_all = |webhooks: &[Webhook]| interest.set_all(webhooks, Bytes::new(), Instant::now());
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
        set_all(&[
            webhook(1, "all", sent(), None),
            webhook(1, "support", sent(), Some("support-")),
            webhook(1, "sales", sent(), Some("sales-")),
            webhook(2, "other", sent(), None),
        ]);
        assert!(interest.is_any());
        assert_eq!(wanting(&interest), ["all", "support"]);
        assert!(interest.of(channel).is_ok(), "remembered");
        let same = [webhook(1, "support", sent(), Some("support-"))];
        set_all(&same);
        assert_eq!(wanting(&interest), ["support"]);
        set_all(&same);
        assert!(interest.of(channel).is_ok(), "a look that finds nothing new forgets nothing");
        let version = {
            interest.set(one, &[webhook(1, "support", sent(), Some("support-"))]);
            interest.of(channel).unwrap_err()
        };
        interest.set(one, &[webhook(1, "newer", sent(), None)]);
        interest.learn(channel, one, &name, version);
        assert!(interest.of(channel).is_err(), "what was found out under other webhooks is not remembered");
        assert_eq!(wanting(&interest), ["newer"]);
        set_all(&[]);
        assert!(!interest.is_any());
    }
}
