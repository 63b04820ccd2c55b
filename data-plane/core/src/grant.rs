//! What users may do, as the control plane told: remembered within a bound, asked for once by all who wait for the same.

use std::collections::{HashMap, VecDeque};

use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{Authorize, ChannelRef, Grant, MemberChanged, ReadMark, SlowConsumer};
use millrace_protocol::{ChannelId, ChannelName, TenantId, UserId};

use crate::reads::ReadAt;
use crate::recent::{Recent, Weigh};
use crate::seeded::Seeded;

/// Most questions in one request to the control plane.
pub(crate) const ASK_BATCH_MAX: usize = 256;

/// Users with so many grants or fewer have no room to spare.
const SMALL: usize = 8;

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
    /// How far the user has read it.
    pub(crate) read: ReadAt,
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

/// Where a user's grant for a name is, or would be.
fn place(grants: &[Granted], name: &ChannelName) -> Result<usize, usize> {
    grants.binary_search_by(|granted| granted.name.as_str().cmp(name.as_str()))
}

/// Grants in memory, and who waits for which. `W` is whoever waits.
pub(crate) struct Grants<W> {
    /// Each user's by name, in order.
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
        let grants = self.known.get(&(question.tenant, question.user.clone()))?;
        place(grants, &question.name).ok().map(|place| grants[place].clone())
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
        // One that the channel has under an older name went when the change was told.
        self.known.update((tenant, user), |grants| match place(grants, &granted.name) {
            Ok(place) => grants[place] = granted,
            Err(place) => {
                grants.insert(place, granted);
                // Most users have few; to copy those of one with a thousand each time would cost more than their room.
                if grants.len() <= SMALL {
                    grants.shrink_to_fit();
                }
            }
        });
    }

    /// A membership changed: what was known of it goes. A role that only changed is asked for again when it is needed.
    pub(crate) fn forget_member(&mut self, change: &MemberChanged) {
        self.forget(change.tenant, &change.user, change.channel);
    }

    /// What was known of a member is not so any more.
    pub(crate) fn forget(&mut self, tenant: TenantId, user: &UserId, channel: ChannelId) {
        let key = (tenant, user.clone());
        let Some(mut grants) = self.known.remove(&key) else { return };
        grants.retain(|granted| granted.channel != channel);
        if !grants.is_empty() {
            self.known.insert(key, grants);
        }
    }

    /// A user has read a channel further, as later subscriptions are told.
    pub(crate) fn note_read(&mut self, mark: &ReadMark) {
        let grants = self.known.get_mut(&(mark.tenant, mark.user.clone()));
        let granted = grants.and_then(|grants| grants.iter_mut().find(|granted| granted.channel == mark.channel));
        if let Some(granted) = granted {
            granted.read.advance(mark.position);
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
    use millrace_protocol::{Epoch, Position};

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
        let (channel, name) = (ChannelId::new(channel).unwrap(), ChannelName::new(name).unwrap());
        Granted { channel, name, access, read: ReadAt::default() }
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
    fn a_grant_is_found_by_name_and_replaced() {
        let mut grants = Grants::new(1_000, Seeded::new(1));
        // In no order.
        for n in 0..100 {
            let n = n * 37 % 100;
            remember(&mut grants, "ann", n + 1, &format!("channel{n}"));
        }
        for n in 0..100 {
            let name = format!("channel{n}");
            assert_eq!(grants.find(&question("ann", &name)), Some(granted(n + 1, &name)));
        }
        remember(&mut grants, "ann", 500, "channel50");
        assert_eq!(grants.find(&question("ann", "channel50")), Some(granted(500, "channel50")));
        assert_eq!((grants.len(), grants.find(&question("ann", "channel"))), (100, None));
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
    fn a_read_position_is_kept_with_the_grant_it_belongs_to() {
        let mut grants = Grants::new(100, Seeded::new(1));
        remember(&mut grants, "ann", 7, "general");
        remember(&mut grants, "ann", 8, "random");
        let at = |offset| Position { epoch: Epoch::FIRST, offset };
        let mark = |user: &str, offset| ReadMark {
            tenant: TenantId::new(1).unwrap(),
            user: UserId::new(user).unwrap(),
            channel: ChannelId::new(7).unwrap(),
            position: at(offset),
        };
        grants.note_read(&mark("ann", 5));
        grants.note_read(&mark("ann", 3));
        grants.note_read(&mark("bob", 9));
        let mut read =
            |user: &str, name: &str| grants.find(&question(user, name)).map(|granted| granted.read.position());
        assert_eq!(read("ann", "general"), Some(at(5)));
        assert_eq!(read("ann", "random"), Some(at(0)));
        assert_eq!(read("bob", "general"), None, "who has no grant in memory asks for one, and hears of it there");
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
