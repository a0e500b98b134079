//! Main and sub reactors: who accepts, and who serves.

use std::os::fd::OwnedFd;

/// What a main reactor, or another thread, hands to a sub reactor.
pub enum Mail {
    /// An accepted connection, and the number of the listener it came through.
    Connection { fd: OwnedFd, listener: u16 },
}
