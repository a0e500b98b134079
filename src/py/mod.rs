//! The only room that knows both worlds. Crossings carry whole things: a turn, a request, a batch.

mod access_log;
mod asgi;
mod config;
mod crowd;
mod datagram;
mod errors;
mod file_position;
mod guarded;
mod http_server;
mod load;
mod main_reactor;
mod metrics;
mod owners;
mod reactor;
mod request_bytes;
mod scoreboard;
mod service;
mod socket_options;
mod stall_watch;
mod survey;
mod task;
mod tcp;
mod wsgi;

use pyo3::prelude::*;

/// Penstock's data plane.
#[pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::access_log::{check_access_log_format, reopen_access_logs};
    #[pymodule_export]
    use super::asgi::{AsgiServer, HttpCycle};
    #[pymodule_export]
    use super::crowd::Crowd;
    #[pymodule_export]
    use super::datagram::{DatagramEndpoint, DatagramPeer};
    #[pymodule_export]
    use super::load::{run_http_load, run_tcp_load, run_udp_load};
    #[pymodule_export]
    use super::main_reactor::MainReactor;
    #[pymodule_export]
    use super::metrics::{MetricsServer, metrics_table};
    #[pymodule_export]
    use super::reactor::{Reactor, ReactorHandle};
    #[pymodule_export]
    use super::scoreboard::{Scoreboard, exit_after_hang_up};
    #[pymodule_export]
    use super::socket_options::{get_socket_option, set_socket_option, socket_option_table};
    #[pymodule_export]
    use super::survey::{Survey, survey_query};
    #[pymodule_export]
    use super::wsgi::{FileWrapper, StartResponse, WsgiInput, WsgiServer};

    #[pymodule_export]
    use super::tcp::{StreamConnection, StreamGroup, StreamServer};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ClientDisconnected", module.py().get_type::<super::asgi::ClientDisconnected>())?;
        // A debug build is many times slower; the package warns on import.
        module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
        super::task::prepare_type(module.py());
        super::tcp::prepare_types(module.py());
        super::asgi::prepare_types(module.py())
    }
}
