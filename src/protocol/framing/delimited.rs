//! A delimiter ends every frame. A line is one that ends with LF; a CR before it is no part of it.

use super::{Cut, FrameError, Scan};

#[derive(Clone, Debug)]
pub struct Delimited {
    delimiter: Box<[u8]>,
    /// Boxed: it wants the alignment of vectors, which objects of an interpreter do not give.
    finder: Box<memchr::memmem::Finder<'static>>,
    drops_cr: bool,
    max_frame_bytes: usize,
}

impl Delimited {
    /// `None`: a delimiter has 1 to 16 bytes.
    pub fn by(delimiter: &[u8], max_frame_bytes: usize) -> Option<Self> {
        (1..=16).contains(&delimiter.len()).then(|| Delimited {
            delimiter: delimiter.into(),
            finder: Box::new(memchr::memmem::Finder::new(delimiter).into_owned()),
            drops_cr: false,
            max_frame_bytes,
        })
    }

    pub fn lines(max_frame_bytes: usize) -> Self {
        let mut lines = Self::by(b"\n", max_frame_bytes).expect("one byte is a delimiter");
        lines.drops_cr = true;
        lines
    }

    pub fn delimiter(&self) -> &[u8] {
        &self.delimiter
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match *self.delimiter {
            [byte] => memchr::memchr(byte, bytes),
            _ => self.finder.find(bytes),
        }
    }

    pub(super) fn cut(&self, bytes: &[u8], scan: &mut Scan) -> Result<Option<Cut>, FrameError> {
        // What can be a frame at all: an end beyond it is not looked for.
        let within = bytes.len().min(self.max_frame_bytes + self.delimiter.len() + usize::from(self.drops_cr));
        let from = (scan.at as usize).min(within);
        match self.find(&bytes[from..within]) {
            Some(found) => {
                let end = from + found;
                let shown = if self.drops_cr && bytes[..end].ends_with(b"\r") { end - 1 } else { end };
                if shown > self.max_frame_bytes {
                    return Err(FrameError::too_long(shown as u64, self.max_frame_bytes));
                }
                Ok(Some(Cut { frame: 0..shown, taken: end + self.delimiter.len() }))
            }
            None if within < bytes.len() => Err(FrameError::endless(self.max_frame_bytes)),
            None => {
                // A delimiter may have begun.
                scan.at = (within + 1).saturating_sub(self.delimiter.len()) as u32;
                Ok(None)
            }
        }
    }

    /// A frame that holds its own delimiter would be two to the peer.
    pub(super) fn check(&self, frame: &[u8]) -> Result<(), FrameError> {
        if frame.len() > self.max_frame_bytes {
            return Err(FrameError::too_long(frame.len() as u64, self.max_frame_bytes));
        }
        let holds = self.find(frame).is_some();
        // Its end and the delimiter's beginning may make one, too ("ab" + "\r" before "\r\n" does not).
        let crosses = (1..self.delimiter.len()).any(|part| {
            let (end, rest) = self.delimiter.split_at(part);
            frame.ends_with(end) && self.delimiter.starts_with(rest)
        });
        if holds || crosses {
            return Err(FrameError::malformed("a frame that holds the delimiter: the peer would take it for two"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(delimited: &Delimited, bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut found, mut start, mut scan) = (Vec::new(), 0, Scan::default());
        for end in (step..=bytes.len()).step_by(step) {
            while let Some(cut) = delimited.cut(&bytes[start..end], &mut scan).unwrap() {
                found.push(bytes[start..end][cut.frame].to_vec());
                (start, scan) = (start + cut.taken, Scan::default());
            }
        }
        found
    }

    #[test]
    fn a_delimiter_is_found_however_the_bytes_arrive() {
        let delimited = Delimited::by(b"\r\n.\r\n", 100).unwrap();
        for step in 1..5 {
            let wire = b"one\r\n.\r\n\r\n.\r\ntwo\r\n\r\n.\r\n   ";
            assert_eq!(frames(&delimited, wire, step), [&b"one"[..], b"", b"two\r\n"], "{step} at a time");
        }
    }

    #[test]
    fn lines_end_with_or_without_a_carriage_return() {
        assert_eq!(frames(&Delimited::lines(10), b"a\r\nb\n\n\r\n", 1), [&b"a"[..], b"b", b"", b""]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_its_bound() {
        let lines = Delimited::lines(4);
        assert!(lines.cut(b"12345", &mut Scan::default()).unwrap().is_none(), "the fifth may be a CR");
        assert!(lines.cut(b"12345\n", &mut Scan::default()).is_err());
        assert!(lines.cut(b"1234567", &mut Scan::default()).is_err());
        assert!(lines.cut(b"1234\r\n", &mut Scan::default()).unwrap().is_some());
    }

    #[test]
    fn a_frame_with_a_delimiter_in_it_is_not_sent() {
        let delimited = Delimited::by(b"--", 100).unwrap();
        assert!(delimited.check(b"a-b").is_ok());
        assert!(delimited.check(b"a--b").is_err());
        assert!(delimited.check(b"a-").is_err(), "a- and -- are a, -- and -");
    }
}
