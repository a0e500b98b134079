//! A BodyDecoder finds a request body's data within the bytes that follow the head. It copies and keeps none.

use std::ops::Range;

use super::{BodyFraming, HttpError, TOKEN_BYTES, is_value_byte};

/// 16 hexadecimal digits are 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;
/// Chunk extensions may outweigh the data by this much: each costs a peer bytes, and us time, for nothing.
const MAX_EXTENSION_DEBT_BYTES: u64 = 16 * 1024;
/// The trailer section, from after the last chunk to the empty line's end.
const MAX_TRAILER_BYTES: u32 = 8 * 1024;

/// What one call of [`BodyDecoder::decode`] found. The ranges are within its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with. At least one, unless the input is empty or the body finished.
    pub consumed: usize,
    /// Bytes of the body.
    pub data: Range<usize>,
    /// A piece of the trailer section: valid lines as they came, to be ignored or to be collected until `finished`.
    pub trailers: Range<usize>,
    /// The body is whole; what follows `consumed` is the next request.
    pub finished: bool,
}

/// Decodes one request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyDecoder {
    Length { remaining: u64 },
    Chunked(ChunkedDecoder),
}

impl BodyDecoder {
    pub fn new(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None => BodyDecoder::Length { remaining: 0 },
            BodyFraming::Length(length) => BodyDecoder::Length { remaining: length },
            BodyFraming::Chunked => BodyDecoder::Chunked(ChunkedDecoder::default()),
        }
    }

    /// Look at `input`, which begins where the last call's `consumed` ended, up to the next piece of data's end.
    ///
    /// Called until the input is consumed or the body has finished; each call costs what it consumes. How much
    /// data a body may have in all is the caller's to bound. After an error the decoder is not to be used.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, HttpError> {
        match self {
            BodyDecoder::Length { remaining } => {
                let taken = take(remaining, input.len());
                Ok(Decoded { consumed: taken, data: 0..taken, finished: *remaining == 0, ..Decoded::default() })
            }
            BodyDecoder::Chunked(decoder) => decoder.decode(input),
        }
    }
}

/// Count off as many as there are, of `available` ones.
fn take(remaining: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*remaining).map_or(available, |remaining| remaining.min(available));
    *remaining -= taken as u64;
    taken
}

/// Which byte comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A digit of the size; after the first, also `;` or the line's end.
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A trailer's first byte, or the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Finished,
}

/// The chunked coding (RFC 9112 section 7.1), across any split of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: State,
    size_digits: u8,
    trailer_bytes: u32,
    /// The size while it is read, then what is left of the chunk.
    remaining: u64,
    /// Bytes of extensions that no data has paid for yet.
    extension_debt_bytes: u64,
}

impl ChunkedDecoder {
    fn decode(&mut self, input: &[u8]) -> Result<Decoded, HttpError> {
        let mut at = 0;
        // Where a call begins inside the section, so does its piece.
        let mut trailers_at = (self.trailer_bytes > 0).then_some(0);
        while at < input.len() && self.state != State::Finished {
            if self.state == State::Data {
                let taken = take(&mut self.remaining, input.len() - at);
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Decoded { consumed: at + taken, data: at..at + taken, ..Decoded::default() });
            }
            if self.state == State::TrailerStart {
                trailers_at.get_or_insert(at);
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        let trailers = trailers_at.unwrap_or(at)..at;
        Ok(Decoded { consumed: at, trailers, finished: self.state == State::Finished, ..Decoded::default() })
    }

    /// Take one byte of anything but data.
    #[inline]
    fn step(&mut self, byte: u8) -> Result<State, HttpError> {
        match self.state {
            State::Size => self.step_size(byte),
            State::Extension => self.step_extension(byte),
            State::SizeLf => self.end_size(byte),
            State::DataCr => expect(byte, b'\r', State::DataLf, HttpError::BAD_CHUNK_END),
            State::DataLf => expect(byte, b'\n', State::Size, HttpError::BAD_CHUNK_END),
            _ => self.step_trailer(byte),
        }
    }

    fn step_size(&mut self, byte: u8) -> Result<State, HttpError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.size_digits > 0 => return Ok(State::SizeLf),
            b';' if self.size_digits > 0 => return Ok(State::Extension),
            _ => return Err(HttpError::BAD_CHUNK_SIZE),
        };
        if self.size_digits == MAX_SIZE_DIGITS {
            return Err(HttpError::BAD_CHUNK_SIZE);
        }
        self.size_digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn step_extension(&mut self, byte: u8) -> Result<State, HttpError> {
        if byte == b'\r' {
            return Ok(State::SizeLf);
        }
        if !is_value_byte(byte) {
            return Err(HttpError::BAD_CHUNK_EXTENSION);
        }
        self.extension_debt_bytes += 1;
        if self.extension_debt_bytes > MAX_EXTENSION_DEBT_BYTES {
            return Err(HttpError::CHUNK_EXTENSIONS_TOO_LARGE);
        }
        Ok(State::Extension)
    }

    fn end_size(&mut self, byte: u8) -> Result<State, HttpError> {
        let error =
            if self.extension_debt_bytes > 0 { HttpError::BAD_CHUNK_EXTENSION } else { HttpError::BAD_CHUNK_SIZE };
        self.size_digits = 0;
        self.extension_debt_bytes = self.extension_debt_bytes.saturating_sub(self.remaining);
        let next = if self.remaining == 0 { State::TrailerStart } else { State::Data };
        expect(byte, b'\n', next, error)
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, HttpError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > MAX_TRAILER_BYTES {
            return Err(HttpError::TRAILERS_TOO_LARGE);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerStart | State::TrailerName, _) if TOKEN_BYTES[byte as usize] => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Finished),
            _ => Err(HttpError::BAD_TRAILER),
        }
    }
}

#[inline]
fn expect(byte: u8, wanted: u8, next: State, error: HttpError) -> Result<State, HttpError> {
    if byte == wanted { Ok(next) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, the trailers and the unconsumed rest, given `input` in pieces of `piece` bytes.
    fn decode_all(framing: BodyFraming, input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, bool), HttpError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut data, mut trailers, mut finished) = (Vec::new(), Vec::new(), false);
        for mut bytes in input.chunks(piece) {
            while !bytes.is_empty() && !finished {
                let decoded = decoder.decode(bytes)?;
                assert!(decoded.consumed > 0 || decoded.finished, "no progress");
                data.extend_from_slice(&bytes[decoded.data]);
                trailers.extend_from_slice(&bytes[decoded.trailers]);
                finished = decoded.finished;
                bytes = &bytes[decoded.consumed..];
            }
        }
        Ok((data, trailers, finished))
    }

    fn chunked_error(input: &[u8]) -> Option<HttpError> {
        let whole = decode_all(BodyFraming::Chunked, input, input.len()).err();
        assert_eq!(decode_all(BodyFraming::Chunked, input, 1).err(), whole, "dripped: {input:?}");
        whole
    }

    #[test]
    fn a_body_of_a_length_ends_where_the_next_request_begins() {
        let mut decoder = BodyDecoder::new(BodyFraming::Length(5));
        let first = decoder.decode(b"abc").unwrap();
        assert_eq!((first.data, first.consumed, first.finished), (0..3, 3, false));
        let second = decoder.decode(b"deGET /").unwrap();
        assert_eq!((second.data, second.consumed, second.finished), (0..2, 2, true));
    }

    #[test]
    fn no_body_is_finished_before_its_first_byte() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let decoded = BodyDecoder::new(framing).decode(b"GET /").unwrap();
            assert_eq!((decoded.consumed, decoded.data.len(), decoded.finished), (0, 0, true));
        }
    }

    #[test]
    fn chunks_extensions_and_trailers_are_told_apart_at_every_split() {
        let input = b"5\r\nhello\r\n6;name=\"v\"\r\n world\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\n";
        for piece in 1..=input.len() {
            let (data, trailers, finished) = decode_all(BodyFraming::Chunked, input, piece).unwrap();
            assert_eq!((data.as_slice(), finished), (&b"hello world"[..], true), "pieces of {piece}");
            assert_eq!(trailers, b"X-Sum: 1\r\nY:\r\n\r\n", "pieces of {piece}");
        }
    }

    #[test]
    fn a_chunk_of_the_largest_size_does_not_overflow() {
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        let input = b"ffffffffffffffff\r\nabc";
        let decoded = decoder.decode(input).unwrap();
        assert_eq!((decoded.data, decoded.consumed), (18..21, 21));
        let BodyDecoder::Chunked(chunked) = decoder else { panic!("chunked") };
        assert_eq!(chunked.remaining, u64::MAX - 3);
    }

    #[test]
    fn sizes_that_others_might_read_differently_are_refused() {
        let cases: &[&[u8]] = &[
            b"\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"+5\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"g\r\n",
            b"5\n",
            b";x\r\n",
            b"5\rx",
            b"10000000000000000\r\n",
            b"00000000000000005\r\n",
            b"5\t;x\r\n",
            b"1_0\r\n",
        ];
        for case in cases {
            assert_eq!(chunked_error(case), Some(HttpError::BAD_CHUNK_SIZE), "{case:?}");
        }
    }

    #[test]
    fn a_chunk_must_end_where_its_size_says() {
        for case in [&b"2\r\nabc\r\n"[..], b"2\r\nab\n", b"2\r\nab\rX", b"2\r\nab0\r\n\r\n"] {
            assert_eq!(chunked_error(case), Some(HttpError::BAD_CHUNK_END), "{case:?}");
        }
    }

    #[test]
    fn extensions_hold_no_controls_and_may_not_outweigh_the_data() {
        for case in [&b"1;a\nb\r\n"[..], b"1;a\0\r\n", b"1;a\rb"] {
            assert_eq!(chunked_error(case), Some(HttpError::BAD_CHUNK_EXTENSION), "{case:?}");
        }
        let long = [&b"1;"[..], &[b'x'; MAX_EXTENSION_DEBT_BYTES as usize + 1]].concat();
        assert_eq!(chunked_error(&long), Some(HttpError::CHUNK_EXTENSIONS_TOO_LARGE));
        let many = b"1;0123456789\r\na\r\n".repeat(2000);
        assert_eq!(chunked_error(&many), Some(HttpError::CHUNK_EXTENSIONS_TOO_LARGE));
        let paid_for = b"a;0123456789\r\n0123456789\r\n".repeat(4000);
        assert_eq!(chunked_error(&paid_for), None);
    }

    #[test]
    fn trailers_are_checked_and_bounded() {
        for case in [
            &b"0\r\n: v\r\n\r\n"[..],
            b"0\r\n folded\r\n\r\n",
            b"0\r\nName : v\r\n\r\n",
            b"0\r\nName\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\rC",
            b"0\r\nA: \0\r\n\r\n",
            b"0\r\n\rX",
            b"0\r\n\n",
        ] {
            assert_eq!(chunked_error(case), Some(HttpError::BAD_TRAILER), "{case:?}");
        }
        let large = [&b"0\r\n"[..], &b"A: b\r\n".repeat(2000)].concat();
        assert_eq!(chunked_error(&large), Some(HttpError::TRAILERS_TOO_LARGE));
    }

    #[test]
    fn the_bytes_of_the_next_request_are_left_alone() {
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        let decoded = decoder.decode(b"0\r\n\r\nGET / HTTP/1.1").unwrap();
        assert_eq!((decoded.consumed, decoded.finished), (5, true));
        let after = decoder.decode(b"GET /").unwrap();
        assert_eq!((after.consumed, after.data.len(), after.trailers.len(), after.finished), (0, 0, 0, true));
    }
}
