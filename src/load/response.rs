//! A ResponseReader finds where each HTTP/1.1 response ends. It takes bytes, knows no socket, and keeps no body.
//!
//! A server's responses mostly open with the same head, byte for byte: one that equals the last one parsed is
//! recognised by comparing, which is why the client can be lighter than the servers.

use super::run::{Answer, Malformed};

/// A head or a chunk-size line longer than this is refused.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_LINE_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    framing: Framing,
    last: bool,
}

/// The head that was parsed last, as bytes and as what they mean. Shared by all readers of one target.
#[derive(Default, Debug)]
pub struct KnownHead(Option<(Vec<u8>, Head)>);

impl KnownHead {
    /// The known head and its length, if `input` opens with it.
    fn recognise(&self, input: &[u8]) -> Option<(Head, usize)> {
        let (bytes, head) = self.0.as_ref()?;
        input.starts_with(bytes).then_some((*head, bytes.len()))
    }

    fn remember(&mut self, bytes: &[u8], head: Head) {
        let (kept, meaning) = self.0.get_or_insert_with(|| (Vec::new(), head));
        kept.clear();
        kept.extend_from_slice(bytes);
        *meaning = head;
    }
}

#[derive(Clone, Copy, Default, Debug)]
enum State {
    #[default]
    Head,
    Body {
        left: u64,
    },
    ChunkSize,
    ChunkData {
        left: u64,
    },
    ChunkEnd,
    Trailers,
}

/// Where one connection stands in its present response.
#[derive(Default, Debug)]
pub struct ResponseReader {
    state: State,
    /// What came of a head or line that is not whole yet.
    partial: Vec<u8>,
    status: u16,
    body_bytes: u64,
    last: bool,
}

impl ResponseReader {
    /// Read from the front of `input`, up to the end of one response: how much was taken, and the response if it
    /// is whole. Without one, everything was taken.
    pub fn read(&mut self, input: &[u8], known: &mut KnownHead) -> Result<(usize, Option<Answer>), Malformed> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.state {
                State::Head => match self.read_head(rest, known)? {
                    (taken, Some(head)) => {
                        at += taken;
                        self.begin_body(head);
                    }
                    (taken, None) => return Ok((at + taken, None)),
                },
                State::Body { left } => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = State::Body { left: left - taken };
                    return Ok((at, (taken == left).then(|| self.finish())));
                }
                State::ChunkData { left } => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if taken == left { State::ChunkEnd } else { State::ChunkData { left: left - taken } };
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let (taken, whole) = self.read_line(rest)?;
                    at += taken;
                    if whole && self.end_line()? {
                        return Ok((at, Some(self.finish())));
                    }
                }
            }
            if at == input.len() && !matches!(self.state, State::Body { left: 0 }) {
                return Ok((at, None));
            }
        }
    }

    /// Take a whole head: compared if nothing of it is kept, else parsed.
    fn read_head(&mut self, input: &[u8], known: &mut KnownHead) -> Result<(usize, Option<Head>), Malformed> {
        if self.partial.is_empty() {
            if let Some((head, taken)) = known.recognise(input) {
                return Ok((taken, Some(head)));
            }
            if let Some((head, taken)) = parse_head(input)? {
                known.remember(&input[..taken], head);
                return Ok((taken, Some(head)));
            }
        }
        let kept = self.partial.len();
        if kept + input.len() > MAX_HEAD_BYTES {
            return Err(Malformed(format!("a response's head of more than {MAX_HEAD_BYTES} bytes")));
        }
        self.partial.extend_from_slice(input);
        let Some((head, taken)) = parse_head(&self.partial)? else { return Ok((input.len(), None)) };
        self.partial.clear();
        Ok((taken - kept, Some(head)))
    }

    /// After an interim response (1xx) comes the one that was asked for; it has no body.
    fn begin_body(&mut self, head: Head) {
        if (100..200).contains(&head.status) {
            return;
        }
        (self.status, self.last, self.body_bytes) = (head.status, head.last, 0);
        self.state = match head.framing {
            Framing::Length(left) => {
                self.body_bytes = left;
                State::Body { left }
            }
            Framing::Chunked => State::ChunkSize,
        };
    }

    /// Collect one line, its end included; true once it is whole.
    fn read_line(&mut self, input: &[u8]) -> Result<(usize, bool), Malformed> {
        let end = memchr::memchr(b'\n', input);
        let taken = end.map_or(input.len(), |newline| newline + 1);
        if self.partial.len() + taken > MAX_LINE_BYTES {
            return Err(Malformed(format!("a chunk's line of more than {MAX_LINE_BYTES} bytes")));
        }
        self.partial.extend_from_slice(&input[..taken]);
        Ok((taken, end.is_some()))
    }

    /// A line of the chunked coding is whole: go on to what follows it; true at the response's end.
    fn end_line(&mut self) -> Result<bool, Malformed> {
        let line = std::mem::take(&mut self.partial);
        let blank = line == b"\r\n";
        let done = match self.state {
            State::ChunkSize => {
                let left = parse_chunk_size(&line)?;
                self.body_bytes = self.body_bytes.saturating_add(left);
                self.state = if left == 0 { State::Trailers } else { State::ChunkData { left } };
                false
            }
            State::ChunkEnd if blank => {
                self.state = State::ChunkSize;
                false
            }
            State::ChunkEnd => return Err(Malformed("a chunk is longer than its size says".to_owned())),
            State::Trailers => blank,
            State::Head | State::Body { .. } | State::ChunkData { .. } => unreachable!("these read no lines"),
        };
        self.partial = line;
        self.partial.clear();
        Ok(done)
    }

    fn finish(&mut self) -> Answer {
        self.state = State::Head;
        Answer { status: self.status, body_bytes: self.body_bytes, last: self.last }
    }
}

/// A head at the front of `input` and its length; nothing if it is not whole.
fn parse_head(input: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Malformed(format!("not an HTTP/1.1 response ({error}): {}", shown(input)))),
    };
    let status = response.code.unwrap_or(0);
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let last =
        header("connection").is_some_and(|header| has_token(header.value, "close")) || response.version == Some(0);
    let framing = if matches!(status, 100..=199 | 204 | 304) {
        Framing::Length(0)
    } else if header("transfer-encoding").is_some_and(|header| has_token(header.value, "chunked")) {
        Framing::Chunked
    } else if let Some(header) = header("content-length") {
        Framing::Length(parse_number(header.value, 10).ok_or_else(|| {
            Malformed(format!("content-length is {}, expected a number of bytes", shown(header.value)))
        })?)
    } else {
        return Err(Malformed(
            "a response with neither content-length nor chunked coding: its end cannot be known".into(),
        ));
    };
    Ok(Some((Head { status, framing, last }, length)))
}

/// The size in a chunk's first line; extensions after `;` are ignored.
fn parse_chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| matches!(byte, b';' | b'\r' | b'\n')).next().unwrap_or(b"");
    parse_number(digits, 16).ok_or_else(|| Malformed(format!("a chunk's size is {}, expected a number", shown(line))))
}

fn parse_number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    // `from_str_radix` takes a sign, which neither header allows.
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The beginning of foreign bytes, fit for a message.
fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(60)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut input: &[u8]) -> Result<Vec<Answer>, Malformed> {
        let (mut reader, mut known, mut answers) = (ResponseReader::default(), KnownHead::default(), Vec::new());
        while !input.is_empty() {
            let (taken, answer) = reader.read(input, &mut known)?;
            assert!(taken > 0, "reading makes progress");
            answers.extend(answer);
            input = &input[taken..];
        }
        Ok(answers)
    }

    fn ok(body_bytes: u64) -> Answer {
        Answer { status: 200, body_bytes, last: false }
    }

    const MIXED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
        HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain\
        HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n\
        HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 1\r\n\r\n!";

    fn mixed_answers() -> Vec<Answer> {
        vec![ok(5), ok(5), ok(0), ok(13), Answer { status: 503, body_bytes: 1, last: true }]
    }

    #[test]
    fn pipelined_responses_of_every_framing_are_told_apart() {
        assert_eq!(read_all(MIXED), Ok(mixed_answers()));
    }

    #[test]
    fn responses_cut_anywhere_are_the_same_responses() {
        for cut in 1..MIXED.len() {
            let (mut reader, mut known, mut answers) = (ResponseReader::default(), KnownHead::default(), Vec::new());
            for mut part in [&MIXED[..cut], &MIXED[cut..]] {
                while !part.is_empty() {
                    let (taken, answer) = reader.read(part, &mut known).unwrap();
                    answers.extend(answer);
                    part = &part[taken..];
                }
            }
            assert_eq!(answers, mixed_answers(), "cut at {cut}");
        }
    }

    #[test]
    fn responses_dripped_byte_by_byte_are_the_same_responses() {
        let (mut reader, mut known) = (ResponseReader::default(), KnownHead::default());
        let answers: Vec<_> =
            MIXED.iter().filter_map(|byte| reader.read(std::slice::from_ref(byte), &mut known).unwrap().1).collect();
        assert_eq!(answers, mixed_answers());
    }

    #[test]
    fn a_known_head_does_not_stand_for_one_that_differs_in_its_length() {
        let answers =
            read_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(answers, Ok(vec![ok(2), ok(3)]));
    }

    #[test]
    fn what_cannot_be_a_response_is_refused_with_its_reason() {
        let refused = [
            (&b"SSH-2.0-OpenSSH\r\n"[..], "not an HTTP/1.1 response"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "neither content-length nor chunked"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "expected a number of bytes"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "expected a number of bytes"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "expected a number"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "longer than its size"),
        ];
        for (input, reason) in refused {
            let Malformed(text) = read_all(input).expect_err(reason);
            assert!(text.contains(reason), "{text:?} lacks {reason:?}");
        }
    }

    #[test]
    fn a_head_without_end_is_refused_at_its_bound() {
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; MAX_HEAD_BYTES]].concat();
        assert!(read_all(&endless).unwrap_err().0.contains("more than 65536 bytes"));
    }
}
