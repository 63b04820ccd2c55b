//! Access tokens for peers: JSON Web Tokens over HMAC-SHA256, with the secret that stands in the settings of `perf/peers`.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// Known to everybody: it guards nothing.
pub(crate) const SECRET: &str = "the token secret of a benchmark run";

/// Makes a token for each client.
pub(crate) struct Tokens {
    key: hmac::Key,
    header: String,
    expires_at: u64,
}

impl Tokens {
    /// Tokens that are valid until `expires_at`; Unix time, seconds.
    pub(crate) fn new(expires_at: u64) -> Self {
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), header, expires_at }
    }

    /// The token of a client by its number. `jid` is where ejabberd looks for the user.
    pub(crate) fn sign(&self, client: u32) -> String {
        let user = user(client);
        let claims = format!(r#"{{"sub":"{user}","jid":"{user}@localhost","exp":{}}}"#, self.expires_at);
        let mut token = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = hmac::sign(&self.key, token.as_bytes());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

/// What a client is called.
pub(crate) fn user(client: u32) -> String {
    format!("user-{client}")
}

/// What a channel is called.
pub(crate) fn channel(number: u32) -> String {
    format!("room-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected token was made and verified with another implementation, Node's.
    #[test]
    fn a_token_is_signed_as_others_sign_it() {
        let token = Tokens::new(2_000_000_000).sign(7);
        assert_eq!(token, EXPECTED);
    }

    const EXPECTED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1c2VyLTciLCJqaWQiOiJ1c2VyLTdAbG9jYWxob3N0IiwiZXhwIjoyMDAwMDAwMDAwfQ.8q_sx8Mn9ZLgeRd44vqb7VXkJbDjoIlzesNjbvrsvHM";
}
