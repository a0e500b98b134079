//! What a connection keeps in its reactor's slot, whichever server has it: one reactor serves them all.

use super::http::HttpConnection;
use super::tcp::StreamConnection;
use crate::core::channel::Channel;
use crate::core::{Io, Token};

// A million idle connections pay for each of them.
const _: () = assert!(size_of::<Channel<Connection>>() <= 88);

pub enum Connection {
    Http(HttpConnection),
    Stream(StreamConnection),
}

impl Default for Connection {
    fn default() -> Self {
        Connection::Stream(StreamConnection::default())
    }
}

impl From<HttpConnection> for Connection {
    fn from(connection: HttpConnection) -> Self {
        Connection::Http(connection)
    }
}

impl From<StreamConnection> for Connection {
    fn from(connection: StreamConnection) -> Self {
        Connection::Stream(connection)
    }
}

impl Io<Connection> {
    /// The HTTP server's state of an open connection, if it is one of its own.
    #[inline]
    pub fn http(&mut self, token: Token) -> Option<&mut HttpConnection> {
        match self.state(token)? {
            Connection::Http(connection) => Some(connection),
            Connection::Stream(_) => None,
        }
    }

    /// The stream service's state of an open connection, if it is one of its own.
    #[inline]
    pub fn stream(&mut self, token: Token) -> Option<&mut StreamConnection> {
        match self.state(token)? {
            Connection::Stream(connection) => Some(connection),
            Connection::Http(_) => None,
        }
    }
}
