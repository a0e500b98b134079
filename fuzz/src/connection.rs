//! A whole server on a simulated network: peers that send anything at any pace, and an application that answers in
//! every way, both drawn from the input.
//!
//! The first [`CONTROL_BYTES`] choose how rough the network is and what the application does; the rest is a script:
//! bytes that the peers send, with [`ESCAPE`] before an [`Action`]. What each peer sends in all is read beforehand by
//! the parser alone, in one piece (`Story`); whatever the network does to it, the application must be shown exactly
//! that, from the front, and each peer must read one whole answer to each of its requests, in order, for as long as
//! its connection lasts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use penstock::core::buffer::{Lease, Owner};
use penstock::core::event_loop::HIGH_WATERMARK_BYTES;
use penstock::core::poller::Readiness;
use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork, SimulatedPeer};
use penstock::core::{CloseReason, EventLoop, Io, Service, Token};
use penstock::protocol::http1::{BodyDecoder, HeadScanner, Limits, RequestHead, ResponseError};
use penstock::server::Connection;
use penstock::server::http::{Body, HttpEvent, HttpServer, HttpSettings, RespondError, Take};

use crate::input::Input;
use crate::naive::{self, Chunked};

const CONTROL_BYTES: usize = 24;
/// Of these each choice of what the application does is one, the request's number choosing which.
const PLANS: usize = 12;
/// Before an action in the script; sent as itself when it stands twice.
const ESCAPE: u8 = 0xff;
const PEERS: usize = 3;
/// What one peer sends at most, repetitions and all.
const MAX_SENT_BYTES: usize = 1 << 20;
/// What a connection may cost, buffers of both sides of the simulated network included.
const MAX_BYTES_PER_PEER: isize = 1536 * 1024;
/// Turns until every deadline has passed, and then some.
const MAX_CLOSING_TURNS: u32 = 20_000;
const LARGE_BODY_BYTES: usize = 150_000;
const LARGE_BODIES: usize = 6;

type HttpIo = Io<Connection>;

// ---- what is sent ----------------------------------------------------------------------------------------------------

/// What a script does beside sending.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Let the server turn this often.
    Turn(u8),
    /// The peer that acts from now on.
    Switch(usize),
    Finish,
    Reset,
    Vanish,
    /// The peer reads, or does not.
    Reads(bool),
    /// Send the peer's last bytes again, this many times.
    Repeat(u16),
    /// This many milliseconds pass.
    Advance(u32),
    /// The server stops: what it has is answered, and nothing more.
    Drain,
}

enum Step<'a> {
    Send(&'a [u8]),
    Act(Action),
}

fn next_step<'a>(script: &mut &'a [u8]) -> Option<Step<'a>> {
    let plain = script.iter().position(|&byte| byte == ESCAPE).unwrap_or(script.len());
    if plain > 0 {
        let (bytes, rest) = script.split_at(plain);
        *script = rest;
        return Some(Step::Send(bytes));
    }
    let (&code, rest) = script.get(1..)?.split_first()?;
    if code == ESCAPE {
        let (bytes, rest) = script[1..].split_at(1);
        *script = rest;
        return Some(Step::Send(bytes));
    }
    // The code's low bits choose the action, the high ones how much of it.
    let (kind, much) = (code % 16, code / 16);
    *script = rest;
    Some(Step::Act(match kind {
        0..4 => Action::Turn(much + 1),
        4..7 => Action::Switch(usize::from(much) % PEERS),
        7 => Action::Finish,
        8 => Action::Reset,
        9 => Action::Vanish,
        10 => Action::Reads(much % 2 == 0),
        11 | 12 => Action::Repeat(1 << (much % 11)),
        13 | 14 => Action::Advance(10 << much),
        _ if much == 14 => Action::Drain,
        _ => Action::Turn(1),
    }))
}

/// The script as a list, in which repetitions are bytes again, and what each peer sends in all.
fn read_script(mut script: &[u8]) -> (Vec<(usize, Step<'_>)>, [Vec<u8>; PEERS]) {
    let (mut steps, mut sent, mut peer): (Vec<_>, [Vec<u8>; PEERS], usize) = Default::default();
    let (mut last, mut ended): ([&[u8]; PEERS], [bool; PEERS]) = Default::default();
    while let Some(step) = next_step(&mut script) {
        let mut send = |steps: &mut Vec<_>, bytes, peer: usize| {
            if !ended[peer] && sent[peer].len() + <[u8]>::len(bytes) <= MAX_SENT_BYTES {
                sent[peer].extend_from_slice(bytes);
                steps.push((peer, Step::Send(bytes)));
            }
        };
        match step {
            Step::Send(bytes) => {
                send(&mut steps, bytes, peer);
                last[peer] = bytes;
            }
            Step::Act(Action::Repeat(times)) => (0..times).for_each(|_| send(&mut steps, last[peer], peer)),
            Step::Act(Action::Switch(other)) => peer = other,
            Step::Act(action) => {
                ended[peer] |= matches!(action, Action::Finish | Action::Reset | Action::Vanish);
                steps.push((peer, Step::Act(action)));
            }
        }
    }
    (steps, sent)
}

/// One request as the parser alone reads it.
#[derive(Debug, Default)]
struct Chapter {
    /// Method, target and headers, one after another.
    head: Vec<u8>,
    is_head: bool,
    minor_version: u8,
    body: Vec<u8>,
    whole: bool,
}

/// All that one peer's bytes say.
#[derive(Debug, Default)]
struct Story {
    chapters: Vec<Chapter>,
}

fn flat_head(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let mut flat = [head.method.of(bytes), head.target.of(bytes)].join(&b' ');
    for (name, value) in &head.headers {
        flat.extend_from_slice(b"\n");
        flat.extend_from_slice(name.of(bytes));
        flat.extend_from_slice(b":");
        flat.extend_from_slice(value.of(bytes));
    }
    flat
}

impl Story {
    fn read(bytes: &[u8], limits: &Limits) -> Story {
        let (mut story, mut at) = (Story::default(), 0);
        while let Ok(Some(end)) = HeadScanner::default().find_end(&bytes[at..], limits) {
            let (mut head, head_bytes) = (RequestHead::default(), &bytes[at..at + end]);
            if head.parse(head_bytes, limits).is_err() {
                break;
            }
            at += end;
            let mut chapter = Chapter {
                head: flat_head(&head, head_bytes),
                is_head: head.method.of(head_bytes) == b"HEAD",
                minor_version: head.minor_version,
                ..Chapter::default()
            };
            let mut decoder = BodyDecoder::new(head.framing);
            while !chapter.whole && at <= bytes.len() {
                let Ok(decoded) = decoder.decode(&bytes[at..]) else { break };
                chapter.body.extend_from_slice(&bytes[at + decoded.data.start..at + decoded.data.end]);
                chapter.whole = decoded.finished;
                at += decoded.consumed;
                if at == bytes.len() {
                    break;
                }
            }
            let whole = chapter.whole;
            story.chapters.push(chapter);
            if !whole {
                break;
            }
        }
        story
    }
}

// ---- the application -------------------------------------------------------------------------------------------------

/// How the application answers one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// At once, whole, without a look at the body.
    Whole {
        borrowed: bool,
    },
    /// The whole body read, and sent back in pieces of unknown length.
    Echo,
    /// A piece of the body read, then an answer in pieces of known length.
    Pieces {
        borrowed: bool,
    },
    /// A status that has no body, though one is sent.
    Bodiless(u16),
    /// After some turns.
    Late(u8),
    /// It raises after some turns: before it answers, or once it has begun.
    Fail {
        begun: bool,
        after: u8,
    },
    /// A header that would be two; then it raises.
    Split,
    /// A body of more, or fewer, bytes than it said.
    Long,
    Short,
    /// It asks for the connection's end.
    Close,
}

impl Plan {
    fn of(byte: u8) -> Plan {
        let high = byte >> 4;
        match byte % 16 {
            0..3 => Plan::Whole { borrowed: high > 12 },
            3..5 => Plan::Echo,
            5..7 => Plan::Pieces { borrowed: high > 7 },
            7 => Plan::Bodiless([204, 304, 205][usize::from(high) % 3]),
            8 | 9 => Plan::Late(high),
            10 => Plan::Fail { begun: high > 7, after: high % 8 },
            11 => Plan::Split,
            12 => Plan::Long,
            13 => Plan::Short,
            14 => Plan::Close,
            _ => Plan::Echo,
        }
    }

    fn status(self) -> u16 {
        if let Plan::Bodiless(status) = self { status } else { 200 }
    }
}

/// The byte at `at` of the answer to a peer's request: known to both sides, so that nobody has to keep it.
fn answer_byte(peer: usize, number: usize, at: usize) -> u8 {
    ((peer * 37 + number * 11 + at) % 251) as u8
}

fn answer_bytes(peer: usize, number: usize, from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| answer_byte(peer, number, at)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Read,
    Wait(u32),
    Start,
    Send(usize),
}

/// One request under way in the application.
struct Task {
    peer: usize,
    number: usize,
    plan: Plan,
    phase: Phase,
    /// Body bytes taken so far.
    read: usize,
}

/// How the application's part in one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Answered as planned, with a body of this many bytes.
    Answered(Plan, usize),
    /// It raised before it answered: the server says 500.
    Failed,
    /// It was cut off: by the peer, by the server, or by its own fault.
    Lost,
}

struct Application {
    plans: [Plan; PLANS],
    stories: [Story; PEERS],
    tasks: HashMap<Token, Task>,
    /// Of each peer, how each request that it was shown ended, in order.
    verdicts: [Vec<Option<Verdict>>; PEERS],
    lent: HashMap<usize, Vec<u8>>,
    lent_count: usize,
    turn: u32,
    is_closing: bool,
    is_quiet: bool,
}

// ---- the server around it --------------------------------------------------------------------------------------------

struct Server {
    http: HttpServer,
    accepted: u16,
    endings: HashMap<u16, CloseReason>,
    peers: HashMap<Token, u16>,
}

impl Service for Server {
    type Connection = Connection;
    type Mail = ();

    fn accepted(&mut self, io: &mut HttpIo, _listener: Token, fd: OwnedFd) {
        self.http.add(io, fd, self.accepted);
        for token in io.connection_tokens() {
            let peer = self.http.listener(io, token);
            self.peers.entry(token).or_insert(peer);
        }
        self.accepted += 1;
    }

    fn received(&mut self, io: &mut HttpIo, token: Token, lease: Lease) {
        self.http.received(io, token, lease);
    }

    fn ended(&mut self, io: &mut HttpIo, token: Token) {
        self.http.ended(io, token);
    }

    fn drained(&mut self, io: &mut HttpIo, token: Token) {
        self.http.drained(io, token);
    }

    fn blocked(&mut self, io: &mut HttpIo, token: Token) {
        self.http.blocked(io, token);
    }

    fn unblocked(&mut self, io: &mut HttpIo, token: Token) {
        self.http.unblocked(io, token);
    }

    fn expired(&mut self, io: &mut HttpIo, token: Token) {
        self.http.expired(io, token);
    }

    fn closed(&mut self, _io: &mut HttpIo, token: Token, state: Connection, reason: CloseReason) {
        let peer = self.peers.remove(&token).expect("every connection was accepted");
        assert!(self.endings.insert(peer, reason).is_none(), "closed twice");
        self.http.closed(token, state, reason);
    }

    fn ready(&mut self, _io: &mut HttpIo, _token: Token, _readiness: Readiness) {}
    fn mail(&mut self, _io: &mut HttpIo, _mail: ()) {}

    fn settle(&mut self, io: &mut HttpIo) -> bool {
        self.http.settle(io)
    }
}

impl Application {
    fn handle(&mut self, server: &mut HttpServer, io: &mut HttpIo, event: HttpEvent) {
        match event {
            HttpEvent::Request(token) => self.begin(server, io, token),
            HttpEvent::Body(token) | HttpEvent::Drained(token) => self.step(server, io, token),
            HttpEvent::Disconnected(token) => {
                if !server.is_connected(io, token) {
                    self.lose(token);
                } else {
                    self.step(server, io, token);
                }
            }
            HttpEvent::LogTrouble => {}
            HttpEvent::Quiet => self.is_quiet = true,
        }
    }

    fn begin(&mut self, server: &mut HttpServer, io: &mut HttpIo, token: Token) {
        let peer = usize::from(server.listener(io, token));
        let Some(request) = server.request(io, token) else { return };
        let head = flat_head(request.head, request.bytes);
        let number = self.verdicts[peer].len();
        let chapter = self.stories[peer].chapters.get(number).expect("a request that nobody sent");
        assert_eq!(chapter.head, head, "the head of request {number} of peer {peer}");
        self.verdicts[peer].push(None);
        let plan = self.plans[(peer * 5 + number) % PLANS];
        let reads = matches!(plan, Plan::Echo | Plan::Pieces { .. } | Plan::Close);
        let phase = match plan {
            Plan::Late(turns) | Plan::Fail { after: turns, .. } => Phase::Wait(self.turn + u32::from(turns)),
            _ if reads => Phase::Read,
            _ => Phase::Start,
        };
        let task = Task { peer, number, plan, phase, read: 0 };
        assert!(self.tasks.insert(token, task).is_none(), "the request before has no answer yet");
        self.step(server, io, token);
    }

    /// The connection is gone, and the request with it.
    fn lose(&mut self, token: Token) {
        if let Some(task) = self.tasks.remove(&token) {
            self.conclude(&task, Verdict::Lost);
        }
    }

    fn conclude(&mut self, task: &Task, verdict: Verdict) {
        let place = &mut self.verdicts[task.peer][task.number];
        assert!(place.replace(verdict).is_none(), "one request, one answer");
    }

    fn step(&mut self, server: &mut HttpServer, io: &mut HttpIo, token: Token) {
        let Some(mut task) = self.tasks.remove(&token) else { return };
        match self.advance(server, io, token, &mut task) {
            Some(verdict) => self.conclude(&task, verdict),
            None => assert!(self.tasks.insert(token, task).is_none()),
        }
    }

    fn advance(&mut self, server: &mut HttpServer, io: &mut HttpIo, token: Token, task: &mut Task) -> Option<Verdict> {
        loop {
            match task.phase {
                Phase::Read => {
                    if !self.read(server, io, token, task) {
                        return None;
                    }
                    if !server.is_connected(io, token) {
                        return Some(Verdict::Lost);
                    }
                    task.phase = Phase::Start;
                }
                Phase::Wait(turn) if turn > self.turn && !self.is_closing => return None,
                Phase::Wait(_) => task.phase = Phase::Start,
                Phase::Start => match self.start(server, io, token, task) {
                    Ok(sent) => task.phase = Phase::Send(sent),
                    Err(verdict) => return Some(verdict),
                },
                Phase::Send(sent) => match self.send(server, io, token, task, sent) {
                    Ok(Some(now)) => task.phase = Phase::Send(now),
                    Ok(None) => return None,
                    Err(verdict) => return Some(verdict),
                },
            }
        }
    }

    /// Take of the body what is there; true when that is enough.
    fn read(&mut self, server: &mut HttpServer, io: &mut HttpIo, token: Token, task: &mut Task) -> bool {
        let known = &self.stories[task.peer].chapters[task.number];
        loop {
            let read = task.read;
            let taken = server.take_body(io, token, |data, more| {
                assert_eq!(known.body.get(read..read + data.len()), Some(data), "body bytes from {read}");
                (data.len(), more)
            });
            match taken {
                Take::Taken((bytes, more)) => {
                    task.read += bytes;
                    assert!(more || known.whole && task.read == known.body.len(), "more of the body was to come");
                    if !more || task.plan != Plan::Echo {
                        return true;
                    }
                }
                Take::Disconnected => return true,
                // A client that says no more and does not leave: the application has waited long enough.
                Take::Wait if self.is_closing => return true,
                Take::Wait => return false,
            }
        }
    }

    fn start(
        &mut self,
        server: &mut HttpServer,
        io: &mut HttpIo,
        token: Token,
        task: &mut Task,
    ) -> Result<usize, Verdict> {
        if !server.is_connected(io, token) {
            return Err(Verdict::Lost);
        }
        if matches!(task.plan, Plan::Fail { begun: false, .. }) {
            server.fail(io, token);
            return Err(Verdict::Failed);
        }
        let (body, more) = self.piece(task, 0);
        let number = task.number.to_string();
        let declared = match task.plan {
            Plan::Pieces { .. } => Some(self.answer_length(task)),
            Plan::Long => Some(2),
            Plan::Short => Some(100),
            _ => None,
        };
        let begun = server.start_response::<ResponseError>(io, token, task.plan.status(), body, !more, |head| {
            head.header(b"x-request", number.as_bytes())?;
            if let Some(length) = declared {
                head.header(b"content-length", length.to_string().as_bytes())?;
            }
            match task.plan {
                Plan::Split => head.header(b"x-split", b"a\r\nset-cookie: stolen"),
                Plan::Close => head.header(b"connection", b"close"),
                _ => Ok(()),
            }
        });
        let is_fault = matches!(task.plan, Plan::Split | Plan::Long | Plan::Short);
        match begun {
            Err(error) if !is_fault => panic!("{:?} was refused: {error}", task.plan),
            Err(_) => {
                server.fail(io, token);
                Err(Verdict::Failed)
            }
            Ok(()) => {
                assert_ne!(task.plan, Plan::Split, "a header that is two was taken");
                Ok(0)
            }
        }
    }

    fn answer_length(&self, task: &Task) -> usize {
        match task.plan {
            // A few are enough: thousands, of thousands of requests, would only cost time.
            Plan::Whole { borrowed: true } | Plan::Pieces { borrowed: true } if task.number < LARGE_BODIES => {
                LARGE_BODY_BYTES
            }
            Plan::Echo => task.read,
            Plan::Pieces { .. } => 5000,
            Plan::Long => 9,
            _ => 13,
        }
    }

    /// How many bytes come next of the answer of which `sent` have been sent, and whether more follow.
    fn piece(&self, task: &Task, sent: usize) -> (usize, bool) {
        let length = self.answer_length(task);
        let most = match task.plan {
            Plan::Echo => 4000,
            Plan::Pieces { borrowed: true } => 40_000,
            Plan::Pieces { .. } | Plan::Fail { begun: true, .. } => 700,
            // In two pieces, so that the head is gone when the fault is found.
            Plan::Long | Plan::Short => 1,
            _ => usize::MAX,
        };
        let piece = most.min(length - sent);
        let is_streamed = matches!(task.plan, Plan::Echo | Plan::Pieces { .. } | Plan::Long | Plan::Short);
        (piece, is_streamed && sent + piece < length || matches!(task.plan, Plan::Fail { begun: true, .. }))
    }

    /// Send the next piece; how much has been sent then, or `None` while there is no room.
    fn send(
        &mut self,
        server: &mut HttpServer,
        io: &mut HttpIo,
        token: Token,
        task: &mut Task,
        sent: usize,
    ) -> Result<Option<usize>, Verdict> {
        if !server.is_connected(io, token) {
            return Err(Verdict::Lost);
        }
        let ((length, more), faulty) = (self.piece(task, sent), matches!(task.plan, Plan::Long | Plan::Short));
        let bytes = answer_bytes(task.peer, task.number, sent, length);
        let borrowed = matches!(task.plan, Plan::Whole { borrowed: true } | Plan::Pieces { borrowed: true });
        let outcome = if borrowed {
            self.lent_count += 1;
            let owner = self.lent_count;
            let bytes: &[u8] = self.lent.entry(owner).or_insert(bytes);
            // SAFETY: the owner's bytes stay in `lent`, where they are and as they are, until it comes back.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
            server.send_body(io, token, Body::Borrowed(bytes, Owner(owner)), more)
        } else {
            server.send_body(io, token, Body::Copied(&bytes), more)
        };
        match outcome {
            Err(RespondError::Disconnected) => Err(Verdict::Lost),
            Err(RespondError::Invalid(error)) => {
                assert!(faulty, "{:?} was refused: {error}", task.plan);
                server.fail(io, token);
                Err(Verdict::Lost)
            }
            Ok(_) if !more => Err(Verdict::Answered(task.plan, sent + length)),
            Ok(_) if matches!(task.plan, Plan::Fail { begun: true, .. }) => {
                server.fail(io, token);
                Err(Verdict::Lost)
            }
            Ok(queued) if queued > HIGH_WATERMARK_BYTES => {
                task.phase = Phase::Send(sent + length);
                io.want_drained(token);
                Ok(None)
            }
            Ok(_) => Ok(Some(sent + length)),
        }
    }

    /// Whose time has come without an event.
    fn wake(&mut self, server: &mut HttpServer, io: &mut HttpIo) {
        let waiting = |task: &Task| matches!(task.phase, Phase::Wait(_)) || self.is_closing;
        let mut tokens: Vec<Token> =
            self.tasks.iter().filter(|(_, task)| waiting(task)).map(|(token, _)| *token).collect();
        tokens.sort_unstable_by_key(|token| token.to_u64());
        for token in tokens {
            self.step(server, io, token);
        }
    }
}

// ---- the run ---------------------------------------------------------------------------------------------------------

struct Peer {
    wire: Option<SimulatedPeer>,
    sent: usize,
    to_send: usize,
    got: Vec<u8>,
    reads: bool,
    finish_wanted: bool,
    is_whole: bool,
}

struct Run {
    network: SimulatedNetwork,
    event_loop: EventLoop<Server>,
    application: Application,
    peers: Vec<Peer>,
    sent: [Vec<u8>; PEERS],
    /// Events that one turn lets the application have.
    batch: usize,
    is_drained: bool,
    baseline: isize,
}

/// See the module.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut control = Input::new(input.take(CONTROL_BYTES));
    let plan = [FaultPlan::CALM, FaultPlan::ROUGH, FaultPlan::HOSTILE][control.up_to(2)];
    let network = SimulatedNetwork::new(u64::from(control.word()), FaultPlan { room_bytes: 64 << 10, ..plan });
    let batch = [usize::MAX, 1, 2, 5][control.up_to(3)];
    let limits = control.byte();
    let settings = HttpSettings {
        date_header: limits % 2 == 0,
        max_body_bytes: if limits & 2 != 0 { 10_000 } else { u64::MAX },
        ..HttpSettings::default()
    };
    let plans = std::array::from_fn(|_| Plan::of(control.byte()));
    let (steps, sent) = read_script(input.rest());
    let stories: [Story; PEERS] = std::array::from_fn(|peer| Story::read(&sent[peer], &settings.head));
    // Room for all of them, made before memory is watched.
    let verdicts = std::array::from_fn(|peer| Vec::with_capacity(stories[peer].chapters.len()));
    let listener = network.listen().expect("descriptors");
    let peers = (0..PEERS).map(|_| Peer::of(network.dial(listener.as_raw_fd()))).collect();
    let http = HttpServer::new(settings, None);
    let server = Server { http, accepted: 0, endings: HashMap::new(), peers: HashMap::new() };
    let mut event_loop = EventLoop::new(Box::new(network.poller()), server).expect("a loop");
    event_loop.io.add_listener(listener).expect("a listener");
    let application = Application {
        plans,
        stories,
        tasks: HashMap::new(),
        verdicts,
        lent: HashMap::new(),
        lent_count: 0,
        turn: 0,
        is_closing: false,
        is_quiet: false,
    };
    let mut run =
        Run { network, event_loop, application, peers, sent, batch, is_drained: false, baseline: held_bytes() };
    for (peer, step) in steps {
        run.act(peer, step);
    }
    run.close();
    run.check_answers();
}

impl Peer {
    fn of(wire: SimulatedPeer) -> Peer {
        // Room for what is read, made before memory is watched.
        let got = Vec::with_capacity(64 << 10);
        Peer { wire: Some(wire), sent: 0, to_send: 0, got, reads: true, finish_wanted: false, is_whole: true }
    }

    /// Move bytes both ways, as far as the network has room.
    fn pump(&mut self, bytes: &[u8]) {
        let Some(wire) = &mut self.wire else { return };
        while self.sent < self.to_send {
            match wire.write(&bytes[self.sent..self.to_send]) {
                0 => break,
                taken => self.sent += taken,
            }
        }
        if self.sent == self.to_send && std::mem::take(&mut self.finish_wanted) {
            wire.finish();
        }
        if self.reads {
            self.got.extend_from_slice(&wire.read(usize::MAX));
        }
    }
}

impl Run {
    fn act(&mut self, peer: usize, step: Step<'_>) {
        match step {
            Step::Send(bytes) => {
                self.peers[peer].to_send += bytes.len();
                self.peers[peer].pump(&self.sent[peer]);
                if self.peers[peer].sent < self.peers[peer].to_send {
                    self.turn(Duration::from_micros(100));
                }
            }
            Step::Act(Action::Turn(times)) => (0..times).for_each(|_| self.turn(Duration::from_micros(200))),
            Step::Act(Action::Advance(ms)) => {
                self.network.advance(Duration::from_millis(ms.into()));
                self.turn(Duration::ZERO);
            }
            Step::Act(Action::Drain) => {
                let EventLoop { io, service, .. } = &mut self.event_loop;
                service.http.drain(io, false);
                self.is_drained = true;
            }
            Step::Act(action) => self.act_on_wire(peer, action),
        }
    }

    fn act_on_wire(&mut self, peer: usize, action: Action) {
        let peer = &mut self.peers[peer];
        match action {
            Action::Finish => peer.finish_wanted = true,
            Action::Reads(reads) => peer.reads = reads,
            Action::Reset => {
                if let Some(mut wire) = peer.wire.take() {
                    peer.got.extend_from_slice(&wire.read(usize::MAX));
                    peer.is_whole = false;
                    wire.reset();
                }
            }
            Action::Vanish => {
                peer.is_whole = false;
                if let Some(wire) = &mut peer.wire {
                    wire.vanish();
                }
            }
            _ => unreachable!("acts on no wire"),
        }
    }

    fn turn(&mut self, timeout: Duration) {
        for (peer, bytes) in self.peers.iter_mut().zip(&self.sent) {
            peer.pump(bytes);
        }
        self.event_loop.turn(Some(timeout)).expect("a turn");
        self.application.turn += 1;
        let EventLoop { io, service, .. } = &mut self.event_loop;
        for _ in 0..self.batch {
            let Some(event) = service.http.next_event() else { break };
            self.application.handle(&mut service.http, io, event);
        }
        self.application.wake(&mut service.http, io);
        for owner in io.take_released().drain(..) {
            assert!(self.application.lent.remove(&owner.0).is_some(), "an owner came back twice");
        }
        let got: usize = self.peers.iter().map(|peer| peer.got.capacity()).sum();
        let lent: usize = self.application.lent.values().map(Vec::capacity).sum();
        let held = held_bytes() - self.baseline - got as isize - lent as isize;
        assert!(held <= MAX_BYTES_PER_PEER * PEERS as isize, "{held} bytes are held");
    }

    /// Everybody reads, says what there is left to say and leaves; the server must come to rest.
    fn close(&mut self) {
        self.application.is_closing = true;
        for turn in 0..MAX_CLOSING_TURNS {
            for peer in &mut self.peers {
                peer.reads = true;
                // After this, peers that only wait leave too.
                peer.finish_wanted |= turn == 1000;
            }
            self.turn(Duration::from_secs(1));
            if self.event_loop.io.connections() == 0 && self.event_loop.service.accepted == PEERS as u16 {
                break;
            }
        }
        (0..2).for_each(|_| self.turn(Duration::ZERO));
        let EventLoop { io, service, .. } = &mut self.event_loop;
        while let Some(event) = service.http.next_event() {
            self.application.handle(&mut service.http, io, event);
        }
        assert_eq!((io.connections(), io.lingering()), (0, 0), "connections are left over");
        assert_eq!(service.http.requests_in_progress(), 0, "requests are left over");
        assert!(self.application.is_quiet || !self.is_drained, "a drained server comes to rest and says so");
        assert!(self.application.tasks.is_empty(), "the application waits for what never comes");
        assert!(service.http.settle(io), "leases are left over");
        for owner in io.take_released().drain(..) {
            assert!(self.application.lent.remove(&owner.0).is_some(), "an owner came back twice");
        }
        assert!(self.application.lent.is_empty(), "owners are left over");
    }

    /// Each peer has read one answer a request, in order, each by the letter.
    fn check_answers(&mut self) {
        for number in 0..PEERS {
            self.peers[number].pump(&self.sent[number]);
            let ending = self.event_loop.service.endings.get(&(number as u16));
            let finished = matches!(ending, Some(CloseReason::Finished)) && self.peers[number].is_whole;
            let reader = Answers { application: &self.application, peer: number, rest: &self.peers[number].got };
            reader.check(finished);
        }
    }
}

/// Reads what a peer was sent.
struct Answers<'a> {
    application: &'a Application,
    peer: usize,
    rest: &'a [u8],
}

impl Answers<'_> {
    /// `finished`: nothing was cut off, so the last answer too is whole.
    fn check(mut self, finished: bool) {
        let verdicts = &self.application.verdicts[self.peer];
        for (number, verdict) in verdicts.iter().enumerate() {
            let verdict = verdict.expect("every request was answered or lost");
            if !self.check_one(number, verdict, finished) {
                return;
            }
        }
        // At most a refusal follows.
        if !self.rest.is_empty() && self.skip_interim() {
            let Some((lines, length)) = self.head(finished) else { return };
            assert!(lines[0].starts_with(b"HTTP/1.1 4") || lines[0].starts_with(b"HTTP/1.1 5"), "{}", self.excerpt());
            assert!(naive::values(&lines[1..], "x-request").is_empty(), "an answer to no request");
            let declared = naive::values(&lines[1..], "content-length");
            let body: usize = declared.first().map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
            let there = self.rest.len() - length;
            assert!(there == body || !finished && there < body, "one refusal and no more: {}", self.excerpt());
        }
    }

    fn excerpt(&self) -> String {
        self.rest[..self.rest.len().min(300)].escape_ascii().to_string()
    }

    /// Pass over `100 Continue`; false if nothing follows.
    fn skip_interim(&mut self) -> bool {
        while let Some(rest) = self.rest.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
            self.rest = rest;
        }
        !self.rest.is_empty()
    }

    fn head(&self, finished: bool) -> Option<(Vec<&[u8]>, usize)> {
        let head = naive::head_lines(self.rest);
        assert!(head.is_some() || !finished, "half a head: {}", self.excerpt());
        head
    }

    /// Check the answer to one request; false when nothing can follow.
    fn check_one(&mut self, number: usize, verdict: Verdict, finished: bool) -> bool {
        if !self.skip_interim() {
            assert!(!finished || verdict == Verdict::Lost, "request {number} has no answer: {verdict:?}");
            return false;
        }
        let Some((lines, length)) = self.head(finished) else { return false };
        let mark = naive::values(&lines[1..], "x-request");
        let (plan, body_bytes) = match verdict {
            Verdict::Answered(plan, body_bytes) => (plan, body_bytes),
            Verdict::Failed => {
                assert!(lines[0].starts_with(b"HTTP/1.1 500 ") && mark.is_empty(), "{}", self.excerpt());
                (Plan::Fail { begun: false, after: 0 }, 0)
            }
            // Perhaps begun, perhaps refused: whatever there is must be the last.
            Verdict::Lost => {
                let next = format!("\r\nx-request: {}\r\n", number + 1);
                assert!(!self.rest.windows(next.len()).any(|part| part == next.as_bytes()), "answered after the end");
                return false;
            }
        };
        if verdict != Verdict::Failed {
            assert_eq!(mark, [number.to_string().as_bytes()], "answers in order");
            assert!(lines[0].starts_with(format!("HTTP/1.1 {} ", plan.status()).as_bytes()));
        }
        let body = &self.rest[length..];
        let chapter = &self.application.stories[self.peer].chapters[number];
        let is_bodiless = chapter.is_head || matches!(plan, Plan::Bodiless(204 | 304));
        let taken = if is_bodiless { Some(0) } else { self.check_body(number, verdict, &lines, body, body_bytes) };
        let closes = naive::values(&lines[1..], "connection").iter().any(|value| value.eq_ignore_ascii_case(b"close"));
        assert!(taken.is_some() || !finished, "half an answer to request {number}: {}", self.excerpt());
        let Some(taken) = taken else { return false };
        self.rest = &self.rest[length + taken..];
        assert!(!closes || self.rest.is_empty(), "more after the end was announced: {}", self.excerpt());
        !closes
    }

    /// How many bytes the body takes, once it is whole.
    fn check_body(
        &self,
        number: usize,
        verdict: Verdict,
        lines: &[&[u8]],
        body: &[u8],
        body_bytes: usize,
    ) -> Option<usize> {
        let minor = self.application.stories[self.peer].chapters[number].minor_version;
        let (data, taken) = if !naive::values(lines, "transfer-encoding").is_empty() {
            assert_eq!(minor, 1, "a 1.0 client knows no chunks");
            match naive::chunked(body) {
                Chunked::Whole(data, taken) => (data, Some(taken)),
                Chunked::Partial(data) => (data, None),
                Chunked::Bad => panic!("bad chunks: {}", self.excerpt()),
            }
        } else if let Some(length) = naive::values(lines, "content-length").first() {
            let length: usize = std::str::from_utf8(length).unwrap().parse().expect("a length");
            (body[..length.min(body.len())].to_vec(), (body.len() >= length).then_some(length))
        } else {
            (body.to_vec(), Some(body.len()))
        };
        if verdict != Verdict::Failed {
            assert_eq!(data, answer_bytes(self.peer, number, 0, data.len()), "the body's bytes");
            assert!(data.len() <= body_bytes && (taken.is_none() || minor == 0 || data.len() == body_bytes));
        }
        taken
    }
}

// ---- memory ----------------------------------------------------------------------------------------------------------

/// The system's allocator, counting what is held.
struct Counting;

static HELD_BYTES: AtomicIsize = AtomicIsize::new(0);

fn held_bytes() -> isize {
    HELD_BYTES.load(Ordering::Relaxed)
}

// SAFETY: hands every call to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        HELD_BYTES.fetch_add(new_bytes as isize - layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, new_bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
