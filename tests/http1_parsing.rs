//! HTTP/1.1 requests as a connection reads them: valid ones, smuggled ones, random ones, at every split.

use penstock::protocol::http1::{
    BodyDecoder, BodyFraming, HeadScanner, HttpError, Limits, RequestHead, ResponseContext, ResponseHead, TargetForm,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Everything a connection learns of one request. A trailer section is as it came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    framing: BodyFraming,
    keep_alive: bool,
    body: Vec<u8>,
    trailers: Vec<u8>,
    whole: bool,
}

/// What came of a stream: the requests that were read, and why reading stopped early.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reading {
    requests: Vec<Request>,
    error: Option<HttpError>,
}

/// A connection's way of reading: keep what is not used yet, ask again when more has arrived.
struct Reader {
    limits: Limits,
    scanner: HeadScanner,
    head: RequestHead,
    body: Option<BodyDecoder>,
    kept: Vec<u8>,
    most_kept: usize,
    reading: Reading,
}

impl Reader {
    fn new(limits: Limits) -> Self {
        Reader {
            limits,
            scanner: HeadScanner::default(),
            head: RequestHead::default(),
            body: None,
            kept: Vec::new(),
            most_kept: 0,
            reading: Reading::default(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.reading.error.is_none() {
            self.kept.extend_from_slice(bytes);
            self.reading.error = self.advance().err();
            self.most_kept = self.most_kept.max(self.kept.len());
        }
    }

    fn advance(&mut self) -> Result<(), HttpError> {
        loop {
            if self.body.is_some() {
                self.read_body()?;
            }
            if self.body.is_some() || !self.read_head()? {
                return Ok(());
            }
        }
    }

    fn read_head(&mut self) -> Result<bool, HttpError> {
        let Some(end) = self.scanner.find_end(&self.kept, &self.limits)? else { return Ok(false) };
        let bytes: Vec<u8> = self.kept.drain(..end).collect();
        self.head.parse(&bytes, &self.limits)?;
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        self.reading.requests.push(Request {
            method: text(self.head.method.of(&bytes)),
            path: text(self.head.path.of(&bytes)),
            query: text(self.head.query.of(&bytes)),
            headers: self.head.headers.iter().map(|(n, v)| (text(n.of(&bytes)), text(v.of(&bytes)))).collect(),
            framing: self.head.framing,
            keep_alive: self.head.keep_alive,
            ..Request::default()
        });
        (self.scanner, self.body) = (HeadScanner::default(), Some(BodyDecoder::new(self.head.framing)));
        Ok(true)
    }

    fn read_body(&mut self) -> Result<(), HttpError> {
        let (Some(decoder), Some(request)) = (&mut self.body, self.reading.requests.last_mut()) else { return Ok(()) };
        let mut at = 0;
        while !request.whole {
            let rest = &self.kept[at..];
            let decoded = decoder.decode(rest)?;
            request.body.extend_from_slice(&rest[decoded.data.clone()]);
            request.trailers.extend_from_slice(&rest[decoded.trailers.clone()]);
            request.whole = decoded.finished;
            at += decoded.consumed;
            if decoded.consumed == 0 {
                break;
            }
        }
        self.kept.drain(..at);
        if request.whole {
            self.body = None;
        }
        Ok(())
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Reading {
    let mut reader = Reader::new(limits);
    pieces.into_iter().for_each(|piece| reader.receive(piece));
    reader.reading
}

/// Read `bytes` whole and byte by byte, which must come to the same.
fn read_both_ways(bytes: &[u8]) -> Reading {
    let whole = read([bytes], Limits::default());
    assert_eq!(read(bytes.chunks(1), Limits::default()), whole, "dripped: {}", bytes.escape_ascii());
    whole
}

fn parse(head: &[u8]) -> Result<RequestHead, HttpError> {
    let mut parsed = RequestHead::default();
    parsed.parse(head, &Limits::default()).map(|()| parsed)
}

#[test]
fn pipelined_requests_are_read_one_after_another() {
    let reading = read_both_ways(
        b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n\
        POST /b HTTP/1.1\r\nhost:h\r\nContent-Length:  3 \r\n\r\nabc\
        PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n\
        \r\nGET /d HTTP/1.0\r\n\r\n",
    );
    assert_eq!(reading.error, None);
    let seen: Vec<_> = reading
        .requests
        .iter()
        .map(|r| (r.method.as_str(), r.path.as_str(), r.body.as_slice(), r.keep_alive))
        .collect();
    assert_eq!(
        seen,
        [
            ("GET", "/a", &b""[..], true),
            ("POST", "/b", b"abc", true),
            ("PUT", "/c", b"de", true),
            ("GET", "/d", b"", false)
        ]
    );
    assert!(reading.requests.iter().all(|request| request.whole));
    assert_eq!(
        (reading.requests[0].query.as_str(), reading.requests[2].trailers.as_slice()),
        ("x=1", &b"T: 1\r\n\r\n"[..])
    );
    assert_eq!(reading.requests[1].headers, [("host".into(), "h".into()), ("Content-Length".into(), "3".into())]);
}

#[test]
fn targets_have_four_forms() {
    let cases = [
        ("GET", "/", TargetForm::Origin, "/", "", "h"),
        ("GET", "/a/b?c=d?e", TargetForm::Origin, "/a/b", "c=d?e", "h"),
        ("GET", "//evil/?", TargetForm::Origin, "//evil/", "", "h"),
        ("GET", "http://other:81/a?b", TargetForm::Absolute, "/a", "b", "other:81"),
        ("GET", "HTTPS://[::1]", TargetForm::Absolute, "/", "", "[::1]"),
        ("GET", "http://other?q", TargetForm::Absolute, "/", "q", "other"),
        ("OPTIONS", "*", TargetForm::Asterisk, "*", "", "h"),
        ("CONNECT", "other:443", TargetForm::Authority, "", "", "other:443"),
    ];
    for (method, target, form, path, query, host) in cases {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
        let head = parse(&bytes).unwrap_or_else(|error| panic!("{target}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(
            (head.target_form, text(head.path.of(&bytes)), text(head.query.of(&bytes))),
            (form, path.into(), query.into())
        );
        assert_eq!(
            (text(head.target.of(&bytes)), text(head.header(&bytes, "host").unwrap())),
            (target.into(), host.into())
        );
    }
}

#[test]
fn a_connection_goes_on_as_version_and_options_say() {
    let cases = [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: foo , CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ];
    for (version, line, keep_alive) in cases {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n{line}\r\n").into_bytes();
        assert_eq!(parse(&bytes).unwrap().keep_alive, keep_alive, "{version} {line}");
    }
}

#[test]
fn an_expectation_counts_where_a_body_waits_for_it() {
    let cases = [
        ("1.1", "Content-Length: 1\r\n", true),
        ("1.1", "Transfer-Encoding: chunked\r\n", true),
        ("1.1", "Content-Length: 0\r\n", false),
        ("1.1", "", false),
        ("1.0", "Content-Length: 1\r\n", false),
    ];
    for (version, line, expected) in cases {
        let bytes = format!("PUT / HTTP/{version}\r\nHost: h\r\nExpect: 100-Continue\r\n{line}\r\n").into_bytes();
        assert_eq!(parse(&bytes).unwrap().expect_continue, expected, "{version} {line}");
    }
}

#[test]
fn an_upgrade_needs_both_headers_and_http_1_1() {
    let both = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
    let cases = [("1.1", both, true), ("1.0", both, false), ("1.1", "Upgrade: websocket\r\n", false)];
    for (version, lines, expected) in cases {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n{lines}\r\n").into_bytes();
        assert_eq!(parse(&bytes).unwrap().upgrade, expected, "{version} {lines}");
    }
}

#[test]
fn header_values_keep_their_inner_bytes() {
    let bytes = b"GET / HTTP/1.1\r\nHost: h\r\nA:\t b\tc  d \t\r\nB:\r\nC: \xe9\xff\r\n\r\n";
    let head = parse(bytes).unwrap();
    assert_eq!(head.header(bytes, "a"), Some(&b"b\tc  d"[..]));
    assert_eq!((head.header(bytes, "b"), head.header(bytes, "c")), (Some(&b""[..]), Some(&b"\xe9\xff"[..])));
    assert_eq!(head.header(bytes, "d"), None);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let in_headers: &[(&str, HttpError)] = &[
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HttpError::LENGTH_AND_CODING),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", HttpError::LENGTH_AND_CODING),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", HttpError::REPEATED_CONTENT_LENGTH),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", HttpError::REPEATED_CONTENT_LENGTH),
        ("Content-Length: 5, 5\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: +5\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: -5\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: 5 6\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: 0x5\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: 5_0\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length:\r\n", HttpError::BAD_CONTENT_LENGTH),
        ("Content-Length: 99999999999999999999\r\n", HttpError::CONTENT_TOO_LARGE),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HttpError::REPEATED_TRANSFER_ENCODING),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", HttpError::REPEATED_TRANSFER_ENCODING),
        ("Transfer-Encoding: chunked, chunked\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: chunked, gzip\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: gzip\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: identity\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: xchunked\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: \"chunked\"\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: chunked;q=1\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: ,chunked\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding:\r\n", HttpError::BAD_TRANSFER_ENCODING),
        ("Transfer-Encoding: \x0bchunked\r\n", HttpError::BAD_HEADER_VALUE),
        ("Transfer-Encoding: gzip, chunked\r\n", HttpError::UNKNOWN_TRANSFER_ENCODING),
        ("Transfer-Encoding : chunked\r\n", HttpError::SPACE_BEFORE_COLON),
        ("Transfer-Encoding\t: chunked\r\n", HttpError::SPACE_BEFORE_COLON),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", HttpError::FOLDED_HEADER),
        ("X: y\r\n\tz\r\n", HttpError::FOLDED_HEADER),
        ("X: y\r\n \r\n", HttpError::FOLDED_HEADER),
        (": y\r\n", HttpError::EMPTY_HEADER_NAME),
        ("X\r\n", HttpError::NO_COLON),
        ("X Y: z\r\n", HttpError::BAD_HEADER_NAME),
        ("X\u{e9}: z\r\n", HttpError::BAD_HEADER_NAME),
        ("X(: z\r\n", HttpError::BAD_HEADER_NAME),
        ("X: a\x01b\r\n", HttpError::BAD_HEADER_VALUE),
        ("X: a\x7fb\r\n", HttpError::BAD_HEADER_VALUE),
        ("X: a\0b\r\n", HttpError::NUL),
        ("X: a\rb\r\n", HttpError::BARE_CR),
        ("X: a\nContent-Length: 5\r\n", HttpError::BARE_LF),
        ("X: a\r\r\n", HttpError::BARE_CR),
        ("host: other\r\n", HttpError::REPEATED_HOST),
        ("Expect: 200-ok\r\n", HttpError::UNKNOWN_EXPECTATION),
    ];
    for (lines, error) in in_headers {
        let bytes = format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes();
        let reading = read_both_ways(&bytes);
        assert_eq!((reading.error, reading.requests), (Some(*error), vec![]), "{lines:?}");
    }
}

#[test]
fn a_bad_request_line_or_host_is_refused() {
    let cases: &[(&str, HttpError)] = &[
        ("GET / HTTP/1.1\r\n\r\n", HttpError::NO_HOST),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HttpError::BAD_HOST),
        ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", HttpError::BAD_HOST),
        ("GET / HTTP/1.1\r\nHost: h/p\r\n\r\n", HttpError::BAD_HOST),
        ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", HttpError::FOLDED_HEADER),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", HttpError::UNSUPPORTED_VERSION),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", HttpError::UNSUPPORTED_VERSION),
        ("PRI * HTTP/2.0\r\n\r\n", HttpError::UNSUPPORTED_VERSION),
        ("GET / HTTP/0.9\r\nHost: h\r\n\r\n", HttpError::UNSUPPORTED_VERSION),
        ("GET / http/1.1\r\nHost: h\r\n\r\n", HttpError::NO_VERSION),
        ("GET / HTTP/1.10\r\nHost: h\r\n\r\n", HttpError::NO_VERSION),
        ("GET / HTTP/1.1x\r\nHost: h\r\n\r\n", HttpError::NO_VERSION),
        ("GET /\r\n\r\n", HttpError::NO_VERSION),
        ("GET\r\n\r\n", HttpError::BAD_TARGET),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET),
        ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET),
        ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", HttpError::BAD_TARGET),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET),
        ("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_METHOD),
        (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_METHOD),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_METHOD),
        ("GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET_BYTE),
        ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET_BYTE),
        ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET_BYTE),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET_FORM),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_TARGET_FORM),
        ("GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_AUTHORITY),
        ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_AUTHORITY),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::ASTERISK_WITHOUT_OPTIONS),
        ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_AUTHORITY),
        ("CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", HttpError::BAD_AUTHORITY),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::CODING_IN_1_0),
    ];
    for (request, error) in cases {
        let reading = read_both_ways(request.as_bytes());
        assert_eq!((reading.error, reading.requests), (Some(*error), vec![]), "{request:?}");
    }
}

#[test]
fn what_a_head_may_cost_is_bounded() {
    let head = |line: &str, lines: &str| format!("{line}\r\nHost: h\r\n{lines}\r\n").into_bytes();
    let headers = |count: usize| head("GET / HTTP/1.1", &"A: b\r\n".repeat(count - 1));
    assert_eq!(read([&headers(100)[..]], Limits::default()).error, None);
    assert_eq!(read([&headers(101)[..]], Limits::default()).error, Some(HttpError::TOO_MANY_HEADERS));
    let generous = Limits { max_headers: usize::MAX, ..Limits::default() };
    assert_eq!(read([&headers(Limits::MOST_HEADERS)[..]], generous).error, None);
    assert_eq!(read([&headers(Limits::MOST_HEADERS + 1)[..]], generous).error, Some(HttpError::TOO_MANY_HEADERS));
    let target = |bytes: usize| head(&format!("GET /{} HTTP/1.1", "x".repeat(bytes - 1)), "");
    assert_eq!(read_both_ways(&target(8192)).error, None);
    for bytes in [8193, 8300, 40_000] {
        assert_eq!(read_both_ways(&target(bytes)).error, Some(HttpError::TARGET_TOO_LONG), "{bytes}");
    }
    let method = |bytes: usize| head(&format!("{} / HTTP/1.1", "M".repeat(bytes)), "");
    assert_eq!(read_both_ways(&method(32)).error, None);
    assert_eq!(read_both_ways(&method(33)).error, Some(HttpError::METHOD_TOO_LONG));
    assert_eq!(
        read_both_ways(&head("GET / HTTP/1.1", &"A: b\r\n".repeat(6000))).error,
        Some(HttpError::HEAD_TOO_LARGE)
    );
}

fn context() -> ResponseContext<'static> {
    ResponseContext {
        request_is_head: false,
        keep_alive_wanted: true,
        request_minor: 1,
        whole_body_bytes: None,
        date: Some(b"Sun, 06 Nov 1994 08:49:37 GMT"),
        server: None,
        lines: b"",
    }
}

/// Bytes that are nearly requests: fragments that matter to a parser, in any order.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let fragments: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /p?q HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n",
        b"3;e=f\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\nT: u\r\n\r\n",
        b"GET",
        b" ",
        b"/",
        b"http://h",
        b"*",
        b"?",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r",
        b"\n",
        b":",
        b"\0",
        b"Host: h\r\n",
        b"Content-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"X",
        b"\t",
        b"\xff",
        b"5",
        b"ffffffffffffffff",
    ];
    let fragment = prop_oneof![
        8 => proptest::sample::select(fragments).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..8),
    ];
    vec(fragment, 0..12).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn any_split_of_a_stream_reads_the_same(bytes in near_requests(), cuts in vec(any::<u16>(), 0..8)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let small = Limits { max_head_bytes: 90, max_headers: 3, max_target_bytes: 10 };
        for limits in [Limits::default(), small] {
            let whole = read([&bytes[..]], limits);
            prop_assert_eq!(&read(cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]), limits), &whole);
            prop_assert_eq!(&read(bytes.chunks(1), limits), &whole);
        }
    }

    #[test]
    fn a_reader_never_keeps_more_than_a_head(pieces in vec(vec(any::<u8>(), 1..64), 0..64)) {
        let limits = Limits { max_head_bytes: 256, max_headers: 4, max_target_bytes: 64 };
        let mut reader = Reader::new(limits);
        pieces.iter().for_each(|piece| reader.receive(piece));
        prop_assert!(reader.most_kept <= limits.max_head_bytes + 64);
        prop_assert!(reader.head.headers.capacity() <= limits.max_headers.next_power_of_two());
    }

    #[test]
    fn a_head_that_parses_ends_where_the_scanner_says(bytes in near_requests()) {
        let scanned = HeadScanner::default().find_end(&bytes, &Limits::default());
        for end in (0..bytes.len()).filter_map(|at| bytes[at..].starts_with(b"\n").then_some(at + 1)) {
            if parse(&bytes[..end]).is_ok() {
                prop_assert_eq!(scanned, Ok(Some(end)));
            }
        }
    }

    #[test]
    fn spans_lie_within_their_head(bytes in near_requests()) {
        if let Ok(Some(end)) = HeadScanner::default().find_end(&bytes, &Limits::default())
            && let Ok(head) = parse(&bytes[..end])
        {
            let spans = head.headers.iter().flat_map(|(name, value)| [name, value]);
            for span in spans.chain([&head.method, &head.target, &head.path, &head.query]) {
                prop_assert!(span.of(&bytes[..end]).iter().all(|byte| !b"\r\n\0".contains(byte)));
            }
        }
    }

    #[test]
    fn a_response_head_has_exactly_the_lines_it_was_given(
        headers in vec(("[a-zA-Z\\-]{1,12}|.{0,4}", ".{0,12}|[\r\n\0a]{1,3}"), 0..6)
    ) {
        let mut out = b"before".to_vec();
        let mut head = ResponseHead::start(&mut out, 200);
        let valid = headers.iter().all(|(name, value)| head.header(name.as_bytes(), value.as_bytes()).is_ok());
        prop_assert_eq!(head.finish(context()).is_ok(), valid);
        let lines = out["before".len()..].split(|&byte| byte == b'\n').count();
        if valid {
            prop_assert!(out.ends_with(b"\r\n\r\n") && lines <= headers.len() + 6);
        } else {
            prop_assert_eq!(out, b"before");
        }
    }
}
