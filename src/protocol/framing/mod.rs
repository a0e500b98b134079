//! Framing: where a message ends in a stream of bytes, and what goes around one that is sent.
//!
//! A [`Framing`] knows a protocol's form and its bounds; a [`Scan`] remembers how far one stream was looked at, so that
//! dripped bytes cost linear time. Neither holds a byte: `cut` says where in the caller's the first frame lies.

mod delimited;
mod error;
mod length_prefixed;
pub mod resp;
mod varint;

use std::ops::Range;

pub use delimited::Delimited;
pub use error::{FrameError, FrameErrorKind};
pub use length_prefixed::{Endian, InvalidLayout, LengthPrefixed};
pub use resp::Resp;
pub use varint::Varint;

/// How far a partial frame has been looked at. It begins anew, as default, behind every frame.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes from the frame's start that need not be looked at again.
    pub(super) at: u32,
    /// Elements still to come, where a frame has such.
    pub(super) left: u32,
}

/// The first frame in some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What the application is shown.
    pub frame: Range<usize>,
    /// What the frame takes, with everything around it.
    pub taken: usize,
}

/// One protocol's way of telling messages apart.
#[derive(Clone, Debug)]
pub enum Framing {
    /// None: whatever has arrived is a frame.
    Raw,
    /// Every frame has this many bytes.
    Fixed(usize),
    LengthPrefixed(LengthPrefixed),
    Varint(Varint),
    Delimited(Delimited),
    Resp(Resp),
}

impl Framing {
    /// The first frame of `bytes`, which begin where the one before ended; `None` while it is not whole.
    ///
    /// Between calls that return `None` bytes are only added, and `scan` is kept.
    #[inline]
    pub fn cut(&self, bytes: &[u8], scan: &mut Scan) -> Result<Option<Cut>, FrameError> {
        match self {
            Framing::Raw => Ok((!bytes.is_empty()).then_some(Cut { frame: 0..bytes.len(), taken: bytes.len() })),
            Framing::Fixed(size) => Ok((bytes.len() >= *size).then_some(Cut { frame: 0..*size, taken: *size })),
            Framing::LengthPrefixed(layout) => layout.cut(bytes),
            Framing::Varint(varint) => varint.cut(bytes),
            Framing::Delimited(delimited) => delimited.cut(bytes, scan),
            Framing::Resp(resp) => resp.cut(bytes, scan),
        }
    }

    /// Append `frame` as it goes over the wire. After an error nothing has been appended.
    pub fn encode(&self, frame: &[u8], into: &mut Vec<u8>) -> Result<(), FrameError> {
        let (before, after) = (self.before(frame)?, self.after());
        into.reserve(before.as_ref().len() + frame.len() + after.len());
        into.extend_from_slice(before.as_ref());
        into.extend_from_slice(frame);
        into.extend_from_slice(after);
        Ok(())
    }

    /// What goes before this frame; an error if it cannot be sent.
    pub fn before(&self, frame: &[u8]) -> Result<Head, FrameError> {
        match self {
            Framing::Raw => Ok(Head::default()),
            Framing::Fixed(size) if frame.len() == *size => Ok(Head::default()),
            Framing::Fixed(size) => Err(FrameError::wrong_size(frame.len(), *size)),
            Framing::LengthPrefixed(layout) => layout.before(frame),
            Framing::Varint(varint) => varint.before(frame),
            Framing::Delimited(delimited) => delimited.check(frame).map(|()| Head::default()),
            // The application composes replies; see `resp`.
            Framing::Resp(_) => Ok(Head::default()),
        }
    }

    /// What goes behind every frame.
    pub fn after(&self) -> &[u8] {
        match self {
            Framing::Delimited(delimited) => delimited.delimiter(),
            _ => &[],
        }
    }

    /// What a stream that ended is to be told of the bytes it left behind.
    pub fn truncated(&self, left: usize) -> Option<FrameError> {
        (left > 0).then(|| FrameError::truncated(left))
    }
}

/// The few bytes before a frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct Head {
    bytes: [u8; 16],
    len: u8,
}

impl Head {
    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
