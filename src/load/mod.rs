//! Load generators: what measures Penstock and its peers. They must cost less than anything they measure.
//!
//! They sit beside the servers, on the same poller, and own their connections for one run. `run` is the loop of those that
//! have connections, and HTTP and an echo are dialogues in it; `udp` has a loop of its own, and so has `crowd`, whose
//! connections are too many to be kept busy.

pub mod crowd;
pub mod http;
pub mod latency;
mod patience;
mod plan;
mod report;
mod response;
mod run;
mod secure;
pub mod tcp;
pub mod udp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a run could not be made, or not be ended. Single requests that fail are counted in the report instead.
#[derive(Debug)]
pub enum LoadError {
    /// The plan asks for something impossible: what was expected and what came.
    Plan(String),
    /// The first connections could not be opened.
    Connect { address: SocketAddr, opened: usize, wanted: usize, source: io::Error },
    /// Somebody is there, and the first connections' sessions did not come about.
    Handshake { address: SocketAddr, opened: usize, wanted: usize, problem: String },
    /// Every connection was lost and none could be opened again for this long.
    ServerGone { address: SocketAddr, waited: Duration },
    /// The kernel refused something that the run needs.
    Kernel { doing: &'static str, source: io::Error },
    /// The caller asked to stop.
    Interrupted,
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Plan(problem) => write!(out, "this load cannot be made: {problem}"),
            LoadError::Connect { address, opened, wanted, source } => write!(
                out,
                "expected {wanted} connections to {address}, opened {opened}, then: {source}; is the server running?"
            ),
            LoadError::Handshake { address, opened, wanted, problem } => write!(
                out,
                "expected {wanted} TLS sessions with {address}, made {opened}, then the handshake failed: {problem}"
            ),
            LoadError::ServerGone { address, waited } => write!(
                out,
                "every connection to {address} was lost, and none could be opened for {:.1} s: did the server stop?",
                waited.as_secs_f64()
            ),
            LoadError::Kernel { doing, source } => write!(out, "{doing}: {source}"),
            LoadError::Interrupted => write!(out, "stopped before its time"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Connect { source, .. } | LoadError::Kernel { source, .. } => Some(source),
            LoadError::Plan(_)
            | LoadError::Handshake { .. }
            | LoadError::ServerGone { .. }
            | LoadError::Interrupted => None,
        }
    }
}
