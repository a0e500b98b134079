//! The reactor's parts, without Python and without any protocol.

pub mod background;
pub mod bell;
pub mod buffer;
pub mod channel;
pub mod event_loop;
mod gate;
pub mod hang_up;
pub mod mailbox;
pub mod poller;
pub mod shared;
pub mod slab;
pub mod timer;
pub mod token;
pub mod wall_clock;
pub mod wide_sockets;

pub use event_loop::{Cause, CloseReason, EventLoop, Glance, Hold, Io, Service, Shard};
pub use token::Token;
