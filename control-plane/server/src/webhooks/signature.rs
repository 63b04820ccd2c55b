//! Signatures of requests, by the Standard Webhooks specification (version 1): what a receiver's library verifies.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::secret;

/// What stands before a secret in base64.
const SECRET_PREFIX: &str = "whsec_";

/// A new key: 256 random bits in base64.
pub(crate) fn new_key() -> String {
    STANDARD.encode(secret::random::<32>())
}

/// A key as it is shown.
pub(crate) fn secret_text(key: &str) -> String {
    format!("{SECRET_PREFIX}{key}")
}

/// The header `webhook-signature`: one signature for each key, with blanks between. A key that is no base64 signs nothing.
pub(crate) fn sign<'a>(keys: impl Iterator<Item = &'a str>, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut header = String::new();
    for key in keys.filter_map(|key| STANDARD.decode(key).ok()) {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
        context.update(id.as_bytes());
        context.update(format!(".{timestamp_s}.").as_bytes());
        context.update(body);
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        header.push_str(&STANDARD.encode(context.sign()));
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: the reference libraries' own test of `sign`.
    #[test]
    fn the_specifications_vector() {
        let key = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let sign = |keys: &[&str]| {
            let body = br#"{"test": 2432232314}"#;
            sign(keys.iter().copied(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        };
        let expect = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(&[key]), expect);
        assert_eq!(sign(&[key, key]), format!("{expect} {expect}"), "one for each key");
        assert_eq!(sign(&["!", key]), expect);
        assert_eq!(sign(&[]), "");
        assert_eq!(secret_text(key), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(STANDARD.decode(new_key()).unwrap().len(), 32);
    }
}
