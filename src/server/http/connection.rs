//! What an idle connection keeps in its slot: who is at the other end, and nothing else of size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::exchange::{Answer, Exchange, Stage};
use crate::net::SocketAddress;
use crate::server::survey::Phase;

/// The other end, in 20 bytes (a `SocketAddr` takes 32).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerAddress {
    /// Nobody has asked the kernel yet.
    #[default]
    Unknown,
    V4(Ipv4Addr, u16),
    V6(Ipv6Addr, u16),
    /// A Unix-domain peer; it has no address that means anything.
    Unix,
}

impl PeerAddress {
    /// Address and port, where there are any.
    pub fn internet(self) -> Option<(IpAddr, u16)> {
        match self {
            PeerAddress::V4(ip, port) => Some((ip.into(), port)),
            PeerAddress::V6(ip, port) => Some((ip.into(), port)),
            PeerAddress::Unknown | PeerAddress::Unix => None,
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        SocketAddress::from(address).into()
    }
}

impl From<SocketAddress> for PeerAddress {
    /// An IPv4 peer of a dual-stack listener is shown as what it is, without `::ffff:`.
    fn from(address: SocketAddress) -> Self {
        match address {
            SocketAddress::V4(address) => PeerAddress::V4(*address.ip(), address.port()),
            SocketAddress::V6(address) => match address.ip().to_ipv4_mapped() {
                Some(ip) => PeerAddress::V4(ip, address.port()),
                None => PeerAddress::V6(*address.ip(), address.port()),
            },
            SocketAddress::Unix(_) => PeerAddress::Unix,
        }
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.internet() {
            Some((ip, port)) => SocketAddr::new(ip, port).fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// What is to be remembered of a connection, a bit each: a million idle ones pay for every byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks(u8);

impl Marks {
    /// It has sent a request, or a part of one.
    pub const GREETED: Marks = Marks(1);
    /// Counted against its address.
    pub const COUNTED: Marks = Marks(2);
    /// Its first bytes must announce the client, by the PROXY protocol.
    pub const AWAITS_PROXY_HEADER: Marks = Marks(4);
    /// Another protocol has taken it over; the HTTP server neither reads nor times it any more.
    pub const UPGRADED: Marks = Marks(8);
    /// The peer has had no room for a moment: what it takes now may only fill buffers.
    pub const FILLS: Marks = Marks(16);

    pub fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }

    pub fn set(&mut self, mark: Marks) {
        self.0 |= mark.0;
    }

    pub fn clear(&mut self, mark: Marks) {
        self.0 &= !mark.0;
    }
}

const _: () = assert!(size_of::<HttpConnection>() <= 32);

impl HttpConnection {
    /// Whether another protocol has taken the connection over ([`HttpServer::upgrade`](super::HttpServer::upgrade)).
    pub fn is_upgraded(&self) -> bool {
        self.marks.has(Marks::UPGRADED)
    }

    /// What it is in the middle of, unless it closes or its peer does not read.
    pub fn phase(&self) -> Phase {
        match &self.active {
            _ if self.is_upgraded() => Phase::Upgraded,
            None if self.marks.has(Marks::GREETED) => Phase::Idle,
            None => Phase::New,
            Some(exchange) => match (exchange.answer, exchange.stage) {
                (_, Stage::Head) => Phase::Reading,
                (Answer::Unstarted, Stage::Body | Stage::Whole) => Phase::Handling,
                (Answer::Started | Answer::Complete, Stage::Body | Stage::Whole) => Phase::Answering,
            },
        }
    }

    /// Who is at the other end, if anybody has wanted to know.
    pub fn known_peer(&self) -> PeerAddress {
        self.peer
    }

    /// Bytes that have come and that nobody has taken.
    pub fn held_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |exchange| exchange.pending().len() + exchange.body_bytes())
    }

    /// Method and path of the request that is under way.
    pub fn asks(&self) -> Option<String> {
        self.active.as_ref()?.asks().map(|asks| String::from_utf8_lossy(&asks).into_owned())
    }
}

/// A connection's state in its reactor slot.
#[derive(Default)]
pub struct HttpConnection {
    /// Only while there is a request, or a part of one.
    pub(super) active: Option<Box<Exchange>>,
    pub(super) peer: PeerAddress,
    /// Which of the server's listeners it came through.
    pub(super) listener: u16,
    /// Which of the server's own addresses it came to, plus one; 0 while nobody has asked.
    pub(super) local: u8,
    pub(super) marks: Marks,
}
