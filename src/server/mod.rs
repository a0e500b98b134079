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
