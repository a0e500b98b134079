//! The event loop, driven through a small service over the loopback's epoll and over a simulated network.
//!
//! A test turns the loop itself, so nothing here sleeps but the loop: in real time over epoll, and in the network's
//! own over the simulated poller, where minutes pass in milliseconds. What is random prints its seed.

mod support;

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use penstock::core::buffer::{Lease, Owner};
use penstock::core::event_loop::{HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES};
use penstock::core::poller::Readiness;
use penstock::core::poller::simulated::FaultPlan;
use penstock::core::timer::TICK;
use penstock::core::{CloseReason, EventLoop, Hold, Io, Service, Token};
use support::{PATIENCE, Peer, Random, World, address, listener, worlds};

/// What the service was told, in order.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Accepted(Token),
    Ended(Token),
    Drained(Token),
    Expired(Token),
    Closed(Token, CloseReason),
    Mail(u64),
}

/// What the service does with what arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Send it back, and stop reading above the high watermark.
    Echo,
    /// Keep it.
    Keep,
    /// Keep the leases, and look at them when the loop asks for them back, which is refused every other time.
    KeepLeases,
}

/// A number that the test gave the connection, so that it can tell it from its slot's other tenants.
#[derive(Default)]
struct Name(u32);

struct Recorder {
    habit: Habit,
    told: Vec<Told>,
    received: HashMap<u32, Vec<u8>>,
    leases: Vec<(u32, Lease)>,
    refuse_to_settle: bool,
    most_queued_bytes: usize,
    expired_at: HashMap<Token, Instant>,
    next_name: u32,
}

impl Recorder {
    fn new(habit: Habit) -> Self {
        Recorder {
            habit,
            told: Vec::new(),
            received: HashMap::new(),
            leases: Vec::new(),
            refuse_to_settle: false,
            most_queued_bytes: 0,
            expired_at: HashMap::new(),
            next_name: 0,
        }
    }

    fn count(&self, what: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|told| what(told)).count()
    }

    fn closings(&self, token: Token) -> Vec<CloseReason> {
        let closing = |told: &Told| match told {
            Told::Closed(closed, reason) if *closed == token => Some(*reason),
            _ => None,
        };
        self.told.iter().filter_map(closing).collect()
    }
}

impl Service for Recorder {
    type Connection = Name;
    type Mail = u64;

    fn accepted(&mut self, io: &mut Io<Name>, listener: Token, fd: OwnedFd) {
        self.told.push(Told::Accepted(listener));
        self.next_name += 1;
        let _ = io.add_connection(fd, Name(self.next_name));
    }

    fn received(&mut self, io: &mut Io<Name>, token: Token, lease: Lease) {
        let name = io.state(token).expect("nothing is told of a closed connection").0;
        // SAFETY: the lease is of this turn.
        let bytes = unsafe { lease.as_slice() };
        match self.habit {
            Habit::Keep => self.received.entry(name).or_default().extend_from_slice(bytes),
            Habit::KeepLeases => self.leases.push((name, lease)),
            Habit::Echo => {
                io.append_with(token, |out| out.extend_from_slice(bytes));
                self.most_queued_bytes = self.most_queued_bytes.max(io.queued_bytes(token));
                if io.queued_bytes(token) > HIGH_WATERMARK_BYTES {
                    io.pause(token);
                    io.want_drained(token);
                }
            }
        }
    }

    fn ended(&mut self, io: &mut Io<Name>, token: Token) {
        self.told.push(Told::Ended(token));
        if self.habit == Habit::Echo {
            io.close(token);
        }
    }

    fn drained(&mut self, io: &mut Io<Name>, token: Token) {
        assert!(io.queued_bytes(token) <= LOW_WATERMARK_BYTES);
        self.told.push(Told::Drained(token));
        if self.habit == Habit::Echo {
            io.resume(token);
        }
    }

    fn expired(&mut self, io: &mut Io<Name>, token: Token) {
        self.expired_at.insert(token, io.now());
        self.told.push(Told::Expired(token));
    }

    fn closed(&mut self, io: &mut Io<Name>, token: Token, _: Name, reason: CloseReason) {
        assert!(io.state(token).is_none() && io.fd(token).is_none(), "the token is stale by now");
        self.told.push(Told::Closed(token, reason));
    }

    fn ready(&mut self, _: &mut Io<Name>, _: Token, _: Readiness) {}

    fn mail(&mut self, _: &mut Io<Name>, mail: u64) {
        self.told.push(Told::Mail(mail));
    }

    fn settle(&mut self, _: &mut Io<Name>) -> bool {
        self.refuse_to_settle = self.habit == Habit::KeepLeases && !self.refuse_to_settle;
        if self.refuse_to_settle {
            return false;
        }
        for (name, lease) in self.leases.drain(..) {
            // SAFETY: they were not given up yet.
            self.received.entry(name).or_default().extend_from_slice(unsafe { lease.as_slice() });
        }
        true
    }
}

/// A loop under test, and the world it is in.
struct Bench {
    world: World,
    event_loop: EventLoop<Recorder>,
}

impl Bench {
    fn new(world: World, habit: Habit) -> Self {
        let event_loop = EventLoop::new(world.poller(), Recorder::new(habit)).expect("a loop opens");
        Bench { world, event_loop }
    }

    fn simulated(seed: u64, plan: FaultPlan, habit: Habit) -> Self {
        Bench::new(World::simulated(seed, plan), habit)
    }

    /// A connection of this name.
    fn connect(&mut self, name: u32) -> (Token, Peer) {
        let (fd, peer) = self.world.connect();
        (self.io().add_connection(fd, Name(name)).expect("a connection is taken"), peer)
    }

    fn listen(&mut self) -> (Token, TcpListener) {
        let listener = listener();
        listener.set_nonblocking(true).expect("sockets can be non-blocking");
        let own = listener.try_clone().expect("descriptors can be duplicated");
        (self.io().add_listener(own.into()).expect("a listener is taken"), listener)
    }

    fn io(&mut self) -> &mut Io<Name> {
        &mut self.event_loop.io
    }

    fn service(&mut self) -> &mut Recorder {
        &mut self.event_loop.service
    }

    fn received(&mut self, name: u32) -> Vec<u8> {
        self.service().received.get(&name).cloned().unwrap_or_default()
    }

    fn turn(&mut self) {
        self.event_loop.turn(Some(Duration::from_millis(5))).expect("a turn succeeds");
    }

    /// Turn until it is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "it never came to be that {what}");
            self.turn();
        }
    }

    /// Turn for so long, in the loop's own time.
    fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            let left = end - self.now();
            self.event_loop.turn(Some(left)).expect("a turn succeeds");
        }
    }

    fn now(&mut self) -> Instant {
        self.io().now()
    }

    /// Read from a peer until it has this many bytes.
    fn read_exactly(&mut self, peer: &mut Peer, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("the peer has its bytes", |_| {
            bytes.extend(peer.read());
            bytes.len() >= count || peer.has_ended()
        });
        bytes
    }

    fn until_closed(&mut self, token: Token) -> CloseReason {
        self.until("the connection is closed", |bench| !bench.service().closings(token).is_empty());
        let closings = self.service().closings(token);
        assert_eq!(closings.len(), 1, "closed is told once");
        closings[0]
    }
}

// ---------------------------------------------------------------- bytes both ways

/// A peer of the echo tests: what it still has to say, and what it has to hear.
struct Talker {
    peer: Peer,
    unsaid: VecDeque<u8>,
    unheard: VecDeque<u8>,
    has_finished: bool,
}

impl Talker {
    fn new(peer: Peer, speech: Vec<u8>) -> Self {
        Talker { peer, unheard: speech.clone().into(), unsaid: speech.into(), has_finished: false }
    }

    /// Say some, hear some; true once all is heard and the other side has ended.
    fn go_on(&mut self, random: &mut Random, seed: u64) -> bool {
        let most = 1 + random.below(40_000);
        let piece: Vec<u8> = self.unsaid.iter().copied().take(most).collect();
        let said = if piece.is_empty() { 0 } else { self.peer.write(&piece) };
        self.unsaid.drain(..said);
        if self.unsaid.is_empty() && !self.has_finished {
            self.has_finished = true;
            self.peer.finish();
        }
        let limit = 1 + random.below(60_000);
        for byte in self.peer.read_at_most(limit) {
            assert_eq!(Some(byte), self.unheard.pop_front(), "an echo is what was said, in order (seed {seed})");
        }
        self.unheard.is_empty() && self.has_finished && self.peer.has_ended()
    }
}

fn echo_everything(mut bench: Bench, seed: u64, connections: u32, most_bytes: usize) {
    let mut random = Random(seed);
    let mut talkers: Vec<Talker> = (0..connections)
        .map(|name| {
            let count = random.below(most_bytes);
            Talker::new(bench.connect(name).1, random.bytes(count))
        })
        .collect();
    bench.until("everybody has heard everything", |_| {
        talkers.retain_mut(|talker| !talker.go_on(&mut random, seed));
        talkers.is_empty()
    });
    bench.until("every connection is closed", |bench| bench.io().connections() == 0);
    assert_eq!(bench.io().load().get(), 0);
    let most = bench.service().most_queued_bytes;
    assert!(most <= 3 * HIGH_WATERMARK_BYTES, "{most} bytes were queued for one connection (seed {seed})");
    let finished = bench.service().count(|told| matches!(told, Told::Closed(_, CloseReason::Finished)));
    assert_eq!(finished, connections as usize, "seed {seed}");
}

#[test]
fn everything_comes_back_whole_and_in_order_on_the_loopback() {
    echo_everything(Bench::new(World::Loopback, Habit::Echo), 1, 16, 2_000_000);
}

#[test]
fn everything_comes_back_whole_and_in_order_on_a_rough_network() {
    for seed in 0..200 {
        echo_everything(Bench::simulated(seed, FaultPlan::ROUGH, Habit::Echo), seed, 8, 150_000);
    }
}

#[test]
fn every_connection_is_closed_once_on_a_hostile_network() {
    for seed in 0..200 {
        let mut bench = Bench::simulated(seed, FaultPlan::HOSTILE, Habit::Echo);
        let mut random = Random(seed);
        let mut peers: Vec<(Token, Peer)> = (0..16).map(|name| bench.connect(name)).collect();
        for (_, peer) in &mut peers {
            let count = 1 + random.below(60_000);
            peer.write(&random.bytes(count));
            peer.finish();
        }
        bench.until("every connection is closed", |bench| {
            peers.iter_mut().for_each(|(_, peer)| drop(peer.read()));
            bench.io().connections() == 0
        });
        for (token, _) in &peers {
            let closings = bench.service().closings(*token);
            assert!(
                matches!(closings[..], [CloseReason::Finished | CloseReason::Failed(libc::ECONNRESET)]),
                "{closings:?} (seed {seed})"
            );
        }
        assert_eq!((bench.io().load().get(), bench.io().lingering()), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_full_arena_loses_nothing_and_starves_nobody() {
    const BYTES: usize = 200_000;
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::KeepLeases);
        let mut peers: Vec<(Token, Peer)> = (0..12).map(|name| bench.connect(name)).collect();
        let mut sent = [0; 12];
        bench.until("every byte has arrived", |bench| {
            for (name, (_, peer)) in peers.iter_mut().enumerate() {
                let piece = vec![name as u8; (BYTES - sent[name]).min(65_536)];
                sent[name] += if piece.is_empty() { 0 } else { peer.write(&piece) };
            }
            (0..12).all(|name| bench.received(name).len() == BYTES)
        });
        for name in 0..12 {
            assert!(bench.received(name).iter().all(|&byte| byte == name as u8), "a lease was used again too early");
        }
    }
}

// ---------------------------------------------------------------- stale events

#[test]
fn an_event_of_a_closed_connection_never_reaches_its_successor() {
    for seed in 0..300 {
        let mut bench = Bench::simulated(seed, FaultPlan::ROUGH, Habit::Keep);
        let mut random = Random(seed);
        let mut tenants: HashMap<u32, (Token, Peer)> = HashMap::new();
        for name in 1..120 {
            let (token, mut peer) = bench.connect(name);
            peer.write(&[name as u8; 300]);
            if random.below(4) == 0 {
                peer.finish();
            }
            tenants.insert(name, (token, peer));
            bench.turn();
            let victims: Vec<u32> = tenants.keys().copied().filter(|_| random.below(3) == 0).collect();
            for (_, (token, _)) in victims.iter().map(|victim| (victim, tenants.remove(victim).unwrap())) {
                // Closed between turns; its successor takes the slot, and as a rule the descriptor's number.
                bench.io().abort(token);
                bench.event_loop.flush();
            }
        }
        for (name, bytes) in &bench.service().received {
            assert!(bytes.iter().all(|byte| *byte == *name as u8), "{name} received another's bytes (seed {seed})");
        }
    }
}

/// Closes each connection at its first bytes, by hand, and takes the next into its place within the same turn.
struct Replacer {
    waiting: VecDeque<(OwnedFd, u8)>,
    heard: Vec<(u8, u8)>,
}

impl Service for Replacer {
    type Connection = u8;
    type Mail = ();

    fn accepted(&mut self, _: &mut Io<u8>, _: Token, _: OwnedFd) {}

    fn received(&mut self, io: &mut Io<u8>, token: Token, lease: Lease) {
        let name = *io.state(token).expect("nothing is told of a closed connection");
        // SAFETY: the lease is of this turn.
        self.heard.push((name, unsafe { lease.as_slice() }[0]));
        io.abort(token);
    }

    fn ended(&mut self, _: &mut Io<u8>, _: Token) {}
    fn drained(&mut self, _: &mut Io<u8>, _: Token) {}
    fn expired(&mut self, _: &mut Io<u8>, _: Token) {}

    fn closed(&mut self, io: &mut Io<u8>, _: Token, _: u8, _: CloseReason) {
        if let Some((fd, name)) = self.waiting.pop_front() {
            io.add_connection(fd, name).expect("a connection is taken");
        }
    }

    fn ready(&mut self, _: &mut Io<u8>, _: Token, _: Readiness) {}
    fn mail(&mut self, _: &mut Io<u8>, (): ()) {}
    fn settle(&mut self, _: &mut Io<u8>) -> bool {
        true
    }
}

#[test]
fn a_successor_hears_its_own_bytes_alone_when_slots_change_hands_in_every_turn() {
    for seed in 0..200 {
        let world = World::simulated(seed, FaultPlan::ROUGH);
        let mut peers = Vec::new();
        let mut connections: VecDeque<(OwnedFd, u8)> = (1..=100_u8)
            .map(|name| {
                let (fd, mut peer) = world.connect();
                peer.write(&[name; 50]);
                peers.push(peer);
                (fd, name)
            })
            .collect();
        let first: Vec<_> = connections.drain(..5).collect();
        let service = Replacer { waiting: connections, heard: Vec::new() };
        let mut event_loop = EventLoop::new(world.poller(), service).unwrap();
        for (fd, name) in first {
            event_loop.io.add_connection(fd, name).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while event_loop.io.connections() > 0 {
            assert!(Instant::now() < deadline, "not everybody was heard (seed {seed})");
            event_loop.turn(Some(Duration::from_millis(5))).unwrap();
        }
        let heard = &event_loop.service.heard;
        assert_eq!(heard.len(), 100, "each is heard once: what comes after the abort is nobody's (seed {seed})");
        assert!(heard.iter().all(|(name, byte)| name == byte), "seed {seed}");
    }
}

// ---------------------------------------------------------------- ends

#[test]
fn a_peer_that_half_closes_still_hears_everything() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, mut peer) = bench.connect(1);
        peer.write(b"question");
        peer.finish();
        bench.until("the end is told", |bench| bench.service().told.contains(&Told::Ended(token)));
        assert_eq!(bench.received(1), b"question");
        bench.io().append_with(token, |out| out.extend_from_slice(&[7; 300_000]));
        assert_eq!(bench.read_exactly(&mut peer, 300_000).len(), 300_000);
        assert!(!peer.has_ended());
        bench.io().close(token);
        assert_eq!(bench.until_closed(token), CloseReason::Finished);
        bench.until("the peer sees the end", |_| peer.read().is_empty() && peer.has_ended());
        assert_eq!(bench.service().count(|told| matches!(told, Told::Ended(_))), 1);
    }
}

#[test]
fn closing_sends_everything_ends_our_side_and_waits_for_the_peer_s() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, mut peer) = bench.connect(1);
        bench.io().append_with(token, |out| out.extend_from_slice(&[7; 300_000]));
        bench.io().close(token);
        let heard = bench.read_exactly(&mut peer, usize::MAX);
        assert_eq!((heard.len(), peer.has_ended()), (300_000, true));
        assert_eq!((bench.io().connections(), bench.io().lingering()), (1, 1));
        // What the peer says now is thrown away; so is its end, which frees the connection.
        peer.write(b"too late");
        peer.finish();
        assert_eq!(bench.until_closed(token), CloseReason::Finished);
        assert_eq!((bench.received(1).len(), bench.io().lingering()), (0, 0));
        assert_eq!(bench.service().count(|told| matches!(told, Told::Ended(_))), 0);
    }
}

#[test]
fn a_response_is_not_lost_though_input_is_unread_when_the_connection_is_closed() {
    let mut bench = Bench::new(World::Loopback, Habit::Keep);
    let (token, mut peer) = bench.connect(1);
    bench.until("reading is paused with input on its way", |bench| {
        bench.io().pause(token);
        peer.write(&[1; 65_536]) == 0
    });
    bench.io().append_with(token, |out| out.extend_from_slice(&[7; 100_000]));
    bench.io().close(token);
    let heard = bench.read_exactly(&mut peer, usize::MAX);
    assert_eq!((heard.len(), peer.was_reset()), (100_000, false));
}

#[test]
fn a_peer_that_never_notices_a_polite_close_does_not_keep_the_connection() {
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let (token, _peer) = bench.connect(1);
    bench.io().close(token);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.io().lingering(), 1);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.service().closings(token), [CloseReason::Finished]);
}

#[test]
fn a_reset_closes_with_its_reason_and_once() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, peer) = bench.connect(1);
        peer.reset();
        assert_eq!(bench.until_closed(token), CloseReason::Failed(libc::ECONNRESET));
        assert_eq!(bench.io().counters.connections_failed.get(), 1);
        assert!(bench.io().append_with(token, |_| ()).is_none());
    }
}

#[test]
fn an_abort_is_seen_as_a_reset_and_never_as_an_end_in_good_order() {
    let mut bench = Bench::new(World::Loopback, Habit::Keep);
    let (token, mut peer) = bench.connect(1);
    bench.io().append_with(token, |out| out.extend_from_slice(b"half a mess"));
    bench.turn();
    bench.io().abort(token);
    assert_eq!(bench.until_closed(token), CloseReason::Aborted);
    bench.until("the peer notices", |_| {
        peer.read();
        peer.has_ended()
    });
    assert!(peer.was_reset());
}

#[test]
fn a_peer_s_end_does_not_cut_off_what_a_closing_connection_still_sends() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, mut peer) = bench.connect(1);
        bench.io().append_with(token, |out| out.extend_from_slice(&vec![7; 8_000_000]));
        bench.io().close(token);
        bench.turn();
        assert!(bench.io().queued_bytes(token) > 0, "the send is blocked");
        peer.finish();
        bench.turn();
        let heard = bench.read_exactly(&mut peer, usize::MAX);
        assert_eq!((heard.len(), peer.was_reset()), (8_000_000, false));
        assert_eq!(bench.until_closed(token), CloseReason::Finished);
    }
}

#[test]
fn a_peer_that_vanished_is_found_by_its_deadline() {
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let (token, peer) = bench.connect(1);
    let Peer::Simulated(mut peer) = peer else { unreachable!("a simulated world has simulated peers") };
    peer.vanish();
    bench.io().append_with(token, |out| out.extend_from_slice(&vec![7; 200_000]));
    bench.io().set_deadline(token, Duration::from_secs(30));
    bench.pass(Duration::from_secs(29));
    assert!(bench.service().told.is_empty());
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.service().told, [Told::Expired(token)]);
    assert!(bench.io().take_progress_bytes(token) > 0, "the kernel took a part");
    assert!(bench.io().take_progress_bytes(token) == 0, "and nothing since");
    bench.io().abort(token);
    bench.turn();
    assert_eq!(bench.service().closings(token), [CloseReason::Aborted]);
}

// ---------------------------------------------------------------- output

#[test]
fn a_blocked_sender_is_told_once_when_its_output_is_low() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, mut peer) = bench.connect(1);
        bench.io().append_with(token, |out| out.extend_from_slice(&vec![7; 8_000_000]));
        bench.io().want_drained(token);
        for _ in 0..20 {
            bench.turn();
        }
        assert!(bench.io().queued_bytes(token) > HIGH_WATERMARK_BYTES);
        assert!(bench.service().told.is_empty());
        assert_eq!(bench.read_exactly(&mut peer, 8_000_000).len(), 8_000_000);
        for _ in 0..20 {
            bench.turn();
        }
        assert_eq!(bench.service().told, [Told::Drained(token)]);
    }
}

#[test]
fn whoever_waits_for_room_that_is_there_is_told_with_the_next_flush() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, _peer) = bench.connect(1);
        bench.io().want_drained(token);
        bench.turn();
        assert_eq!(bench.service().told, [Told::Drained(token)]);
    }
}

#[test]
fn borrowed_bytes_come_back_once_whatever_becomes_of_the_connection() {
    let bytes = vec![7; 3_000_000];
    for seed in 0..100 {
        let mut bench = Bench::simulated(seed, FaultPlan::HOSTILE, Habit::Keep);
        let mut random = Random(seed);
        let mut peers: Vec<(Token, Peer)> = (0..8).map(|name| bench.connect(name)).collect();
        for (number, (token, _)) in peers.iter().enumerate() {
            for part in 0..3 {
                let length = random.below(bytes.len());
                // SAFETY: the bytes outlive the loop.
                unsafe { bench.io().append_borrowed(*token, &bytes[..length], Owner(3 * number + part)) };
            }
            bench.io().close(*token);
        }
        let mut released = Vec::new();
        for round in 0..60 {
            for (token, peer) in &mut peers {
                peer.read_at_most(random.below(100_000) + 1);
                if round == 30 {
                    bench.io().abort(*token);
                }
            }
            bench.turn();
            released.append(bench.io().take_released());
        }
        released.append(&mut bench.event_loop.shut_down());
        let mut owners: Vec<usize> = released.into_iter().map(|owner| owner.0).collect();
        owners.sort_unstable();
        assert_eq!(owners, (0..24).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_paused_connection_receives_nothing_more_until_it_is_resumed() {
    for world in worlds() {
        let mut bench = Bench::new(world, Habit::Keep);
        let (token, mut peer) = bench.connect(1);
        bench.io().pause(token);
        // What was in flight when the pause came may still be told.
        bench.turn();
        peer.write(b"patience");
        for _ in 0..10 {
            bench.turn();
        }
        assert_eq!(bench.received(1), b"");
        bench.io().resume(token);
        bench.until("it is received", |bench| bench.received(1) == b"patience");
    }
}

// ---------------------------------------------------------------- deadlines

#[test]
fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
    for seed in 0..100 {
        let mut bench = Bench::simulated(seed, FaultPlan::CALM, Habit::Keep);
        let mut random = Random(seed);
        let mut due: HashMap<Token, Instant> = HashMap::new();
        let _peers: Vec<Peer> = (0..50)
            .map(|name| {
                bench.pass(Duration::from_micros(random.below(70_000) as u64));
                let (token, peer) = bench.connect(name);
                let after = Duration::from_millis(1 + random.below(200_000) as u64);
                let start = bench.now();
                bench.io().set_deadline(token, after);
                due.insert(token, start + after);
                peer
            })
            .collect();
        while bench.service().told.len() < due.len() {
            bench.event_loop.turn(None).unwrap();
        }
        for (token, due) in due {
            let met = bench.service().expired_at[&token];
            assert!(met >= due, "{:?} early (seed {seed})", due - met);
            assert!(met <= due + 2 * TICK, "{:?} late (seed {seed})", met - due);
        }
    }
}

#[test]
fn a_deadline_counts_from_when_it_is_set_however_long_the_service_took() {
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let (token, _peer) = bench.connect(1);
    bench.turn();
    // A handler that computes for a while, between two turns, and then answers.
    let World::Simulated(network) = &bench.world else { unreachable!("made so") };
    network.advance(Duration::from_secs(20));
    bench.io().set_deadline(token, Duration::from_secs(5));
    bench.pass(Duration::from_millis(4900));
    assert!(bench.service().told.is_empty());
    let left = bench.io().time_left(token).expect("a deadline is set");
    assert!(left <= 3 * TICK, "{left:?}");
    bench.pass(Duration::from_millis(400));
    assert_eq!(bench.service().told, [Told::Expired(token)]);
    assert_eq!(bench.io().time_left(token), None);
}

#[test]
fn a_moved_deadline_holds_and_a_cleared_one_is_none() {
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let ((moved, _one), (cleared, _other)) = (bench.connect(1), bench.connect(2));
    for second in 0..100 {
        bench.io().set_deadline(moved, Duration::from_secs(10));
        bench.io().set_deadline(cleared, Duration::from_secs(10));
        if second == 50 {
            bench.io().clear_deadline(cleared);
            break;
        }
        bench.pass(Duration::from_secs(1));
    }
    assert!(bench.service().told.is_empty());
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.service().told, [Told::Expired(moved)]);
}

#[test]
fn an_idle_loop_hardly_ever_wakes() {
    const CONNECTIONS: u32 = 300;
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let peers: Vec<(Token, Peer)> = (0..CONNECTIONS)
        .map(|name| {
            bench.pass(Duration::from_millis(20));
            let (token, peer) = bench.connect(name);
            bench.io().set_deadline(token, Duration::from_secs(600));
            (token, peer)
        })
        .collect();
    let before = bench.io().counters.turns.get();
    let begin = bench.now();
    while bench.service().told.is_empty() {
        bench.event_loop.turn(None).unwrap();
    }
    let turns = bench.io().counters.turns.get() - before;
    assert!(bench.now() - begin > Duration::from_secs(590));
    // They opened over six seconds, 60 ticks; each of those is looked at once a round of the wheel, 51 seconds.
    assert!(turns < 60 * 13 + 20, "{turns} turns in ten minutes of nothing");
    drop(peers);
}

#[test]
fn a_loop_with_nothing_to_do_sleeps_as_long_as_it_may() {
    let mut bench = Bench::new(World::Loopback, Habit::Keep);
    let (_token, _peer) = bench.connect(1);
    bench.turn();
    let start = Instant::now();
    bench.event_loop.turn(Some(Duration::from_millis(60))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
}

// ---------------------------------------------------------------- mail

#[test]
fn mail_from_many_threads_arrives_whole_and_wakes_a_sleeping_loop() {
    const THREADS: u64 = 4;
    const EACH: u64 = 5000;
    let mut bench = Bench::new(World::Loopback, Habit::Keep);
    let senders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let sender = bench.event_loop.mail_sender();
            std::thread::spawn(move || (0..EACH).for_each(|n| sender.send(thread * EACH + n).unwrap()))
        })
        .collect();
    while bench.service().told.len() < (THREADS * EACH) as usize {
        // Without a limit: a wake-up that was lost would hang here.
        bench.event_loop.turn(None).unwrap();
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    for thread in 0..THREADS {
        let own = (bench.service().told.iter())
            .filter_map(|told| if let Told::Mail(number) = told { Some(*number) } else { None })
            .filter(|number| number / EACH == thread);
        assert!(own.eq(thread * EACH..(thread + 1) * EACH), "a sender's mail stays in order");
    }
}

#[test]
fn a_flood_of_mail_does_not_hold_up_a_connection() {
    let mut bench = Bench::new(World::Loopback, Habit::Keep);
    let (_token, mut peer) = bench.connect(1);
    let sender = bench.event_loop.mail_sender();
    (0..100_000).for_each(|number| sender.send(number).unwrap());
    peer.write(b"me too");
    bench.until("it is received", |bench| bench.received(1) == b"me too");
    assert!(bench.service().told.len() < 100_000);
    bench.until("the mail is read", |bench| bench.service().told.len() == 100_000);
}

// ---------------------------------------------------------------- listeners

#[test]
fn what_waits_at_a_listener_that_is_removed_is_told_and_then_it_refuses() {
    let mut bench = Bench::new(World::Loopback, Habit::Echo);
    let (token, listener) = bench.listen();
    let mut peers: Vec<Peer> = (0..100).map(|_| Peer::dial(address(&listener))).collect();
    let (raw, address) = (bench.io().fd(token).expect("it is there"), address(&listener));
    drop(listener);
    bench.io().remove_listener(token, Hold::Shared);
    bench.io().remove_listener(token, Hold::Shared);
    bench.turn();
    assert_eq!(bench.service().count(|told| *told == Told::Accepted(token)), 100);
    assert!(bench.io().fd(token).is_none() && !is_listening(raw));
    assert!(std::net::TcpStream::connect(address).is_err());
    for peer in &mut peers {
        peer.write(b"hello");
        assert_eq!(bench.read_exactly(peer, 5), b"hello");
    }
}

#[test]
fn the_last_holder_of_a_listener_loses_nobody_who_could_connect() {
    for _ in 0..5 {
        let mut bench = Bench::new(World::Loopback, Habit::Echo);
        let (token, listener) = bench.listen();
        let address = address(&listener);
        drop(listener);
        let crowd = std::thread::spawn(move || {
            // While the gate is shut nobody is answered; what follows a second later is a refusal.
            let attempts = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
            std::iter::from_fn(|| attempts().ok()).collect::<Vec<_>>()
        });
        bench.until("some are in", |bench| bench.service().next_name >= 20);
        bench.io().remove_listener(token, Hold::Last);
        assert!(bench.io().has_leaving_listeners());
        bench.until("the crowd is gone", |_| crowd.is_finished());
        let crowd = crowd.join().expect("it does not panic");
        bench.until("the listener is gone", |bench| !bench.io().has_leaving_listeners());
        assert!(bench.io().fd(token).is_none());
        assert_eq!(bench.service().next_name as usize, crowd.len(), "who could connect was accepted");
        assert!(crowd.iter().all(|peer| peer.take_error().is_ok_and(|error| error.is_none())));
        assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

fn is_listening(fd: RawFd) -> bool {
    let (mut listens, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: both are locals, of the length told; a closed descriptor is an error.
    let outcome = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, (&raw mut listens).cast(), &raw mut length)
    };
    outcome == 0 && listens != 0
}

#[test]
fn out_of_descriptors_a_listener_rests_instead_of_spinning_and_comes_back_when_a_connection_closes() {
    for seed in 0..50 {
        let mut bench = Bench::simulated(seed, FaultPlan::CALM, Habit::Keep);
        let World::Simulated(network) = &bench.world else { unreachable!("made so") };
        let network = network.clone();
        let fd = network.listen().unwrap();
        let raw = fd.as_raw_fd();
        bench.io().add_listener(fd).unwrap();
        let (open, mut peer) = bench.connect(77);
        network.exhaust_descriptors(true);
        let _waiting = network.dial(raw);
        bench.pass(Duration::from_secs(10));
        let failures = bench.io().counters.accept_failures.get();
        assert!((50..=101).contains(&failures), "{failures} attempts in ten seconds of ten a second (seed {seed})");
        // Just after it failed again, a connection closes: it tries at once, and not when its rest is over.
        bench.until("it has tried again", |bench| bench.io().counters.accept_failures.get() > failures);
        network.exhaust_descriptors(false);
        peer.write(b"bye");
        let before = bench.now();
        bench.io().abort(open);
        bench.until("the waiting one is accepted", |bench| bench.service().next_name == 1);
        assert!(bench.now() - before < TICK, "seed {seed}");
    }
}

#[test]
fn a_listener_that_is_removed_while_it_rests_leaves_the_wheel() {
    let mut bench = Bench::simulated(0, FaultPlan::CALM, Habit::Keep);
    let World::Simulated(network) = &bench.world else { unreachable!("made so") };
    let network = network.clone();
    let fd = network.listen().unwrap();
    let raw = fd.as_raw_fd();
    let listener = bench.io().add_listener(fd).unwrap();
    network.exhaust_descriptors(true);
    let _waiting = network.dial(raw);
    bench.until("it rests", |bench| bench.io().counters.accept_failures.get() == 1);
    bench.io().remove_listener(listener, Hold::Shared);
    bench.turn();
    // Its successor in the slot has a deadline of its own, and nobody else's.
    let (token, _peer) = bench.connect(1);
    assert_eq!(token.index, listener.index);
    bench.io().set_deadline(token, Duration::from_secs(5));
    bench.pass(Duration::from_secs(4));
    assert!(bench.service().told.is_empty());
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.service().told, [Told::Expired(token)]);
}
