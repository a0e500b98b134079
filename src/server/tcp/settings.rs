//! What one endpoint's connections may do, and what has been counted of them.

use std::time::Duration;

use crate::protocol::framing::{FrameErrorKind, Framing};

/// Silence, and what is done about it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// After so much silence the peer is sent `ping`, if there is one ...
    pub interval: Duration,
    /// ... and after so much the connection is closed.
    pub timeout: Duration,
    /// A whole frame, as it goes over the wire.
    pub ping: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Bytes that wait for the application before reading pauses; a frame that is larger finds room all the same.
    pub max_held_bytes: usize,
    /// Bytes that a peer may leave unread.
    pub max_unsent_bytes: usize,
    /// How long a peer may read nothing of what waits for it.
    pub write_timeout: Duration,
    pub max_connections: usize,
    pub heartbeat: Option<Heartbeat>,
    /// Whether the application wants to know of new connections, and of the end of those it never had in hand.
    pub tell_connected: bool,
    pub tell_closed: bool,
}

/// One server's or client's share of a reactor's streams.
#[derive(Debug)]
pub struct Endpoint {
    pub framing: Framing,
    pub settings: StreamSettings,
    pub counts: Counts,
    /// It takes no more.
    pub is_stopping: bool,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub connections: u64,
    pub accepted: u64,
    pub frames_received: u64,
    pub frames_sent: u64,
    pub frames_too_long: u64,
    pub frames_malformed: u64,
    pub frames_truncated: u64,
    pub closed_silent: u64,
    pub closed_slow_readers: u64,
    pub refused_over_limit: u64,
    pub handler_errors: u64,
}

impl Counts {
    pub fn frame_error(&mut self, kind: FrameErrorKind) {
        let counter = match kind {
            FrameErrorKind::TooLong => &mut self.frames_too_long,
            FrameErrorKind::Malformed => &mut self.frames_malformed,
            FrameErrorKind::Truncated => &mut self.frames_truncated,
        };
        *counter += 1;
    }

    pub fn snapshot(&self) -> [(&'static str, u64); 11] {
        [
            ("connections", self.connections),
            ("accepted", self.accepted),
            ("frames_received", self.frames_received),
            ("frames_sent", self.frames_sent),
            ("frames_too_long", self.frames_too_long),
            ("frames_malformed", self.frames_malformed),
            ("frames_truncated", self.frames_truncated),
            ("closed_silent", self.closed_silent),
            ("closed_slow_readers", self.closed_slow_readers),
            ("refused_over_limit", self.refused_over_limit),
            ("handler_errors", self.handler_errors),
        ]
    }
}
