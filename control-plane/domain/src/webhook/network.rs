//! Which addresses requests may go to: the public ones, and those of networks that an operator opens, but for those that it denies. A webhook's URL is a stranger's, and the
//! control node stands inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, such as `10.1.0.0/16` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, a slash and the number of leading bits that count, such as 10.1.0.0/16")]
pub struct NetworkError;

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(a: u16, b: u16, bits: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), bits }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = text.split_once('/').ok_or(NetworkError)?;
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let bits: u8 = bits.parse().map_err(|_| NetworkError)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        if bits > max {
            return Err(NetworkError);
        }
        // Addresses are judged as what they are, so that a network is to be what it is, too.
        match (address.to_canonical(), bits.checked_sub(96)) {
            (inner @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => Ok(Self { address: inner, bits }),
            _ => Ok(Self { address, bits }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// IPv4 that is not the internet. Source: the IANA registry of special-purpose addresses, RFC 6890.
const SPECIAL_V4: [Network; 16] = [
    Network::v4(0, 0, 0, 0, 8),
    Network::v4(10, 0, 0, 0, 8),
    Network::v4(100, 64, 0, 0, 10),
    Network::v4(127, 0, 0, 0, 8),
    // Not of the registry: the machines' own service of a large host, reached from inside alone.
    Network::v4(168, 63, 129, 16, 32),
    Network::v4(169, 254, 0, 0, 16),
    Network::v4(172, 16, 0, 0, 12),
    Network::v4(192, 0, 0, 0, 24),
    Network::v4(192, 0, 2, 0, 24),
    Network::v4(192, 88, 99, 0, 24),
    Network::v4(192, 168, 0, 0, 16),
    Network::v4(198, 18, 0, 0, 15),
    Network::v4(198, 51, 100, 0, 24),
    Network::v4(203, 0, 113, 0, 24),
    Network::v4(224, 0, 0, 0, 4),
    Network::v4(240, 0, 0, 0, 4),
];
/// All of IPv6 that is given out to be reached from everywhere.
const GLOBAL_V6: Network = Network::v6(0x2000, 0, 3);
/// What of it is not: protocols of the IETF, documentation, 6to4.
const SPECIAL_V6: [Network; 4] = [
    Network::v6(0x2001, 0, 23),
    Network::v6(0x2001, 0xdb8, 32),
    Network::v6(0x2002, 0, 16),
    Network::v6(0x3fff, 0, 20),
];
/// IPv4 behind a translator (NAT64). Source: RFC 6052 §2.1.
const TRANSLATED_V4: Network = Network::v6(0x64, 0xff9b, 96);

/// The networks that requests may go to: public ones and those that are opened, but for those that are denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    opened: Vec<Network>,
    denied: Vec<Network>,
}

impl Networks {
    /// These beside the public ones.
    pub fn new(networks: Vec<Network>) -> Self {
        Self { opened: networks, denied: Vec::new() }
    }

    /// Never these, public or opened as they may be: what an operator has at public addresses trusts its own network, too.
    #[must_use]
    pub fn without(self, denied: Vec<Network>) -> Self {
        Self { denied, ..self }
    }

    /// Public addresses, and this machine: for development.
    pub fn with_loopback() -> Self {
        let v6 = Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 };
        Self::new(vec![Network::v4(127, 0, 0, 0, 8), v6])
    }

    /// Whether a request may go there. An address of IPv4 in clothes of IPv6 is judged as what it is.
    pub fn allow(&self, address: IpAddr) -> bool {
        let (as_given, address) = (address, plain(address));
        let is_in = |networks: &[Network], address| networks.iter().any(|network| network.contains(address));
        // A translator as a whole can be denied, too.
        let is_denied = is_in(&self.denied, address) || is_in(&self.denied, as_given);
        !is_denied && (is_in(&self.opened, address) || is_public(address))
    }
}

fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if TRANSLATED_V4.contains(address) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        address => address.to_canonical(),
    }
}

fn is_public(address: IpAddr) -> bool {
    let special: &[Network] = if address.is_ipv4() { &SPECIAL_V4 } else { &SPECIAL_V6 };
    let given_out = address.is_ipv4() || GLOBAL_V6.contains(address);
    given_out && !special.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(networks: &Networks, address: &str) -> bool {
        networks.allow(address.parse().unwrap())
    }

    #[test]
    fn only_the_internet_is_public() {
        let none = Networks::default();
        for public in
            ["1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            assert!(allow(&none, public), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
            "fec0::1",
            "100::1",
        ] {
            assert!(!allow(&none, inside), "{inside}");
        }
    }

    #[test]
    fn named_networks_are_open_too() {
        let networks =
            Networks::new(["10.1.0.0/16", "fd00::/8", "192.0.2.7/32"].map(|text| text.parse().unwrap()).into());
        for inside in ["10.1.255.255", "::ffff:10.1.0.1", "fd12::1", "192.0.2.7"] {
            assert!(allow(&networks, inside), "{inside}");
        }
        for outside in ["10.2.0.0", "fc00::1", "192.0.2.8", "127.0.0.1"] {
            assert!(!allow(&networks, outside), "{outside}");
        }
        let loopback = Networks::with_loopback();
        assert!(allow(&loopback, "127.3.2.1") && allow(&loopback, "::1") && !allow(&loopback, "10.0.0.1"));
        assert!(Networks::new(vec!["0.0.0.0/0".parse().unwrap()]).allow([10, 0, 0, 1].into()));
    }

    #[test]
    fn denied_networks_are_closed_whatever_they_are() {
        let denied = ["8.8.8.0/24", "10.1.2.0/24", "2606:4700::/32"].map(|text| text.parse().unwrap());
        let networks = Networks::new(vec!["10.1.0.0/16".parse().unwrap()]).without(denied.into());
        for inside in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "10.1.2.3", "2606:4700::1111"] {
            assert!(!allow(&networks, inside), "{inside}");
        }
        for outside in ["8.8.4.4", "10.1.3.1", "2606:4701::1"] {
            assert!(allow(&networks, outside), "{outside}");
        }
    }

    /// Whichever way a network is written, it is the same one: a wall that is written in IPv6 stands.
    #[test]
    fn ipv4_in_clothes_of_ipv6_is_ipv4_in_networks_too() {
        let denied = ["::ffff:8.8.8.0/120", "64:ff9b::/96"].map(|text| text.parse().unwrap());
        let networks = Networks::new(vec!["::ffff:10.1.0.0/112".parse().unwrap()]).without(denied.into());
        for closed in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "64:ff9b::101:101"] {
            assert!(!allow(&networks, closed), "{closed}");
        }
        for open in ["10.1.0.9", "::ffff:10.1.0.9", "1.1.1.1", "8.8.4.4"] {
            assert!(allow(&networks, open), "{open}");
        }
    }

    #[test]
    fn networks_are_written_as_everywhere() {
        for good in ["10.0.0.0/8", "::/0", "fd00::/8", "1.2.3.4/32"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }
}
