//! HTTP/1.1, the server's side (RFC 9110, RFC 9112), as functions of bytes: nothing here waits, reads or sends.
//!
//! The path of one request, whose bytes the connection owns throughout:
//!
//! 1. [`HeadScanner::find_end`] looks for the empty line that ends the head, however the head is dripped.
//! 2. [`RequestHead::parse`] fills a reusable head with [`Span`]s into those bytes, and decides the framing.
//! 3. [`BodyDecoder::decode`] finds the body's data within the bytes that follow.
//! 4. [`ResponseHead`] writes the response's head into the output buffer, and [`BodyWriter`] its body.
//!
//! Peers are hostile. What two implementations could read differently (a bare line feed, two lengths, a folded
//! line) is refused, never repaired: a repaired message is how requests are smuggled past a proxy. After an
//! [`HttpError`] the place where the next request begins is unknown, so the connection must be closed.

mod body;
mod error;
pub mod forwarded;
mod head;
mod response;

pub use body::{BodyDecoder, ChunkedDecoder, Decoded};
pub use error::HttpError;
pub use head::{BodyFraming, HeadScanner, RequestHead, TargetForm};
pub use response::{
    BodyMode, BodyWriter, CONTINUE, DateCache, DateText, ResponseContext, ResponseError, ResponseFraming, ResponseHead,
    error_response, is_reason, reason_phrase, write_chunk, write_chunk_head, write_last_chunk, write_trailer,
};

/// What a request's head may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte to the empty line's end. More is answered with 431, or 414 while in the request line.
    /// At most [`Limits::MOST_HEAD_BYTES`] whatever is set.
    pub max_head_bytes: usize,
    /// Header lines; more is answered with 431. At most [`Limits::MOST_HEADERS`] whatever is set.
    pub max_headers: usize,
    /// The request's target; more is answered with 414.
    pub max_target_bytes: usize,
}

impl Limits {
    /// Spans have 32 bits.
    pub const MOST_HEAD_BYTES: usize = 1 << 30;
    /// Headers are tokenised into an array on the stack, of this many entries.
    pub const MOST_HEADERS: usize = 256;

    #[inline]
    fn head_bytes(&self) -> usize {
        self.max_head_bytes.min(Self::MOST_HEAD_BYTES)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_head_bytes: 32 * 1024, max_headers: 100, max_target_bytes: 8 * 1024 }
    }
}

/// Where a piece of a head lies within its bytes. It outlives a move of those bytes, and costs half a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub const EMPTY: Span = Span { start: 0, end: 0 };

    pub const fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Span { start: start as u32, end: end as u32 }
    }

    /// Where `part` lies within `whole`, of which it must be a slice.
    #[inline]
    fn locate(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        debug_assert!(start + part.len() <= whole.len());
        Span::new(start, start + part.len())
    }

    /// The piece itself, out of the bytes that the span was taken from.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    pub const fn start(self) -> usize {
        self.start as usize
    }

    pub const fn end(self) -> usize {
        self.end as usize
    }

    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// `tchar` of RFC 9110 section 5.6.2: what methods and header names are made of.
const TOKEN_BYTES: [bool; 256] = byte_set(b"!#$%&'*+-.^_`|~");

/// A table that holds the letters, the digits and `others`.
const fn byte_set(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN_BYTES[byte as usize])
}

/// What a header's value may contain (RFC 9110 section 5.5): no control but the horizontal tab.
#[inline]
fn is_value_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// A decimal length: digits alone, no sign, no list. `None` if it is anything else; `Some(None)` if too large.
pub(crate) fn parse_length(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))))
}

/// The members of a comma-separated list, without the white space around them; empty ones are left out.
fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_finds_its_piece_again_after_the_bytes_have_moved() {
        let bytes = b"GET /path".to_vec();
        let span = Span::locate(&bytes[4..9], &bytes);
        let moved = bytes.clone();
        assert_eq!((span.of(&moved), span.len(), span.is_empty()), (&b"/path"[..], 5, false));
    }

    #[test]
    fn a_length_is_digits_alone() {
        for bad in [&b""[..], b"+1", b"-1", b"1,1", b"1 ", b"0x1", b"1.0", "\u{661}".as_bytes()] {
            assert_eq!(parse_length(bad), None, "{bad:?}");
        }
        assert_eq!(parse_length(b"0042"), Some(Some(42)));
        assert_eq!(parse_length(b"18446744073709551615"), Some(Some(u64::MAX)));
        assert_eq!(parse_length(b"18446744073709551616"), Some(None));
    }

    #[test]
    fn a_list_yields_its_members_without_blanks() {
        let members: Vec<_> = list_members(b" close ,, Upgrade\t,").collect();
        assert_eq!(members, [&b"close"[..], b"Upgrade"]);
    }
}
