//! What a Python reactor serves: HTTP connections, datagram sockets, and descriptors that asyncio watches.

use std::os::fd::OwnedFd;

use crate::core::buffer::Lease;
use crate::core::poller::Readiness;
use crate::core::{CloseReason, Io, Service, Token};
use crate::reactor::Mail;
use crate::server::http::{HttpConnection, HttpServer};
use crate::server::udp::UdpService;

pub struct PyService {
    pub http: Option<HttpServer>,
    pub udp: UdpService,
    /// Listeners of the HTTP server and their numbers; those that were removed, too, since their last connections may
    /// come later.
    pub listeners: Vec<(Token, u16)>,
    /// Watched descriptors found ready and not yet told: the watch, its descriptor, its readiness.
    pub ready: Vec<(Token, Readiness)>,
}

type PyIo = Io<HttpConnection>;

impl PyService {
    /// Whether something waits for Python.
    pub fn has_events(&self) -> bool {
        self.http.as_ref().is_some_and(HttpServer::has_events) || self.udp.has_events()
    }
}

impl Service for PyService {
    type Connection = HttpConnection;
    type Mail = Mail;

    fn accepted(&mut self, io: &mut PyIo, listener: Token, fd: OwnedFd) {
        let number = self.listeners.iter().find(|(token, _)| *token == listener).map(|&(_, number)| number);
        if let (Some(http), Some(number)) = (&mut self.http, number) {
            http.add(io, fd, number);
        }
    }

    fn received(&mut self, io: &mut PyIo, token: Token, lease: Lease) {
        if let Some(http) = &mut self.http {
            http.received(io, token, lease);
        }
    }

    fn ended(&mut self, io: &mut PyIo, token: Token) {
        if let Some(http) = &mut self.http {
            http.ended(io, token);
        }
    }

    fn drained(&mut self, io: &mut PyIo, token: Token) {
        if let Some(http) = &mut self.http {
            http.drained(io, token);
        }
    }

    fn blocked(&mut self, io: &mut PyIo, token: Token) {
        if let Some(http) = &mut self.http {
            http.blocked(io, token);
        }
    }

    fn unblocked(&mut self, io: &mut PyIo, token: Token) {
        if let Some(http) = &mut self.http {
            http.unblocked(io, token);
        }
    }

    fn expired(&mut self, io: &mut PyIo, token: Token) {
        if self.udp.expired(io, token) {
            return;
        }
        if let Some(http) = &mut self.http {
            http.expired(io, token);
        }
    }

    fn closed(&mut self, _io: &mut PyIo, token: Token, state: HttpConnection, reason: CloseReason) {
        if let Some(http) = &mut self.http {
            http.closed(token, state, reason);
        }
    }

    fn ready(&mut self, io: &mut PyIo, token: Token, readiness: Readiness) {
        let is_http = self.http.as_mut().is_some_and(|http| http.ready(io, token));
        if !is_http && !self.udp.ready(io, token, readiness) {
            self.ready.push((token, readiness));
        }
    }

    fn mail(&mut self, io: &mut PyIo, mail: Mail) {
        match mail {
            // It counts as on its way until this has returned.
            Mail::Connection { fd, listener, on_its_way: _arrived } => {
                io.counters.connections_handed_over.add(1);
                if let Some(http) = &mut self.http {
                    http.add(io, fd, listener);
                }
            }
        }
    }

    fn settle(&mut self, io: &mut PyIo) -> bool {
        let is_udp_settled = self.udp.settle(io);
        is_udp_settled
            & match &mut self.http {
                Some(http) => {
                    http.flush_log(io);
                    http.settle(io)
                }
                None => true,
            }
    }
}
