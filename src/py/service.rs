//! What a Python reactor serves: HTTP connections, streams of frames, and descriptors that asyncio watches.

use std::os::fd::OwnedFd;

use crate::core::buffer::Lease;
use crate::core::poller::Readiness;
use crate::core::{CloseReason, Io, Service, Token};
use crate::reactor::Mail;
use crate::server::Connection;
use crate::server::http::HttpServer;
use crate::server::tcp::Streams;

/// From here on a listener's number has that of a stream endpoint in its low byte, and tells several of one apart by the
/// bits above it; below, it is the HTTP server's.
pub const STREAM_LISTENERS: u16 = 0x8000;

pub struct PyService {
    pub http: Option<HttpServer>,
    pub streams: Streams,
    /// Listeners and their numbers; those that were removed, too, since their last connections may come later.
    pub listeners: Vec<(Token, u16)>,
    /// Watched descriptors found ready and not yet told: the watch, its descriptor, its readiness.
    pub ready: Vec<(Token, Readiness)>,
}

type PyIo = Io<Connection>;

impl PyService {
    /// Whether something waits for Python.
    pub fn has_events(&self) -> bool {
        self.streams.has_events() || self.http.as_ref().is_some_and(HttpServer::has_events)
    }

    fn add(&mut self, io: &mut PyIo, fd: OwnedFd, listener: u16) {
        if listener >= STREAM_LISTENERS {
            self.streams.add(io, fd, listener & 0xff);
        } else if let Some(http) = &mut self.http {
            http.add(io, fd, listener);
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

    fn settle(&mut self, io: &mut PyIo) -> bool {
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
