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
        let network = SimulatedNetwork::new(1, FaultPlan::CALM);
        let listener = network.listen().unwrap();
        let server = Server(HttpServer::new(HttpSettings::default(), None));
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
