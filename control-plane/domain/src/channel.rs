//! Channels: what one is, how it begins, changes and ends.

use millrace_protocol::id::{ChannelId, ChannelName, NAME_BYTES_MAX, TenantId, UserId};
use millrace_protocol::node::{ChannelKind, HistoryClass, Role, SlowConsumer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::member::Actor;
use crate::rule::RuleError;
use crate::text::{DisplayName, Metadata};
use crate::word;

/// Most members that a channel is created with: they fit into one transaction. More are added one by one.
pub const INITIAL_MEMBERS_MAX: usize = 100;

/// How the names of dms begin.
const DM_PREFIX: &str = "dm:";

/// A channel, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its number.
    #[serde(with = "word::as_number")]
    pub id: ChannelId,
    /// Whose.
    #[serde(with = "word::as_number")]
    pub tenant: TenantId,
    /// Its name, which never changes.
    #[serde(with = "word::as_text")]
    pub name: ChannelName,
    /// What it is for; never changes.
    #[serde(with = "word::as_word")]
    pub kind: ChannelKind,
    /// What is kept; never changes.
    #[serde(with = "word::as_word")]
    pub history: HistoryClass,
    /// What happens to slow readers.
    #[serde(with = "word::as_word")]
    pub slow_consumer: SlowConsumer,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// The application's own.
    #[serde(default)]
    pub metadata: Metadata,
    /// How many members are owners: at least 1, but 0 in a dm and in an archived channel that everybody has left.
    pub owners: u32,
    /// When it began; Unix time, ms.
    pub created_ms: i64,
    /// When its settings last changed; Unix time, ms.
    pub updated_ms: i64,
    /// When it was archived; Unix time, ms.
    pub archived_ms: Option<i64>,
}

/// What somebody wants to create.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelDraft {
    /// For any kind but a dm.
    pub name: Option<ChannelName>,
    /// What it is for.
    pub kind: ChannelKind,
    /// By default durable, for a broadcast windowed.
    pub history: Option<HistoryClass>,
    /// By default disconnect, for a broadcast skip.
    pub slow_consumer: Option<SlowConsumer>,
    /// For people to read.
    pub display_name: Option<DisplayName>,
    /// The application's own.
    pub metadata: Metadata,
    /// Who is a member from the start. A user who creates a channel need not be listed: they become its owner.
    pub members: Vec<(UserId, Role)>,
}

/// What somebody wants to change; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelPatch {
    /// `Some(None)` takes the display name away.
    pub display_name: Option<Option<DisplayName>>,
    /// Replaces the whole object.
    pub metadata: Option<Metadata>,
    /// Takes effect for messages that find a queue full from then on.
    pub slow_consumer: Option<SlowConsumer>,
}

/// A channel that may be written, with its first members.
#[derive(Debug, Clone, PartialEq)]
pub struct NewChannel {
    /// The channel.
    pub channel: Channel,
    /// Its members.
    pub members: Vec<(UserId, Role)>,
}

impl Channel {
    /// Checks a draft and makes a channel of it.
    ///
    /// # Errors
    /// [`RuleError`]: a name where none belongs or none where one does, members that do not fit the kind, no owner.
    pub fn create(
        actor: Actor<'_>,
        tenant: TenantId,
        id: ChannelId,
        draft: ChannelDraft,
        now_ms: i64,
    ) -> Result<NewChannel, RuleError> {
        let ChannelDraft { name, kind, history, slow_consumer, display_name, metadata, mut members } = draft;
        if members.len() > INITIAL_MEMBERS_MAX {
            return Err(RuleError::TooManyMembers { count: members.len(), max: INITIAL_MEMBERS_MAX });
        }
        let mut seen = members.iter().map(|(user, _)| user).collect::<Vec<_>>();
        seen.sort_unstable();
        if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RuleError::NamedTwice { user: pair[0].clone() });
        }
        let name = if kind == ChannelKind::Dm {
            if name.is_some() {
                return Err(RuleError::Name { kind });
            }
            check_dm_members(actor, &members)?;
            dm_name(&members[0].0, &members[members.len() - 1].0)
        } else {
            let name = name.ok_or(RuleError::Name { kind })?;
            if name.as_str().starts_with(DM_PREFIX) {
                return Err(RuleError::ReservedName);
            }
            if let Actor::User(user, _) = actor {
                members.retain(|(member, _)| member != user);
                members.push((user.clone(), Role::Owner));
            }
            name
        };
        let owners = members.iter().filter(|(_, role)| *role == Role::Owner).count();
        if owners == 0 && kind != ChannelKind::Dm {
            return Err(RuleError::NoOwner);
        }
        let channel = Self {
            id,
            tenant,
            name,
            kind,
            history: history.unwrap_or(match kind {
                ChannelKind::Dm | ChannelKind::Group => HistoryClass::Durable,
                ChannelKind::Broadcast => HistoryClass::Windowed,
            }),
            slow_consumer: slow_consumer.unwrap_or(match kind {
                ChannelKind::Dm | ChannelKind::Group => SlowConsumer::Disconnect,
                ChannelKind::Broadcast => SlowConsumer::Skip,
            }),
            display_name,
            metadata,
            owners: u32::try_from(owners).unwrap_or(u32::MAX),
            created_ms: now_ms,
            updated_ms: now_ms,
            archived_ms: None,
        };
        Ok(NewChannel { channel, members })
    }

    /// Changes settings. Tells whether anything is different now.
    ///
    /// # Errors
    /// [`RuleError`]: less than a moderator, a user in a dm, or an archived channel.
    pub fn update(&mut self, actor: Actor<'_>, patch: ChannelPatch, now_ms: i64) -> Result<bool, RuleError> {
        self.at_least(actor, Role::Moderator)?;
        self.check_open()?;
        let before = self.clone();
        if let Some(display_name) = patch.display_name {
            self.display_name = display_name;
        }
        if let Some(metadata) = patch.metadata {
            self.metadata = metadata;
        }
        if let Some(slow_consumer) = patch.slow_consumer {
            self.slow_consumer = slow_consumer;
        }
        let changed = *self != before;
        if changed {
            self.updated_ms = now_ms;
        }
        Ok(changed)
    }

    /// Archives the channel: nothing is accepted or delivered any more, members may still read. Tells whether it was open.
    ///
    /// # Errors
    /// [`RuleError`]: less than an owner, or a user in a dm.
    pub fn archive(&mut self, actor: Actor<'_>, now_ms: i64) -> Result<bool, RuleError> {
        self.at_least(actor, Role::Owner)?;
        let was_open = self.archived_ms.is_none();
        if was_open {
            self.archived_ms = Some(now_ms);
            self.updated_ms = now_ms;
        }
        Ok(was_open)
    }

    pub(crate) fn check_open(&self) -> Result<(), RuleError> {
        if self.archived_ms.is_some() { Err(RuleError::Archived) } else { Ok(()) }
    }
}

fn check_dm_members(actor: Actor<'_>, members: &[(UserId, Role)]) -> Result<(), RuleError> {
    if !(1..=2).contains(&members.len()) {
        return Err(RuleError::DmMembers { count: members.len() });
    }
    if members.iter().any(|(_, role)| *role != Role::Member) {
        return Err(RuleError::DmRoles);
    }
    match actor {
        Actor::User(user, _) if !members.iter().any(|(member, _)| member == user) => Err(RuleError::NotYourDm),
        _ => Ok(()),
    }
}

/// The name of the dm between two users, or of one with themselves: `dm:ann~bob`, in ascending order.
///
/// If a user has `~` in their name, or the name would be too long, it is `dm:~` and a SHA-256 in hex: no two pairs share a name.
pub fn dm_name(one: &UserId, other: &UserId) -> ChannelName {
    let (first, second) = if one <= other { (one.as_str(), other.as_str()) } else { (other.as_str(), one.as_str()) };
    let plain = format!("{DM_PREFIX}{first}~{second}");
    let unmistakable = !first.contains('~') && !second.contains('~');
    let name = if unmistakable && plain.len() <= NAME_BYTES_MAX {
        plain
    } else {
        // A NUL is in no name, so that it keeps the two apart.
        let digest = Sha256::digest(format!("{first}\0{second}"));
        digest.iter().fold(format!("{DM_PREFIX}~"), |name, byte| format!("{name}{byte:02x}"))
    };
    ChannelName::new(&name).expect("made of names, a colon and a tilde, and short enough")
}

#[cfg(test)]
pub(crate) mod tests;
