//! Protocols turn bytes into events and events into bytes. They own no socket, no clock and no randomness.

pub mod framing;
pub mod http1;
pub mod proxy_protocol;
pub mod tls;
