use std::collections::BTreeMap;

use millrace_protocol::node::Role::{self, Member, Moderator, Owner, Reader};
use proptest::prelude::*;

use super::*;
use crate::channel::tests::{channel, user};
use crate::word::Word;

#[test]
fn nobody_reaches_above_their_own_role() {
    let (ann, bob) = (user("ann"), user("bob"));
    let above = |role, own| Err(RuleError::AboveOwnRole { role, own });
    let low = |own| Err(RuleError::RoleTooLow { needed: Moderator, own });
    let add = |own: Role, role, expect| {
        let mut channel = channel(ChannelKind::Group);
        assert_eq!(channel.add_member(Actor::User(&ann, Some(own)), &bob, None, role), expect, "{own:?} adds {role:?}");
    };
    for (role, _) in Role::ALL {
        add(Owner, *role, Ok(MemberChange::Set(*role)));
        add(Member, *role, low(Member));
        add(Reader, *role, low(Reader));
    }
    add(Moderator, Owner, above(Owner, Moderator));
    add(Moderator, Moderator, Ok(MemberChange::Set(Moderator)));
    add(Moderator, Reader, Ok(MemberChange::Set(Reader)));

    let change = |own: Role, present, role, expect| {
        let mut channel = channel(ChannelKind::Group);
        channel.owners = 2;
        let actor = Actor::User(&ann, Some(own));
        assert_eq!(channel.change_role(actor, &bob, Some(present), role), expect, "{own:?}: {present:?} => {role:?}");
    };
    change(Owner, Owner, Reader, Ok(MemberChange::Set(Reader)));
    change(Owner, Member, Owner, Ok(MemberChange::Set(Owner)));
    change(Moderator, Owner, Member, above(Owner, Moderator));
    change(Moderator, Member, Owner, above(Owner, Moderator));
    change(Moderator, Reader, Member, Ok(MemberChange::Set(Member)));
    change(Moderator, Reader, Reader, Ok(MemberChange::Unchanged));
    change(Member, Reader, Member, low(Member));

    let remove = |own: Role, present, expect| {
        let mut channel = channel(ChannelKind::Group);
        channel.owners = 2;
        assert_eq!(channel.remove_member(Actor::User(&ann, Some(own)), &bob, Some(present)), expect);
    };
    remove(Owner, Owner, Ok(MemberChange::Removed));
    remove(Moderator, Owner, above(Owner, Moderator));
    remove(Moderator, Moderator, Ok(MemberChange::Removed));
    remove(Member, Reader, low(Member));
}

#[test]
fn the_last_owner_stays() {
    let ann = user("ann");
    let last = Err(RuleError::LastOwner { user: ann.clone() });
    let as_ann = Actor::User(&ann, Some(Owner));
    let mut group = channel(ChannelKind::Group);
    assert_eq!(group.remove_member(as_ann, &ann, Some(Owner)), last);
    assert_eq!(group.remove_member(Actor::Application, &ann, Some(Owner)), last);
    assert_eq!(group.change_role(as_ann, &ann, Some(Owner), Moderator), last);
    assert_eq!(group.add_member(as_ann, &user("bob"), None, Owner), Ok(MemberChange::Set(Owner)));
    assert_eq!(group.change_role(as_ann, &ann, Some(Owner), Moderator), Ok(MemberChange::Set(Moderator)));
    assert_eq!(group.owners, 1);
}

#[test]
fn everybody_may_leave_but_a_dm_is_fixed() {
    let (ann, eve) = (user("ann"), user("eve"));
    for role in [Moderator, Member, Reader] {
        let mut group = channel(ChannelKind::Group);
        group.archived_ms = Some(1);
        let left = group.remove_member(Actor::User(&ann, Some(role)), &ann, Some(role));
        assert_eq!(left, Ok(MemberChange::Removed), "{role:?}");
    }
    let mut dm = channel(ChannelKind::Dm);
    let as_ann = Actor::User(&ann, Some(Member));
    assert_eq!(dm.remove_member(as_ann, &ann, Some(Member)), Err(RuleError::FixedMembers));
    assert_eq!(dm.add_member(as_ann, &eve, None, Member), Err(RuleError::DmSettings));
    assert_eq!(dm.add_member(Actor::Application, &eve, None, Member), Err(RuleError::FixedMembers));
    assert_eq!(dm.change_role(Actor::Application, &ann, Some(Member), Reader), Err(RuleError::FixedMembers));
}

#[test]
fn strangers_learn_nothing_and_absent_members_are_named() {
    let (ann, bob) = (user("ann"), user("bob"));
    let stranger = Actor::User(&ann, None);
    let mut group = channel(ChannelKind::Group);
    assert_eq!(group.add_member(stranger, &bob, None, Member), Err(RuleError::NoSuchChannel));
    assert_eq!(group.remove_member(stranger, &ann, None), Err(RuleError::NoSuchChannel));
    let absent = Err(RuleError::NotAMember { user: bob.clone() });
    assert_eq!(group.change_role(Actor::Application, &bob, None, Member), absent);
    assert_eq!(group.remove_member(Actor::Application, &bob, None), absent);
    let already = Err(RuleError::AlreadyMember { user: bob.clone(), role: Reader });
    assert_eq!(group.add_member(Actor::Application, &bob, Some(Reader), Member), already);
    assert_eq!(group.add_member(Actor::Application, &bob, Some(Reader), Reader), Ok(MemberChange::Unchanged));
    group.archived_ms = Some(1);
    assert_eq!(group.add_member(Actor::Application, &bob, None, Member), Err(RuleError::Archived));
}

#[test]
fn a_channel_outlives_its_members() {
    let check = |kind, owners, present, heir, expect, owners_after| {
        let mut channel = channel(kind);
        channel.owners = owners;
        assert_eq!(channel.lose_member(present, heir, 7), expect);
        assert_eq!(channel.owners, owners_after);
        assert_eq!(channel.archived_ms.is_some(), expect == Departure::Archived);
    };
    check(ChannelKind::Group, 1, Member, Some(Owner), Departure::GoesOn, 1);
    check(ChannelKind::Group, 2, Owner, Some(Owner), Departure::GoesOn, 1);
    check(ChannelKind::Group, 1, Owner, Some(Reader), Departure::Inherited, 1);
    check(ChannelKind::Broadcast, 1, Owner, None, Departure::Archived, 0);
    check(ChannelKind::Dm, 0, Member, Some(Member), Departure::Archived, 0);
}

/// A step of a random history: who acts, on whom, what.
#[derive(Debug, Clone)]
enum Step {
    Add(usize, usize, Role),
    Change(usize, usize, Role),
    Remove(usize, usize),
    Lose(usize),
    Archive(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop::sample::select(vec![Owner, Moderator, Member, Reader]);
    // Actor 5 is the application server.
    prop_oneof![
        4 => (0..6usize, 0..5usize, role.clone()).prop_map(|(actor, on, role)| Step::Add(actor, on, role)),
        4 => (0..6usize, 0..5usize, role).prop_map(|(actor, on, role)| Step::Change(actor, on, role)),
        3 => (0..6usize, 0..5usize).prop_map(|(actor, on)| Step::Remove(actor, on)),
        1 => (0..5usize).prop_map(Step::Lose),
        1 => (0..6usize).prop_map(Step::Archive),
    ]
}

proptest! {
    /// Whatever anybody tries: an open channel has an owner, the count is true, and nobody acted above their role.
    #[test]
    fn an_open_channel_always_has_an_owner(steps in prop::collection::vec(step(), 1..80)) {
        let names = ["ann", "bob", "cem", "dee", "eve"].map(user);
        let mut channel = channel(ChannelKind::Group);
        let mut members = BTreeMap::from([(names[0].clone(), Owner)]);
        for step in steps {
            let before = (channel.clone(), members.clone());
            let role_of = |index: usize| names.get(index).and_then(|name| before.1.get(name).copied());
            let actor = |index: usize| match names.get(index) {
                Some(name) => Actor::User(name, role_of(index)),
                None => Actor::Application,
            };
            let (own, on, result) = match step {
                Step::Add(by, on, role) => {
                    (Some(by), on, channel.add_member(actor(by), &names[on], role_of(on), role))
                }
                Step::Change(by, on, role) => {
                    (Some(by), on, channel.change_role(actor(by), &names[on], role_of(on), role))
                }
                Step::Remove(by, on) => (Some(by), on, channel.remove_member(actor(by), &names[on], role_of(on))),
                Step::Lose(on) => {
                    let Some(present) = members.remove(&names[on]) else { continue };
                    let heir = members.iter().min_by_key(|(_, role)| **role).map(|(name, role)| (name.clone(), *role));
                    let departure = channel.lose_member(present, heir.as_ref().map(|(_, role)| *role), 1);
                    if let (Departure::Inherited, Some((heir, _))) = (departure, heir) {
                        members.insert(heir, Owner);
                    }
                    (None, on, Ok(MemberChange::Unchanged))
                }
                Step::Archive(by) => {
                    let archived = channel.archive(actor(by), 1);
                    prop_assert!(archived.is_err() || by == 5 || role_of(by) == Some(Owner));
                    continue;
                }
            };
            match &result {
                Ok(MemberChange::Set(role)) => {
                    members.insert(names[on].clone(), *role);
                }
                Ok(MemberChange::Removed) => {
                    members.remove(&names[on]);
                }
                Ok(MemberChange::Unchanged) => {}
                Err(_) => prop_assert_eq!(&(channel.clone(), members.clone()), &before, "a refusal changes nothing"),
            }
            if let (Some(by), Ok(MemberChange::Set(_) | MemberChange::Removed)) = (own, &result)
                && by != 5
            {
                let own = role_of(by).expect("only members change members");
                let leaves = by == on && matches!(result, Ok(MemberChange::Removed));
                prop_assert!(leaves || own <= Moderator);
                prop_assert!(role_of(on).is_none_or(|present| own <= present));
                prop_assert!(members.get(&names[on]).is_none_or(|role| own <= *role));
            }
            let owners = members.values().filter(|role| **role == Owner).count();
            prop_assert_eq!(owners, channel.owners as usize);
            prop_assert!(owners > 0 || channel.archived_ms.is_some());
        }
    }
}
