//! Where another protocol takes a connection over (RFC 9110 section 7.8).
//!
//! A request whose head says `upgrade` is announced like any other. Whoever serves the offered protocol calls `upgrade`
//! instead of answering: the 101 is written, the exchange ends, and the bytes of the connection are the taker's from then
//! on. The service that owns both routes what it is told by [`HttpConnection::is_upgraded`]. If nobody takes it over, the
//! request is answered as an ordinary one, which the client must expect.
//!
//! [`HttpConnection::is_upgraded`]: super::HttpConnection::is_upgraded

use std::fmt;

use super::connection::{Marks, PeerAddress};
use super::exchange::{Answer, Stage};
use super::service::{HttpIo, HttpServer};
use crate::core::Token;
use crate::protocol::http1::{ResponseError, ResponseHead};

/// A connection that is no longer the HTTP server's.
#[derive(Debug)]
pub struct Upgraded {
    pub token: Token,
    pub peer: PeerAddress,
    pub listener: u16,
    /// The request's head, as it came.
    pub head: Vec<u8>,
    /// What the client sent behind its request: the first bytes of the new protocol.
    pub rest: Vec<u8>,
}

/// Why a connection cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    /// The peer is gone.
    Disconnected,
    /// The client offered no other protocol.
    NotOffered,
    /// The response has begun.
    AnswerBegun,
    /// Part of the request's body is still to come, or to be taken.
    BodyUnread,
    Invalid(ResponseError),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => to.write_str("the client has gone away"),
            Self::NotOffered => to.write_str("the client did not offer another protocol"),
            Self::AnswerBegun => to.write_str("the response has begun: the connection stays with HTTP"),
            Self::BodyUnread => to.write_str("the request's body must be taken before another protocol begins"),
            Self::Invalid(error) => error.fmt(to),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl From<ResponseError> for UpgradeError {
    fn from(error: ResponseError) -> Self {
        Self::Invalid(error)
    }
}

impl HttpServer {
    /// Answer 101 with `Upgrade: protocol` and hand the connection over. Paused or not, it is read from again.
    ///
    /// After an error nothing has been written, and the request can still be answered.
    pub fn upgrade(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        protocol: &[u8],
        write_headers: impl FnOnce(&mut ResponseHead<'_>) -> Result<(), ResponseError>,
    ) -> Result<Upgraded, UpgradeError> {
        self.check_upgrade(io, token)?;
        let context = self.context(None);
        let written = io.append_with(token, |out| {
            let mut head = ResponseHead::start(out, 101);
            head.header(b"upgrade", protocol)?;
            head.header(b"connection", b"upgrade")?;
            write_headers(&mut head)?;
            head.finish(context).map(drop)
        });
        written.ok_or(UpgradeError::Disconnected)??;
        let peer = self.peer(io, token);
        let Some(connection) = io.http(token) else { return Err(UpgradeError::Disconnected) };
        connection.marks.set(Marks::UPGRADED);
        let listener = connection.listener;
        let Some(mut exchange) = connection.active.take() else { return Err(UpgradeError::Disconnected) };
        self.in_progress -= 1;
        io.counters.responses.add(1);
        io.counters.statuses.add(101);
        io.counters.connections_upgraded.add(1);
        if let Some(log) = &mut self.access_log {
            log.line(&exchange.log, 101, 0);
        }
        let (head, rest) = (std::mem::take(&mut exchange.head_bytes), exchange.pending().to_vec());
        self.keep_spare(exchange);
        if !io.is_blocked(token) {
            io.clear_deadline(token);
        }
        io.resume(token);
        Ok(Upgraded { token, peer, listener, head, rest })
    }

    fn check_upgrade(&self, io: &mut HttpIo, token: Token) -> Result<(), UpgradeError> {
        let exchange = io.http(token).and_then(|connection| connection.active.as_deref());
        let exchange = exchange.filter(|exchange| exchange.in_progress() && !exchange.peer_ended);
        match exchange {
            None => Err(UpgradeError::Disconnected),
            Some(exchange) if !exchange.head.upgrade => Err(UpgradeError::NotOffered),
            Some(exchange) if exchange.answer != Answer::Unstarted => Err(UpgradeError::AnswerBegun),
            Some(exchange) if exchange.stage != Stage::Whole || exchange.body_bytes() > 0 => {
                Err(UpgradeError::BodyUnread)
            }
            Some(_) => Ok(()),
        }
    }
}
