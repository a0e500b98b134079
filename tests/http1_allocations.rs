//! A warm request allocates nothing, and a hostile one no more than the limits allow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use penstock::protocol::http1::{
    BodyDecoder, BodyWriter, DateCache, HeadScanner, HttpError, Limits, RequestHead, ResponseContext, ResponseHead,
};

/// The system's allocator, which counts what each thread asks it for.
struct Counting;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    ALLOCATED_BYTES.with(|allocated| allocated.set(allocated.get() + bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; counting itself does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: the caller's obligations are the same.
        unsafe { System.realloc(start, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated_by(work: impl FnOnce()) -> usize {
    let before = ALLOCATED_BYTES.get();
    work();
    ALLOCATED_BYTES.get() - before
}

const REQUEST: &[u8] = b"POST /p?q HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n0\r\n\r\n";

fn serve(head: &mut RequestHead, out: &mut Vec<u8>, dates: &mut DateCache, now: u64) {
    let limits = Limits::default();
    let end = HeadScanner::default().find_end(REQUEST, &limits).unwrap().unwrap();
    head.parse(&REQUEST[..end], &limits).unwrap();
    let (mut body, mut rest) = (BodyDecoder::new(head.framing), &REQUEST[end..]);
    out.clear();
    let mut response = ResponseHead::start(out, 404);
    response.header(b"content-type", b"text/plain").unwrap();
    let framing = response
        .finish(ResponseContext {
            request_is_head: false,
            keep_alive_wanted: head.keep_alive,
            request_minor: head.minor_version,
            whole_body_bytes: None,
            date: Some(dates.at(now)),
            server: Some(b"penstock"),
            lines: b"",
        })
        .unwrap();
    let mut writer = BodyWriter::new(framing.body);
    while !rest.is_empty() {
        let decoded = body.decode(rest).unwrap();
        writer.write(out, &rest[decoded.data]).unwrap();
        rest = &rest[decoded.consumed..];
    }
    writer.finish(out).unwrap();
}

#[test]
fn a_warm_request_and_its_response_allocate_nothing() {
    let (mut head, mut out, mut dates) = (RequestHead::default(), Vec::new(), DateCache::new(0));
    assert!(allocated_by(|| serve(&mut head, &mut out, &mut dates, 1)) > 0, "the first request warms up");
    assert_eq!(allocated_by(|| (2..100).for_each(|now| serve(&mut head, &mut out, &mut dates, now))), 0);
}

#[test]
fn a_hostile_head_allocates_no_more_than_its_headers() {
    let limits = Limits::default();
    let heads = [
        ("A:\r\n".repeat(99), Ok(())),
        (format!("Connection: {}\r\n", "x,".repeat(15_000)), Ok(())),
        ("A:\r\n".repeat(8000), Err(HttpError::TOO_MANY_HEADERS)),
        (format!("{}B B: c\r\n", "A:\r\n".repeat(98)), Err(HttpError::BAD_HEADER_NAME)),
        (format!("Transfer-Encoding: {}\r\n", ",".repeat(30_000)), Err(HttpError::BAD_TRANSFER_ENCODING)),
    ];
    for (lines, expected) in heads {
        let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes();
        let (mut head, mut outcome) = (RequestHead::default(), Ok(()));
        let allocated = allocated_by(|| outcome = head.parse(&bytes, &limits));
        assert_eq!(outcome, expected);
        // A vector doubles until it is large enough: twice its final size in all.
        assert!(allocated <= 2 * 128 * 16, "{allocated} bytes for {}", bytes[..60].escape_ascii());
    }
}
