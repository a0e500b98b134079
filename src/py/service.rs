//! What a Python reactor serves: HTTP connections, streams of frames, and descriptors that asyncio watches.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::wsgi::Desk;
use crate::core::buffer::Lease;
use crate::core::poller::Readiness;
use crate::core::{CloseReason, Io, Service, Token};
use crate::reactor::Mail;
use crate::reactor::fair_share::FairShare;
use crate::reactor::scoreboard::Reporter;
use crate::server::Connection;
use crate::server::http::{HttpEvent, HttpServer};
use crate::server::tcp::Streams;

/// From here on a listener's number has that of a stream endpoint in its low byte, and tells several of one apart by the
/// bits above it; below, it is the HTTP server's.
pub const STREAM_LISTENERS: u16 = 0x8000;

pub struct PyService {
    pub http: Option<HttpServer>,
    /// Where a WSGI application's threads get their requests; then the events of `http` are not for the loop's thread.
    pub desk: Option<Desk>,
    pub streams: Streams,
    /// Listeners and their numbers; those that were removed, too, since their last connections may come later.
    pub listeners: Vec<(Token, u16)>,
    /// Watched descriptors found ready and not yet told: the watch, its descriptor, its readiness.
    pub ready: Vec<(Token, Readiness)>,
    /// In a worker process: its slot in the scoreboard, and its fair share if it has its listeners with others.
    pub reporter: Option<Reporter>,
    pub fair_share: Option<FairShare>,
}

type PyIo = Io<Connection>;

impl PyService {
    /// Whether something waits for Python, on this thread.
    pub fn has_events(&self) -> bool {
        let of_http = match &self.desk {
            Some(desk) => desk.is_quiet(),
            None => self.http.as_ref().is_some_and(HttpServer::has_events),
        };
        of_http || self.streams.has_events()
    }

    /// The next of it, of HTTP.
    pub fn next_event(&mut self) -> Option<HttpEvent> {
        match &mut self.desk {
            Some(desk) => desk.take_quiet().then_some(HttpEvent::Quiet),
            None => self.http.as_mut()?.next_event(),
        }
    }

    /// Between two turns, detached: what the threads of a WSGI application have for the loop, and it for them.
    pub fn serve_threads(&mut self, io: &mut PyIo) {
        if let (Some(desk), Some(http)) = (&mut self.desk, &mut self.http) {
            desk.work(http, io);
        }
    }

    fn add(&mut self, io: &mut PyIo, fd: OwnedFd, listener: u16) {
        if listener >= STREAM_LISTENERS {
            self.streams.add(io, fd, listener & 0xff);
        } else if let Some(http) = &mut self.http {
            http.add(io, fd, listener);
        }
    }

    fn tell_levels(&mut self, io: &mut PyIo) {
        let mut waiting = self.streams.events_waiting();
        if let Some(http) = &mut self.http {
            http.tell_levels(io);
            waiting += http.events_waiting();
        }
        io.counters.events_waiting.set(waiting as u64);
        if let Some(desk) = &mut self.desk {
            desk.tell_levels(&io.counters);
        }
    }

    fn is_stream(io: &mut PyIo, token: Token) -> bool {
        io.stream(token).is_some()
    }
}

/// Tell whichever server has the connection.
macro_rules! tell {
    ($self:ident, $io:ident, $token:ident, $event:ident $(, $more:expr)?) => {
        if PyService::is_stream($io, $token) {
            $self.streams.$event($io, $token $(, $more)?);
        } else if let Some(http) = &mut $self.http {
            http.$event($io, $token $(, $more)?);
        }
    };
}

impl Service for PyService {
    type Connection = Connection;
    type Mail = Mail;

    fn accepted(&mut self, io: &mut PyIo, listener: Token, fd: OwnedFd) {
        let number = self.listeners.iter().find(|(token, _)| *token == listener).map(|&(_, number)| number);
        if let Some(number) = number {
            self.add(io, fd, number);
        }
    }

    fn received(&mut self, io: &mut PyIo, token: Token, lease: Lease) {
        tell!(self, io, token, received, lease);
    }

    fn ended(&mut self, io: &mut PyIo, token: Token) {
        tell!(self, io, token, ended);
    }

    fn drained(&mut self, io: &mut PyIo, token: Token) {
        tell!(self, io, token, drained);
    }

    fn blocked(&mut self, io: &mut PyIo, token: Token) {
        tell!(self, io, token, blocked);
    }

    fn unblocked(&mut self, io: &mut PyIo, token: Token) {
        tell!(self, io, token, unblocked);
    }

    fn expired(&mut self, io: &mut PyIo, token: Token) {
        if let Some(share) = self.fair_share.as_mut().filter(|share| share.is(token)) {
            return share.look_again(io);
        }
        tell!(self, io, token, expired);
    }

    fn closed(&mut self, _io: &mut PyIo, token: Token, state: Connection, reason: CloseReason) {
        match (state, &mut self.http) {
            (Connection::Stream(connection), _) => self.streams.closed(token, connection, reason),
            (state, Some(http)) => http.closed(token, state, reason),
            (_, None) => {}
        }
    }

    fn ready(&mut self, io: &mut PyIo, token: Token, readiness: Readiness) {
        if let Some(share) = self.fair_share.as_ref().filter(|share| share.is(token)) {
            return share.heard();
        }
        let is_http = self.http.as_mut().is_some_and(|http| http.ready(io, token));
        if !is_http {
            self.ready.push((token, readiness));
        }
    }

    fn mail(&mut self, io: &mut PyIo, mail: Mail) {
        match mail {
            // It counts as on its way until this has returned.
            Mail::Connection { fd, listener, on_its_way: _arrived } => {
                io.counters.connections_handed_over.add(1);
                self.add(io, fd, listener);
            }
        }
    }

    fn flushed(&mut self, io: &mut PyIo, now: Option<Instant>) {
        if let Some(http) = &mut self.http {
            http.flushed(io, now);
        }
    }

    fn settle(&mut self, io: &mut PyIo) -> bool {
        if io.measures {
            self.tell_levels(io);
        }
        if let Some(reporter) = &self.reporter {
            let in_progress = self.http.as_ref().map_or(0, HttpServer::requests_in_progress);
            reporter.rest(io.connections(), in_progress, io.counters.responses.get());
        }
        if let Some(share) = &mut self.fair_share {
            share.settle(io, &self.listeners);
        }
        let streams_settled = self.streams.settle();
        match &mut self.http {
            Some(http) => {
                http.foreign_connections = self.streams.connections();
                http.flush_log(io);
                http.settle(io) && streams_settled
            }
            None => streams_settled,
        }
    }
}
