//! What a reactor serves, and what it tells a service.

use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::Io;
use crate::core::buffer::Lease;
use crate::core::poller::Readiness;
use crate::core::token::Token;

/// Above this a service should stop producing for a connection ...
pub const HIGH_WATERMARK_BYTES: usize = 64 * 1024;
/// ... until `drained` tells it that this little is left.
pub const LOW_WATERMARK_BYTES: usize = 16 * 1024;

/// Why a connection came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The service closed it, and its output has left.
    Finished,
    /// The service cut it off: the peer is sent a reset, so that it takes nothing cut short for whole.
    Aborted,
    /// The peer reset it or vanished, with this errno.
    Failed(i32),
}

/// Why a connection was closed, where the way in which it was does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cause {
    #[default]
    Untold,
    /// It was silent for too long.
    Silent,
    /// Its peer did not take what was sent.
    Stalled,
}

/// Who has a listener's socket when it is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Perhaps another process: it goes on letting peers in.
    Shared,
    /// This reactor alone: nobody is let in any more.
    Last,
}

/// What a reactor serves: told what happened, it acts through [`Io`]. All calls are on the reactor's thread,
/// while the interpreter (if any) is detached.
pub trait Service {
    /// Its state in an idle connection's slot; small, see `Channel`.
    type Connection: Default;
    /// What other threads may send it.
    type Mail: Send;

    /// A listener of this reactor accepted a connection. (`listener` may be one just removed.)
    fn accepted(&mut self, io: &mut Io<Self::Connection>, listener: Token, fd: OwnedFd);
    /// Bytes arrived; the lease is good until `settle` gives it up. Not told after `Io::close`.
    fn received(&mut self, io: &mut Io<Self::Connection>, token: Token, lease: Lease);
    /// The peer will send no more. Not told after `Io::close`.
    fn ended(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// The output fell to the low watermark, after `Io::want_drained`.
    fn drained(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// A send could not take everything: the peer does not read, or not as fast. Told once until `unblocked`.
    fn blocked(&mut self, _io: &mut Io<Self::Connection>, _token: Token) {}
    /// What was blocked has left, all of it. Not told after `Io::close`.
    fn unblocked(&mut self, _io: &mut Io<Self::Connection>, _token: Token) {}
    /// The deadline passed.
    fn expired(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// The connection is gone; the last call for it. `token` is stale already.
    fn closed(&mut self, io: &mut Io<Self::Connection>, token: Token, state: Self::Connection, reason: CloseReason);
    /// A watched descriptor is ready.
    fn ready(&mut self, io: &mut Io<Self::Connection>, token: Token, readiness: Readiness);
    fn mail(&mut self, io: &mut Io<Self::Connection>, mail: Self::Mail);
    /// Give up the leases of earlier turns, copying what must outlive them; false while some are still wanted, or there
    /// is other unfinished business (the arena then fills on, and the turn does not sleep).
    fn settle(&mut self, io: &mut Io<Self::Connection>) -> bool;
    /// What was flushed has been given to the kernel: time to measure what began long ago. `now`, if somebody has looked;
    /// `Io::clock` tells otherwise. Only while `Io::measures`.
    fn flushed(&mut self, _io: &mut Io<Self::Connection>, _now: Option<Instant>) {}
}

/// One connection, for whoever looks at many.
pub struct Glance<'a, C> {
    pub token: Token,
    pub fd: RawFd,
    /// To the second.
    pub age: Duration,
    pub queued_bytes: usize,
    /// The kernel has no room for what is to be sent.
    pub is_sending: bool,
    pub is_closing: bool,
    pub state: &'a C,
}
