//! Whose word about a request's client is taken, and what that word is: X-Forwarded-For and X-Forwarded-Proto.
//!
//! Each proxy appends the address that it was asked by, so the list is read from its end: addresses of trusted proxies are
//! passed over, and the first that is not one is the client. What stands before it the client may have made up. The rules
//! are uvicorn's, so that a deployment can move here unchanged.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Peers that are trusted to name the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    everyone: bool,
    unix: bool,
    networks: Vec<Network>,
    /// Names that stand in a list of forwarders where an address should.
    literals: Vec<Box<str>>,
}

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    fn holds(self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - self.prefix_bits;
                (u32::from(network) ^ u32::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - self.prefix_bits;
                (u128::from(network) ^ u128::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What a trusted proxy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address, or whatever stands in its place, and its port (0 if none is told).
    pub client: Option<(Box<str>, u16)>,
    /// `http`, `https`, `ws` or `wss`.
    pub scheme: Option<&'static str>,
}

/// A peer that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPeer(String);

impl fmt::Display for InvalidPeer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "expected an address, a network such as 10.0.0.0/8, unix, or * alone, not {:?}", self.0)
    }
}

impl std::error::Error for InvalidPeer {}

impl FromStr for TrustedPeers {
    type Err = InvalidPeer;

    /// Peers separated by commas: addresses, networks, `unix` for Unix-domain peers, names; or `*` for everyone.
    fn from_str(text: &str) -> Result<Self, InvalidPeer> {
        let mut trusted = TrustedPeers::default();
        if text.trim() == "*" {
            return Ok(TrustedPeers { everyone: true, unix: true, ..trusted });
        }
        for peer in text.split(',').map(str::trim).filter(|peer| !peer.is_empty()) {
            match (peer, peer.parse::<IpAddr>()) {
                ("*", _) => return Err(InvalidPeer(text.to_owned())),
                ("unix", _) => trusted.unix = true,
                (_, Ok(address)) => {
                    trusted.networks.push(Network { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } });
                }
                (network, _) if network.contains('/') && !network.starts_with('/') => {
                    let network = parse_network(network).ok_or_else(|| InvalidPeer(network.to_owned()))?;
                    trusted.networks.push(network);
                }
                (name, _) => trusted.literals.push(name.into()),
            }
        }
        Ok(trusted)
    }
}

fn parse_network(text: &str) -> Option<Network> {
    let (address, bits) = text.split_once('/')?;
    let (address, prefix_bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (prefix_bits <= most).then_some(Network { address, prefix_bits })
}

impl TrustedPeers {
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.everyone || self.networks.iter().any(|network| network.holds(ip))
    }

    pub fn trusts_unix(&self) -> bool {
        self.unix
    }

    fn trusts_text(&self, host: &str) -> bool {
        match host.parse() {
            Ok(ip) => self.trusts(ip),
            Err(_) => self.everyone || !host.is_empty() && self.literals.iter().any(|literal| **literal == *host),
        }
    }

    /// What the headers of a request from a trusted peer say; `None` if nothing usable.
    pub fn read_forwarded<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Forwarded> {
        let (mut hosts, mut scheme) = (None::<String>, None);
        for (name, value) in headers {
            if name.eq_ignore_ascii_case(b"x-forwarded-for") {
                let list = match &mut hosts {
                    Some(list) => {
                        list.push_str(", ");
                        list
                    }
                    None => hosts.insert(String::new()),
                };
                list.extend(value.iter().map(|&byte| char::from(byte)));
            } else if name.eq_ignore_ascii_case(b"x-forwarded-proto") {
                // The last one counts, even if it says nothing that is known.
                scheme = known_scheme(value);
            }
        }
        let client = hosts.and_then(|hosts| self.client_of(&hosts));
        (client.is_some() || scheme.is_some()).then_some(Forwarded { client, scheme })
    }

    fn client_of(&self, hosts: &str) -> Option<(Box<str>, u16)> {
        let mut from_the_end = hosts.rsplit(',').map(|host| split_port(host.trim()));
        let first = || hosts.split(',').next().map(|host| split_port(host.trim()));
        let client = match self.everyone {
            true => first(),
            false => from_the_end.find(|(host, _)| !self.trusts_text(host)).or_else(first),
        };
        client.filter(|(host, _)| !host.is_empty()).map(|(host, port)| (host.into(), port))
    }
}

fn known_scheme(value: &[u8]) -> Option<&'static str> {
    match value.trim_ascii() {
        b"http" => Some("http"),
        b"https" => Some("https"),
        b"ws" => Some("ws"),
        b"wss" => Some("wss"),
        _ => None,
    }
}

/// The host and port of `host`, `v4:port`, `[v6]` or `[v6]:port`. What is none of these is a host as it stands.
fn split_port(text: &str) -> (&str, u16) {
    if let Some(inner) = text.strip_prefix('[') {
        return match inner.split_once(']') {
            Some((host, "")) => (host, 0),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => (host, parse_port(port).unwrap_or(0)),
                None => (text, 0),
            },
            None => (text, 0),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => parse_port(port).map_or((text, 0), |port| (host, port)),
        _ => (text, 0),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(text: &str) -> TrustedPeers {
        text.parse().unwrap()
    }

    fn client(trusted_peers: &str, lists: &[&str]) -> Option<(String, u16)> {
        let headers = lists.iter().map(|list| (&b"X-Forwarded-For"[..], list.as_bytes()));
        let (host, port) = trusted(trusted_peers).read_forwarded(headers)?.client?;
        Some((host.into(), port))
    }

    fn named(host: &str) -> Option<(String, u16)> {
        Some((host.to_owned(), 0))
    }

    #[test]
    fn networks_hold_what_is_inside_them() {
        let peers = trusted("127.0.0.1, ::1, 10.0.0.0/8,2001:db8::/33, 0.0.0.0/32");
        for (ip, inside) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::1", true),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
            ("0.0.0.0", true),
        ] {
            assert_eq!(peers.trusts(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(trusted("0.0.0.0/0").trusts("1.2.3.4".parse().unwrap()));
        assert!(trusted("::/0").trusts("::5".parse().unwrap()) && !trusted("::/0").trusts("1.2.3.4".parse().unwrap()));
        assert!(!TrustedPeers::default().trusts("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn unix_peers_are_trusted_by_name_or_with_everyone() {
        assert!(trusted("unix").trusts_unix() && trusted("*").trusts_unix());
        assert!(!trusted("127.0.0.1").trusts_unix() && !trusted("0.0.0.0/0").trusts_unix());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "*,127.0.0.1", "a/b"] {
            assert!(text.parse::<TrustedPeers>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_client_is_the_last_that_is_no_trusted_proxy() {
        assert_eq!(client("127.0.0.1", &["203.0.113.9"]), named("203.0.113.9"));
        assert_eq!(client("127.0.0.1", &["6.6.6.6, 203.0.113.9"]), named("203.0.113.9"));
        assert_eq!(client("127.0.0.1,10.0.0.0/8", &["6.6.6.6, 203.0.113.9,10.1.1.1 , 10.2.2.2"]), named("203.0.113.9"));
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "203.0.113.9"]), named("203.0.113.9"));
        assert_eq!(client("10.0.0.0/8", &["10.0.0.1, 10.0.0.2"]), named("10.0.0.1"));
        assert_eq!(client("*", &["6.6.6.6, 203.0.113.9"]), named("6.6.6.6"));
        assert_eq!(client("10.0.0.1, inner", &["6.6.6.6, inner"]), named("6.6.6.6"));
    }

    #[test]
    fn what_is_no_address_is_taken_as_it_stands_and_nothing_is_nobody() {
        assert_eq!(client("127.0.0.1", &["unknown"]), named("unknown"));
        assert_eq!(client("127.0.0.1", &["_hidden, 1.2.3.4:bad"]), named("1.2.3.4:bad"));
        for list in ["", " , ", "203.0.113.9,"] {
            assert_eq!(client("127.0.0.1", &[list]), None, "{list:?}");
        }
    }

    #[test]
    fn a_port_is_told_where_it_stands() {
        let with_port = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(client("127.0.0.1", &["203.0.113.9:4711, 127.0.0.1:80"]), with_port("203.0.113.9", 4711));
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]:4711"]), with_port("2001:db8::1", 4711));
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]"]), named("2001:db8::1"));
        assert_eq!(client("127.0.0.1", &["2001:db8::1"]), named("2001:db8::1"));
        assert_eq!(client("127.0.0.1", &["[::1"]), named("[::1"));
        assert_eq!(client("127.0.0.1", &["[::2]x"]), named("[::2]x"));
    }

    #[test]
    fn a_scheme_is_one_of_four() {
        let scheme = |values: &[&str]| {
            let headers = values.iter().map(|value| (&b"x-forwarded-proto"[..], value.as_bytes()));
            trusted("*").read_forwarded(headers).and_then(|forwarded| forwarded.scheme)
        };
        assert_eq!(
            (scheme(&["https"]), scheme(&["wss"]), scheme(&["http", "https"])),
            (Some("https"), Some("wss"), Some("https"))
        );
        assert_eq!((scheme(&["HTTPS"]), scheme(&["https,http"]), scheme(&["https", "gopher"])), (None, None, None));
    }
}
