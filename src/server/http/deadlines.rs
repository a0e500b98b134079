//! What takes too long is ended: an idle connection, a dripped head, a body or a reader slower than the minimum rate.
//!
//! A connection has one deadline at a time; what it was for is told by the state it finds when it is due. Rates are looked
//! at over whole windows, so a slow peer costs one look a window and nothing per byte.

use std::time::Duration;

use super::exchange::{Exchange, Stage};
use super::service::{HttpIo, HttpServer};
use crate::core::Token;
use crate::protocol::http1::HttpError;

impl HttpServer {
    pub fn expired(&mut self, io: &mut HttpIo, token: Token) {
        if io.is_blocked(token) && self.is_reader_too_slow(io, token) {
            io.counters.writes_timed_out.add(1);
            return io.abort(token);
        }
        let (sending, paused) = (io.is_blocked(token), io.is_paused(token));
        let Some(connection) = io.state(token) else { return };
        let blocked = match connection.active.as_deref_mut() {
            None => sending,
            Some(exchange) => match exchange.stage {
                Stage::Head if exchange.raw.is_empty() || exchange.held_back => sending,
                Stage::Head => return self.refuse(io, token, HttpError::HEAD_TIMEOUT),
                Stage::Body => {
                    let received = std::mem::take(&mut exchange.body_received_in_window);
                    let window = self.settings.body_window;
                    if self.settings.is_too_slow(received, window) && !awaits_us(exchange, paused) {
                        return self.refuse(io, token, HttpError::BODY_TIMEOUT);
                    }
                    return io.set_deadline(token, window);
                }
                Stage::Whole => sending,
            },
        };
        match io.state(token).map(|connection| connection.active.is_none()) {
            _ if blocked => io.set_deadline(token, self.settings.write_window),
            Some(true) => {
                io.counters.connections_idled_out.add(1);
                io.close_idle(token);
            }
            _ => {}
        }
    }

    /// Set the deadline of the stage that the connection comes to; `None`: it has none. While the peer's side has no
    /// room, that deadline stands, and `unblocked` sets this one.
    pub(super) fn set_stage_deadline(&self, io: &mut HttpIo, token: Token, after: Option<Duration>) {
        match after {
            _ if io.is_blocked(token) => {}
            Some(after) => io.set_deadline(token, after),
            None => io.clear_deadline(token),
        }
    }

    /// Since the last look, at most a window ago.
    fn is_reader_too_slow(&self, io: &mut HttpIo, token: Token) -> bool {
        let sent = io.take_progress_bytes(token);
        self.settings.is_too_slow(sent, self.settings.write_window)
    }

    /// The peer's side has no room: from now on it must make some, at the minimum rate.
    pub fn blocked(&mut self, io: &mut HttpIo, token: Token) {
        io.take_progress_bytes(token);
        io.set_deadline(token, self.settings.write_window);
    }

    /// Everything has left: back to the deadline that the connection's stage has.
    pub fn unblocked(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.state(token) else { return };
        let stage = connection.active.as_deref().map(|exchange| exchange.stage);
        match stage {
            None => io.set_deadline(token, self.settings.keep_alive),
            Some(Stage::Head) => io.set_deadline(token, self.settings.head_timeout),
            Some(Stage::Body) => io.set_deadline(token, self.settings.body_window),
            Some(Stage::Whole) => io.clear_deadline(token),
        }
    }
}

/// No byte came because none could: the application does not read, or the client waits for `100 Continue`.
fn awaits_us(exchange: &Exchange, paused: bool) -> bool {
    paused || exchange.head.expect_continue && !exchange.is_continued && exchange.in_progress()
}
