//! Random ids, secrets that are shown once, and sealing of answers that have such secrets in them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millrace_protocol::id::ChannelId;

/// Characters of ids: no two look alike.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random generator does not fail once it has begun");
    bytes
}

/// A number for a new channel: random in every bit, for its lowest place the channel on a shard, and below 2^63.
pub(crate) fn channel_id() -> ChannelId {
    loop {
        if let Some(id) = ChannelId::new(u64::from_be_bytes(random()) >> 1) {
            return id;
        }
    }
}

/// A random id of 16 letters and digits, 80 bits.
pub(crate) fn random_id() -> String {
    random::<16>().iter().map(|byte| char::from(ID_ALPHABET[usize::from(byte & 31)])).collect()
}

/// A random secret of 256 bits, as text.
pub(crate) fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// SHA-256.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// What is kept of a secret: its SHA-256 in hex. Secrets are random, so that no slow hash is needed.
pub(crate) fn fingerprint(secret: &str) -> String {
    digest::digest(&digest::SHA256, secret.as_bytes())
        .as_ref()
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Whether a secret is the one that a fingerprint was made of, in constant time.
pub(crate) fn matches(secret: &str, expected: &str) -> bool {
    constant_time::verify_slices_are_equal(fingerprint(secret).as_bytes(), expected.as_bytes()).is_ok()
}

/// Seals bytes that only whoever shows the same credential may read again.
#[derive(Clone, Copy)]
pub(crate) struct Sealer([u8; 32]);

impl Sealer {
    /// A sealer whose key follows from a credential.
    pub(crate) fn new(credential: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, credential);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&key, b"millrace sealed answer").as_ref());
        Self(bytes)
    }

    fn key(self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("the key has the length that the cipher wants");
        LessSafeKey::new(key)
    }

    /// Encrypts; the nonce comes first.
    pub(crate) fn seal(self, plain: &[u8]) -> Vec<u8> {
        let nonce = random::<NONCE_LEN>();
        let mut sealed = plain.to_vec();
        self.key()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("an answer is far below the cipher's limit of 64 GiB");
        sealed.splice(0..0, nonce);
        sealed
    }

    /// Decrypts what [`seal`](Self::seal) made; `None` if it was sealed under another credential or has been changed.
    pub(crate) fn open(self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let len = self.key().open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_the_same_credential_only() {
        let sealer = Sealer::new(b"mr_a_b");
        let sealed = sealer.seal(b"an answer");
        assert_eq!(sealer.open(&sealed).as_deref(), Some(&b"an answer"[..]));
        assert_eq!(Sealer::new(b"mr_a_c").open(&sealed), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(sealer.open(&changed), None, "byte {index}");
        }
        assert_eq!(sealer.open(b"short"), None);
    }

    #[test]
    fn secrets_match_their_fingerprint() {
        // Source: FIPS 180-4, example of one block.
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(matches("abc", &fingerprint("abc")));
        assert!(!matches("abd", &fingerprint("abc")));
        assert_ne!(sha256(&[b"ab", b"c"]), sha256(&[b"a", b"bc"]));
    }

    /// The data plane takes a channel's place from the lowest bits of its number.
    #[test]
    fn channels_are_spread_over_all_shards() {
        const CHANNELS: u64 = 4_096;
        for shards in [2, 3, 4, 8, 16_u64] {
            let mut channels = vec![0; usize::try_from(shards).unwrap()];
            for _ in 0..CHANNELS {
                channels[usize::try_from(channel_id().get() % 1_024 % shards).unwrap()] += 1;
            }
            // An even share is at least 256 here, give or take 16: half of it is never missed by chance.
            assert!(channels.iter().all(|&channels| channels > CHANNELS / shards / 2), "{channels:?}");
        }
    }

    #[test]
    fn ids_are_letters_and_digits() {
        let (one, other) = (random_id(), random_id());
        assert_ne!(one, other);
        assert!(one.len() == 16 && one.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}
