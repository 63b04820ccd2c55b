//! Where a datagram belongs, by its first bytes, before any endpoint sees it.
//!
//! An endpoint that gets a packet of another shard's connection would answer with a stateless reset, and a valid one, since all
//! shards share the key: the connection would die when its client changes its address. So this comes first.

use crate::cid::{CID_BYTES, CidKey};

/// Where a datagram belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Here: it may begin a connection, or belongs to one of this shard.
    Here,
    /// To a connection of another shard.
    Shard(u16),
    /// To nobody.
    Nobody,
}

/// What a datagram is about, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It may begin a connection.
    First,
    /// It names an id that looks like one of ours, but none of a handshake under way: it shows its address after a Retry, comes late, or
    /// is somebody's invention.
    Claimed,
    /// It goes on with the handshake of the connection that has this id, or was sent behind what does.
    Begun(u64),
    /// It has the form of those of open connections, and names this id.
    Open(u64),
}

const LONG_HEADER: u8 = 0x80;
/// Type of a long header's packet, with its value for a handshake packet of version 1.
const TYPE: u8 = 0x30;
const HANDSHAKE: u8 = 0x20;

/// Tells where a datagram goes that came in on shard `here` of `shards`.
///
/// - A short header starts with a connection id of ours.
/// - So does a handshake packet. Packets of other kinds stay where they land: their id may be the client's choice, and what comes
///   from one address and port lands on one shard.
///
/// Source: RFC 9000 §17; RFC 8999 for what holds in every version.
pub fn route(key: &CidKey, here: u16, shards: u16, datagram: &[u8]) -> Route {
    let Some((&first, rest)) = datagram.split_first() else { return Route::Nobody };
    let cid = if first & LONG_HEADER == 0 {
        let Some(cid) = rest.first_chunk::<CID_BYTES>() else { return Route::Nobody };
        cid
    } else {
        // Version 4, length of the id 1, id.
        let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Route::Nobody };
        let Some((&len, rest)) = rest.split_first() else { return Route::Nobody };
        match u32::from_be_bytes(*version) {
            // A client has no version to negotiate with us.
            0 => return Route::Nobody,
            1 if first & TYPE == HANDSHAKE && usize::from(len) == CID_BYTES => {}
            _ => return Route::Here,
        }
        let Some(cid) = rest.first_chunk::<CID_BYTES>() else { return Route::Nobody };
        cid
    };
    match key.shard_of(cid).map(u16::from) {
        Some(shard) if shard == here => Route::Here,
        Some(shard) if shard < shards => Route::Shard(shard),
        _ => Route::Nobody,
    }
}

/// Tells what a datagram is about; `is_handshake` tells whether the connection with an id of ours is in its handshake. What is no packet at
/// all may begin a connection.
///
/// Source: RFC 9000 §17.
pub(crate) fn stage(key: &CidKey, datagram: &[u8], is_handshake: impl FnOnce(u64) -> bool) -> Stage {
    let Some((&first, rest)) = datagram.split_first() else { return Stage::First };
    let is_long = first & LONG_HEADER != 0;
    let cid = if is_long {
        // Version 4, length of the id 1, id.
        let of_ours = rest.get(4).filter(|&&len| usize::from(len) == CID_BYTES);
        of_ours.and_then(|_| rest[5..].first_chunk::<CID_BYTES>()).filter(|cid| key.shard_of(cid).is_some())
    } else {
        rest.first_chunk::<CID_BYTES>()
    };
    let Some(cid) = cid.copied().map(u64::from_be_bytes) else { return Stage::First };
    match is_handshake(cid) {
        true => Stage::Begun(cid),
        false if is_long => Stage::Claimed,
        false => Stage::Open(cid),
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::ConnectionIdGenerator;

    use super::*;
    use crate::cid::{LastCid, ShardCids};

    #[test]
    fn datagrams_find_their_shard() {
        let key = CidKey::new(*b"8 bytes.");
        let cid = |shard| (*ShardCids::new(key, shard, [1, 2], LastCid::default()).generate_cid()).to_vec();
        let check = |datagram: &[&[u8]], expect: Route| {
            assert_eq!(route(&key, 1, 3, &datagram.concat()), expect, "{datagram:x?}");
        };
        let payload = [7; 30];
        check(&[], Route::Nobody);
        check(&[&[0x40], &cid(1), &payload], Route::Here);
        check(&[&[0x40], &cid(2), &payload], Route::Shard(2));
        check(&[&[0x40], &cid(2)], Route::Shard(2));
        check(&[&[0x40], &cid(2)[..7]], Route::Nobody);
        check(&[&[0x40], &cid(3), &payload], Route::Nobody);
        // Handshake packets carry our id; Initial and 0-RTT packets may not.
        check(&[&[0xE0, 0, 0, 0, 1, 8], &cid(2), &payload], Route::Shard(2));
        check(&[&[0xC0, 0, 0, 0, 1, 8], &cid(2), &payload], Route::Here);
        check(&[&[0xD0, 0, 0, 0, 1, 8], &cid(2), &payload], Route::Here);
        check(&[&[0xE0, 0, 0, 0, 1, 9], &[1; 9], &payload], Route::Here);
        check(&[&[0xE0, 0, 0, 0, 1, 8], &cid(2)[..5]], Route::Nobody);
        check(&[&[0xC0, 0, 0, 0]], Route::Nobody);
        check(&[&[0xC0, 0, 0, 0, 1]], Route::Nobody);
        // Another version may be anything, and is told which ones there are; a negotiation is no client's.
        check(&[&[0xE0, 0x1A, 0x2A, 0x3A, 0x4A, 8], &cid(2), &payload], Route::Here);
        check(&[&[0x80, 0, 0, 0, 0, 8], &cid(1), &payload], Route::Nobody);
    }

    #[test]
    fn a_datagram_tells_what_it_is_about() {
        let key = CidKey::new(*b"8 bytes.");
        let mut cids = ShardCids::new(key, 1, [1, 2], LastCid::default());
        let [ours, begun] = [(); 2].map(|()| (*cids.generate_cid()).to_vec());
        let number = |cid: &[u8]| u64::from_be_bytes(cid.try_into().unwrap());
        let check = |datagram: &[&[u8]], expect: Stage| {
            let found = stage(&key, &datagram.concat(), |cid| cid == number(&begun));
            assert_eq!(found, expect, "{datagram:x?}");
        };
        check(&[], Stage::First);
        check(&[&[0x40], &ours], Stage::Open(number(&ours)));
        check(&[&[0x40], &begun, &[7; 20]], Stage::Begun(number(&begun)));
        check(&[&[0x40]], Stage::First);
        check(&[&[0xC0, 0, 0, 0, 1, 8], &ours], Stage::Claimed);
        check(&[&[0xE0, 0, 0, 0, 1, 8], &ours, &[7; 20]], Stage::Claimed);
        check(&[&[0xC0, 0, 0, 0, 1, 8], &begun], Stage::Begun(number(&begun)));
        check(&[&[0xE0, 0, 0, 0, 1, 8], &begun, &[7; 20]], Stage::Begun(number(&begun)));
        check(&[&[0xC0, 0, 0, 0, 1, 8], &[9; 8]], Stage::First);
        check(&[&[0xC0, 0, 0, 0, 1, 9], &ours, &[7; 20]], Stage::First);
        check(&[&[0xC0, 0, 0, 0, 1, 8], &ours[..7]], Stage::First);
        check(&[&[0xC0, 0, 0]], Stage::First);
    }

    #[test]
    fn every_beginning_of_a_packet_is_routed_without_panic() {
        let key = CidKey::new(*b"8 bytes.");
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = state.to_be_bytes().repeat(3);
            let len = usize::try_from(state >> 59).unwrap().min(24);
            let found = route(&key, 0, 2, &bytes[..len]);
            assert!(matches!(found, Route::Here | Route::Nobody | Route::Shard(1)), "{found:?}");
        }
    }
}
