//! The poller contract (src/core/poller/mod.rs), clause by clause, held against every backend.
//!
//! A test drives a backend as a reactor would, through a `Driver`, and plays the other side through a
//! `Network`: sockets of the loopback for a kernel's backend, a `SimulatedNetwork` for the simulated one,
//! which runs every test under many seeds of delays, short reads, short writes and stale completions.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use penstock::core::buffer::{BufferPool, Lease, Owner, SegmentQueue};
use penstock::core::poller::{self, Completion, Poller, PollerKind, Readiness, SendOutcome};
use penstock::core::token::Token;

// ---------------------------------------------------------------- the other side

/// Where connections come from.
trait Network {
    fn listen(&mut self) -> OwnedFd;
    /// Connect to a listener; the backend is to accept it.
    fn dial(&mut self, listener: RawFd) -> Box<dyn Peer>;
    /// A connection that needs no accepting, under a descriptor number of at least `lowest`.
    fn connection_from(&mut self, lowest: RawFd) -> (OwnedFd, Box<dyn Peer>);
    /// From now on (or no longer) there is no descriptor left for an accept.
    fn set_exhausted(&mut self, exhausted: bool);
    /// The time that `wait` sleeps in.
    fn now(&self) -> Duration;
}

/// The far end of a connection. Nothing here sleeps.
trait Peer {
    /// Send what the connection takes at once; how much was it?
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// What has arrived, at most `limit` bytes.
    fn read(&mut self, limit: usize) -> Vec<u8>;
    /// Has everything been read, and the other side sends no more?
    fn has_ended(&mut self) -> bool;
    /// Send no more.
    fn finish(&mut self);
    fn reset(self: Box<Self>);
}

struct Loopback {
    start: Instant,
    fillers: Vec<std::fs::File>,
    is_limited: bool,
}

impl Loopback {
    fn new() -> Self {
        Loopback { start: Instant::now(), fillers: Vec::new(), is_limited: false }
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("the loopback accepts connections");
        stream.set_nodelay(true).expect("TCP has TCP_NODELAY");
        stream.set_nonblocking(true).expect("sockets can be non-blocking");
        stream
    }
}

impl Network for Loopback {
    fn listen(&mut self) -> OwnedFd {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
        listener.set_nonblocking(true).expect("sockets can be non-blocking");
        listener.into()
    }

    fn dial(&mut self, listener: RawFd) -> Box<dyn Peer> {
        // SAFETY: the listener is open; the borrowed copy is never dropped.
        let listener = std::mem::ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(listener) });
        Box::new(Loopback::connect(listener.local_addr().expect("a listener has an address")))
    }

    fn connection_from(&mut self, lowest: RawFd) -> (OwnedFd, Box<dyn Peer>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
        let peer = Loopback::connect(listener.local_addr().expect("a listener has an address"));
        let (ours, _) = listener.accept().expect("the peer has connected");
        ours.set_nonblocking(true).expect("sockets can be non-blocking");
        (moved_to(ours.into(), lowest), Box::new(peer))
    }

    /// The limit is lowered once and then filled up: io_uring reads it when an accept begins, not at its end.
    fn set_exhausted(&mut self, exhausted: bool) {
        assert!(in_child(), "the limit is the process's: only a child of the test's own may lower it");
        self.fillers.clear();
        if !exhausted {
            return;
        }
        if !std::mem::replace(&mut self.is_limited, true) {
            lower_descriptor_limit();
        }
        while let Ok(filler) = std::fs::File::open("/dev/null") {
            self.fillers.push(filler);
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Peer for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> usize {
        Write::write(self, bytes).unwrap_or(0)
    }

    fn read(&mut self, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let read = Read::read(self, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.peek(&mut [0]), Ok(0))
    }

    fn finish(&mut self) {
        self.shutdown(std::net::Shutdown::Write).expect("the connection stands");
    }

    fn reset(self: Box<Self>) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as libc::socklen_t;
        // SAFETY: the option is a local of the right type; closing with it sends a reset.
        let outcome = unsafe {
            libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
        };
        assert_eq!(outcome, 0);
    }
}

/// Leave the process a few descriptors more than it has.
fn lower_descriptor_limit() {
    let lowest_free = duplicate(0, 0).as_raw_fd() as libc::rlim_t;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local of the right type.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = lowest_free + 16;
    // SAFETY: the limit is a local of the right type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

fn duplicate(fd: RawFd, lowest: RawFd) -> OwnedFd {
    // SAFETY: no pointers are passed.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) };
    assert!(copy >= 0, "cannot duplicate {fd}: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(copy) }
}

fn moved_to(fd: OwnedFd, lowest: RawFd) -> OwnedFd {
    if lowest == 0 { fd } else { duplicate(fd.as_raw_fd(), lowest) }
}

/// A number that no other test of this process uses, so that a closed descriptor's successor surely gets it.
/// It is above what all tests together hold, and below the usual limit of 1024.
fn private_number() -> RawFd {
    static NEXT: AtomicI32 = AtomicI32::new(900);
    thread_local! { static NUMBER: RawFd = NEXT.fetch_add(1, Ordering::Relaxed); }
    NUMBER.with(|number| *number)
}

const CHILD: &str = "PENSTOCK_CONTRACT_CHILD";

fn in_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Run the present test alone in a process of its own. True in that process.
fn alone_in_a_child() -> bool {
    if in_child() {
        return true;
    }
    let name = std::thread::current().name().expect("tests run on threads named after them").to_owned();
    let binary = std::env::current_exe().expect("a test has a binary");
    let output = std::process::Command::new(binary).args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output();
    let output = output.expect("the test's binary runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed in its child:\n{text}");
    false
}

// ---------------------------------------------------------------- this side

/// A completion, with its bytes copied and its descriptor put away, so that it can be kept and compared.
#[derive(Clone, PartialEq, Debug)]
enum Event {
    Accepted(Token),
    AcceptFailed(Token, i32),
    Received(Token, usize),
    Ended(Token),
    Sent(Token, usize),
    Failed(Token, i32),
    Ready(Token, Readiness),
}

/// One reactor's worth of turns over one backend.
struct Driver {
    poller: Box<dyn Poller>,
    network: Box<dyn Network>,
    events: Vec<Event>,
    inboxes: HashMap<Token, Vec<u8>>,
    accepted: Vec<OwnedFd>,
    /// Leases of the turns since the last recycle.
    leases: Vec<(Token, Lease)>,
    recycles: bool,
    is_kernel: bool,
    /// More bytes than a connection takes while nobody reads.
    much: usize,
}

const A: Token = Token::new(1, 1);
const B: Token = Token::new(2, 1);
const LISTENER: Token = Token::new(0, 7);
const TICK: Duration = Duration::from_millis(5);
/// Only a broken backend needs as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a wait that should sleep sleeps, and what a test of silence listens.
const SILENCE: Duration = Duration::from_millis(25);

impl Driver {
    fn new(poller: Box<dyn Poller>, network: Box<dyn Network>, is_kernel: bool) -> Self {
        Driver {
            poller,
            network,
            events: Vec::new(),
            inboxes: HashMap::new(),
            accepted: Vec::new(),
            leases: Vec::new(),
            recycles: true,
            is_kernel,
            much: if is_kernel { 16 << 20 } else { 300_000 },
        }
    }

    /// A connection that is received from.
    fn connection(&mut self, token: Token) -> (OwnedFd, Box<dyn Peer>) {
        let (fd, peer) = self.network.connection_from(0);
        self.poller.receive(token, fd.as_raw_fd()).expect("a new connection can be received from");
        (fd, peer)
    }

    /// One wait, and what came of it.
    fn turn(&mut self, timeout: Duration) -> Vec<Event> {
        let mut completions = Vec::new();
        self.poller.wait(Some(timeout), &mut completions).expect("a wait does not fail");
        let events: Vec<Event> = completions.into_iter().map(|completion| self.note(completion)).collect();
        self.events.extend(events.iter().cloned());
        if self.recycles {
            self.recycle();
        }
        events
    }

    fn recycle(&mut self) {
        self.leases.clear();
        self.poller.recycle();
    }

    fn note(&mut self, completion: Completion) -> Event {
        match completion {
            Completion::Accepted { listener, fd } => {
                self.accepted.push(fd);
                Event::Accepted(listener)
            }
            Completion::AcceptFailed { listener, errno } => Event::AcceptFailed(listener, errno),
            Completion::Received { token, lease } => {
                assert!(!lease.is_empty(), "a receive brings at least one byte");
                // SAFETY: nothing has been recycled since the wait.
                self.inboxes.entry(token).or_default().extend_from_slice(unsafe { lease.as_slice() });
                self.leases.push((token, lease));
                Event::Received(token, lease.len())
            }
            Completion::Ended { token } => Event::Ended(token),
            Completion::Sent { token, bytes } => Event::Sent(token, bytes),
            Completion::Failed { token, errno } => Event::Failed(token, errno),
            Completion::Ready { token, readiness } => Event::Ready(token, readiness),
        }
    }

    /// Turn until `happened`.
    fn until(&mut self, what: &str, mut happened: impl FnMut(&mut Driver) -> bool) {
        let start = Instant::now();
        while !happened(self) {
            self.turn(TICK);
            assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; the last events: {:?}", self.tail());
        }
    }

    fn until_event(&mut self, event: Event) {
        self.until(&format!("{event:?}"), |driver| driver.events.contains(&event));
    }

    fn tail(&self) -> &[Event] {
        &self.events[self.events.len().saturating_sub(20)..]
    }

    fn inbox(&self, token: Token) -> &[u8] {
        self.inboxes.get(&token).map_or(&[], Vec::as_slice)
    }

    fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| is(event)).count()
    }

    /// What happens while nothing should: waits, until one has slept its time.
    fn listen_for_silence(&mut self) -> Vec<Event> {
        let mut heard = Vec::new();
        for _ in 0..50 {
            let start = self.network.now();
            let events = self.turn(SILENCE);
            // (A simulated wait without any event also takes all of its time.)
            if events.is_empty() && self.network.now() - start >= SILENCE {
                return heard;
            }
            heard.extend(events);
        }
        panic!("50 waits of {SILENCE:?} and no silence: the backend spins; it told {:?}", self.tail());
    }

    fn peer_reads(&mut self, peer: &mut dyn Peer, bytes: usize) -> Vec<u8> {
        let mut read = Vec::new();
        self.until("the peer reads everything", |_| {
            read.extend(peer.read(bytes - read.len()));
            read.len() == bytes
        });
        read
    }

    /// Offer `output` once. True if the send is blocked.
    fn send(&mut self, output: &mut Output, fd: RawFd) -> io::Result<bool> {
        assert!(!output.is_blocked, "a blocked send must complete before the next");
        let queued = output.queue.bytes();
        match self.poller.send(output.token, fd, &mut output.queue)? {
            SendOutcome::Done(bytes) => {
                assert_eq!(bytes, queued, "done means everything");
                output.advance(bytes);
            }
            SendOutcome::Blocked(bytes) => {
                assert!(bytes < queued, "blocked means that something is left");
                output.advance(bytes);
                output.is_blocked = true;
            }
        }
        Ok(output.is_blocked)
    }

    /// One turn that also completes and renews the send of `output`.
    fn turn_with(&mut self, output: &mut Output, fd: RawFd) {
        let events = self.turn(TICK);
        let sent: Vec<usize> = events
            .iter()
            .filter_map(|event| match event {
                Event::Sent(token, bytes) if *token == output.token => Some(*bytes),
                _ => None,
            })
            .collect();
        assert!(sent.len() <= usize::from(output.is_blocked), "one Sent for each blocked send: {events:?}");
        if let [bytes] = sent[..] {
            output.advance(bytes);
            output.is_blocked = false;
        }
        if !output.is_blocked && !output.queue.is_empty() {
            self.send(output, fd).expect("the connection stands");
        }
    }
}

/// What one connection has to send, as a reactor keeps it: boxed, so that it stays where it is.
struct Output {
    token: Token,
    queue: Box<SegmentQueue>,
    pool: BufferPool,
    released: Vec<Owner>,
    is_blocked: bool,
}

impl Output {
    fn new(token: Token) -> Self {
        Output { token, queue: Box::default(), pool: BufferPool::default(), released: Vec::new(), is_blocked: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.queue.push_copy(&mut self.pool, bytes);
    }

    /// Without copying: the bytes must outlive the output.
    fn push_borrowed(&mut self, bytes: &'static [u8]) {
        // SAFETY: static bytes live and do not change.
        unsafe { self.queue.push_borrowed(bytes, Owner(bytes.len())) };
    }

    fn push_file(&mut self, file: &Arc<OwnedFd>, offset: usize, bytes: usize) {
        self.queue.push_file(file.clone(), offset as u64, bytes);
    }

    fn advance(&mut self, bytes: usize) {
        self.queue.advance(bytes, &mut self.pool, &mut self.released);
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|position| (position.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn leaked(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

/// A file without a name that holds `bytes`.
fn file_of(bytes: &[u8]) -> Arc<OwnedFd> {
    let name = c"contract";
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "no file in memory: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.write_all(bytes).expect("memory is there");
    Arc::new(file.into())
}

fn readable() -> Readiness {
    Readiness { readable: true, writable: false }
}

fn writable() -> Readiness {
    Readiness { readable: false, writable: true }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().expect("pipes are to be had");
    (reader.into(), writer.into())
}

fn write_to(fd: &OwnedFd, bytes: &[u8]) {
    let mut file = std::fs::File::from(fd.try_clone().expect("a descriptor can be duplicated"));
    file.write_all(bytes).expect("a pipe takes a few bytes");
}

fn read_from(fd: &OwnedFd, bytes: usize) {
    let mut file = std::fs::File::from(fd.try_clone().expect("a descriptor can be duplicated"));
    file.read_exact(&mut vec![0; bytes]).expect("the bytes are there");
}

// ---------------------------------------------------------------- the backends

mod on_epoll {
    use super::*;
    use penstock::core::poller::epoll::EpollPoller;

    pub const SEEDS: u64 = 1;

    pub fn driver(_seed: u64) -> Option<Driver> {
        let poller = EpollPoller::new().expect("Linux has epoll");
        Some(Driver::new(Box::new(poller), Box::new(Loopback::new()), true))
    }
}

#[cfg(feature = "io-uring")]
mod on_io_uring {
    use super::*;
    use penstock::core::poller::uring::UringPoller;

    pub const SEEDS: u64 = 1;

    pub fn driver(_seed: u64) -> Option<Driver> {
        match UringPoller::new() {
            Ok(poller) => Some(Driver::new(Box::new(poller), Box::new(Loopback::new()), true)),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                None
            }
        }
    }
}

mod on_simulated {
    use super::*;
    use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork, SimulatedPeer};

    pub const SEEDS: u64 = 24;

    /// The first seed runs in a calm network, the others in a rough one.
    pub fn driver(seed: u64) -> Option<Driver> {
        let plan = if seed == 0 { FaultPlan::CALM } else { FaultPlan::ROUGH };
        let network = SimulatedNetwork::new(seed, plan);
        Some(Driver::new(Box::new(network.poller()), Box::new(network), false))
    }

    impl Network for SimulatedNetwork {
        fn listen(&mut self) -> OwnedFd {
            SimulatedNetwork::listen(self).expect("there are descriptors for a test")
        }

        fn dial(&mut self, listener: RawFd) -> Box<dyn Peer> {
            Box::new(SimulatedNetwork::dial(self, listener))
        }

        fn connection_from(&mut self, lowest: RawFd) -> (OwnedFd, Box<dyn Peer>) {
            let (fd, peer) = SimulatedNetwork::connection_from(self, lowest).expect("there are descriptors for a test");
            (fd, Box::new(peer))
        }

        fn set_exhausted(&mut self, exhausted: bool) {
            self.exhaust_descriptors(exhausted);
        }

        fn now(&self) -> Duration {
            SimulatedNetwork::now(self)
        }
    }

    impl Peer for SimulatedPeer {
        fn write(&mut self, bytes: &[u8]) -> usize {
            SimulatedPeer::write(self, bytes)
        }

        fn read(&mut self, limit: usize) -> Vec<u8> {
            SimulatedPeer::read(self, limit)
        }

        fn has_ended(&mut self) -> bool {
            SimulatedPeer::has_ended(self)
        }

        fn finish(&mut self) {
            SimulatedPeer::finish(self);
        }

        fn reset(self: Box<Self>) {
            SimulatedPeer::reset(*self);
        }
    }
}

macro_rules! tests_on {
    ($module:ident, $backend:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    for seed in 0..super::$backend::SEEDS {
                        if let Some(mut driver) = super::$backend::driver(seed) {
                            super::$name(&mut driver);
                        }
                    }
                }
            )*
        }
    };
}

macro_rules! every_backend_holds {
    ($($name:ident)*) => {
        tests_on! { epoll, on_epoll: $($name)* }
        tests_on! { simulated, on_simulated: $($name)* }
        #[cfg(feature = "io-uring")]
        tests_on! { io_uring, on_io_uring: $($name)* }
    };
}

macro_rules! every_kernel_backend_holds {
    ($($name:ident)*) => {
        tests_on! { epoll_in_the_kernel, on_epoll: $($name)* }
        #[cfg(feature = "io-uring")]
        tests_on! { io_uring_in_the_kernel, on_io_uring: $($name)* }
    };
}

every_backend_holds! {
    // 1. tokens
    every_completion_names_its_token
    nothing_follows_a_forget
    forgetting_twice_or_something_unknown_hurts_nobody
    forgetting_a_predecessor_does_not_hurt_the_successor
    a_reused_descriptor_gets_nothing_of_its_predecessor
    what_came_while_another_was_forgotten_does_not_reach_a_successor
    a_duplicate_of_a_closed_descriptor_tells_its_successor_nothing
    // 2. accepting
    accepting_goes_on_until_it_is_stopped
    accepted_descriptors_do_not_block_and_are_closed_on_exec
    a_burst_of_connections_is_accepted_whole
    running_out_of_descriptors_is_told_and_accepting_goes_on
    // 3. receiving
    bytes_arrive_in_order_over_many_turns
    a_pause_takes_effect_within_one_wait_and_loses_nothing
    a_pause_undone_at_once_loses_nothing
    a_paused_connection_whose_peer_ends_tells_it_afterwards
    // 4. leases
    leases_are_valid_over_waits_until_they_are_recycled
    without_room_nothing_more_is_delivered_and_nothing_is_lost
    a_full_turn_starves_nobody
    // 5. sending
    sending_nothing_is_done_at_once
    what_is_sent_arrives
    a_blocked_send_completes_exactly_once
    more_segments_than_one_call_takes_all_leave_in_order
    segments_queued_during_a_flight_follow_it
    empty_segments_do_not_stop_the_others
    a_forgotten_flight_s_memory_is_read_no_more
    streams_of_random_pieces_arrive_whole_both_ways
    a_file_leaves_between_what_is_queued_around_it
    a_large_file_arrives_whole
    a_large_file_starves_nobody
    a_file_that_became_shorter_fails_the_send
    a_forgotten_file_is_closed
    // 6. ends
    an_end_comes_once_after_the_last_bytes_and_sending_goes_on
    after_our_own_end_receiving_goes_on
    an_end_both_ways_does_not_spin
    a_reset_is_told_once_and_last
    a_reset_of_a_paused_connection_is_told_and_does_not_spin
    a_reset_ends_a_blocked_send_once
    a_silent_peer_costs_nothing
    // 7. watching
    watching_is_told_anew_by_each_wait_while_it_holds
    a_watch_s_interest_can_be_changed_and_withdrawn
    reading_and_writing_are_watched_together
    a_hang_up_shows_as_what_was_asked_for
    a_regular_file_is_refused
    a_watched_descriptor_that_was_closed_and_reused_is_watched_anew
    // 8. waiting
    a_zero_timeout_returns_at_once
    a_wait_sleeps_for_its_timeout_when_nothing_happens
    a_wait_appends_to_what_is_there
}

every_kernel_backend_holds! {
    a_signal_ends_a_wait_early_without_an_error
    a_wait_without_timeout_ends_when_something_happens
    urgent_data_hides_nothing_behind_it
    descriptors_passed_along_hide_nothing_behind_them
    an_end_that_came_with_the_last_bytes_is_told
}

// ---------------------------------------------------------------- 1. tokens

fn every_completion_names_its_token(driver: &mut Driver) {
    let (_a, mut to_a) = driver.connection(A);
    let (_b, mut to_b) = driver.connection(B);
    assert_eq!((to_a.write(b"for a"), to_b.write(b"for b, and more")), (5, 15));
    driver.until("both received", |driver| driver.inbox(A).len() == 5 && driver.inbox(B).len() == 15);
    assert_eq!((driver.inbox(A), driver.inbox(B)), (&b"for a"[..], &b"for b, and more"[..]));
}

fn nothing_follows_a_forget(driver: &mut Driver) {
    let (a, mut to_a) = driver.connection(A);
    to_a.write(b"known");
    driver.until("the connection works", |driver| driver.inbox(A) == b"known");
    to_a.write(b"unknown");
    to_a.finish();
    driver.poller.forget(A, a.as_raw_fd());
    assert_eq!(driver.listen_for_silence(), []);
}

fn forgetting_twice_or_something_unknown_hurts_nobody(driver: &mut Driver) {
    let (a, _to_a) = driver.connection(A);
    let (_b, mut to_b) = driver.connection(B);
    driver.poller.forget(A, a.as_raw_fd());
    driver.poller.forget(A, a.as_raw_fd());
    driver.poller.forget(Token::new(99, 99), 1_000_000);
    driver.poller.pause(A, a.as_raw_fd());
    driver.poller.stop_accept(LISTENER, a.as_raw_fd());
    to_b.write(b"still here");
    driver.until("the other connection works", |driver| driver.inbox(B) == b"still here");
}

fn forgetting_a_predecessor_does_not_hurt_the_successor(driver: &mut Driver) {
    let number = private_number();
    let (old, _to_old) = driver.network.connection_from(number);
    driver.poller.receive(A, old.as_raw_fd()).unwrap();
    driver.turn(Duration::ZERO);
    drop(old);
    let (new, mut to_new) = driver.network.connection_from(number);
    assert_eq!(new.as_raw_fd(), number);
    let successor = Token::new(A.index, A.generation + 1);
    driver.poller.receive(successor, number).unwrap();
    driver.poller.forget(A, number);
    to_new.write(b"new");
    driver.until("the successor works", |driver| driver.inbox(successor) == b"new");
}

fn a_reused_descriptor_gets_nothing_of_its_predecessor(driver: &mut Driver) {
    let number = private_number();
    for generation in 1..20 {
        let token = Token::new(1, generation);
        let (fd, mut peer) = driver.network.connection_from(number);
        assert_eq!(fd.as_raw_fd(), number);
        driver.poller.receive(token, number).unwrap();
        peer.write(&[generation as u8; 9]);
        driver.until("the first bytes", |driver| driver.inbox(token).len() >= 9);
        // Something is under way when the connection is let go.
        peer.write(b"stale");
        driver.poller.forget(token, number);
    }
    assert_eq!(driver.listen_for_silence(), []);
    for generation in 1..20 {
        assert_eq!(driver.inbox(Token::new(1, generation)), [generation as u8; 9]);
    }
}

fn what_came_while_another_was_forgotten_does_not_reach_a_successor(driver: &mut Driver) {
    let number = private_number();
    let (a, _to_a) = driver.connection(A);
    let (b, mut to_b) = driver.network.connection_from(number);
    driver.poller.receive(B, number).unwrap();
    to_b.write(b"first");
    driver.until("the connection works", |driver| driver.inbox(B) == b"first");
    to_b.write(b"stale");
    // A completion backend may hear of B's bytes in here.
    driver.poller.forget(A, a.as_raw_fd());
    driver.poller.forget(B, number);
    drop(b);
    let (new, mut to_new) = driver.network.connection_from(number);
    let successor = Token::new(B.index, B.generation + 1);
    driver.poller.receive(successor, new.as_raw_fd()).unwrap();
    to_new.write(b"new");
    driver.until("the successor's bytes", |driver| driver.inbox(successor).len() >= 3);
    assert_eq!((driver.inbox(successor), driver.inbox(B)), (&b"new"[..], &b"first"[..]));
    assert!(driver.inboxes.len() == 2 && driver.count(|event| !matches!(event, Event::Received(..))) == 0);
}

fn a_duplicate_of_a_closed_descriptor_tells_its_successor_nothing(driver: &mut Driver) {
    let number = private_number();
    let (old, mut to_old) = driver.network.connection_from(number);
    driver.poller.receive(A, number).unwrap();
    driver.turn(Duration::ZERO);
    let _inherited_by_a_child = duplicate(number, 0);
    drop(old);
    let (new, mut to_new) = driver.network.connection_from(number);
    assert_eq!(new.as_raw_fd(), number);
    let successor = Token::new(A.index, A.generation + 1);
    driver.poller.receive(successor, number).unwrap();
    to_old.write(b"for the dead");
    to_new.write(b"for the living");
    driver.until("the successor works", |driver| driver.inbox(successor).len() >= 14);
    assert_eq!(driver.inbox(successor), b"for the living");
}

// ---------------------------------------------------------------- 2. accepting

fn accepting_goes_on_until_it_is_stopped(driver: &mut Driver) {
    let listener = driver.network.listen();
    let fd = listener.as_raw_fd();
    driver.poller.accept(LISTENER, fd).unwrap();
    let mut peers = Vec::new();
    for accepted in 1..=3 {
        peers.push(driver.network.dial(fd));
        driver.until("a connection is accepted", |driver| driver.accepted.len() == accepted);
    }
    driver.poller.stop_accept(LISTENER, fd);
    driver.listen_for_silence();
    peers.push(driver.network.dial(fd));
    assert_eq!(driver.listen_for_silence(), []);
    driver.poller.accept(LISTENER, fd).unwrap();
    driver.until("the one that waited is accepted", |driver| driver.accepted.len() == 4);
    assert_eq!(driver.events, vec![Event::Accepted(LISTENER); 4]);
    // What was accepted works.
    let ours = driver.accepted[0].as_raw_fd();
    driver.poller.receive(A, ours).unwrap();
    peers[0].write(b"hello");
    driver.until("bytes of an accepted connection", |driver| driver.inbox(A) == b"hello");
    driver.poller.forget(A, ours);
    driver.poller.forget(LISTENER, fd);
}

fn accepted_descriptors_do_not_block_and_are_closed_on_exec(driver: &mut Driver) {
    let listener = driver.network.listen();
    driver.poller.accept(LISTENER, listener.as_raw_fd()).unwrap();
    let _peer = driver.network.dial(listener.as_raw_fd());
    driver.until("a connection is accepted", |driver| driver.accepted.len() == 1);
    let fd = driver.accepted[0].as_raw_fd();
    // SAFETY: no pointers are passed.
    let (status, flags) = unsafe { (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD)) };
    assert!(status & libc::O_NONBLOCK != 0 && flags & libc::FD_CLOEXEC != 0, "status {status:#x}, flags {flags:#x}");
}

fn a_burst_of_connections_is_accepted_whole(driver: &mut Driver) {
    const BURST: usize = 80;
    let listener = driver.network.listen();
    let _peers: Vec<_> = (0..BURST).map(|_| driver.network.dial(listener.as_raw_fd())).collect();
    driver.poller.accept(LISTENER, listener.as_raw_fd()).unwrap();
    driver.until("the burst is accepted", |driver| driver.accepted.len() == BURST);
    let mut numbers: Vec<RawFd> = driver.accepted.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), BURST);
}

fn running_out_of_descriptors_is_told_and_accepting_goes_on(driver: &mut Driver) {
    if driver.is_kernel && !alone_in_a_child() {
        return;
    }
    let listener = driver.network.listen();
    let fd = listener.as_raw_fd();
    driver.poller.accept(LISTENER, fd).unwrap();
    let mut peer = driver.network.dial(fd);
    driver.network.set_exhausted(true);
    driver.until_event(Event::AcceptFailed(LISTENER, libc::EMFILE));
    assert_eq!(driver.accepted.len(), 0);
    // The loop backs off: no accept, no failure, no spinning.
    driver.poller.stop_accept(LISTENER, fd);
    driver.listen_for_silence();
    assert_eq!(driver.listen_for_silence(), []);
    driver.network.set_exhausted(false);
    driver.poller.accept(LISTENER, fd).unwrap();
    driver.until("the connection that waited is accepted", |driver| driver.accepted.len() == 1);
    // Without backing off it goes on just so.
    driver.network.set_exhausted(true);
    let _second = driver.network_dial_despite_exhaustion(fd);
    driver.until("it is told again", |driver| driver.count(|event| matches!(event, Event::AcceptFailed(..))) >= 2);
    driver.network.set_exhausted(false);
    driver.until("the second is accepted", |driver| driver.accepted.len() == 2);
    driver.poller.receive(A, driver.accepted[0].as_raw_fd()).unwrap();
    peer.write(b"at last");
    driver.until("its bytes", |driver| driver.inbox(A) == b"at last");
}

impl Driver {
    /// The peer needs a descriptor of its own, from before.
    fn network_dial_despite_exhaustion(&mut self, listener: RawFd) -> Box<dyn Peer> {
        self.network.set_exhausted(false);
        let peer = self.network.dial(listener);
        self.network.set_exhausted(true);
        peer
    }
}

// ---------------------------------------------------------------- 3. receiving

fn bytes_arrive_in_order_over_many_turns(driver: &mut Driver) {
    let (_a, mut peer) = driver.connection(A);
    let bytes = pattern(1_000_000);
    let mut written = 0;
    driver.until("a megabyte arrives", |driver| {
        written += peer.write(&bytes[written..(written + 70_000).min(bytes.len())]);
        driver.inbox(A).len() == bytes.len()
    });
    assert!(driver.inbox(A) == bytes, "the bytes differ");
}

fn a_pause_takes_effect_within_one_wait_and_loses_nothing(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    peer.write(b"first ");
    driver.until("the first bytes", |driver| driver.inbox(A) == b"first ");
    driver.poller.pause(A, a.as_raw_fd());
    peer.write(b"second ");
    driver.turn(TICK);
    let late = driver.inbox(A).len();
    peer.write(b"third");
    assert_eq!(driver.listen_for_silence(), [], "only one wait may still deliver");
    assert_eq!(driver.inbox(A).len(), late);
    driver.poller.receive(A, a.as_raw_fd()).unwrap();
    driver.until("the rest", |driver| driver.inbox(A) == b"first second third");
}

fn a_pause_undone_at_once_loses_nothing(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    let bytes = pattern(3000);
    for piece in bytes.chunks(100) {
        peer.write(piece);
        driver.poller.pause(A, a.as_raw_fd());
        driver.poller.receive(A, a.as_raw_fd()).unwrap();
        driver.turn(Duration::ZERO);
    }
    driver.until("everything", |driver| driver.inbox(A).len() == bytes.len());
    assert!(driver.inbox(A) == bytes, "the bytes differ");
}

fn a_paused_connection_whose_peer_ends_tells_it_afterwards(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    driver.poller.pause(A, a.as_raw_fd());
    driver.turn(TICK);
    peer.write(b"last words");
    peer.finish();
    assert_eq!(driver.listen_for_silence(), []);
    driver.poller.receive(A, a.as_raw_fd()).unwrap();
    driver.until_event(Event::Ended(A));
    assert_eq!(driver.inbox(A), b"last words");
}

/// A receive stops short at urgent data, though more is there.
fn urgent_data_hides_nothing_behind_it(driver: &mut Driver) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    let mut peer = Loopback::connect(listener.local_addr().expect("a listener has an address"));
    let (ours, _) = listener.accept().expect("the peer has connected");
    ours.set_nonblocking(true).expect("sockets can be non-blocking");
    Write::write_all(&mut peer, b"before ").unwrap();
    // SAFETY: an open socket and a live byte.
    assert_eq!(unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
    Write::write_all(&mut peer, b"behind").unwrap();
    driver.poller.receive(A, ours.as_raw_fd()).unwrap();
    driver.until("what is behind the urgent byte", |driver| driver.inbox(A).ends_with(b"behind"));
    driver.poller.forget(A, ours.as_raw_fd());
}

/// A receive from a Unix socket stops short behind bytes that came with a descriptor.
fn descriptors_passed_along_hide_nothing_behind_them(driver: &mut Driver) {
    let (ours, peer) = std::os::unix::net::UnixStream::pair().expect("there are descriptors for a test");
    ours.set_nonblocking(true).expect("sockets can be non-blocking");
    for piece in [b"one", b"two"] {
        send_with_descriptor(&peer, piece);
    }
    driver.poller.receive(A, ours.as_raw_fd()).unwrap();
    driver.until("both pieces", |driver| driver.inbox(A) == b"onetwo");
    driver.poller.forget(A, ours.as_raw_fd());
}

fn send_with_descriptor(socket: &impl AsRawFd, bytes: &[u8]) {
    let mut control = [0u64; 4];
    let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid, empty msghdr; what it shows lives through the call, and `control` is aligned and has
    // room for one message of one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut slice, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(socket.as_raw_fd());
        assert_eq!(libc::sendmsg(socket.as_raw_fd(), &message, 0), bytes.len() as isize);
    }
}

/// Everything is there before the first wait: one event tells of the bytes and of the end.
fn an_end_that_came_with_the_last_bytes_is_told(driver: &mut Driver) {
    let (_a, mut peer) = driver.connection(A);
    peer.write(b"last words");
    peer.finish();
    driver.until_event(Event::Ended(A));
    assert_eq!(driver.inbox(A), b"last words");
}

// ---------------------------------------------------------------- 4. leases

fn leases_are_valid_over_waits_until_they_are_recycled(driver: &mut Driver) {
    driver.recycles = false;
    let (_a, mut to_a) = driver.connection(A);
    let (_b, mut to_b) = driver.connection(B);
    for piece in pattern(5000).chunks(500) {
        let before = driver.inbox(A).len() + driver.inbox(B).len();
        to_a.write(piece);
        to_b.write(&piece[..50]);
        driver.until("the piece", |driver| driver.inbox(A).len() + driver.inbox(B).len() == before + 550);
    }
    for token in [A, B] {
        let held: Vec<u8> = (driver.leases.iter().filter(|(of, _)| *of == token))
            // SAFETY: nothing has been recycled.
            .flat_map(|(_, lease)| unsafe { lease.as_slice() }.to_vec())
            .collect();
        assert_eq!(held, driver.inbox(token));
    }
}

fn without_room_nothing_more_is_delivered_and_nothing_is_lost(driver: &mut Driver) {
    driver.recycles = false;
    let (_a, mut peer) = driver.connection(A);
    let bytes = pattern(6 << 20);
    let mut written = 0;
    // The room is bounded, so with no recycling at all a turn comes that delivers nothing ...
    let mut idle_turns = 0;
    while idle_turns < 20 {
        assert!(driver.inbox(A).len() < bytes.len(), "6 MiB came without any recycling: the room has no bound");
        written += peer.write(&bytes[written..]);
        let came = !driver.turn(Duration::from_millis(1)).is_empty();
        idle_turns = if came { 0 } else { idle_turns + 1 };
    }
    let held: Vec<u8> = (driver.leases.iter())
        // SAFETY: nothing has been recycled.
        .flat_map(|(_, lease)| unsafe { lease.as_slice() }.to_vec())
        .collect();
    assert!(held == bytes[..held.len()] && !held.is_empty(), "a lease changed before it was recycled");
    // ... and with it everything comes.
    driver.recycle();
    driver.recycles = true;
    driver.until("the rest", |driver| {
        written += peer.write(&bytes[written..]);
        driver.inbox(A).len() == bytes.len()
    });
    assert!(driver.inbox(A) == bytes, "the bytes differ");
}

fn a_full_turn_starves_nobody(driver: &mut Driver) {
    const CONNECTIONS: u32 = 24;
    let block = pattern(1 << 20);
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|index| driver.connection(Token::new(index, 1))).collect();
    // Everybody always has more to say than one turn holds.
    driver.until("everybody is heard", |driver| {
        for (_, peer) in &mut connections {
            peer.write(&block);
        }
        (0..CONNECTIONS).all(|index| driver.inbox(Token::new(index, 1)).len() > 100_000)
    });
    let heard: Vec<usize> = (0..CONNECTIONS).map(|index| driver.inbox(Token::new(index, 1)).len()).collect();
    let (most, least) = (heard.iter().max().unwrap(), heard.iter().min().unwrap());
    assert!(most / least < 20, "from {least} to {most} bytes: {heard:?}");
}

// ---------------------------------------------------------------- 5. sending

fn sending_nothing_is_done_at_once(driver: &mut Driver) {
    let (a, _peer) = driver.connection(A);
    let mut output = Output::new(A);
    assert!(!driver.send(&mut output, a.as_raw_fd()).unwrap());
    assert_eq!(driver.listen_for_silence(), []);
}

fn what_is_sent_arrives(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    let mut expected = Vec::new();
    for body in ["one", "two", "three"] {
        output.push(b"head: ");
        output.push_borrowed(body.as_bytes());
        expected.extend_from_slice(b"head: ");
        expected.extend_from_slice(body.as_bytes());
    }
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    driver.until_sent(&mut output, a.as_raw_fd());
    assert_eq!(driver.peer_reads(&mut *peer, expected.len()), expected);
    assert_eq!(output.released, [Owner(3), Owner(3), Owner(5)]);
    assert_eq!(driver.listen_for_silence(), []);
}

impl Driver {
    fn until_sent(&mut self, output: &mut Output, fd: RawFd) {
        let start = Instant::now();
        while output.is_blocked || !output.queue.is_empty() {
            self.turn_with(output, fd);
            assert!(start.elapsed() < PATIENCE, "{} bytes have not left", output.queue.bytes());
        }
    }

    /// Send until the connection takes no more: the send stays blocked.
    fn fill(&mut self, output: &mut Output, fd: RawFd) {
        self.send(output, fd).unwrap();
        assert!(output.is_blocked, "everything left at once");
        let mut idle_turns = 0;
        while idle_turns < 20 {
            let before = (output.queue.bytes(), output.is_blocked);
            self.turn_with(output, fd);
            idle_turns = if before == (output.queue.bytes(), output.is_blocked) { idle_turns + 1 } else { 0 };
            assert!(output.is_blocked, "everything left");
        }
    }
}

fn a_blocked_send_completes_exactly_once(driver: &mut Driver) {
    let bytes = leaked(pattern(driver.much));
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push_borrowed(bytes);
    driver.fill(&mut output, a.as_raw_fd());
    driver.events.clear();
    // The peer makes room; nobody sends again; so there is one completion, and no second.
    let mut read = Vec::new();
    driver.until("the send completes", |driver| {
        read.extend(peer.read(1 << 20));
        !driver.events.is_empty()
    });
    driver.listen_for_silence();
    let [Event::Sent(A, sent)] = driver.events[..] else { panic!("one Sent, not {:?}", driver.events) };
    output.advance(sent);
    output.is_blocked = false;
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    let start = Instant::now();
    while read.len() < driver.much {
        driver.turn_with(&mut output, a.as_raw_fd());
        read.extend(peer.read(1 << 20));
        assert!(start.elapsed() < PATIENCE, "{} of {} bytes arrived", read.len(), driver.much);
    }
    assert!(read == bytes, "the bytes differ");
}

fn more_segments_than_one_call_takes_all_leave_in_order(driver: &mut Driver) {
    let bytes = leaked(pattern(100_000));
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    for piece in bytes.chunks(99) {
        output.push_borrowed(piece);
    }
    assert!(bytes.len() / 99 > 10 * SegmentQueue::MAX_IOVECS);
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    let (start, mut read) = (Instant::now(), Vec::new());
    while read.len() < bytes.len() {
        driver.turn_with(&mut output, a.as_raw_fd());
        read.extend(peer.read(bytes.len()));
        assert!(start.elapsed() < PATIENCE, "{} bytes arrived", read.len());
    }
    driver.until_sent(&mut output, a.as_raw_fd());
    assert!(read == bytes, "the bytes differ");
    assert_eq!(output.released.len(), bytes.len().div_ceil(99));
}

fn segments_queued_during_a_flight_follow_it(driver: &mut Driver) {
    let bytes = leaked(pattern(driver.much));
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push_borrowed(bytes);
    driver.fill(&mut output, a.as_raw_fd());
    for count in 0..100 {
        output.push(&[count; 100]);
    }
    let (start, mut read) = (Instant::now(), Vec::new());
    while read.len() < driver.much + 10_000 {
        driver.turn_with(&mut output, a.as_raw_fd());
        read.extend(peer.read(1 << 20));
        assert!(start.elapsed() < PATIENCE, "{} bytes arrived", read.len());
    }
    assert!(read[..driver.much] == *bytes, "the bytes differ");
    assert!(read[driver.much..].chunks(100).enumerate().all(|(count, piece)| piece == [count as u8; 100]));
}

fn empty_segments_do_not_stop_the_others(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    for _ in 0..3 * SegmentQueue::MAX_IOVECS {
        output.push_borrowed(b"");
    }
    output.push(b"something");
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    driver.until_sent(&mut output, a.as_raw_fd());
    assert_eq!(driver.peer_reads(&mut *peer, 9), b"something");
}

fn a_forgotten_flight_s_memory_is_read_no_more(driver: &mut Driver) {
    let mut bytes = vec![0x5a; driver.much];
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    // SAFETY: the queue is cleared below, after the forget, before the bytes change.
    unsafe { output.queue.push_borrowed(&bytes, Owner(1)) };
    driver.fill(&mut output, a.as_raw_fd());
    driver.poller.forget(A, a.as_raw_fd());
    output.queue.clear(&mut output.pool, &mut output.released);
    bytes.fill(0xff);
    drop(a);
    let (start, mut read) = (Instant::now(), Vec::new());
    while !peer.has_ended() {
        read.extend(peer.read(1 << 20));
        driver.turn(TICK);
        assert!(start.elapsed() < PATIENCE, "the forgotten connection does not end");
    }
    assert!(read.len() < driver.much && read.iter().all(|byte| *byte == 0x5a), "memory was read after the forget");
    assert_eq!(driver.count(|event| matches!(event, Event::Failed(..))), 0);
}

/// A small generator, so that a seed is all there is to a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound as u64) as usize
    }
}

fn streams_of_random_pieces_arrive_whole_both_ways(driver: &mut Driver) {
    for seed in 0..8 {
        stream_random_pieces(driver, seed);
    }
}

fn stream_random_pieces(driver: &mut Driver, seed: u64) {
    let mut random = Random(seed);
    let token = Token::new(3, seed as u32);
    let (ours, theirs) = (leaked(pattern(1 + random.below(200_000))), pattern(1 + random.below(200_000)));
    let file = file_of(ours);
    let (fd, mut peer) = driver.connection(token);
    let mut output = Output::new(token);
    let (mut queued, mut written, mut read) = (0, 0, Vec::new());
    let start = Instant::now();
    while read.len() < ours.len() || driver.inbox(token).len() < theirs.len() {
        for _ in 0..random.below(100) {
            let piece = &ours[queued..(queued + random.below(3000)).min(ours.len())];
            queued += piece.len();
            match random.below(3) {
                0 => output.push(piece),
                1 => output.push_borrowed(piece),
                _ => output.push_file(&file, queued - piece.len(), piece.len()),
            }
        }
        let end = (written + random.below(50_000)).min(theirs.len());
        written += peer.write(&theirs[written..end]);
        match random.below(10) {
            0 => driver.poller.pause(token, fd.as_raw_fd()),
            1..4 => driver.poller.receive(token, fd.as_raw_fd()).unwrap(),
            _ => {}
        }
        driver.turn_with(&mut output, fd.as_raw_fd());
        read.extend(peer.read(random.below(60_000)));
        assert!(start.elapsed() < PATIENCE, "seed {seed}: {} and {} arrived", read.len(), driver.inbox(token).len());
    }
    assert!(read == ours && driver.inbox(token) == theirs, "seed {seed}: the bytes differ");
    driver.until_sent(&mut output, fd.as_raw_fd());
    driver.poller.forget(token, fd.as_raw_fd());
}

fn a_file_leaves_between_what_is_queued_around_it(driver: &mut Driver) {
    let file = file_of(b"0123456789");
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push(b"head ");
    output.push_file(&file, 2, 5);
    output.push(b" between ");
    output.push_file(&file, 0, 3);
    output.push_file(&file, 9, 1);
    output.push_borrowed(b" tail");
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    driver.until_sent(&mut output, a.as_raw_fd());
    assert_eq!(driver.peer_reads(&mut *peer, 28), b"head 23456 between 0129 tail");
    assert_eq!(Arc::strong_count(&file), 1, "a file that has left is still held");
    assert_eq!(driver.listen_for_silence(), []);
}

fn a_large_file_arrives_whole(driver: &mut Driver) {
    let bytes = pattern(driver.much);
    let file = file_of(&bytes);
    let (a, mut peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push_file(&file, 1, bytes.len() - 1);
    output.push(b"the end");
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    let (start, mut read) = (Instant::now(), Vec::new());
    while read.len() < bytes.len() + 6 {
        driver.turn_with(&mut output, a.as_raw_fd());
        read.extend(peer.read(1 << 20));
        assert!(start.elapsed() < PATIENCE, "{} bytes arrived", read.len());
    }
    assert!(read[..bytes.len() - 1] == bytes[1..] && read.ends_with(b"the end"), "the bytes differ");
}

/// Two peers read all they are sent: what one turn sends to one of them is bounded, so the other gets its share.
fn a_large_file_starves_nobody(driver: &mut Driver) {
    let file = file_of(&pattern(8 << 20));
    let (a, mut to_a) = driver.connection(A);
    let mut output = Output::new(A);
    output.push_file(&file, 0, 8 << 20);
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    let most = 1 << 20;
    let mut left = (8 << 20) - output.queue.bytes();
    assert!(left <= most, "{left} bytes left in one send");
    for _ in 0..20 {
        let before = output.queue.bytes();
        driver.turn_with(&mut output, a.as_raw_fd());
        left = before - output.queue.bytes();
        assert!(left <= 2 * most, "{left} bytes left in one turn");
        to_a.read(4 << 20);
    }
}

fn a_file_that_became_shorter_fails_the_send(driver: &mut Driver) {
    let file = file_of(&pattern(10_000));
    let (a, _peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push(b"content-length: 20000");
    output.push_file(&file, 0, 20_000);
    let start = Instant::now();
    let mut outcome = driver.send(&mut output, a.as_raw_fd());
    while outcome.is_ok() {
        assert!(start.elapsed() < PATIENCE && !output.queue.is_empty(), "bytes that are not there were sent");
        while output.is_blocked {
            let events = driver.turn(TICK);
            for event in events {
                if let Event::Sent(A, bytes) = event {
                    output.advance(bytes);
                    output.is_blocked = false;
                }
            }
            assert!(start.elapsed() < PATIENCE, "the send hangs");
        }
        outcome = driver.send(&mut output, a.as_raw_fd());
    }
    assert!(output.queue.bytes() >= 10_000, "padding was sent");
    driver.poller.forget(A, a.as_raw_fd());
}

fn a_forgotten_file_is_closed(driver: &mut Driver) {
    let file = file_of(&pattern(driver.much));
    let (a, _peer) = driver.connection(A);
    let mut output = Output::new(A);
    output.push_file(&file, 0, driver.much);
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    driver.turn(TICK);
    driver.poller.forget(A, a.as_raw_fd());
    output.queue.clear(&mut output.pool, &mut output.released);
    assert_eq!(Arc::strong_count(&file), 1);
    assert!(!output.queue.has_files());
}

// ---------------------------------------------------------------- 6. ends

fn an_end_comes_once_after_the_last_bytes_and_sending_goes_on(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    peer.write(b"a question");
    peer.finish();
    driver.until_event(Event::Ended(A));
    assert_eq!(driver.inbox(A), b"a question");
    driver.poller.receive(A, a.as_raw_fd()).unwrap();
    assert_eq!(driver.listen_for_silence(), [], "an end is told once");
    let mut output = Output::new(A);
    output.push(b"an answer");
    driver.send(&mut output, a.as_raw_fd()).unwrap();
    driver.until_sent(&mut output, a.as_raw_fd());
    assert_eq!(driver.peer_reads(&mut *peer, 9), b"an answer");
    let last = driver.events.iter().rposition(|event| matches!(event, Event::Received(..))).unwrap();
    assert!(driver.events.iter().position(|event| *event == Event::Ended(A)).unwrap() > last);
}

fn shut_down_sending(fd: &OwnedFd) {
    // SAFETY: no pointers are passed.
    assert_eq!(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) }, 0);
}

fn after_our_own_end_receiving_goes_on(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    shut_down_sending(&a);
    driver.until("the peer sees our end", |_| peer.has_ended());
    peer.write(b"a late answer");
    driver.until("bytes after our end", |driver| driver.inbox(A) == b"a late answer");
    peer.finish();
    driver.until_event(Event::Ended(A));
}

fn an_end_both_ways_does_not_spin(driver: &mut Driver) {
    let (a, mut to_a) = driver.connection(A);
    let (b, mut to_b) = driver.connection(B);
    // One has been told the end; the other is paused and has not.
    driver.poller.pause(B, b.as_raw_fd());
    driver.turn(TICK);
    to_b.write(b"unread");
    for (fd, peer) in [(&a, &mut to_a), (&b, &mut to_b)] {
        peer.finish();
        shut_down_sending(fd);
    }
    driver.until_event(Event::Ended(A));
    assert_eq!(driver.listen_for_silence(), []);
    driver.poller.receive(B, b.as_raw_fd()).unwrap();
    driver.until_event(Event::Ended(B));
    assert_eq!(driver.inbox(B), b"unread");
    assert_eq!(driver.listen_for_silence(), []);
}

fn a_reset_is_told_once_and_last(driver: &mut Driver) {
    let (a, peer) = driver.connection(A);
    peer.reset();
    driver.until_event(Event::Failed(A, libc::ECONNRESET));
    let _ = driver.poller.receive(A, a.as_raw_fd());
    assert_eq!(driver.listen_for_silence(), [], "nothing follows a failure");
}

fn a_reset_of_a_paused_connection_is_told_and_does_not_spin(driver: &mut Driver) {
    let (a, mut peer) = driver.connection(A);
    driver.poller.pause(A, a.as_raw_fd());
    driver.turn(TICK);
    peer.write(b"unread");
    peer.reset();
    driver.listen_for_silence();
    assert_eq!(driver.inbox(A), b"", "a paused connection is not received from");
    // At the latest when somebody asks, perhaps after the bytes.
    driver.poller.receive(A, a.as_raw_fd()).unwrap();
    driver.until_event(Event::Failed(A, libc::ECONNRESET));
    assert_eq!(driver.listen_for_silence(), []);
    assert_eq!(driver.count(|event| !matches!(event, Event::Received(..))), 1);
    assert!(
        b"unread".starts_with(driver.inbox(A)) && driver.events.last() == Some(&Event::Failed(A, libc::ECONNRESET))
    );
}

fn a_reset_ends_a_blocked_send_once(driver: &mut Driver) {
    for is_receiving in [true, false] {
        let token = Token::new(4, u32::from(is_receiving));
        let (a, peer) = driver.connection(token);
        if !is_receiving {
            driver.poller.pause(token, a.as_raw_fd());
        }
        let mut output = Output::new(token);
        output.push_borrowed(leaked(pattern(driver.much)));
        driver.fill(&mut output, a.as_raw_fd());
        driver.events.clear();
        peer.reset();
        driver.until("the send ends", |driver| !driver.events.is_empty());
        driver.listen_for_silence();
        match driver.events[..] {
            [Event::Failed(of, _)] if of == token => {}
            // A readiness backend may leave it to the next send, or to the next wait, to find out.
            [Event::Sent(of, bytes)] if of == token => {
                output.advance(bytes);
                output.is_blocked = false;
                driver.send(&mut output, a.as_raw_fd()).expect_err("the connection is reset");
            }
            [Event::Sent(of, _), Event::Failed(also_of, _)] if of == token && also_of == token => {}
            _ => panic!("one Sent or Failed, not {:?}", driver.events),
        }
        driver.events.clear();
        assert_eq!(driver.listen_for_silence(), []);
        driver.poller.forget(token, a.as_raw_fd());
    }
}

fn a_silent_peer_costs_nothing(driver: &mut Driver) {
    let (_a, _peer) = driver.connection(A);
    for _ in 0..3 {
        let start = driver.network.now();
        assert_eq!(driver.turn(SILENCE), []);
        assert!(driver.network.now() - start >= SILENCE, "the wait ended before its time");
    }
}

// ---------------------------------------------------------------- 7. watching

fn watching_is_told_anew_by_each_wait_while_it_holds(driver: &mut Driver) {
    let (reader, writer) = pipe();
    driver.poller.watch(A, reader.as_raw_fd(), readable()).unwrap();
    assert_eq!(driver.listen_for_silence(), []);
    write_to(&writer, b"123");
    for _ in 0..3 {
        assert_eq!(driver.turn(SILENCE), [Event::Ready(A, readable())]);
    }
    read_from(&reader, 3);
    driver.turn(Duration::ZERO);
    assert_eq!(driver.listen_for_silence(), []);
    driver.poller.forget(A, reader.as_raw_fd());
    write_to(&writer, b"4");
    assert_eq!(driver.listen_for_silence(), []);
}

fn a_watch_s_interest_can_be_changed_and_withdrawn(driver: &mut Driver) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let fd = ours.as_raw_fd();
    (&theirs).write_all(b"x").unwrap();
    driver.poller.watch(A, fd, readable()).unwrap();
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, readable())]);
    driver.poller.watch(A, fd, writable()).unwrap();
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, writable())]);
    driver.poller.watch(A, fd, Readiness::default()).unwrap();
    assert_eq!(driver.listen_for_silence(), []);
    drop(theirs);
    assert_eq!(driver.listen_for_silence(), [], "nobody asked for hang-ups");
    driver.poller.watch(A, fd, readable()).unwrap();
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, readable())]);
}

fn reading_and_writing_are_watched_together(driver: &mut Driver) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let both = Readiness { readable: true, writable: true };
    driver.poller.watch(A, ours.as_raw_fd(), both).unwrap();
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, writable())]);
    (&theirs).write_all(b"x").unwrap();
    driver.turn(SILENCE);
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, both)]);
}

fn a_hang_up_shows_as_what_was_asked_for(driver: &mut Driver) {
    let (reader, writer) = pipe();
    driver.poller.watch(A, reader.as_raw_fd(), readable()).unwrap();
    drop(writer);
    assert_eq!(driver.turn(SILENCE), [Event::Ready(A, readable())]);
    driver.poller.forget(A, reader.as_raw_fd());
    let (reader, writer) = pipe();
    drop(reader);
    driver.poller.watch(B, writer.as_raw_fd(), writable()).unwrap();
    assert_eq!(driver.turn(SILENCE), [Event::Ready(B, writable())]);
}

fn a_regular_file_is_refused(driver: &mut Driver) {
    let file = std::fs::File::open("/proc/self/exe").expect("a process has a binary");
    let error = driver.poller.watch(A, file.as_raw_fd(), readable()).expect_err("a file cannot be waited for");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert_eq!(driver.listen_for_silence(), []);
}

fn a_watched_descriptor_that_was_closed_and_reused_is_watched_anew(driver: &mut Driver) {
    let number = private_number();
    for _ in 0..2 {
        let (reader, writer) = pipe();
        let reader = moved_to(reader, number);
        assert_eq!(reader.as_raw_fd(), number);
        driver.poller.watch(A, number, readable()).unwrap();
        write_to(&writer, b"x");
        driver.turn(SILENCE);
        assert_eq!(driver.turn(SILENCE), [Event::Ready(A, readable())]);
        // Closed without a word, as users of asyncio do.
    }
}

// ---------------------------------------------------------------- 8. waiting

fn a_zero_timeout_returns_at_once(driver: &mut Driver) {
    let (_a, mut peer) = driver.connection(A);
    let start = driver.network.now();
    for _ in 0..10 {
        driver.turn(Duration::ZERO);
    }
    assert!(driver.network.now() - start < PATIENCE);
    peer.write(b"x");
    driver.until("what has come is told", |driver| driver.inbox(A) == b"x");
}

fn a_wait_sleeps_for_its_timeout_when_nothing_happens(driver: &mut Driver) {
    let (_a, _peer) = driver.connection(A);
    driver.listen_for_silence();
    for timeout_us in [300, 5_000, 30_500] {
        let (timeout, start) = (Duration::from_micros(timeout_us), driver.network.now());
        assert_eq!(driver.turn(timeout), []);
        let slept = driver.network.now() - start;
        assert!(slept >= timeout, "slept {slept:?} of {timeout:?}");
        assert!(slept < timeout + Duration::from_secs(5), "slept {slept:?} instead of {timeout:?}");
    }
}

fn a_wait_appends_to_what_is_there(driver: &mut Driver) {
    let (_a, mut peer) = driver.connection(A);
    peer.write(b"x");
    let mut completions = vec![Completion::Ended { token: B }];
    let start = Instant::now();
    while completions.len() == 1 && start.elapsed() < PATIENCE {
        driver.poller.wait(Some(TICK), &mut completions).unwrap();
    }
    assert!(matches!(
        completions[..],
        [Completion::Ended { token: B }, Completion::Received { token: A, lease }] if lease.len() == 1
    ));
}

extern "C" fn ignore_signal(_signal: i32) {}

fn a_signal_ends_a_wait_early_without_an_error(driver: &mut Driver) {
    let (_a, _peer) = driver.connection(A);
    driver.listen_for_silence();
    // SAFETY: an all-zero sigaction with a handler that does nothing; without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore_signal as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    // SAFETY: no pointers are passed; the waiting thread lives until the signaller is joined.
    let waiter = unsafe { libc::pthread_self() };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(2));
                // SAFETY: as above.
                unsafe { libc::pthread_kill(waiter, libc::SIGUSR1) };
            }
        });
        let start = Instant::now();
        let mut completions = Vec::new();
        let outcome = driver.poller.wait(Some(PATIENCE), &mut completions);
        is_over.store(true, Ordering::Release);
        outcome.expect("a signal is no error");
        assert!(completions.is_empty() && start.elapsed() < PATIENCE);
    });
}

fn a_wait_without_timeout_ends_when_something_happens(driver: &mut Driver) {
    let (_a, peer) = driver.connection(A);
    let (reader, writer) = pipe();
    driver.poller.watch(B, reader.as_raw_fd(), readable()).unwrap();
    driver.listen_for_silence();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SILENCE);
            write_to(&writer, b"x");
        });
        let mut completions = Vec::new();
        while completions.is_empty() {
            driver.poller.wait(None, &mut completions).unwrap();
        }
        assert!(matches!(completions[..], [Completion::Ready { token: B, .. }]));
    });
    drop(peer);
}

#[test]
fn a_poller_is_opened_by_its_name() {
    for (name, expected) in [("auto", "epoll"), ("epoll", "epoll")] {
        let kind: PollerKind = name.parse().unwrap();
        assert_eq!(poller::open(kind).unwrap().name(), expected);
    }
    let error = "kqueue".parse::<PollerKind>().unwrap_err();
    assert_eq!(error, "expected a poller of auto, epoll or io_uring, not \"kqueue\"");
    // Where there is none, the error says what to do.
    match poller::open(PollerKind::IoUring) {
        Ok(poller) => assert_eq!(poller.name(), "io_uring"),
        Err(error) => assert!(error.to_string().contains("use epoll"), "{error}"),
    }
}

// ---------------------------------------------------------------- the simulated network alone

mod simulated_network {
    use super::*;
    use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork, SimulatedPeer};
    use std::collections::VecDeque;

    fn driver_in(network: &SimulatedNetwork) -> Driver {
        Driver::new(Box::new(network.poller()), Box::new(network.clone()), false)
    }

    #[test]
    fn streams_arrive_whole_under_hundreds_of_seeds() {
        for seed in 100..400 {
            let network = SimulatedNetwork::new(seed, FaultPlan::ROUGH);
            stream_random_pieces(&mut driver_in(&network), seed);
        }
    }

    const SENT_BYTES: usize = 20_000;

    /// One connection of the run below, from both sides.
    struct Echoed {
        peer: SimulatedPeer,
        written: usize,
        returned: Vec<u8>,
        fd: RawFd,
        output: Output,
        queued: usize,
        /// It was told `Failed`, or a send said so.
        is_broken: bool,
    }

    impl Echoed {
        fn play_peer(&mut self, bytes: &[u8]) {
            let before = self.written;
            self.written += self.peer.write(&bytes[before..]);
            if before < bytes.len() && self.written == bytes.len() {
                self.peer.finish();
            }
            self.returned.extend(self.peer.read(1 << 20));
        }

        fn note(&mut self, event: &Event) {
            assert!(!self.is_broken, "{event:?} after the failure");
            match *event {
                Event::Sent(_, bytes) => {
                    assert!(std::mem::take(&mut self.output.is_blocked), "a Sent that no blocked send awaits");
                    self.output.advance(bytes);
                }
                Event::Failed(..) => self.is_broken = true,
                _ => {}
            }
        }

        fn echo(&mut self, driver: &mut Driver) {
            let inbox = driver.inbox(self.output.token);
            self.output.push(&inbox[self.queued..]);
            self.queued = inbox.len();
            if !self.is_broken && !self.output.is_blocked && !self.output.queue.is_empty() {
                self.is_broken = driver.send(&mut self.output, self.fd).is_err();
            }
        }

        fn is_over(&self) -> bool {
            self.is_broken || self.returned.len() == SENT_BYTES
        }
    }

    struct Outcome {
        events: Vec<Event>,
        returned: Vec<Vec<u8>>,
        broken: usize,
    }

    /// Four connections are accepted and echoed to their ends, or until they break.
    fn echo_in_a_hostile_network(seed: u64) -> Outcome {
        let network = SimulatedNetwork::new(seed, FaultPlan::HOSTILE);
        let mut driver = driver_in(&network);
        let listener = network.listen().unwrap();
        driver.poller.accept(LISTENER, listener.as_raw_fd()).unwrap();
        let bytes = pattern(SENT_BYTES);
        let mut echoed: Vec<Echoed> = Vec::new();
        let mut dialled: VecDeque<_> = (0..4).map(|_| network.dial(listener.as_raw_fd())).collect();
        for _ in 0..100_000 {
            let events = driver.turn(TICK);
            for event in &events {
                if let Event::Received(of, _) | Event::Ended(of) | Event::Sent(of, _) | Event::Failed(of, _) = event {
                    echoed[of.index as usize].note(event);
                }
            }
            for number in echoed.len()..driver.accepted.len() {
                let (token, fd) = (Token::new(number as u32, 1), driver.accepted[number].as_raw_fd());
                driver.poller.receive(token, fd).unwrap();
                // The backlog is first in, first out.
                let peer = dialled.pop_front().expect("as many are accepted as were dialled");
                let (output, returned) = (Output::new(token), Vec::new());
                echoed.push(Echoed { peer, written: 0, returned, fd, output, queued: 0, is_broken: false });
            }
            for connection in &mut echoed {
                connection.play_peer(&bytes);
                connection.echo(&mut driver);
            }
            if echoed.len() == 4 && echoed.iter().all(Echoed::is_over) {
                let broken = echoed.iter().filter(|connection| connection.is_broken).count();
                let returned = echoed.into_iter().map(|connection| connection.returned).collect();
                return Outcome { events: driver.events, returned, broken };
            }
        }
        panic!("no end after 100,000 turns: {:?}", driver.tail());
    }

    #[test]
    fn in_a_hostile_network_every_connection_ends_or_fails_once_and_keeps_its_order() {
        let (mut whole, mut broken, mut refused) = (0, 0, 0);
        for seed in 0..300 {
            let outcome = echo_in_a_hostile_network(seed);
            let bytes = pattern(SENT_BYTES);
            for returned in &outcome.returned {
                assert!(bytes.starts_with(returned), "seed {seed}: the bytes differ");
            }
            for number in 0..4 {
                let ended = Event::Ended(Token::new(number, 1));
                let ends = outcome.events.iter().filter(|event| **event == ended).count();
                assert!(ends <= 1, "seed {seed}: {ends} ends");
            }
            whole += outcome.returned.iter().filter(|returned| **returned == bytes).count();
            broken += outcome.broken;
            refused +=
                outcome.events.iter().filter(|event| matches!(event, Event::AcceptFailed(_, libc::EMFILE))).count();
        }
        assert!(
            whole + broken >= 1200 && broken > 30 && refused > 100,
            "{whole} whole, {broken} broken, {refused} refused"
        );
    }

    #[test]
    fn the_same_seed_makes_the_same_run() {
        for seed in [1, 77, 4096] {
            assert_eq!(echo_in_a_hostile_network(seed).events, echo_in_a_hostile_network(seed).events);
        }
        assert_ne!(echo_in_a_hostile_network(1).events, echo_in_a_hostile_network(2).events);
    }

    #[test]
    fn one_wait_can_tell_several_things_of_one_connection_so_that_some_become_stale() {
        let is_stale_after_a_forget = |seed: u64| {
            let network = SimulatedNetwork::new(seed, FaultPlan::ROUGH);
            let mut driver = driver_in(&network);
            let (a, mut peer) = driver.connection(A);
            peer.write(b"some bytes");
            peer.finish();
            let mut told = Vec::new();
            while told.is_empty() {
                told = driver.turn(TICK);
            }
            driver.poller.forget(A, a.as_raw_fd());
            assert_eq!(driver.listen_for_silence(), []);
            told.len() > 1
        };
        assert!((0..100).filter(|seed| is_stale_after_a_forget(*seed)).count() > 10);
    }

    #[test]
    fn a_peer_that_vanished_is_noticed_only_by_sending() {
        let network = SimulatedNetwork::new(5, FaultPlan::ROUGH);
        let mut driver = driver_in(&network);
        let (a, mut peer) = network.connection_from(0).unwrap();
        driver.poller.receive(A, a.as_raw_fd()).unwrap();
        peer.write(b"goodbye");
        driver.until("the last words", |driver| driver.inbox(A) == b"goodbye");
        peer.vanish();
        peer.write(b"lost on the way");
        let (start, hour) = (network.now(), Duration::from_secs(3600));
        assert_eq!(driver.turn(hour), []);
        let mut output = Output::new(A);
        output.push(b"are you there?");
        driver.send(&mut output, a.as_raw_fd()).unwrap();
        driver.until_event(Event::Failed(A, libc::ETIMEDOUT));
        assert!(network.now() - start > hour + Duration::from_secs(600));
    }

    #[test]
    #[should_panic(expected = "changed before it completed (seed 3)")]
    fn changing_the_bytes_of_a_blocked_send_is_found_out() {
        let network = SimulatedNetwork::new(3, FaultPlan::CALM);
        let mut driver = driver_in(&network);
        let (a, mut peer) = driver.connection(A);
        let mut bytes = vec![1; 100_000];
        let mut output = Output::new(A);
        // SAFETY: the bytes live as long as the output; that they change is what this is about.
        unsafe { output.queue.push_borrowed(&bytes, Owner(0)) };
        assert!(driver.send(&mut output, a.as_raw_fd()).unwrap());
        bytes.fill(2);
        driver.until("the send completes", |driver| {
            peer.read(1 << 20);
            driver.count(|event| matches!(event, Event::Sent(..))) > 0
        });
    }

    #[test]
    #[should_panic(expected = "send was called again before its Sent or Failed (seed 3)")]
    fn sending_again_while_blocked_is_found_out() {
        let network = SimulatedNetwork::new(3, FaultPlan::CALM);
        let mut driver = driver_in(&network);
        let (a, _peer) = driver.connection(A);
        let mut output = Output::new(A);
        output.push_borrowed(leaked(vec![1; 100_000]));
        assert!(driver.send(&mut output, a.as_raw_fd()).unwrap());
        let _ = driver.poller.send(A, a.as_raw_fd(), &mut output.queue);
    }

    #[test]
    fn several_pollers_share_one_network() {
        let network = SimulatedNetwork::new(11, FaultPlan::ROUGH);
        let (mut main, mut sub) = (driver_in(&network), driver_in(&network));
        let listener = network.listen().unwrap();
        main.poller.accept(LISTENER, listener.as_raw_fd()).unwrap();
        let mut peer = network.dial(listener.as_raw_fd());
        main.until("it is accepted", |driver| driver.accepted.len() == 1);
        sub.poller.receive(A, main.accepted[0].as_raw_fd()).unwrap();
        peer.write(b"handed over");
        sub.until("its bytes", |driver| driver.inbox(A) == b"handed over");
        assert_eq!(main.listen_for_silence(), []);
    }

    #[test]
    fn a_wait_without_timeout_is_ended_by_a_watched_descriptor() {
        let network = SimulatedNetwork::new(0, FaultPlan::CALM);
        let mut poller = network.poller();
        let (reader, writer) = pipe();
        poller.watch(A, reader.as_raw_fd(), readable()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| write_to(&writer, b"x"));
            let mut completions = Vec::new();
            while completions.is_empty() {
                poller.wait(None, &mut completions).unwrap();
            }
            assert!(matches!(completions[..], [Completion::Ready { token: A, .. }]));
        });
    }

    #[test]
    fn a_panicking_run_prints_its_seed() {
        if std::env::var_os("PENSTOCK_CONTRACT_PANIC").is_some() {
            let _network = SimulatedNetwork::new(424_242, FaultPlan::CALM);
            panic!("on purpose");
        }
        let name = std::thread::current().name().expect("tests run on threads named after them").to_owned();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env("PENSTOCK_CONTRACT_PANIC", "1")
            .output()
            .expect("the test's binary runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("seed 424242"), "no seed in {text}");
    }
}
