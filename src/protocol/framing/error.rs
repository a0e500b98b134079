//! What can be wrong with a frame: of which kind, for counters and handlers, and in one sentence.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameErrorKind {
    /// Longer than the protocol allows.
    TooLong,
    /// Not in the protocol's form.
    Malformed,
    /// The stream ended within it.
    Truncated,
}

impl FrameErrorKind {
    pub const fn name(self) -> &'static str {
        match self {
            FrameErrorKind::TooLong => "too_long",
            FrameErrorKind::Malformed => "malformed",
            FrameErrorKind::Truncated => "truncated",
        }
    }
}

/// Why a stream cannot go on, or a frame cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    pub kind: FrameErrorKind,
    text: String,
}

impl FrameError {
    pub fn malformed(text: impl Into<String>) -> Self {
        FrameError { kind: FrameErrorKind::Malformed, text: text.into() }
    }

    pub fn too_long(length: u64, most: usize) -> Self {
        let text = format!("a frame of {length} bytes, expected at most {most} (max_frame_bytes)");
        FrameError { kind: FrameErrorKind::TooLong, text }
    }

    /// No end of the frame within what one may have.
    pub fn endless(most: usize) -> Self {
        let text = format!("no end of a frame within {most} bytes (max_frame_bytes)");
        FrameError { kind: FrameErrorKind::TooLong, text }
    }

    pub fn wrong_size(length: usize, size: usize) -> Self {
        FrameError::malformed(format!("a frame of {length} bytes, expected exactly {size}"))
    }

    pub fn truncated(left: usize) -> Self {
        let text = format!("the stream ended within a frame, after {left} bytes of it");
        FrameError { kind: FrameErrorKind::Truncated, text }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for FrameError {}
