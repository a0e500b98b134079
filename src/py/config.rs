//! What of `penstock.ServerConfig` the data plane needs, read from it by its fields' own names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::protocol::http1::Limits;
use crate::protocol::http1::forwarded::{InvalidPeer, TrustedPeers};
use crate::server::http::HttpSettings;
use crate::server::static_files::{MountSettings, StaticSettings};

#[derive(FromPyObject)]
pub struct ServerConfig {
    pub root_path: String,
    pub cancel_on_disconnect: bool,
    timeout_keep_alive_s: f64,
    timeout_header_s: f64,
    timeout_body_s: f64,
    timeout_write_s: f64,
    limit_rate_min: u32,
    limit_head_size: usize,
    limit_headers: usize,
    limit_target_size: usize,
    limit_body_size: u64,
    limit_concurrency: usize,
    pub threads: usize,
    pub limit_queue: usize,
    pub limit_spool_size: u64,
    limit_connections: usize,
    limit_connections_per_address: u32,
    server_header: bool,
    date_header: bool,
    header: Vec<String>,
    pub health: Option<String>,
    #[pyo3(attribute("static"))]
    static_mounts: Vec<StaticMount>,
    static_cache_size: usize,
    static_open_files: usize,
    forwarded_allow_ips: String,
    proxy_headers: bool,
    proxy_protocol: bool,
}

/// `penstock.StaticMount`
#[derive(FromPyObject)]
struct StaticMount {
    prefix: String,
    directory: PathBuf,
    cache_control: Option<String>,
    listing: bool,
    hidden: bool,
    fallthrough: bool,
}

impl StaticMount {
    fn settings(&self) -> MountSettings {
        MountSettings {
            prefix: self.prefix.clone(),
            directory: self.directory.clone(),
            cache_control: self.cache_control.clone(),
            listing: self.listing,
            hidden: self.hidden,
            falls_through: self.fallthrough,
        }
    }
}

impl ServerConfig {
    pub fn http_settings(&self) -> PyResult<HttpSettings> {
        Ok(HttpSettings {
            head: Limits {
                max_head_bytes: self.limit_head_size,
                max_headers: self.limit_headers,
                max_target_bytes: self.limit_target_size,
            },
            max_body_bytes: if self.limit_body_size == 0 { u64::MAX } else { self.limit_body_size },
            max_requests_in_progress: if self.limit_concurrency == 0 { usize::MAX } else { self.limit_concurrency },
            max_connections: if self.limit_connections == 0 { usize::MAX } else { self.limit_connections },
            max_connections_per_address: match self.limit_connections_per_address {
                0 => u32::MAX,
                limit => limit,
            },
            keep_alive: seconds("timeout_keep_alive_s", self.timeout_keep_alive_s)?,
            head_timeout: seconds("timeout_header_s", self.timeout_header_s)?,
            body_window: seconds("timeout_body_s", self.timeout_body_s)?,
            write_window: seconds("timeout_write_s", self.timeout_write_s)?,
            min_rate_bytes_s: self.limit_rate_min,
            server_header: (self.server_header && !self.has_header("server")).then_some("penstock"),
            date_header: self.date_header && !self.has_header("date"),
            header_lines: self.header_lines(),
            trusted: self.trusted_peers()?,
            proxy_headers: self.proxy_headers,
            proxy_protocol: self.proxy_protocol,
        })
    }

    fn header_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header.iter().filter_map(|line| line.split_once(':'))
    }

    fn has_header(&self, name: &str) -> bool {
        self.header_fields().any(|(given, _)| given.eq_ignore_ascii_case(name))
    }

    /// In wire form: the settings have been checked, and are Latin-1.
    fn header_lines(&self) -> Arc<[u8]> {
        let lines: String = self.header_fields().map(|(name, value)| format!("{name}: {}\r\n", value.trim())).collect();
        lines.chars().map(|character| character as u8).collect()
    }

    /// `None` when nothing is mounted.
    pub fn static_settings(&self) -> Option<StaticSettings> {
        let mounts: Vec<_> = self.static_mounts.iter().map(StaticMount::settings).collect();
        (!mounts.is_empty()).then_some(StaticSettings {
            mounts,
            cache_bytes: self.static_cache_size,
            open_files: self.static_open_files,
        })
    }

    fn trusted_peers(&self) -> PyResult<TrustedPeers> {
        let parsed: Result<_, InvalidPeer> = self.forwarded_allow_ips.parse();
        parsed.map_err(|error| PyValueError::new_err(format!("forwarded_allow_ips: {error}")))
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name}: a number of seconds from 0 is expected, not {value}")))
}
