//! What a load found: answers and latencies of each target, and what went wrong by kind.

use std::time::Duration;

use super::latency::Latencies;
use crate::protocol::tls::Agreed;

/// What can go wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// A lost connection could not be opened again (one for each attempt).
    Connect,
    /// The server closed before the whole answer.
    Closed,
    /// The connection broke: a reset, most often.
    Broken,
    /// A whole answer whose status is none of those expected.
    Status,
    /// No HTTP/1.1 response, or one of unknowable length, or one that nobody asked for; no echo of what was sent.
    Malformed,
    /// No whole answer within the answer timeout.
    TimedOut,
    /// A datagram that came again, or after it was given up.
    Repeated,
    /// Due, but no connection was free before the run's end.
    NeverSent,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 8] = [
        ErrorKind::Connect,
        ErrorKind::Closed,
        ErrorKind::Broken,
        ErrorKind::Status,
        ErrorKind::Malformed,
        ErrorKind::TimedOut,
        ErrorKind::Repeated,
        ErrorKind::NeverSent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Connect => "connect",
            ErrorKind::Closed => "closed",
            ErrorKind::Broken => "broken",
            ErrorKind::Status => "status",
            ErrorKind::Malformed => "malformed",
            ErrorKind::TimedOut => "timed_out",
            ErrorKind::Repeated => "repeated",
            ErrorKind::NeverSent => "never_sent",
        }
    }
}

/// Failed requests by kind, and the first one in words.
#[derive(Clone, Default, Debug)]
pub struct Errors {
    counts: [u64; ErrorKind::ALL.len()],
    pub first: Option<String>,
}

impl Errors {
    pub fn count(&self, kind: ErrorKind) -> u64 {
        self.counts[kind as usize]
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn add(&mut self, kind: ErrorKind, count: usize, what: impl FnOnce() -> String) {
        self.counts[kind as usize] += count as u64;
        if count > 0 && self.first.is_none() {
            self.first = Some(what());
        }
    }
}

/// What one target answered.
#[derive(Clone, Debug)]
pub struct TargetReport {
    /// An HTTP target's path, or a server's address.
    pub name: String,
    pub connections: usize,
    /// Every good answer, those of the warm-up included: what the server worked for.
    pub answers: u64,
    /// Those that came within the measured time.
    pub answers_in_time: u64,
    /// The bytes of all good answers' bodies.
    pub body_bytes: u64,
    pub errors: Errors,
    /// From due to whole, of the requests due within the measured time. Those that were never answered count with
    /// as long as they had waited.
    pub latencies: Latencies,
    /// Good answers of the connection that got the fewest, and the most.
    pub fewest_on_one: u64,
    pub most_on_one: u64,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// The measured time.
    pub duration: Duration,
    /// Connections opened again, after an error or a `Connection: close`.
    pub reconnects: u64,
    pub targets: Vec<TargetReport>,
    /// Of a load over TLS that had a session.
    pub tls: Option<TlsReport>,
}

/// What the first session agreed on, and how many there were: one for each connection that was opened, and opened again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsReport {
    pub agreed: Agreed,
    pub sessions: u64,
}

impl LoadReport {
    pub fn answers(&self) -> u64 {
        self.targets.iter().map(|target| target.answers).sum()
    }

    pub fn errors(&self) -> u64 {
        self.targets.iter().map(|target| target.errors.total()).sum()
    }

    /// Good answers that came within the measured time.
    pub fn answers_in_time(&self) -> u64 {
        self.targets.iter().map(|target| target.answers_in_time).sum()
    }

    /// Good answers a second.
    pub fn rate(&self) -> f64 {
        self.answers_in_time() as f64 / self.duration.as_secs_f64()
    }

    /// Of all targets together.
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        self.targets.iter().for_each(|target| all.merge(&target.latencies));
        all
    }
}
