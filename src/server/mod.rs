//! Servers: protocols bound to connections. They know a reactor's `Io` and no interpreter.

pub mod health;
pub mod http;
pub mod static_files;
pub mod udp;
