//! What users may do, as the control plane told: remembered within a bound, asked for once by all who wait for the same.

use std::collections::{HashMap, VecDeque};

use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{Authorize, ChannelRef, Grant, MemberChanged, SlowConsumer};
use millrace_protocol::{ChannelId, ChannelName, TenantId, UserId};

use crate::recent::{Recent, Weigh};
use crate::seeded::Seeded;

/// Most questions in one request to the control plane.
pub(crate) const ASK_BATCH_MAX: usize = 256;

/// What a subscription needs to know of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) can_publish: bool,
    pub(crate) history: HistoryClass,
    pub(crate) slow_consumer: SlowConsumer,
}

impl Access {
    pub(crate) fn of(grant: &Grant) -> Self {
        Self { can_publish: grant.can_publish, history: grant.history, slow_consumer: grant.slow_consumer }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) channel: ChannelId,
    pub(crate) name: ChannelName,
    pub(crate) access: Access,
}

impl Weigh for Vec<Granted> {
    fn weight(&self) -> usize {
        self.len()
    }
}

type UserKey = (TenantId, UserId);

/// A question that is asked or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    pub(crate) name: ChannelName,
}

impl Question {
    pub(crate) fn to_authorize(&self) -> Authorize {
        Authorize { tenant: self.tenant, user: self.user.clone(), channel: ChannelRef::Name(self.name.clone()) }
    }
}

/// Grants in memory, and who waits for which. `W` is whoever waits.
pub(crate) struct Grants<W> {
    known: Recent<UserKey, Vec<Granted>, Seeded>,
    waiting: HashMap<Question, Vec<W>, Seeded>,
    unasked: VecDeque<Question>,
}

impl<W> Grants<W> {
    /// Names come from strangers: `hasher` keeps them from choosing ones that collide.
    pub(crate) fn new(grants_max: u32, hasher: Seeded) -> Self {
        Self {
            known: Recent::new(grants_max as usize, hasher),
            waiting: HashMap::with_hasher(hasher),
            unasked: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.weight()
    }

    pub(crate) fn find(&mut self, question: &Question) -> Option<Granted> {
        let granted = self.known.get(&(question.tenant, question.user.clone()))?;
        granted.iter().find(|granted| granted.name == question.name).cloned()
    }

    /// Asks in this turn's request, unless the question is on its way.
    pub(crate) fn ask(&mut self, question: Question, who: W) {
        if let Some(waiting) = self.waiting.get_mut(&question) {
            waiting.push(who);
            return;
        }
        self.unasked.push_back(question.clone());
        self.waiting.insert(question, vec![who]);
    }

    pub(crate) fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// The next questions to ask in one request.
    pub(crate) fn take_unasked(&mut self) -> Vec<Question> {
        let batch = self.unasked.len().min(ASK_BATCH_MAX);
        let questions = self.unasked.drain(..batch).collect();
        if self.unasked.is_empty() {
            self.unasked = VecDeque::new();
        }
        questions
    }

    /// An answer came: who waited for it.
    pub(crate) fn answered(&mut self, question: &Question) -> Vec<W> {
        let waiting = self.waiting.remove(question).unwrap_or_default();
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
        waiting
    }

    pub(crate) fn remember(&mut self, tenant: TenantId, user: UserId, granted: Granted) {
        self.known.update((tenant, user), |grants| {
            grants.retain(|old| old.channel != granted.channel && old.name != granted.name);
            grants.push(granted);
            grants.shrink_to_fit();
        });
    }

    /// A membership changed: what was known of it goes. A role that only changed is asked for again when it is needed.
    pub(crate) fn forget_member(&mut self, change: &MemberChanged) {
        let key = (change.tenant, change.user.clone());
        let Some(mut grants) = self.known.remove(&key) else { return };
        grants.retain(|granted| granted.channel != change.channel);
        if !grants.is_empty() {
            self.known.insert(key, grants);
        }
    }

    /// A channel changed: what was known of it goes.
    pub(crate) fn forget_channel(&mut self, channel: ChannelId) {
        self.known.sweep(|_, grants| grants.retain(|granted| granted.channel != channel));
    }

    /// The link is cut: changes are no longer heard of, so nothing is known. Gives everyone who waits.
    pub(crate) fn forget_all(&mut self) -> Vec<(Question, Vec<W>)> {
        self.known.clear();
        self.unasked = VecDeque::new();
        let waiting = self.waiting.drain().collect();
        self.waiting.shrink_to_fit();
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(user: &str, name: &str) -> Question {
        Question {
            tenant: TenantId::new(1).unwrap(),
            user: UserId::new(user).unwrap(),
            name: ChannelName::new(name).unwrap(),
        }
    }

    fn granted(channel: u64, name: &str) -> Granted {
        let access =
            Access { can_publish: true, history: HistoryClass::Durable, slow_consumer: SlowConsumer::Disconnect };
        Granted { channel: ChannelId::new(channel).unwrap(), name: ChannelName::new(name).unwrap(), access }
    }

    fn remember(grants: &mut Grants<u32>, user: &str, channel: u64, name: &str) {
        grants.remember(TenantId::new(1).unwrap(), UserId::new(user).unwrap(), granted(channel, name));
    }

    #[test]
    fn a_question_is_asked_once() {
        let mut grants = Grants::new(10, Seeded::new(1));
        grants.ask(question("ann", "general"), 1);
        grants.ask(question("ann", "general"), 2);
        grants.ask(question("bob", "general"), 3);
        assert_eq!(grants.take_unasked(), [question("ann", "general"), question("bob", "general")]);
        grants.ask(question("ann", "general"), 4);
        assert!(!grants.has_unasked());
        assert_eq!(grants.answered(&question("ann", "general")), [1, 2, 4]);
        assert_eq!(grants.forget_all(), [(question("bob", "general"), vec![3])]);
    }

    #[test]
    fn changes_are_forgotten() {
        let mut grants = Grants::new(100, Seeded::new(1));
        remember(&mut grants, "ann", 7, "general");
        remember(&mut grants, "ann", 8, "random");
        remember(&mut grants, "bob", 7, "general");
        grants.forget_member(&MemberChanged {
            tenant: TenantId::new(1).unwrap(),
            channel: ChannelId::new(7).unwrap(),
            user: UserId::new("ann").unwrap(),
            membership: None,
        });
        assert_eq!(grants.find(&question("ann", "general")), None);
        assert_eq!(grants.find(&question("ann", "random")), Some(granted(8, "random")));
        assert_eq!(grants.find(&question("bob", "general")), Some(granted(7, "general")));
        grants.forget_channel(ChannelId::new(7).unwrap());
        assert_eq!(grants.find(&question("bob", "general")), None);
        assert_eq!(grants.len(), 1);
        grants.forget_all();
        assert_eq!(grants.len(), 0);
    }

    #[test]
    fn the_number_of_grants_is_bounded() {
        let mut grants: Grants<u32> = Grants::new(64, Seeded::new(1));
        for n in 0..1000 {
            remember(&mut grants, &format!("user{}", n % 50), n + 1, &format!("channel{n}"));
        }
        assert!(grants.len() <= 100, "{}", grants.len());
        assert!(grants.find(&question("user49", "channel999")).is_some());
    }
}
#[cfg(test)]
mod measure {
    use super::*;
    #[test]
    fn measure_many_channels_of_one_user() {
        for n in [100_u64, 1_000, 4_000] {
            let mut grants: Grants<u32> = Grants::new(65_536, Seeded::new(1));
            let access = Access { can_publish: true, history: HistoryClass::Durable, slow_consumer: SlowConsumer::Disconnect };
            let (tenant, user) = (TenantId::new(1).unwrap(), UserId::new("ann").unwrap());
            let names: Vec<ChannelName> = (0..n).map(|k| ChannelName::new(&format!("team-channel-{k:05}")).unwrap()).collect();
            let t = std::time::Instant::now();
            for (k, name) in names.iter().enumerate() {
                let q = Question { tenant, user: user.clone(), name: name.clone() };
                assert!(grants.find(&q).is_none());
                grants.remember(tenant, user.clone(), Granted { channel: ChannelId::new(k as u64 + 1).unwrap(), name: name.clone(), access });
            }
            let a = t.elapsed();
            let t = std::time::Instant::now();
            for name in &names {
                let q = Question { tenant, user: user.clone(), name: name.clone() };
                assert!(grants.find(&q).is_some());
            }
            println!("MEASURE {n}: remember {:?} each, find {:?} each", a / n as u32, t.elapsed() / n as u32);
        }
    }
}
