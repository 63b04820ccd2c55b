//! Members of a channel: who may add, change and remove whom.
//!
//! Nobody gives, changes or takes a role above their own, and a channel that is no dm always has an owner. The members of
//! a dm are fixed.

use millrace_protocol::id::{Position, UserId};
use millrace_protocol::node::{ChannelKind, Role};
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::rule::RuleError;
use crate::word;

/// A user's place in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What they may do.
    #[serde(with = "word::as_word")]
    pub role: Role,
    /// When they became a member; Unix time, ms.
    pub since_ms: i64,
    /// Up to where they have read the channel, as a pair of epoch and offset; `None` if nothing. Who becomes a member has read what was
    /// there before.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::read::as_pair")]
    pub read: Option<Position>,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor<'a> {
    /// An application server: everything that leaves the channel in a valid state.
    Application,
    /// A user, with their role in the channel if they are a member of it.
    User(&'a UserId, Option<Role>),
}

/// What became of a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// It was so already.
    Unchanged,
    /// The member has this role from now on.
    Set(Role),
    /// No member any more.
    Removed,
}

/// What a channel does when one of its members ceases to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Goes on without them.
    GoesOn,
    /// Goes on with the heir as its owner.
    Inherited,
    /// Is archived, because nobody is left who could own it, or because it was a dm.
    Archived,
}

/// At least as much as `needed`; roles ascend from most to least.
fn reaches(own: Role, needed: Role) -> bool {
    own <= needed
}

impl Channel {
    /// Adds a member. `present` is the role that they have already.
    ///
    /// # Errors
    /// [`RuleError`]: an archived channel, a dm, somebody without the right to, or a member with another role.
    pub fn add_member(
        &mut self,
        actor: Actor<'_>,
        user: &UserId,
        present: Option<Role>,
        role: Role,
    ) -> Result<MemberChange, RuleError> {
        let own = self.member_manager(actor)?;
        self.check_open()?;
        self.check_members_may_change()?;
        if let Some(own) = own {
            not_above(own, role)?;
        }
        match present {
            Some(present) if present == role => Ok(MemberChange::Unchanged),
            Some(present) => Err(RuleError::AlreadyMember { user: user.clone(), role: present }),
            None => {
                self.owners += u32::from(role == Role::Owner);
                Ok(MemberChange::Set(role))
            }
        }
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// [`RuleError`]: as for [`add_member`](Self::add_member), or the last owner.
    pub fn change_role(
        &mut self,
        actor: Actor<'_>,
        user: &UserId,
        present: Option<Role>,
        role: Role,
    ) -> Result<MemberChange, RuleError> {
        let own = self.member_manager(actor)?;
        self.check_open()?;
        self.check_members_may_change()?;
        let present = present.ok_or_else(|| RuleError::NotAMember { user: user.clone() })?;
        if let Some(own) = own {
            not_above(own, present)?;
            not_above(own, role)?;
        }
        if present == role {
            return Ok(MemberChange::Unchanged);
        }
        self.check_not_last_owner(user, present)?;
        self.owners -= u32::from(present == Role::Owner);
        self.owners += u32::from(role == Role::Owner);
        Ok(MemberChange::Set(role))
    }

    /// Removes a member, or lets them leave: everybody may leave, also an archived channel.
    ///
    /// # Errors
    /// [`RuleError`]: a dm, somebody without the right to, or the last owner.
    pub fn remove_member(
        &mut self,
        actor: Actor<'_>,
        user: &UserId,
        present: Option<Role>,
    ) -> Result<MemberChange, RuleError> {
        let leaving = matches!(actor, Actor::User(own, Some(_)) if own == user);
        let own = if leaving { None } else { self.member_manager(actor)? };
        if !leaving {
            self.check_open()?;
        }
        self.check_members_may_change()?;
        let present = present.ok_or_else(|| RuleError::NotAMember { user: user.clone() })?;
        if let Some(own) = own {
            not_above(own, present)?;
        }
        self.check_not_last_owner(user, present)?;
        self.owners -= u32::from(present == Role::Owner);
        Ok(MemberChange::Removed)
    }

    /// Takes a user out who ceases to exist, which no rule can prevent. `heir` is the highest of the other members.
    ///
    /// A channel without an owner goes to the heir; without an heir it is archived. A dm is archived.
    pub fn lose_member(&mut self, present: Role, heir: Option<Role>, now_ms: i64) -> Departure {
        self.owners -= u32::from(present == Role::Owner);
        let keeps_an_owner = self.kind != ChannelKind::Dm && self.owners > 0;
        match heir {
            _ if keeps_an_owner => Departure::GoesOn,
            Some(_) if self.kind != ChannelKind::Dm => {
                self.owners = 1;
                Departure::Inherited
            }
            _ => {
                self.archived_ms.get_or_insert(now_ms);
                Departure::Archived
            }
        }
    }

    /// The role of an actor who may manage members; `None` for an application server.
    fn member_manager(&self, actor: Actor<'_>) -> Result<Option<Role>, RuleError> {
        self.at_least(actor, Role::Moderator)
    }

    /// The role of an actor that has at least `needed`; `None` for an application server.
    pub(crate) fn at_least(&self, actor: Actor<'_>, needed: Role) -> Result<Option<Role>, RuleError> {
        match actor {
            Actor::Application => Ok(None),
            Actor::User(_, None) => Err(RuleError::NoSuchChannel),
            // In a dm nobody manages: say so, rather than name a role that nobody there can have.
            Actor::User(_, Some(_)) if self.kind == ChannelKind::Dm => Err(RuleError::DmSettings),
            Actor::User(_, Some(own)) if reaches(own, needed) => Ok(Some(own)),
            Actor::User(_, Some(own)) => Err(RuleError::RoleTooLow { needed, own }),
        }
    }

    fn check_members_may_change(&self) -> Result<(), RuleError> {
        if self.kind == ChannelKind::Dm { Err(RuleError::FixedMembers) } else { Ok(()) }
    }

    fn check_not_last_owner(&self, user: &UserId, present: Role) -> Result<(), RuleError> {
        if present == Role::Owner && self.owners <= 1 {
            return Err(RuleError::LastOwner { user: user.clone() });
        }
        Ok(())
    }
}

fn not_above(own: Role, role: Role) -> Result<(), RuleError> {
    if reaches(own, role) { Ok(()) } else { Err(RuleError::AboveOwnRole { role, own }) }
}

#[cfg(test)]
mod tests;
