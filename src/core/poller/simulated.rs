//! A network without a kernel: connections in memory, time that only waits move, and faults drawn from a seed.
//!
//! A test holds the far ends ([`SimulatedPeer`]) and gives the [`SimulatedPoller`] to a reactor. The same seed
//! and the same calls make the same run, and a run that panics prints its seed.
//!
//! Descriptors are placeholders: one end of a fresh Unix socket pair, whose other end the network keeps as its
//! witness. So a reactor owns a real number that it can set options on, shut down and close (the witness sees
//! both) and that nobody else has, while no byte ever passes through it. Only `watch` is for real descriptors,
//! which are asked with poll(2): a wake-up by eventfd works as it does elsewhere.
//!
//! Faults: bytes come late and in pieces, down to one; sends take a part, or all of it later; one wait tells
//! several things of one connection, so that forgetting it at the first leaves the others stale; a pause may
//! come too late; connections break; descriptors run out. See [`FaultPlan`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::{check, read_file, refuse_files};
use super::{Completion, Poller, Readiness, SendOutcome};
use crate::core::buffer::{FileRange, Run, SegmentQueue, TurnArena};
use crate::core::token::Token;

/// Small, so that turns do fill.
const ARENA_BYTES: usize = 64 * 1024;
/// What one wait spends even if it does not sleep: so a loop that only polls still sees time pass.
const WAIT_COST: Duration = Duration::from_micros(1);
/// How long a sender believes in a peer that has vanished (TCP: some 15 minutes of retransmissions).
const RETRANSMISSION_TIMEOUT: Duration = Duration::from_secs(924);
/// How long a wait for watched descriptors alone sleeps in real time before it returns early.
const REAL_SLEEP_MS: i32 = 10;
/// At most this many completions of one connection in one wait.
const MAX_ROUNDS: u32 = 3;

/// How rough the network is. Chances are in percent, each time the thing could happen.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// What is sent to the reactor arrives within this.
    pub max_delay: Duration,
    pub short_receives: u8,
    pub short_sends: u8,
    /// A send takes nothing at once and completes later, as in a completion interface.
    pub deferred_sends: u8,
    /// A receive is in flight when `pause` is called.
    pub late_pauses: u8,
    /// More than one completion of a connection in one wait.
    pub bursts: u8,
    pub failed_accepts: u8,
    /// A receive finds the connection reset.
    pub resets: u8,
    /// How many bytes a connection holds each way before it takes no more.
    pub room_bytes: usize,
}

impl FaultPlan {
    /// Everything arrives at once and whole.
    pub const CALM: FaultPlan = FaultPlan {
        max_delay: Duration::ZERO,
        short_receives: 0,
        short_sends: 0,
        deferred_sends: 0,
        late_pauses: 0,
        bursts: 0,
        failed_accepts: 0,
        resets: 0,
        room_bytes: 64 * 1024,
    };

    /// Everything arrives, but late and in pieces.
    pub const ROUGH: FaultPlan = FaultPlan {
        max_delay: Duration::from_millis(3),
        short_receives: 30,
        short_sends: 30,
        deferred_sends: 30,
        late_pauses: 50,
        bursts: 50,
        ..FaultPlan::CALM
    };

    /// Rough, and connections break and descriptors run out.
    pub const HOSTILE: FaultPlan = FaultPlan { failed_accepts: 20, resets: 2, ..FaultPlan::ROUGH };
}

/// SplitMix64: every stream of it is good enough to choose faults, and its whole state is one word.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn up_to(&mut self, most: usize) -> usize {
        (self.next() % (most as u64 + 1)) as usize
    }

    fn happens(&mut self, percent: u8) -> bool {
        self.next() % 100 < u64::from(percent)
    }

    /// `most`, or by a fault only a part of it: often a single byte.
    fn part_of(&mut self, most: usize, percent: u8) -> usize {
        match () {
            () if most < 2 || !self.happens(percent) => most,
            () if self.happens(25) => 1,
            () => 1 + self.up_to(most - 1),
        }
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.up_to(last));
        }
    }
}

/// What travels from the peer to the reactor, in order.
enum Arrival {
    Bytes(VecDeque<u8>),
    End,
    Failure(i32),
}

/// Where bytes of a flight are.
enum Piece {
    /// Valid by the contract until the flight ends.
    Memory(*const u8, usize),
    /// They were in a file, and have been read.
    Read(Vec<u8>),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            // SAFETY: until the flight ends its bytes neither move nor are freed, by the contract.
            Piece::Memory(start, len) => unsafe { std::slice::from_raw_parts(*start, *len) },
            Piece::Read(bytes) => bytes,
        }
    }
}

/// What would leave next, after the first `skip` bytes: at most `limit` bytes. Files are read.
fn gather(output: &SegmentQueue, skip: usize, limit: usize) -> io::Result<Vec<Piece>> {
    let (mut pieces, mut gathered) = (Vec::new(), 0);
    while gathered < limit && pieces.len() < SegmentQueue::MAX_IOVECS {
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        match output.run(skip + gathered, &mut slices) {
            Run::Nothing => break,
            Run::Slices { count, .. } => {
                for slice in &slices[..count] {
                    let len = slice.len().min(limit - gathered);
                    pieces.push(Piece::Memory(slice.as_ptr(), len));
                    gathered += len;
                }
            }
            Run::File(range) => {
                let bytes = read_file(FileRange { len: range.len.min(limit - gathered), ..range })?;
                gathered += bytes.len();
                pieces.push(Piece::Read(bytes));
            }
        }
    }
    Ok(pieces)
}

fn flat(pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.as_slice().iter().copied()).collect()
}

/// The part of a blocked send that its completion may take.
struct Flight {
    pieces: Vec<Piece>,
    /// What they were when the flight began: the contract says that they do not change.
    copy: Vec<u8>,
    due: Duration,
}

// SAFETY: the pointers are read only by the poller that was given them, under the world's lock.
unsafe impl Send for Flight {}

impl Flight {
    fn begin(pieces: Vec<Piece>, due: Duration) -> Flight {
        Flight { copy: flat(&pieces), pieces, due }
    }

    /// The first `bytes` as they are now, which must be as they were.
    fn land(self, bytes: usize, seed: u64) -> Vec<u8> {
        let mut landed = flat(&self.pieces);
        assert!(landed == self.copy, "the bytes of a blocked send were changed before it completed (seed {seed})");
        landed.truncate(bytes);
        landed
    }
}

/// Who is told of a descriptor: the poller and its token.
type Registration = (usize, Token);

/// One connection: what is under way each way, and what the reactor's side wants of it.
struct Link {
    fd: Option<RawFd>,
    /// The other end of the placeholder: it sees the reactor shut down or close its descriptor.
    witness: Option<UnixStream>,
    arrivals: VecDeque<(Duration, Arrival)>,
    arriving_bytes: usize,
    departed: VecDeque<u8>,
    vanished: bool,
    registration: Option<Registration>,
    is_receiving: bool,
    /// Paused, but a receive was in flight: the next wait may still deliver it.
    is_late: bool,
    has_failed: bool,
    flight: Option<Flight>,
}

impl Link {
    fn new() -> Self {
        Link {
            fd: None,
            witness: None,
            arrivals: VecDeque::new(),
            arriving_bytes: 0,
            departed: VecDeque::new(),
            vanished: false,
            registration: None,
            is_receiving: false,
            is_late: false,
            has_failed: false,
            flight: None,
        }
    }

    fn register(&mut self, registration: Registration) {
        if self.registration != Some(registration) {
            (self.registration, self.is_receiving, self.is_late, self.flight) =
                (Some(registration), false, false, None);
            self.has_failed = false;
        }
    }

    fn release(&mut self) {
        (self.registration, self.is_receiving, self.is_late, self.flight) = (None, false, false, None);
    }

    fn room(&self, plan: &FaultPlan) -> usize {
        plan.room_bytes - self.departed.len()
    }

    fn arrive(&mut self, due: Duration, arrival: Arrival) {
        // A stream: nothing overtakes what was sent before.
        let due = self.arrivals.back().map_or(due, |(last, _)| due.max(*last));
        self.arrivals.push_back((due, arrival));
    }

    /// A failure that has arrived, if it may be told before the bytes ahead of it are received.
    fn failure_ahead(&self, now: Duration) -> bool {
        !self.is_receiving
            && self.arrivals.iter().any(|(due, arrival)| *due <= now && matches!(arrival, Arrival::Failure(_)))
    }

    fn has_arrival(&self, now: Duration) -> bool {
        (self.is_receiving || self.is_late) && self.arrivals.front().is_some_and(|(due, _)| *due <= now)
    }

    fn can_land(&self, now: Duration, plan: &FaultPlan) -> bool {
        self.room(plan) > 0 && self.flight.as_ref().is_some_and(|flight| flight.due <= now)
    }

    /// When something is next due that is not due yet.
    fn next_due(&self, now: Duration) -> Option<Duration> {
        let arrivals = self.arrivals.iter().map(|(due, _)| *due);
        arrivals.chain(self.flight.as_ref().map(|flight| flight.due)).filter(|due| *due > now).min()
    }
}

#[derive(Default)]
struct Listener {
    registration: Option<Registration>,
    backlog: VecDeque<(Duration, usize)>,
}

struct World {
    seed: u64,
    /// What `now` counts from, for those who know time as an `Instant`.
    began: Instant,
    plan: FaultPlan,
    random: Random,
    now: Duration,
    links: Vec<Link>,
    /// The newest link under each descriptor number.
    by_fd: BTreeMap<RawFd, usize>,
    listeners: BTreeMap<RawFd, Listener>,
    is_exhausted: bool,
    pollers: usize,
    has_told_seed: bool,
}

impl World {
    fn due(&mut self) -> Duration {
        let delay_us = self.random.up_to(self.plan.max_delay.as_micros() as usize);
        self.now + Duration::from_micros(delay_us as u64)
    }

    /// Give a link its descriptor, of a number of at least `lowest`.
    fn open(&mut self, link: usize, lowest: RawFd) -> io::Result<OwnedFd> {
        let (ours, witness) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let fd = at_least(ours.into(), lowest)?;
        // Whoever had this number has closed it.
        if let Some(before) = self.by_fd.insert(fd.as_raw_fd(), link) {
            self.links[before].release();
        }
        (self.links[link].fd, self.links[link].witness) = (Some(fd.as_raw_fd()), Some(witness));
        Ok(fd)
    }

    fn link_at(&mut self, fd: RawFd) -> io::Result<&mut Link> {
        let link = self.by_fd.get(&fd).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok(&mut self.links[*link])
    }

    /// The link that `fd` is, if it is registered so.
    fn link_of(&mut self, registration: Registration, fd: RawFd) -> Option<&mut Link> {
        self.link_at(fd).ok().filter(|link| link.registration == Some(registration))
    }

    fn next_due(&self, poller: usize) -> Option<Duration> {
        let now = self.now;
        let is_ours = |registration: Option<Registration>| registration.is_some_and(|(of, _)| of == poller);
        let links = self.links.iter().filter(|link| is_ours(link.registration)).filter_map(|link| link.next_due(now));
        let listeners = self.listeners.values().filter(|listener| is_ours(listener.registration));
        let dials = listeners.flat_map(|listener| &listener.backlog).map(|(due, _)| *due).filter(|due| *due > now);
        links.chain(dials).min()
    }
}

fn at_least(fd: OwnedFd, lowest: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= lowest {
        return Ok(fd);
    }
    // SAFETY: no pointers are passed.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The test's handle of the network. Clones are handles of the same one.
#[derive(Clone)]
pub struct SimulatedNetwork {
    world: Arc<Mutex<World>>,
}

impl SimulatedNetwork {
    pub fn new(seed: u64, plan: FaultPlan) -> Self {
        assert!(plan.room_bytes > 0, "a connection without any room never takes a byte");
        let world = World {
            seed,
            began: Instant::now(),
            plan,
            random: Random(seed),
            now: Duration::ZERO,
            links: Vec::new(),
            by_fd: BTreeMap::new(),
            listeners: BTreeMap::new(),
            is_exhausted: false,
            pollers: 0,
            has_told_seed: false,
        };
        SimulatedNetwork { world: Arc::new(Mutex::new(world)) }
    }

    /// A poller of this network; each reactor has its own.
    pub fn poller(&self) -> SimulatedPoller {
        let mut world = self.lock();
        world.pollers += 1;
        SimulatedPoller {
            id: world.pollers,
            network: self.clone(),
            arena: TurnArena::with_capacity(ARENA_BYTES),
            watches: BTreeMap::new(),
        }
    }

    /// A placeholder for a listener. Any descriptor that a reactor accepts on can be dialled.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        let (listener, _) = UnixStream::pair()?;
        Ok(listener.into())
    }

    /// Connect to a listener: the connection waits in its backlog until a poller accepts there.
    pub fn dial(&self, listener: RawFd) -> SimulatedPeer {
        let mut world = self.lock();
        let (due, link) = (world.due(), world.links.len());
        world.links.push(Link::new());
        world.listeners.entry(listener).or_default().backlog.push_back((due, link));
        SimulatedPeer { network: self.clone(), link }
    }

    /// A connection that needs no accepting, under a descriptor number of at least `lowest`.
    pub fn connection_from(&self, lowest: RawFd) -> io::Result<(OwnedFd, SimulatedPeer)> {
        let mut world = self.lock();
        let link = world.links.len();
        world.links.push(Link::new());
        let fd = world.open(link, lowest)?;
        Ok((fd, SimulatedPeer { network: self.clone(), link }))
    }

    /// Until it is taken back, every accept fails with `EMFILE`.
    pub fn exhaust_descriptors(&self, exhausted: bool) {
        self.lock().is_exhausted = exhausted;
    }

    /// The time since the network began. It moves by waits, and by `advance`.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    pub fn advance(&self, by: Duration) {
        self.lock().now += by;
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // After a panic the world is only read, to tell the seed, and dropped.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SimulatedNetwork {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut world = self.lock();
            if !std::mem::replace(&mut world.has_told_seed, true) {
                eprintln!("simulated network: seed {}, {:?}, at {:?}", world.seed, world.plan, world.now);
            }
        }
    }
}

/// The far end of one connection. What it sends comes late; what it is sent it has at once.
pub struct SimulatedPeer {
    network: SimulatedNetwork,
    link: usize,
}

impl SimulatedPeer {
    /// Send what the connection takes; returns how much that is.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut world = self.network.lock();
        let room = world.plan.room_bytes - world.links[self.link].arriving_bytes;
        let taken = &bytes[..bytes.len().min(room)];
        if !taken.is_empty() && !world.links[self.link].vanished {
            let due = world.due();
            let link = &mut world.links[self.link];
            link.arriving_bytes += taken.len();
            link.arrive(due, Arrival::Bytes(taken.iter().copied().collect()));
        }
        taken.len()
    }

    /// What has arrived, at most `limit` bytes.
    pub fn read(&mut self, limit: usize) -> Vec<u8> {
        let mut world = self.network.lock();
        let departed = &mut world.links[self.link].departed;
        departed.drain(..limit.min(departed.len())).collect()
    }

    /// True when everything has been read and the reactor's side has shut down or closed.
    pub fn has_ended(&mut self) -> bool {
        let world = self.network.lock();
        let link = &world.links[self.link];
        link.departed.is_empty() && link.witness.as_ref().is_some_and(sees_end)
    }

    /// Send no more; go on reading.
    pub fn finish(&mut self) {
        self.arrive(Arrival::End);
    }

    pub fn reset(self) {
        self.arrive(Arrival::Failure(libc::ECONNRESET));
    }

    /// Without a word: nothing comes from here any more, and nothing sent here is ever acknowledged.
    pub fn vanish(&mut self) {
        let mut world = self.network.lock();
        let (gives_up, link) = (world.now + RETRANSMISSION_TIMEOUT, &mut world.links[self.link]);
        (link.vanished, link.arriving_bytes) = (true, 0);
        link.arrivals.clear();
        if !link.departed.is_empty() || link.flight.is_some() {
            link.arrive(gives_up, Arrival::Failure(libc::ETIMEDOUT));
        }
    }

    fn arrive(&self, arrival: Arrival) {
        let mut world = self.network.lock();
        let due = world.due();
        world.links[self.link].arrive(due, arrival);
    }
}

fn sees_end(witness: &UnixStream) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is one byte, as told.
    unsafe { libc::recv(witness.as_raw_fd(), (&raw mut byte).cast(), 1, flags) == 0 }
}

/// A backend whose kernel is a [`SimulatedNetwork`].
pub struct SimulatedPoller {
    id: usize,
    network: SimulatedNetwork,
    arena: TurnArena,
    watches: BTreeMap<RawFd, (Token, Readiness)>,
}

/// What could be told next.
#[derive(Clone, Copy)]
enum Possible {
    Accept(RawFd),
    Arrival(usize),
    Landing(usize),
}

impl SimulatedPoller {
    fn possible(&self, world: &World) -> Vec<Possible> {
        let (now, mut possible) = (world.now, Vec::new());
        let is_ours = |registration: Option<Registration>| registration.is_some_and(|(of, _)| of == self.id);
        for (fd, listener) in &world.listeners {
            if is_ours(listener.registration) && listener.backlog.front().is_some_and(|(due, _)| *due <= now) {
                possible.push(Possible::Accept(*fd));
            }
        }
        for (number, link) in world.links.iter().enumerate().filter(|(_, link)| is_ours(link.registration)) {
            if link.failure_ahead(now) || link.has_arrival(now) && self.arena.room() > 0 {
                possible.push(Possible::Arrival(number));
            }
            if link.can_land(now, &world.plan) {
                possible.push(Possible::Landing(number));
            }
        }
        possible
    }

    /// Tell some of what has happened by now, and at least one thing if there is any.
    fn collect(&mut self, world: &mut World, completions: &mut Vec<Completion>) {
        for round in 0..MAX_ROUNDS {
            let mut possible = self.possible(world);
            world.random.shuffle(&mut possible);
            for (position, what) in possible.into_iter().enumerate() {
                let leaves_out = (round, position) != (0, 0) && world.random.happens(world.plan.bursts / 2);
                if !leaves_out {
                    self.tell(what, world, completions);
                }
            }
            if !world.random.happens(world.plan.bursts) {
                break;
            }
        }
    }

    fn tell(&mut self, what: Possible, world: &mut World, completions: &mut Vec<Completion>) {
        match what {
            Possible::Accept(fd) => self.accept_one(fd, world, completions),
            // One thing told may have ended the other.
            Possible::Arrival(link) if world.links[link].registration.is_some() => {
                self.receive_one(link, world, completions);
            }
            Possible::Landing(link) if world.links[link].flight.is_some() => land_one(link, world, completions),
            Possible::Arrival(_) | Possible::Landing(_) => {}
        }
    }

    fn accept_one(&self, fd: RawFd, world: &mut World, completions: &mut Vec<Completion>) {
        let Some(Listener { registration: Some((_, listener)), backlog }) = world.listeners.get_mut(&fd) else {
            return;
        };
        let listener = *listener;
        if world.is_exhausted || world.random.happens(world.plan.failed_accepts) {
            completions.push(Completion::AcceptFailed { listener, errno: libc::EMFILE });
            return;
        }
        let Some((_, link)) = backlog.pop_front() else { return };
        completions.push(match world.open(link, 0) {
            Ok(fd) => Completion::Accepted { listener, fd },
            Err(error) => Completion::AcceptFailed { listener, errno: error.raw_os_error().unwrap_or(libc::EMFILE) },
        });
    }

    fn receive_one(&mut self, number: usize, world: &mut World, completions: &mut Vec<Completion>) {
        let World { links, random, plan, now, .. } = world;
        let link = &mut links[number];
        let Some((_, token)) = link.registration else { return };
        if link.failure_ahead(*now) {
            link.arrivals.retain(|(_, arrival)| matches!(arrival, Arrival::Failure(_)));
        } else if random.happens(plan.resets) {
            link.arrivals.push_front((*now, Arrival::Failure(libc::ECONNRESET)));
        }
        match link.arrivals.front_mut() {
            Some((_, Arrival::Bytes(bytes))) => {
                let (start, room) = self.arena.spare(random.part_of(bytes.len(), plan.short_receives));
                if room == 0 {
                    return;
                }
                for (position, byte) in bytes.drain(..room).enumerate() {
                    // SAFETY: the arena has `room` bytes there.
                    unsafe { start.add(position).write(byte) };
                }
                // SAFETY: they have just been written.
                let lease = unsafe { self.arena.commit(room) };
                link.arriving_bytes -= room;
                if bytes.is_empty() {
                    link.arrivals.pop_front();
                }
                completions.push(Completion::Received { token, lease });
            }
            Some((_, Arrival::End)) => {
                link.arrivals.pop_front();
                (link.is_receiving, link.is_late) = (false, false);
                completions.push(Completion::Ended { token });
            }
            Some((_, Arrival::Failure(errno))) => {
                let errno = *errno;
                // The registration stays, so that nothing asked of this token begins it anew.
                (link.is_receiving, link.is_late, link.flight, link.has_failed) = (false, false, None, true);
                link.arrivals.clear();
                completions.push(Completion::Failed { token, errno });
            }
            None => {}
        }
    }

    /// What watched descriptors are ready for, after at most `timeout_ms` of real time.
    fn look_at_watched(&self, timeout_ms: i32, completions: &mut Vec<Completion>) -> io::Result<()> {
        let wanted = |interest: &Readiness| {
            (if interest.readable { libc::POLLIN } else { 0 }) | (if interest.writable { libc::POLLOUT } else { 0 })
        };
        let mut polled: Vec<libc::pollfd> = (self.watches.iter())
            .map(|(fd, (_, interest))| libc::pollfd { fd: *fd, events: wanted(interest), revents: 0 })
            .collect();
        // SAFETY: the list lives through the call and is as long as told.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        };
        for (polled, (token, interest)) in polled.iter().zip(self.watches.values()) {
            let broken = polled.revents & (libc::POLLERR | libc::POLLHUP) != 0;
            let readiness = Readiness {
                readable: interest.readable && (broken || polled.revents & libc::POLLIN != 0),
                writable: interest.writable && (broken || polled.revents & libc::POLLOUT != 0),
            };
            if readiness != Readiness::default() {
                completions.push(Completion::Ready { token: *token, readiness });
            }
        }
        Ok(())
    }
}

/// A blocked send goes on: its completion tells what has left, perhaps nothing.
fn land_one(number: usize, world: &mut World, completions: &mut Vec<Completion>) {
    let World { links, random, plan, seed, .. } = world;
    let link = &mut links[number];
    let (Some((_, token)), Some(flight)) = (link.registration, link.flight.take()) else { return };
    let most = flight.copy.len().min(link.room(plan));
    let part = random.part_of(most, plan.short_sends);
    // A readiness backend only knows that there is room now.
    let bytes = if random.happens(plan.short_sends) { 0 } else { part };
    link.departed.extend(flight.land(bytes, *seed));
    completions.push(Completion::Sent { token, bytes });
}

impl Poller for SimulatedPoller {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn accept(&mut self, listener: Token, fd: RawFd) -> io::Result<()> {
        self.network.lock().listeners.entry(fd).or_default().registration = Some((self.id, listener));
        Ok(())
    }

    fn stop_accept(&mut self, listener: Token, fd: RawFd) {
        let mut world = self.network.lock();
        if let Some(known) =
            world.listeners.get_mut(&fd).filter(|known| known.registration == Some((self.id, listener)))
        {
            known.registration = None;
        }
    }

    fn receive(&mut self, token: Token, fd: RawFd) -> io::Result<()> {
        let mut world = self.network.lock();
        let link = world.link_at(fd)?;
        link.register((self.id, token));
        link.is_receiving = !link.has_failed;
        Ok(())
    }

    fn pause(&mut self, token: Token, fd: RawFd) {
        let mut world = self.network.lock();
        let late_pauses = world.plan.late_pauses;
        let is_late = world.random.happens(late_pauses);
        if let Some(link) = world.link_of((self.id, token), fd) {
            link.is_late = link.is_receiving && is_late;
            link.is_receiving = false;
        }
    }

    fn send(&mut self, token: Token, fd: RawFd, output: &mut SegmentQueue) -> io::Result<SendOutcome> {
        let mut world = self.network.lock();
        let (due, gives_up) = (world.due(), world.now + RETRANSMISSION_TIMEOUT);
        world.link_at(fd)?.register((self.id, token));
        let World { links, by_fd, random, plan, seed, .. } = &mut *world;
        let link = &mut links[by_fd[&fd]];
        assert!(link.flight.is_none(), "send was called again before its Sent or Failed (seed {seed})");
        if link.has_failed || link.witness.as_ref().is_some_and(sees_end) {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        if output.is_empty() {
            return Ok(SendOutcome::Done(0));
        }
        if link.vanished && link.arrivals.is_empty() {
            link.arrive(gives_up, Arrival::Failure(libc::ETIMEDOUT));
        }
        let offered = flat(&gather(output, 0, link.room(plan))?);
        let sent =
            if random.happens(plan.deferred_sends) { 0 } else { random.part_of(offered.len(), plan.short_sends) };
        link.departed.extend(&offered[..sent]);
        if sent == output.bytes() {
            return Ok(SendOutcome::Done(sent));
        }
        output.begin_flight();
        link.flight = Some(Flight::begin(gather(output, sent, plan.room_bytes)?, due));
        Ok(SendOutcome::Blocked(sent))
    }

    fn watch(&mut self, token: Token, fd: RawFd, interest: Readiness) -> io::Result<()> {
        if interest == Readiness::default() {
            self.watches.remove(&fd);
            return Ok(());
        }
        refuse_files(fd)?;
        self.watches.insert(fd, (token, interest));
        Ok(())
    }

    fn forget(&mut self, token: Token, fd: RawFd) {
        self.stop_accept(token, fd);
        if self.watches.get(&fd).is_some_and(|(of, _)| *of == token) {
            self.watches.remove(&fd);
        }
        if let Some(link) = self.network.lock().link_of((self.id, token), fd) {
            link.release();
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let network = self.network.clone();
        let before = completions.len();
        self.look_at_watched(0, completions)?;
        let mut world = network.lock();
        world.now += WAIT_COST;
        let deadline = timeout.map(|timeout| world.now + timeout);
        loop {
            self.collect(&mut world, completions);
            let next = world.next_due(self.id).filter(|due| deadline.is_none_or(|deadline| *due <= deadline));
            match next.or(deadline) {
                Some(then) if completions.len() == before && then > world.now => world.now = then,
                _ => break,
            }
        }
        for link in &mut world.links {
            if link.registration.is_some_and(|(of, _)| of == self.id) {
                link.is_late = false;
            }
        }
        drop(world);
        if completions.len() == before && timeout.is_none() {
            self.look_at_watched(REAL_SLEEP_MS, completions)?;
        }
        Ok(())
    }

    /// What still looks at a lease is to notice: it reads rubbish, and freed memory, which a sanitizer sees.
    fn recycle(&mut self) {
        if !self.arena.is_empty() {
            self.arena.wipe();
            self.arena = TurnArena::with_capacity(ARENA_BYTES);
        }
    }

    fn now(&self) -> Instant {
        let world = self.network.lock();
        world.began + world.now
    }
}
