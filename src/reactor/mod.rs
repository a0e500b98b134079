//! Main and sub reactors: who accepts, and who serves.
//!
//! A [`MainReactor`] owns listeners, on a thread of its own, and hands each connection it accepts to the sub reactor
//! with the fewest. A sub reactor is any event loop that takes [`Mail`]; to the main one it is a [`SubReactorHandle`].
//! [`SubReactor`] is one on a thread of its own; Python's reactors run on threads that Python made.
//!
//! With one sub reactor the two are one loop: it accepts by itself. Over processes the reactors that accept from one
//! listener see each other in a [`scoreboard`], and a [`fair_share`] keeps them even.

pub mod fair_share;
mod main_reactor;
pub mod scoreboard;
mod sub_reactor;

pub use main_reactor::{Deserted, MainReactor, MainReactorError};
pub use sub_reactor::{OnItsWay, SubReactor, SubReactorHandle};

use std::os::fd::OwnedFd;

/// What a main reactor, or another thread, hands to a sub reactor.
pub enum Mail {
    /// An accepted connection, and the number of the listener it came through.
    Connection { fd: OwnedFd, listener: u16, on_its_way: OnItsWay },
}
