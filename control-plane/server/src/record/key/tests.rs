use super::*;

fn user_id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn producer(channel: ChannelId, user: &UserId, run: Producer) -> Bytes {
    producer_in(&mut BytesMut::new(), channel, user, run)
}

fn inside(range: &KeyRange, key: &[u8]) -> bool {
    range.start <= key && key < &range.end[..]
}

#[test]
fn lists_hold_their_own_and_nobody_elses() {
    let tenants = [TenantId::new(1).unwrap(), TenantId::new(2).unwrap()];
    // One name is a prefix of another: the length before the name keeps their lists apart.
    let users = ["a", "ab", "abc"].map(user_id);
    let channel = ChannelId::new(u64::from(b'b') << 56 | 7).unwrap();
    for tenant in tenants {
        for user in &users {
            let list = channels_of_user(tenant, user);
            for other_tenant in tenants {
                for other in &users {
                    let entry = channel_of_user(other_tenant, other, channel);
                    assert_eq!(inside(&list, &entry), tenant == other_tenant && user == other, "{user} {other}");
                    assert_eq!(channel_at_end(&entry), Some(channel));
                }
            }
            assert!(inside(&users_of(tenant), &self::user(tenant, user)));
            assert!(inside(&refresh_tokens_of(tenant, user), &refresh_token_of(tenant, user, "x")));
        }
    }
}

#[test]
fn the_parts_of_a_channel_lie_apart() {
    let channels = [1, 2, u64::MAX].map(|number| ChannelId::new(number).unwrap());
    let offsets = [1, 2, u64::MAX].map(|number| Offset::new(number).unwrap());
    let run = Producer::new(u64::MAX).unwrap();
    let ann = user_id("ann");
    for channel in channels {
        let producers = producers_of(channel);
        for other in channels {
            assert_eq!(inside(&producers, &producer(other, &ann, run)), channel == other);
            assert!(!inside(&producers, &message(other, offsets[2])) && !inside(&producers, &head(other)));
            let messages = messages(channel, offsets[0], offsets[2]);
            let found = offsets.map(|offset| inside(&messages, &message(other, offset)));
            assert_eq!(found, [channel == other, channel == other, false]);
            assert!(!inside(&messages, &head(other)) && !inside(&messages, &producer(other, &ann, run)));
        }
        assert_eq!(producer_of(&producers, &producer(channel, &ann, run)), Some((ann.clone(), run)));
        assert_eq!(producer_of(&producers, &head(channel)), None);
    }
    assert_eq!(offset_at_end(&message(channels[0], offsets[2])), Some(offsets[2]));
}

#[test]
fn keys_keep_their_bytes() {
    let check = |key: Bytes, expect: &str| {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expect);
    };
    let tenant_id = TenantId::new(3).unwrap();
    check(tenant(tenant_id), "5400000003");
    check(user(tenant_id, &user_id("ann")), "55b8c900000003616e6e");
    check(channel(ChannelId::new(258).unwrap()), "438dfc0000000000000102");
    check(expiry(9, b"Kx"), "580008000000094b78");
    check(message(ChannelId::new(258).unwrap(), Offset::FIRST), "4d8dfc0000000000000102010000000000000001");
}

#[test]
fn keys_cut_off_one_buffer_are_the_same() {
    let mut buffer = BytesMut::new();
    let at = ChannelId::new(258).unwrap();
    for offset in [1, 2, u64::MAX].map(|number| Offset::new(number).unwrap()) {
        assert_eq!(head_in(&mut buffer, at), head(at));
        assert_eq!(message_in(&mut buffer, at, offset), message(at, offset));
    }
}

#[test]
fn what_is_kept_for_a_webhook_lies_apart() {
    let at = ChannelId::new(u64::MAX).unwrap();
    let kinds = |id: &str| {
        [
            of_webhook::health(id),
            of_webhook::event(id, u64::MAX, u32::MAX),
            of_webhook::mark(id, at),
            of_webhook::progress(id, at),
            of_webhook::attempt(id, u16::MAX),
            of_webhook::failure(id, "x"),
        ]
    };
    let (events, marks) = (of_webhook::events("ab"), of_webhook::marks("ab"));
    let (attempts, failures) = (of_webhook::attempts("ab"), of_webhook::failures("ab"));
    for id in ["a", "ab", "abc"] {
        let found = kinds(id).map(|key| {
            assert_eq!(inside(&of_webhook::all("ab"), &key), id == "ab");
            [&events, &marks, &attempts, &failures]
                .map(|range| inside(range, &key))
                .iter()
                .filter(|in_it| **in_it)
                .count()
        });
        assert_eq!(found, if id == "ab" { [0, 1, 1, 0, 1, 1] } else { [0; 6] }, "{id}");
    }
    let tenants = [1, 2].map(|number| TenantId::new(number).unwrap());
    for tenant in tenants {
        assert_eq!(
            tenants.map(|other| inside(&webhooks_of(tenant), &webhook(other, "ab"))),
            tenants.map(|other| other == tenant)
        );
        assert!(inside(&webhooks(), &webhook(tenant, "ab")));
    }
    assert!(
        of_webhook::event("a", 1, 2) < of_webhook::event("a", 1, 3)
            && of_webhook::event("a", 1, 9) < of_webhook::event("a", 2, 0)
    );
    assert_eq!(channel_at_end(&of_webhook::mark("a", at)), Some(at));
}

#[test]
fn expiry_entries_lead_back_to_their_record() {
    let record = refresh_token("abc");
    let entry = expiry(77, &record);
    assert_eq!(expiring_record(&entry), Some(&record[..]));
    let found = (0..EXPIRY_SHARDS).filter(|&shard| inside(&expiries(shard, 77, 78), &entry)).count();
    assert_eq!(found, 1);
    assert!((0..EXPIRY_SHARDS).all(|shard| !inside(&expiries(shard, 0, 77), &entry)));
    assert_eq!(expiring_record(b"K"), None);
}
