use millrace_protocol::id::ChannelId;

use super::*;

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A channel with one owner, or a dm with none.
pub(crate) fn channel(kind: ChannelKind) -> Channel {
    let draft = match kind {
        ChannelKind::Dm => draft(kind, None, &[("ann", Role::Member), ("bob", Role::Member)]),
        _ => draft(kind, Some("general"), &[("ann", Role::Owner)]),
    };
    create(Actor::Application, draft).unwrap().channel
}

fn draft(kind: ChannelKind, name: Option<&str>, members: &[(&str, Role)]) -> ChannelDraft {
    ChannelDraft {
        name: name.map(|name| ChannelName::new(name).unwrap()),
        kind,
        history: None,
        slow_consumer: None,
        display_name: None,
        metadata: Metadata::default(),
        members: members.iter().map(|(name, role)| (user(name), *role)).collect(),
    }
}

fn create(actor: Actor<'_>, draft: ChannelDraft) -> Result<NewChannel, RuleError> {
    Channel::create(actor, TenantId::new(1).unwrap(), ChannelId::new(9).unwrap(), draft, 1_000)
}

#[test]
fn what_may_be_created() {
    use ChannelKind::{Broadcast, Dm, Group};
    use Role::{Member, Owner, Reader};

    let ann = user("ann");
    let check = |actor, draft, expect: Result<&str, RuleError>| {
        let created = create(actor, draft);
        let name = created.as_ref().map(|new| new.channel.name.as_str()).map_err(Clone::clone);
        assert_eq!(name, expect);
    };
    let (app, as_ann) = (Actor::Application, Actor::User(&ann, None));
    check(app, draft(Group, Some("general"), &[("ann", Owner), ("bob", Reader)]), Ok("general"));
    check(app, draft(Group, Some("general"), &[("ann", Member)]), Err(RuleError::NoOwner));
    check(app, draft(Broadcast, Some("news"), &[]), Err(RuleError::NoOwner));
    check(as_ann, draft(Broadcast, Some("news"), &[]), Ok("news"));
    check(as_ann, draft(Group, None, &[]), Err(RuleError::Name { kind: Group }));
    check(as_ann, draft(Group, Some("dm:x"), &[]), Err(RuleError::ReservedName));
    let twice = Err(RuleError::NamedTwice { user: user("bob") });
    check(as_ann, draft(Group, Some("x"), &[("bob", Member), ("eve", Member), ("bob", Reader)]), twice);

    check(app, draft(Dm, None, &[("bob", Member), ("ann", Member)]), Ok("dm:ann~bob"));
    check(as_ann, draft(Dm, None, &[("ann", Member)]), Ok("dm:ann~ann"));
    check(app, draft(Dm, Some("x"), &[("ann", Member)]), Err(RuleError::Name { kind: Dm }));
    check(app, draft(Dm, None, &[]), Err(RuleError::DmMembers { count: 0 }));
    let three = [("a", Member), ("b", Member), ("c", Member)];
    check(app, draft(Dm, None, &three), Err(RuleError::DmMembers { count: 3 }));
    check(app, draft(Dm, None, &[("ann", Owner)]), Err(RuleError::DmRoles));
    check(as_ann, draft(Dm, None, &[("bob", Member), ("eve", Member)]), Err(RuleError::NotYourDm));

    let many = (0..=INITIAL_MEMBERS_MAX).map(|n| (user(&format!("u{n}")), Member)).collect::<Vec<_>>();
    let crowded = ChannelDraft { members: many, ..draft(Group, Some("x"), &[]) };
    check(as_ann, crowded, Err(RuleError::TooManyMembers { count: 101, max: 100 }));
}

#[test]
fn a_user_who_creates_a_channel_owns_it() {
    let ann = user("ann");
    // Even if they list themselves as something else.
    let new = create(
        Actor::User(&ann, None),
        draft(ChannelKind::Group, Some("x"), &[("ann", Role::Reader), ("bob", Role::Member)]),
    )
    .unwrap();
    assert_eq!(new.members, [(user("bob"), Role::Member), (ann, Role::Owner)]);
    assert_eq!(new.channel.owners, 1);
}

#[test]
fn defaults_follow_the_kind() {
    let check = |kind, history, slow_consumer| {
        let channel = channel(kind);
        assert_eq!((channel.history, channel.slow_consumer), (history, slow_consumer), "{kind:?}");
    };
    check(ChannelKind::Dm, HistoryClass::Durable, SlowConsumer::Disconnect);
    check(ChannelKind::Group, HistoryClass::Durable, SlowConsumer::Disconnect);
    check(ChannelKind::Broadcast, HistoryClass::Windowed, SlowConsumer::Skip);
}

#[test]
fn dm_names_are_the_same_both_ways_and_never_shared() {
    let check = |one: &str, other: &str, expect: &str| {
        assert_eq!(dm_name(&user(one), &user(other)).as_str(), expect);
        assert_eq!(dm_name(&user(other), &user(one)).as_str(), expect);
    };
    check("bob", "ann", "dm:ann~bob");
    check("user:7", "user:10", "dm:user:10~user:7");
    let long = "x".repeat(128);
    let names = [("a~b", "c"), ("a", "b~c"), (&*long, "c"), (&*long, "d"), ("~", "~")]
        .map(|(one, other)| dm_name(&user(one), &user(other)));
    for (index, name) in names.iter().enumerate() {
        assert!(name.as_str().starts_with("dm:~") && name.as_str().len() == 68, "{name}");
        assert!(!names[..index].contains(name));
    }
}

#[test]
fn settings_change_from_moderator_up_and_archiving_is_the_owners() {
    let ann = user("ann");
    let patch = || ChannelPatch { slow_consumer: Some(SlowConsumer::Skip), ..ChannelPatch::default() };
    let too_low = |needed, own| Err(RuleError::RoleTooLow { needed, own });
    let check = |role: Option<Role>, update: Result<bool, RuleError>, archive: Result<bool, RuleError>| {
        let actor = Actor::User(&ann, role);
        assert_eq!(channel(ChannelKind::Group).update(actor, patch(), 5), update, "{role:?}");
        assert_eq!(channel(ChannelKind::Group).archive(actor, 5), archive, "{role:?}");
    };
    check(Some(Role::Owner), Ok(true), Ok(true));
    check(Some(Role::Moderator), Ok(true), too_low(Role::Owner, Role::Moderator));
    check(Some(Role::Member), too_low(Role::Moderator, Role::Member), too_low(Role::Owner, Role::Member));
    check(Some(Role::Reader), too_low(Role::Moderator, Role::Reader), too_low(Role::Owner, Role::Reader));
    check(None, Err(RuleError::NoSuchChannel), Err(RuleError::NoSuchChannel));

    let mut dm = channel(ChannelKind::Dm);
    assert_eq!(dm.update(Actor::User(&ann, Some(Role::Member)), patch(), 5), Err(RuleError::DmSettings));
    assert_eq!(dm.update(Actor::Application, patch(), 5), Ok(true));
    assert_eq!(dm.update(Actor::Application, patch(), 6), Ok(false));
    assert_eq!(dm.updated_ms, 5, "a change that changes nothing leaves no trace");
    assert_eq!(dm.archive(Actor::Application, 7), Ok(true));
    assert_eq!(dm.archive(Actor::Application, 8), Ok(false));
    assert_eq!(dm.archived_ms, Some(7));
    assert_eq!(dm.update(Actor::Application, patch(), 9), Err(RuleError::Archived));
}

#[test]
fn the_stored_form_reads_back() {
    let mut written = channel(ChannelKind::Broadcast);
    written.display_name = Some(DisplayName::new("Größe").unwrap());
    let json = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<Channel>(&json).unwrap(), written);
    assert!(serde_json::from_str::<Channel>(&json.replace("broadcast", "brodcast")).is_err());
    assert!(serde_json::from_str::<Channel>(&json.replace("\"id\":9", "\"id\":0")).is_err());
}
