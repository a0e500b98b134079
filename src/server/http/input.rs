//! Bytes to requests: each piece of input is understood as far as the connection's stage allows.

use super::connection::Marks;
use super::error_page::{self, PageStyle};
use super::exchange::{Answer, Exchange, HeadPlace, RequestView, Stage, Take};
use super::native::Owed;
use super::service::{HttpEvent, HttpIo, HttpServer};
use crate::core::Token;
use crate::core::buffer::Lease;
use crate::core::event_loop::HIGH_WATERMARK_BYTES;
use crate::metrics::ReactorCounters;
use crate::protocol::http1::{BodyDecoder, BodyFraming, CONTINUE, HttpError, TargetForm};

/// Body bytes that may wait for an application before reading is paused.
const MAX_BODY_WAITING_BYTES: usize = HIGH_WATERMARK_BYTES;
/// Bytes of further (pipelined) requests that may wait before reading is paused.
const MAX_PIPELINED_BYTES: usize = 64 * 1024;

impl HttpServer {
    pub fn received(&mut self, io: &mut HttpIo, token: Token, lease: Lease) {
        let Some(connection) = io.http(token) else { return };
        if connection.marks.has(Marks::AWAITS_PROXY_HEADER) {
            return self.received_proxy_header(io, token, lease);
        }
        connection.marks.set(Marks::GREETED);
        let mut exchange = connection.active.take().unwrap_or_else(|| self.spare.pop().unwrap_or_default());
        let outcome = self.take_bytes(io, token, &mut exchange, lease);
        self.put_back(io, token, exchange);
        self.conclude_input(io, token, outcome);
    }

    pub(super) fn conclude_input(&mut self, io: &mut HttpIo, token: Token, outcome: Result<Took, HttpError>) {
        match outcome {
            Ok(Took::All) => {}
            Ok(Took::LastUnread) => self.follow(io, token),
            Err(error) => self.refuse(io, token, error),
        }
        self.answer_natively(io);
    }

    fn take_bytes(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        exchange: &mut Exchange,
        lease: Lease,
    ) -> Result<Took, HttpError> {
        let mut rest = lease;
        if exchange.held_back {
            // SAFETY: the lease is of this turn.
            exchange.raw.extend_from_slice(unsafe { lease.as_slice() });
            return Ok(Took::All);
        }
        if exchange.stage == Stage::Head && exchange.raw.is_empty() {
            // SAFETY: the lease is of this turn.
            let bytes = unsafe { lease.as_slice() };
            match exchange.parse_head(bytes, &self.settings.head)? {
                Some(end) => {
                    exchange.head_place = HeadPlace::Leased(lease.slice(0..end));
                    self.list_as_leased(token, exchange);
                    self.begin(io, token, exchange)?;
                    rest = lease.slice(end..bytes.len());
                }
                None => self.enter(io, token, Some(Stage::Head)),
            }
        }
        if exchange.stage == Stage::Body && exchange.raw.is_empty() && !rest.is_empty() {
            rest = exchange.decode_lease(rest)?;
            self.list_as_leased(token, exchange);
        }
        if !rest.is_empty() {
            // SAFETY: the lease is of this turn.
            exchange.raw.extend_from_slice(unsafe { rest.as_slice() });
            self.advance(io, token, exchange)?;
        }
        self.after_input(io, token, exchange)
    }

    pub(super) fn after_input(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        exchange: &mut Exchange,
    ) -> Result<Took, HttpError> {
        if exchange.answer == Answer::Complete {
            return exchange.throw_body_away();
        }
        self.tell_body(io, token, exchange)?;
        Ok(Took::All)
    }

    /// Understand as much of the waiting input as the exchange's stage allows.
    pub(super) fn advance(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) -> Result<(), HttpError> {
        if exchange.stage == Stage::Head && exchange.parse_pending_head(&self.settings.head)? {
            self.begin(io, token, exchange)?;
        }
        if exchange.stage == Stage::Body {
            exchange.decode_pending()?;
        }
        if exchange.stage == Stage::Whole && exchange.pending().len() > MAX_PIPELINED_BYTES {
            io.pause(token);
        }
        Ok(())
    }

    fn list_as_leased(&mut self, token: Token, exchange: &mut Exchange) {
        if exchange.is_leased() && !exchange.listed_as_leased {
            exchange.listed_as_leased = true;
            self.leased.push(token);
        }
    }

    /// A head is whole: whose turn is it?
    fn begin(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) -> Result<(), HttpError> {
        let method = exchange.head_slice().map_or(&[][..], |bytes| exchange.head.method.of(bytes));
        (exchange.is_head, exchange.is_get) = (method == b"HEAD", method == b"GET");
        exchange.keep_alive = exchange.head.keep_alive;
        if exchange.head.is_forwarded && self.settings.proxy_headers {
            self.read_forwarded(io, token, exchange);
        }
        self.begin_log_line(io, token, exchange);
        if exchange.head.upgrade {
            exchange.own_head();
        }
        if exchange.head.target_form == TargetForm::Authority {
            // After a 2xx to CONNECT the client would take what follows for the far end's, and we for requests.
            return Err(HttpError::NO_TUNNELS);
        }
        let framing = exchange.head.framing;
        if matches!(framing, BodyFraming::Length(length) if length > self.settings.max_body_bytes) {
            return Err(HttpError::CONTENT_TOO_LARGE);
        }
        exchange.decoder = BodyDecoder::new(framing);
        exchange.stage = if framing.has_body() { Stage::Body } else { Stage::Whole };
        self.enter(io, token, Some(exchange.stage));
        io.counters.requests.add(1);
        exchange.began = io.measures.then(|| io.now());
        self.in_progress += 1;
        match self.responders.is_empty() {
            true => self.hand_over(token),
            false => match self.claimant(exchange) {
                Some(responder) => self.owed.push((token, Owed::By(responder))),
                None => self.hand_over(token),
            },
        }
        Ok(())
    }

    /// What the access log will say of the request, however it ends.
    fn begin_log_line(&self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) {
        let Some(log) = &self.access_log else { return };
        let (peer, now) = (self.peer(io, token), io.now());
        let mut record = std::mem::take(&mut exchange.log);
        log.begin(&mut record, exchange.view().as_ref(), peer, now);
        exchange.log = record;
    }

    /// Wake an application that waits for the body, and stop reading when it does not keep up.
    fn tell_body(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) -> Result<(), HttpError> {
        if exchange.body_received > self.settings.max_body_bytes {
            return Err(HttpError::CONTENT_TOO_LARGE);
        }
        let there = exchange.body_bytes() > 0 || exchange.stage == Stage::Whole;
        if exchange.receive_waiting && !exchange.body_delivered && there {
            exchange.receive_waiting = false;
            self.events.push_back(HttpEvent::Body(token));
        }
        if exchange.body_bytes() > MAX_BODY_WAITING_BYTES {
            io.pause(token);
        }
        Ok(())
    }

    /// Answer a request that cannot be understood or is not allowed, and close.
    pub(super) fn refuse(&mut self, io: &mut HttpIo, token: Token, error: HttpError) {
        count_refusal(&io.counters, error);
        let Some(mut exchange) = self.take_active(io, token) else { return };
        if exchange.in_progress() {
            self.in_progress -= 1;
            self.events.push_back(HttpEvent::Disconnected(token));
        }
        match exchange.answer {
            Answer::Unstarted => {
                let style = exchange.page_style();
                let date = self.date(io.now());
                let mut context = self.context(date.as_ref());
                context.request_is_head = exchange.is_head;
                io.append_with(token, |out| error_page::write(out, error, style, context));
                io.counters.statuses.add(error.status);
                self.log_refusal(io, token, &mut exchange, error, style);
                io.close(token);
            }
            // The response is cut short: visibly.
            Answer::Started => io.abort(token),
            // What follows the response cannot be understood, but the response may be still on its way.
            Answer::Complete => io.close(token),
        }
        self.keep_spare(exchange);
    }

    fn log_refusal(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        exchange: &mut Exchange,
        error: HttpError,
        style: PageStyle,
    ) {
        let (peer, now) = (self.peer(io, token), io.now());
        let Some(log) = &mut self.access_log else { return };
        if exchange.log.is_empty() {
            // Not understood: there is no request to tell of.
            log.begin(&mut exchange.log, None, peer, now);
        }
        let bytes = if exchange.is_head { 0 } else { error_page::body(error, style).len() };
        log.line(&exchange.log, error.status, bytes as u64);
    }

    /// The peer sends no more. Half-closing after a request is legal: it still gets its answer.
    pub fn ended(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.http(token) else { return };
        match &mut connection.active {
            Some(exchange) if exchange.stage == Stage::Whole => {
                exchange.peer_ended = true;
                exchange.receive_waiting = false;
                self.events.push_back(HttpEvent::Disconnected(token));
            }
            Some(exchange) if exchange.stage == Stage::Body && exchange.in_progress() => io.abort(token),
            Some(exchange) if exchange.held_back => exchange.peer_ended = true,
            // The last response may be still leaving.
            Some(_) | None => io.close(token),
        }
    }

    /// The request that `HttpEvent::Request` announced. Only before the next turn.
    pub fn request<'a>(&self, io: &'a mut HttpIo, token: Token) -> Option<RequestView<'a>> {
        io.http(token)?.active.as_deref().filter(|exchange| exchange.in_progress()).and_then(Exchange::view)
    }

    /// Hand over what there is of the body, with whether more follows. `Wait`: an event tells when to ask again.
    pub fn take_body<R>(&mut self, io: &mut HttpIo, token: Token, deliver: impl FnOnce(&[u8], bool) -> R) -> Take<R> {
        let Some(connection) = io.http(token) else { return Take::Disconnected };
        let Some(exchange) = connection.active.as_deref_mut() else { return Take::Disconnected };
        if !exchange.in_progress() {
            return Take::Disconnected;
        }
        if !exchange.body_delivered && (exchange.body_bytes() > 0 || exchange.stage == Stage::Whole) {
            let taken = exchange.take_body(deliver);
            if exchange.stage == Stage::Body || exchange.pending().len() <= MAX_PIPELINED_BYTES {
                io.resume(token);
            }
            return Take::Taken(taken);
        }
        if exchange.peer_ended {
            return Take::Disconnected;
        }
        exchange.receive_waiting = true;
        if exchange.stage == Stage::Body && exchange.invites_body() {
            io.append_with(token, |out| out.extend_from_slice(CONTINUE));
        }
        Take::Wait
    }

    /// For an application that should not be asked before the body is there: how much of it is. `NotYet`: a
    /// `HttpEvent::Body` tells when to ask again, and the request stays as it is until then. `invites`: a client that
    /// waits for `100 Continue` is told so here; else that is left to the application.
    pub fn gather_body(&mut self, io: &mut HttpIo, token: Token, enough_bytes: usize, invites: bool) -> Gathered {
        let exchange = io.http(token).and_then(|connection| connection.active.as_deref_mut());
        let Some(exchange) = exchange.filter(|exchange| exchange.in_progress()) else { return Gathered::Gone };
        if exchange.stage == Stage::Whole {
            return if exchange.body_bytes() > 0 { Gathered::Some } else { Gathered::None };
        }
        if exchange.body_bytes() >= enough_bytes {
            return Gathered::Some;
        }
        if exchange.head.expect_continue && !exchange.is_continued && !invites {
            return Gathered::None;
        }
        exchange.own_head();
        exchange.receive_waiting = true;
        if exchange.invites_body() {
            io.append_with(token, |out| out.extend_from_slice(CONTINUE));
        }
        Gathered::NotYet
    }

    /// Whether the peer can still be answered.
    pub fn is_connected(&self, io: &mut HttpIo, token: Token) -> bool {
        io.http(token).and_then(|connection| connection.active.as_ref()).is_some_and(|exchange| exchange.in_progress())
    }
}

/// Each limit has its counter; what is malformed shares one.
pub(super) fn count_refusal(counters: &ReactorCounters, error: HttpError) {
    let counter = match error {
        HttpError::HEAD_TIMEOUT => &counters.heads_timed_out,
        HttpError::BODY_TIMEOUT => &counters.bodies_timed_out,
        HttpError::HEAD_TOO_LARGE | HttpError::TOO_MANY_HEADERS => &counters.heads_too_large,
        HttpError::TARGET_TOO_LONG => &counters.targets_too_long,
        HttpError::CONTENT_TOO_LARGE => &counters.bodies_too_large,
        HttpError::TRAILERS_TOO_LARGE => &counters.trailers_too_large,
        HttpError::OVERLOADED => &counters.requests_over_limit,
        _ => &counters.requests_malformed,
    };
    counter.add(1);
}

/// How much of a request's body is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gathered {
    /// Nothing, and more does not come unasked.
    None,
    /// All of it, or enough.
    Some,
    NotYet,
    /// The peer is gone.
    Gone,
}

/// How a piece of input was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Took {
    All,
    /// It held the last of a body that nobody wanted: the connection can go on.
    LastUnread,
}
