//! The response's side: a head built straight into the output buffer, and a body that keeps what the head promised.
//!
//! Framing and persistence are decided here, in one place: an application says what it means to send, never how.

use std::fmt;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use memchr::memchr3;

use super::{HttpError, is_token, list_members, parse_length};

/// The interim answer to a client that waits before sending its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What is wrong with a response that an application asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseError {
    InvalidStatus(u16),
    /// A status from 100 to 199 where the response itself was to begin.
    InterimStatus(u16),
    InvalidReason(Box<[u8]>),
    InvalidHeaderName(Box<[u8]>),
    /// The name of the header whose value it is.
    InvalidHeaderValue(Box<[u8]>),
    InvalidContentLength(Box<[u8]>),
    RepeatedContentLength,
    /// A trailer of this name would change how the message is read (RFC 9110 section 6.5.1).
    ForbiddenTrailer(Box<[u8]>),
    /// The body goes on after its declared end.
    BodyTooLong {
        declared_bytes: u64,
        sent_bytes: u64,
    },
    /// The body ended before its declared end: the connection must be closed, or the client waits for the rest.
    BodyTooShort {
        declared_bytes: u64,
        sent_bytes: u64,
    },
}

impl fmt::Display for ResponseError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidStatus(status) => write!(to, "a response's status must be 100 to 999, not {status}"),
            Self::InterimStatus(status) => {
                write!(to, "a response's status must be 200 to 999, not {status}: 1xx only go before a response")
            }
            Self::InvalidReason(reason) => {
                write!(to, "a reason phrase must have no control characters, not \"{}\"", reason.escape_ascii())
            }
            Self::InvalidHeaderName(name) => {
                write!(to, "a header's name must be a token, not \"{}\"", name.escape_ascii())
            }
            Self::InvalidHeaderValue(name) => {
                write!(to, "the value of the header \"{}\" holds CR, LF or NUL", name.escape_ascii())
            }
            Self::InvalidContentLength(value) => {
                write!(to, "content-length must be one decimal number, not \"{}\"", value.escape_ascii())
            }
            Self::RepeatedContentLength => to.write_str("content-length was given twice"),
            Self::ForbiddenTrailer(name) => {
                write!(to, "\"{}\" must be among the headers, it cannot be a trailer", name.escape_ascii())
            }
            Self::BodyTooLong { declared_bytes, sent_bytes } => {
                write!(
                    to,
                    "the body is longer than its content-length: {sent_bytes} bytes of {declared_bytes} declared"
                )
            }
            Self::BodyTooShort { declared_bytes, sent_bytes } => {
                write!(
                    to,
                    "the body is shorter than its content-length: {sent_bytes} bytes of {declared_bytes} declared"
                )
            }
        }
    }
}

impl std::error::Error for ResponseError {}

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    Length(u64),
    Chunked,
    /// To an HTTP/1.0 client, a body of unknown length ends with the connection.
    UntilClose,
    /// The answer to HEAD, or a status (1xx, 204, 304) that has no body: what the application sends is dropped.
    Forbidden,
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// What the head promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    pub body: BodyMode,
    /// Whether another request may follow. If not, the head says so, and the server closes after the body.
    pub keep_alive: bool,
}

/// What a response depends on besides the application.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext<'a> {
    pub request_is_head: bool,
    /// The client and the server both would have the connection go on.
    pub keep_alive_wanted: bool,
    /// The minor version of the request's HTTP/1.
    pub request_minor: u8,
    /// The body's length, when the whole of it is there before the head is written.
    pub whole_body_bytes: Option<u64>,
    /// For `date`, from a [`DateCache`]; `None` sends none.
    pub date: Option<&'a DateText>,
    /// For `server`.
    pub server: Option<&'a [u8]>,
    /// Further header lines in wire form, which frame nothing.
    pub lines: &'a [u8],
}

/// A head under construction at the end of the output buffer.
///
/// Unless [`ResponseHead::finish`] succeeds, the buffer ends up as it was before: an error, a panic or a plain drop
/// leaves no half a head behind. The first error stays, and `finish` returns it again.
#[must_use = "a head is not sent until it is finished"]
pub struct ResponseHead<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    status: u16,
    content_length: Option<u64>,
    has_date: bool,
    has_server: bool,
    /// The application asked for the connection to be closed.
    close: bool,
    /// `connection: close` is among the lines already.
    close_written: bool,
    is_event_stream: bool,
    error: Option<ResponseError>,
    finished: bool,
}

impl<'a> ResponseHead<'a> {
    /// Begin a head with its status line. A server says HTTP/1.1 even to a 1.0 client (RFC 9110 section 6.2).
    #[inline]
    pub fn start(out: &'a mut Vec<u8>, status: u16) -> Self {
        let start = out.len();
        let error = (!(100..=999).contains(&status)).then_some(ResponseError::InvalidStatus(status));
        match status {
            200 => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
            _ => write_status_line(out, status),
        }
        ResponseHead {
            out,
            start,
            status,
            content_length: None,
            has_date: false,
            has_server: false,
            close: false,
            close_written: false,
            is_event_stream: false,
            error,
            finished: false,
        }
    }

    /// Say a reason of the application's own, before any header.
    pub fn reason(&mut self, reason: &[u8]) -> Result<(), ResponseError> {
        if !is_reason(reason) {
            return self.fail(ResponseError::InvalidReason(reason.into()));
        }
        debug_assert!(self.out.len() == self.start + status_line_bytes(self.status), "the reason goes before headers");
        self.out.truncate(self.start + BEFORE_REASON);
        self.out.extend_from_slice(reason);
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Add a header, spelled as given.
    ///
    /// Of the headers that frame the message or concern the connection: `content-length` must be right and is
    /// written by `finish`; `transfer-encoding` is dropped, since coding is this layer's; `connection: close` is
    /// honoured, `keep-alive` is decided by `finish`, other options (such as `upgrade`) are written.
    #[inline]
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
        if !is_token(name) {
            return self.fail(ResponseError::InvalidHeaderName(name.into()));
        }
        if memchr3(b'\r', b'\n', 0, value).is_some() {
            return self.fail(ResponseError::InvalidHeaderValue(name.into()));
        }
        match (name.len(), name[0] | 0x20) {
            (4, b'd') => self.has_date |= name.eq_ignore_ascii_case(b"date"),
            (6, b's') => self.has_server |= name.eq_ignore_ascii_case(b"server"),
            (10, b'c') if name.eq_ignore_ascii_case(b"connection") => return self.connection(name, value),
            (12, b'c') if value.len() >= EVENT_STREAM.len() && name.eq_ignore_ascii_case(b"content-type") => {
                self.is_event_stream = value[..EVENT_STREAM.len()].eq_ignore_ascii_case(EVENT_STREAM);
            }
            (14, b'c') if name.eq_ignore_ascii_case(b"content-length") => return self.set_content_length(value),
            (17, b't') if name.eq_ignore_ascii_case(b"transfer-encoding") => return Ok(()),
            _ => {}
        }
        self.write_line(name, value);
        Ok(())
    }

    /// Whether the body is said to be server-sent events, whose end a client takes for a reason to come again.
    pub fn is_event_stream(&self) -> bool {
        self.is_event_stream
    }

    /// Add lines that are in their wire form already, each with its CR LF.
    ///
    /// They are not looked at: none of them may frame the message, concern the connection, or be `date` or `server`.
    #[inline]
    pub fn prepared(&mut self, lines: &[u8]) {
        debug_assert!(lines.is_empty() || lines.ends_with(b"\r\n"));
        self.out.extend_from_slice(lines);
    }

    #[inline]
    fn write_line(&mut self, name: &[u8], value: &[u8]) {
        self.out.reserve(name.len() + value.len() + 4);
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    #[cold]
    fn fail(&mut self, error: ResponseError) -> Result<(), ResponseError> {
        Err(self.error.get_or_insert(error).clone())
    }

    fn connection(&mut self, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
        let is = |option: &[u8], name: &[u8]| option.eq_ignore_ascii_case(name);
        let closes = list_members(value).any(|option| is(option, b"close"));
        self.close |= closes;
        if list_members(value).any(|option| !is(option, b"close") && !is(option, b"keep-alive")) {
            self.close_written |= closes;
            self.write_line(name, value);
        }
        Ok(())
    }

    fn set_content_length(&mut self, value: &[u8]) -> Result<(), ResponseError> {
        let Some(Some(length)) = parse_length(value.trim_ascii()) else {
            return self.fail(ResponseError::InvalidContentLength(value.into()));
        };
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => self.fail(ResponseError::RepeatedContentLength),
        }
    }

    /// End the head: decide the framing, and write the lines that say so.
    pub fn finish(mut self, context: ResponseContext<'_>) -> Result<ResponseFraming, ResponseError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let (body, length_line) = self.plan_body(&context)?;
        let may_go_on = context.keep_alive_wanted && !self.close && body != BodyMode::UntilClose;
        let framing = ResponseFraming { body, keep_alive: may_go_on };
        let is_interim = self.status < 200;
        if !is_interim {
            self.write_framing(length_line, framing, context.request_minor);
            self.write_identity(&context);
        }
        self.out.extend_from_slice(b"\r\n");
        self.finished = true;
        Ok(framing)
    }

    /// The body's mode, and the length that the head states.
    fn plan_body(&self, context: &ResponseContext<'_>) -> Result<(BodyMode, Option<u64>), ResponseError> {
        if self.status < 200 || self.status == 204 {
            return Ok((BodyMode::Forbidden, None));
        }
        if context.request_is_head || self.status == 304 {
            // The length is that of the body which GET would get; an absent body tells nothing of it.
            let whole = context.whole_body_bytes.filter(|&bytes| bytes > 0 && self.status != 304);
            return Ok((BodyMode::Forbidden, self.content_length.or(whole)));
        }
        match (self.content_length, context.whole_body_bytes) {
            (Some(declared_bytes), Some(sent_bytes)) if sent_bytes > declared_bytes => {
                Err(ResponseError::BodyTooLong { declared_bytes, sent_bytes })
            }
            (Some(declared_bytes), Some(sent_bytes)) if sent_bytes < declared_bytes => {
                Err(ResponseError::BodyTooShort { declared_bytes, sent_bytes })
            }
            (Some(length), _) | (None, Some(length)) => Ok((BodyMode::Length(length), Some(length))),
            (None, None) if context.request_minor == 0 => Ok((BodyMode::UntilClose, None)),
            (None, None) => Ok((BodyMode::Chunked, None)),
        }
    }

    fn write_framing(&mut self, length: Option<u64>, framing: ResponseFraming, request_minor: u8) {
        if let Some(length) = length {
            self.write_line(b"content-length", itoa::Buffer::new().format(length).as_bytes());
        } else if framing.body == BodyMode::Chunked {
            self.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        match (framing.keep_alive, request_minor) {
            (false, _) if !self.close_written => self.out.extend_from_slice(b"connection: close\r\n"),
            (true, 0) => self.out.extend_from_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
    }

    fn write_identity(&mut self, context: &ResponseContext<'_>) {
        if let (Some(date), false) = (context.date, self.has_date) {
            // Lengths known to the compiler make this a few stores.
            self.out.extend_from_slice(b"date: ");
            self.out.extend_from_slice(date);
            self.out.extend_from_slice(b"\r\n");
        }
        if let (Some(server), false) = (context.server, self.has_server) {
            self.write_line(b"server", server);
        }
        self.out.extend_from_slice(context.lines);
    }
}

impl Drop for ResponseHead<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// `HTTP/1.1 200 `
const BEFORE_REASON: usize = 13;

fn status_line_bytes(status: u16) -> usize {
    BEFORE_REASON + reason_phrase(status).len() + 2
}

/// Tabs, spaces, what is visible, and what no ASCII is (RFC 9112 section 4).
pub fn is_reason(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
}

fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The phrase of a registered status code (the IANA registry of HTTP status codes), or none.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        104 => "Upload Resumption Supported",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// What precedes a chunk of `data_bytes`, which must not be 0: that would end the body. CR LF follows the data.
#[inline]
pub fn write_chunk_head(out: &mut Vec<u8>, data_bytes: usize) {
    debug_assert!(data_bytes > 0, "an empty chunk ends the body");
    let digits = (usize::BITS - data_bytes.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[data_bytes >> (4 * digit) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// One chunk; nothing for no data.
#[inline]
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write_chunk_head(out, data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

pub fn write_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(LAST_CHUNK);
}

/// One line of the trailer section; nothing is written if it may not stand there.
pub fn write_trailer(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
    if !is_token(name) {
        return Err(ResponseError::InvalidHeaderName(name.into()));
    }
    if memchr3(b'\r', b'\n', 0, value).is_some() {
        return Err(ResponseError::InvalidHeaderValue(name.into()));
    }
    if FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
        return Err(ResponseError::ForbiddenTrailer(name.into()));
    }
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// What frames or routes the message, concerns the connection, or tells how to read the body or whom to believe.
const FORBIDDEN_TRAILERS: [&[u8]; 16] = [
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"host",
    b"keep-alive",
    b"location",
    b"proxy-connection",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"www-authenticate",
];

/// Writes a body as its head promised, and tells when an application breaks the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyWriter {
    mode: BodyMode,
    sent_bytes: u64,
}

impl BodyWriter {
    pub fn new(mode: BodyMode) -> Self {
        BodyWriter { mode, sent_bytes: 0 }
    }

    /// Body bytes taken so far, without framing.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Write one piece. A piece that is too long is not written at all.
    #[inline]
    pub fn write(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), ResponseError> {
        if self.begin_piece(out, data.len())? {
            out.extend_from_slice(data);
            self.end_piece(out);
        }
        Ok(())
    }

    /// Announce a piece whose data the caller sends by itself (borrowed, or from a file).
    ///
    /// If true: the data follows what was written to `out`, and `end_piece` the data. If false: it is not sent.
    #[inline]
    pub fn begin_piece(&mut self, out: &mut Vec<u8>, data_bytes: usize) -> Result<bool, ResponseError> {
        if data_bytes == 0 || self.mode == BodyMode::Forbidden {
            return Ok(false);
        }
        let sent_bytes = self.sent_bytes.saturating_add(data_bytes as u64);
        match self.mode {
            BodyMode::Length(declared_bytes) if sent_bytes > declared_bytes => {
                return Err(ResponseError::BodyTooLong { declared_bytes, sent_bytes });
            }
            BodyMode::Chunked => write_chunk_head(out, data_bytes),
            _ => {}
        }
        self.sent_bytes = sent_bytes;
        Ok(true)
    }

    #[inline]
    pub fn end_piece(&self, out: &mut Vec<u8>) {
        if self.mode == BodyMode::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Whether trailers can follow the body.
    pub fn takes_trailers(&self) -> bool {
        self.mode == BodyMode::Chunked
    }

    /// End the body's data; [`write_trailer`] and [`BodyWriter::end_trailers`] follow, if it takes trailers.
    pub fn finish_data(&self, out: &mut Vec<u8>) -> Result<(), ResponseError> {
        match self.mode {
            BodyMode::Length(declared_bytes) if self.sent_bytes < declared_bytes => {
                Err(ResponseError::BodyTooShort { declared_bytes, sent_bytes: self.sent_bytes })
            }
            BodyMode::Chunked => {
                out.extend_from_slice(b"0\r\n");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn end_trailers(self, out: &mut Vec<u8>) {
        if self.takes_trailers() {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// End the body.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), ResponseError> {
        self.finish_data(out)?;
        self.end_trailers(out);
        Ok(())
    }
}

/// A whole plain-text response that says why the server does not answer as asked.
///
/// For a refused request `context.keep_alive_wanted` must be false. `context.whole_body_bytes` is not used.
pub fn error_response(out: &mut Vec<u8>, error: HttpError, context: ResponseContext<'_>) -> ResponseFraming {
    let body_bytes = "400 ".len() + reason_phrase(error.status).len() + "\n".len() + error.reason.len() + "\n".len();
    let context = ResponseContext { whole_body_bytes: Some(body_bytes as u64), ..context };
    let mut head = ResponseHead::start(out, error.status);
    let written = head.header(b"content-type", b"text/plain; charset=utf-8").and_then(|()| head.finish(context));
    let framing = written.expect("an HttpError has a valid status");
    if framing.body != BodyMode::Forbidden {
        writeln!(out, "{} {}\n{}", error.status, reason_phrase(error.status), error.reason).expect("memory is there");
    }
    framing
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
pub type DateText = [u8; 29];

/// The time as `date` states it, formatted once a second. The caller has the clock.
#[derive(Clone, Debug)]
pub struct DateCache {
    unix_seconds: u64,
    text: DateText,
}

impl DateCache {
    /// The format ends with the year 9999.
    const LAST_SECOND: u64 = 253_402_300_799;

    pub fn new(unix_seconds: u64) -> Self {
        let mut cache = DateCache { unix_seconds, text: [0; 29] };
        cache.format();
        cache
    }

    #[inline]
    pub fn at(&mut self, unix_seconds: u64) -> &DateText {
        if self.unix_seconds != unix_seconds {
            self.unix_seconds = unix_seconds;
            self.format();
        }
        &self.text
    }

    #[cold]
    fn format(&mut self) {
        let time = UNIX_EPOCH + Duration::from_secs(self.unix_seconds.min(Self::LAST_SECOND));
        write!(&mut self.text[..], "{}", httpdate::HttpDate::from(time)).expect("an IMF-fixdate has 29 bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &DateText = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const TAIL: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: penstock\r\n\r\n";

    fn context() -> ResponseContext<'static> {
        ResponseContext {
            request_is_head: false,
            keep_alive_wanted: true,
            request_minor: 1,
            whole_body_bytes: None,
            date: Some(DATE),
            server: Some(b"penstock"),
            lines: b"",
        }
    }

    type Outcome = Result<(String, ResponseFraming), ResponseError>;

    /// The head, after a byte that must survive whatever happens.
    fn build(status: u16, headers: &[(&str, &str)], context: ResponseContext<'_>) -> Outcome {
        let mut out = b"#".to_vec();
        let mut head = ResponseHead::start(&mut out, status);
        for (name, value) in headers {
            let _ = head.header(name.as_bytes(), value.as_bytes());
        }
        match head.finish(context) {
            Ok(framing) => Ok((String::from_utf8(out[1..].to_vec()).unwrap(), framing)),
            Err(error) => {
                assert_eq!(out, b"#", "a failed head leaves nothing behind");
                Err(error)
            }
        }
    }

    #[test]
    fn a_whole_body_is_framed_by_its_length() {
        let (head, framing) =
            build(200, &[("Content-Type", "text/plain")], ResponseContext { whole_body_bytes: Some(13), ..context() })
                .unwrap();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 13\r\n{TAIL}"));
        assert_eq!(framing, ResponseFraming { body: BodyMode::Length(13), keep_alive: true });
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_or_ends_with_the_connection() {
        let (head, framing) = build(200, &[], context()).unwrap();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{TAIL}"));
        assert_eq!(framing, ResponseFraming { body: BodyMode::Chunked, keep_alive: true });
        let (head, framing) = build(200, &[], ResponseContext { request_minor: 0, ..context() }).unwrap();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{TAIL}"));
        assert_eq!(framing, ResponseFraming { body: BodyMode::UntilClose, keep_alive: false });
    }

    #[test]
    fn a_1_0_client_is_told_that_the_connection_goes_on() {
        let context = ResponseContext { request_minor: 0, ..context() };
        let (head, framing) = build(200, &[("content-length", "3")], context).unwrap();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n{TAIL}"));
        assert!(framing.keep_alive);
    }

    #[test]
    fn the_application_s_close_is_honoured_and_said_once() {
        let cases = [("close", "connection: close\r\n"), ("Keep-Alive, Close", "connection: close\r\n")];
        for (value, line) in cases {
            let (head, framing) = build(200, &[("content-length", "0"), ("Connection", value)], context()).unwrap();
            assert_eq!(head, format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{line}{TAIL}"));
            assert!(!framing.keep_alive);
        }
        let (head, framing) =
            build(426, &[("connection", "upgrade, close"), ("content-length", "0")], context()).unwrap();
        assert_eq!(head.matches("close").count(), 1, "{head}");
        assert!(head.contains("connection: upgrade, close\r\n") && !framing.keep_alive);
    }

    #[test]
    fn the_application_s_date_and_server_stand() {
        let headers = [("Date", "then"), ("SERVER", "mine"), ("content-length", "0")];
        let (head, _) = build(200, &headers, context()).unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\nDate: then\r\nSERVER: mine\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn the_application_s_reason_takes_the_place_of_the_status_s() {
        let reasoned = |reason: &[u8]| {
            let mut out = b"#".to_vec();
            let mut head = ResponseHead::start(&mut out, 404);
            let _ = head.reason(reason);
            let _ = head.header(b"content-length", b"0");
            head.finish(context()).map(|_| String::from_utf8_lossy(&out).into_owned())
        };
        assert!(reasoned(b"Gone Fishing").unwrap().starts_with("#HTTP/1.1 404 Gone Fishing\r\ncontent-length: 0\r\n"));
        assert!(reasoned(b"").unwrap().starts_with("#HTTP/1.1 404 \r\ncontent-length: 0\r\n"));
        assert_eq!(reasoned(b"a\r\nb: c"), Err(ResponseError::InvalidReason((*b"a\r\nb: c").into())));
    }

    #[test]
    fn coding_is_not_the_application_s() {
        let (head, framing) =
            build(200, &[("Transfer-Encoding", "gzip, chunked"), ("content-length", "2")], context()).unwrap();
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
        assert_eq!(framing.body, BodyMode::Length(2));
    }

    #[test]
    fn statuses_without_a_body_have_neither_body_nor_length() {
        for status in [101, 103, 204] {
            let (head, framing) = build(status, &[("content-length", "5")], context()).unwrap();
            assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
            assert_eq!(framing, ResponseFraming { body: BodyMode::Forbidden, keep_alive: true });
        }
        let (head, _) = build(101, &[("upgrade", "websocket"), ("connection", "Upgrade")], context()).unwrap();
        assert_eq!(head, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n");
    }

    #[test]
    fn head_and_304_state_the_length_that_get_would_have() {
        let head_request = ResponseContext { request_is_head: true, ..context() };
        for (status, context) in [(200, head_request), (304, context())] {
            let (head, framing) = build(status, &[("content-length", "5")], context).unwrap();
            assert!(head.contains("content-length: 5\r\n"), "{head}");
            assert_eq!(framing.body, BodyMode::Forbidden);
            let (head, _) = build(status, &[], ResponseContext { whole_body_bytes: Some(0), ..context }).unwrap();
            assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        }
        let (head, _) = build(200, &[], ResponseContext { whole_body_bytes: Some(7), ..head_request }).unwrap();
        assert!(head.contains("content-length: 7\r\n"), "{head}");
        let (head, _) = build(304, &[], ResponseContext { whole_body_bytes: Some(7), ..context() }).unwrap();
        assert!(!head.contains("content-length"), "a dropped body's length is not that of GET's: {head}");
    }

    #[test]
    fn a_bad_head_is_an_error_and_leaves_the_buffer_as_it_was() {
        let value_error = |name: &str| ResponseError::InvalidHeaderValue(name.as_bytes().into());
        for value in ["a\r\nset-cookie: b", "a\rb", "a\nb", "a\0b"] {
            assert_eq!(build(200, &[("x", value), ("y", "fine")], context()).unwrap_err(), value_error("x"));
        }
        for name in ["", "a b", "a:", "a\r\nb", "\u{e9}"] {
            let error = ResponseError::InvalidHeaderName(name.as_bytes().into());
            assert_eq!(build(200, &[(name, "v")], context()).unwrap_err(), error);
        }
        for value in ["-1", "1,1", "", "x", "18446744073709551616"] {
            let error = ResponseError::InvalidContentLength(value.as_bytes().into());
            assert_eq!(build(200, &[("content-length", value)], context()).unwrap_err(), error);
        }
        let twice = [("content-length", "1"), ("Content-Length", "1")];
        assert_eq!(build(200, &twice, context()).unwrap_err(), ResponseError::RepeatedContentLength);
        for status in [0, 99, 1000] {
            assert_eq!(build(status, &[], context()).unwrap_err(), ResponseError::InvalidStatus(status));
        }
    }

    #[test]
    fn a_whole_body_that_contradicts_its_length_is_refused_before_anything_is_sent() {
        for (whole, error) in [
            (4, ResponseError::BodyTooShort { declared_bytes: 5, sent_bytes: 4 }),
            (6, ResponseError::BodyTooLong { declared_bytes: 5, sent_bytes: 6 }),
        ] {
            let context = ResponseContext { whole_body_bytes: Some(whole), ..context() };
            assert_eq!(build(200, &[("content-length", "5")], context).unwrap_err(), error);
        }
    }

    #[test]
    fn a_head_that_is_dropped_is_taken_back() {
        let mut out = b"before".to_vec();
        let mut head = ResponseHead::start(&mut out, 200);
        head.header(b"x", b"y").unwrap();
        drop(head);
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_status_without_a_registered_phrase_keeps_the_space_before_it() {
        let (head, _) = build(299, &[("content-length", "0")], context()).unwrap();
        assert!(head.starts_with("HTTP/1.1 299 \r\n"), "{head}");
    }

    #[test]
    fn chunks_have_sizes_in_hexadecimal_and_none_is_empty() {
        let mut out = Vec::new();
        let mut writer = BodyWriter::new(BodyMode::Chunked);
        for piece in [&b"hello"[..], b"", &[b'x'; 16], &[b'y'; 255]] {
            writer.write(&mut out, piece).unwrap();
        }
        writer.finish(&mut out).unwrap();
        let expected = format!("5\r\nhello\r\n10\r\n{}\r\nff\r\n{}\r\n0\r\n\r\n", "x".repeat(16), "y".repeat(255));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_body_keeps_to_its_length() {
        let mut out = Vec::new();
        let mut writer = BodyWriter::new(BodyMode::Length(5));
        writer.write(&mut out, b"hel").unwrap();
        let short = ResponseError::BodyTooShort { declared_bytes: 5, sent_bytes: 3 };
        assert_eq!(writer.finish(&mut out), Err(short));
        let long = ResponseError::BodyTooLong { declared_bytes: 5, sent_bytes: 6 };
        assert_eq!(writer.write(&mut out, b"lo!"), Err(long));
        writer.write(&mut out, b"lo").unwrap();
        assert_eq!((writer.finish(&mut out), out.as_slice()), (Ok(()), &b"hello"[..]));
    }

    #[test]
    fn a_forbidden_body_is_dropped_and_one_until_close_is_bare() {
        let mut out = Vec::new();
        for mode in [BodyMode::Forbidden, BodyMode::UntilClose] {
            let mut writer = BodyWriter::new(mode);
            writer.write(&mut out, b"data").unwrap();
            writer.finish(&mut out).unwrap();
        }
        assert_eq!(out, b"data");
    }

    #[test]
    fn an_error_response_is_whole_and_says_what_was_wrong() {
        let mut out = Vec::new();
        let context = ResponseContext { keep_alive_wanted: false, ..context() };
        let framing = error_response(&mut out, HttpError::NO_HOST, context);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "400 Bad Request\nAn HTTP/1.1 request must have a Host header.\n");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\nconnection: close\r\n", body.len())), "{head}");
        assert_eq!(framing, ResponseFraming { body: BodyMode::Length(body.len() as u64), keep_alive: false });
    }

    #[test]
    fn an_error_response_to_head_has_no_body() {
        let mut out = Vec::new();
        error_response(&mut out, HttpError::CONTENT_TOO_LARGE, ResponseContext { request_is_head: true, ..context() });
        assert!(out.ends_with(b"\r\n\r\n") && !out.starts_with(b"\r\n\r\n"));
    }

    #[test]
    fn a_date_is_formatted_for_its_second() {
        let mut cache = DateCache::new(0);
        assert_eq!(cache.at(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(cache.at(784_111_777), DATE);
        assert_eq!(cache.at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(cache.at(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
