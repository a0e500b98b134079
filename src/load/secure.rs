//! A handshake over a socket, made whole before the connection has its place in the load: as connecting is.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::protocol::tls::{Client, Session, TlsError};

/// Why a connection could not be opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// By the kernel or by the peer's.
    Kernel(io::Error),
    /// It is there, and no session came about.
    Handshake(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Kernel(error) => error.fmt(out),
            Refusal::Handshake(problem) => write!(out, "the TLS handshake failed: {problem}"),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Kernel(error)
    }
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Self {
        Refusal::Handshake(error.to_string())
    }
}

/// Agree with the server on a session within `timeout`, on a socket that blocks.
pub(super) fn handshake(stream: &TcpStream, client: &Client, timeout: Duration) -> Result<Session, Refusal> {
    let began = Instant::now();
    let (mut plain, mut out, mut bytes) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
    let mut session = Session::begin(client, &mut out)?;
    loop {
        let left = timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        stream.set_write_timeout(Some(left))?;
        write(stream, &mut out, timeout)?;
        if session.is_established() {
            break;
        }
        let count = match (&*stream).read(&mut bytes) {
            Ok(0) => return Err(Refusal::Handshake("the server closed within it: is it a port for TLS?".to_owned())),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(interrupted(&error, timeout)),
        };
        let outcome = session.receive(&bytes[..count], &mut plain, &mut out);
        if outcome.is_err() {
            // The alert that says why; who does not hear it finds out by the end.
            let _ = write(stream, &mut out, timeout);
        }
        outcome?;
        if began.elapsed() > timeout {
            return Err(too_long(timeout));
        }
    }
    match plain.is_empty() {
        true => Ok(session),
        false => Err(Refusal::Handshake("the server spoke before it was asked".to_owned())),
    }
}

fn write(stream: &TcpStream, out: &mut Vec<u8>, timeout: Duration) -> Result<(), Refusal> {
    let mut stream = stream;
    stream.write_all(out).map_err(|error| interrupted(&error, timeout))?;
    out.clear();
    Ok(())
}

fn interrupted(error: &io::Error, timeout: Duration) -> Refusal {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => too_long(timeout),
        _ => Refusal::Handshake(error.to_string()),
    }
}

fn too_long(timeout: Duration) -> Refusal {
    Refusal::Handshake(format!("it took longer than {} s: is it a port for TLS?", timeout.as_secs_f64()))
}
