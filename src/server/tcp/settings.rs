//! What one endpoint's connections may do, and what has been counted of them.

use std::time::Duration;

use crate::protocol::framing::{FrameErrorKind, Framing, Scan};

/// Silence, and what is done about it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// After so much silence the peer is sent `ping`, if there is one ...
    pub interval: Duration,
    /// ... and after so much the connection is closed.
    pub timeout: Duration,
    /// A whole frame, as it goes over the wire.
    pub ping: Option<Vec<u8>>,
    /// What is known of the peer's own heartbeats; they never reach the application.
    pub beats: Option<Beats>,
}

/// The two frames of a heartbeat, as they go over the wire: who is sent the first answers with the second.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beats {
    ping: Vec<u8>,
    pong: Vec<u8>,
}

/// A frame that is a heartbeat's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    Ping,
    Pong,
}

impl Beats {
    /// `None` unless both are one whole frame each: nothing else can be told from what applications send.
    pub fn new(framing: &Framing, ping: Vec<u8>, pong: Vec<u8>) -> Option<Self> {
        let is_frame = |bytes: &[u8]| {
            let cut = framing.cut(bytes, &mut Scan::default());
            !matches!(framing, Framing::Raw) && matches!(cut, Ok(Some(cut)) if cut.taken == bytes.len())
        };
        (is_frame(&ping) && is_frame(&pong)).then_some(Beats { ping, pong })
    }

    /// What a whole frame is, by its bytes on the wire.
    #[inline]
    pub fn of(&self, frame: &[u8]) -> Option<Beat> {
        match frame {
            ping if ping == self.ping => Some(Beat::Ping),
            pong if pong == self.pong => Some(Beat::Pong),
            _ => None,
        }
    }

    /// How many pings there are in bytes that begin with a frame and are heartbeats alone; `None` if they are not.
    pub fn alone_in(&self, mut bytes: &[u8]) -> Option<usize> {
        let mut pings = 0;
        while !bytes.is_empty() {
            bytes = match bytes.strip_prefix(self.ping.as_slice()) {
                Some(rest) => {
                    pings += 1;
                    rest
                }
                None => bytes.strip_prefix(self.pong.as_slice())?,
            };
        }
        Some(pings)
    }

    pub fn pong(&self) -> &[u8] {
        &self.pong
    }
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
    pub pings_answered: u64,
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

    pub fn snapshot(&self) -> [(&'static str, u64); 12] {
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
            ("pings_answered", self.pings_answered),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::framing::{Delimited, LengthPrefixed};

    fn beats() -> Beats {
        let framing = Framing::LengthPrefixed(LengthPrefixed::new(2, 64).unwrap());
        Beats::new(&framing, b"\0\x01?".to_vec(), b"\0\x01!".to_vec()).unwrap()
    }

    #[test]
    fn heartbeats_alone_are_counted_and_anything_else_is_left_to_the_framing() {
        let beats = beats();
        assert_eq!(beats.alone_in(b"\0\x01?"), Some(1));
        assert_eq!(beats.alone_in(b"\0\x01!\0\x01?\0\x01?"), Some(2));
        assert_eq!(beats.alone_in(b"\0\x01!"), Some(0));
        for other in [&b"\0\x01?\0"[..], b"\0", b"\0\x01?\0\x01x", b"\0\x02??"] {
            assert_eq!(beats.alone_in(other), None, "{other:?}");
        }
        assert_eq!(
            [&b"\0\x01?"[..], b"\0\x01!", b"\0\x01x"].map(|frame| beats.of(frame)),
            [Some(Beat::Ping), Some(Beat::Pong), None]
        );
    }

    #[test]
    fn what_is_not_one_whole_frame_is_no_heartbeat() {
        let lines = Framing::Delimited(Delimited::lines(16));
        assert!(Beats::new(&lines, b"ping\n".to_vec(), b"pong\r\n".to_vec()).is_some());
        for (ping, pong) in [("ping", "pong\n"), ("ping\n", ""), ("a\nb\n", "pong\n"), ("ping\n", "pong\nx")] {
            assert!(Beats::new(&lines, ping.into(), pong.into()).is_none(), "{ping:?} {pong:?}");
        }
        assert!(Beats::new(&Framing::Raw, b"ping".to_vec(), b"pong".to_vec()).is_none());
    }
}
