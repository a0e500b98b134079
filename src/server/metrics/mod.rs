//! The server of the metrics: `/metrics` for Prometheus, `/-/` for people, JSON for programs.
//!
//! It is an HTTP server on a loop of its own, apart from those it tells of, and reads their shards as anybody may: a scrape
//! takes nothing from the loops that serve. It knows no interpreter; the application's own metrics, and which connections
//! there are, come from outside ([`app`]). Nothing here changes anything: there is only GET and HEAD.

pub mod app;
mod exposition;
mod status;
mod view;

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use app::{AppBell, AppDesk, Wanted};
pub use exposition::Format;
pub use view::View;

use super::Connection;
use super::http::{
    HeaderLines, HttpEvent, HttpServer, HttpSettings, NativeAnswer, NativeBody, NativePiece, NativeResponse,
    RequestView, Responder,
};
use crate::core::buffer::Lease;
use crate::core::poller::Readiness;
use crate::core::{CloseReason, Io, Service, Token};
use crate::protocol::http1::HttpError;
use crate::server::survey::Query;

const ABSENT: HttpError = HttpError { status: 404, reason: "Here are /metrics and /-/ alone." };
const METHOD: HttpError = HttpError { status: 405, reason: "Metrics are read, by GET or HEAD." };
const UNTOLD: HttpError = HttpError { status: 503, reason: "Nobody has told of the connections in time." };
const MOVED: HttpError = HttpError { status: 302, reason: "The pages are at /-/." };

/// Prometheus comes every few seconds, on one connection.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const MAX_CONNECTIONS: usize = 256;

/// What keeps pages from being more than they are: their own scripts and styles, and no frame around them.
const PAGE_LINES: &str = "cache-control: no-store\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    content-security-policy: default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n";

const PAGE: &[u8] = include_bytes!("pages/index.html");
const SCRIPT: &[u8] = include_bytes!("pages/pages.js");
const STYLE: &[u8] = include_bytes!("pages/pages.css");

/// Answers everything that comes to the metrics' listener.
pub struct MetricsPages {
    view: View,
    /// The server's settings, as JSON without secrets.
    config: Vec<u8>,
    desk: AppDesk,
    /// Whether the application has metrics, for which a scrape waits.
    expects_app: bool,
    none: Arc<[u8]>,
}

impl MetricsPages {
    pub fn new(view: View, config: Vec<u8>, desk: AppDesk, expects_app: bool) -> Self {
        MetricsPages { view, config, desk, expects_app, none: Arc::new([]) }
    }

    fn answer(&mut self, token: Token, request: &RequestView<'_>, now: Instant) -> NativeAnswer {
        let head = request.head;
        if !matches!(head.method.of(request.bytes), b"GET" | b"HEAD") {
            return NativeAnswer::Page { error: METHOD, lines: b"allow: GET, HEAD\r\n".to_vec() };
        }
        match head.path.of(request.bytes) {
            b"/metrics" => self.metrics(token, request, now),
            b"/" | b"/-" => NativeAnswer::Page { error: MOVED, lines: b"location: /-/\r\n".to_vec() },
            b"/-/" | b"/-/connections" | b"/-/reactors" | b"/-/config" => {
                self.page(b"text/html; charset=utf-8", PAGE.to_vec())
            }
            b"/-/pages.js" => self.page(b"text/javascript; charset=utf-8", SCRIPT.to_vec()),
            b"/-/pages.css" => self.page(b"text/css; charset=utf-8", STYLE.to_vec()),
            b"/-/status.json" => self.json(status::status(&self.view)),
            b"/-/connections.json" => {
                self.json(status::by_worker(&self.view, &["Connections", "HTTP requests", "Streams of frames"]))
            }
            b"/-/connections/open.json" => self.connections(token, head.query.of(request.bytes), now),
            b"/-/reactors.json" => self.json(status::by_worker(&self.view, &["Event loop", "Python", "WSGI threads"])),
            b"/-/config.json" => self.json(self.config.clone()),
            _ => NativeAnswer::Page { error: ABSENT, lines: Vec::new() },
        }
    }

    fn metrics(&mut self, token: Token, request: &RequestView<'_>, now: Instant) -> NativeAnswer {
        let format = Format::accepted(request.head.header(request.bytes, "accept"));
        let app = match self.expects_app.then(|| self.desk.text_for(token, &Wanted::App(format), now)) {
            None => None,
            Some(Some(text)) => text,
            Some(None) => return NativeAnswer::Later,
        };
        self.view.count_scrape();
        let mut body = Vec::with_capacity(32 * 1024);
        exposition::write(&mut body, &self.view, format, app.as_deref().unwrap_or_default());
        self.page(format.content_type(), body)
    }

    fn connections(&mut self, token: Token, query: &[u8], now: Instant) -> NativeAnswer {
        // What is no text is no field of a query either.
        let query = match std::str::from_utf8(query).unwrap_or("?").parse::<Query>() {
            Ok(query) => query,
            Err(wrong) => {
                let error = HttpError { status: 400, reason: wrong.reason() };
                return NativeAnswer::Page { error, lines: Vec::new() };
            }
        };
        match self.desk.text_for(token, &Wanted::Connections(query), now) {
            Some(Some(text)) => self.json(text.to_vec()),
            Some(None) => NativeAnswer::Page { error: UNTOLD, lines: Vec::new() },
            None => NativeAnswer::Later,
        }
    }

    fn json(&self, body: Vec<u8>) -> NativeAnswer {
        self.page(b"application/json", body)
    }

    fn page(&self, content_type: &[u8], body: Vec<u8>) -> NativeAnswer {
        let own = [b"content-type: ", content_type, b"\r\n", PAGE_LINES.as_bytes()].concat();
        NativeAnswer::Response(NativeResponse {
            status: 200,
            lines: HeaderLines { shared: self.none.clone(), shared_bytes: 0, own },
            body: NativeBody::One(NativePiece::Own(body)),
        })
    }
}

impl Responder for MetricsPages {
    fn claims(&self, _path: &[u8]) -> bool {
        true
    }

    fn respond(&mut self, token: Token, request: &RequestView<'_>, now: Instant) -> NativeAnswer {
        self.answer(token, request, now)
    }

    fn wakeup(&self) -> Option<RawFd> {
        Some(self.desk.fd())
    }

    fn take_answerable(&mut self, now: Instant) -> Vec<Token> {
        self.desk.take_answerable(now)
    }

    fn patience(&self, now: Instant) -> Option<Duration> {
        self.desk.patience(now)
    }
}

/// What the metrics' loop serves.
pub struct MetricsService(HttpServer);

impl MetricsService {
    pub fn new(pages: MetricsPages) -> Self {
        let settings =
            HttpSettings { keep_alive: KEEP_ALIVE, max_connections: MAX_CONNECTIONS, ..HttpSettings::default() };
        let mut http = HttpServer::new(settings, None);
        http.add_responder(Box::new(pages));
        MetricsService(http)
    }

    /// Before the first turn.
    pub fn attach(&mut self, io: &mut Io<Connection>) -> std::io::Result<()> {
        self.0.attach(io)
    }

    /// How long until somebody is to be answered who has waited for the application.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.0.patience(now)
    }
}

impl Service for MetricsService {
    type Connection = Connection;
    type Mail = crate::reactor::Mail;

    fn accepted(&mut self, io: &mut Io<Connection>, _: Token, fd: OwnedFd) {
        self.0.add(io, fd, 0);
    }

    fn received(&mut self, io: &mut Io<Connection>, token: Token, lease: Lease) {
        self.0.received(io, token, lease);
    }

    fn ended(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.ended(io, token);
    }

    fn drained(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.drained(io, token);
    }

    fn blocked(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.blocked(io, token);
    }

    fn unblocked(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.unblocked(io, token);
    }

    fn expired(&mut self, io: &mut Io<Connection>, token: Token) {
        self.0.expired(io, token);
    }

    fn closed(&mut self, _: &mut Io<Connection>, token: Token, state: Connection, reason: CloseReason) {
        self.0.closed(token, state, reason);
    }

    fn ready(&mut self, io: &mut Io<Connection>, token: Token, _: Readiness) {
        self.0.ready(io, token);
    }

    fn mail(&mut self, _: &mut Io<Connection>, _: crate::reactor::Mail) {}

    fn settle(&mut self, io: &mut Io<Connection>) -> bool {
        if self.0.patience(io.now()).is_some_and(|left| left.is_zero()) {
            self.0.ask_responders(io);
        }
        // Whoever left, or sends a body, is told to an application; there is none.
        while let Some(event) = self.0.next_event() {
            debug_assert!(!matches!(event, HttpEvent::Request(_)), "every request is a responder's");
        }
        self.0.settle(io)
    }
}
