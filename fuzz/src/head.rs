//! Request heads: found at any split, parsed without a panic, and never read more kindly than RFC 9112 reads them.

use penstock::protocol::http1::{BodyFraming, HeadScanner, HttpError, Limits, RequestHead, Span, TargetForm};

use crate::input::{Input, Splits};
use crate::naive;

/// One byte chooses the limits, two choose the splits; the rest is what the peer sends.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = choose_limits(input.byte());
    let word = input.word();
    let bytes = input.rest();

    let whole = HeadScanner::default().find_end(bytes, &limits);
    assert_eq!(dripped(bytes, Splits::new(word).ends(bytes.len()), &limits), whole, "split by {word}");
    if bytes.len() <= 512 {
        assert_eq!(dripped(bytes, (1..=bytes.len()).collect(), &limits), whole, "byte by byte");
    }
    // What nobody scanned must do no harm either.
    let unscanned = parse(bytes, &limits);
    match whole {
        Ok(Some(end)) => {
            assert!(end <= bytes.len() && end <= limits.max_head_bytes);
            let parsed = parse(&bytes[..end], &limits);
            if let Ok(head) = &parsed {
                check_parsed(head, &bytes[..end], &limits);
            }
            if end == bytes.len() {
                assert_eq!(unscanned.err(), parsed.err());
            }
        }
        Ok(None) | Err(_) => assert!(unscanned.is_err(), "parsed although no end was found"),
    }
}

fn choose_limits(byte: u8) -> Limits {
    match byte % 4 {
        1 => Limits { max_head_bytes: 200, max_target_bytes: 40, ..Limits::default() },
        2 => Limits { max_headers: 3, ..Limits::default() },
        3 => Limits { max_head_bytes: usize::MAX, max_headers: usize::MAX, max_target_bytes: usize::MAX },
        _ => Limits::default(),
    }
}

fn dripped(bytes: &[u8], ends: Vec<usize>, limits: &Limits) -> Result<Option<usize>, HttpError> {
    let mut scanner = HeadScanner::default();
    for end in ends {
        if let Some(found) = scanner.find_end(&bytes[..end], limits)? {
            return Ok(Some(found));
        }
    }
    // Nothing new, asked again: still the same.
    scanner.find_end(bytes, limits)
}

fn parse(bytes: &[u8], limits: &Limits) -> Result<RequestHead, HttpError> {
    let mut head = RequestHead::default();
    head.parse(bytes, limits).map(|()| head)
}

fn inside<'a>(span: Span, bytes: &'a [u8]) -> &'a [u8] {
    assert!(span.start() <= span.end() && span.end() <= bytes.len(), "{span:?} of {} bytes", bytes.len());
    span.of(bytes)
}

fn check_parsed(head: &RequestHead, bytes: &[u8], limits: &Limits) {
    let (lines, fields) = strict_lines(bytes);
    let request_line = [inside(head.method, bytes), inside(head.target, bytes)].join(&b' ');
    let version = format!(" HTTP/1.{}", head.minor_version);
    assert_eq!(lines[0], [&request_line[..], version.as_bytes()].concat(), "the request line says so");
    assert!(naive::is_token(head.method.of(bytes)));
    assert!(head.target.len() <= limits.max_target_bytes && head.headers.len() <= limits.max_headers);
    check_target(head, bytes);
    check_headers(head, bytes, &fields);
    check_framing(head, &lines[1..]);
    check_reuse(head, bytes, limits);
}

/// The head's lines, and its header lines taken apart, each of which must be one by the letter.
fn strict_lines(bytes: &[u8]) -> (Vec<&[u8]>, Vec<(&[u8], &[u8])>) {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let (lines, length) = naive::head_lines(&bytes[start..]).expect("a parsed head has its empty line");
    assert_eq!(start + length, bytes.len(), "nothing follows the empty line");
    assert!(!lines.iter().any(|line| line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))), "stray controls");
    let fields = lines[1..].iter().map(|line| naive::header(line).expect("a header by the letter")).collect();
    (lines, fields)
}

fn check_target(head: &RequestHead, bytes: &[u8]) {
    let (method, target) = (head.method.of(bytes), head.target.of(bytes));
    let (path, query) = (inside(head.path, bytes), inside(head.query, bytes));
    assert!(target.iter().all(|&byte| byte > b' ' && byte < 0x7f && byte != b'#'), "{}", target.escape_ascii());
    match head.target_form {
        TargetForm::Origin => {
            assert!(path.starts_with(b"/"));
            let joined = if query.is_empty() { path.to_vec() } else { [path, query].join(&b'?') };
            assert_eq!(target.strip_suffix(b"?").filter(|_| query.is_empty()).unwrap_or(target), joined);
        }
        TargetForm::Absolute => assert!(path.starts_with(b"/") || path.is_empty() && !query.is_empty()),
        TargetForm::Authority => assert!(method == b"CONNECT" && path.is_empty() && query.is_empty()),
        TargetForm::Asterisk => assert!(method == b"OPTIONS" && path == b"*"),
    }
}

fn check_headers(head: &RequestHead, bytes: &[u8], fields: &[(&[u8], &[u8])]) {
    assert_eq!(head.headers.len(), fields.len());
    let has_host = matches!(head.target_form, TargetForm::Absolute | TargetForm::Authority);
    for ((name, value), (known_name, known_value)) in head.headers.iter().zip(fields) {
        assert_eq!(inside(*name, bytes), *known_name);
        if !(has_host && known_name.eq_ignore_ascii_case(b"host")) {
            assert_eq!(inside(*value, bytes), *known_value);
        }
    }
}

/// Decide the framing again, by the letter: whatever is not plainly one of these must have been refused.
fn check_framing(head: &RequestHead, lines: &[&[u8]]) {
    let (lengths, codings) = (naive::values(lines, "content-length"), naive::values(lines, "transfer-encoding"));
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => BodyFraming::None,
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit), "{}", length.escape_ascii());
            BodyFraming::Length(std::str::from_utf8(length).unwrap().parse().expect("a length of 64 bits"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && head.minor_version == 1 => BodyFraming::Chunked,
        _ => panic!("lengths {lengths:?} and codings {codings:?} must be refused"),
    };
    assert_eq!(head.framing, framing);
    let hosts = naive::values(lines, "host").len();
    assert!(hosts == 1 || hosts == 0 && head.minor_version == 0, "{hosts} Host headers");
}

/// A head that served another request before, and bytes that lie elsewhere, make no difference.
fn check_reuse(head: &RequestHead, bytes: &[u8], limits: &Limits) {
    let before = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut reused = RequestHead::default();
    reused.parse(before, &Limits::default()).expect("a valid head");
    reused.parse(&bytes.to_vec(), limits).expect("parsed before");
    assert_eq!(format!("{reused:?}"), format!("{head:?}"));
}
