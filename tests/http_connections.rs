//! Connections whose first bytes or whose last are not HTTP: announced by a proxy, or handed over to another protocol.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use penstock::core::buffer::Lease;
use penstock::core::poller::{self, PollerKind, Readiness};
use penstock::core::{CloseReason, EventLoop, Io, Service, Token};
use penstock::protocol::http1::ResponseError;
use penstock::server::Connection;
use penstock::server::http::{Body, HttpEvent, HttpServer, HttpSettings, Take, UpgradeError, Upgraded};

const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(5);

type TestIo = Io<Connection>;

/// HTTP, and a toy protocol that some connections are handed over to: what it hears it says again, louder.
struct Site {
    http: HttpServer,
    takes_upgrades: bool,
    shouts: HashMap<Token, Upgraded>,
    refused_upgrades: Vec<UpgradeError>,
}

impl Service for Site {
    type Connection = Connection;
    type Mail = ();

    fn accepted(&mut self, io: &mut TestIo, _listener: Token, fd: OwnedFd) {
        self.http.add(io, fd, 0);
    }

    fn received(&mut self, io: &mut TestIo, token: Token, lease: Lease) {
        if io.http(token).is_some_and(|connection| connection.is_upgraded()) {
            // SAFETY: the lease is of this turn.
            return shout(io, token, unsafe { lease.as_slice() });
        }
        self.http.received(io, token, lease);
    }

    fn ended(&mut self, io: &mut TestIo, token: Token) {
        if self.shouts.contains_key(&token) { io.close(token) } else { self.http.ended(io, token) }
    }

    fn drained(&mut self, io: &mut TestIo, token: Token) {
        self.http.drained(io, token);
    }

    fn blocked(&mut self, io: &mut TestIo, token: Token) {
        self.http.blocked(io, token);
    }

    fn unblocked(&mut self, io: &mut TestIo, token: Token) {
        self.http.unblocked(io, token);
    }

    fn expired(&mut self, io: &mut TestIo, token: Token) {
        self.http.expired(io, token);
    }

    fn closed(&mut self, _io: &mut TestIo, token: Token, state: Connection, reason: CloseReason) {
        self.shouts.remove(&token);
        self.http.closed(token, state, reason);
    }

    fn ready(&mut self, _io: &mut TestIo, _token: Token, _readiness: Readiness) {}

    fn mail(&mut self, _io: &mut TestIo, _mail: ()) {}

    fn settle(&mut self, io: &mut TestIo) -> bool {
        self.http.settle(io)
    }
}

fn shout(io: &mut TestIo, token: Token, bytes: &[u8]) {
    io.append_with(token, |out| out.extend(bytes.iter().map(u8::to_ascii_uppercase)));
}

impl Site {
    /// What the application does: it answers with the request's path and body, or hands the connection over.
    fn serve(&mut self, io: &mut TestIo, event: HttpEvent) {
        let (HttpEvent::Request(token) | HttpEvent::Body(token)) = event else { return };
        let Some(request) = self.http.request(io, token) else { return };
        let (path, offered) = (request.head.path.of(request.bytes).to_vec(), request.head.upgrade);
        if self.takes_upgrades && (offered || path == b"/insist") {
            let headers = |head: &mut penstock::protocol::http1::ResponseHead<'_>| head.header(b"x-volume", b"11");
            match self.http.upgrade(io, token, b"shout", headers) {
                Ok(upgraded) => {
                    shout(io, token, &upgraded.rest);
                    self.shouts.insert(token, upgraded);
                    return;
                }
                Err(error) => self.refused_upgrades.push(error),
            }
        }
        let Take::Taken((mut body, false)) = self.http.take_body(io, token, |data, more| (data.to_vec(), more)) else {
            return;
        };
        let answer = [&path[..], b" ", &std::mem::take(&mut body)].concat();
        let begun = self.http.start_response::<ResponseError>(io, token, 200, answer.len(), true, |_| Ok(()));
        begun.expect("a valid response");
        let _ = self.http.send_body(io, token, Body::Copied(&answer), false);
    }
}

struct Running {
    event_loop: EventLoop<Site>,
    port: u16,
}

impl Running {
    fn new(settings: HttpSettings) -> Self {
        let http = HttpServer::new(HttpSettings { server_header: None, date_header: false, ..settings }, None);
        let site = Site { http, takes_upgrades: true, shouts: HashMap::new(), refused_upgrades: Vec::new() };
        let mut event_loop = EventLoop::new(poller::open(PollerKind::Epoll).unwrap(), site).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        event_loop.io.add_listener(listener.into()).unwrap();
        Running { event_loop, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    fn turn(&mut self) {
        self.event_loop.turn(Some(TICK)).unwrap();
        let EventLoop { io, service, .. } = &mut self.event_loop;
        while let Some(event) = service.http.next_event() {
            service.serve(io, event);
        }
        self.event_loop.flush();
    }

    /// Turn until `stream` has brought so many bytes, or its end.
    fn read(&mut self, stream: &mut TcpStream, bytes: usize) -> String {
        let (start, mut read) = (Instant::now(), Vec::new());
        while read.len() < bytes {
            self.turn();
            let mut piece = [0; 4096];
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => read.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            assert!(start.elapsed() < PATIENCE, "only {:?} came", String::from_utf8_lossy(&read));
        }
        String::from_utf8(read).unwrap()
    }

    fn read_to_end(&mut self, stream: &mut TcpStream) -> String {
        self.read(stream, usize::MAX)
    }
}

const OFFER: &str = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: shout\r\nconnection: upgrade\r\nx-volume: 11\r\n\r\n";

#[test]
fn a_connection_is_handed_over_with_the_bytes_that_followed_its_request() {
    let mut running = Running::new(HttpSettings::default());
    let mut stream = running.connect();
    stream.write_all(format!("{OFFER}first words, ").as_bytes()).unwrap();
    let expected = format!("{SWITCHED}FIRST WORDS, ");
    assert_eq!(running.read(&mut stream, expected.len()), expected);
    let site = &running.event_loop.service;
    let upgraded = site.shouts.values().next().expect("one connection was handed over");
    assert_eq!(upgraded.head, OFFER.as_bytes());
    assert_eq!((upgraded.rest.as_slice(), upgraded.listener), (&b"first words, "[..], 0));
    assert_eq!(upgraded.peer.internet().unwrap().1, stream.local_addr().unwrap().port());
    assert_eq!(site.http.requests_in_progress(), 0);
    // From now on nothing is HTTP, whatever it looks like.
    stream.write_all(b"get / http/1.1\r\n\r\n").unwrap();
    assert_eq!(running.read(&mut stream, 18), "GET / HTTP/1.1\r\n\r\n");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(running.read_to_end(&mut stream), "");
    assert!(running.event_loop.service.shouts.is_empty());
}

#[test]
fn an_offer_that_arrives_in_pieces_is_handed_over_whole() {
    let mut running = Running::new(HttpSettings::default());
    let mut stream = running.connect();
    for byte in OFFER.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
        running.turn();
    }
    assert_eq!(running.read(&mut stream, SWITCHED.len()), SWITCHED);
    let site = &running.event_loop.service;
    assert_eq!(site.shouts.values().next().map(|upgraded| &upgraded.head[..]), Some(OFFER.as_bytes()));
}

#[test]
fn an_offer_that_nobody_takes_is_an_ordinary_request() {
    let mut running = Running::new(HttpSettings::default());
    running.event_loop.service.takes_upgrades = false;
    let mut stream = running.connect();
    stream.write_all(format!("{OFFER}GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
    let answers = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n/chat HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\
                   connection: close\r\n\r\n/next ";
    assert_eq!(running.read_to_end(&mut stream), answers);
}

#[test]
fn a_connection_is_not_handed_over_unasked_or_in_the_middle_of_a_body() {
    let mut running = Running::new(HttpSettings::default());
    let mut stream = running.connect();
    stream.write_all(b"GET /insist HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    running.read(&mut stream, 46);
    let with_body = OFFER.replace("GET", "POST").replace("\r\n\r\n", "\r\ncontent-length: 4\r\n\r\n");
    stream.write_all(with_body.as_bytes()).unwrap();
    running.turn();
    stream.write_all(b"body").unwrap();
    assert!(running.read(&mut stream, 49).ends_with("\r\n\r\n/chat body"));
    let refused = &running.event_loop.service.refused_upgrades;
    assert_eq!(refused[0], UpgradeError::NotOffered);
    assert!(refused[1..].iter().all(|error| *error == UpgradeError::BodyUnread) && refused.len() > 1, "{refused:?}");
}

#[test]
fn a_stop_leaves_upgraded_connections_to_their_protocol() {
    let mut running = Running::new(HttpSettings::default());
    let (mut idle, mut upgraded) = (running.connect(), running.connect());
    upgraded.write_all(OFFER.as_bytes()).unwrap();
    assert_eq!(running.read(&mut upgraded, SWITCHED.len()), SWITCHED);
    let EventLoop { io, service, .. } = &mut running.event_loop;
    service.http.drain(io, false);
    assert_eq!(running.read_to_end(&mut idle), "");
    upgraded.write_all(b"still here").unwrap();
    assert_eq!(running.read(&mut upgraded, 10), "STILL HERE");
}

// ---------------------------------------------------------------- the PROXY protocol

fn behind_a_proxy() -> HttpSettings {
    let trusted = "127.0.0.1".parse().unwrap();
    HttpSettings { proxy_protocol: true, trusted, head_timeout: Duration::from_millis(300), ..HttpSettings::default() }
}

const ASKED: &[u8] = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const ANSWERED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n/a ";

#[test]
fn a_request_follows_the_proxy_s_header_however_both_arrive() {
    let mut running = Running::new(behind_a_proxy());
    let stream_bytes = [b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", ASKED].concat();
    for pieces in [stream_bytes.len(), 45, 46, 44, 7, 1] {
        let mut stream = running.connect();
        for piece in stream_bytes.chunks(pieces) {
            stream.write_all(piece).unwrap();
            running.turn();
        }
        assert_eq!(running.read_to_end(&mut stream), ANSWERED, "in pieces of {pieces} bytes");
    }
}

#[test]
fn without_a_header_in_time_nothing_is_answered() {
    let mut running = Running::new(behind_a_proxy());
    let mut peers = [running.connect(), running.connect(), running.connect()];
    peers[0].write_all(ASKED).unwrap();
    peers[1].write_all(b"PROXY TCP4 192.0.2.7 ").unwrap();
    for peer in &mut peers {
        assert_eq!(running.read_to_end(peer), "");
    }
    let start = Instant::now();
    while running.event_loop.io.counters.proxy_headers_refused.get() < 3 {
        running.turn();
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(running.event_loop.io.connections(), 0);
}

#[test]
fn a_peer_that_is_not_trusted_cannot_announce_anybody() {
    let mut running = Running::new(HttpSettings { trusted: "10.0.0.0/8".parse().unwrap(), ..behind_a_proxy() });
    let mut stream = running.connect();
    stream.write_all(&[b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", ASKED].concat()).unwrap();
    assert_eq!(running.read_to_end(&mut stream), "");
    assert_eq!(running.event_loop.io.counters.requests.get(), 0);
}

#[test]
fn connections_are_counted_against_the_address_that_was_announced() {
    let settings = HttpSettings { max_connections_per_address: 1, head_timeout: PATIENCE, ..behind_a_proxy() };
    let mut running = Running::new(settings);
    let announce = |running: &Running, source: &str| {
        let mut stream = running.connect();
        stream.write_all(format!("PROXY TCP4 {source} 198.51.100.1 1 2\r\n").as_bytes()).unwrap();
        stream
    };
    let (mut first, mut other) = (announce(&running, "192.0.2.1"), announce(&running, "192.0.2.2"));
    running.turn();
    let mut second = announce(&running, "192.0.2.1");
    assert!(running.read_to_end(&mut second).starts_with("HTTP/1.1 503 "));
    for stream in [&mut first, &mut other] {
        stream.write_all(ASKED).unwrap();
        assert_eq!(running.read_to_end(stream), ANSWERED);
    }
    drop((first, second, other));
    let start = Instant::now();
    while running.event_loop.io.connections() > 0 {
        running.turn();
        assert!(start.elapsed() < PATIENCE);
    }
    let mut again = announce(&running, "192.0.2.1");
    again.write_all(ASKED).unwrap();
    assert_eq!(running.read_to_end(&mut again), ANSWERED);
}
