//! The poller contract: what a reactor asks of the kernel, in completions.
//!
//! The loop never asks "may I read?": it says what it wants (connections, bytes, room to send) and is told
//! what happened. A completion interface such as io_uring does this by itself; a readiness interface such as
//! epoll does the system call when told it may, and presents the outcome. The contract, which
//! `tests/poller_contract.rs` holds against every backend:
//!
//! 1. **Tokens.** Every registration carries a token; every completion names it. After `forget`, no
//!    completion of that token is delivered by a later `wait`. (Those of the running turn may already be in
//!    the caller's list: the slab's generations discard them.) A descriptor has one use and one token at a
//!    time; a call that names a token which is not the descriptor's present one changes nothing, except that
//!    `accept`, `receive`, `send` and `watch` make it the present one.
//! 2. **Accepting** goes on until `stop_accept`, which like `pause` may let one later `wait` deliver what was
//!    accepted already. A failed accept is `AcceptFailed` and accepting goes on; the loop decides about
//!    backing off.
//! 3. **Receiving** goes on until `pause`, `Ended` or `Failed`. `pause` is a request: a backend that has
//!    receives in flight may still deliver them in one later `wait`. `receive` undoes it.
//! 4. **Leases** are valid until `recycle`, however many `wait`s lie between. When the backend has no more
//!    room it delivers nothing further and loses nothing: what waits in the kernel comes after `recycle`.
//!    Room is bounded and shared fairly: a connection that is always readable starves no other.
//! 5. **Sending**: `send` takes what leaves at once and says how much. `Blocked` promises exactly one `Sent`
//!    (with what has left since, possibly 0) or `Failed` later, and the loop calls `send` again for the rest,
//!    not before. From `Blocked` to that completion, or until `forget` has returned, the queue's flight must
//!    neither move nor change nor be freed; the queue may grow behind it. A range of a file leaves after what is
//!    queued before it, a bounded part at a time (the rest is `Blocked` even if the socket has room), so that a large
//!    file starves no other connection. If the file has become shorter than the range, the send that finds out fails.
//! 6. **Ends.** `Ended` (the peer will send no more; sending may go on) comes once, after the last bytes.
//!    `Failed` comes once and is the last completion of its token. Of a connection that is paused and has no
//!    send blocked it may come late: when `receive` is called. Neither makes a later `wait` return in vain.
//! 7. **Watching** is for descriptors that somebody else reads and writes (asyncio's `add_reader`): level
//!    triggered, told anew by each `wait` while it holds. An error or a hang-up shows as whatever was asked
//!    for. An empty interest is none; what cannot be waited for (a regular file) is refused with `EPERM`.
//! 8. `wait` sleeps at most `timeout` (`None`: until something happens), and appends what happened. A signal
//!    ends it early without an error, and now and then it may return early with nothing to tell.
//! 9. **Time** is the poller's: `now` goes on by what a `wait` slept, so that a simulated network has its own.
//!
//! A poller never closes a descriptor it was given; descriptors it accepted belong to the completion.

mod calls;
pub mod epoll;
pub mod simulated;
#[cfg(feature = "io-uring")]
pub mod uring;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::buffer::{Lease, SegmentQueue};
use super::token::Token;

/// What a watched descriptor can do, or what somebody wants to know of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
}

/// What happened, told by [`Poller::wait`].
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted: non-blocking, close-on-exec.
    Accepted { listener: Token, fd: OwnedFd },
    /// One accept failed, with this errno (`EMFILE` and `ENFILE`: out of descriptors).
    AcceptFailed { listener: Token, errno: i32 },
    /// At least one byte arrived.
    Received { token: Token, lease: Lease },
    /// The peer closed its sending side.
    Ended { token: Token },
    /// A blocked send can go on; `bytes` have left since.
    Sent { token: Token, bytes: usize },
    /// The connection is broken, with this errno.
    Failed { token: Token, errno: i32 },
    /// A watched descriptor is ready.
    Ready { token: Token, readiness: Readiness },
}

/// How a [`Poller::send`] went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    /// Everything that was queued has left: this many bytes.
    Done(usize),
    /// This many bytes have left; one `Sent` or `Failed` follows.
    Blocked(usize),
}

/// One way of waiting for the kernel. See the module for the contract.
pub trait Poller: Send {
    fn name(&self) -> &'static str;

    fn accept(&mut self, listener: Token, fd: RawFd) -> io::Result<()>;
    fn stop_accept(&mut self, listener: Token, fd: RawFd);

    /// How many connections one `wait` may accept from a listener, where the backend can tell.
    fn limit_accepts(&mut self, _per_wait: usize) {}

    /// Begin, or go on, receiving from a connected stream socket (non-blocking).
    fn receive(&mut self, token: Token, fd: RawFd) -> io::Result<()>;
    fn pause(&mut self, token: Token, fd: RawFd);

    /// Send from the front of `output`, which the caller advances by what the outcome or `Sent` says.
    /// An error is the connection's end (as `Failed` is): nothing more follows for the token.
    fn send(&mut self, token: Token, fd: RawFd, output: &mut SegmentQueue) -> io::Result<SendOutcome>;

    /// Tell when a foreign descriptor is ready, replacing what was asked for this token before.
    fn watch(&mut self, token: Token, fd: RawFd, interest: Readiness) -> io::Result<()>;

    /// Let go of a descriptor, whatever it was registered for, before it is closed.
    fn forget(&mut self, token: Token, fd: RawFd);

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Every lease given so far is wanted no more.
    fn recycle(&mut self);

    /// Whether the next `wait` may have something to tell that the kernel will not tell again.
    fn has_left(&self) -> bool {
        false
    }

    /// A descriptor of its own that is readable when a `wait` would find something, unless `has_left`; owned by the
    /// poller.
    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    /// The time that timeouts are measured in.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Which backend a reactor is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollerKind {
    /// The one that measures best where nothing else is said: epoll.
    #[default]
    Auto,
    Epoll,
    IoUring,
}

impl FromStr for PollerKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(PollerKind::Auto),
            "epoll" => Ok(PollerKind::Epoll),
            "io_uring" => Ok(PollerKind::IoUring),
            other => Err(format!("expected a poller of auto, epoll or io_uring, not {other:?}")),
        }
    }
}

/// Open a backend, or say why this kernel or build has none.
pub fn open(kind: PollerKind) -> io::Result<Box<dyn Poller>> {
    match kind {
        PollerKind::Auto | PollerKind::Epoll => Ok(Box::new(epoll::EpollPoller::new()?)),
        PollerKind::IoUring => open_io_uring(),
    }
}

#[cfg(feature = "io-uring")]
fn open_io_uring() -> io::Result<Box<dyn Poller>> {
    Ok(Box::new(uring::UringPoller::new()?))
}

#[cfg(not(feature = "io-uring"))]
fn open_io_uring() -> io::Result<Box<dyn Poller>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no io_uring: use epoll"))
}
