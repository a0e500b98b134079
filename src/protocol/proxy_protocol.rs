//! The PROXY protocol, versions 1 and 2: what a proxy sends ahead of a connection's bytes, to say whose they are
//! (haproxy.org, "The PROXY protocol", revised 2020). Pure functions of bytes: a header is read whole or not at all, and
//! the outcome does not depend on how it arrives.
//!
//! Whoever can send such a header can claim any address: take it only from trusted peers, and there insist on it. The
//! protocol forbids guessing whether a header is there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr;

/// Version 1: one line, with its CR LF.
pub const MAX_V1_BYTES: usize = 107;
/// Version 2, with its optional fields (TLVs), which are skipped. Senders keep to 536 bytes unless they add certificates.
pub const MAX_V2_BYTES: usize = 4096;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, length.
const V2_FIXED_BYTES: usize = V2_START.len() + 4;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length: what follows is the connection's own.
    pub bytes: usize,
    /// Who opened the connection to the proxy; `None` if the proxy speaks for itself (LOCAL), or does not know (UNKNOWN):
    /// then the connection's real addresses hold.
    pub source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Internet(SocketAddr),
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolError {
    /// It begins like neither version.
    NoHeader,
    TooLong,
    BadLine,
    BadVersion,
    BadCommand,
    BadFamily,
    /// The announced length does not hold the addresses.
    TooShort,
}

impl fmt::Display for ProxyProtocolError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::NoHeader => "the connection does not begin with a PROXY protocol header",
            Self::TooLong => "the PROXY protocol header is longer than its version allows",
            Self::BadLine => "the PROXY protocol's line is malformed",
            Self::BadVersion => "the PROXY protocol header has a version other than 1 and 2",
            Self::BadCommand => "the PROXY protocol header has a command other than LOCAL and PROXY",
            Self::BadFamily => "the PROXY protocol header has an unknown address family or transport",
            Self::TooShort => "the PROXY protocol header is too short for its addresses",
        })
    }
}

impl std::error::Error for ProxyProtocolError {}

/// Read the header at the start of `bytes`, which are all that have arrived; `None` while it is not whole.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    if begins(bytes, V2_START) {
        parse_v2(bytes)
    } else if begins(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(ProxyProtocolError::NoHeader)
    }
}

/// Whether `bytes` are, or may become, what begins with `start`. The two starts differ in their first byte.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    let window = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = memchr(b'\n', window) else {
        return if window.len() < MAX_V1_BYTES { Ok(None) } else { Err(ProxyProtocolError::TooLong) };
    };
    let line = window[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(V1_START));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyProtocolError::BadLine)?;
    let source = read_line(line).ok_or(ProxyProtocolError::BadLine)?;
    Ok(Some(Header { bytes: end + 1, source }))
}

/// `TCP4 source destination source-port destination-port`, or `UNKNOWN` and whatever follows it.
fn read_line(line: &str) -> Option<Option<Source>> {
    let mut fields = line.split(' ');
    let is_v6 = match fields.next()? {
        "UNKNOWN" => return Some(None),
        "TCP4" => false,
        "TCP6" => true,
        _ => return None,
    };
    let mut address = || -> Option<IpAddr> {
        let text = fields.next()?;
        if is_v6 { text.parse().ok().map(IpAddr::V6) } else { text.parse().ok().map(IpAddr::V4) }
    };
    let (source, _destination) = (address()?, address()?);
    let (source_port, _destination_port) = (read_port(fields.next()?)?, read_port(fields.next()?)?);
    fields.next().is_none().then_some(Some(Source::Internet(SocketAddr::new(source, source_port))))
}

/// Decimal digits, without leading zeros.
fn read_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, ProxyProtocolError> {
    let Some(&[version_and_command, family_and_transport, length_high, length_low]) =
        bytes.get(V2_START.len()..).and_then(<[u8]>::first_chunk)
    else {
        return Ok(None);
    };
    if version_and_command >> 4 != 2 {
        return Err(ProxyProtocolError::BadVersion);
    }
    let total = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([length_high, length_low]));
    if total > MAX_V2_BYTES {
        return Err(ProxyProtocolError::TooLong);
    }
    let is_local = match version_and_command & 15 {
        0 => true,
        1 => false,
        _ => return Err(ProxyProtocolError::BadCommand),
    };
    let (family, transport) = (family_and_transport >> 4, family_and_transport & 15);
    if family > 3 || transport > 2 {
        return Err(ProxyProtocolError::BadFamily);
    }
    let Some(addresses) = bytes.get(V2_FIXED_BYTES..total) else { return Ok(None) };
    // Of LOCAL the receiver must not look at the addresses; unspecified ones say nothing.
    let source = if is_local || family == 0 || transport == 0 { None } else { Some(read_source(family, addresses)?) };
    Ok(Some(Header { bytes: total, source }))
}

/// Source and destination address, then both ports; what follows are TLVs.
fn read_source(family: u8, addresses: &[u8]) -> Result<Source, ProxyProtocolError> {
    const UNIX_BYTES: usize = 2 * 108;
    let port = |at: usize| addresses.get(at..at + 4).map(|ports| u16::from_be_bytes([ports[0], ports[1]]));
    let source = match family {
        1 => addresses.first_chunk::<4>().zip(port(8)).map(|(ip, port)| (Ipv4Addr::from(*ip).into(), port)),
        2 => addresses.first_chunk::<16>().zip(port(32)).map(|(ip, port)| (Ipv6Addr::from(*ip).into(), port)),
        _ if addresses.len() >= UNIX_BYTES => return Ok(Source::Unix),
        _ => None,
    };
    source.map(|(ip, port)| Source::Internet(SocketAddr::new(ip, port))).ok_or(ProxyProtocolError::TooShort)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet(text: &str) -> Option<Source> {
        Some(Source::Internet(text.parse().unwrap()))
    }

    /// A version 2 header of these fields.
    fn v2(version_and_command: u8, family_and_transport: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [V2_START, &[version_and_command, family_and_transport], &length, payload].concat()
    }

    /// What `bytes`, then a request, are read as: the same however they are split.
    fn read(bytes: &[u8]) -> Result<Option<Source>, ProxyProtocolError> {
        let stream = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        let whole = parse(&stream);
        for end in 0..=stream.len() {
            match parse(&stream[..end]) {
                Ok(None) => assert!(whole.is_err() || end < bytes.len(), "{end} bytes are whole, and not seen so"),
                found => assert_eq!(found, whole, "differs after {end} bytes"),
            }
        }
        let header = whole?.expect("the header is whole");
        assert_eq!(header.bytes, bytes.len());
        Ok(header.source)
    }

    #[test]
    fn a_line_names_its_source() {
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"), Ok(internet("192.0.2.7:56324")));
        assert_eq!(read(b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n"), Ok(internet("[2001:db8::7]:0")));
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(read(b"PROXY UNKNOWN ffff:: what not 1 2\r\n"), Ok(None));
    }

    #[test]
    fn a_malformed_line_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 127.0.0.1 127.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(ProxyProtocolError::BadLine), "{line:?}");
        }
        assert_eq!(read(b"PROXY \xff\r\n"), Err(ProxyProtocolError::BadLine));
    }

    #[test]
    fn a_line_has_its_bound() {
        let longest = [&b"PROXY UNKNOWN "[..], &[b'x'; 107 - 16], b"\r\n"].concat();
        assert_eq!((longest.len(), read(&longest)), (MAX_V1_BYTES, Ok(None)));
        let longer = [&b"PROXY UNKNOWN "[..], &[b'x'; 107 - 15], b"\r\n"].concat();
        assert_eq!(read(&longer), Err(ProxyProtocolError::TooLong));
    }

    #[test]
    fn a_binary_header_names_its_source_and_its_tlvs_are_skipped() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 1, 187];
        assert_eq!(read(&v2(0x21, 0x11, &v4)), Ok(internet("192.0.2.7:56324")));
        assert_eq!(read(&v2(0x21, 0x11, &[&v4[..], b"\x04\x00\x03abc"].concat())), Ok(internet("192.0.2.7:56324")));
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 7, 80);
        assert_eq!(read(&v2(0x21, 0x21, &v6)), Ok(internet("[2001::7]:80")));
        assert_eq!(read(&v2(0x21, 0x31, &[0; 216])), Ok(Some(Source::Unix)));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_or_does_not_know_leaves_the_addresses_alone() {
        assert_eq!(read(&v2(0x20, 0x11, &[1; 12])), Ok(None));
        assert_eq!(read(&v2(0x20, 0x00, b"")), Ok(None));
        assert_eq!(read(&v2(0x21, 0x00, b"\x04\x00\x00")), Ok(None));
        assert_eq!(read(&v2(0x21, 0x10, &[1; 12])), Ok(None));
    }

    #[test]
    fn a_malformed_binary_header_is_refused() {
        assert_eq!(read(&v2(0x11, 0x11, &[0; 12])), Err(ProxyProtocolError::BadVersion));
        assert_eq!(read(&v2(0x22, 0x11, &[0; 12])), Err(ProxyProtocolError::BadCommand));
        assert_eq!(read(&v2(0x21, 0x41, &[0; 12])), Err(ProxyProtocolError::BadFamily));
        assert_eq!(read(&v2(0x21, 0x13, &[0; 12])), Err(ProxyProtocolError::BadFamily));
        assert_eq!(read(&v2(0x21, 0x11, &[0; 11])), Err(ProxyProtocolError::TooShort));
        assert_eq!(read(&v2(0x21, 0x21, &[0; 35])), Err(ProxyProtocolError::TooShort));
        assert_eq!(read(&v2(0x21, 0x31, &[0; 215])), Err(ProxyProtocolError::TooShort));
        assert_eq!(read(&v2(0x20, 0x11, &[0; MAX_V2_BYTES])), Err(ProxyProtocolError::TooLong));
    }

    #[test]
    fn anything_else_is_no_header_from_its_first_wrong_byte_on() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXYTCP4", b"proxy TCP4", b"\r\n\r\n\0\r\nQUID", b"\x16\x03\x01"]
        {
            assert_eq!(read(bytes), Err(ProxyProtocolError::NoHeader), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(None));
    }
}
