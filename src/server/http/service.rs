//! The server's side of the reactor: bytes to requests, responses to bytes, deadlines, and the peer's ends.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::access_log::AccessLog;
use super::connection::{HttpConnection, PeerAddress};
use super::exchange::{Answer, Exchange, HeadPlace, RequestView, Stage, Take};
use crate::core::buffer::{Lease, Owner};
use crate::core::event_loop::{HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES};
use crate::core::{CloseReason, Io, Token};
use crate::net;
use crate::protocol::http1::{
    BodyDecoder, BodyFraming, BodyWriter, CONTINUE, DateCache, HttpError, Limits, ResponseContext, ResponseError,
    ResponseFraming, ResponseHead, error_response,
};

/// Something for the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HttpEvent {
    /// A request's head is whole.
    Request(Token),
    /// Body bytes (or their end) are there for an application that waits for them.
    Body(Token),
    /// An application that waited for room may send on.
    Drained(Token),
    /// The peer is gone, or sends no more, while the request was in progress.
    Disconnected(Token),
    /// After `drain`: no request is in progress and everything has been sent.
    Quiet,
}

#[derive(Clone, Debug)]
pub struct HttpSettings {
    pub limits: Limits,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long a request's head may take from its first byte.
    pub head_timeout: Duration,
    /// How long a peer whose turn it is may do nothing: send no more of a body that is waited for, or take no more of
    /// a response.
    pub stall_timeout: Duration,
    /// Sent as `server:`, unless the application sends its own.
    pub server_header: Option<&'static str>,
    pub date_header: bool,
}

impl HttpSettings {
    /// How long a connection may be idle: after a request, or before its first.
    fn idle_timeout(&self, greeted: bool) -> Duration {
        if greeted { self.keep_alive } else { self.keep_alive.max(self.head_timeout) }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            limits: Limits::default(),
            keep_alive: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
            server_header: Some("penstock"),
            date_header: true,
        }
    }
}

/// A piece of a response's body.
pub enum Body<'a> {
    /// To be copied into the output.
    Copied(&'a [u8]),
    /// To be sent from where it is; the owner keeps it there.
    Borrowed(&'a [u8], Owner),
}

#[derive(Debug)]
pub enum RespondError {
    /// The peer is gone: nothing can be sent.
    Disconnected,
    /// The application broke the rules of a response; the message says how.
    Invalid(ResponseError),
}

/// Body bytes that may wait for an application before reading is paused.
const MAX_BODY_WAITING_BYTES: usize = HIGH_WATERMARK_BYTES;
/// Bytes of further (pipelined) requests that may wait before reading is paused.
const MAX_PIPELINED_BYTES: usize = 64 * 1024;
const MAX_SPARE_EXCHANGES: usize = 256;
/// While draining: a connection that has been idle for less may have its next request on the way.
const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// The HTTP server of one reactor.
pub struct HttpServer {
    pub settings: HttpSettings,
    events: VecDeque<HttpEvent>,
    /// Exchanges that hold body bytes of this turn's arena.
    leased: Vec<Token>,
    spare: Vec<Box<Exchange>>,
    date: DateCache,
    date_at: Option<Instant>,
    unix_seconds: u64,
    access_log: Option<AccessLog>,
    in_progress: usize,
    draining: bool,
    quiet_wanted: bool,
}

type HttpIo = Io<HttpConnection>;

impl HttpServer {
    pub fn new(settings: HttpSettings, access_log: Option<AccessLog>) -> Self {
        HttpServer {
            settings,
            events: VecDeque::new(),
            leased: Vec::new(),
            spare: Vec::new(),
            date: DateCache::new(0),
            date_at: None,
            unix_seconds: 0,
            access_log,
            in_progress: 0,
            draining: false,
            quiet_wanted: false,
        }
    }

    /// The next thing for the application to do.
    pub fn next_event(&mut self) -> Option<HttpEvent> {
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Requests whose response is not complete.
    pub fn requests_in_progress(&self) -> usize {
        self.in_progress
    }

    /// Whether nothing of the last turn is wanted any more; copies what must outlive it.
    pub fn settle(&mut self, io: &mut HttpIo) -> bool {
        self.tell_if_quiet(io);
        if !self.events.is_empty() {
            return false;
        }
        for token in self.leased.drain(..) {
            if let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_mut()) {
                exchange.settle();
                exchange.listed_as_leased = false;
            }
        }
        true
    }

    /// Hand this turn's access-log lines to their writer.
    pub fn flush_log(&mut self, io: &HttpIo) {
        if let Some(log) = &mut self.access_log {
            let dropped = log.flush();
            if dropped > 0 {
                io.counters.log_lines_dropped.add(dropped);
            }
        }
    }

    /// Stop: idle connections are closed, others after the response they wait for.
    ///
    /// A connection that was busy a moment ago is given one more: closing it would throw away a request that is on its
    /// way. What comes is answered with `connection: close`.
    pub fn drain(&mut self, io: &mut HttpIo) {
        self.draining = true;
        for token in io.connection_tokens() {
            if !io.is_closing(token) {
                self.drain_connection(io, token);
            }
        }
        self.quiet_wanted = true;
    }

    fn drain_connection(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.state(token).filter(|connection| connection.active.is_none()) else { return };
        let timeout = self.settings.idle_timeout(connection.greeted);
        let idle_for = io.time_left(token).map_or(Duration::ZERO, |left| timeout.saturating_sub(left));
        match DRAIN_IDLE.checked_sub(idle_for) {
            _ if io.queued_bytes(token) > 0 => io.close(token),
            Some(left) if !left.is_zero() => io.set_deadline(token, left),
            _ => io.close_idle(token),
        }
    }

    /// Tell once that draining is done.
    fn tell_if_quiet(&mut self, io: &HttpIo) {
        if self.quiet_wanted && self.in_progress == 0 && io.connections() == io.lingering() {
            self.quiet_wanted = false;
            self.events.push_back(HttpEvent::Quiet);
        }
    }

    // ---- connections ------------------------------------------------------------------------------------------

    pub fn add(&mut self, io: &mut HttpIo, fd: OwnedFd, listener: u16) {
        let state = HttpConnection { listener, ..HttpConnection::default() };
        // An error here (the poller out of memory or watches) closes the descriptor: the peer learns at once.
        if let Ok(token) = io.add_connection(fd, state) {
            io.set_deadline(token, if self.draining { DRAIN_IDLE } else { self.settings.idle_timeout(false) });
        }
    }

    /// Who is at the other end: asked of the kernel once, when somebody wants to know.
    pub fn peer(&self, io: &mut HttpIo, token: Token) -> PeerAddress {
        let Some(fd) = io.fd(token) else { return PeerAddress::Unknown };
        let Some(connection) = io.state(token) else { return PeerAddress::Unknown };
        if connection.peer == PeerAddress::Unknown {
            // SAFETY: the channel of this token owns the descriptor, and is not closed within this call.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            connection.peer = net::peer_address(socket).map_or(PeerAddress::Unknown, PeerAddress::from);
        }
        connection.peer
    }

    /// Which listener the connection came through.
    pub fn listener(&self, io: &mut HttpIo, token: Token) -> u16 {
        io.state(token).map_or(0, |connection| connection.listener)
    }

    // ---- input ------------------------------------------------------------------------------------------------

    pub fn received(&mut self, io: &mut HttpIo, token: Token, lease: Lease) {
        let Some(connection) = io.state(token) else { return };
        connection.greeted = true;
        let mut exchange = connection.active.take().unwrap_or_else(|| self.spare.pop().unwrap_or_default());
        let outcome = self.take_bytes(io, token, &mut exchange, lease);
        self.put_back(io, token, exchange);
        if let Err(error) = outcome {
            self.refuse(io, token, error);
        }
    }

    fn put_back(&mut self, io: &mut HttpIo, token: Token, exchange: Box<Exchange>) {
        match io.state(token) {
            Some(connection) => connection.active = Some(exchange),
            None => self.keep_spare(exchange),
        }
    }

    fn keep_spare(&mut self, mut exchange: Box<Exchange>) {
        if self.spare.len() < MAX_SPARE_EXCHANGES {
            exchange.recycle();
            self.spare.push(exchange);
        }
    }

    fn take_bytes(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        exchange: &mut Exchange,
        lease: Lease,
    ) -> Result<(), HttpError> {
        let mut rest = lease;
        if exchange.stage == Stage::Head && exchange.raw.is_empty() {
            // SAFETY: the lease is of this turn.
            let bytes = unsafe { lease.as_slice() };
            match exchange.parse_head(bytes, &self.settings.limits)? {
                Some(end) => {
                    exchange.head_place = HeadPlace::Leased(lease.slice(0..end));
                    self.begin(io, token, exchange);
                    rest = lease.slice(end..bytes.len());
                }
                None => io.set_deadline(token, self.settings.head_timeout),
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
        self.tell_body(io, token, exchange);
        Ok(())
    }

    /// Understand as much of the waiting input as the exchange's stage allows.
    fn advance(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) -> Result<(), HttpError> {
        if exchange.stage == Stage::Head && exchange.parse_pending_head(&self.settings.limits)? {
            self.begin(io, token, exchange);
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
        if exchange.body_lease.is_some() && !exchange.listed_as_leased {
            exchange.listed_as_leased = true;
            self.leased.push(token);
        }
    }

    /// A head is whole: the application's turn.
    fn begin(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) {
        io.set_deadline(token, self.settings.stall_timeout);
        let head = &exchange.head;
        exchange.is_head = head.method.of(exchange.head_slice()) == b"HEAD";
        exchange.keep_alive = head.keep_alive;
        exchange.stage = if head.framing == BodyFraming::None { Stage::Whole } else { Stage::Body };
        exchange.decoder = BodyDecoder::new(head.framing);
        if self.access_log.is_some() {
            let mut line = std::mem::take(&mut exchange.request_line);
            let (head, bytes) = (&exchange.head, exchange.head_slice());
            line.extend_from_slice(head.method.of(bytes));
            line.push(b' ');
            line.extend_from_slice(head.target.of(bytes));
            line.extend_from_slice(if head.minor_version == 0 { b" HTTP/1.0" } else { b" HTTP/1.1" });
            exchange.request_line = line;
        }
        io.counters.requests.add(1);
        self.in_progress += 1;
        self.events.push_back(HttpEvent::Request(token));
    }

    /// Wake an application that waits for the body, and stop reading when it does not keep up.
    fn tell_body(&mut self, io: &mut HttpIo, token: Token, exchange: &mut Exchange) {
        if exchange.receive_waiting
            && !exchange.body_delivered
            && (exchange.body_bytes() > 0 || exchange.stage == Stage::Whole)
        {
            exchange.receive_waiting = false;
            self.events.push_back(HttpEvent::Body(token));
        }
        if exchange.body_bytes() > MAX_BODY_WAITING_BYTES {
            io.pause(token);
        }
    }

    /// Answer a request that cannot be understood or is not allowed, and close.
    fn refuse(&mut self, io: &mut HttpIo, token: Token, error: HttpError) {
        io.counters.requests_refused.add(1);
        let Some(exchange) = self.take_active(io, token) else { return };
        let started = exchange.answer == Answer::Started;
        if exchange.in_progress() {
            self.in_progress -= 1;
            self.events.push_back(HttpEvent::Disconnected(token));
        }
        if started {
            io.abort(token);
        } else {
            let date = self.date(io.now());
            let context = ResponseContext {
                request_is_head: exchange.is_head,
                keep_alive_wanted: false,
                request_minor: 1,
                whole_body_bytes: None,
                date: date.as_ref(),
                server: self.settings.server_header.map(str::as_bytes),
            };
            io.append_with(token, |out| error_response(out, error, context));
            io.set_deadline(token, self.settings.stall_timeout);
            if let Some(log) = &mut self.access_log {
                let peer = io.state(token).map_or(PeerAddress::Unknown, |connection| connection.peer);
                log.line(
                    peer,
                    if exchange.request_line.is_empty() { b"-" } else { &exchange.request_line },
                    error.status,
                );
            }
            io.close(token);
        }
        self.keep_spare(exchange);
    }

    fn take_active(&mut self, io: &mut HttpIo, token: Token) -> Option<Box<Exchange>> {
        io.state(token)?.active.take()
    }

    /// The peer sends no more. Half-closing after a request is legal: it still gets its answer.
    pub fn ended(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.state(token) else { return };
        match &mut connection.active {
            Some(exchange) if exchange.stage == Stage::Whole => {
                exchange.peer_ended = true;
                exchange.receive_waiting = false;
                self.events.push_back(HttpEvent::Disconnected(token));
            }
            Some(exchange) if exchange.stage == Stage::Body => io.abort(token),
            // The last response may be still leaving.
            Some(_) | None => io.close(token),
        }
    }

    /// A deadline has passed: the head's, the idle one, or the one by which the peer must have moved.
    pub fn expired(&mut self, io: &mut HttpIo, token: Token) {
        let is_sending = io.queued_bytes(token) > 0;
        let has_moved = io.take_progress(token);
        let Some(connection) = io.state(token) else { return };
        let active = connection.active.as_deref();
        let in_progress = active.is_some_and(Exchange::in_progress);
        match active {
            _ if is_sending && !has_moved => io.abort(token),
            _ if is_sending => {
                io.set_deadline(token, self.settings.stall_timeout);
                if !in_progress {
                    // An idle connection's time begins when it has its response.
                    io.want_drained(token);
                }
            }
            Some(exchange) if in_progress && exchange.waits_for_body() && !has_moved => {
                self.refuse(io, token, HttpError::BODY_TIMEOUT);
            }
            Some(_) if in_progress => io.set_deadline(token, self.settings.stall_timeout),
            Some(exchange) if !exchange.raw.is_empty() => self.refuse(io, token, HttpError::HEAD_TIMEOUT),
            Some(_) => io.close(token),
            None => io.close_idle(token),
        }
    }

    pub fn closed(&mut self, token: Token, mut connection: HttpConnection, _reason: CloseReason) {
        if let Some(exchange) = connection.active.take() {
            if exchange.in_progress() {
                self.in_progress -= 1;
                self.events.push_back(HttpEvent::Disconnected(token));
            }
            self.keep_spare(exchange);
        }
    }

    pub fn drained(&mut self, io: &mut HttpIo, token: Token) {
        match io.state(token).map(|connection| connection.active.is_some()) {
            Some(true) => self.events.push_back(HttpEvent::Drained(token)),
            Some(false) if !io.is_closing(token) => io.set_deadline(token, self.settings.keep_alive),
            _ => {}
        }
    }

    // ---- the application's side -------------------------------------------------------------------------------

    /// The request that `HttpEvent::Request` announced. Only before the next turn.
    pub fn request<'a>(&self, io: &'a mut HttpIo, token: Token) -> Option<RequestView<'a>> {
        io.state(token)?.active.as_deref().filter(|exchange| exchange.in_progress()).map(Exchange::view)
    }

    /// Hand over what there is of the body, with whether more follows. `Wait`: an event tells when to ask again.
    pub fn take_body<R>(&mut self, io: &mut HttpIo, token: Token, deliver: impl FnOnce(&[u8], bool) -> R) -> Take<R> {
        let Some(connection) = io.state(token) else { return Take::Disconnected };
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
        if exchange.stage == Stage::Body && exchange.head.expect_continue && !exchange.is_continued {
            exchange.is_continued = true;
            if exchange.answer == Answer::Unstarted {
                io.append_with(token, |out| out.extend_from_slice(CONTINUE));
            }
        }
        Take::Wait
    }

    /// Whether the peer can still be answered.
    pub fn is_connected(&self, io: &mut HttpIo, token: Token) -> bool {
        io.state(token).and_then(|connection| connection.active.as_ref()).is_some_and(|exchange| exchange.in_progress())
    }

    /// Begin the response, with the first piece of its body. `whole`: it is the only piece.
    ///
    /// `write_headers` adds the application's headers; its error, or one of the response itself, leaves nothing
    /// written.
    pub fn start_response<E: From<ResponseError>>(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        status: u16,
        body_bytes: usize,
        whole: bool,
        write_headers: impl FnOnce(&mut ResponseHead<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let date = self.date(io.now());
        let (server, draining) = (self.settings.server_header, self.draining);
        let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Ok(());
        };
        let context = ResponseContext {
            request_is_head: exchange.is_head,
            request_minor: exchange.head.minor_version,
            keep_alive_wanted: exchange.keep_alive && !draining && exchange.may_be_followed(whole),
            whole_body_bytes: whole.then_some(body_bytes as u64),
            date: date.as_ref(),
            server: server.map(str::as_bytes),
        };
        let framing = io.append_with(token, |out| -> Result<ResponseFraming, E> {
            let mut head = ResponseHead::start(out, status);
            write_headers(&mut head)?;
            Ok(head.finish(context)?)
        });
        let Some(framing) = framing.transpose()? else { return Ok(()) };
        let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Ok(());
        };
        exchange.answer = Answer::Started;
        exchange.status = status;
        exchange.keep_alive = framing.keep_alive;
        exchange.writer = BodyWriter::new(framing.body);
        Ok(())
    }

    /// Send a piece of the body of a response that has begun; how many bytes wait to leave now.
    pub fn send_body(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        body: Body<'_>,
        more: bool,
    ) -> Result<usize, RespondError> {
        let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Err(give_back(io, body, RespondError::Disconnected));
        };
        let mut writer = exchange.writer;
        let written = match body {
            Body::Copied(bytes) => io.append_with(token, |out| {
                writer.write(out, bytes)?;
                if more { Ok(()) } else { writer.finish(out) }
            }),
            // SAFETY: whoever made the Body promised that the owner keeps the bytes.
            Body::Borrowed(bytes, owner) => unsafe { send_borrowed(io, token, &mut writer, bytes, owner, more) },
        };
        match written {
            None => return Err(RespondError::Disconnected),
            Some(Err(error)) => return Err(RespondError::Invalid(error)),
            Some(Ok(())) => {}
        }
        if let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_deref_mut()) {
            exchange.writer = writer;
        }
        if !more {
            self.finish(io, token);
        }
        Ok(io.queued_bytes(token))
    }

    /// The application failed before it began to answer: 500, and the connection goes on if it can.
    pub fn fail(&mut self, io: &mut HttpIo, token: Token) {
        let Some(exchange) = io.state(token).and_then(|connection| connection.active.as_deref_mut()) else { return };
        if exchange.answer != Answer::Unstarted {
            // Cut the response short, visibly: a peer must not take it for whole.
            return io.abort(token);
        }
        const TEXT: &[u8] = b"Internal Server Error";
        let begun = self.start_response::<ResponseError>(io, token, 500, TEXT.len(), true, |head| {
            head.header(b"content-type", b"text/plain; charset=utf-8")
        });
        debug_assert!(begun.is_ok());
        let _ = self.send_body(io, token, Body::Copied(TEXT), false);
    }

    /// The response is complete: log it, and go on with the connection.
    fn finish(&mut self, io: &mut HttpIo, token: Token) {
        let peer = if self.access_log.is_some() { self.peer(io, token) } else { PeerAddress::Unknown };
        let Some(mut exchange) = self.take_active(io, token) else { return };
        exchange.answer = Answer::Complete;
        self.in_progress -= 1;
        io.counters.responses.add(1);
        if let Some(log) = &mut self.access_log {
            log.line(peer, &exchange.request_line, exchange.status);
        }
        // A response that began before the draining has promised that a request may follow: one may be on its way.
        let follow = exchange.keep_alive && exchange.can_be_followed();
        if !follow {
            io.close(token);
            return self.keep_spare(exchange);
        }
        let peer_ended = exchange.peer_ended;
        exchange.next();
        match self.advance(io, token, &mut exchange) {
            Err(error) => {
                self.put_back(io, token, exchange);
                return self.refuse(io, token, error);
            }
            Ok(()) if exchange.stage != Stage::Head => {
                if exchange.pending().len() <= LOW_WATERMARK_BYTES {
                    io.resume(token);
                }
                return self.put_back(io, token, exchange);
            }
            Ok(()) if peer_ended => {
                io.close(token);
                return self.keep_spare(exchange);
            }
            Ok(()) => {}
        }
        io.resume(token);
        if exchange.raw.is_empty() {
            io.set_deadline(token, if self.draining { DRAIN_IDLE } else { self.settings.keep_alive });
            self.keep_spare(exchange);
        } else {
            io.set_deadline(token, self.settings.head_timeout);
            self.put_back(io, token, exchange);
        }
    }

    fn date(&mut self, now: Instant) -> Option<[u8; 29]> {
        if !self.settings.date_header {
            return None;
        }
        // The wall clock is asked at most ten times a second, not once a response.
        if self.date_at.is_none_or(|at| now.duration_since(at) >= Duration::from_millis(100)) {
            self.date_at = Some(now);
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.unix_seconds = since_epoch.as_secs();
        }
        Some(*self.date.at(self.unix_seconds))
    }
}

/// Send bytes from where they are. The owner is given back when they cannot leave.
///
/// # Safety
/// As `Io::append_borrowed`.
unsafe fn send_borrowed(
    io: &mut HttpIo,
    token: Token,
    writer: &mut BodyWriter,
    bytes: &[u8],
    owner: Owner,
    more: bool,
) -> Option<Result<(), ResponseError>> {
    let wanted = io.append_with(token, |out| writer.begin_piece(out, bytes.len()));
    match wanted {
        // SAFETY: the caller's promise.
        Some(Ok(true)) => unsafe { io.append_borrowed(token, bytes, owner) },
        _ => io.take_released().push(owner),
    }
    let began = match wanted? {
        Ok(began) => began,
        Err(error) => return Some(Err(error)),
    };
    io.append_with(token, |out| {
        if began {
            writer.end_piece(out);
        }
        if more { Ok(()) } else { writer.finish(out) }
    })
}

/// A body that was not sent: its owner, if any, is released.
fn give_back(io: &mut HttpIo, body: Body<'_>, error: RespondError) -> RespondError {
    if let Body::Borrowed(_, owner) = body {
        io.take_released().push(owner);
    }
    error
}
