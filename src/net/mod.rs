//! Sockets: their addresses, their options and the system calls that make them. Descriptors are owned by `OwnedFd`.
//!
//! Every socket that is made here is non-blocking and closed on exec. Errors say which call failed on what, and keep
//! the kernel's number: see [`errno_of`].

pub mod datagram;
mod error;
mod inet_address;
pub mod options;
mod socket;
pub mod socket_options;
mod tcp_info;

pub use error::errno_of;
pub use inet_address::{AddressError, RawAddress, SocketAddress, UnixAddress};
pub use socket::{
    ConnectProgress, ListenOptions, Listener, accept, connect, connect_from, local_address, peer_address,
    shutdown_write, socket_pair, take_error,
};
pub use socket_options::{SocketOptionError, SocketOptions};
pub use tcp_info::{TcpFigures, tcp_figures};
