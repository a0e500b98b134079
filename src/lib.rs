//! Penstock's data plane. Rust moves the bytes; Python decides.
//!
//! Dependencies point one way: `core` <- `net` <- `protocol` <- `server`, `load` <- `py`.

pub mod core;
pub mod load;
