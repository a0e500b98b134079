//! Request bodies: the same data at every split, the same verdict as a plain reading of RFC 9112, and progress always.

use penstock::protocol::http1::{BodyDecoder, BodyFraming, HttpError};

use crate::input::{Input, Splits};
use crate::naive::{self, Chunked};

/// What a decoder made of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reading {
    data: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    finished: bool,
    error: Option<HttpError>,
}

/// One byte chooses the framing, two the splits (and a length); the rest is what the peer sends.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, word) = (input.byte(), input.word());
    let bytes = input.rest();
    let framing = match kind % 4 {
        0 => BodyFraming::Length(u64::from(word)),
        1 => BodyFraming::Length(u64::MAX - u64::from(word)),
        _ => BodyFraming::Chunked,
    };
    let whole = read(framing, bytes, vec![bytes.len()]);
    assert_eq!(read(framing, bytes, Splits::new(word).ends(bytes.len())), whole, "split by {word}");
    if bytes.len() <= 512 {
        assert_eq!(read(framing, bytes, (1..=bytes.len()).collect()), whole, "byte by byte");
    }
    match framing {
        BodyFraming::Length(length) => check_length(&whole, bytes, length),
        _ => check_chunked(&whole, bytes),
    }
}

fn read(framing: BodyFraming, bytes: &[u8], ends: Vec<usize>) -> Reading {
    let (mut decoder, mut reading) = (BodyDecoder::new(framing), Reading::default());
    for end in ends {
        while reading.consumed < end && !reading.finished {
            let piece = &bytes[reading.consumed..end];
            let decoded = match decoder.decode(piece) {
                Ok(decoded) => decoded,
                Err(error) => {
                    // Where in a piece the fault was found is no part of the outcome.
                    return Reading { error: Some(error), consumed: 0, trailers: Vec::new(), ..reading };
                }
            };
            assert!(decoded.consumed > 0 || decoded.finished, "no progress");
            assert!(decoded.consumed <= piece.len() && decoded.data.end <= decoded.consumed);
            assert!(decoded.trailers.is_empty() || decoded.trailers.end <= decoded.consumed);
            reading.data.extend_from_slice(&piece[decoded.data]);
            reading.trailers.extend_from_slice(&piece[decoded.trailers]);
            reading.consumed += decoded.consumed;
            reading.finished = decoded.finished;
        }
    }
    if reading.finished {
        let after = decoder.decode(b"GET / HTTP/1.1").expect("nothing is wrong after the end");
        assert!(after.consumed == 0 && after.data.is_empty() && after.finished, "the next request was touched");
    }
    reading
}

fn check_length(reading: &Reading, bytes: &[u8], length: u64) {
    let there = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    assert_eq!((reading.error, &reading.data[..]), (None, &bytes[..there]));
    if !bytes.is_empty() {
        assert_eq!(reading.finished, there as u64 == length);
    }
}

fn check_chunked(reading: &Reading, bytes: &[u8]) {
    if matches!(reading.error, Some(HttpError::CHUNK_EXTENSIONS_TOO_LARGE | HttpError::TRAILERS_TOO_LARGE)) {
        return;
    }
    match naive::chunked(bytes) {
        Chunked::Bad => assert!(reading.error.is_some(), "a bad body was taken"),
        Chunked::Partial(data) => assert_eq!((reading.error, reading.finished, &reading.data), (None, false, &data)),
        Chunked::Whole(data, length) => {
            assert_eq!((reading.error, reading.finished, reading.consumed), (None, true, length));
            assert_eq!(reading.data, data);
            assert!(bytes[..length].ends_with(&reading.trailers) && reading.trailers.ends_with(b"\r\n"));
        }
    }
}
