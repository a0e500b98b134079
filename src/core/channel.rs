//! A Channel is one descriptor of a reactor: what it is registered for, its deadline, its unsent output.
//!
//! It fits a slot of 128 bytes with its service's own state `C`; whatever only an active connection needs is
//! elsewhere. It owns its descriptor unless it is a watch, whose descriptor is somebody else's.

use std::os::fd::RawFd;
use std::time::Duration;

use super::buffer::SegmentQueue;
use super::event_loop::Cause;
use super::timer::TimerLink;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelKind {
    Listener,
    Connection,
    /// Told of readiness on behalf of somebody else (asyncio's `add_reader`).
    Watch,
    /// The reactor's own mailbox.
    Mailbox,
}

/// What a connection is in the middle of.
#[derive(Clone, Copy, Default, Debug)]
pub struct ChannelFlags {
    /// In the dirty list already.
    pub dirty: bool,
    /// A send is blocked; its completion is awaited.
    pub sending: bool,
    /// The service asked for no more bytes.
    pub paused: bool,
    /// The peer has closed its sending side.
    pub ended: bool,
    /// The service wants to know when the output is low again.
    pub wants_drained: bool,
    /// Close once the output has left. Of a listener: accept no more, and go.
    pub closing: bool,
    /// Closing politely: what still arrives is thrown away until the peer ends or a deadline passes.
    pub lingering: bool,
    /// Nothing is appended to the output any more; when it has left, our side ends.
    pub output_ends: bool,
    /// Our side has ended.
    pub output_ended: bool,
    /// Closed already, in the list of those to be removed.
    pub closed: bool,
    /// What its end is to be counted as.
    pub cause: Cause,
}

/// When a connection was opened: whole seconds of its loop's time, in the three bytes that a slot has left. After 194 days
/// all are as old as those.
#[derive(Clone, Copy, Default, Debug)]
pub struct Opened([u8; 3]);

impl Opened {
    pub fn at(elapsed: Duration) -> Self {
        let [a, b, c, _] = (elapsed.as_secs().min(0xff_ffff) as u32).to_le_bytes();
        Opened([a, b, c])
    }

    pub fn age(self, elapsed: Duration) -> Duration {
        let [a, b, c] = self.0;
        elapsed.saturating_sub(Duration::from_secs(u64::from(u32::from_le_bytes([a, b, c, 0]))))
    }
}

pub struct Channel<C> {
    pub fd: RawFd,
    pub kind: ChannelKind,
    pub flags: ChannelFlags,
    pub opened: Opened,
    /// Bytes sent since somebody last asked; saturates.
    pub progress_bytes: u32,
    pub timer: TimerLink,
    pub output: Option<Box<SegmentQueue>>,
    pub state: C,
}

impl<C> Channel<C> {
    pub fn new(fd: RawFd, kind: ChannelKind, state: C) -> Self {
        Channel {
            fd,
            kind,
            flags: ChannelFlags::default(),
            opened: Opened::default(),
            progress_bytes: 0,
            timer: TimerLink::default(),
            output: None,
            state,
        }
    }

    pub fn count_progress(&mut self, bytes: usize) {
        self.progress_bytes = self.progress_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub fn queued_bytes(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.bytes())
    }
}
