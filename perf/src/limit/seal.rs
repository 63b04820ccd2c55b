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
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).context("make a key")?);
    let mut data = vec![0; bytes];
    let mut number = 0_u64;
    let seals = || {
        for _ in 0..SEALS {
            number += 1;
            let mut nonce = [0; NONCE_LEN];
            nonce[..8].copy_from_slice(&number.to_le_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut data).context("seal")?;
            black_box(&tag);
        }
        Ok(())
    };
    cpu_ns(SEALS, seals, || Ok(()))
}
