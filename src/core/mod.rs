//! The reactor's parts, without Python and without any protocol.

pub mod buffer;
pub mod channel;
pub mod event_loop;
mod gate;
pub mod mailbox;
pub mod poller;
pub mod slab;
pub mod timer;
pub mod token;
pub mod wall_clock;

pub use event_loop::{CloseReason, EventLoop, Hold, Io, Service};
pub use token::Token;
