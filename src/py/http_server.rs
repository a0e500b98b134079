//! The HTTP server under an application, ASGI or WSGI: made from the config when the application is attached.

use std::net::IpAddr;

use pyo3::prelude::*;

use super::access_log::AccessLogPlan;
use super::config::ServerConfig;
use crate::server::health::Health;
use crate::server::http::{HttpServer, HttpSettings, LogFormat};
use crate::server::static_files::{StaticFiles, StaticSettings};

/// A listener's scheme, and its `(host, port)` as Python has it.
pub type ListenerAddress = (String, Py<PyAny>);

/// What it takes to make an HTTP server.
pub struct HttpServerPlan {
    settings: HttpSettings,
    static_settings: Option<StaticSettings>,
    health: Option<String>,
    access_log: Option<(AccessLogPlan, LogFormat)>,
    /// Listeners at every address of the machine: which one a connection came to is asked of the connection.
    wildcard_listeners: Vec<u16>,
}

impl HttpServerPlan {
    pub fn new(
        py: Python<'_>,
        config: &ServerConfig,
        listeners: &[ListenerAddress],
        access_log: Option<AccessLogPlan>,
    ) -> PyResult<Self> {
        Ok(HttpServerPlan {
            settings: config.http_settings()?,
            static_settings: config.static_settings(),
            health: config.health.clone(),
            access_log: access_log.map(|plan| plan.compile().map(|format| (plan, format))).transpose()?,
            wildcard_listeners: wildcards(py, listeners),
        })
    }

    /// `report(message, None)` is called with what its user should know.
    pub fn make(&self, py: Python<'_>, report: &Py<PyAny>) -> PyResult<HttpServer> {
        let access_log = self.access_log.as_ref().map(|(plan, format)| plan.open(format.clone())).transpose()?;
        let mut http = HttpServer::new(self.settings.clone(), access_log);
        self.wildcard_listeners.iter().for_each(|&listener| http.note_wildcard_listener(listener));
        if let Some(path) = &self.health {
            http.add_responder(Box::new(Health::at(path)));
        }
        if let Some(settings) = &self.static_settings {
            let files = StaticFiles::open(settings.clone())?;
            if let Some(warning) = files.warning() {
                report.call1(py, (warning, py.None()))?;
            }
            http.add_responder(Box::new(files));
        }
        Ok(http)
    }
}

fn wildcards(py: Python<'_>, listeners: &[ListenerAddress]) -> Vec<u16> {
    let is_wildcard = |server: &Py<PyAny>| {
        let host = server.bind(py).get_item(0).and_then(|host| host.extract::<String>());
        host.is_ok_and(|host| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
    };
    (0..).zip(listeners).filter(|(_, (_, server))| is_wildcard(server)).map(|(number, _)| number).collect()
}
