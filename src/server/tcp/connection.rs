//! What a stream keeps in its slot: 32 bytes, and a buffer only while part of a frame waits.

use crate::protocol::framing::Scan;
use crate::server::survey::Phase;

/// Why a connection came to its end, as its application is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ending {
    /// The peer closed its side, in good order.
    PeerClosed = 1,
    /// The application closed it.
    Closed = 2,
    /// The application cut it off.
    Aborted = 3,
    /// The peer reset it, or vanished.
    Lost = 4,
    /// Nothing was heard of the peer for too long.
    Silent = 5,
    /// The peer sent what is no frame.
    BadFrame = 6,
    /// The peer did not read what was sent.
    SlowReader = 7,
    /// A handler raised.
    HandlerFailed = 8,
    /// The server stopped.
    Stopped = 9,
}

impl Ending {
    pub const fn name(self) -> &'static str {
        match self {
            Ending::PeerClosed => "peer closed",
            Ending::Closed => "closed",
            Ending::Aborted => "aborted",
            Ending::Lost => "lost",
            Ending::Silent => "silent",
            Ending::BadFrame => "bad frame",
            Ending::SlowReader => "slow reader",
            Ending::HandlerFailed => "handler failed",
            Ending::Stopped => "stopped",
        }
    }
}

/// What a stream is in the middle of, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks(u8);

impl Marks {
    /// The application asked for no more frames.
    pub const PAUSED: Marks = Marks(1);
    /// Its handler has not finished with the frame before: what comes is held.
    pub const BUSY: Marks = Marks(2);
    /// The peer reads too slowly; told by `drained` when it has caught up.
    pub const BEHIND: Marks = Marks(4);
    /// The peer has closed its sending side.
    pub const ENDED: Marks = Marks(8);
    /// It has been silent, and was pinged.
    pub const PINGED: Marks = Marks(16);
    /// The peer has had no room for a moment: what it takes now may only fill buffers.
    pub const FILLS: Marks = Marks(32);
    /// What keeps frames from the application.
    pub const HELD_BACK: Marks = Marks(1 | 2 | 4);

    pub fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }

    pub fn set(&mut self, mark: Marks, whether: bool) {
        self.0 = if whether { self.0 | mark.0 } else { self.0 & !mark.0 };
    }
}

/// A stream's state in its reactor's slot.
#[derive(Default, Debug)]
pub struct StreamConnection {
    /// What has arrived and is no whole frame yet, or is held back.
    #[expect(clippy::box_collection)] // a slot has room for a pointer
    pub(super) held: Option<Box<Vec<u8>>>,
    /// The application's object for it, which the service does not look into; 0 is none.
    pub object: usize,
    pub(super) scan: Scan,
    pub endpoint: u16,
    /// Receives that wait in the queue of events.
    pub(super) queued: u16,
    pub(super) marks: Marks,
    pub(super) ending: Option<Ending>,
}

const _: () = assert!(size_of::<StreamConnection>() <= 32);

impl StreamConnection {
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.len())
    }

    /// What it is in the middle of, unless it closes or its peer does not read.
    pub fn phase(&self) -> Phase {
        match self.held {
            _ if self.marks.has(Marks::BUSY) || self.queued > 0 => Phase::Handling,
            Some(_) => Phase::Reading,
            None => Phase::Idle,
        }
    }

    pub(super) fn hold(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.held.get_or_insert_default().extend_from_slice(bytes);
        }
    }
}
