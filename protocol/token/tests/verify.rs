//! A verifier takes the tokens of its tenants' keys and no others.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use millrace_protocol::code::Code;
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{KeyAlgorithm, RevokedTokens, TenantKey, TokensRevoked};
use millrace_token::{Claims, KeyError, KeyRing, KeyRingLimits, SignError, SigningKey, TOKEN_BYTES_MAX, TokenError};
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000_500;
const ALGORITHMS: [KeyAlgorithm; 3] = [KeyAlgorithm::Hs256, KeyAlgorithm::Es256, KeyAlgorithm::EdDsa];

fn tenant(number: u32) -> TenantId {
    TenantId::new(number).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn claims() -> Claims {
    Claims {
        tenant: tenant(7),
        user: user("alice"),
        issued_at_ms: NOW - 1_250,
        expires_at_ms: NOW + 3_600_000,
        id: "t1".into(),
        roles: vec!["admin".into()],
        device: Some("phone".into()),
    }
}

/// A ring with one key per algorithm, called like it, and the keys.
fn ring() -> (KeyRing, Vec<SigningKey>) {
    let keys: Vec<_> = ALGORITHMS.into_iter().map(|algorithm| SigningKey::generate(algorithm).unwrap()).collect();
    let mut ring = KeyRing::default();
    for key in &keys {
        ring.apply(&key.tenant_key(tenant(7), name(key))).unwrap();
    }
    (ring, keys)
}

fn name(key: &SigningKey) -> &'static str {
    match key.algorithm() {
        KeyAlgorithm::Hs256 => "hs",
        KeyAlgorithm::Es256 => "es",
        KeyAlgorithm::EdDsa => "ed",
    }
}

#[test]
fn what_is_signed_is_verified() {
    let (ring, keys) = ring();
    for key in &keys {
        let key = SigningKey::from_bytes(key.algorithm(), &key.to_bytes()).unwrap();
        let token = key.sign(name(&key), &claims()).unwrap();
        assert_eq!(ring.verify(&token, NOW).unwrap(), claims(), "{key:?}");
    }
}

/// Made by PyJWT 2.15.1 with `{"tenant":7,"sub":"alice","iat":…,"exp":1700003600,"jti":"t1","roles":["admin"],"device":"phone"}`.
#[test]
fn tokens_of_another_library_are_verified() {
    let mut ring = KeyRing::default();
    let mut check = |id: &str, algorithm, material: Vec<u8>, issued_at_ms, token: &str| {
        let key = TenantKey { tenant: tenant(7), id: id.into(), key: Some((algorithm, material.into())) };
        ring.apply(&key).unwrap();
        let expect = Claims { issued_at_ms, expires_at_ms: 1_700_003_600_000, ..claims() };
        assert_eq!(ring.verify(token, NOW).unwrap(), expect, "{id}");
    };
    check(
        "k1",
        KeyAlgorithm::Hs256,
        (0..32).collect(),
        1_700_000_000_000,
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.eyJ0ZW5hbnQiOjcsInN1YiI6ImFsaWNlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDM2MDAsImp0aSI6InQxIiwicm9sZXMiOlsiYWRtaW4iXSwiZGV2aWNlIjoicGhvbmUifQ.dvTvhpqxqXUaJpQNGQKEOYlzIttK2f-I5ZSCZy2b-oE",
    );
    check(
        "k2",
        KeyAlgorithm::Es256,
        hex(
            "0470da02cf2389338f3c6e3281547b7997f64b78955cd0cce70904f02659335dadafc3dea090ebba49df9ae18240b9ff5234b55e4d3bf2455901f4f42b745eb344",
        ),
        1_700_000_000_000,
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsyIiwidHlwIjoiSldUIn0.eyJ0ZW5hbnQiOjcsInN1YiI6ImFsaWNlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDM2MDAsImp0aSI6InQxIiwicm9sZXMiOlsiYWRtaW4iXSwiZGV2aWNlIjoicGhvbmUifQ.iHhG4Y8zldx7X5ufYKf8vGuEqSBP6V4Y7jcahIDqDmc2rH7fx_Go3HFDOecB3RAVhp5rQXZpU5g9IdCPIYQ2NQ",
    );
    check(
        "k3",
        KeyAlgorithm::EdDsa,
        hex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"),
        1_700_000_000_250,
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImszIiwidHlwIjoiSldUIn0.eyJ0ZW5hbnQiOjcsInN1YiI6ImFsaWNlIiwiaWF0IjoxNzAwMDAwMDAwLjI1LCJleHAiOjE3MDAwMDM2MDAsImp0aSI6InQxIiwicm9sZXMiOlsiYWRtaW4iXSwiZGV2aWNlIjoicGhvbmUifQ.3jHYtUnIxRHTRhg1wQWwC0FjaXgEdQiaYaMtBdoUmjCxp6cAV7qrCC_C9qMy0izH2WpTEL0AZvD6MLSbR7yODg",
    );
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Signs any header and payload with HS256, as a forger who holds some secret would.
fn forge(header: &str, payload: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    format!("{message}.{}", BASE64.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
}

#[test]
fn bad_tokens_are_refused() {
    let secret = [9; 32];
    let hs = SigningKey::from_bytes(KeyAlgorithm::Hs256, &secret).unwrap();
    let es = SigningKey::generate(KeyAlgorithm::Es256).unwrap();
    let foreign = SigningKey::generate(KeyAlgorithm::Hs256).unwrap();
    let mut ring = KeyRing::default();
    ring.apply(&hs.tenant_key(tenant(7), "hs")).unwrap();
    ring.apply(&es.tenant_key(tenant(7), "es")).unwrap();
    ring.apply(&foreign.tenant_key(tenant(8), "foreign")).unwrap();
    let es_public = es.tenant_key(tenant(7), "es").key.unwrap().1;

    let check = |what: &str, token: &str, expect: fn(&TokenError) -> bool, code: Code| {
        let error = ring.verify(token, NOW).expect_err(what);
        assert!(expect(&error), "{what}: {error:?}");
        assert_eq!(error.code(), code, "{what}");
    };
    let malformed: fn(&TokenError) -> bool = |error| matches!(error, TokenError::Malformed(_));
    let bad_claims: fn(&TokenError) -> bool = |error| matches!(error, TokenError::Claims(_));
    let header = r#"{"alg":"HS256","kid":"hs"}"#;
    let good = r#"{"tenant":7,"sub":"alice","iat":1700000000,"exp":1700003600,"jti":"t1"}"#;
    assert!(ring.verify(&forge(header, good, &secret), NOW).is_ok());

    // Shape.
    check("empty", "", malformed, Code::BadToken);
    check("one part", "abc", malformed, Code::BadToken);
    check("two parts", "abc.def", malformed, Code::BadToken);
    let token = hs.sign("hs", &claims()).unwrap();
    check("four parts", &format!("{token}.x"), |error| matches!(error, TokenError::Signature), Code::BadToken);
    check("header no base64", "!.e30.", malformed, Code::BadToken);
    check("header no JSON", "e30x.e30.", malformed, Code::BadToken);
    check("no kid", &forge(r#"{"alg":"HS256"}"#, good, &secret), malformed, Code::BadToken);
    check(
        "kid twice",
        &forge(r#"{"alg":"HS256","kid":"foreign","kid":"hs"}"#, good, &secret),
        malformed,
        Code::BadToken,
    );
    check("critical", &forge(r#"{"alg":"HS256","kid":"hs","crit":["x"]}"#, good, &secret), malformed, Code::BadToken);
    check(
        "critical null",
        &forge(r#"{"alg":"HS256","kid":"hs","crit":null}"#, good, &secret),
        malformed,
        Code::BadToken,
    );
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    check("too long", &long, |error| matches!(error, TokenError::TooLong { .. }), Code::BadToken);
    check("padded", &format!("{token}="), |error| matches!(error, TokenError::Signature), Code::BadToken);

    // Key and algorithm.
    let unknown: fn(&TokenError) -> bool = |error| matches!(error, TokenError::UnknownKey);
    check("unknown key", &forge(r#"{"alg":"HS256","kid":"x"}"#, good, &secret), unknown, Code::BadToken);
    let algorithm: fn(&TokenError) -> bool = |error| matches!(error, TokenError::Algorithm);
    for alg in ["none", "None", "", "hs256", "HS384", "RS256", "ES256", "EdDSA"] {
        let header = format!(r#"{{"alg":"{alg}","kid":"hs"}}"#);
        check(alg, &forge(&header, good, &secret), algorithm, Code::BadToken);
        let unsigned = format!("{}.{}.", BASE64.encode(&header), BASE64.encode(good));
        check(alg, &unsigned, algorithm, Code::BadToken);
    }
    // The classic: a public key used as an HMAC secret.
    let confused = forge(r#"{"alg":"HS256","kid":"es"}"#, good, &es_public);
    check("public key as secret", &confused, algorithm, Code::BadToken);

    // Signature.
    let signature: fn(&TokenError) -> bool = |error| matches!(error, TokenError::Signature);
    check("other secret", &forge(header, good, &[8; 32]), signature, Code::BadToken);
    check("no signature", &format!("{}.{}.", BASE64.encode(header), BASE64.encode(good)), signature, Code::BadToken);
    let es_token = es.sign("es", &claims()).unwrap();
    let (message, _) = es_token.rsplit_once('.').unwrap();
    // All zeros passes a verifier that forgets to check the range of r and s (CVE-2022-21449).
    check("zero signature", &format!("{message}.{}", BASE64.encode([0; 64])), signature, Code::BadToken);

    // Claims.
    for (what, payload) in [
        ("no claims", "{}"),
        ("no JSON", "x"),
        ("an array", "[]"),
        ("tenant 0", r#"{"tenant":0,"sub":"a","iat":1700000000,"exp":1700003600,"jti":"t"}"#),
        ("tenant text", r#"{"tenant":"7","sub":"a","iat":1700000000,"exp":1700003600,"jti":"t"}"#),
        ("no sub", r#"{"tenant":7,"iat":1700000000,"exp":1700003600,"jti":"t"}"#),
        ("sub no name", r#"{"tenant":7,"sub":"a b","iat":1700000000,"exp":1700003600,"jti":"t"}"#),
        ("no exp", r#"{"tenant":7,"sub":"a","iat":1700000000,"jti":"t"}"#),
        ("exp twice", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1,"exp":1700003600,"jti":"t"}"#),
        ("exp text", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":"1700003600","jti":"t"}"#),
        ("exp negative", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":-1,"jti":"t"}"#),
        ("exp huge", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1e300,"jti":"t"}"#),
        ("exp in ms", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700003600000,"jti":"t"}"#),
        ("no iat", r#"{"tenant":7,"sub":"a","exp":1700003600,"jti":"t"}"#),
        ("iat after exp", r#"{"tenant":7,"sub":"a","iat":1700003601,"exp":1700003600,"jti":"t"}"#),
        ("lives too long", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700086401,"jti":"t"}"#),
        ("no jti", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700003600}"#),
        ("empty jti", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700003600,"jti":""}"#),
        ("empty role", r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700003600,"jti":"t","roles":[""]}"#),
    ] {
        check(what, &forge(header, payload, &secret), bad_claims, Code::BadToken);
    }
    let foreign_token = foreign.sign("foreign", &claims()).unwrap();
    check("foreign tenant", &foreign_token, |error| matches!(error, TokenError::ForeignTenant), Code::BadToken);

    // Time.
    let sign = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        hs.sign("hs", &claims).unwrap()
    };
    let expired: fn(&TokenError) -> bool = |error| matches!(error, TokenError::Expired { .. });
    let not_yet: fn(&TokenError) -> bool = |error| matches!(error, TokenError::NotYet);
    check("expired now", &sign(|claims| claims.expires_at_ms = NOW), expired, Code::TokenExpired);
    assert!(ring.verify(&sign(|claims| claims.expires_at_ms = NOW + 1), NOW).is_ok());
    check("issued later", &sign(|claims| claims.issued_at_ms = NOW + 60_001), not_yet, Code::BadToken);
    assert!(ring.verify(&sign(|claims| claims.issued_at_ms = NOW + 60_000), NOW).is_ok());
    let later = r#"{"tenant":7,"sub":"a","iat":1700000000,"exp":1700003600,"nbf":1700000061,"jti":"t"}"#;
    check("not before", &forge(header, later, &secret), not_yet, Code::BadToken);
}

#[test]
fn keys_are_checked_replaced_and_ended() {
    let mut ring = KeyRing::new(KeyRingLimits { keys_max: 3, ..KeyRingLimits::default() });
    let key = |number, id: &str, algorithm, material: &[u8]| TenantKey {
        tenant: tenant(number),
        id: id.into(),
        key: Some((algorithm, Bytes::copy_from_slice(material))),
    };
    let mut check = |what: &str, key: &TenantKey, expect: fn(&Result<(), KeyError>) -> bool| {
        let result = ring.apply(key);
        assert!(expect(&result), "{what}: {result:?}");
    };
    let material: fn(&Result<(), KeyError>) -> bool = |result| matches!(result, Err(KeyError::Material(_)));
    check("short secret", &key(7, "a", KeyAlgorithm::Hs256, &[1; 31]), material);
    check("long secret", &key(7, "a", KeyAlgorithm::Hs256, &[1; 1025]), material);
    check("short point", &key(7, "a", KeyAlgorithm::Es256, &[4; 64]), material);
    check("point off the curve", &key(7, "a", KeyAlgorithm::Es256, &[4; 65]), material);
    check("compressed point", &key(7, "a", KeyAlgorithm::Es256, &[2; 33]), material);
    check("short Ed25519", &key(7, "a", KeyAlgorithm::EdDsa, &[1; 31]), material);
    check("no id", &key(7, "", KeyAlgorithm::Hs256, &[1; 32]), |result| matches!(result, Err(KeyError::Id { .. })));
    for id in ["a", "b", "c"] {
        check(id, &key(7, id, KeyAlgorithm::Hs256, &[1; 32]), Result::is_ok);
    }
    check("full", &key(7, "d", KeyAlgorithm::Hs256, &[1; 32]), |result| *result == Err(KeyError::Full { max: 3 }));
    check("same id again", &key(7, "a", KeyAlgorithm::Hs256, &[2; 32]), Result::is_ok);
    let foreign: fn(&Result<(), KeyError>) -> bool = |result| *result == Err(KeyError::ForeignTenant);
    check("another's id", &key(8, "a", KeyAlgorithm::Hs256, &[1; 32]), foreign);
    check("end another's", &TenantKey { tenant: tenant(8), id: "a".into(), key: None }, foreign);
    check("end", &TenantKey { tenant: tenant(7), id: "b".into(), key: None }, Result::is_ok);
    check("room again", &key(8, "d", KeyAlgorithm::Hs256, &[1; 32]), Result::is_ok);
    assert_eq!(ring.keys(), 3);

    // A `keys` frame names tenant 7: its keys a and c go, e comes; tenant 8 keeps d.
    let frame = [key(7, "e", KeyAlgorithm::Hs256, &[5; 32]), key(7, "bad", KeyAlgorithm::Hs256, &[])];
    assert_eq!(ring.replace(&frame).len(), 1);
    assert_eq!(ring.keys(), 2);
    let signer = SigningKey::from_bytes(KeyAlgorithm::Hs256, &[5; 32]).unwrap();
    assert!(ring.verify(&signer.sign("e", &claims()).unwrap(), NOW).is_ok());
    let gone = SigningKey::from_bytes(KeyAlgorithm::Hs256, &[2; 32]).unwrap().sign("a", &claims()).unwrap();
    assert!(matches!(ring.verify(&gone, NOW), Err(TokenError::UnknownKey)));
}

#[test]
fn claims_over_a_limit_are_not_signed() {
    let key = SigningKey::generate(KeyAlgorithm::EdDsa).unwrap();
    let check = |what: &str, change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        assert!(matches!(key.sign("k", &claims), Err(SignError::Claims(_))), "{what}");
    };
    check("no jti", |claims| claims.id.clear());
    check("long device", |claims| claims.device = Some("x".repeat(129)));
    check("many roles", |claims| claims.roles = vec!["r".into(); 33]);
    check("no life", |claims| claims.expires_at_ms = claims.issued_at_ms);
    assert!(matches!(key.sign("", &claims()), Err(SignError::Key(KeyError::Id { len: 0 }))));
    let large = Claims { roles: vec!["r".repeat(128); 32], ..claims() };
    assert!(matches!(key.sign("k", &large), Err(SignError::TooLong { .. })));
}

fn revoke_token(number: u32, id: &str, forget_after_ms: i64) -> TokensRevoked {
    TokensRevoked { tenant: tenant(number), which: RevokedTokens::Token(id.into()), forget_after_ms }
}

#[test]
fn revoked_tokens_are_refused() {
    let (mut ring, keys) = ring();
    let sign = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        keys[0].sign("hs", &claims).unwrap()
    };
    let first = sign(&|_| {});
    let second = sign(&|claims| claims.id = "t2".into());
    let newer = sign(&|claims| {
        claims.id = "t3".into();
        claims.issued_at_ms = NOW;
    });
    let bob = sign(&|claims| {
        claims.id = "t4".into();
        claims.user = user("bob");
    });

    ring.revoke(&revoke_token(8, "t1", NOW + 1), NOW);
    assert!(ring.verify(&first, NOW).is_ok(), "another tenant's revocation");
    ring.revoke(&revoke_token(7, "t1", NOW + 1), NOW);
    assert_eq!(ring.verify(&first, NOW).unwrap_err().code(), Code::TokenRevoked);
    assert!(ring.is_revoked(&claims()));
    assert!(ring.verify(&second, NOW).is_ok());

    let which = RevokedTokens::UserBefore(user("alice"), NOW);
    ring.revoke(&TokensRevoked { tenant: tenant(7), which, forget_after_ms: NOW + 10 }, NOW);
    let which = RevokedTokens::UserBefore(user("alice"), NOW - 10_000);
    ring.revoke(&TokensRevoked { tenant: tenant(7), which, forget_after_ms: NOW + 5 }, NOW);
    assert_eq!(ring.verify(&second, NOW).unwrap_err().code(), Code::TokenRevoked, "an older cut takes nothing back");
    assert!(ring.verify(&newer, NOW).is_ok());
    assert!(ring.verify(&bob, NOW).is_ok());
    assert_eq!(ring.revocations(), 3);

    ring.forget(NOW + 2);
    assert_eq!(ring.revocations(), 1);
    ring.forget(NOW + 11);
    assert_eq!(ring.revocations(), 0);
}

proptest! {
    #[test]
    fn garbage_is_refused(token in ".{0,200}", now in any::<i64>()) {
        prop_assert!(ring().0.verify(&token, now).is_err());
    }

    /// Any change of one byte of a token makes it invalid, at any time.
    #[test]
    fn a_changed_token_is_refused(which in 0..3usize, at in any::<prop::sample::Index>(), with in "[A-Za-z0-9._=-]") {
        let (ring, keys) = ring();
        let token = keys[which].sign(name(&keys[which]), &claims()).unwrap();
        let at = at.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(ring.verify(&changed, NOW).is_err());
        prop_assert!(ring.verify(&token[..at], NOW).is_err());
    }

    /// Whatever the order and however small the room: who is revoked stays out until his token has expired.
    #[test]
    fn no_revocation_is_lost_to_the_limit(
        revocations in prop::collection::vec((1..5u32, 0..6u8, any::<bool>(), 0..1000i64), 1..60),
        max in 1..8usize,
    ) {
        let key = SigningKey::from_bytes(KeyAlgorithm::Hs256, &[1; 32]).unwrap();
        let mut ring = KeyRing::new(KeyRingLimits { revocations_max: max, ..KeyRingLimits::default() });
        for number in 1..5 {
            ring.apply(&key.tenant_key(tenant(number), &format!("k{number}"))).unwrap();
        }
        let mut revoked = Vec::new();
        for (step, (number, who, single, life_ms)) in revocations.into_iter().enumerate() {
            let now = NOW + i64::try_from(step).unwrap() * 10;
            let token = Claims {
                tenant: tenant(number),
                user: user(&format!("u{who}")),
                id: format!("t{who}"),
                issued_at_ms: now - 1000,
                expires_at_ms: now + life_ms + 1,
                ..claims()
            };
            let which = if single {
                RevokedTokens::Token(token.id.clone())
            } else {
                RevokedTokens::UserBefore(token.user.clone(), now)
            };
            ring.revoke(&TokensRevoked { tenant: token.tenant, which, forget_after_ms: token.expires_at_ms }, now);
            prop_assert!(ring.revocations() <= max + 1);
            revoked.push((key.sign(&format!("k{number}"), &token).unwrap(), token.expires_at_ms));
            for (token, expires_at_ms) in &revoked {
                let expect = if *expires_at_ms <= now { Code::TokenExpired } else { Code::TokenRevoked };
                prop_assert_eq!(ring.verify(token, now).unwrap_err().code(), expect);
            }
        }
        // A token issued after everything, beyond the leeway of a cut, is taken.
        let later = NOW + 600_000;
        let fresh = Claims { user: user("new"), id: "fresh".into(), issued_at_ms: later, expires_at_ms: later + 1000, ..claims() };
        let fresh = Claims { tenant: tenant(1), ..fresh };
        prop_assert!(ring.verify(&key.sign("k1", &fresh).unwrap(), later).is_ok());
    }
}
