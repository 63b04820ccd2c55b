//! The one place where access to a channel is decided, for subscribing, publishing and reading, on every way in.

use millrace_protocol::code::{Code, Refusal};
use millrace_protocol::node::{ChannelKind, Grant, HistoryClass, Role};

use crate::channel::Channel;
use crate::member::Membership;

/// What a member may do live: subscribe, and publish if the grant says so.
///
/// # Errors
/// - [`Code::NoAccess`] without a membership: in the same words as for a channel that does not exist.
/// - [`Code::Archived`] if nothing is accepted or delivered any more.
pub fn grant(channel: &Channel, membership: Option<&Membership>) -> Result<Grant, Refusal> {
    let membership = membership.ok_or_else(no_access)?;
    if channel.archived_ms.is_some() {
        return Err(Refusal::new(Code::Archived, "the channel is archived"));
    }
    Ok(Grant {
        channel: channel.id,
        name: channel.name.clone(),
        kind: channel.kind,
        history: channel.history,
        role: membership.role,
        can_publish: can_publish(channel.kind, membership.role),
        slow_consumer: channel.slow_consumer,
        read: membership.read,
    })
}

/// Whether a member may read what is stored: also of an archived channel.
///
/// # Errors
/// - [`Code::NoAccess`] without a membership.
/// - [`Code::NoHistory`] if the channel keeps none.
pub fn readable(channel: &Channel, membership: Option<&Membership>) -> Result<(), Refusal> {
    membership.ok_or_else(no_access)?;
    if channel.history == HistoryClass::None {
        return Err(Refusal::new(Code::NoHistory, "the channel keeps no history"));
    }
    Ok(())
}

/// Whether a role may publish in a channel of a kind.
pub const fn can_publish(kind: ChannelKind, role: Role) -> bool {
    match (kind, role) {
        (_, Role::Owner | Role::Moderator) | (ChannelKind::Dm | ChannelKind::Group, Role::Member) => true,
        (ChannelKind::Broadcast, Role::Member) | (_, Role::Reader) => false,
    }
}

/// One refusal for "does not exist" and "not yours": nobody learns from it which channels there are.
pub fn no_access() -> Refusal {
    Refusal::new(Code::NoAccess, "no such channel, or you are no member of it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::tests::channel;
    use crate::word::Word;

    #[test]
    fn who_may_publish() {
        let check = |kind, expect: [bool; 4]| {
            let found = Role::ALL.iter().map(|(role, _)| can_publish(kind, *role)).collect::<Vec<_>>();
            assert_eq!(found, expect, "{kind:?}: owner, moderator, member, reader");
        };
        check(ChannelKind::Dm, [true, true, true, false]);
        check(ChannelKind::Group, [true, true, true, false]);
        check(ChannelKind::Broadcast, [true, true, false, false]);
    }

    #[test]
    fn access_needs_a_membership_and_an_open_channel() {
        let member = Membership { role: Role::Member, since_ms: 0, read: None };
        let mut channel = channel(ChannelKind::Group);
        let granted = grant(&channel, Some(&member)).unwrap();
        assert_eq!((granted.channel, granted.role, granted.can_publish), (channel.id, Role::Member, true));
        let code = |result: Result<Grant, Refusal>| result.unwrap_err().code;
        assert_eq!(code(grant(&channel, None)), Code::NoAccess);
        assert_eq!(readable(&channel, None).unwrap_err().code, Code::NoAccess);

        channel.archived_ms = Some(5);
        assert_eq!(code(grant(&channel, None)), Code::NoAccess, "nobody learns that it is archived");
        assert_eq!(code(grant(&channel, Some(&member))), Code::Archived);
        assert_eq!(readable(&channel, Some(&member)), Ok(()));

        channel.history = HistoryClass::None;
        assert_eq!(readable(&channel, Some(&member)).unwrap_err().code, Code::NoHistory);
    }
}
