//! Keys of a handshake's packets, and two things that they spare.
//!
//! - First packets are protected by keys that anybody can derive (RFC 9001 §5.2). `quinn-proto` has them derived twice, to look at the packet
//!   and again for the connection that it becomes. Here the second time gets what the first one made.
//! - A client fills its first datagrams with PADDING frames of one byte each, some 2,000 in a handshake, and `quinn-proto` takes them one by
//!   one: a twentieth of the work of a handshake. They mean nothing, so what stands behind the last other frame is cut off.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use quinn_proto::ConnectionId;
use quinn_proto::crypto::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey};

/// Keys of one connection's first packets, for the endpoint and for the connection.
pub(super) type Shared = Arc<Keys>;

/// The keys that were derived last, and what for.
#[derive(Default)]
pub(super) struct Last(Mutex<Option<(u32, ConnectionId, Shared)>>);

impl Last {
    /// Keys for this version and id, which are made if they are not those that were made last.
    pub(super) fn keys<E>(
        &self,
        version: u32,
        cid: &ConnectionId,
        make: impl FnOnce() -> Result<Keys, E>,
    ) -> Result<Keys, E> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked for twice, and then no more.
        let shared = match last.take() {
            Some((of_version, of_cid, shared)) if of_version == version && of_cid == *cid => shared,
            _ => {
                let shared = Arc::new(make()?);
                *last = Some((version, *cid, Arc::clone(&shared)));
                shared
            }
        };
        let one = |side| One { keys: Arc::clone(&shared), side };
        Ok(Keys {
            header: KeyPair { local: Box::new(one(Way::Out)), remote: Box::new(one(Way::In)) },
            packet: KeyPair { local: Box::new(one(Way::Out)), remote: Box::new(Unpadded(one(Way::In))) },
        })
    }
}

#[derive(Clone, Copy)]
enum Way {
    Out,
    In,
}

/// One of the keys that are shared.
struct One {
    keys: Shared,
    side: Way,
}

impl One {
    fn header(&self) -> &dyn HeaderKey {
        match self.side {
            Way::Out => &*self.keys.header.local,
            Way::In => &*self.keys.header.remote,
        }
    }

    fn packet(&self) -> &dyn PacketKey {
        match self.side {
            Way::Out => &*self.keys.packet.local,
            Way::In => &*self.keys.packet.remote,
        }
    }
}

impl HeaderKey for One {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.header().decrypt(pn_offset, packet);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.header().encrypt(pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        self.header().sample_size()
    }
}

impl PacketKey for One {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.packet().encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.packet().decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.packet().tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.packet().confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.packet().integrity_limit()
    }
}

/// A key of Initial or Handshake packets that come.
pub(super) struct Unpadded<K>(pub(super) K);

impl<K: PacketKey> PacketKey for Unpadded<K> {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)?;
        let bytes = unpadded_bytes(payload);
        if bytes < payload.len() / 2 {
            // What is kept of it is counted by its length: cut off alone, it would hold the whole datagram in memory.
            *payload = BytesMut::from(&payload[..bytes]);
        } else {
            payload.truncate(bytes);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// Bytes of an authentic payload up to the end of its last frame that is not PADDING; one at least, as a payload without a frame is an error. All
/// of them where there is a frame that handshakes do not have, or that is cut off: whoever takes the frames says what that means.
///
/// Source: RFC 9000 §12.4, §19.1 to §19.6.
fn unpadded_bytes(payload: &[u8]) -> usize {
    let mut rest = payload;
    loop {
        let Some((&kind, behind)) = rest.split_first() else { return payload.len() };
        let next = match kind {
            // PADDING. Mostly it is the rest.
            0 => match rest.iter().position(|&byte| byte != 0) {
                Some(other) => rest.get(other..),
                None => return (payload.len() - rest.len()).max(1).min(payload.len()),
            },
            // PING.
            1 => Some(behind),
            // ACK, without and with counts of ECN.
            2 | 3 => ack(behind, kind == 3),
            // CRYPTO: offset, length, bytes.
            6 => varint(behind)
                .and_then(|(_, behind)| varint(behind))
                .and_then(|(len, behind)| behind.get(usize::try_from(len).ok()?..)),
            _ => None,
        };
        let Some(next) = next else { return payload.len() };
        rest = next;
    }
}

/// What stands behind an ACK: largest, delay, count of further ranges, first range; gap and length of each; three counts.
fn ack(behind: &[u8], has_counts: bool) -> Option<&[u8]> {
    let (_, behind) = varint(behind)?;
    let (_, behind) = varint(behind)?;
    let (ranges, behind) = varint(behind)?;
    let (_, mut behind) = varint(behind)?;
    // Each takes two bytes at least.
    let ranges = usize::try_from(ranges).ok().filter(|&ranges| ranges <= behind.len() / 2)?;
    for _ in 0..2 * ranges + if has_counts { 3 } else { 0 } {
        behind = varint(behind)?.1;
    }
    Some(behind)
}

/// A number of 1, 2, 4 or 8 bytes, as the first two bits say (RFC 9000 §16), and what stands behind it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = bytes.first()?;
    let (number, behind) = bytes.split_at_checked(1 << (first >> 6))?;
    let number = number[1..].iter().fold(u64::from(first & 0x3F), |number, &byte| number << 8 | u64::from(byte));
    Some((number, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[&[u8]], expect: usize) {
        let payload = payload.concat();
        assert_eq!(unpadded_bytes(&payload), expect, "{payload:02x?}");
    }

    #[test]
    fn padding_behind_the_last_frame_is_cut_off() {
        let padding = [0; 900];
        let crypto: &[u8] = &[6, 0x40, 0x10, 3, b'a', b'b', b'c'];
        let zeros: &[u8] = &[6, 0, 4, 0, 0, 0, 0];
        let ack: &[u8] = &[2, 5, 0x40, 9, 1, 0, 1, 2];
        let counted: &[u8] = &[3, 5, 0, 0, 0, 1, 0x80, 0, 0, 1, 0];
        check(&[crypto, &padding], crypto.len());
        check(&[crypto], crypto.len());
        // Zeros within a frame are not padding.
        check(&[zeros, &padding], zeros.len());
        check(&[ack, &padding], ack.len());
        check(&[counted, &padding], counted.len());
        check(&[ack, crypto, &[1], &padding], ack.len() + crypto.len() + 1);
        // Between frames it stays.
        check(&[&[0, 0, 0], crypto, &[0], ack, &padding], 3 + crypto.len() + 1 + ack.len());
        check(&[&padding], 1);
        check(&[], 0);
    }

    #[test]
    fn what_is_not_understood_stays_whole() {
        for frame in [
            &[6, 0, 0x44, 0, 1][..],                     // CRYPTO of more than there is.
            &[6],                                        // Nothing behind the type.
            &[2, 5, 0, 0x80, 0xFF, 0xFF, 0xFF, 0, 1, 2], // Millions of ranges.
            &[2, 5, 0, 2, 0, 1, 1],                      // Fewer ranges than it says.
            &[0x1C, 0, 0, 0],                            // CONNECTION_CLOSE.
            &[8, 1, 2],                                  // STREAM, which has no place here.
            &[0xC0],                                     // A type of which a part is missing.
        ] {
            check(&[frame], frame.len());
            let with_padding = [frame, &[0; 3]].concat();
            // Zeros may be what was missing of it.
            let goes_on = frame.len() == 1 || frame[0] < 4;
            assert!(goes_on || unpadded_bytes(&with_padding) == with_padding.len(), "{frame:02x?}");
        }
        // No bytes whatever end in a panic, or in more than there was.
        let mut random = 7_u64;
        for len in 0..400 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    u8::try_from(random >> 60).unwrap()
                })
                .collect();
            assert!(unpadded_bytes(&bytes) <= bytes.len());
        }
    }
}
