//! The EpollPoller presents completions over Linux's epoll: told that it may, it does the call and reports the
//! outcome. It owns the epoll descriptor, the arena that receives go to, and eight bytes for each descriptor
//! number; it owns none of the descriptors.
//!
//! A TCP connection of which nothing but bytes is wanted, which is nearly every one nearly always, is
//! edge-triggered: the kernel tells of it once and does not look again whether it is still readable. What one
//! receive has left there is remembered here. All else is level-triggered.
//!
//! The kernel's interest grows when somebody asks, and shrinks only when the kernel first tells something
//! that nobody wants (any more). So a pause that is undone before bytes come, a send that blocks again and
//! again, and an end that is answered by closing cost no `epoll_ctl` at all; such a wait may return empty.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use libc::{EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};

use super::calls::{self, Received, check};
use super::{Completion, Poller, Readiness, SendOutcome};
use crate::core::buffer::{SegmentQueue, TurnArena};
use crate::core::token::Token;

/// What one turn can receive, over all connections.
const ARENA_BYTES: usize = 512 * 1024;
/// What one connection can receive in one turn, so that a fast one leaves room for the others.
const MAX_RECEIVE_BYTES: usize = 64 * 1024;
/// With less room than this the arena counts as full: a short receive costs as much as a whole one.
const MIN_RECEIVE_BYTES: usize = 4096;
/// What one listener can accept in one turn, unless less is asked for.
const MAX_ACCEPTS: usize = 64;
/// What one `epoll_wait` can tell; more stays in the kernel's queue, which goes round.
const MAX_EVENTS: usize = 1024;

// What is wanted of a descriptor ...
const ACCEPTING: u16 = 1 << 0;
const RECEIVING: u16 = 1 << 1;
const BLOCKED: u16 = 1 << 2;
const WATCH_READABLE: u16 = 1 << 3;
const WATCH_WRITABLE: u16 = 1 << 4;
// ... what has become of it (for the rest of its token's life) ...
const ENDED: u16 = 1 << 5;
const FAILED: u16 = 1 << 6;
// ... and what the kernel has been told.
const LISTED: u16 = 1 << 7;
const LISTED_IN: u16 = 1 << 8;
const LISTED_OUT: u16 = 1 << 9;
/// A TCP socket: a receive that does not fill its room has taken all there was, unless an end or urgent data follows.
const IS_TCP: u16 = 1 << 10;
/// It is left for the next wait.
const LEFT: u16 = 1 << 11;

const WANTS_IN: u16 = ACCEPTING | RECEIVING | WATCH_READABLE;
const WANTS_OUT: u16 = BLOCKED | WATCH_WRITABLE;
const WATCHING: u16 = WATCH_READABLE | WATCH_WRITABLE;
const TOLD: u16 = LISTED | LISTED_IN | LISTED_OUT;
/// An edge is told once; with these, more follows what one receive takes.
const MORE_FOLLOWS: i32 = EPOLLERR | EPOLLHUP | EPOLLRDHUP | EPOLLPRI;

/// What is known of one descriptor number. The event carries the number and the token's whole generation;
/// the low half here tells whether the event is still meant for the present tenant.
#[derive(Clone, Copy, Default)]
struct Slot {
    index: u32,
    generation: u16,
    flags: u16,
}

impl Slot {
    fn is(self, token: Token) -> bool {
        self.index == token.index && self.generation == token.generation as u16
    }
}

/// What a receive has taken of the bytes that were there.
enum Taken {
    All,
    /// There may be more.
    Part,
    /// There was no room.
    Nothing,
    /// What comes next is a new event, or nothing ever.
    Last,
}

pub struct EpollPoller {
    epoll: OwnedFd,
    /// By descriptor number: the kernel hands out the lowest free one, so the table is dense.
    slots: Vec<Slot>,
    events: Vec<libc::epoll_event>,
    arena: TurnArena,
    /// Connections that may have more to receive, in the words of their events: those for which the last wait had no
    /// room come first in the next one, or the first would starve the last ...
    unserved: Vec<u64>,
    /// ... and then those that it did not empty.
    unfinished: Vec<u64>,
    max_accepts: usize,
    /// False once the kernel (before 5.11) or a sandbox has refused `epoll_pwait2`.
    has_pwait2: bool,
}

impl EpollPoller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(EpollPoller {
            // SAFETY: the descriptor is new, and nobody else's.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            slots: Vec::new(),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS],
            arena: TurnArena::with_capacity(ARENA_BYTES),
            unserved: Vec::new(),
            unfinished: Vec::new(),
            max_accepts: MAX_ACCEPTS,
            has_pwait2: true,
        })
    }

    /// What is known of `fd` as `token`'s: nothing, if it was another's before.
    fn flags(&self, token: Token, fd: RawFd) -> u16 {
        usize::try_from(fd)
            .ok()
            .and_then(|fd| self.slots.get(fd))
            .filter(|slot| slot.is(token))
            .map_or(0, |slot| slot.flags)
    }

    fn store(&mut self, token: Token, fd: RawFd, flags: u16) {
        let fd = fd as usize;
        if fd >= self.slots.len() {
            self.slots.resize(fd + 1, Slot::default());
        }
        self.slots[fd] = Slot { index: token.index, generation: token.generation as u16, flags };
    }

    /// Make `flags` the wants of a descriptor, and see to it that the kernel tells at least those.
    fn want(&mut self, token: Token, fd: RawFd, flags: u16) -> io::Result<()> {
        let told =
            (flags & WANTS_IN == 0 || flags & LISTED_IN != 0) && (flags & WANTS_OUT == 0 || flags & LISTED_OUT != 0);
        if told {
            self.store(token, fd, flags);
            return Ok(());
        }
        self.tell_kernel(token, fd, flags)
    }

    /// Make the kernel's interest exactly what is wanted. Errors and hang-ups it tells in any case.
    fn tell_kernel(&mut self, token: Token, fd: RawFd, flags: u16) -> io::Result<()> {
        let mut interest = 0;
        let mut told = LISTED;
        if flags & WANTS_IN != 0 {
            (interest, told) = (interest | EPOLLIN, told | LISTED_IN);
        }
        if flags & IS_TCP != 0 && flags & (WANTS_IN | WANTS_OUT) == RECEIVING {
            interest |= EPOLLET | EPOLLRDHUP | EPOLLPRI;
        }
        if flags & WANTS_OUT != 0 {
            (interest, told) = (interest | EPOLLOUT, told | LISTED_OUT);
        }
        if flags & ACCEPTING != 0 {
            // Workers share listeners: a connection must not wake all of them.
            interest |= EPOLLEXCLUSIVE;
        }
        let (first, otherwise, unless) = if flags & LISTED != 0 {
            (libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_ADD, libc::ENOENT)
        } else {
            (libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD, libc::EEXIST)
        };
        match self.control(first, token, fd, interest) {
            // Somebody closed the descriptor, or duplicated it, without a word; its number is the same.
            Err(error) if error.raw_os_error() == Some(unless) => self.control(otherwise, token, fd, interest)?,
            outcome => outcome?,
        }
        self.store(token, fd, flags & !TOLD | told);
        Ok(())
    }

    fn control(&self, operation: i32, token: Token, fd: RawFd, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: word(token, fd) };
        // SAFETY: the event lives through the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Take a descriptor out of the kernel's set, keeping `flags`.
    fn unlist(&mut self, token: Token, fd: RawFd, flags: u16) {
        if flags & LISTED != 0 {
            // It fails only if the descriptor is closed already, which is what was wanted.
            let _ = self.control(libc::EPOLL_CTL_DEL, token, fd, 0);
        }
        self.store(token, fd, flags & !TOLD);
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let (epoll, events, room) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr(), MAX_EVENTS as i32);
        if let Some(timeout) = timeout.filter(|timeout| self.has_pwait2 && !timeout.is_zero()) {
            let seconds = timeout.as_secs().min(i32::MAX as u64) as libc::time_t;
            let timespec = libc::timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
            let no_mask = ptr::null::<libc::sigset_t>();
            // SAFETY: `events` has `room` elements; the timespec lives through the call; a null mask changes none.
            let count =
                unsafe { libc::syscall(libc::SYS_epoll_pwait2, epoll, events, room, &timespec, no_mask, 8usize) };
            match check(count as i32) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.has_pwait2 = false
                }
                outcome => return outcome.map(|count| count as usize),
            }
        }
        let timeout_ms =
            timeout.map_or(-1, |timeout| timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
        // SAFETY: `events` has `room` elements.
        check(unsafe { libc::epoll_wait(epoll, events, room, timeout_ms) }).map(|count| count as usize)
    }

    /// Do what an event allows.
    fn serve(&mut self, event: libc::epoll_event, completions: &mut Vec<Completion>) {
        let (ready, fd, generation) = (event.events as i32, event.u64 as u32, (event.u64 >> 32) as u32);
        let Some(slot) = self.slots.get(fd as usize).copied() else { return };
        let token = Token::new(slot.index, generation);
        if slot.generation != generation as u16 || slot.flags & LISTED == 0 {
            // The descriptor was closed while a duplicate lives on, and its number has another tenant.
            return;
        }
        let fd = fd as RawFd;
        if slot.flags & ACCEPTING != 0 {
            calls::accept_burst(token, fd, self.max_accepts, completions);
        } else if slot.flags & WATCHING != 0 {
            tell_readiness(token, slot.flags, ready, completions);
        } else {
            self.serve_connection(token, fd, slot.flags, ready, completions);
        }
    }

    /// What the last wait left comes once more. One that has been closed since, and perhaps replaced, is recognised as any
    /// stale event is.
    fn serve_left(&mut self, completions: &mut Vec<Completion>) {
        let (unserved, unfinished) = (std::mem::take(&mut self.unserved), std::mem::take(&mut self.unfinished));
        for &word in unserved.iter().chain(&unfinished) {
            let slot = self.slots.get_mut(word as u32 as usize);
            if let Some(slot) = slot.filter(|slot| slot.generation == (word >> 32) as u16) {
                slot.flags &= !LEFT;
            }
            self.serve(libc::epoll_event { events: (EPOLLIN | EPOLLRDHUP) as u32, u64: word }, completions);
        }
    }

    fn leave(&mut self, token: Token, fd: RawFd, is_served: bool) {
        let flags = self.flags(token, fd);
        if flags & (LEFT | RECEIVING) == RECEIVING {
            self.store(token, fd, flags | LEFT);
            let list = if is_served { &mut self.unfinished } else { &mut self.unserved };
            list.push(word(token, fd));
        }
    }

    fn serve_connection(&mut self, token: Token, fd: RawFd, flags: u16, ready: i32, out: &mut Vec<Completion>) {
        let broken = ready & (EPOLLERR | EPOLLHUP) != 0;
        // Receiving comes first: bytes that arrived before a reset are still to be had. Whom this wait has left already has
        // had its share.
        if flags & (RECEIVING | LEFT) == RECEIVING && (broken || ready & EPOLLIN != 0) {
            match self.receive_once(token, fd, out) {
                Taken::All if ready & MORE_FOLLOWS == 0 => {}
                // The kernel says so itself if there is more.
                Taken::All | Taken::Part if flags & IS_TCP == 0 || flags & LISTED_OUT != 0 => {}
                Taken::All | Taken::Part => self.leave(token, fd, true),
                Taken::Nothing => self.leave(token, fd, false),
                Taken::Last => {}
            }
        }
        let now = self.flags(token, fd);
        if now & BLOCKED != 0 && (broken || ready & EPOLLOUT != 0) {
            // If it is broken, the next send says so.
            self.store(token, fd, now & !BLOCKED);
            out.push(Completion::Sent { token, bytes: 0 });
        }
        let told_in_vain =
            ready & EPOLLIN != 0 && flags & RECEIVING == 0 || ready & EPOLLOUT != 0 && flags & BLOCKED == 0;
        if flags & (RECEIVING | BLOCKED) == 0 && broken {
            self.hang_up(token, fd, flags, ready, out);
        } else if told_in_vain && now & LISTED != 0 && self.tell_kernel(token, fd, now).is_err() {
            // What is wanted next is told anew, whatever the kernel believes: until then this costs empty waits, no bytes.
            self.store(token, fd, now & !(LISTED_IN | LISTED_OUT));
        }
    }

    fn receive_once(&mut self, token: Token, fd: RawFd, completions: &mut Vec<Completion>) -> Taken {
        let room = self.arena.room().min(MAX_RECEIVE_BYTES);
        if room < MIN_RECEIVE_BYTES {
            return Taken::Nothing;
        }
        match calls::receive(fd, &mut self.arena, room) {
            Received::Bytes(lease) => {
                completions.push(Completion::Received { token, lease });
                return if lease.len() < room { Taken::All } else { Taken::Part };
            }
            Received::Nothing => {}
            Received::End => {
                self.store(token, fd, self.flags(token, fd) & !RECEIVING | ENDED);
                completions.push(Completion::Ended { token });
            }
            Received::Error(errno) => self.fail(token, fd, errno, completions),
        }
        Taken::Last
    }

    /// A connection from which nothing is wanted just now is broken, or closed both ways.
    fn hang_up(&mut self, token: Token, fd: RawFd, flags: u16, ready: i32, completions: &mut Vec<Completion>) {
        match calls::socket_error(fd) {
            // Closed both ways: what has arrived can still be received when somebody asks.
            0 if ready & EPOLLERR == 0 => self.unlist(token, fd, flags),
            0 => self.fail(token, fd, libc::ECONNRESET, completions),
            errno => self.fail(token, fd, errno, completions),
        }
    }

    fn fail(&mut self, token: Token, fd: RawFd, errno: i32, completions: &mut Vec<Completion>) {
        self.end(token, fd);
        completions.push(Completion::Failed { token, errno });
    }

    /// Nothing more comes from this token.
    fn end(&mut self, token: Token, fd: RawFd) {
        self.unlist(token, fd, self.flags(token, fd) & TOLD | FAILED);
    }
}

impl Poller for EpollPoller {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn accept(&mut self, listener: Token, fd: RawFd) -> io::Result<()> {
        self.want(listener, fd, self.flags(listener, fd) | ACCEPTING)
    }

    fn stop_accept(&mut self, listener: Token, fd: RawFd) {
        // An exclusive interest cannot be changed, only withdrawn.
        self.forget(listener, fd);
    }

    fn limit_accepts(&mut self, per_wait: usize) {
        self.max_accepts = per_wait.clamp(1, MAX_ACCEPTS);
    }

    fn receive(&mut self, token: Token, fd: RawFd) -> io::Result<()> {
        match self.flags(token, fd) {
            flags if flags & (ENDED | FAILED) != 0 => Ok(()),
            flags if flags & (LISTED | IS_TCP) == 0 && calls::is_tcp(fd) => {
                self.want(token, fd, flags | RECEIVING | IS_TCP)
            }
            flags => self.want(token, fd, flags | RECEIVING),
        }
    }

    fn pause(&mut self, token: Token, fd: RawFd) {
        match self.flags(token, fd) {
            0 => {}
            flags => self.store(token, fd, flags & !RECEIVING),
        }
    }

    fn send(&mut self, token: Token, fd: RawFd, output: &mut SegmentQueue) -> io::Result<SendOutcome> {
        let sent = match calls::send(fd, output) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.end(token, fd);
                return Err(error);
            }
        };
        if sent == output.bytes() {
            return Ok(SendOutcome::Done(sent));
        }
        self.want(token, fd, self.flags(token, fd) | BLOCKED)?;
        Ok(SendOutcome::Blocked(sent))
    }

    fn watch(&mut self, token: Token, fd: RawFd, interest: Readiness) -> io::Result<()> {
        let told = self.flags(token, fd) & TOLD;
        let readable = if interest.readable { WATCH_READABLE } else { 0 };
        let writable = if interest.writable { WATCH_WRITABLE } else { 0 };
        if readable | writable == 0 {
            // An empty interest would still tell hang-ups.
            self.forget(token, fd);
            return Ok(());
        }
        self.tell_kernel(token, fd, told | readable | writable)
    }

    fn forget(&mut self, token: Token, fd: RawFd) {
        // Closing alone is not enough: a forked child may hold a duplicate, and its events would go on.
        match self.flags(token, fd) {
            0 => {}
            flags => {
                self.unlist(token, fd, flags);
                self.slots[fd as usize] = Slot::default();
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let has_left = self.has_left();
        let timeout = if has_left { Some(Duration::ZERO) } else { timeout };
        let count = match self.sleep(timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            outcome => outcome?,
        };
        if has_left {
            self.serve_left(completions);
        }
        for position in 0..count {
            self.serve(self.events[position], completions);
        }
        Ok(())
    }

    fn has_left(&self) -> bool {
        !self.unserved.is_empty() || !self.unfinished.is_empty()
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.epoll.as_raw_fd())
    }

    /// Until this is called, a full arena leaves readable connections to the kernel. A caller that sleeps
    /// meanwhile is woken by them at once, and in vain.
    fn recycle(&mut self) {
        self.arena.reset();
    }
}

/// What names a registration in the kernel's events.
fn word(token: Token, fd: RawFd) -> u64 {
    u64::from(token.generation) << 32 | u64::from(fd as u32)
}

/// An error or a hang-up shows as whatever was asked for, so that the next call on the descriptor finds it.
fn tell_readiness(token: Token, flags: u16, ready: i32, completions: &mut Vec<Completion>) {
    let broken = ready & (EPOLLERR | EPOLLHUP) != 0;
    let readiness = Readiness {
        readable: flags & WATCH_READABLE != 0 && (broken || ready & EPOLLIN != 0),
        writable: flags & WATCH_WRITABLE != 0 && (broken || ready & EPOLLOUT != 0),
    };
    if readiness != Readiness::default() {
        completions.push(Completion::Ready { token, readiness });
    }
}
