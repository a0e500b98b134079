//! Penstock's data plane. Rust moves the bytes; Python decides.
//!
//! Dependencies point one way: `core` <- `net` <- `protocol` <- `server` <- `py`.

pub mod core;
pub mod net;
pub mod protocol;
