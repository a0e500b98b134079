//! A length of 1, 2, 3, 4 or 8 bytes says how long the frame is.
//!
//! ```text
//! | offset bytes | length | body ... |      the length counts the body, or all of it (`counts_header`), plus `adjust`
//! ```
//!
//! What is before the length (a type, a magic word) and behind it belongs to the frame unless `strip` is set: then the
//! application is shown the body alone.

use super::{Cut, FrameError, Head};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    Big,
    Little,
}

/// The form of a length-prefixed frame. Made by [`LengthPrefixed::new`], which checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthPrefixed {
    header_bytes: u8,
    offset: u8,
    endian: Endian,
    counts_header: bool,
    /// Added to what the length says: trailing bytes that it does not count, or (negative) more that it does.
    adjust: i32,
    strip: bool,
    max_frame_bytes: usize,
}

/// Why there can be no such layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLayout(pub &'static str);

impl LengthPrefixed {
    const MAX_OFFSET: usize = 8;

    /// Big-endian, counting the body alone, at the frame's very start; the application is shown the body.
    pub fn new(header_bytes: usize, max_frame_bytes: usize) -> Result<Self, InvalidLayout> {
        if !matches!(header_bytes, 1 | 2 | 3 | 4 | 8) {
            return Err(InvalidLayout("header_bytes: a length has 1, 2, 3, 4 or 8 bytes"));
        }
        if max_frame_bytes == 0 || max_frame_bytes > u32::MAX as usize {
            return Err(InvalidLayout("max_frame_bytes: a number from 1 to 4294967295 is expected"));
        }
        Ok(LengthPrefixed {
            header_bytes: header_bytes as u8,
            offset: 0,
            endian: Endian::Big,
            counts_header: false,
            adjust: 0,
            strip: true,
            max_frame_bytes,
        })
    }

    pub fn endian(mut self, endian: Endian) -> Self {
        self.endian = endian;
        self
    }

    /// The length counts itself and what is before it, too.
    pub fn counts_header(mut self, counts: bool) -> Self {
        self.counts_header = counts;
        self
    }

    /// This many bytes before the length.
    pub fn offset(mut self, offset: usize) -> Result<Self, InvalidLayout> {
        if offset > Self::MAX_OFFSET {
            return Err(InvalidLayout("offset: at most 8 bytes can be before the length"));
        }
        self.offset = offset as u8;
        Ok(self)
    }

    pub fn adjust(mut self, adjust: i32) -> Self {
        self.adjust = adjust;
        self
    }

    /// Whether the application is shown the body alone. Not with an offset, whose bytes it must see and write.
    pub fn strip(mut self, strip: bool) -> Result<Self, InvalidLayout> {
        if strip && self.offset > 0 {
            return Err(InvalidLayout(
                "strip: what is before the length would be lost; with an offset frames are whole",
            ));
        }
        self.strip = strip;
        Ok(self)
    }

    fn head_bytes(&self) -> usize {
        usize::from(self.offset) + usize::from(self.header_bytes)
    }

    #[inline]
    pub(super) fn cut(&self, bytes: &[u8]) -> Result<Option<Cut>, FrameError> {
        let head = self.head_bytes();
        let Some(field) = bytes.get(usize::from(self.offset)..head) else { return Ok(None) };
        let total = self.total(read(field, self.endian))?;
        let start = if self.strip { head } else { 0 };
        Ok((bytes.len() >= total).then_some(Cut { frame: start..total, taken: total }))
    }

    /// The whole frame's bytes, head included, by what its length says.
    #[inline]
    fn total(&self, length: u64) -> Result<usize, FrameError> {
        let head = self.head_bytes();
        let counted = if self.counts_header { 0 } else { head as i128 };
        let total = i128::from(length) + counted + i128::from(self.adjust);
        if total < head as i128 {
            let text = format!("a length of {length}, which is less than the frame's own {head} bytes of head");
            return Err(FrameError::malformed(text));
        }
        let shown = total - if self.strip { head as i128 } else { 0 };
        if shown > self.max_frame_bytes as i128 {
            return Err(FrameError::too_long(u64::try_from(shown).unwrap_or(u64::MAX), self.max_frame_bytes));
        }
        Ok(total as usize)
    }

    /// The length before a body; a frame that is sent whole must have the right one already.
    pub(super) fn before(&self, frame: &[u8]) -> Result<Head, FrameError> {
        if frame.len() > self.max_frame_bytes {
            return Err(FrameError::too_long(frame.len() as u64, self.max_frame_bytes));
        }
        if !self.strip {
            return match self.cut(frame)? {
                Some(cut) if cut.taken == frame.len() => Ok(Head::default()),
                _ => Err(FrameError::malformed("a frame whose length does not tell its own size")),
            };
        }
        let counted = if self.counts_header { self.head_bytes() } else { 0 };
        let length = i128::from(frame.len() as u64) + counted as i128 - i128::from(self.adjust);
        let most = if self.header_bytes == 8 { u64::MAX } else { (1 << (8 * self.header_bytes)) - 1 };
        let length = u64::try_from(length).ok().filter(|&length| length <= most);
        let length = length.ok_or_else(|| {
            FrameError::malformed(format!(
                "a frame of {} bytes, whose length has no place in {} bytes",
                frame.len(),
                self.header_bytes
            ))
        })?;
        let (mut head, width) = (Head::default(), usize::from(self.header_bytes));
        match self.endian {
            Endian::Big => head.push(&length.to_be_bytes()[8 - width..]),
            Endian::Little => head.push(&length.to_le_bytes()[..width]),
        }
        Ok(head)
    }
}

#[inline]
fn read(field: &[u8], endian: Endian) -> u64 {
    let add = |length: u64, &byte: &u8| length << 8 | u64::from(byte);
    match endian {
        Endian::Big => field.iter().fold(0, add),
        Endian::Little => field.iter().rev().fold(0, add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(header_bytes: usize) -> LengthPrefixed {
        LengthPrefixed::new(header_bytes, 1000).unwrap()
    }

    fn cut(layout: &LengthPrefixed, bytes: &[u8]) -> Option<Vec<u8>> {
        layout.cut(bytes).unwrap().map(|cut| bytes[cut.frame].to_vec())
    }

    #[test]
    fn every_width_and_endianness_reads_what_it_wrote() {
        for width in [1, 2, 3, 4, 8] {
            for endian in [Endian::Big, Endian::Little] {
                for counts in [false, true] {
                    let layout = layout(width).endian(endian).counts_header(counts);
                    let mut wire = layout.before(b"body").unwrap().as_ref().to_vec();
                    assert_eq!(wire.len(), width);
                    wire.extend_from_slice(b"bodyNEXT");
                    assert_eq!(cut(&layout, &wire).as_deref(), Some(&b"body"[..]));
                    assert_eq!(cut(&layout, &wire[..width + 3]), None);
                }
            }
        }
    }

    #[test]
    fn what_precedes_the_length_is_shown_with_the_frame() {
        let layout = layout(2).offset(1).unwrap().strip(false).unwrap().adjust(1);
        // A type, a length of three, three bytes and a checksum that the length does not count.
        assert_eq!(cut(&layout, b"T\x00\x03abcCrest").as_deref(), Some(&b"T\x00\x03abcC"[..]));
        assert!(layout.before(b"T\x00\x03abcC").is_ok());
        assert!(layout.before(b"T\x00\x04abcC").is_err(), "its length would mislead the peer");
        assert!(layout.strip(true).is_err());
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_kept() {
        let error = layout(8).cut(&[0xff; 8]).unwrap_err();
        assert_eq!(error.kind, super::super::FrameErrorKind::TooLong);
        let error = layout(2).counts_header(true).cut(b"\x00\x01").unwrap_err();
        assert_eq!(error.kind, super::super::FrameErrorKind::Malformed);
        assert!(LengthPrefixed::new(1, 1000).unwrap().before(&[0; 256]).is_err(), "256 does not fit one byte");
        assert!(LengthPrefixed::new(5, 10).is_err());
    }
}
