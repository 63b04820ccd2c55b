//! An access token from a stranger: never a panic, and none is accepted that our key did not sign within the rules.
//!
//! The first byte chooses: the rest is a whole token, or the claims of one that is signed as it should be, so that the fuzzer gets past
//! the signature.
#![no_main]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_protocol::TenantId;
use millrace_protocol::node::{KeyAlgorithm, TenantKey};
use millrace_token::{KeyRing, KeyRingLimits};

const SECRET: [u8; 32] = [7; 32];
const NOW_MS: i64 = 1_700_000_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let tenant = TenantId::new(1).expect("not 0");
    let mut ring = KeyRing::new(KeyRingLimits::default());
    let key = Some((KeyAlgorithm::Hs256, Bytes::from_static(&SECRET)));
    ring.apply(&TenantKey { tenant, id: "k".into(), key }).expect("a good key");
    if choice % 2 == 0 {
        if let Ok(token) = std::str::from_utf8(rest) {
            let verified = ring.verify(token, NOW_MS);
            // Only a signature could make it good, and nobody finds one here.
            assert!(verified.is_err(), "{token} was accepted");
        }
        return;
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"k"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(rest));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(claims) = ring.verify(&token, NOW_MS) {
        assert_eq!(claims.tenant, tenant, "a key speaks for its tenant alone");
        assert!(claims.expires_at_ms > NOW_MS, "an expired token was accepted");
        assert!(claims.expires_at_ms - claims.issued_at_ms <= 24 * 3600 * 1000, "a token may live for a day");
    }
});
