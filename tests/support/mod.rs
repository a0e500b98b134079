//! What the tests of whole reactors share: far ends of connections, over the loopback or simulated, that never sleep.
#![allow(dead_code)] // Each test binary uses its own part of this.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use penstock::core::poller::Poller;
use penstock::core::poller::epoll::EpollPoller;
use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork, SimulatedPeer};

/// Long enough for a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where a test's reactor and its peers meet.
pub enum World {
    Loopback,
    Simulated(SimulatedNetwork),
}

impl World {
    pub fn simulated(seed: u64, plan: FaultPlan) -> Self {
        World::Simulated(SimulatedNetwork::new(seed, plan))
    }

    pub fn poller(&self) -> Box<dyn Poller> {
        match self {
            World::Loopback => Box::new(EpollPoller::new().expect("Linux has epoll")),
            World::Simulated(network) => Box::new(network.poller()),
        }
    }

    /// A connection: the reactor's end, and the peer's.
    pub fn connect(&self) -> (OwnedFd, Peer) {
        match self {
            World::Loopback => {
                let listener = listener();
                let peer = Peer::dial(address(&listener));
                let (ours, _) = listener.accept().expect("the peer has connected");
                ours.set_nonblocking(true).expect("sockets can be non-blocking");
                (ours.into(), peer)
            }
            World::Simulated(network) => {
                let (ours, peer) = network.connection_from(0).expect("there are descriptors");
                (ours, Peer::Simulated(peer))
            }
        }
    }
}

/// The calm worlds, in which every test of behaviour runs.
pub fn worlds() -> [World; 2] {
    [World::Loopback, World::simulated(0, FaultPlan::CALM)]
}

/// A listener on a free port of the loopback.
pub fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    // The standard library's backlog is small enough for a burst to overflow, and then a second passes.
    // SAFETY: an open, listening descriptor.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 4096) }, 0);
    listener
}

pub fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a listener has an address")
}

/// The far end of a connection.
pub enum Peer {
    Loopback { stream: TcpStream, ended: bool, was_reset: bool },
    Simulated(SimulatedPeer),
}

impl Peer {
    pub fn dial(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).expect("the loopback accepts connections");
        stream.set_nodelay(true).expect("TCP has TCP_NODELAY");
        stream.set_nonblocking(true).expect("sockets can be non-blocking");
        Peer::Loopback { stream, ended: false, was_reset: false }
    }

    /// Send what the connection takes at once; how much was it?
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        match self {
            Peer::Loopback { stream, .. } => stream.write(bytes).unwrap_or(0),
            Peer::Simulated(peer) => peer.write(bytes),
        }
    }

    /// What has arrived.
    pub fn read(&mut self) -> Vec<u8> {
        self.read_at_most(usize::MAX)
    }

    /// What has arrived, `limit` bytes at the most.
    pub fn read_at_most(&mut self, limit: usize) -> Vec<u8> {
        match self {
            Peer::Simulated(peer) => peer.read(limit),
            Peer::Loopback { stream, ended, was_reset } => {
                let (mut bytes, mut piece) = (Vec::new(), vec![0; limit.min(64 * 1024)]);
                while bytes.len() < limit && !*ended {
                    let room = piece.len().min(limit - bytes.len());
                    match stream.read(&mut piece[..room]) {
                        Ok(0) => *ended = true,
                        Ok(read) => bytes.extend_from_slice(&piece[..read]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => (*ended, *was_reset) = (true, true),
                    }
                }
                bytes
            }
        }
    }

    /// Everything was read, and the reactor's side sends no more.
    pub fn has_ended(&mut self) -> bool {
        match self {
            Peer::Loopback { ended, .. } => *ended,
            Peer::Simulated(peer) => peer.has_ended(),
        }
    }

    /// It ended by a reset. (A simulated peer is never told.)
    pub fn was_reset(&self) -> bool {
        matches!(self, Peer::Loopback { was_reset: true, .. })
    }

    /// Send no more; go on reading.
    pub fn finish(&mut self) {
        match self {
            Peer::Loopback { stream, .. } => {
                stream.shutdown(std::net::Shutdown::Write).expect("the connection stands");
            }
            Peer::Simulated(peer) => peer.finish(),
        }
    }

    /// Break the connection.
    pub fn reset(self) {
        match self {
            Peer::Simulated(peer) => peer.reset(),
            Peer::Loopback { stream, .. } => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                let size = size_of::<libc::linger>() as libc::socklen_t;
                // SAFETY: the option is a local of the right type; closing with it sends a reset.
                let outcome = unsafe {
                    libc::setsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        size,
                    )
                };
                assert_eq!(outcome, 0);
            }
        }
    }
}

/// SplitMix64, for what a test chooses at random. Its seed is in every failure's message.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Ask again until it is so, in real time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to be that {what}");
        std::thread::yield_now();
    }
}
