//! Streams of frames for Python: a `StreamServer` is one endpoint of a reactor, a `Connection` one of its streams.
//!
//! The path of one frame: `received` (server/tcp) queued what arrived; `batch` cuts the frames out of it, makes an object
//! of each and calls the handler, one after another in one attach; what the handler sends leaves with the turn's flush.

mod batch;
mod connection;
mod frames;
mod group;
mod server;
mod wait;

pub use connection::StreamConnection;
pub use group::StreamGroup;
pub use server::{StreamServer, release_object};

pub fn prepare_types(py: pyo3::Python<'_>) {
    wait::prepare_type(py);
}
