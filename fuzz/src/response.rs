//! Responses: whatever an application asks for, what leaves is one response by the letter, or nothing at all.

use penstock::protocol::http1::{
    BodyMode, BodyWriter, DateCache, HttpError, ResponseContext, ResponseError, ResponseFraming, ResponseHead,
    error_response,
};

use crate::input::Input;
use crate::naive::{self, Chunked};

const BEFORE: &[u8] = b"what was queued before";

/// Two bytes choose the status, one the context, one the body's length; then headers (name, value), then pieces.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (status, flags, whole_bytes) = (input.word(), input.byte(), input.byte());
    let mut dates = DateCache::new(u64::from(status) << 17);
    let context = ResponseContext {
        request_is_head: flags & 1 != 0,
        keep_alive_wanted: flags & 2 != 0,
        request_minor: flags >> 2 & 1,
        whole_body_bytes: (flags & 8 != 0).then_some(u64::from(whole_bytes)),
        date: (flags & 16 != 0).then(|| dates.at(u64::from(whole_bytes))),
        server: (flags & 32 != 0).then_some(b"penstock"),
        lines: b"",
    };
    // Half of the room of 16 bits is no status at all; the fuzzer is to spend itself elsewhere.
    let status = if flags & 64 != 0 { status } else { 100 + status % 900 };
    let headers: Vec<(&[u8], &[u8])> = (0..input.up_to(6)).map(|_| (input.piece(), input.piece())).collect();

    let mut out = BEFORE.to_vec();
    let built = build(&mut out, status, &headers, context);
    assert!(out.starts_with(BEFORE), "what was queued before was touched");
    match built {
        Err(_) => assert_eq!(out, BEFORE, "a failed head leaves nothing behind"),
        Ok(framing) => {
            check_head(&out[BEFORE.len()..], status, &headers, context, framing);
            check_body(&mut input, framing.body);
        }
    }
    check_refusal(HttpError::ALL[usize::from(whole_bytes) % HttpError::ALL.len()], context);
}

fn build(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&[u8], &[u8])],
    context: ResponseContext<'_>,
) -> Result<ResponseFraming, ResponseError> {
    let mut head = ResponseHead::start(out, status);
    for (at, (name, value)) in headers.iter().enumerate() {
        let added = head.header(name, value);
        if at % 2 == 0 {
            // The careful application stops at once, the careless one finds out by `finish`.
            added?;
        }
    }
    head.finish(context)
}

fn check_head(
    head: &[u8],
    status: u16,
    headers: &[(&[u8], &[u8])],
    context: ResponseContext<'_>,
    framing: ResponseFraming,
) {
    let (lines, length) = naive::head_lines(head).expect("a head ends with its empty line");
    assert_eq!(length, head.len(), "one head, and nothing behind it: {}", head.escape_ascii());
    assert!(lines[0].starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", lines[0].escape_ascii());
    assert!(lines.iter().all(|line| !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))));
    assert!(lines.len() - 1 <= headers.len() + 4, "more headers than were asked for");
    for line in &lines[1..] {
        let colon = line.iter().position(|&byte| byte == b':').expect("a header has a colon");
        assert!(naive::is_token(&line[..colon]), "{}", line.escape_ascii());
    }
    let codings = framing_values(&lines, "transfer-encoding").count();
    let lengths = framing_values(&lines, "content-length").count();
    assert_eq!(codings, usize::from(framing.body == BodyMode::Chunked));
    match framing.body {
        BodyMode::Length(_) => assert_eq!(lengths, 1),
        BodyMode::Chunked | BodyMode::UntilClose => assert_eq!(lengths, 0),
        BodyMode::Forbidden => assert!(lengths <= usize::from(status >= 200 && status != 204)),
    }
    assert!(!(framing.keep_alive && framing.body == BodyMode::UntilClose));
    assert!(context.keep_alive_wanted || !framing.keep_alive);
    assert!(framing.body != BodyMode::Chunked || context.request_minor == 1);
    let says_close = framing_values(&lines, "connection").any(has_close);
    assert!(status < 200 || says_close != framing.keep_alive, "the peer is told: {}", head.escape_ascii());
}

/// The values of a header, whatever bytes they hold: an application may send more than a request may.
fn framing_values<'a>(lines: &[&'a [u8]], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let split = |line: &&'a [u8]| {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        (&line[..colon], &line[line.len().min(colon + 1)..])
    };
    let fields: Vec<_> = lines[1..].iter().map(split).collect();
    fields.into_iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

fn has_close(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Write pieces until the input ends; what leaves must be the body that the head promised.
fn check_body(input: &mut Input<'_>, mode: BodyMode) {
    let (mut writer, mut out, mut sent) = (BodyWriter::new(mode), Vec::new(), Vec::new());
    while !input.is_empty() {
        let (piece, before) = (input.piece(), out.len());
        match writer.write(&mut out, piece) {
            Ok(()) => sent.extend_from_slice(piece),
            Err(error) => {
                assert!(matches!(error, ResponseError::BodyTooLong { .. }) && matches!(mode, BodyMode::Length(_)));
                assert_eq!(out.len(), before, "a piece that is too long is not written at all");
            }
        }
    }
    let finished = writer.finish(&mut out);
    match mode {
        BodyMode::Length(length) => {
            assert_eq!(out, sent);
            assert!(sent.len() as u64 <= length);
            assert_eq!(finished.is_ok(), sent.len() as u64 == length);
        }
        BodyMode::Chunked => assert_eq!(naive::chunked(&out), Chunked::Whole(sent, out.len())),
        BodyMode::UntilClose => assert_eq!(out, sent),
        BodyMode::Forbidden => assert!(out.is_empty() && finished.is_ok()),
    }
}

fn check_refusal(error: HttpError, context: ResponseContext<'_>) {
    let mut out = Vec::new();
    let context = ResponseContext { keep_alive_wanted: false, ..context };
    let framing = error_response(&mut out, error, context);
    let (_, length) = naive::head_lines(&out).expect("a whole head");
    match framing.body {
        BodyMode::Length(bytes) => assert_eq!(out.len() - length, bytes as usize),
        other => assert!(other == BodyMode::Forbidden && out.len() == length),
    }
    assert!(!framing.keep_alive);
}
