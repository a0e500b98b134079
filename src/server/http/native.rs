//! Requests that the server answers by itself, in the detached phase: files, redirects, health, its own refusals.
//!
//! A [`Responder`] claims requests by their path and says what to answer; this server writes it, with everything that an
//! application's answer has too: keep-alive, pipelining, HEAD, the access log, the counters.

use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, RequestView};
use super::input::count_refusal;
use super::output::Body;
use super::service::{HttpEvent, HttpIo, HttpServer};
use crate::core::Token;
use crate::core::poller::Readiness;
use crate::metrics::ReactorCounters;
use crate::protocol::http1::{HttpError, ResponseError};

/// Answers requests without the application. All calls are on the reactor's thread, none may wait.
pub trait Responder: Send {
    /// Whether requests for this path, as it was sent, are this responder's. Asked once for every request: be quick.
    fn claims(&self, path: &[u8]) -> bool;

    /// What to answer. `now` is the turn's time.
    fn respond(&mut self, token: Token, request: &RequestView<'_>, now: Instant) -> NativeAnswer;

    /// Becomes readable when answers that were to come later are there; the same one for the responder's whole life.
    fn wakeup(&self) -> Option<RawFd> {
        None
    }

    /// Count what happened since this was last asked.
    fn tell(&mut self, _counters: &ReactorCounters) {}

    /// How long until `take_answerable` knows of a request that has waited long enough.
    fn patience(&self, _now: Instant) -> Option<Duration> {
        None
    }

    /// Requests told to wait whose answer `respond` knows by now.
    fn take_answerable(&mut self, _now: Instant) -> Vec<Token> {
        Vec::new()
    }
}

pub enum NativeAnswer {
    Response(NativeResponse),
    /// A page of the server's own, in the style that the client prefers, with further header lines.
    Page {
        error: HttpError,
        lines: Vec<u8>,
    },
    /// Not here after all: the application's.
    PassOn,
    /// `take_answerable` tells when to ask again.
    Later,
}

pub struct NativeResponse {
    pub status: u16,
    pub lines: HeaderLines,
    pub body: NativeBody,
}

/// Header lines in their wire form: the first `shared_bytes` of prepared ones, then some of this answer's own.
///
/// They hold nothing that frames the message or concerns the connection.
pub struct HeaderLines {
    pub shared: Arc<[u8]>,
    pub shared_bytes: usize,
    pub own: Vec<u8>,
}

pub enum NativeBody {
    Empty,
    One(NativePiece),
    Many(Vec<NativePiece>),
}

pub enum NativePiece {
    /// In memory, shared with a cache.
    Shared(Arc<[u8]>, Range<usize>),
    Own(Vec<u8>),
    /// A range of a regular file.
    File {
        file: Arc<OwnedFd>,
        offset: u64,
        bytes: usize,
    },
}

impl NativePiece {
    pub fn bytes(&self) -> usize {
        match self {
            NativePiece::Shared(_, range) => range.len(),
            NativePiece::Own(bytes) => bytes.len(),
            NativePiece::File { bytes, .. } => *bytes,
        }
    }

    fn as_body(&self) -> Body<'_> {
        match self {
            NativePiece::Shared(bytes, range) => Body::Copied(&bytes[range.clone()]),
            NativePiece::Own(bytes) => Body::Copied(bytes),
            NativePiece::File { file, offset, bytes } => {
                Body::File { file: file.clone(), offset: *offset, bytes: *bytes }
            }
        }
    }
}

impl NativeBody {
    fn pieces(&self) -> &[NativePiece] {
        match self {
            NativeBody::Empty => &[],
            NativeBody::One(piece) => std::slice::from_ref(piece),
            NativeBody::Many(pieces) => pieces,
        }
    }
}

/// What the server owes a request that is not the application's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owed {
    Refusal(HttpError),
    /// The answer of this responder.
    By(usize),
}

impl HttpServer {
    /// Have requests answered without the application. Those added first are asked first.
    pub fn add_responder(&mut self, responder: Box<dyn Responder>) {
        self.responders.push(responder);
    }

    pub fn has_responders(&self) -> bool {
        !self.responders.is_empty()
    }

    /// Watch what the responders wait for.
    pub fn attach(&mut self, io: &mut HttpIo) -> std::io::Result<()> {
        for responder in &self.responders {
            if let Some(fd) = responder.wakeup() {
                self.wakeups.push(io.watch(fd, Readiness { readable: true, writable: false })?);
            }
        }
        Ok(())
    }

    /// A watched descriptor is ready: true if it was a responder's.
    pub fn ready(&mut self, io: &mut HttpIo, token: Token) -> bool {
        if !self.wakeups.contains(&token) {
            return false;
        }
        self.ask_responders(io);
        true
    }

    /// How long until `ask_responders` is due, whether or not anybody wakes.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.responders.iter().filter_map(|responder| responder.patience(now)).min()
    }

    /// Give the late answers that are there, or will never be.
    pub fn ask_responders(&mut self, io: &mut HttpIo) {
        for index in 0..self.responders.len() {
            for waiting in self.responders[index].take_answerable(io.now()) {
                self.owed.push((waiting, Owed::By(index)));
            }
        }
        self.answer_natively(io);
    }

    pub(super) fn claimant(&self, exchange: &Exchange) -> Option<usize> {
        let path = exchange.head.path.of(exchange.head_slice()?);
        self.responders.iter().position(|responder| responder.claims(path))
    }

    /// The application's turn, unless the server is full.
    pub(super) fn hand_over(&mut self, token: Token) {
        if self.in_progress > self.settings.max_requests_in_progress {
            self.owed.push((token, Owed::Refusal(HttpError::OVERLOADED)));
        } else {
            self.events.push_back(HttpEvent::Request(token));
        }
    }

    /// 503 for a request that the application has no room for.
    pub fn refuse_overload(&mut self, io: &mut HttpIo, token: Token) {
        self.owed.push((token, Owed::Refusal(HttpError::OVERLOADED)));
        self.answer_natively(io);
    }

    /// Answer what the server answers by itself. An answer can begin the connection's next request, whose own is then
    /// given here too.
    pub(super) fn answer_natively(&mut self, io: &mut HttpIo) {
        while let Some((token, owed)) = self.owed.pop() {
            match owed {
                Owed::Refusal(error) => {
                    count_refusal(&io.counters, error);
                    self.answer_with_page(io, token, error, &[]);
                }
                Owed::By(responder) => self.answer_by(io, token, responder),
            }
        }
    }

    fn answer_by(&mut self, io: &mut HttpIo, token: Token, responder: usize) {
        let now = io.now();
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else { return };
        if !exchange.in_progress() {
            return;
        }
        let Some(request) = exchange.view() else { return };
        match self.responders[responder].respond(token, &request, now) {
            NativeAnswer::Response(response) => {
                io.counters.native_answers.add(1);
                self.send_native(io, token, &response);
            }
            NativeAnswer::Page { error, lines } => {
                io.counters.native_answers.add(1);
                self.answer_with_page(io, token, error, &lines);
            }
            NativeAnswer::PassOn => self.hand_over(token),
            NativeAnswer::Later => exchange.own_head(),
        }
    }

    fn send_native(&mut self, io: &mut HttpIo, token: Token, response: &NativeResponse) {
        let (lines, pieces) = (&response.lines, response.body.pieces());
        let bytes = pieces.iter().map(NativePiece::bytes).sum();
        let begun = self.start_response::<ResponseError>(io, token, response.status, bytes, true, |head| {
            head.prepared(&lines.shared[..lines.shared_bytes]);
            head.prepared(&lines.own);
            Ok(())
        });
        debug_assert!(begun.is_ok(), "prepared lines make a valid response");
        let Some((last, others)) = pieces.split_last() else {
            let _ = self.write_body(io, token, Body::Copied(&[]), false);
            return;
        };
        for piece in others {
            let _ = self.write_body(io, token, piece.as_body(), true);
        }
        let _ = self.write_body(io, token, last.as_body(), false);
    }
}
