//! The only room that knows both worlds. Crossings carry whole things: a turn, a request, a batch.

mod access_log;
mod asgi;
mod datagram;
mod guarded;
mod load;
mod main_reactor;
mod owners;
mod reactor;
mod service;
mod socket_options;

use pyo3::prelude::*;

/// Penstock's data plane.
#[pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::access_log::{check_access_log_format, reopen_access_logs};
    #[pymodule_export]
    use super::asgi::{AsgiServer, HttpCycle};
    #[pymodule_export]
    use super::datagram::{DatagramEndpoint, DatagramPeer};
    #[pymodule_export]
    use super::load::{run_http_load, run_udp_load};
    #[pymodule_export]
    use super::main_reactor::MainReactor;
    #[pymodule_export]
    use super::reactor::{Reactor, ReactorHandle};
    #[pymodule_export]
    use super::socket_options::{get_socket_option, set_socket_option, socket_option_table};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ClientDisconnected", module.py().get_type::<super::asgi::ClientDisconnected>())?;
        // A debug build is many times slower; the package warns on import.
        module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
        super::asgi::prepare_types(module.py())
    }
}
