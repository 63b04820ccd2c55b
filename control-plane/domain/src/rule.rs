//! Why a rule says no.

use millrace_protocol::id::UserId;
use millrace_protocol::node::{ChannelKind, Role};

use crate::word::Word;

/// Why an operation on a channel or its members is refused. Always the caller's to mend; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The acting user is no member: to them the channel does not exist.
    #[error("no such channel")]
    NoSuchChannel,
    /// The one acted on is no member.
    #[error("{user} is no member of the channel")]
    NotAMember {
        /// Who.
        user: UserId,
    },
    /// The acting user's role does not allow it.
    #[error("this needs the role {}, yours is {}", needed.word(), own.word())]
    RoleTooLow {
        /// The least role that may.
        needed: Role,
        /// The acting user's role.
        own: Role,
    },
    /// Somebody tried to give, change or take a role above their own.
    #[error("{} is above your own role, {}", role.word(), own.word())]
    AboveOwnRole {
        /// The role that is given or taken.
        role: Role,
        /// The acting user's role.
        own: Role,
    },
    /// The channel would be left without an owner.
    #[error("{user} is the last owner; name another one first")]
    LastOwner {
        /// Who.
        user: UserId,
    },
    /// Already a member, with another role.
    #[error("{user} is already a member, as {}", role.word())]
    AlreadyMember {
        /// Who.
        user: UserId,
        /// With which role.
        role: Role,
    },
    /// The members of a dm are fixed when it is created.
    #[error("the members of a dm are fixed")]
    FixedMembers,
    /// Only an application server may do this to a dm.
    #[error("a dm belongs to both its members; only an application server may change it")]
    DmSettings,
    /// The channel is archived: it can be read, and left, and nothing else.
    #[error("the channel is archived")]
    Archived,
    /// A name was given to a dm, or none to another channel.
    #[error("a {} {}", kind.word(), match kind { ChannelKind::Dm => "gets its name from its members", _ => "needs a name" })]
    Name {
        /// What is to be created.
        kind: ChannelKind,
    },
    /// `dm:` begins the names that are made from members.
    #[error("names that begin with dm: are given to dms alone")]
    ReservedName,
    /// A dm has one or two members.
    #[error("a dm has 1 or 2 members, not {count}")]
    DmMembers {
        /// How many were given.
        count: usize,
    },
    /// The members of a dm have no roles to choose.
    #[error("in a dm everybody has the role member")]
    DmRoles,
    /// A user may not open a dm between others.
    #[error("you must be one of the members of a dm that you create")]
    NotYourDm,
    /// Every channel but a dm has an owner from the start.
    #[error("name at least one member with the role owner")]
    NoOwner,
    /// A user stands twice in the list.
    #[error("{user} is named twice")]
    NamedTwice {
        /// Who.
        user: UserId,
    },
    /// More members than fit into the creation; add the others one by one.
    #[error("{count} members, limit at creation is {max}")]
    TooManyMembers {
        /// How many were given.
        count: usize,
        /// The limit.
        max: usize,
    },
}
