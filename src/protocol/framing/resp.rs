//! RESP, the Redis serialization protocol: requests are arrays of bulk strings, or a line of words (an inline command).
//!
//! A frame is one request. [`arguments`] goes through a whole one; replies are written by the functions below.

use std::ops::Range;

use memchr::memchr;

use super::{Cut, FrameError, Scan};

/// A line of words, or the line that tells a number, has at most this many bytes (redis-server's own bound).
const MAX_LINE_BYTES: usize = 64 * 1024;
const MAX_NUMBER_LINE_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resp {
    pub max_frame_bytes: usize,
    pub max_arguments: u32,
}

impl Resp {
    pub(super) fn cut(&self, bytes: &[u8], scan: &mut Scan) -> Result<Option<Cut>, FrameError> {
        match bytes.first() {
            None => Ok(None),
            Some(b'*') => self.cut_array(bytes, scan),
            Some(_) => self.cut_inline(bytes, scan),
        }
    }

    fn cut_inline(&self, bytes: &[u8], scan: &mut Scan) -> Result<Option<Cut>, FrameError> {
        let most = MAX_LINE_BYTES.min(self.max_frame_bytes);
        match memchr(b'\n', &bytes[(scan.at as usize).min(bytes.len())..]) {
            Some(at) if scan.at as usize + at <= most => {
                let end = scan.at as usize + at;
                Ok(Some(Cut { frame: 0..end, taken: end + 1 }))
            }
            None if bytes.len() <= most => {
                scan.at = bytes.len() as u32;
                Ok(None)
            }
            _ => Err(FrameError::endless(most)),
        }
    }

    fn cut_array(&self, bytes: &[u8], scan: &mut Scan) -> Result<Option<Cut>, FrameError> {
        let mut at = scan.at as usize;
        if at == 0 {
            let Some((count, next)) = number(bytes, 0, b'*')? else { return Ok(None) };
            let count = count.max(0) as u64;
            if count > u64::from(self.max_arguments) {
                let most = self.max_arguments;
                return Err(FrameError::malformed(format!("{count} arguments, expected at most {most}")));
            }
            (at, scan.left) = (next, count as u32);
            scan.at = at as u32;
        }
        while scan.left > 0 {
            let Some((length, next)) = number(bytes, at, b'$')? else { return Ok(None) };
            let length = usize::try_from(length)
                .map_err(|_| FrameError::malformed(format!("a bulk string of {length} bytes")))?;
            let end = next.saturating_add(length);
            if end > self.max_frame_bytes {
                return Err(FrameError::too_long(end as u64, self.max_frame_bytes));
            }
            let Some(ending) = bytes.get(end..end + 2) else { return Ok(None) };
            if ending != b"\r\n" {
                return Err(FrameError::malformed("a bulk string that CR LF does not follow"));
            }
            (at, scan.left) = (end + 2, scan.left - 1);
            scan.at = at as u32;
        }
        Ok(Some(Cut { frame: 0..at, taken: at }))
    }
}

/// The number of a line such as `*3`, and where the next line begins; `None` while it is not whole.
#[inline]
fn number(bytes: &[u8], at: usize, kind: u8) -> Result<Option<(i64, usize)>, FrameError> {
    let line = &bytes[at..];
    let Some(&first) = line.first() else { return Ok(None) };
    if first != kind {
        return Err(FrameError::malformed(format!("expected '{}', got byte {first:#04x}", char::from(kind))));
    }
    // Nearly all are one or two digits.
    if let [_, digit @ b'0'..=b'9', b'\r', b'\n', ..] = line {
        return Ok(Some((i64::from(digit - b'0'), at + 4)));
    }
    let within = &line[..line.len().min(MAX_NUMBER_LINE_BYTES)];
    let Some(end) = memchr(b'\n', within) else {
        return if within.len() < MAX_NUMBER_LINE_BYTES { Ok(None) } else { Err(not_a_number()) };
    };
    let digits = line[1..end].strip_suffix(b"\r").ok_or_else(not_a_number)?;
    let text = std::str::from_utf8(digits).map_err(|_| not_a_number())?;
    let value = text.parse().map_err(|_| not_a_number())?;
    Ok(Some((value, at + end + 1)))
}

fn not_a_number() -> FrameError {
    FrameError::malformed("expected a decimal number and CR LF")
}

/// The arguments of one whole request, as ranges of it.
pub fn arguments(request: &[u8]) -> Arguments<'_> {
    let is_array = request.first() == Some(&b'*');
    let at = if is_array { number(request, 0, b'*').ok().flatten().map_or(request.len(), |(_, next)| next) } else { 0 };
    Arguments { request, at, is_array }
}

pub struct Arguments<'a> {
    request: &'a [u8],
    at: usize,
    is_array: bool,
}

impl Arguments<'_> {
    fn next_word(&mut self) -> Option<Range<usize>> {
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let start = self.at + self.request[self.at..].iter().position(|byte| !is_space(byte))?;
        let end = self.request[start..].iter().position(is_space).map_or(self.request.len(), |length| start + length);
        self.at = end;
        Some(start..end)
    }
}

impl Iterator for Arguments<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        if !self.is_array {
            return self.next_word();
        }
        let (length, start) = number(self.request, self.at, b'$').ok().flatten()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.at = end + 2;
        (end <= self.request.len()).then_some(start..end)
    }
}

/// `+OK`. A line break would end it early, so there must be none.
pub fn write_simple(into: &mut Vec<u8>, text: &[u8]) -> Result<(), FrameError> {
    write_line(into, b'+', text)
}

/// `-ERR what was wrong`
pub fn write_error(into: &mut Vec<u8>, text: &[u8]) -> Result<(), FrameError> {
    write_line(into, b'-', text)
}

fn write_line(into: &mut Vec<u8>, kind: u8, text: &[u8]) -> Result<(), FrameError> {
    if memchr::memchr2(b'\r', b'\n', text).is_some() {
        return Err(FrameError::malformed("a line break within a simple string or an error"));
    }
    into.push(kind);
    into.extend_from_slice(text);
    into.extend_from_slice(b"\r\n");
    Ok(())
}

pub fn write_integer(into: &mut Vec<u8>, value: i64) {
    write_number(into, b':', value);
}

pub fn write_bulk(into: &mut Vec<u8>, bytes: &[u8]) {
    write_number(into, b'$', bytes.len() as i64);
    into.extend_from_slice(bytes);
    into.extend_from_slice(b"\r\n");
}

pub fn write_null(into: &mut Vec<u8>) {
    into.extend_from_slice(b"$-1\r\n");
}

pub fn write_array_head(into: &mut Vec<u8>, count: usize) {
    write_number(into, b'*', count as i64);
}

fn write_number(into: &mut Vec<u8>, kind: u8, value: i64) {
    into.push(kind);
    into.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESP: Resp = Resp { max_frame_bytes: 1000, max_arguments: 10 };

    fn words(bytes: &[u8]) -> Vec<Vec<u8>> {
        let cut = RESP.cut(bytes, &mut Scan::default()).unwrap().unwrap();
        let frame = &bytes[cut.frame];
        arguments(frame).map(|word| frame[word].to_vec()).collect()
    }

    #[test]
    fn arrays_and_inline_commands_are_lists_of_arguments() {
        assert_eq!(words(b"*2\r\n$3\r\nGET\r\n$13\r\nkey\r\nof \r\n 12\r\nrest"), [&b"GET"[..], b"key\r\nof \r\n 12"]);
        assert_eq!(words(b"  PING   hello\r\n"), [&b"PING"[..], b"hello"]);
        assert!(words(b"*0\r\n").is_empty() && words(b"\r\n").is_empty() && words(b"*-1\r\n").is_empty());
    }

    #[test]
    fn a_request_that_drips_is_found_when_it_is_whole() {
        let wire = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n";
        let mut scan = Scan::default();
        for end in 0..wire.len() {
            assert_eq!(RESP.cut(&wire[..end], &mut scan).unwrap(), None, "{end}");
        }
        assert_eq!(RESP.cut(wire, &mut scan).unwrap().unwrap().taken, wire.len());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for wire in [
            &b"*1\r\n+OK\r\n"[..],
            b"*x\r\n",
            b"*11\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$2\r\nabc\r\n",
            b"*1\r\n$2000\r\n",
            b"*1\n$1\r\na\r\n",
            b"*99999999999999999999999999999999999",
        ] {
            assert!(RESP.cut(wire, &mut Scan::default()).is_err(), "{:?}", String::from_utf8_lossy(wire));
        }
        assert!(RESP.cut(&[b'a'; 1001], &mut Scan::default()).is_err());
    }
}
