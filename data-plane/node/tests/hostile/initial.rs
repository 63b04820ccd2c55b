//! First packets of clients that never were.

use rustls::quic::{Suite, Version};
use rustls::{CipherSuite, Side, SupportedCipherSuite};

/// The beginning of a handshake, which can be sent again as that of another client.
pub(crate) struct Beginning {
    scid_and_token: Vec<u8>,
    number: u64,
    payload: Vec<u8>,
    suite: Suite,
}

/// Where the id of a first packet begins, behind its first byte and its version.
const DCID: usize = 6;
/// What seals a packet, behind it.
const TAG_BYTES: usize = 16;

impl Beginning {
    /// Opens a recorded first packet, which is sealed with keys that anybody can know (RFC 9001 §5.2).
    pub(crate) fn of(packet: &[u8]) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let suite = provider.cipher_suites.iter().find_map(|suite| match suite {
            SupportedCipherSuite::Tls13(suite) if suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256 => {
                suite.quic_suite()
            }
            _ => None,
        });
        let suite = suite.expect("the suite of first packets");
        let mut packet = packet.to_vec();
        let dcid_end = DCID + usize::from(packet[5]);
        let keys = suite.keys(&packet[DCID..dcid_end], Side::Server, Version::V1);
        // Its own id, a token of no bytes, and a length of two bytes that takes up the rest.
        let scid_end = dcid_end + 1 + usize::from(packet[dcid_end]);
        assert_eq!(packet[scid_end], 0, "no token");
        let number_at = scid_end + 3;
        let (front, back) = packet.split_at_mut(number_at + 4);
        let (first, rest) = front.split_first_mut().expect("a packet");
        keys.remote.header.decrypt_in_place(&back[..16], first, &mut rest[number_at - 1..]).expect("protected");
        let number_len = usize::from(packet[0] & 3) + 1;
        let number = packet[number_at..number_at + number_len].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let (header, payload) = packet.split_at_mut(number_at + number_len);
        let mut payload = keys.remote.packet.decrypt_in_place(number, header, payload).expect("sealed").to_vec();
        // The ids to come may be shorter, and a first datagram has to have 1,200 bytes (RFC 9000 §14.1).
        payload.resize(payload.len() + 20, 0);
        Self { scid_and_token: header[dcid_end..=scid_end].to_vec(), number, payload, suite }
    }

    /// As of a client that chose this id.
    pub(crate) fn from(&self, dcid: u64) -> Vec<u8> {
        self.spoiled(dcid, |_| {})
    }

    /// The same, with something else in it.
    pub(crate) fn spoiled(&self, dcid: u64, spoil: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let dcid = dcid.to_be_bytes();
        let keys = self.suite.keys(&dcid, Side::Client, Version::V1);
        let number = u32::try_from(self.number).expect("a first packet").to_be_bytes();
        let mut packet = vec![0xC3, 0, 0, 0, 1, 8];
        packet.extend_from_slice(&dcid);
        packet.extend_from_slice(&self.scid_and_token);
        let len = u16::try_from(number.len() + self.payload.len() + TAG_BYTES).expect("a packet") | 0x4000;
        packet.extend_from_slice(&len.to_be_bytes());
        let number_at = packet.len();
        packet.extend_from_slice(&number);
        let mut payload = self.payload.clone();
        spoil(&mut payload);
        let tag = keys.local.packet.encrypt_in_place(self.number, &packet, &mut payload).expect("sealed");
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let (front, back) = packet.split_at_mut(number_at + 4);
        let (first, rest) = front.split_first_mut().expect("a packet");
        keys.local.header.encrypt_in_place(&back[..16], first, &mut rest[number_at - 1..]).expect("protected");
        packet
    }
}
