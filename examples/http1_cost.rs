//! What HTTP/1.1 costs without any I/O: `cargo run --release --no-default-features --example http1_cost`.
//!
//! Each figure is the best of several rounds, which is the one least disturbed by the rest of the machine.

use std::hint::black_box;
use std::time::Instant;

use penstock::protocol::http1::{
    BodyWriter, DateCache, DateText, HeadScanner, Limits, RequestHead, ResponseContext, ResponseHead,
};

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const BROWSER: &[u8] = b"GET /assets/app.css?v=1f3c HTTP/1.1\r\n\
    Host: shop.example:8443\r\n\
    Connection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n\
    Accept: text/css,*/*;q=0.1\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example:8443/cart\r\n\
    Sec-Fetch-Dest: style\r\n\
    Sec-Fetch-Mode: no-cors\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    If-None-Match: \"5e1f-61b2c3\"\r\n\r\n";
const HELLO: &[u8] = b"Hello, world!";

fn time(name: &str, bytes: usize, mut work: impl FnMut()) {
    const ROUNDS: usize = 20;
    const REPEATS: u32 = 50_000;
    let mut best_ns = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (0..REPEATS).for_each(|_| work());
        best_ns = best_ns.min(start.elapsed().as_nanos() as f64 / f64::from(REPEATS));
    }
    println!("{name:<34} {bytes:>4} bytes {best_ns:>8.1} ns");
}

fn read_head(head: &mut RequestHead, bytes: &[u8], limits: &Limits) {
    let end = HeadScanner::default().find_end(bytes, limits).expect("valid").expect("whole");
    head.parse(&bytes[..end], limits).expect("valid");
}

fn write_hello(out: &mut Vec<u8>, date: &DateText) {
    out.clear();
    let mut head = ResponseHead::start(out, 200);
    head.header(b"content-type", b"text/plain").expect("valid");
    head.header(b"content-length", b"13").expect("valid");
    let framing = head
        .finish(ResponseContext {
            request_is_head: false,
            keep_alive_wanted: true,
            request_minor: 1,
            whole_body_bytes: Some(HELLO.len() as u64),
            date: Some(date),
            server: Some(b"penstock"),
            lines: b"",
        })
        .expect("valid");
    let mut body = BodyWriter::new(framing.body);
    body.write(out, HELLO).expect("as declared");
    body.finish(out).expect("as declared");
}

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: the figures mean nothing");
    }
    let (mut head, mut out, limits) = (RequestHead::default(), Vec::with_capacity(4096), Limits::default());
    let mut dates = DateCache::new(784_111_777);
    for (name, bytes) in [("small GET", SMALL), ("browser's GET, 12 headers", BROWSER)] {
        time(&format!("{name}: find the end"), bytes.len(), || {
            black_box(HeadScanner::default().find_end(black_box(bytes), &limits)).expect("valid");
        });
        time(&format!("{name}: parse"), bytes.len(), || {
            head.parse(black_box(bytes), &limits).expect("valid");
            black_box(&head);
        });
        time(&format!("{name}: both"), bytes.len(), || {
            read_head(&mut head, black_box(bytes), &limits);
            black_box(&head);
        });
    }
    write_hello(&mut out, dates.at(784_111_777));
    let response_bytes = out.len();
    time("hello response: head and body", response_bytes, || {
        write_hello(black_box(&mut out), dates.at(784_111_777));
        black_box(&out);
    });
}
