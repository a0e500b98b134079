//! Servers: protocols bound to connections. They know a reactor's `Io` and no interpreter.

pub mod health;
pub mod http;
pub mod metrics;
mod slot;
pub mod static_files;
pub mod survey;
pub mod tcp;
pub mod udp;

pub use slot::Connection;

/// Of the time that a peer may take nothing, a tenth goes before it counts: buffers still fill, the peer's and the kernel's,
/// and what is taken then tells nothing of the peer. One that never reads would have its time twice.
const FILL_SHARE: u32 = 10;
