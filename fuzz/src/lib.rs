//! What the fuzz targets check. Each module takes bytes, makes something of them, and panics if a promise is broken.
//!
//! The targets are one line each around these, so the same checks run without a fuzzer: `tests/seeds.rs` replays every
//! seed on a plain toolchain.

pub mod body;
pub mod connection;
pub mod framing;
pub mod head;
pub mod proxied;
pub mod response;
pub mod structures;

mod input;
mod naive;
