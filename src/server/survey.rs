//! A Survey looks at the open connections of one reactor, one by one, and keeps those that somebody asked to see.
//!
//! Nothing is kept for it while nobody asks: who is there is in the reactor's slots, what has come and left the kernel has
//! counted. It goes through the slots in steps of a bounded time, between turns; so it sees each connection at a moment of its
//! own, misses those that come behind it, and tells nothing of those that have gone since. What it keeps is bounded by what is
//! shown.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::Connection;
use super::http::PeerAddress;
use crate::core::{Glance, Io, Token};
use crate::net::{self, tcp_figures};
use crate::protocol::http1::forwarded::TrustedPeers;

/// What a connection is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It has asked nothing yet.
    New,
    /// Between two requests, or two frames.
    Idle,
    /// Part of a request, or of a frame, is there.
    Reading,
    /// The application has a request, or a frame, and has answered nothing.
    Handling,
    /// A response has begun.
    Answering,
    /// The peer does not take what is sent as fast.
    Sending,
    /// All has been said, and the end is on its way.
    Closing,
    /// Another protocol has taken it over.
    Upgraded,
}

impl Phase {
    pub const ALL: [Phase; 8] = [
        Phase::New,
        Phase::Idle,
        Phase::Reading,
        Phase::Handling,
        Phase::Answering,
        Phase::Sending,
        Phase::Closing,
        Phase::Upgraded,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Phase::New => "new",
            Phase::Idle => "idle",
            Phase::Reading => "reading",
            Phase::Handling => "handling",
            Phase::Answering => "answering",
            Phase::Sending => "sending",
            Phase::Closing => "closing",
            Phase::Upgraded => "upgraded",
        }
    }
}

/// Which connections come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Oldest,
    Newest,
    /// Most bytes that wait to be sent.
    Queued,
    /// Most bytes that have come and left.
    Bytes,
    /// Longest without any.
    Silent,
}

impl Order {
    pub const ALL: [Order; 5] = [Order::Oldest, Order::Newest, Order::Queued, Order::Bytes, Order::Silent];

    pub const fn name(self) -> &'static str {
        match self {
            Order::Oldest => "oldest",
            Order::Newest => "newest",
            Order::Queued => "queued",
            Order::Bytes => "bytes",
            Order::Silent => "silent",
        }
    }
}

/// What somebody wants to see.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    pub order: Order,
    pub phase: Option<Phase>,
    /// As they were asked for, and as they are looked for.
    pub peers: Option<(String, TrustedPeers)>,
    pub rows: usize,
}

impl Query {
    pub const MAX_ROWS: usize = 200;
    const ROWS: usize = 100;
    const MAX_BYTES: usize = 512;
}

/// Why a query is none.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidQuery(&'static str);

impl fmt::Display for InvalidQuery {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.0)
    }
}

impl InvalidQuery {
    pub const fn reason(&self) -> &'static str {
        self.0
    }
}

const LONG: InvalidQuery = InvalidQuery("Expected a query of at most 512 bytes.");
const FIELD: InvalidQuery = InvalidQuery("Expected sort, state, peer and rows, each with a value and at most once.");
const SORT: InvalidQuery = InvalidQuery("Expected sort to be oldest, newest, queued, bytes or silent.");
const STATE: InvalidQuery =
    InvalidQuery("Expected state to be new, idle, reading, handling, answering, sending, closing or upgraded.");
const PEER: InvalidQuery = InvalidQuery("Expected peer to be addresses and networks such as 10.0.0.0/8, or unix.");
const ROWS: InvalidQuery = InvalidQuery("Expected rows to be a number from 1 to 200.");

impl FromStr for Query {
    type Err = InvalidQuery;

    /// `sort=queued&state=sending&peer=10.0.0.0/8&rows=50`; what is left out, or empty, is the default's.
    fn from_str(text: &str) -> Result<Self, InvalidQuery> {
        if text.len() > Self::MAX_BYTES {
            return Err(LONG);
        }
        let mut query = Query { order: Order::Oldest, phase: None, peers: None, rows: Self::ROWS };
        let mut seen = Vec::new();
        for field in text.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').ok_or(FIELD)?;
            if seen.contains(&name) {
                return Err(FIELD);
            }
            seen.push(name);
            let value = &*decoded(value);
            match name {
                "sort" | "state" | "peer" | "rows" if value.is_empty() => {}
                "sort" => query.order = Order::ALL.into_iter().find(|each| each.name() == value).ok_or(SORT)?,
                "state" => query.phase = Some(Phase::ALL.into_iter().find(|each| each.name() == value).ok_or(STATE)?),
                "peer" => query.peers = Some((value.to_owned(), peers(value).ok_or(PEER)?)),
                "rows" => {
                    let rows = value.parse().ok().filter(|rows| (1..=Self::MAX_ROWS).contains(rows));
                    query.rows = rows.ok_or(ROWS)?;
                }
                _ => return Err(FIELD),
            }
        }
        Ok(query)
    }
}

impl fmt::Display for Query {
    /// The same for all queries that ask for the same.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "sort={}&rows={}", self.order.name(), self.rows)?;
        if let Some(phase) = self.phase {
            write!(to, "&state={}", phase.name())?;
        }
        match &self.peers {
            Some((peers, _)) => write!(to, "&peer={peers}"),
            None => Ok(()),
        }
    }
}

/// Addresses and networks alone: a name is no peer's.
fn peers(text: &str) -> Option<TrustedPeers> {
    let is_meant = |part: &str| part == "unix" || part.contains('/') || part.parse::<std::net::IpAddr>().is_ok();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:/, ".contains(&byte));
    (is_plain && text.split(',').map(str::trim).all(is_meant)).then(|| text.parse().ok()).flatten()
}

/// With %XX as the bytes that they stand for. What is wrong stays as it is, and means nothing to anybody.
fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (bytes, mut at, mut out) = (text.as_bytes(), 0, Vec::with_capacity(text.len()));
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One connection, as it was when it was looked at last.
#[derive(Debug)]
pub struct Row {
    /// The larger, the earlier it is shown.
    pub rank: u64,
    pub peer: PeerAddress,
    pub protocol: &'static str,
    pub phase: Phase,
    pub age: Duration,
    pub queued_bytes: usize,
    /// Bytes that have come and that nobody has taken.
    pub held_bytes: usize,
    /// Method and path of the request that is under way, as they came, cut off where they are long.
    pub asks: Option<String>,
    /// Of TCP.
    pub figures: Option<net::TcpFigures>,
}

pub struct Survey {
    query: Query,
    at: u32,
    best: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// Connections that there are, and those that the query is about.
    pub open: usize,
    pub matched: usize,
}

/// How many slots are looked at between two looks at the clock.
const STRIDE: u32 = 64;

impl Survey {
    pub fn new(query: Query) -> Self {
        Survey { query, at: 0, best: BinaryHeap::new(), open: 0, matched: 0 }
    }

    /// Look at further slots for about so long. True: at all of them, by now.
    pub fn step(&mut self, io: &Io<Connection>, budget: Duration) -> bool {
        let began = Instant::now();
        while self.at < io.slots() {
            let end = io.slots().min(self.at + STRIDE);
            for index in self.at..end {
                if let Some(glance) = io.glance(index) {
                    self.open += 1;
                    self.take(&glance);
                }
            }
            self.at = end;
            if began.elapsed() >= budget {
                break;
            }
        }
        self.at >= io.slots()
    }

    fn take(&mut self, glance: &Glance<'_, Connection>) {
        let is_asked_for = self.query.phase.is_none_or(|phase| phase == phase_of(glance))
            && self.query.peers.as_ref().is_none_or(|(_, peers)| is_among(peers, peer_of(glance)));
        if !is_asked_for {
            return;
        }
        self.matched += 1;
        let rank = self.rank(glance);
        if self.best.len() == self.query.rows {
            if self.best.peek().is_some_and(|Reverse((least, ..))| *least >= rank) {
                return;
            }
            self.best.pop();
        }
        self.best.push(Reverse((rank, glance.token.index, glance.token.generation)));
    }

    fn rank(&self, glance: &Glance<'_, Connection>) -> u64 {
        let figures = || tcp_figures(socket(&glance.fd));
        match self.query.order {
            Order::Oldest => glance.age.as_secs(),
            Order::Newest => u64::MAX - glance.age.as_secs(),
            Order::Queued => glance.queued_bytes as u64,
            Order::Bytes => figures().map_or(0, |figures| figures.received_bytes + figures.acknowledged_bytes),
            Order::Silent => figures().map_or(0, |figures| figures.idle.as_millis() as u64),
        }
    }

    /// What there is to show, the first first.
    pub fn rows(&self, io: &Io<Connection>) -> Vec<Row> {
        let mut best: Vec<_> = self.best.iter().map(|Reverse(found)| *found).collect();
        best.sort_unstable_by_key(|&(rank, index, _)| (Reverse(rank), index));
        let row = |(rank, index, generation)| {
            let glance = io.glance(index).filter(|glance| glance.token == Token::new(index, generation))?;
            Some(Row {
                rank,
                peer: peer_of(&glance),
                protocol: match glance.state {
                    Connection::Http(_) => "http",
                    Connection::Stream(_) => "stream",
                },
                phase: phase_of(&glance),
                age: glance.age,
                queued_bytes: glance.queued_bytes,
                held_bytes: match glance.state {
                    Connection::Http(connection) => connection.held_bytes(),
                    Connection::Stream(connection) => connection.held_bytes(),
                },
                asks: match glance.state {
                    Connection::Http(connection) => connection.asks(),
                    Connection::Stream(_) => None,
                },
                figures: tcp_figures(socket(&glance.fd)),
            })
        };
        best.into_iter().filter_map(row).collect()
    }
}

fn phase_of(glance: &Glance<'_, Connection>) -> Phase {
    if glance.is_closing {
        return Phase::Closing;
    }
    if glance.is_sending {
        return Phase::Sending;
    }
    match glance.state {
        Connection::Http(connection) => connection.phase(),
        Connection::Stream(connection) => connection.phase(),
    }
}

fn is_among(peers: &TrustedPeers, peer: PeerAddress) -> bool {
    match peer.internet() {
        Some((ip, _)) => peers.trusts(ip),
        None => peer == PeerAddress::Unix && peers.trusts_unix(),
    }
}

/// What the connection remembers, or the kernel knows: a proxy's word for it counts.
fn peer_of(glance: &Glance<'_, Connection>) -> PeerAddress {
    let known = match glance.state {
        Connection::Http(connection) => connection.known_peer(),
        Connection::Stream(_) => PeerAddress::Unknown,
    };
    match known {
        PeerAddress::Unknown => net::peer_address(socket(&glance.fd)).map_or(PeerAddress::Unknown, PeerAddress::from),
        known => known,
    }
}

fn socket(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: of a channel that is looked at, which owns it and is not closed meanwhile.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_with_its_defaults_and_written_the_same_for_the_same() {
        let query: Query = "".parse().unwrap();
        assert_eq!((query.order, query.rows, query.to_string().as_str()), (Order::Oldest, 100, "sort=oldest&rows=100"));
        let query: Query = "peer=10.0.0.0%2F8%2c::1&rows=5&state=idle&sort=".parse().unwrap();
        assert_eq!(query.to_string(), "sort=oldest&rows=5&state=idle&peer=10.0.0.0/8,::1");
        assert_eq!(query.to_string().parse(), Ok(query));
    }

    #[test]
    fn what_is_no_query_is_refused_with_what_was_expected() {
        for (wrong, why) in [
            ("sort=peer", SORT),
            ("sort", FIELD),
            ("state=Idle", STATE),
            ("rows=0", ROWS),
            ("rows=201", ROWS),
            ("rows=-1", ROWS),
            ("rows=99999999999999999999", ROWS),
            ("rows=1&rows=1", FIELD),
            ("color=red", FIELD),
            ("peer=example.org", PEER),
            ("peer=10.0.0.0/33", PEER),
            ("peer=%00", PEER),
            ("peer=10.0.0.1%26rows=1", PEER),
            ("peer=%ff%fe", PEER),
            ("peer=*", PEER),
        ] {
            assert_eq!(wrong.parse::<Query>(), Err(why), "{wrong}");
        }
        assert_eq!("a".repeat(513).parse::<Query>(), Err(LONG));
    }
}
