//! The reactor's parts, without Python and without any protocol.

pub mod buffer;
pub mod poller;
pub mod token;
