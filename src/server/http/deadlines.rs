//! What takes too long is ended: an idle connection, a dripped head, a body or a reader slower than the minimum rate.
//!
//! A connection has one deadline at a time; what it was for is told by the state it finds when it is due. Rates are looked
//! at over whole windows, so a slow peer costs one look a window and nothing per byte.

use super::connection::Marks;
use super::exchange::{Exchange, Stage};
use super::service::{DRAIN_IDLE, HttpIo, HttpServer};
use crate::core::{Cause, Token};
use crate::protocol::http1::HttpError;
use crate::server::FILL_SHARE;

impl HttpServer {
    pub fn expired(&mut self, io: &mut HttpIo, token: Token) {
        if io.is_blocked(token) {
            return self.look_at_reader(io, token);
        }
        let paused = io.is_paused(token);
        let Some(connection) = io.http(token) else { return };
        if connection.marks.has(Marks::AWAITS_PROXY_HEADER) {
            return self.refuse_proxy_header(io, token);
        }
        if connection.marks.has(Marks::UPGRADED) {
            // Its new protocol has deadlines of its own.
            return;
        }
        match connection.active.as_deref_mut() {
            None => {
                io.counters.connections_idled_out.add(1);
                io.note_cause(token, Cause::Silent);
                io.close_idle(token);
            }
            Some(exchange) => match exchange.stage {
                // The reader's time is running.
                Stage::Head if exchange.held_back => {}
                Stage::Head => {
                    exchange.give_head_up();
                    self.refuse(io, token, HttpError::HEAD_TIMEOUT);
                }
                Stage::Body => {
                    let received = std::mem::take(&mut exchange.body_received_in_window);
                    let window = self.settings.body_window;
                    if self.settings.is_too_slow(received, window) && !awaits_us(exchange, paused) {
                        return self.refuse(io, token, HttpError::BODY_TIMEOUT);
                    }
                    io.set_deadline(token, window);
                }
                // The application's time is its own.
                Stage::Whole => {}
            },
        }
    }

    fn look_at_reader(&self, io: &mut HttpIo, token: Token) {
        if let Some(connection) = io.http(token).filter(|connection| connection.marks.has(Marks::FILLS)) {
            connection.marks.clear(Marks::FILLS);
            io.take_progress_bytes(token);
            return io.set_deadline(token, self.settings.write_window);
        }
        if self.is_reader_too_slow(io, token) {
            io.counters.writes_timed_out.add(1);
            io.note_cause(token, Cause::Stalled);
            return io.abort(token);
        }
        io.set_deadline(token, self.settings.write_window);
    }

    /// Since the last look, at most a window ago.
    fn is_reader_too_slow(&self, io: &mut HttpIo, token: Token) -> bool {
        let sent = io.take_progress_bytes(token);
        self.settings.is_too_slow(sent, self.settings.write_window)
    }

    /// The peer's side has no room: it must make some, at the minimum rate, from when all buffers are full.
    pub fn blocked(&mut self, io: &mut HttpIo, token: Token) {
        if let Some(connection) = io.http(token) {
            connection.marks.set(Marks::FILLS);
        }
        io.set_deadline(token, self.settings.write_window / FILL_SHARE);
    }

    /// Everything has left: back to the deadline that the connection's stage has.
    pub fn unblocked(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.http(token) else { return };
        if connection.marks.has(Marks::UPGRADED) {
            return io.clear_deadline(token);
        }
        let stage = connection.active.as_deref().map(|exchange| exchange.stage);
        self.enter(io, token, stage);
    }

    /// The connection is at this stage from now on; `None` is idle. While the peer has no room the deadline is the
    /// reader's, and the stage's begins when everything has left.
    pub(super) fn enter(&self, io: &mut HttpIo, token: Token, stage: Option<Stage>) {
        match stage {
            _ if io.is_blocked(token) => {}
            None if self.draining && !self.patient => io.set_deadline(token, DRAIN_IDLE),
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
