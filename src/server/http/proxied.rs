//! Connections through a proxy: who the client is, by a PROXY protocol header before the first request or by the
//! X-Forwarded headers of each. Both are believed only when they come from a trusted peer.

use super::connection::{Marks, PeerAddress};
use super::exchange::{Exchange, Stage};
use super::input::Took;
use super::service::{HttpIo, HttpServer};
use crate::core::Token;
use crate::core::buffer::Lease;
use crate::protocol::http1::HttpError;
use crate::protocol::proxy_protocol::{self, Source};

impl HttpServer {
    fn trusts(&self, peer: PeerAddress) -> bool {
        match peer {
            PeerAddress::V4(ip, _) => self.settings.trusted.trusts(ip.into()),
            PeerAddress::V6(ip, _) => self.settings.trusted.trusts(ip.into()),
            PeerAddress::Unix => self.settings.trusted.trusts_unix(),
            PeerAddress::Unknown => false,
        }
    }

    /// What the proxy says of this request, if it may.
    pub(super) fn read_forwarded(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) {
        let peer = self.peer(io, token);
        if self.trusts(peer)
            && let Some(bytes) = exchange.head_slice()
        {
            let headers = exchange.head.headers.iter().map(|(name, value)| (name.of(bytes), value.of(bytes)));
            exchange.forwarded = self.settings.trusted.read_forwarded(headers).map(Box::new);
        }
    }

    /// Bytes of a connection that has yet to announce its client. Nothing is answered: whoever speaks here wrongly does
    /// not speak HTTP.
    pub(super) fn received_proxy_header(&mut self, io: &mut HttpIo, token: Token, lease: Lease) {
        let peer = self.peer(io, token);
        if !self.trusts(peer) {
            return self.refuse_proxy_header(io, token);
        }
        let Some(connection) = io.http(token) else { return };
        let mut exchange = connection.active.take().unwrap_or_else(|| self.spare.pop().unwrap_or_default());
        // SAFETY: the lease is of this turn.
        exchange.raw.extend_from_slice(unsafe { lease.as_slice() });
        match proxy_protocol::parse(&exchange.raw) {
            Ok(None) => self.put_back(io, token, exchange),
            Err(_) => {
                self.put_back(io, token, exchange);
                self.refuse_proxy_header(io, token);
            }
            Ok(Some(header)) => {
                exchange.raw.drain(..header.bytes);
                self.begin_announced(io, token, exchange, header.source);
            }
        }
    }

    /// The client is known: on to its first request.
    fn begin_announced(&mut self, io: &mut HttpIo, token: Token, mut exchange: Box<Exchange>, source: Option<Source>) {
        let Some(connection) = io.http(token) else { return self.keep_spare(exchange) };
        connection.marks.clear(Marks::AWAITS_PROXY_HEADER);
        match source {
            Some(Source::Internet(address)) => connection.peer = address.into(),
            Some(Source::Unix) => connection.peer = PeerAddress::Unix,
            // The proxy speaks for itself.
            None => {}
        }
        if !self.admit(io, token) {
            self.keep_spare(exchange);
            return self.turn_away(io, token);
        }
        io.set_deadline(token, self.settings.head_timeout);
        if exchange.raw.is_empty() {
            return self.keep_spare(exchange);
        }
        if let Some(connection) = io.http(token) {
            connection.marks.set(Marks::GREETED);
        }
        let outcome = self.take_first_bytes(io, token, &mut exchange);
        self.put_back(io, token, exchange);
        self.conclude_input(io, token, outcome);
    }

    fn take_first_bytes(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) -> Result<Took, HttpError> {
        debug_assert!(exchange.stage == Stage::Head && exchange.at == 0);
        self.advance(io, token, exchange)?;
        self.after_input(io, token, exchange)
    }

    /// Too late, malformed, or from somebody whose word is not taken.
    pub(super) fn refuse_proxy_header(&mut self, io: &mut HttpIo, token: Token) {
        io.counters.proxy_headers_refused.add(1);
        io.abort(token);
    }
}
