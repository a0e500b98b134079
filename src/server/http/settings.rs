//! What an HTTP server is told: its limits and deadlines. Each bounds what one peer can cost the others.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::http1::Limits;
use crate::protocol::http1::forwarded::TrustedPeers;

#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Of a request's head.
    pub head: Limits,
    /// Bytes that a request's body may have; more is answered with 413.
    pub max_body_bytes: u64,
    /// Requests whose response is not complete; one more is answered with 503. Idle connections do not count.
    pub max_requests_in_progress: usize,
    pub max_connections: usize,
    pub max_connections_per_address: u32,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long a request's head may take, from the connection's or its own first byte.
    pub head_timeout: Duration,
    /// A body must bring `min_rate_bytes_s` over each such window, while the server is ready to read it.
    pub body_window: Duration,
    /// The same for a response that the peer's side has no room for.
    pub write_window: Duration,
    pub min_rate_bytes_s: u32,
    /// Sent as `server:`, unless the application sends its own.
    pub server_header: Option<&'static str>,
    pub date_header: bool,
    /// Header lines of every response, in wire form; none of them frames a message or concerns the connection.
    pub header_lines: Arc<[u8]>,
    /// Whose word about a request's client is taken.
    pub trusted: TrustedPeers,
    /// Take X-Forwarded-For and X-Forwarded-Proto from trusted peers.
    pub proxy_headers: bool,
    /// Every connection begins with a PROXY protocol header, and must come from a trusted peer.
    pub proxy_protocol: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            head: Limits::default(),
            max_body_bytes: u64::MAX,
            max_requests_in_progress: usize::MAX,
            max_connections: usize::MAX,
            max_connections_per_address: u32::MAX,
            keep_alive: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            body_window: Duration::from_secs(20),
            write_window: Duration::from_secs(20),
            min_rate_bytes_s: 128,
            server_header: Some("penstock"),
            date_header: true,
            header_lines: Arc::new([]),
            trusted: TrustedPeers::default(),
            proxy_headers: false,
            proxy_protocol: false,
        }
    }
}

impl HttpSettings {
    /// Whether `bytes` moved within a whole `window` are too few.
    pub fn is_too_slow(&self, bytes: u64, window: Duration) -> bool {
        (bytes as f64) < f64::from(self.min_rate_bytes_s) * window.as_secs_f64()
    }
}
