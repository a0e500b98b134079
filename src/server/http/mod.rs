//! The HTTP server of one reactor: connections in, requests out to an application, responses back.
//!
//! It owns what an active connection needs (`Exchange`) and lends it to idle ones never. The application is on the
//! other side of a queue of events: it takes them when it is its turn (for Python: attached, in one batch), looks
//! at requests through `request`, takes bodies through `take_body` and answers through `respond`.

mod access_log;
mod connection;
mod deadlines;
mod error_page;
mod exchange;
mod file_body;
mod input;
mod local_address;
mod native;
mod output;
mod proxied;
mod service;
mod settings;
mod upgrade;

pub use access_log::{AccessLog, FormatError, LogFormat, LogSink, NamedSink, SharedSink, reopen_access_logs};
pub use connection::{HttpConnection, PeerAddress};
pub use exchange::{RequestView, Take};
pub use file_body::FileBody;
pub use input::Gathered;
pub use local_address::LocalAddress;
pub use native::{HeaderLines, NativeAnswer, NativeBody, NativePiece, NativeResponse, Responder};
pub use output::{Body, RespondError};
pub use service::{HttpEvent, HttpServer};
pub use settings::HttpSettings;
pub use upgrade::{UpgradeError, Upgraded};
