//! A process that runs out of descriptors: one peer is refused, the others wait, and accepting comes back.
//!
//! The limit is the process's, so this is the only test of its binary.

mod support;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use penstock::core::buffer::Lease;
use penstock::core::poller::Readiness;
use penstock::core::{CloseReason, EventLoop, Io, Service, Token};
use support::{PATIENCE, Peer, World, address, listener};

/// Accepts, and greets.
#[derive(Default)]
struct Greeter {
    accepted: Vec<Token>,
}

impl Service for Greeter {
    type Connection = ();
    type Mail = ();

    fn accepted(&mut self, io: &mut Io<()>, _: Token, fd: OwnedFd) {
        let token = io.add_connection(fd, ()).expect("a connection is taken");
        io.append_with(token, |out| out.extend_from_slice(b"welcome"));
        self.accepted.push(token);
    }

    fn received(&mut self, _: &mut Io<()>, _: Token, _: Lease) {}
    fn ended(&mut self, _: &mut Io<()>, _: Token) {}
    fn drained(&mut self, _: &mut Io<()>, _: Token) {}
    fn expired(&mut self, _: &mut Io<()>, _: Token) {}
    fn closed(&mut self, _: &mut Io<()>, _: Token, (): (), _: CloseReason) {}
    fn ready(&mut self, _: &mut Io<()>, _: Token, _: Readiness) {}
    fn mail(&mut self, _: &mut Io<()>, (): ()) {}
    fn settle(&mut self, _: &mut Io<()>) -> bool {
        true
    }
}

/// Lower the limit, such that no descriptor can be opened any more.
fn exhaust_descriptors() {
    let lowest_free = std::fs::File::open("/dev/null").expect("there is one still").as_raw_fd();
    let limit = libc::rlimit { rlim_cur: lowest_free as libc::rlim_t, rlim_max: hard_limit() };
    // SAFETY: the limit is a local of the right type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    assert!(std::fs::File::open("/dev/null").is_err());
}

fn hard_limit() -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local of the right type.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_max
}

#[test]
fn one_waiting_peer_is_refused_and_the_others_are_accepted_as_connections_close() {
    let mut event_loop = EventLoop::new(World::Loopback.poller(), Greeter::default()).unwrap();
    let listening = listener();
    let address = address(&listening);
    listening.set_nonblocking(true).unwrap();
    event_loop.io.add_listener(listening.into()).unwrap();

    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::dial(address)).collect();
    turn_until(&mut event_loop, |event_loop| event_loop.service.accepted.len() == 2);
    peers.extend((0..30).map(|_| Peer::dial(address)));
    exhaust_descriptors();

    // The reserve takes the first of the waiting and lets go of it: it learns at once that it has no luck.
    turn_until(&mut event_loop, |_| {
        peers[2].read();
        peers[2].has_ended()
    });
    assert_eq!(event_loop.io.counters.connections_refused.get(), 1);

    // Then the listener rests: no more than a try each tenth of a second, though it is readable all the time.
    let (before, start) = (event_loop.io.counters.turns.get(), Instant::now());
    while start.elapsed() < Duration::from_millis(50) {
        event_loop.turn(Some(Duration::from_millis(50))).unwrap();
    }
    assert!(event_loop.io.counters.turns.get() - before <= 3, "it spins");

    // One goes, and one of those that still wait has its place. (A rest that ended meanwhile refused another.)
    let first = event_loop.service.accepted[0];
    event_loop.io.abort(first);
    turn_until(&mut event_loop, |event_loop| event_loop.service.accepted.len() == 3);
    let mut heard = Vec::new();
    turn_until(&mut event_loop, |_| {
        peers[3..].iter_mut().for_each(|peer| heard.extend(peer.read()));
        heard == b"welcome"
    });
}

fn turn_until(event_loop: &mut EventLoop<Greeter>, mut is_so: impl FnMut(&mut EventLoop<Greeter>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(event_loop) {
        assert!(Instant::now() < deadline, "it never came to be");
        event_loop.turn(Some(Duration::from_millis(5))).unwrap();
    }
}
