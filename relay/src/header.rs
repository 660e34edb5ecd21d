//! Whom a PROXY protocol header of version 2 speaks for, where there is no doubt about it.
//!
//! `sniproxy/proxy_protocol.py` is the reader; this one is sure of what load balancers send for their clients (PROXY over
//! TCP, with a checksum, padding, or values of types that nobody has registered), and leaves all else to it: version 1,
//! LOCAL, other families, registered values. It must never name another client than Python would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The start of what may become a header.
    More,
    /// The client, and the size of the header.
    Source(SocketAddr, usize),
    /// Something for Python.
    Unsure,
}

/// Bytes after the fixed part, as Python has it.
const MOST: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const FIXED: usize = 16;

const CRC32C: u8 = 3;
const REGISTERED: [u8; 5] = [1, 2, 5, 0x20, 0x30]; // ALPN, authority, unique id, SSL, network namespace

/// Reads what has come so far.
#[must_use]
pub fn read(bytes: &[u8]) -> Header {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] || bytes.get(12).is_some_and(|&byte| byte != PROXY) {
        return Header::Unsure;
    }
    let addresses = match bytes.get(13) {
        None => return Header::More,
        Some(&TCP4) => 12,
        Some(&TCP6) => 36,
        Some(_) => return Header::Unsure,
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else {
        return Header::More;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < addresses || length > MOST {
        return Header::Unsure;
    }
    let Some(header) = bytes.get(..FIXED + length) else {
        return Header::More;
    };
    match source(header, addresses) {
        Some(source) if is_sound(header, FIXED + addresses) => Header::Source(source, header.len()),
        _ => Header::Unsure,
    }
}

fn source(header: &[u8], addresses: usize) -> Option<SocketAddr> {
    let body = &header[FIXED..FIXED + addresses];
    let (ip, port) = if addresses == 12 {
        let ip: [u8; 4] = body[..4].try_into().ok()?;
        (IpAddr::V4(Ipv4Addr::from(ip)), &body[8..10])
    } else {
        let ip: [u8; 16] = body[..16].try_into().ok()?;
        (IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), &body[32..34])
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
}

/// Whether its values fill it, and its checksum is right.
fn is_sound(header: &[u8], mut at: usize) -> bool {
    let mut sum = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return false;
        };
        let start = at + 3;
        at = start + usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = header.get(start..at) else {
            return false;
        };
        if kind == CRC32C {
            let Ok(value) = <[u8; 4]>::try_from(value) else {
                return false;
            };
            if sum.replace((start, u32::from_be_bytes(value))).is_some() {
                return false;
            }
        } else if REGISTERED.contains(&kind) {
            return false;
        }
    }
    sum.is_none_or(|(start, value)| {
        let before = crc32c::crc32c(&header[..start]);
        let zeros = crc32c::crc32c_append(before, &[0; 4]);
        crc32c::crc32c_append(zeros, &header[start + 4..]) == value
    })
}

/// A network, as bits of an IPv6 address: an IPv4 network is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    bits: u128,
    length: u8,
}

impl Network {
    /// The first `length` bits of an address; None where it has not so many.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (bits, offset) = mapped(address);
        let length = length.checked_add(offset)?;
        (length <= 128).then_some(Self { bits, length })
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = self.bits ^ mapped(address).0;
        self.length == 0 || differs >> (128 - u32::from(self.length)) == 0
    }
}

fn mapped(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96),
        IpAddr::V6(address) => (address.to_bits(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(family: u8, addresses: &[u8], values: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len() + values.len()).unwrap();
        let fixed = [&[PROXY, family], &length.to_be_bytes()[..]].concat();
        [&SIGNATURE[..], &fixed, addresses, values].concat()
    }

    fn four(values: &[u8]) -> Vec<u8> {
        header(
            TCP4,
            &[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80],
            values,
        )
    }

    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let sum = crc32c::crc32c(&bytes);
        bytes[end..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn the_client_is_read_and_every_start_of_it_asks_for_more() {
        let player: SocketAddr = "192.0.2.7:4660".parse().unwrap();
        let mapped = [
            &[0; 10][..],
            &[255, 255, 192, 0, 2, 7],
            &[0; 16],
            &[0x12, 0x34, 0, 80],
        ]
        .concat();
        for bytes in [
            four(b""),
            four(&[4, 0, 3, 1, 2, 3]),
            four(&[0xea, 0, 1, 7, 0xea, 0, 0]),
            summed(four(&[CRC32C, 0, 4, 0, 0, 0, 0])),
            header(TCP6, &mapped, b""),
        ] {
            assert_eq!(read(&bytes), Header::Source(player, bytes.len()));
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Header::More, "{end}");
            }
            let behind = [&bytes[..], b"\x16\x03"].concat();
            assert_eq!(read(&behind), Header::Source(player, bytes.len()));
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_python() {
        let mut long = four(b"");
        long[14] = 0x20;
        for bytes in [
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
            header(0x12, &[0; 12], b""),
            header(TCP4, &[0; 11], b""),
            four(&[2, 0, 1, b'x']),
            four(&[0x20, 0, 5, 0, 0, 0, 0, 0]),
            four(&[CRC32C, 0, 4, 0, 0, 0, 0]),
            four(&[CRC32C, 0, 3, 0, 0, 0]),
            summed(four(&[CRC32C, 0, 4, 0, 0, 0, 0, CRC32C, 0, 4, 0, 0, 0, 0])),
            four(&[0xea, 0, 9]),
            four(&[0xea, 0]),
            long,
        ] {
            assert_eq!(read(&bytes), Header::Unsure, "{bytes:?}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_in_either_family() {
        let network = |text: &str, length| Network::new(text.parse().unwrap(), length).unwrap();
        let holds = |network: Network, text: &str| network.contains(text.parse().unwrap());
        assert!(holds(network("10.0.0.0", 8), "10.255.0.1"));
        assert!(holds(network("10.0.0.0", 8), "::ffff:10.1.2.3"));
        assert!(!holds(network("10.0.0.0", 8), "11.0.0.0"));
        assert!(!holds(network("10.0.0.0", 8), "a00::1"));
        assert!(holds(network("0.0.0.0", 0), "203.0.113.9"));
        assert!(!holds(network("0.0.0.0", 0), "2001:db8::1"));
        assert!(holds(network("::", 0), "203.0.113.9"));
        assert!(holds(network("2001:db8::", 32), "2001:db8:ffff::"));
        assert!(!holds(network("192.0.2.7", 32), "192.0.2.6"));
        assert!(Network::new("192.0.2.7".parse().unwrap(), 33).is_none());
    }
}
