//! A listener's gate. Shut, the kernel lets in nobody new, and those whose handshake is under way still arrive.
//!
//! Closing a listener resets whoever completed a handshake since the last accept: a peer that saw its connect succeed,
//! and may have sent a request. So the last holder of a listener shuts its gate first, takes who was on the way, and
//! closes then. The gate belongs to the socket and not to the descriptor: every other holder would be shut out, too.

use std::io;
use std::os::fd::RawFd;

/// Of TCP's header (RFC 9293 section 3.1): where its flags are, and what of them tells a SYN from a SYN-ACK.
const FLAGS_OFFSET: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Let nobody new in. Whoever comes to a TCP listener is not answered: it asks again after a second, and is refused, or
/// served by a successor at the same port. At a Unix socket's it is refused at once. An error: there is no such gate.
pub(super) fn shut(listener: RawFd) -> io::Result<()> {
    match domain(listener)? {
        libc::AF_UNIX => shut_unix(listener),
        libc::AF_INET | libc::AF_INET6 => drop_handshakes(listener),
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

fn domain(socket: RawFd) -> io::Result<i32> {
    let (mut domain, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: both are locals, of the length told; what is no socket is an error.
    checked(unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut length)
    })?;
    Ok(domain)
}

/// A listener that receives no more refuses connections, and gives away those that it has (unix_stream_connect).
fn shut_unix(listener: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::shutdown(listener, libc::SHUT_RD) })
}

/// Have the kernel drop what begins a handshake. What ends one has ACK set, and passes: a filter that dropped everything
/// would lose those who have been answered. (The filter goes with accepted sockets, where it finds nothing to drop.)
fn drop_handshakes(listener: RawFd) -> io::Result<()> {
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_OFFSET, (0, 0)),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK, (0, 0)),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, (0, 1)),
        instruction(libc::BPF_RET | libc::BPF_K, 0, (0, 0)),
        instruction(libc::BPF_RET | libc::BPF_K, u32::MAX, (0, 0)),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the program and what points to it live through the call, which copies them.
    checked(unsafe {
        libc::setsockopt(listener, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), length)
    })
}

fn instruction(code: u32, k: u32, (jt, jf): (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn checked(outcome: i32) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tcp_listener_with_its_gate_shut_gives_away_whom_it_has_and_answers_nobody_else() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let inside = TcpStream::connect(address).unwrap();
            shut(listener.as_raw_fd()).unwrap();
            let outside = TcpStream::connect_timeout(&address, Duration::from_millis(50));
            assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let (_, accepted) = listener.accept().unwrap();
            assert_eq!(accepted, inside.local_addr().unwrap());
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_unix_listener_with_its_gate_shut_gives_away_whom_it_has_and_refuses_everybody_else() {
        let path = std::env::temp_dir().join(format!("penstock-gate-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let inside = UnixStream::connect(&path);
        shut(listener.as_raw_fd()).unwrap();
        let outside = UnixStream::connect(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(inside.is_ok());
        assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err());
    }

    #[test]
    fn what_is_no_socket_has_no_gate() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(shut(file.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
