//! A request's head: where it ends, what it says, and how its body is framed. It owns spans, never bytes.

use std::mem::MaybeUninit;

use memchr::{memchr, memchr3};

use super::{HttpError, Limits, Span, byte_set, is_token, list_members, parse_length};

/// A peer may send a few empty lines before a request (RFC 9112 section 2.2): those after an old client's POST.
const MAX_LEADING_EMPTY_LINES: u8 = 4;
/// Longer than any registered method ("UPDATEREDIRECTREF" has 17).
const MAX_METHOD_BYTES: usize = 32;
const EMPTY_LINE: &[u8] = b"\r\n";

/// Finds the end of a head, and remembers how far it has looked: a head dripped byte by byte costs linear time.
///
/// One scanner belongs to one head at a time; `HeadScanner::default()` begins the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    /// Bytes before this one need not be looked at again.
    position: u32,
    line_start: u32,
    leading_empty_lines: u8,
    after_request_line: bool,
}

impl HeadScanner {
    /// The head's length, with its final empty line, once `bytes` (all received since the head began) hold it.
    ///
    /// Nothing beyond `limits.max_head_bytes` is looked at, so the outcome does not depend on how bytes arrive.
    pub fn find_end(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HttpError> {
        let window = &bytes[..bytes.len().min(limits.head_bytes())];
        let mut from = self.position as usize;
        while let Some(offset) = memchr3(b'\r', b'\n', 0, window.get(from..).unwrap_or_default()) {
            from += offset;
            self.check_request_line(from, limits)?;
            match (window[from], window.get(from + 1)) {
                (b'\r', Some(b'\n')) => {}
                (b'\r', None) => return self.wait_for_more(from, window.len(), limits),
                (b'\r', Some(_)) => return Err(HttpError::BARE_CR),
                (b'\n', _) => return Err(HttpError::BARE_LF),
                _ => return Err(HttpError::NUL),
            }
            let line_is_empty = from == self.line_start as usize;
            from += EMPTY_LINE.len();
            self.line_start = from as u32;
            if !line_is_empty {
                self.after_request_line = true;
            } else if self.after_request_line {
                return Ok(Some(from));
            } else {
                self.leading_empty_lines += 1;
                if self.leading_empty_lines > MAX_LEADING_EMPTY_LINES {
                    return Err(HttpError::EMPTY_LINES);
                }
            }
        }
        self.check_request_line(window.len(), limits)?;
        self.wait_for_more(window.len(), window.len(), limits)
    }

    /// Refuse a request line whose bytes up to `end` cannot hold an acceptable target.
    #[inline]
    fn check_request_line(&self, end: usize, limits: &Limits) -> Result<(), HttpError> {
        const AROUND_TARGET: usize = MAX_METHOD_BYTES + "  HTTP/1.1".len();
        let line_bytes = end.saturating_sub(self.line_start as usize);
        if !self.after_request_line && line_bytes > limits.max_target_bytes.saturating_add(AROUND_TARGET) {
            return Err(HttpError::TARGET_TOO_LONG);
        }
        Ok(())
    }

    fn wait_for_more(&mut self, position: usize, seen: usize, limits: &Limits) -> Result<Option<usize>, HttpError> {
        if seen < limits.head_bytes() {
            self.position = position as u32;
            return Ok(None);
        }
        Err(if self.after_request_line { HttpError::HEAD_TOO_LARGE } else { HttpError::TARGET_TOO_LONG })
    }
}

/// How long a request's body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither length nor coding was given: there is no body.
    #[default]
    None,
    Length(u64),
    Chunked,
}

impl BodyFraming {
    /// Whether at least one byte follows the head.
    pub fn has_body(self) -> bool {
        !matches!(self, BodyFraming::None | BodyFraming::Length(0))
    }
}

/// The four ways to say what is requested (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`, as sent to proxies.
    Absolute,
    /// `host:port`, of CONNECT alone. Path and query are empty.
    Authority,
    /// `*`, of OPTIONS alone: the server as a whole.
    Asterisk,
}

/// What a request's head says. It is reused from one request to the next, and allocates only while it warms up.
///
/// Every span is into the bytes given to the last successful [`RequestHead::parse`].
#[derive(Debug, Default)]
pub struct RequestHead {
    pub method: Span,
    /// As it came.
    pub target: Span,
    pub target_form: TargetForm,
    /// Before the `?`, still percent-encoded; of an absolute target without a path, a slash.
    pub path: Span,
    /// After the `?`; empty when there is none.
    pub query: Span,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor_version: u8,
    /// In order, spelled as they came. The value of Host is the target's host if the target is absolute, because
    /// RFC 9112 section 3.2.2 lets it override what the client wrote there.
    pub headers: Vec<(Span, Span)>,
    pub framing: BodyFraming,
    /// Whether the client lets the connection go on after this request.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// The client offers another protocol: it sent Upgrade, and `Connection: upgrade`, in HTTP/1.1.
    pub upgrade: bool,
    /// The client takes trailers after a chunked response: it sent `TE: trailers`, in HTTP/1.1.
    pub accepts_trailers: bool,
    /// There is an X-Forwarded-For or X-Forwarded-Proto, which means something only if the peer is trusted.
    pub is_forwarded: bool,
}

/// What the headers said that the framing and the connection depend on.
#[derive(Default)]
struct Findings {
    host_index: Option<usize>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade: bool,
    expect_continue: bool,
    accepts_trailers: bool,
    is_forwarded: bool,
}

impl RequestHead {
    /// Read `head`, which ends with its empty line ([`HeadScanner::find_end`] says where), into this one.
    ///
    /// After an error the fields mean nothing.
    pub fn parse(&mut self, head: &[u8], limits: &Limits) -> Result<(), HttpError> {
        if head.len() > limits.head_bytes() {
            return Err(HttpError::HEAD_TOO_LARGE);
        }
        let mut storage = [const { MaybeUninit::uninit() }; Limits::MOST_HEADERS];
        let room = limits.max_headers.min(Limits::MOST_HEADERS);
        let request_start = skip_empty_lines(head)?;
        let request_bytes = &head[request_start..];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(request_bytes, &mut storage[..room]) {
            Ok(httparse::Status::Complete(length)) if length == request_bytes.len() => {}
            Ok(_) => return Err(HttpError::INCOMPLETE_HEAD),
            Err(error) => return Err(explain(error, request_bytes)),
        }
        let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
            return Err(HttpError::INCOMPLETE_HEAD);
        };
        if !head.ends_with(b"\r\n\r\n") {
            return Err(HttpError::BARE_LF);
        }
        self.method = Span::locate(method.as_bytes(), head);
        self.minor_version = minor_version;
        self.headers.clear();
        let host_of_target = self.read_target(method.as_bytes(), target.as_bytes(), head, limits)?;
        let findings = self.read_headers(request.headers, head)?;
        if let (Some(host), Some(index)) = (host_of_target, findings.host_index) {
            self.headers[index].1 = host;
        }
        self.conclude(findings)
    }

    /// The first value of a header, in any case. For the rare ones: it looks through all.
    pub fn header<'a>(&self, head: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let found = self.headers.iter().find(|(key, _)| key.of(head).eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value.of(head))
    }

    fn read_headers(&mut self, headers: &[httparse::Header<'_>], head: &[u8]) -> Result<Findings, HttpError> {
        let mut findings = Findings::default();
        for header in headers {
            let name = Span::locate(header.name.as_bytes(), head);
            let value = Span::locate(header.value, head);
            // The tokeniser takes a bare line feed; each line's end is looked at here, where the next begins.
            if !head[..name.start()].ends_with(EMPTY_LINE) {
                return Err(HttpError::BARE_LF);
            }
            findings.note(header.name.as_bytes(), header.value, self.headers.len())?;
            self.headers.push((name, value));
        }
        Ok(findings)
    }

    /// Returns the host, if the target names one in place of the Host header.
    fn read_target(
        &mut self,
        method: &[u8],
        target: &[u8],
        head: &[u8],
        limits: &Limits,
    ) -> Result<Option<Span>, HttpError> {
        if method.len() > MAX_METHOD_BYTES {
            return Err(HttpError::METHOD_TOO_LONG);
        }
        if target.len() > limits.max_target_bytes {
            return Err(HttpError::TARGET_TOO_LONG);
        }
        if !target.is_ascii() || memchr(b'#', target).is_some() {
            return Err(HttpError::BAD_TARGET_BYTE);
        }
        self.target = Span::locate(target, head);
        (self.path, self.query) = (Span::EMPTY, Span::EMPTY);
        if method == b"CONNECT" {
            self.target_form = TargetForm::Authority;
            return if has_host_and_port(target) { Ok(Some(self.target)) } else { Err(HttpError::BAD_AUTHORITY) };
        }
        match target {
            [b'/', ..] => {
                self.target_form = TargetForm::Origin;
                self.split_path(self.target.start(), target);
                Ok(None)
            }
            b"*" if method == b"OPTIONS" => {
                (self.target_form, self.path) = (TargetForm::Asterisk, self.target);
                Ok(None)
            }
            b"*" => Err(HttpError::ASTERISK_WITHOUT_OPTIONS),
            _ => self.read_absolute_target(target).map(Some),
        }
    }

    /// `at` is where `path_and_query` begins within the head.
    #[inline]
    fn split_path(&mut self, at: usize, path_and_query: &[u8]) {
        let end = at + path_and_query.len();
        (self.path, self.query) = match memchr(b'?', path_and_query) {
            None => (Span::new(at, end), Span::EMPTY),
            Some(mark) => (Span::new(at, at + mark), Span::new(at + mark + 1, end)),
        };
    }

    fn read_absolute_target(&mut self, target: &[u8]) -> Result<Span, HttpError> {
        let has_scheme = |scheme: &&[u8]| target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
        let scheme = [&b"http://"[..], b"https://"].into_iter().find(has_scheme).ok_or(HttpError::BAD_TARGET_FORM)?;
        let after_scheme = &target[scheme.len()..];
        let host_bytes = after_scheme.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(after_scheme.len());
        if host_bytes == 0 || !is_host(&after_scheme[..host_bytes]) {
            return Err(HttpError::BAD_AUTHORITY);
        }
        let host_at = self.target.start() + scheme.len();
        self.target_form = TargetForm::Absolute;
        self.split_path(host_at + host_bytes, &after_scheme[host_bytes..]);
        if self.path.is_empty() {
            // The path of `http://host` is a slash; the scheme's last byte is one.
            self.path = Span::new(host_at - 1, host_at);
        }
        Ok(Span::new(host_at, host_at + host_bytes))
    }

    fn conclude(&mut self, findings: Findings) -> Result<(), HttpError> {
        let is_1_1 = self.minor_version == 1;
        if is_1_1 && findings.host_index.is_none() {
            return Err(HttpError::NO_HOST);
        }
        self.framing = match (findings.content_length, findings.chunked) {
            (Some(_), true) => return Err(HttpError::LENGTH_AND_CODING),
            (None, true) if !is_1_1 => return Err(HttpError::CODING_IN_1_0),
            (None, true) => BodyFraming::Chunked,
            (Some(length), false) => BodyFraming::Length(length),
            (None, false) => BodyFraming::None,
        };
        self.keep_alive = !findings.close && (is_1_1 || findings.keep_alive);
        // RFC 9110 section 10.1.1: the expectation of a 1.0 client, or without a body, is not answered.
        self.expect_continue = findings.expect_continue && is_1_1 && self.framing.has_body();
        self.upgrade = findings.upgrade && findings.connection_upgrade && is_1_1;
        self.accepts_trailers = findings.accepts_trailers && is_1_1;
        self.is_forwarded = findings.is_forwarded;
        Ok(())
    }
}

impl Findings {
    /// Take notice of one header. Few are of interest: their lengths and first letters tell nearly all others apart.
    #[inline]
    fn note(&mut self, name: &[u8], value: &[u8], index: usize) -> Result<(), HttpError> {
        match (name.len(), name[0] | 0x20) {
            (2, b't') if name.eq_ignore_ascii_case(b"te") => {
                let is_trailers = |coding: &[u8]| coding.eq_ignore_ascii_case(b"trailers");
                self.accepts_trailers |= list_members(value).any(is_trailers);
                Ok(())
            }
            (4, b'h') if name.eq_ignore_ascii_case(b"host") => self.note_host(value, index),
            (6, b'e') if name.eq_ignore_ascii_case(b"expect") => self.note_expect(value),
            (7, b'u') if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            (10, b'c') if name.eq_ignore_ascii_case(b"connection") => {
                self.note_connection(value);
                Ok(())
            }
            (14, b'c') if name.eq_ignore_ascii_case(b"content-length") => self.note_content_length(value),
            (17, b't') if name.eq_ignore_ascii_case(b"transfer-encoding") => self.note_transfer_encoding(value),
            (15, b'x') | (17, b'x') => {
                let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
                self.is_forwarded |= is(b"x-forwarded-for") || is(b"x-forwarded-proto");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note_host(&mut self, value: &[u8], index: usize) -> Result<(), HttpError> {
        if self.host_index.replace(index).is_some() {
            return Err(HttpError::REPEATED_HOST);
        }
        // An empty one is right where the target has no host (RFC 9110 section 7.2).
        if value.is_empty() || is_host(value) { Ok(()) } else { Err(HttpError::BAD_HOST) }
    }

    fn note_expect(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HttpError::UNKNOWN_EXPECTATION);
        }
        self.expect_continue = true;
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in list_members(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    fn note_content_length(&mut self, value: &[u8]) -> Result<(), HttpError> {
        let length = parse_length(value).ok_or(HttpError::BAD_CONTENT_LENGTH)?.ok_or(HttpError::CONTENT_TOO_LARGE)?;
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(HttpError::REPEATED_CONTENT_LENGTH),
        }
    }

    fn note_transfer_encoding(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if self.chunked {
            return Err(HttpError::REPEATED_TRANSFER_ENCODING);
        }
        self.chunked = value.eq_ignore_ascii_case(b"chunked");
        if self.chunked { Ok(()) } else { Err(explain_coding(value)) }
    }
}

/// Codings that end with chunked, once, are merely unknown here; without it the body would have no end.
#[cold]
fn explain_coding(value: &[u8]) -> HttpError {
    let (mut chunked, mut others, mut ends_chunked) = (0, 0, false);
    for coding in list_members(value) {
        ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
        *(if ends_chunked { &mut chunked } else { &mut others }) += 1;
    }
    if ends_chunked && chunked == 1 && others > 0 && list_members(value).all(is_token) {
        HttpError::UNKNOWN_TRANSFER_ENCODING
    } else {
        HttpError::BAD_TRANSFER_ENCODING
    }
}

/// Where the request line begins: after a few empty lines at the most.
#[inline]
fn skip_empty_lines(head: &[u8]) -> Result<usize, HttpError> {
    let mut start = 0;
    while head[start..].starts_with(EMPTY_LINE) {
        start += EMPTY_LINE.len();
        if start > usize::from(MAX_LEADING_EMPTY_LINES) * EMPTY_LINE.len() {
            return Err(HttpError::EMPTY_LINES);
        }
    }
    match head.get(start) {
        None => Err(HttpError::INCOMPLETE_HEAD),
        Some(b'\n') => Err(HttpError::BARE_LF),
        Some(b'\r') => Err(HttpError::BARE_CR),
        Some(_) => Ok(start),
    }
}

/// Unreserved characters, sub-delimiters and `%` of RFC 3986 section 3.2.2.
const REG_NAME_BYTES: [bool; 256] = byte_set(b"-._~!$&'()*+,;=%");
const IP_LITERAL_BYTES: [bool; 256] = byte_set(b":.%-_~");

/// `uri-host [ ":" port ]`, without user information.
#[inline]
fn is_host(value: &[u8]) -> bool {
    split_host(value).is_some_and(|(_, port)| port.iter().all(u8::is_ascii_digit))
}

/// The authority of CONNECT, whose host and port must both be there.
fn has_host_and_port(value: &[u8]) -> bool {
    split_host(value)
        .is_some_and(|(host, port)| !host.is_empty() && !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// The host, with the brackets of an IP literal, and what follows its colon.
#[inline]
fn split_host(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (host, rest) = match value {
        [b'[', inner @ ..] => {
            let end = 2 + inner.iter().position(|&byte| !IP_LITERAL_BYTES[byte as usize])?;
            (inner.len() + 1 >= end && value[end - 1] == b']' && end > 2).then(|| value.split_at(end))?
        }
        _ => value.split_at(value.iter().position(|&b| !REG_NAME_BYTES[b as usize]).unwrap_or(value.len())),
    };
    match rest {
        [] => Some((host, rest)),
        [b':', port @ ..] if !host.is_empty() => Some((host, port)),
        _ => None,
    }
}

/// Say what the tokeniser stumbled over. It stops at the first fault, so the first line found wrong is the one.
#[cold]
fn explain(error: httparse::Error, request: &[u8]) -> HttpError {
    let mut lines = request.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    match error {
        httparse::Error::TooManyHeaders => HttpError::TOO_MANY_HEADERS,
        httparse::Error::HeaderName => lines.find_map(explain_header_name).unwrap_or(HttpError::BAD_HEADER_NAME),
        httparse::Error::HeaderValue => HttpError::BAD_HEADER_VALUE,
        _ => explain_request_line(request_line),
    }
}

#[cold]
fn explain_header_name(line: &[u8]) -> Option<HttpError> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Some(HttpError::FOLDED_HEADER);
    }
    let Some(colon) = memchr(b':', line) else { return Some(HttpError::NO_COLON) };
    match &line[..colon] {
        [] => Some(HttpError::EMPTY_HEADER_NAME),
        name if is_token(name) => None,
        name if is_token(name.trim_ascii_end()) => Some(HttpError::SPACE_BEFORE_COLON),
        _ => Some(HttpError::BAD_HEADER_NAME),
    }
}

#[cold]
fn explain_request_line(line: &[u8]) -> HttpError {
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next().unwrap_or_default(), words.next(), words.next());
    if !is_token(method) {
        return HttpError::BAD_METHOD;
    }
    match (target, version, words.next()) {
        (Some(target), _, _) if target.iter().any(|byte| *byte < b'!' || *byte >= 0x7f) => HttpError::BAD_TARGET_BYTE,
        (Some(target), Some(version), None) if !target.is_empty() => explain_version(version),
        (Some(target), None, None) if !target.is_empty() => HttpError::NO_VERSION,
        _ => HttpError::BAD_TARGET,
    }
}

#[cold]
fn explain_version(version: &[u8]) -> HttpError {
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            HttpError::UNSUPPORTED_VERSION
        }
        _ => HttpError::NO_VERSION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &[u8]) -> Result<RequestHead, HttpError> {
        let mut parsed = RequestHead::default();
        parsed.parse(head, &Limits::default()).map(|()| parsed)
    }

    fn dripped(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HttpError> {
        let mut scanner = HeadScanner::default();
        for end in 1..=bytes.len() {
            if let Some(found) = scanner.find_end(&bytes[..end], limits)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn scan(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HttpError> {
        let whole = HeadScanner::default().find_end(bytes, limits);
        assert_eq!(dripped(bytes, limits), whole, "dripped: {}", bytes.escape_ascii());
        whole
    }

    #[test]
    fn a_head_s_end_is_found_and_what_follows_is_left_alone() {
        let request = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n\n\0body";
        assert_eq!(scan(request, &Limits::default()), Ok(Some(request.len() - 6)));
        assert_eq!(scan(&request[..27], &Limits::default()), Ok(None));
    }

    #[test]
    fn a_dripped_head_is_looked_at_once() {
        let mut scanner = HeadScanner::default();
        let (bytes, limits) = ([b'x'; 100], Limits::default());
        for end in 1..=bytes.len() {
            assert_eq!(scanner.find_end(&bytes[..end], &limits), Ok(None));
            assert_eq!(scanner.position as usize, end);
        }
    }

    #[test]
    fn a_few_empty_lines_before_a_request_are_skipped_but_no_more() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for lines in 0..=usize::from(MAX_LEADING_EMPTY_LINES) {
            let bytes = [&b"\r\n".repeat(lines)[..], request].concat();
            assert_eq!(scan(&bytes, &Limits::default()), Ok(Some(bytes.len())));
            assert_eq!(parse(&bytes).unwrap().method.of(&bytes), b"GET");
        }
        let bytes = [&b"\r\n".repeat(usize::from(MAX_LEADING_EMPTY_LINES) + 1)[..], request].concat();
        assert_eq!(scan(&bytes, &Limits::default()), Err(HttpError::EMPTY_LINES));
        assert_eq!(parse(&bytes).unwrap_err(), HttpError::EMPTY_LINES);
    }

    #[test]
    fn stray_line_ends_and_nuls_are_refused_before_the_head_is_whole() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\nHost"[..], HttpError::BARE_LF),
            (b"GET / HTTP/1.1\r\nHost: a\n", HttpError::BARE_LF),
            (b"GET / HTTP/1.1\r\nHost: a\rb", HttpError::BARE_CR),
            (b"GET / HTTP/1.1\r\nHost: a\r\r\n", HttpError::BARE_CR),
            (b"\n", HttpError::BARE_LF),
            (b"\rG", HttpError::BARE_CR),
            (b"\x16\x03\x01\x00\xa5", HttpError::NUL),
        ] {
            assert_eq!(scan(bytes, &Limits::default()), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_the_request_line_has_an_error_of_its_own() {
        let limits = Limits { max_head_bytes: 200, max_target_bytes: 100, ..Limits::default() };
        let with_filler = |bytes: usize| [&b"GET / HTTP/1.1\r\nA: "[..], &vec![b'x'; bytes - 23], b"\r\n\r\n"].concat();
        assert_eq!(scan(&with_filler(200), &limits), Ok(Some(200)));
        assert_eq!(scan(&with_filler(201), &limits), Err(HttpError::HEAD_TOO_LARGE));
        assert_eq!(scan(&[b'x'; 143], &limits), Err(HttpError::TARGET_TOO_LONG));
        assert_eq!(scan(&[b'x'; 142], &limits), Ok(None));
        assert_eq!(scan(&[&[b'x'; 143][..], b"\n"].concat(), &limits), Err(HttpError::TARGET_TOO_LONG));
        let no_target_limit = Limits { max_target_bytes: usize::MAX, ..limits };
        assert_eq!(scan(&[b'x'; 200], &no_target_limit), Err(HttpError::TARGET_TOO_LONG));
        assert_eq!(scan(&[b'x'; 199], &no_target_limit), Ok(None));
    }

    #[test]
    fn the_tokeniser_s_tolerance_for_bare_line_feeds_is_not_ours() {
        for head in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(parse(head).unwrap_err(), HttpError::BARE_LF, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_head_is_parsed_only_when_it_is_the_whole_input() {
        for head in [&b""[..], b"\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"] {
            assert_eq!(parse(head).unwrap_err(), HttpError::INCOMPLETE_HEAD, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_head_beyond_the_limit_is_not_parsed_even_if_nobody_scanned_it() {
        let bytes = [&b"GET / HTTP/1.1\r\nHost: a\r\nX: "[..], &[b'x'; 40_000], b"\r\n\r\n"].concat();
        assert_eq!(parse(&bytes).unwrap_err(), HttpError::HEAD_TOO_LARGE);
    }

    #[test]
    fn a_reused_head_keeps_nothing_of_the_request_before() {
        let mut head = RequestHead::default();
        let first = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
            Connection: upgrade, close\r\nUpgrade: x\r\n\r\n";
        head.parse(first, &Limits::default()).unwrap();
        assert!(head.upgrade && head.expect_continue && !head.keep_alive);
        let (room, second) = (head.headers.capacity(), b"GET /p?q HTTP/1.1\r\nHost: b\r\n\r\n");
        head.parse(second, &Limits::default()).unwrap();
        assert_eq!((head.path.of(second), head.query.of(second)), (&b"/p"[..], &b"q"[..]));
        assert_eq!((head.framing, head.target_form, head.headers.len()), (BodyFraming::None, TargetForm::Origin, 1));
        assert!(!head.upgrade && !head.expect_continue && head.keep_alive);
        assert_eq!(head.headers.capacity(), room);
        head.parse(first, &Limits::default()).unwrap();
        assert!(head.path.is_empty() && head.query.is_empty());
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port_at_the_most() {
        for good in
            ["a", "a:80", "a:", "127.0.0.1:8000", "[::1]", "[::1]:80", "[fe80::1%25eth0]:1", "a_b-c.d~e", "x%20"]
        {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        let bad = [
            "a b", "a/b", "a@b", "a:b", "a:80:80", ":80", "[::1", "::1", "[]", "[::1]x", "[g/]", "a\\b", "\u{e9}",
            "a?b",
        ];
        for bad in bad {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
