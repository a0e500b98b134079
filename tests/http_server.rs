//! The HTTP server of one reactor with an application written in Rust, over the loopback and a simulated network.
//!
//! The application sits where Python's would: it takes events after each turn, and answers. Most tests run in both calm
//! worlds; what depends on how bytes are cut runs under many seeds, and what depends on time in the network's own.

mod support;

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use penstock::core::buffer::{Lease, Owner};
use penstock::core::event_loop::HIGH_WATERMARK_BYTES;
use penstock::core::poller::Readiness;
use penstock::core::poller::simulated::FaultPlan;
use penstock::core::{CloseReason, EventLoop, Io, Service, Token};
use penstock::protocol::http1::ResponseError;
use penstock::server::Connection;
use penstock::server::http::{AccessLog, Body, HttpEvent, HttpServer, HttpSettings, LogFormat, RespondError, Take};
use support::{PATIENCE, Peer, Random, World, worlds};

// ---------------------------------------------------------------- the server under test

struct Site(HttpServer);

impl Service for Site {
    type Connection = Connection;
    type Mail = ();

    fn accepted(&mut self, io: &mut Io<Connection>, _: Token, fd: OwnedFd) {
        self.0.add(io, fd, 0);
    }
    fn received(&mut self, io: &mut Io<Connection>, token: Token, lease: Lease) {
        self.0.received(io, token, lease);
    }
    fn ended(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.ended(io, token);
    }
    fn drained(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.drained(io, token);
    }
    fn blocked(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.blocked(io, token);
    }
    fn unblocked(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.unblocked(io, token);
    }
    fn expired(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.expired(io, token);
    }
    fn closed(&mut self, _: &mut Io<Connection>, token: Token, state: Connection, reason: CloseReason) {
        self.0.closed(token, state, reason);
    }
    fn ready(&mut self, _: &mut Io<Connection>, _: Token, _: Readiness) {}
    fn mail(&mut self, _: &mut Io<Connection>, (): ()) {}
    fn settle(&mut self, io: &mut Io<Connection>) -> bool {
        self.0.flush_log(io);
        self.0.settle(io)
    }
}

/// What the application does with a request is in its path:
///
/// - `/echo` reads the body, then answers with it; `/relay` answers with each piece as it comes;
/// - `/large/N` answers with N borrowed bytes at once, `/stream/N` with as many as there is room for at a time;
/// - `/hold` neither reads nor answers until the test says so; `/fail` fails, `/fail-midway` after it began to answer;
/// - anything else answers with the path itself, reading nothing.
struct Request {
    path: String,
    body: Vec<u8>,
    /// What `/stream` has yet to send.
    left: usize,
}

/// What the application lends.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| (0..10_000_000_u32).map(|n| n as u8).collect());

struct Bench {
    world: World,
    event_loop: EventLoop<Site>,
    requests: HashMap<Token, Request>,
    disconnected: Vec<Token>,
    quiet: usize,
    lent: usize,
    returned: usize,
    most_queued_bytes: usize,
}

impl Bench {
    fn new(world: World, settings: HttpSettings) -> Self {
        Bench::logging(world, settings, None)
    }

    fn logging(world: World, settings: HttpSettings, log: Option<AccessLog>) -> Self {
        let event_loop = EventLoop::new(world.poller(), Site(HttpServer::new(settings, log))).expect("a loop opens");
        Bench {
            world,
            event_loop,
            requests: HashMap::new(),
            disconnected: Vec::new(),
            quiet: 0,
            lent: 0,
            returned: 0,
            most_queued_bytes: 0,
        }
    }

    fn calm(settings: HttpSettings) -> Self {
        Bench::new(World::simulated(0, FaultPlan::CALM), settings)
    }

    fn connect(&mut self) -> Client {
        let (fd, peer) = self.world.connect();
        let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
        http.add(io, fd, 0);
        Client { peer, unsent: Vec::new(), received: Vec::new(), has_finished: false, heads: VecDeque::new() }
    }

    fn turn(&mut self) {
        self.turn_for(Duration::from_millis(5));
    }

    fn turn_for(&mut self, timeout: Duration) {
        self.event_loop.turn(Some(timeout)).expect("a turn succeeds");
        self.returned += self.event_loop.io.take_released().drain(..).count();
        while let Some(event) = self.event_loop.service.0.next_event() {
            self.handle(event);
        }
    }

    /// Turn for so long, in the loop's own time.
    fn pass(&mut self, time: Duration) {
        let end = self.event_loop.io.now() + time;
        while self.event_loop.io.now() < end {
            self.turn_for(end - self.event_loop.io.now());
        }
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "it never came to be that {what}");
            self.turn();
        }
    }

    fn connections(&self) -> usize {
        self.event_loop.io.connections()
    }

    fn drain(&mut self) {
        self.event_loop.service.0.drain(&mut self.event_loop.io, false);
    }

    // ---- the application

    fn handle(&mut self, event: HttpEvent) {
        match event {
            HttpEvent::Request(token) => self.begin(token),
            HttpEvent::Body(token) => self.read(token),
            HttpEvent::Drained(token) => self.stream(token),
            HttpEvent::Disconnected(token) => {
                if !self.event_loop.service.0.is_connected(&mut self.event_loop.io, token) {
                    self.requests.remove(&token);
                }
                self.disconnected.push(token);
            }
            HttpEvent::LogTrouble => {}
            HttpEvent::Quiet => self.quiet += 1,
        }
    }

    fn begin(&mut self, token: Token) {
        let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
        let Some(view) = http.request(io, token) else { return };
        let path = String::from_utf8(view.head.target.of(view.bytes).to_vec()).expect("the tests' paths are ASCII");
        let left = path.strip_prefix("/stream/").map_or(0, |count| count.parse().expect("a number"));
        self.requests.insert(token, Request { path: path.clone(), body: Vec::new(), left });
        match path.as_str() {
            "/hold" => {}
            "/echo" => self.read(token),
            "/relay" => {
                self.start(token, false, 0);
                self.read(token);
            }
            "/fail" => self.fail(token),
            "/fail-midway" => {
                self.start(token, false, 0);
                self.send(token, Body::Copied(b"so far, so g"), true);
                self.fail(token);
            }
            _ if left > 0 => {
                self.start(token, false, 0);
                self.stream(token);
            }
            _ => match path.strip_prefix("/large/") {
                Some(count) => self.lend(token, count.parse().expect("a number")),
                None => self.answer(token, path.as_bytes()),
            },
        }
    }

    fn start(&mut self, token: Token, whole: bool, body_bytes: usize) {
        let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
        http.start_response::<ResponseError>(io, token, 200, body_bytes, whole, |head| head.header(b"x-app", b"tests"))
            .expect("the head is well formed");
    }

    fn send(&mut self, token: Token, body: Body<'_>, more: bool) -> usize {
        let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
        let queued = match http.send_body(io, token, body, more) {
            Ok(queued) => queued,
            Err(RespondError::Disconnected) => 0,
            Err(RespondError::Invalid(error)) => panic!("{error}"),
        };
        if !more {
            // The connection may have gone on to its next request already, under the same token.
            self.requests.remove(&token);
        }
        queued
    }

    fn answer(&mut self, token: Token, body: &[u8]) {
        self.start(token, true, body.len());
        self.send(token, Body::Copied(body), false);
    }

    fn lend(&mut self, token: Token, count: usize) {
        self.start(token, true, count);
        self.lent += 1;
        self.send(token, Body::Borrowed(&BYTES[..count], Owner(1)), false);
    }

    fn stream(&mut self, token: Token) {
        while let Some(request) = self.requests.get_mut(&token).filter(|request| request.left > 0) {
            let piece = request.left.min(10_000);
            request.left -= piece;
            let more = request.left > 0;
            let queued = self.send(token, Body::Copied(&vec![b's'; piece]), more);
            self.most_queued_bytes = self.most_queued_bytes.max(queued);
            if more && queued > HIGH_WATERMARK_BYTES {
                return self.event_loop.io.want_drained(token);
            }
        }
    }

    fn read(&mut self, token: Token) {
        loop {
            let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
            match http.take_body(io, token, |data, more| (data.to_vec(), more)) {
                Take::Wait => return,
                Take::Disconnected => {
                    self.requests.remove(&token);
                    return;
                }
                Take::Taken((data, more)) => {
                    let request = self.requests.get_mut(&token).expect("only requests are read");
                    if request.path == "/relay" {
                        self.send(token, Body::Copied(&data), more);
                    } else {
                        request.body.extend_from_slice(&data);
                        if !more {
                            let body = std::mem::take(&mut request.body);
                            self.answer(token, &body);
                        }
                    }
                    if !more {
                        return;
                    }
                }
            }
        }
    }

    fn fail(&mut self, token: Token) {
        self.requests.remove(&token);
        let (http, io) = (&mut self.event_loop.service.0, &mut self.event_loop.io);
        http.fail(io, token);
    }

    /// The one request that is held.
    fn held(&mut self) -> Token {
        self.until("a request is held", |bench| !bench.requests.is_empty());
        assert_eq!(self.requests.len(), 1);
        *self.requests.keys().next().expect("there is one")
    }
}

// ---------------------------------------------------------------- clients

struct Client {
    peer: Peer,
    unsent: Vec<u8>,
    received: Vec<u8>,
    has_finished: bool,
    /// For each response to come, whether it answers a HEAD.
    heads: VecDeque<bool>,
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    fn is_last(&self) -> bool {
        self.headers.get("connection").is_some_and(|value| value == "close")
    }
}

impl Client {
    /// Say this, as fast as the connection takes it.
    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.unsent.extend_from_slice(bytes.as_ref());
        self.go_on();
    }

    fn get(&mut self, path: &str) {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    }

    fn go_on(&mut self) {
        if !self.unsent.is_empty() {
            let said = self.peer.write(&self.unsent);
            self.unsent.drain(..said);
        }
        self.received.extend(self.peer.read());
    }

    /// The next response, if it is there, whole.
    fn take(&mut self) -> Option<Response> {
        self.go_on();
        let is_head = self.heads.front().copied().unwrap_or(false);
        let (response, length) = parse(&self.received, is_head, self.peer.has_ended())?;
        self.received.drain(..length);
        if response.status >= 200 {
            self.heads.pop_front();
        }
        Some(response)
    }

    /// The next response.
    fn hear(&mut self, bench: &mut Bench) -> Response {
        let mut response = None;
        bench.until("a response is there", |_| {
            response = self.take();
            response.is_some()
        });
        response.expect("just found")
    }

    /// The server ends the connection, having said no more.
    fn hear_end(&mut self, bench: &mut Bench) {
        bench.until("the connection ends", |_| {
            self.go_on();
            self.peer.has_ended()
        });
        assert_eq!(String::from_utf8_lossy(&self.received), "");
    }
}

/// The response at the front of `bytes`, and its length; `None` while it is not whole.
fn parse(bytes: &[u8], is_head: bool, ended: bool) -> Option<(Response, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).expect("a head is ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().expect("a head has a first line");
    let status: u16 = status_line.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().expect("a status");
    let headers: HashMap<String, String> = lines
        .map(|line| line.split_once(": ").expect("a name and a value"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let rest = &bytes[head_end..];
    let (body, length) = if is_head || status < 200 || status == 204 || status == 304 {
        (Vec::new(), 0)
    } else if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        chunks(rest)?
    } else if let Some(length) = headers.get("content-length") {
        let length = length.parse().expect("a number");
        (rest.get(..length)?.to_vec(), length)
    } else if ended {
        (rest.to_vec(), rest.len())
    } else {
        return None;
    };
    Some((Response { status, headers, body }, head_end + length))
}

fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = at + bytes[at..].windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..line]).expect("ASCII"), 16).expect("a size");
        let end = line + 2 + size;
        assert_eq!(bytes.get(end..end + 2)?, b"\r\n", "a chunk ends with CR LF");
        body.extend_from_slice(&bytes[line + 2..end]);
        at = end + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// The same, in chunks of these sizes, over and over.
fn post_chunked(path: &str, body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    let (mut rest, mut sizes) = (body, sizes.iter().cycle());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((*sizes.next().expect("it cycles")).min(rest.len()));
        write!(request, "{:x}\r\n", chunk.len()).expect("memory takes it");
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
        rest = after;
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

// ---------------------------------------------------------------- requests and responses

#[test]
fn a_connection_is_kept_for_request_after_request() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        for number in 0..50 {
            client.get(&format!("/{number}"));
            let response = client.hear(&mut bench);
            assert_eq!((response.status, response.body), (200, format!("/{number}").into_bytes()));
            assert_eq!(response.headers["x-app"], "tests");
        }
        assert_eq!((bench.connections(), bench.event_loop.service.0.requests_in_progress()), (1, 0));
        assert_eq!(bench.event_loop.io.counters.requests.get(), 50);
    }
}

#[test]
fn a_request_is_the_same_wherever_it_is_cut() {
    let body: Vec<u8> = (0..40).collect();
    for request in
        [post("/echo", &body), post_chunked("/echo", &body, &[1, 16, 3]), post_chunked("/relay", &body, &[7])]
    {
        let mut bench = Bench::calm(HttpSettings::default());
        let mut client = bench.connect();
        for cut in 1..request.len() {
            client.say(&request[..cut]);
            bench.turn();
            client.say(&request[cut..]);
            assert_eq!(client.hear(&mut bench).body, body, "cut at {cut}");
        }
        // And in single bytes.
        for byte in &request {
            client.say([*byte]);
            bench.turn();
        }
        assert_eq!(client.hear(&mut bench).body, body);
    }
}

/// A request chosen at random, and the body of its answer.
fn random_request(random: &mut Random) -> (Vec<u8>, Vec<u8>, bool) {
    let length = [0, 1, 100, 5000, 90_000][random.below(5)];
    let body = random.bytes(random.0 as usize % (length + 1));
    match random.below(8) {
        0 => (b"GET /short HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), b"/short".to_vec(), false),
        1 => (b"HEAD /short HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), Vec::new(), true),
        2 => (post("/echo", &body), body, false),
        3 => (post_chunked("/echo", &body, &[1 + random.below(3000)]), body, false),
        4 => (post("/relay", &body), body, false),
        5 => (post_chunked("/relay", &body, &[1 + random.below(3000)]), body, false),
        6 => (
            b"GET /large/70000 HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
            (0..70_000_u32).map(|n| n as u8).collect(),
            false,
        ),
        _ => (b"GET /stream/120000 HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), vec![b's'; 120_000], false),
    }
}

#[test]
fn pipelined_requests_of_every_kind_are_answered_in_order_on_a_rough_network() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let mut bench = Bench::new(World::simulated(seed, FaultPlan::ROUGH), HttpSettings::default());
        let mut clients: Vec<(Client, Vec<Vec<u8>>)> = (0..3)
            .map(|_| {
                let mut client = bench.connect();
                let mut expected = Vec::new();
                for _ in 0..12 {
                    let (request, answer, is_head) = random_request(&mut random);
                    client.unsent.extend(request);
                    client.heads.push_back(is_head);
                    expected.push(answer);
                }
                (client, expected)
            })
            .collect();
        for (client, expected) in &mut clients {
            for (number, answer) in expected.iter().enumerate() {
                let response = client.hear(&mut bench);
                assert!(response.status == 200 && response.body == *answer, "answer {number} (seed {seed})");
                assert!(!response.is_last());
            }
        }
        bench.until("what was lent comes back", |bench| bench.returned == bench.lent);
        assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0);
    }
}

#[test]
fn nothing_is_left_over_on_a_hostile_network() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let mut bench = Bench::new(World::simulated(seed, FaultPlan::HOSTILE), HttpSettings::default());
        let mut clients: Vec<Client> = (0..10)
            .map(|_| {
                let mut client = bench.connect();
                for _ in 0..6 {
                    client.unsent.extend(random_request(&mut random).0);
                }
                if random.below(3) == 0 {
                    // Cut short, somewhere.
                    client.unsent.truncate(1 + random.below(client.unsent.len()));
                }
                client
            })
            .collect();
        bench.until("every connection is closed", |bench| {
            for client in &mut clients {
                client.go_on();
                if client.unsent.is_empty() && !std::mem::replace(&mut client.has_finished, true) {
                    client.peer.finish();
                }
            }
            bench.connections() == 0
        });
        bench.turn();
        assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0, "seed {seed}");
        assert!(bench.requests.is_empty(), "the application was told of every end (seed {seed})");
        assert_eq!((bench.lent, bench.event_loop.io.load().get()), (bench.returned, 0), "seed {seed}");
    }
}

#[test]
fn head_is_answered_without_a_body_and_with_its_length() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.heads.extend([true, false]);
        client.say("HEAD /four HTTP/1.1\r\nhost: test\r\n\r\nGET /five! HTTP/1.1\r\nhost: test\r\n\r\n");
        let head = client.hear(&mut bench);
        assert_eq!((head.headers["content-length"].as_str(), head.body.len()), ("5", 0));
        assert_eq!(client.hear(&mut bench).body, b"/five!");
    }
}

#[test]
fn a_large_body_that_was_lent_arrives_whole_and_comes_back_once() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.get("/large/10000000");
        client.get("/after");
        let response = client.hear(&mut bench);
        assert!(response.body == *BYTES);
        assert_eq!(client.hear(&mut bench).body, b"/after");
        assert_eq!((bench.lent, bench.returned), (1, 1));
        // And if the client leaves in the middle of it.
        client.get("/large/10000000");
        bench.until("a part has arrived", |_| !client.peer.read_at_most(1000).is_empty());
        client.peer.reset();
        bench.until("it comes back", |bench| bench.returned == 2 && bench.connections() == 0);
        assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0);
    }
}

#[test]
fn http_1_0_ends_with_its_connection_unless_the_client_would_keep_it() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.say("GET /kept HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(client.hear(&mut bench).headers["connection"], "keep-alive");
        client.say("GET /stream/50000 HTTP/1.0\r\n\r\n");
        let response = client.hear(&mut bench);
        assert_eq!((response.body.len(), response.headers.get("transfer-encoding")), (50_000, None));
        client.hear_end(&mut bench);
    }
}

// ---------------------------------------------------------------- request bodies

#[test]
fn a_client_is_told_to_continue_only_when_its_body_is_asked_for() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let head =
            |path| format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
        let mut asked = bench.connect();
        asked.say(head("/echo"));
        assert_eq!(asked.hear(&mut bench).status, 100);
        asked.say("body");
        assert_eq!(asked.hear(&mut bench).body, b"body");
        // Whoever does not wait is not told, and neither is whoever is not asked.
        asked.say(head("/echo") + "body");
        assert_eq!(asked.hear(&mut bench).body, b"body");
        let mut unasked = bench.connect();
        unasked.say(head("/nothing"));
        let response = unasked.hear(&mut bench);
        assert_eq!((response.status, response.is_last()), (200, true), "what follows could be the body or a request");
        unasked.hear_end(&mut bench);
        // Held: not asked for yet. Then it is.
        let mut held = bench.connect();
        held.say(head("/hold"));
        let token = bench.held();
        bench.turn();
        assert!(held.take().is_none());
        bench.requests.get_mut(&token).expect("it is held").path = "/echo".into();
        bench.read(token);
        assert_eq!(held.hear(&mut bench).status, 100);
        held.say("late");
        assert_eq!(held.hear(&mut bench).body, b"late");
    }
}

#[test]
fn a_body_that_the_application_does_not_read_is_bounded_and_not_lost() {
    const BYTES: usize = 20_000_000;
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.say(post("/hold", &vec![7; BYTES]));
        let token = bench.held();
        let received = |bench: &Bench| bench.event_loop.io.counters.bytes_received.get();
        let mut before = u64::MAX;
        bench.until("nothing more is read", |bench| {
            client.go_on();
            (0..10).for_each(|_| bench.turn());
            std::mem::replace(&mut before, received(bench)) == received(bench)
        });
        assert!(bench.event_loop.io.is_paused(token));
        assert!(received(&bench) < 3 * 65_536, "{} bytes were read for nobody", received(&bench));
        bench.requests.get_mut(&token).expect("it is held").path = "/echo".into();
        bench.read(token);
        assert_eq!(client.hear(&mut bench).body.len(), BYTES);
    }
}

#[test]
fn requests_that_wait_behind_another_are_bounded_and_not_lost() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.get("/hold");
        for number in 0..100_000 {
            client.unsent.extend(format!("GET /{number} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes());
        }
        let token = bench.held();
        for _ in 0..200 {
            client.go_on();
            bench.turn();
        }
        let received = bench.event_loop.io.counters.bytes_received.get();
        assert!(received < 4 * 65_536, "{received} bytes of requests that wait");
        bench.answer(token, b"at last");
        assert_eq!(client.hear(&mut bench).body, b"at last");
        for number in 0..100_000 {
            assert_eq!(client.hear(&mut bench).body, format!("/{number}").into_bytes());
        }
    }
}

#[test]
fn the_rest_of_a_body_that_nobody_reads_is_read_out_within_bounds() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        for request in [post("/nothing", &[7; 60_000]), post_chunked("/nothing", &[7; 60_000], &[5000])] {
            client.say(request);
            let response = client.hear(&mut bench);
            assert_eq!((response.status, response.is_last()), (200, false));
        }
        client.get("/next");
        assert_eq!(client.hear(&mut bench).body, b"/next");
        // Beyond the bound the connection is closed, and the answer is there all the same.
        for request in [post("/nothing", &[7; 3_000_000]), post_chunked("/nothing", &[7; 3_000_000], &[5000])] {
            let mut client = bench.connect();
            client.say(request);
            assert_eq!(client.hear(&mut bench).body, b"/nothing");
            client.hear_end(&mut bench);
            assert!(!client.peer.was_reset(), "a reset could have destroyed the answer");
        }
    }
}

// ---------------------------------------------------------------- ends

#[test]
fn a_client_that_half_closes_gets_its_answers() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.say(post("/echo", b"with a body"));
        client.get("/hold");
        client.get("/behind");
        client.peer.finish();
        assert_eq!(client.hear(&mut bench).body, b"with a body");
        let token = bench.held();
        bench.until("the end is told", |bench| bench.disconnected.contains(&token));
        bench.lend(token, 5_000_000);
        assert_eq!(client.hear(&mut bench).body.len(), 5_000_000);
        assert_eq!(client.hear(&mut bench).body, b"/behind");
        client.hear_end(&mut bench);
        bench.until("it is closed", |bench| bench.connections() == 0);
    }
}

#[test]
fn a_client_that_half_closes_while_its_answer_leaves_gets_all_of_it() {
    // The last of these goes on to a body that nobody reads, and never ends it.
    for last in ["", "connection: close\r\n", "transfer-encoding: chunked\r\n"] {
        for world in worlds() {
            let mut bench = Bench::new(world, HttpSettings::default());
            let mut client = bench.connect();
            client.say(format!("GET /large/10000000 HTTP/1.1\r\nhost: test\r\n{last}\r\n"));
            bench.until("it leaves", |bench| bench.event_loop.io.counters.responses.get() == 1);
            bench.turn();
            client.peer.finish();
            bench.turn();
            assert!(client.hear(&mut bench).body == *BYTES);
            client.hear_end(&mut bench);
            assert!(!client.peer.was_reset());
        }
    }
}

#[test]
fn a_client_that_leaves_is_told_of_in_every_state_in_which_somebody_cares() {
    let states: [(&str, Vec<u8>, bool); 6] = [
        ("before its first byte", Vec::new(), false),
        ("within a head", b"GET / HTT".to_vec(), false),
        ("while its request is handled", b"GET /hold HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), true),
        ("within a body that is read", post("/echo", &[7; 100])[..120].to_vec(), true),
        ("within a body that is not read", post("/hold", &[7; 100])[..120].to_vec(), true),
        ("within a response", b"GET /stream/9000000 HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), true),
    ];
    for (state, said, is_told) in states {
        for world in worlds() {
            let mut bench = Bench::new(world, HttpSettings::default());
            let mut client = bench.connect();
            client.say(&said);
            bench.until("it is so far", |bench| bench.event_loop.io.counters.bytes_received.get() == said.len() as u64);
            (0..3).for_each(|_| bench.turn());
            client.peer.reset();
            bench.until("it is closed", |bench| bench.connections() == 0);
            bench.turn();
            assert_eq!(bench.disconnected.len(), usize::from(is_told), "{state}");
            assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0, "{state}");
            assert!(bench.requests.is_empty(), "{state}");
        }
    }
}

#[test]
fn a_connection_that_ends_within_a_request_is_closed() {
    for (said, answered) in
        [("", false), ("GET / HTT", false), ("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n", false)]
    {
        for world in worlds() {
            let mut bench = Bench::new(world, HttpSettings::default());
            let mut client = bench.connect();
            client.say(said);
            bench.turn();
            client.peer.finish();
            bench.until("it is closed", |bench| bench.connections() == 0);
            assert_eq!(client.take().is_some(), answered);
            assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0);
        }
    }
}

// ---------------------------------------------------------------- errors

#[test]
fn what_cannot_be_understood_is_answered_and_ends_the_connection() {
    let cases: [(&str, u16); 6] = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nhost: test\r\n\r\n", 505),
        ("hello?\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: test\r\nexpect: tea\r\n\r\n", 417),
        ("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nsix\r\n", 400),
    ];
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        for (request, status) in cases {
            let mut client = bench.connect();
            client.get("/well");
            client.say(request);
            client.get("/never");
            assert_eq!(client.hear(&mut bench).body, b"/well", "what came before is answered");
            let response = client.hear(&mut bench);
            assert_eq!((response.status, response.is_last()), (status, true), "{request:?}");
            client.hear_end(&mut bench);
            assert!(!client.peer.was_reset());
        }
        assert_eq!(bench.event_loop.service.0.requests_in_progress(), 0);
    }
}

#[test]
fn limits_are_kept_with_an_answer() {
    let head = penstock::protocol::http1::Limits { max_head_bytes: 1000, max_headers: 5, max_target_bytes: 100 };
    let settings = HttpSettings { head, max_body_bytes: 1000, ..HttpSettings::default() };
    let long = "x".repeat(2000);
    for world in worlds() {
        let mut bench = Bench::new(world, settings.clone());
        let cases = [
            (format!("GET / HTTP/1.1\r\nhost: test\r\nx: {long}\r\n\r\n").into_bytes(), 431),
            (format!("GET / HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(6)).into_bytes(), 431),
            (format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", &long[..200]).into_bytes(), 414),
            (post("/echo", &[7; 1001]), 413),
            (post_chunked("/echo", &[7; 1001], &[100]), 413),
        ];
        for (request, status) in cases {
            let mut client = bench.connect();
            client.say(&request);
            assert_eq!(client.hear(&mut bench).status, status, "{:?}", String::from_utf8_lossy(&request[..30]));
            client.hear_end(&mut bench);
        }
    }
}

#[test]
fn full_means_503_for_one_request_more_and_for_one_connection_more() {
    for world in worlds() {
        let settings = HttpSettings { max_requests_in_progress: 1, max_connections: 3, ..HttpSettings::default() };
        let mut bench = Bench::new(world, settings);
        let (mut holder, mut other, _idle) = (bench.connect(), bench.connect(), bench.connect());
        let mut surplus = bench.connect();
        assert_eq!(surplus.hear(&mut bench).status, 503);
        surplus.hear_end(&mut bench);
        holder.get("/hold");
        let token = bench.held();
        other.get("/too-much");
        let response = other.hear(&mut bench);
        assert_eq!((response.status, response.is_last()), (503, false), "the connection may well go on");
        bench.answer(token, b"done");
        assert_eq!(holder.hear(&mut bench).body, b"done");
        other.get("/now");
        assert_eq!(other.hear(&mut bench).body, b"/now");
    }
}

#[test]
fn an_application_that_fails_costs_nobody_else_anything() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.get("/fail");
        client.get("/after");
        assert_eq!(client.hear(&mut bench).status, 500);
        assert_eq!(client.hear(&mut bench).body, b"/after");
        client.get("/fail-midway");
        bench.until("the connection ends", |_| {
            client.go_on();
            client.peer.has_ended()
        });
        assert!(client.take().is_none(), "a response cut short is never taken for whole");
        // The end of the connection would be the end of the message here: it must not look like one.
        let mut old = bench.connect();
        old.say("GET /fail-midway HTTP/1.0\r\n\r\n");
        bench.until("the connection ends", |_| {
            old.go_on();
            old.peer.has_ended()
        });
        assert!(matches!(old.peer, Peer::Simulated(_)) || old.peer.was_reset());
    }
}

#[test]
fn a_failure_s_page_is_what_its_request_accepts_however_late_it_comes() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut client = bench.connect();
        client.say("GET /hold HTTP/1.1\r\nhost: test\r\naccept: application/json\r\n\r\n");
        let token = bench.held();
        // Others' requests lie where this one's head was.
        for _ in 0..20 {
            let mut other = bench.connect();
            other.say("GET /other HTTP/1.1\r\nhost: test\r\naccept: text/html\r\nx-filler: filler\r\n\r\n");
            other.hear(&mut bench);
        }
        let (http, io) = (&bench.event_loop.service.0, &mut bench.event_loop.io);
        assert!(http.request(io, token).is_none(), "the head is not to be seen any more");
        bench.fail(token);
        let response = client.hear(&mut bench);
        assert_eq!((response.status, response.headers["content-type"].as_str()), (500, "application/json"));
    }
}

// ---------------------------------------------------------------- deadlines

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn quick() -> HttpSettings {
    HttpSettings {
        keep_alive: seconds(5),
        head_timeout: seconds(10),
        body_window: seconds(20),
        write_window: seconds(20),
        min_rate_bytes_s: 100,
        ..HttpSettings::default()
    }
}

#[test]
fn a_head_that_does_not_arrive_in_time_is_answered_with_408() {
    let mut bench = Bench::calm(quick());
    let mut client = bench.connect();
    // Dripping does not help: the time begins with the first byte.
    for byte in b"GET / HTTP/1.1\r\n" {
        client.say([*byte]);
        bench.pass(Duration::from_millis(600));
    }
    bench.pass(Duration::from_millis(700));
    let response = client.hear(&mut bench);
    assert_eq!((response.status, response.is_last()), (408, true));
    client.hear_end(&mut bench);
}

#[test]
fn an_idle_connection_is_closed_after_its_time_and_a_silent_one_after_its() {
    let mut bench = Bench::calm(quick());
    let (mut idle, mut silent) = (bench.connect(), bench.connect());
    idle.get("/");
    idle.hear(&mut bench);
    for _ in 0..5 {
        bench.pass(seconds(4));
        idle.get("/again");
        idle.hear(&mut bench);
    }
    assert!(silent.peer.has_ended(), "it never said anything");
    bench.pass(Duration::from_millis(4800));
    assert_eq!(bench.connections(), 1);
    bench.pass(Duration::from_millis(400));
    idle.hear_end(&mut bench);
    assert_eq!((bench.connections(), bench.event_loop.io.counters.connections_idled_out.get()), (0, 2));
}

#[test]
fn an_application_may_take_as_long_as_it_likes() {
    let mut bench = Bench::calm(quick());
    let mut client = bench.connect();
    client.get("/hold");
    let token = bench.held();
    bench.pass(seconds(3600));
    bench.answer(token, b"worth it");
    assert_eq!(client.hear(&mut bench).body, b"worth it");
}

#[test]
fn a_body_that_comes_too_slowly_is_refused_and_a_slow_one_is_not() {
    let mut bench = Bench::calm(quick());
    let (mut slow, mut too_slow) = (bench.connect(), bench.connect());
    slow.say(&post("/echo", &[7; 10_000])[..100]);
    too_slow.say(&post("/echo", &[7; 10_000])[..100]);
    for _ in 0..60 {
        slow.say([7; 150]);
        too_slow.say([7; 50]);
        bench.pass(seconds(1));
    }
    let response = too_slow.hear(&mut bench);
    assert_eq!((response.status, response.is_last()), (408, true));
    slow.say([7; 2000]);
    assert_eq!(slow.hear(&mut bench).body.len(), 10_000);
}

#[test]
fn a_client_that_is_not_asked_for_its_body_is_not_hurried() {
    let mut bench = Bench::calm(quick());
    let mut client = bench.connect();
    client.say("POST /hold HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    let token = bench.held();
    bench.pass(seconds(300));
    bench.requests.get_mut(&token).expect("it is held").path = "/echo".into();
    bench.read(token);
    assert_eq!(client.hear(&mut bench).status, 100);
    client.say("body");
    assert_eq!(client.hear(&mut bench).body, b"body");
}

/// Read this much a second for so long.
fn read_slowly(bench: &mut Bench, client: &mut Client, bytes_s: usize, time_s: usize) {
    for _ in 0..time_s {
        client.received.extend(client.peer.read_at_most(bytes_s));
        bench.pass(seconds(1));
    }
}

#[test]
fn a_slow_reader_gets_everything_and_one_that_does_not_read_is_cut_off() {
    for (path, last) in [("/large/3000000", ""), ("/large/3000000", "connection: close\r\n"), ("/stream/3000000", "")] {
        let mut bench = Bench::calm(quick());
        let mut slow = bench.connect();
        slow.say(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{last}\r\n"));
        // Far slower than any other deadline: half a minute in, nothing has cut it off.
        read_slowly(&mut bench, &mut slow, 20_000, 40);
        let response = slow.hear(&mut bench);
        assert_eq!(response.body.len(), 3_000_000, "{path}");
        assert_eq!(bench.event_loop.io.counters.writes_timed_out.get(), 0);
        assert!(bench.most_queued_bytes <= HIGH_WATERMARK_BYTES + 11_000, "{}", bench.most_queued_bytes);

        let mut stuck = bench.connect();
        stuck.say(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{last}\r\n"));
        let before = bench.connections();
        bench.pass(seconds(15));
        assert!(bench.connections() >= before - 1, "it has its time");
        read_slowly(&mut bench, &mut stuck, 50, 60);
        assert_eq!(bench.event_loop.io.counters.writes_timed_out.get(), 1, "{path}");
        bench.turn();
        assert!(bench.requests.is_empty() && bench.returned == bench.lent);
    }
}

#[test]
fn a_connection_s_idle_time_begins_when_its_response_has_left() {
    let mut bench = Bench::calm(quick());
    let mut client = bench.connect();
    client.get("/large/1000000");
    read_slowly(&mut bench, &mut client, 40_000, 20);
    client.hear(&mut bench);
    bench.pass(seconds(4));
    client.get("/still-there");
    assert_eq!(client.hear(&mut bench).body, b"/still-there");
    bench.pass(seconds(6));
    client.hear_end(&mut bench);
}

#[test]
fn a_closed_connection_does_not_linger_longer_than_any_other_because_it_was_blocked() {
    let mut bench = Bench::calm(HttpSettings { keep_alive: seconds(600), ..quick() });
    let mut client = bench.connect();
    client.say("GET /large/1000000 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    client.hear(&mut bench);
    assert_eq!(bench.connections(), 1);
    bench.pass(seconds(3));
    assert_eq!(bench.connections(), 0);
}

// ---------------------------------------------------------------- draining

#[test]
fn draining_closes_what_is_idle_spares_what_was_just_busy_and_tells_once_when_all_is_quiet() {
    let mut bench = Bench::calm(HttpSettings { keep_alive: seconds(600), head_timeout: seconds(600), ..quick() });
    let (mut idle, mut fresh) = (bench.connect(), bench.connect());
    idle.get("/");
    idle.hear(&mut bench);
    bench.pass(seconds(2));
    let (mut busy, mut held, mut promised) = (bench.connect(), bench.connect(), bench.connect());
    promised.say(&post("/relay", b"promise kept")[..65]);
    held.get("/hold");
    bench.turn();
    busy.get("/");
    busy.hear(&mut bench);
    bench.drain();
    bench.turn();
    assert!(idle.peer.has_ended() && fresh.take().is_none() && fresh.peer.has_ended());
    // A request that was on its way is answered, and so is one that comes through a connection accepted late.
    let mut late = bench.connect();
    for client in [&mut busy, &mut late] {
        client.get("/on-its-way");
        let response = client.hear(&mut bench);
        assert_eq!((response.body.as_slice(), response.is_last()), (&b"/on-its-way"[..], true));
        client.hear_end(&mut bench);
    }
    // A response that had begun did not say that it is the last.
    promised.say(&post("/relay", b"promise kept")[65..]);
    let response = promised.hear(&mut bench);
    assert_eq!((response.body.as_slice(), response.is_last()), (&b"promise kept"[..], false));
    promised.get("/one-more");
    let response = promised.hear(&mut bench);
    assert_eq!((response.body.as_slice(), response.is_last()), (&b"/one-more"[..], true));
    bench.pass(seconds(5));
    assert_eq!(bench.quiet, 0, "one is held yet");
    let token = bench.held();
    bench.answer(token, b"done");
    let response = held.hear(&mut bench);
    assert_eq!((response.body.as_slice(), response.is_last()), (&b"done"[..], true));
    bench.until("it is quiet", |bench| bench.quiet == 1);
    bench.pass(seconds(5));
    assert_eq!((bench.quiet, bench.connections()), (1, 0));
}

#[test]
fn draining_nothing_is_quiet_at_once_and_without_waiting_for_the_clock() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        bench.turn();
        bench.drain();
        let start = bench.event_loop.io.now();
        // A turn that may sleep for an hour, and must not.
        bench.turn_for(seconds(3600));
        assert_eq!(bench.quiet, 1);
        assert!(bench.event_loop.io.now() - start < seconds(1));
    }
}

#[test]
fn draining_cuts_off_no_response_that_is_still_leaving() {
    for world in worlds() {
        let mut bench = Bench::new(world, HttpSettings::default());
        let mut clients: Vec<Client> = (0..5).map(|_| bench.connect()).collect();
        clients.iter_mut().for_each(|client| client.get("/large/3000000"));
        bench.until("all are answered", |bench| bench.event_loop.io.counters.responses.get() == 5);
        // Some are queued, some blocked, all of them complete as far as the application knows.
        bench.drain();
        for client in &mut clients {
            assert_eq!(client.hear(&mut bench).body.len(), 3_000_000);
        }
        bench.until("it is quiet", |bench| bench.quiet == 1);
    }
}

#[test]
fn a_drain_under_load_loses_no_request() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let plan = FaultPlan { max_delay: Duration::from_millis(30), ..FaultPlan::ROUGH };
        let mut bench = Bench::new(World::simulated(seed, plan), HttpSettings::default());
        let mut clients: Vec<Client> = (0..20).map(|_| bench.connect()).collect();
        let (mut waiting, mut told_last) = ([false; 20], [false; 20]);
        let drain_at = 50 + random.below(100);
        for round in 0.. {
            if round == drain_at {
                bench.drain();
            }
            bench.turn_for(Duration::from_millis(1));
            for (number, client) in clients.iter_mut().enumerate() {
                if let Some(response) = client.take() {
                    (waiting[number], told_last[number]) = (false, response.is_last());
                }
                // Whoever was not told that an answer is the last may ask again, at once.
                if !waiting[number] && !told_last[number] && round < drain_at + 100 {
                    client.get("/again");
                    waiting[number] = true;
                }
                assert!(!waiting[number] || !client.peer.has_ended(), "a request went unanswered (seed {seed})");
            }
            if bench.quiet > 0 {
                break;
            }
        }
    }
}

// ---------------------------------------------------------------- the access log

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_request_has_one_line_in_the_access_log_whatever_becomes_of_it() {
    let sink = Sink::default();
    let log = AccessLog::new(LogFormat::uvicorn(), sink.clone()).unwrap();
    let mut bench = Bench::logging(World::Loopback, HttpSettings::default(), Some(log));
    let mut client = bench.connect();
    let Peer::Loopback { stream, .. } = &client.peer else { unreachable!("the loopback's peers are real") };
    let address = stream.local_addr().unwrap();
    client.get("/a?b=c");
    client.hear(&mut bench);
    client.say("HEAD /head HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    client.heads.push_back(true);
    client.hear(&mut bench);
    client.get("/fail");
    client.hear(&mut bench);
    let mut leaver = bench.connect();
    leaver.get("/stream/9000000");
    bench.until("a part has arrived", |_| !leaver.peer.read_at_most(1000).is_empty());
    leaver.peer.reset();
    bench.until("it is closed", |bench| bench.connections() == 1);
    let mut other = bench.connect();
    other.say("nonsense\r\n\r\n");
    other.hear(&mut bench);
    drop(bench);
    let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<String> = written.lines().map(|line| line.replace(&address.to_string(), "PEER")).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(
        lines[..3],
        [
            "INFO:     PEER - \"GET /a?b=c HTTP/1.1\" 200 OK",
            "INFO:     PEER - \"HEAD /head HTTP/1.0\" 200 OK",
            "INFO:     PEER - \"GET /fail HTTP/1.1\" 500 Internal Server Error",
        ]
    );
    for (line, end) in
        [(&lines[3], "- \"GET /stream/9000000 HTTP/1.1\" 200 OK"), (&lines[4], "- \"-\" 400 Bad Request")]
    {
        assert!(line.starts_with("INFO:     127.0.0.1:") && line.ends_with(end), "{line}");
    }
}
