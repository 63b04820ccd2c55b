//! A verifier that remembers tokens says of every token what one says that does not.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use millrace_protocol::code::Code;
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{KeyAlgorithm, RevokedTokens, TenantKey, TokensRevoked};
use millrace_token::{Claims, KeyRing, KeyRingLimits, SigningKey};
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000_500;

fn tenant(number: u32) -> TenantId {
    TenantId::new(number).unwrap()
}

fn claims(id: &str) -> Claims {
    Claims {
        tenant: tenant(7),
        user: UserId::new("alice").unwrap(),
        issued_at_ms: NOW - 1_250,
        expires_at_ms: NOW + 1_000,
        id: id.into(),
        roles: vec!["admin".into()],
        device: None,
    }
}

fn ring(remembered_max: usize) -> (KeyRing, SigningKey) {
    let key = SigningKey::generate(KeyAlgorithm::Hs256).unwrap();
    let mut ring = KeyRing::new(KeyRingLimits { remembered_max, ..KeyRingLimits::default() });
    ring.apply(&key.tenant_key(tenant(7), "hs")).unwrap();
    (ring, key)
}

fn code(ring: &mut KeyRing, token: &str, now: i64) -> Option<Code> {
    let (plain, remembering) = (ring.verify(token, now), ring.verify_remembering(token, now));
    match (plain, remembering) {
        (Ok(plain), Ok(remembering)) => {
            assert_eq!(plain, remembering.claims);
            assert!(ring.marks().contains(&remembering.key));
            None
        }
        (Err(plain), Err(remembering)) => {
            assert_eq!(plain.to_string(), remembering.to_string());
            Some(plain.code())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_remembered_still_expires_and_is_revoked() {
    let (mut ring, key) = ring(64);
    let (first, second) = (key.sign("hs", &claims("t1")).unwrap(), key.sign("hs", &claims("t2")).unwrap());
    for token in [&first, &second, &first] {
        assert_eq!(code(&mut ring, token, NOW), None);
    }
    assert_eq!(ring.remembered(), 2);
    assert_eq!(code(&mut ring, &first, NOW + 1_000), Some(Code::TokenExpired));
    let which = RevokedTokens::Token("t1".into());
    ring.revoke(&TokensRevoked { tenant: tenant(7), which, forget_after_ms: NOW + 1_000 }, NOW);
    assert_eq!(code(&mut ring, &first, NOW), Some(Code::TokenRevoked));
    assert_eq!(code(&mut ring, &second, NOW), None);
    let which = RevokedTokens::UserBefore(UserId::new("alice").unwrap(), NOW);
    ring.revoke(&TokensRevoked { tenant: tenant(7), which, forget_after_ms: NOW + 1_000 }, NOW);
    assert_eq!(code(&mut ring, &second, NOW), Some(Code::TokenRevoked));
}

#[test]
fn what_was_remembered_ends_with_its_key() {
    let ended = TenantKey { tenant: tenant(7), id: "hs".into(), key: None };
    let end: [fn(&mut KeyRing, &TenantKey); 2] = [
        |ring, ended| ring.apply(ended).unwrap(),
        |ring, ended| assert!(ring.replace(std::slice::from_ref(ended)).is_empty()),
    ];
    for end in end {
        let (mut ring, key) = ring(64);
        let token = key.sign("hs", &claims("t1")).unwrap();
        assert_eq!(code(&mut ring, &token, NOW), None);
        end(&mut ring, &ended);
        assert_eq!(ring.remembered(), 0);
        assert_eq!(code(&mut ring, &token, NOW), Some(Code::BadToken));
        // Another key of the same id is not the key that signed it.
        ring.apply(&SigningKey::generate(KeyAlgorithm::Hs256).unwrap().tenant_key(tenant(7), "hs")).unwrap();
        assert_eq!(code(&mut ring, &token, NOW), Some(Code::BadToken));
    }
}

#[test]
fn refused_tokens_are_not_remembered() {
    let (mut ring, key) = ring(64);
    let token = key.sign("hs", &claims("t1")).unwrap();
    let stranger = SigningKey::generate(KeyAlgorithm::Hs256).unwrap().sign("hs", &claims("t1")).unwrap();
    for (token, now) in [(stranger.as_str(), NOW), (&token, NOW + 1_000), (&token[1..], NOW), ("", NOW)] {
        assert!(code(&mut ring, token, now).is_some());
    }
    assert_eq!(ring.remembered(), 0);
}

#[test]
fn memory_is_bounded_and_keeps_what_comes_again() {
    let (mut ring, key) = ring(10);
    let often = key.sign("hs", &claims("often")).unwrap();
    for number in 0..100 {
        let token = key.sign("hs", &claims(&format!("t{number}"))).unwrap();
        for token in [&token, &often] {
            assert_eq!(code(&mut ring, token, NOW), None);
        }
        assert!((1..=10).contains(&ring.remembered()), "{}", ring.remembered());
    }
    let (mut off, key) = self::ring(0);
    assert_eq!(code(&mut off, &key.sign("hs", &claims("t1")).unwrap(), NOW), None);
    assert_eq!(off.remembered(), 0);
}

#[test]
fn a_mark_lasts_as_long_as_its_key() {
    let key = |number: u32, id: &str, signing: &SigningKey| signing.tenant_key(tenant(number), id);
    for remembered_max in [0, 64] {
        let (mut ring, first) = ring(remembered_max);
        let second = SigningKey::generate(KeyAlgorithm::EdDsa).unwrap();
        let mark = |ring: &mut KeyRing, id: &str, signing: &SigningKey| {
            ring.verify_remembering(&signing.sign(id, &claims("t1")).unwrap(), NOW).unwrap().key
        };
        ring.apply(&key(7, "ed", &second)).unwrap();
        let (of_first, of_second) = (mark(&mut ring, "hs", &first), mark(&mut ring, "ed", &second));
        assert_ne!(of_first, of_second);
        assert_eq!(ring.marks(), [of_first, of_second].into());
        // The same again changes nothing, also among others.
        ring.replace(&[key(7, "ed", &second), key(7, "hs", &first), key(8, "other", &first)]);
        assert_eq!((ring.marks().len(), mark(&mut ring, "hs", &first)), (3, of_first));
        // Another key under the same id is another key.
        let third = SigningKey::generate(KeyAlgorithm::Hs256).unwrap();
        ring.apply(&key(7, "hs", &third)).unwrap();
        assert!(!ring.marks().contains(&of_first));
        ring.apply(&TenantKey { tenant: tenant(7), id: "ed".into(), key: None }).unwrap();
        assert!(!ring.marks().contains(&of_second));
    }
}

proptest! {
    /// Whatever is changed in a token that is remembered, it is another token.
    #[test]
    fn a_changed_token_is_not_the_remembered_one(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        let (mut ring, key) = ring(64);
        let token = key.sign("hs", &claims("t1")).unwrap();
        prop_assert!(ring.verify_remembering(&token, NOW).is_ok());
        let at = at.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(ring.verify_remembering(&changed, NOW).is_err());
    }
}
