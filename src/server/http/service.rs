//! The server's side of the reactor: its connections from their first byte to their last, its events, its stop.
//!
//! `input` turns bytes into requests, `output` responses into bytes, `deadlines` ends what takes too long.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::access_log::AccessLog;
use super::connection::{HttpConnection, Marks, PeerAddress};
use super::error_page::{self, PageStyle};
use super::exchange::{Answer, Exchange};
use super::local_address::LocalAddresses;
use super::native::{Owed, Responder};
use super::settings::HttpSettings;
use crate::core::{CloseReason, Io, Token};
use crate::net;
use crate::protocol::http1::{DateCache, DateText, HttpError, ResponseContext};
use crate::server::Connection;

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
    /// Lines of the access log are lost; told now and then.
    LogTrouble,
    /// After `drain`: no request is in progress and everything has been sent.
    Quiet,
}

const MAX_SPARE_EXCHANGES: usize = 256;
/// While draining: a connection that has been idle for less may have its next request on the way.
pub(super) const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// The HTTP server of one reactor.
pub struct HttpServer {
    pub settings: HttpSettings,
    pub(super) events: VecDeque<HttpEvent>,
    /// Who may answer before the application is asked.
    pub(super) responders: Vec<Box<dyn Responder>>,
    /// What tells of the responders' late answers.
    pub(super) wakeups: Vec<Token>,
    /// Requests that the server answers by itself.
    pub(super) owed: Vec<(Token, Owed)>,
    /// Exchanges that hold a head or body bytes of this turn's arena.
    pub(super) leased: Vec<Token>,
    /// Boxed, as connections hold them: an exchange moves between here and a connection without being copied.
    #[expect(clippy::vec_box)]
    pub(super) spare: Vec<Box<Exchange>>,
    pub(super) access_log: Option<AccessLog>,
    log_trouble: Option<String>,
    pub(super) in_progress: usize,
    /// When requests began whose responses leave with the next flush.
    pub(super) answered: Vec<Instant>,
    pub(super) draining: bool,
    /// Draining has time: idle connections keep theirs.
    pub(super) patient: bool,
    quiet_wanted: bool,
    /// Connections that another server of this reactor has.
    pub foreign_connections: usize,
    /// Open connections by address, kept only when there is a limit on them.
    per_address: HashMap<IpAddr, u32>,
    pub(super) local_addresses: LocalAddresses,
    date: DateCache,
    date_at: Option<Instant>,
    unix_seconds: u64,
}

pub(super) type HttpIo = Io<Connection>;

impl HttpServer {
    pub fn new(settings: HttpSettings, access_log: Option<AccessLog>) -> Self {
        HttpServer {
            settings,
            events: VecDeque::new(),
            responders: Vec::new(),
            wakeups: Vec::new(),
            owed: Vec::new(),
            leased: Vec::new(),
            spare: Vec::new(),
            access_log,
            log_trouble: None,
            in_progress: 0,
            answered: Vec::new(),
            draining: false,
            patient: false,
            quiet_wanted: false,
            foreign_connections: 0,
            per_address: HashMap::new(),
            local_addresses: LocalAddresses::default(),
            date: DateCache::new(0),
            date_at: None,
            unix_seconds: 0,
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
            if let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_mut()) {
                exchange.settle();
                exchange.listed_as_leased = false;
            }
        }
        true
    }

    /// Responses have been given to the kernel, by now.
    pub fn flushed(&mut self, io: &HttpIo, now: Option<Instant>) {
        if self.answered.is_empty() {
            return;
        }
        let now = now.unwrap_or_else(|| io.clock());
        for began in self.answered.drain(..) {
            io.counters.request_ns.record_duration(now.saturating_duration_since(began));
        }
    }

    /// Levels and figures that are told, not counted as they happen.
    pub fn tell_levels(&mut self, io: &HttpIo) {
        io.counters.in_progress.set(self.in_progress as u64);
        for responder in &mut self.responders {
            responder.tell(&io.counters);
        }
    }

    /// Events that wait for the application.
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// Hand this turn's access-log lines to their writer.
    pub fn flush_log(&mut self, io: &HttpIo) {
        let Some(log) = &mut self.access_log else { return };
        let lost = log.flush();
        if lost > 0 {
            io.counters.log_lines_dropped.add(lost);
            self.log_trouble = log.trouble(io.now());
            self.events.extend(self.log_trouble.as_ref().map(|_| HttpEvent::LogTrouble));
        }
    }

    /// What `HttpEvent::LogTrouble` is about.
    pub fn take_log_trouble(&mut self) -> Option<String> {
        self.log_trouble.take()
    }

    /// Stop: idle connections are closed, others after the response they wait for.
    ///
    /// A connection that was busy a moment ago is given one more: closing it would throw away a request that is on its
    /// way. What comes is answered with `connection: close`. With `patience` that holds for all idle connections, as long
    /// as they might have been kept alive. Subscriptions to events end now.
    pub fn drain(&mut self, io: &mut HttpIo, patience: bool) {
        (self.draining, self.patient) = (true, patience);
        self.end_subscriptions(io);
        for token in io.connection_tokens() {
            if !io.is_closing(token) && !patience {
                self.drain_connection(io, token);
            }
        }
        self.quiet_wanted = true;
    }

    fn drain_connection(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.http(token).filter(|connection| connection.active.is_none()) else { return };
        if connection.marks.has(Marks::UPGRADED) {
            // Its new protocol knows how to say good-bye.
            return;
        }
        let timeout =
            if connection.marks.has(Marks::GREETED) { self.settings.keep_alive } else { self.settings.head_timeout };
        let idle_for = io.time_left(token).map_or(Duration::ZERO, |left| timeout.saturating_sub(left));
        match DRAIN_IDLE.checked_sub(idle_for) {
            // Its last response, which has promised that a request may follow, has not even left.
            _ if io.queued_bytes(token) > 0 => self.enter(io, token, None),
            Some(left) if !left.is_zero() => io.set_deadline(token, left),
            _ => io.close_idle(token),
        }
    }

    /// Tell once that draining is done.
    fn tell_if_quiet(&mut self, io: &HttpIo) {
        let own = io.connections().saturating_sub(self.foreign_connections);
        let over = self.in_progress == 0 && own <= io.lingering() && !io.has_leaving_listeners();
        if self.quiet_wanted && over {
            self.quiet_wanted = false;
            self.events.push_back(HttpEvent::Quiet);
        }
    }

    /// Take a connection that a listener accepted, or turn it away.
    pub fn add(&mut self, io: &mut HttpIo, fd: OwnedFd, listener: u16) {
        let awaits_proxy_header = self.settings.proxy_protocol;
        let mut state = HttpConnection { listener, ..HttpConnection::default() };
        if awaits_proxy_header {
            state.marks.set(Marks::AWAITS_PROXY_HEADER);
        }
        let over = io.connections() >= self.settings.max_connections;
        // An error here (the poller out of memory or watches) closes the descriptor: the peer learns at once.
        let Ok(token) = io.add_connection(fd, state.into()) else { return };
        // Behind the PROXY protocol the client's address, which is what counts, comes later.
        if over || !awaits_proxy_header && !self.admit(io, token) {
            return self.turn_away(io, token);
        }
        let hurries = self.draining && !self.patient;
        io.set_deadline(token, if hurries { DRAIN_IDLE } else { self.settings.head_timeout });
    }

    /// Count a connection against its address; false if the address has its share already.
    pub(super) fn admit(&mut self, io: &mut HttpIo, token: Token) -> bool {
        if self.settings.max_connections_per_address == u32::MAX {
            return true;
        }
        let Some((ip, _)) = self.peer(io, token).internet() else { return true };
        let count = self.per_address.entry(ip).or_default();
        if *count >= self.settings.max_connections_per_address {
            return false;
        }
        *count += 1;
        if let Some(connection) = io.http(token) {
            connection.marks.set(Marks::COUNTED);
        }
        true
    }

    fn leave(&mut self, connection: &HttpConnection) {
        if !connection.marks.has(Marks::COUNTED) {
            return;
        }
        if let Some((ip, _)) = connection.peer.internet()
            && let Some(count) = self.per_address.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&ip);
            }
        }
    }

    /// 503, before the peer has asked anything: better than a reset it cannot tell from a crash.
    pub(super) fn turn_away(&mut self, io: &mut HttpIo, token: Token) {
        io.counters.connections_over_limit.add(1);
        io.counters.statuses.add(HttpError::TOO_MANY_CONNECTIONS.status);
        let date = self.date(io.now());
        let context = self.context(date.as_ref());
        io.append_with(token, |out| error_page::write(out, HttpError::TOO_MANY_CONNECTIONS, PageStyle::Plain, context));
        io.close(token);
    }

    /// The context of a response that closes the connection, whatever was asked.
    pub(super) fn context<'a>(&'a self, date: Option<&'a DateText>) -> ResponseContext<'a> {
        ResponseContext {
            request_is_head: false,
            keep_alive_wanted: false,
            request_minor: 1,
            whole_body_bytes: None,
            date,
            server: self.settings.server_header.map(str::as_bytes),
            lines: &self.settings.header_lines,
        }
    }

    /// Who is at the other end: asked of the kernel once, when somebody wants to know.
    pub fn peer(&self, io: &mut HttpIo, token: Token) -> PeerAddress {
        let Some(fd) = io.fd(token) else { return PeerAddress::Unknown };
        let Some(connection) = io.http(token) else { return PeerAddress::Unknown };
        if connection.peer == PeerAddress::Unknown {
            // SAFETY: the channel of this token owns the descriptor, and is not closed within this call.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            connection.peer = net::peer_address(socket).map_or(PeerAddress::Unknown, PeerAddress::from);
        }
        connection.peer
    }

    /// Which listener the connection came through.
    pub fn listener(&self, io: &mut HttpIo, token: Token) -> u16 {
        io.http(token).map_or(0, |connection| connection.listener)
    }

    pub(super) fn put_back(&mut self, io: &mut HttpIo, token: Token, exchange: Box<Exchange>) {
        match io.http(token) {
            Some(connection) => connection.active = Some(exchange),
            None => self.keep_spare(exchange),
        }
    }

    pub(super) fn keep_spare(&mut self, mut exchange: Box<Exchange>) {
        if self.spare.len() < MAX_SPARE_EXCHANGES {
            exchange.recycle();
            self.spare.push(exchange);
        }
    }

    pub(super) fn take_active(&mut self, io: &mut HttpIo, token: Token) -> Option<Box<Exchange>> {
        io.http(token)?.active.take()
    }

    pub fn closed(&mut self, token: Token, connection: Connection, _reason: CloseReason) {
        let Connection::Http(mut connection) = connection else { return };
        self.leave(&connection);
        if let Some(exchange) = connection.active.take() {
            if exchange.in_progress() {
                self.in_progress -= 1;
                self.events.push_back(HttpEvent::Disconnected(token));
            }
            // A response that was cut short, such as a stream whose listener left, was a request all the same.
            if let (Some(log), Answer::Started) = (&mut self.access_log, exchange.answer) {
                log.line(&exchange.log, exchange.status, exchange.writer.sent_bytes());
            }
            self.keep_spare(exchange);
        }
    }

    pub(super) fn date(&mut self, now: Instant) -> Option<[u8; 29]> {
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
