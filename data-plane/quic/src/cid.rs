//! Connection ids that say which shard a connection lives on, to us and to nobody else.
//!
//! Shape: 8 bytes. The first 16 bits, big-endian, are the key's generation (2, in clear), the node (6) and the shard (8), the
//! latter two under a mask; then a nonce of 48 bits. The mask is a keyed hash of the nonce, so two ids of one connection look
//! unrelated (RFC 9000 §9.5), and yet a few hundred instructions of classic BPF find the shard ([`crate::steering`]).

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use siphasher::sip::SipHasher24;

/// Bytes of a connection id.
pub const CID_BYTES: usize = 8;

/// Most shards that an id can name.
pub const SHARDS_MAX: u16 = 256;

/// What stays in clear of the first 16 bits: the generation.
pub(crate) const CLEAR: u16 = 0xC000;
const GENERATION_SHIFT: u16 = 14;
const NODE_SHIFT: u16 = 8;
const NODE_MASK: u16 = 0x3F;

/// How ids are made and read: the same on all shards of a node.
#[derive(Clone, Copy)]
pub struct CidKey {
    /// Secret.
    pub(crate) key: [u32; 2],
    /// Which key it is: 0 to 3. Ids of another generation are nobody's.
    pub(crate) generation: u8,
    /// Which node of those behind one address, 0 to 63.
    pub(crate) node: u8,
}

impl std::fmt::Debug for CidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CidKey").field("generation", &self.generation).field("node", &self.node).finish_non_exhaustive()
    }
}

impl CidKey {
    /// The key of generation 0 on node 0.
    pub fn new(key: [u8; 8]) -> Self {
        let (high, low) = (u32::from_be_bytes(half(&key, 0)), u32::from_be_bytes(half(&key, 4)));
        Self { key: [high, low], generation: 0, node: 0 }
    }

    /// The same key under another generation (0 to 3) and node (0 to 63); higher bits are cut off.
    #[must_use]
    pub fn placed(self, generation: u8, node: u8) -> Self {
        Self { generation: generation & 3, node: node & 0x3F, ..self }
    }

    /// The shard that issued an id; `None` if this node did not. Of random ids one in 256 passes.
    pub fn shard_of(&self, cid: &[u8; CID_BYTES]) -> Option<u8> {
        let [first, shard] = (u16::from_be_bytes([cid[0], cid[1]]) ^ self.mask(cid)).to_be_bytes();
        (first == (self.fields(0) >> 8).to_be_bytes()[1]).then_some(shard)
    }

    fn fields(&self, shard: u8) -> u16 {
        let node = (u16::from(self.node) & NODE_MASK) << NODE_SHIFT;
        u16::from(self.generation) << GENERATION_SHIFT | node | u16::from(shard)
    }

    fn mask(&self, cid: &[u8; CID_BYTES]) -> u16 {
        let words = [u32::from_be_bytes(half(cid, 2)), u32::from(u16::from_be_bytes([cid[6], cid[7]])) | NONCE_TAIL];
        let [.., high, low] = half_siphash(self.key, words).to_be_bytes();
        u16::from_be_bytes([high, low]) & !CLEAR
    }

    fn issue(&self, shard: u8, nonce: u64) -> [u8; CID_BYTES] {
        let mut cid = (nonce & ((1 << 48) - 1)).to_be_bytes();
        let first = (self.fields(shard) ^ self.mask(&cid)).to_be_bytes();
        cid[..2].copy_from_slice(&first);
        cid
    }
}

/// The length of a nonce, as HalfSipHash puts it into the last word.
pub(crate) const NONCE_TAIL: u32 = 6 << 24;

fn half(bytes: &[u8; 8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

/// HalfSipHash-1-3 over two words, with big-endian words because BPF reads them so. A mask is all that is asked of it: who could
/// turn it round would learn which ids are of one shard.
///
/// Source: <https://www.aumasson.jp/siphash/siphash.pdf>, and the reference code for 32-bit words.
fn half_siphash(key: [u32; 2], words: [u32; 2]) -> u32 {
    let mut v = initial(key);
    for word in words {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xFF;
    for _ in 0..3 {
        round(&mut v);
    }
    v[1] ^ v[3]
}

pub(crate) fn initial([k0, k1]: [u32; 2]) -> [u32; 4] {
    [k0, k1, 0x6C79_6765 ^ k0, 0x7465_6463 ^ k1]
}

/// One step of a round of HalfSipHash.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Add(usize, usize),
    Xor(usize, usize),
    Rotate(usize, u32),
}

/// A round: Rust and BPF run the same table.
pub(crate) const ROUND: [Step; 14] = [
    Step::Add(0, 1),
    Step::Rotate(1, 5),
    Step::Xor(1, 0),
    Step::Rotate(0, 16),
    Step::Add(2, 3),
    Step::Rotate(3, 8),
    Step::Xor(3, 2),
    Step::Add(0, 3),
    Step::Rotate(3, 7),
    Step::Xor(3, 0),
    Step::Add(2, 1),
    Step::Rotate(1, 13),
    Step::Xor(1, 2),
    Step::Rotate(2, 16),
];

fn round(v: &mut [u32; 4]) {
    for step in ROUND {
        match step {
            Step::Add(a, b) => v[a] = v[a].wrapping_add(v[b]),
            Step::Xor(a, b) => v[a] ^= v[b],
            Step::Rotate(a, bits) => v[a] = v[a].rotate_left(bits),
        }
    }
}

/// Makes one shard's ids.
pub(crate) struct ShardCids {
    key: CidKey,
    shard: u8,
    nonces: SipHasher24,
    issued: u64,
    last: LastCid,
}

/// The id that was issued last. An endpoint keeps to itself which one it gave to a new connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastCid(Arc<AtomicU64>);

impl LastCid {
    /// As a big-endian number.
    pub(crate) fn get(&self) -> u64 {
        // The endpoint and who asks are in one thread.
        self.0.load(Ordering::Relaxed)
    }
}

impl ShardCids {
    /// `seed` is random, and told to nobody.
    pub(crate) fn new(key: CidKey, shard: u8, seed: [u64; 2], last: LastCid) -> Self {
        Self { key, shard, nonces: SipHasher24::new_with_keys(seed[0], seed[1]), issued: 0, last }
    }
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.issued += 1;
        let mut hasher = self.nonces;
        hasher.write_u64(self.issued);
        let cid = self.key.issue(self.shard, hasher.finish());
        self.last.0.store(u64::from_be_bytes(cid), Ordering::Relaxed);
        ConnectionId::new(&cid)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let cid: &[u8; CID_BYTES] = (**cid).try_into().map_err(|_| InvalidCid)?;
        if self.key.shard_of(cid) == Some(self.shard) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn key() -> CidKey {
        CidKey::new(*b"8 bytes.").placed(2, 37)
    }

    #[test]
    fn an_id_tells_its_shard_to_who_has_the_key() {
        let other = CidKey::new(*b"another.").placed(2, 37);
        let mut taken_for_own = 0;
        for shard in [0, 1, 7, 255] {
            let mut ids = ShardCids::new(key(), shard, [1, 2], LastCid::default());
            for _ in 0..500 {
                let cid = ids.generate_cid();
                assert!(ids.validate(&cid).is_ok());
                let bytes: [u8; CID_BYTES] = (*cid).try_into().unwrap();
                assert_eq!(key().shard_of(&bytes), Some(shard));
                assert_eq!(key().placed(1, 37).shard_of(&bytes), None, "another generation");
                taken_for_own += u32::from(other.shard_of(&bytes).is_some());
            }
        }
        // Under a wrong key 6 bits must match by chance: 2,000 / 64.
        assert!((5..90).contains(&taken_for_own), "{taken_for_own}");
    }

    /// Whoever sees many ids of one connection must not find a part that they share.
    #[test]
    fn ids_of_one_shard_have_nothing_in_common() {
        let mut ids = ShardCids::new(key(), 3, [5, 6], LastCid::default());
        let cids: Vec<u64> = (0..4096).map(|_| u64::from_be_bytes((*ids.generate_cid()).try_into().unwrap())).collect();
        for bit in 0..62 {
            let set = cids.iter().filter(|&cid| cid >> bit & 1 == 1).count();
            assert!((1850..2250).contains(&set), "bit {bit} is set in {set} of 4096");
        }
        let mut once = cids.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), cids.len());
    }

    #[test]
    fn ids_of_another_length_are_refused() {
        let ids = ShardCids::new(key(), 3, [5, 6], LastCid::default());
        for len in [0, 7, 9, 20] {
            assert!(ids.validate(&ConnectionId::new(&vec![0; len])).is_err());
        }
    }
}
