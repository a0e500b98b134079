//! What the HTTP server answers by itself: pages after their turn, refusals, interim answers; without a kernel.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use penstock::core::buffer::Lease;
use penstock::core::poller::Readiness;
use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork, SimulatedPeer};
use penstock::core::{CloseReason, EventLoop, Io, Service, Token};
use penstock::protocol::http1::ResponseError;
use penstock::server::Connection;
use penstock::server::http::{HttpEvent, HttpServer, HttpSettings};

type HttpIo = Io<Connection>;

/// A reactor that serves HTTP and nothing else.
struct Server(HttpServer);

impl Service for Server {
    type Connection = Connection;
    type Mail = ();

    fn accepted(&mut self, io: &mut HttpIo, _listener: Token, fd: OwnedFd) {
        self.0.add(io, fd, 0);
    }
    fn received(&mut self, io: &mut HttpIo, token: Token, lease: Lease) {
        self.0.received(io, token, lease);
    }
    fn ended(&mut self, io: &mut HttpIo, token: Token) {
        self.0.ended(io, token);
    }
    fn drained(&mut self, io: &mut HttpIo, token: Token) {
        self.0.drained(io, token);
    }
    fn blocked(&mut self, io: &mut HttpIo, token: Token) {
        self.0.blocked(io, token);
    }
    fn unblocked(&mut self, io: &mut HttpIo, token: Token) {
        self.0.unblocked(io, token);
    }
    fn expired(&mut self, io: &mut HttpIo, token: Token) {
        self.0.expired(io, token);
    }
    fn closed(&mut self, _io: &mut HttpIo, token: Token, state: Connection, reason: CloseReason) {
        self.0.closed(token, state, reason);
    }
    fn ready(&mut self, _io: &mut HttpIo, _token: Token, _readiness: Readiness) {}
    fn mail(&mut self, _io: &mut HttpIo, _mail: ()) {}
    fn settle(&mut self, io: &mut HttpIo) -> bool {
        self.0.settle(io)
    }
}

struct Site {
    network: SimulatedNetwork,
    listener: i32,
    event_loop: EventLoop<Server>,
}

impl Site {
    fn new() -> Site {
        Site::with(HttpSettings::default())
    }

    fn with(settings: HttpSettings) -> Site {
        let network = SimulatedNetwork::new(1, FaultPlan::CALM);
        let listener = network.listen().unwrap();
        let server = Server(HttpServer::new(settings, None));
        let mut event_loop = EventLoop::new(Box::new(network.poller()), server).unwrap();
        let fd = listener.as_raw_fd();
        event_loop.io.add_listener(listener).unwrap();
        Site { network, listener: fd, event_loop }
    }

    /// A new peer that has sent `bytes`.
    fn peer(&mut self, bytes: &[u8]) -> SimulatedPeer {
        let mut peer = self.network.dial(self.listener);
        assert_eq!(peer.write(bytes), bytes.len());
        peer
    }

    fn turn(&mut self) {
        self.event_loop.turn(Some(Duration::from_millis(1))).unwrap();
    }

    /// Turn until the application is asked something.
    fn next_request(&mut self) -> Token {
        for _ in 0..10 {
            self.turn();
            if let Some(HttpEvent::Request(token)) = self.event_loop.service.0.next_event() {
                return token;
            }
        }
        panic!("no request came");
    }
}

#[test]
fn a_page_about_a_request_whose_turn_is_over_is_still_in_the_style_it_asked_for() {
    let mut site = Site::new();
    let mut peer = site.peer(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    let token = site.next_request();
    // The memory that the head was received into is used again.
    let _other = site.peer(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/json\r\n\r\n");
    site.next_request();
    site.turn();
    let EventLoop { io, service: Server(http), .. } = &mut site.event_loop;
    assert!(http.request(io, token).is_none(), "the head is not to be seen any more");
    http.fail(io, token);
    site.turn();
    let answer = String::from_utf8(peer.read(usize::MAX)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("\r\ncontent-type: text/html"), "{answer}");
}

#[test]
fn an_interim_status_is_no_response() {
    let mut site = Site::new();
    let mut peer = site.peer(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let token = site.next_request();
    let EventLoop { io, service: Server(http), .. } = &mut site.event_loop;
    for status in [100, 101, 103, 199] {
        let begun = http.start_response::<ResponseError>(io, token, status, 0, true, |_| Ok(()));
        assert_eq!(begun, Err(ResponseError::InterimStatus(status)));
    }
    http.fail(io, token);
    site.turn();
    let answer = String::from_utf8(peer.read(usize::MAX)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 "), "nothing went before: {answer}");
}

#[test]
fn connect_is_refused_because_nothing_here_could_be_the_far_end() {
    let mut site = Site::new();
    let mut peer = site.peer(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..5 {
        site.turn();
        assert_eq!(site.event_loop.service.0.next_event(), None, "the application is not asked");
    }
    let answer = String::from_utf8(peer.read(usize::MAX)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// The counters of refusals that are not zero.
fn refusals(site: &Site) -> Vec<(&'static str, u64)> {
    let counted = |(name, help, count): (&'static str, &'static str, u64)| {
        (count > 0 && (help.contains("answered with") || name.ends_with("timed_out"))).then_some((name, count))
    };
    site.event_loop.io.counters.snapshot().into_iter().filter_map(counted).collect()
}

/// Turn for so long, in the network's time.
fn pass(site: &mut Site, time: Duration) {
    let end = site.event_loop.io.now() + time;
    while site.event_loop.io.now() < end {
        site.event_loop.turn(Some(Duration::from_secs(1))).unwrap();
        // Nobody acts on them, but while they wait the loop does not sleep.
        while site.event_loop.service.0.next_event().is_some() {}
    }
}

#[test]
fn every_limit_is_answered_with_its_status_and_counted_by_its_own_counter() {
    let large = "x".repeat(40_000);
    let many = "a: b\r\n".repeat(101);
    let start = "POST / HTTP/1.1\r\nHost: a\r\n";
    let cases = [
        ("heads_too_large", 431, format!("{start}Large: {large}\r\n\r\n"), 0),
        ("heads_too_large", 431, format!("{start}{many}\r\n"), 0),
        ("targets_too_long", 414, format!("GET /{large} HTTP/1.1\r\nHost: a\r\n\r\n"), 0),
        ("bodies_too_large", 413, format!("{start}Content-Length: 1001\r\n\r\n"), 0),
        ("bodies_too_large", 413, format!("{start}Transfer-Encoding: chunked\r\n\r\n400\r\n{}", &large[..0x400]), 0),
        ("trailers_too_large", 431, format!("{start}Transfer-Encoding: chunked\r\n\r\n0\r\nLarge: {large}"), 0),
        ("heads_timed_out", 408, start.to_owned(), 11),
        ("bodies_timed_out", 408, format!("{start}Content-Length: 100\r\n\r\nbegun"), 21),
        ("requests_malformed", 400, "GET  / HTTP/1.1\r\n\r\n".to_owned(), 0),
        ("requests_malformed", 505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 0),
        ("requests_malformed", 417, format!("{start}Expect: miracles\r\n\r\n"), 0),
    ];
    for (counter, status, bytes, seconds) in cases {
        let mut site = Site::with(HttpSettings { max_body_bytes: 1000, ..HttpSettings::default() });
        let mut peer = site.peer(bytes.as_bytes());
        (0..20).for_each(|_| site.turn());
        pass(&mut site, Duration::from_secs(seconds));
        let answer = String::from_utf8(peer.read(usize::MAX)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{counter}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{counter}: {answer}");
        assert_eq!(refusals(&site), [(counter, 1)]);
    }
}

#[test]
fn what_is_over_a_limit_of_how_many_is_told_when_to_come_again_and_counted() {
    let get: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let one_request = HttpSettings { max_requests_in_progress: 1, ..HttpSettings::default() };
    let one_connection = HttpSettings { max_connections: 1, ..HttpSettings::default() };
    for (counter, settings) in [("requests_over_limit", one_request), ("connections_over_limit", one_connection)] {
        let mut site = Site::with(settings);
        let _first = site.peer(get);
        site.next_request();
        let mut second = site.peer(get);
        (0..20).for_each(|_| site.turn());
        let answer = String::from_utf8(second.read(usize::MAX)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert_eq!(refusals(&site), [(counter, 1)]);
    }
}

#[test]
fn a_reader_that_never_reads_is_cut_off_and_counted() {
    let mut site = Site::new();
    let mut peer = site.peer(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let token = site.next_request();
    let EventLoop { io, service: Server(http), .. } = &mut site.event_loop;
    http.start_response::<ResponseError>(io, token, 200, 0, false, |_| Ok(())).unwrap();
    let body = vec![0; 16 << 20];
    io.append_with(token, |out| out.extend_from_slice(&body)).unwrap();
    pass(&mut site, Duration::from_millis(500));
    // What its side takes meanwhile does not buy it time.
    peer.read(100_000);
    pass(&mut site, Duration::from_secs(20));
    assert_eq!(site.event_loop.io.connections(), 1, "it has its time");
    pass(&mut site, Duration::from_secs(3));
    assert_eq!((site.event_loop.io.connections(), refusals(&site)), (0, vec![("writes_timed_out", 1)]));
    assert!(peer.read(usize::MAX).len() < body.len());
}

#[test]
fn a_refusal_is_in_the_style_that_was_asked_for_however_broken_the_request() {
    let large = "x".repeat(40_000);
    let start = "POST / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n";
    let whole_and_pieces = |rest: &str| [vec![format!("{start}{rest}")], vec![start.to_owned(), rest.to_owned()]];
    let cases = [
        (400, whole_and_pieces("bad line\r\n\r\n")),
        (400, whole_and_pieces("a:\tb\0\r\n\r\n")),
        (408, whole_and_pieces("never: ")),
        (413, whole_and_pieces("Content-Length: 1001\r\n\r\n")),
        (431, whole_and_pieces(&format!("Large: {large}\r\n\r\n"))),
    ];
    for (status, ways) in cases {
        for pieces in ways {
            let mut site = Site::with(HttpSettings { max_body_bytes: 1000, ..HttpSettings::default() });
            let mut peer = site.peer(pieces[0].as_bytes());
            (0..5).for_each(|_| site.turn());
            for piece in &pieces[1..] {
                peer.write(piece.as_bytes());
                (0..5).for_each(|_| site.turn());
            }
            pass(&mut site, Duration::from_secs(if status == 408 { 11 } else { 0 }));
            let answer = String::from_utf8(peer.read(usize::MAX)).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
        }
    }
}
