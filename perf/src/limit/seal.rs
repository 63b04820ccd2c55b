//! Encryption as TLS 1.3 and SRTP do it for each record or packet.

use std::hint::black_box;

use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::clock::cpu_ns;
use super::{Place, Rounds, SEAL_MESSAGE, SEAL_PACKET};

const SEALS: u64 = 500;

/// Seals in place, each with a nonce of its own.
pub(super) fn seal(_: Place<'_>) -> Result<Rounds> {
    Ok(vec![(SEAL_MESSAGE, "ns", sealed(170)?), (SEAL_PACKET, "ns", sealed(1_200)?)])
}

fn sealed(bytes: usize) -> Result<Vec<f64>> {
    let mut sealer = Sealer::new()?;
    let mut data = vec![0; bytes];
    let seals = || (0..SEALS).try_for_each(|_| sealer.seal(&mut data));
    cpu_ns(SEALS, seals, || Ok(()))
}

/// One key, and the number of the next record.
pub(super) struct Sealer {
    key: LessSafeKey,
    number: u64,
}

impl Sealer {
    pub(super) fn new() -> Result<Self> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).context("make a key")?;
        Ok(Self { key: LessSafeKey::new(key), number: 0 })
    }

    /// Seals in place; the tag goes nowhere.
    pub(super) fn seal(&mut self, data: &mut [u8]) -> Result<()> {
        self.number += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), data).context("seal")?;
        black_box(&tag);
        Ok(())
    }
}
