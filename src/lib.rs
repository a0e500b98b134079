//! Penstock's data plane. Rust moves the bytes; Python decides.
//!
//! Dependencies point one way: `core` <- `net` <- `protocol` <- `server`, `load` <- `py`.

pub mod core;
pub mod load;
pub mod metrics;
pub mod net;
pub mod protocol;
#[cfg(feature = "python")]
mod py;
pub mod reactor;
pub mod server;
