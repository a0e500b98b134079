//! What the kernel has counted of one TCP connection (`TCP_INFO`, tcp(7)): asked when somebody wants to know.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::error::checked;

/// The kernel's `struct tcp_info` (linux/tcp.h) as far as Linux 4.6 has it, by which it is as good as everywhere. Later ones
/// have more behind it.
#[repr(C)]
#[derive(Default)]
struct TcpInfo {
    states: [u8; 8],
    _to_segments: [u32; 9],
    last_data_sent_ms: u32,
    _last_ack_sent: u32,
    last_data_received_ms: u32,
    _to_round_trip: [u32; 3],
    round_trip_us: u32,
    _to_rates: [u32; 8],
    _rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    _segments: [u32; 2],
    not_sent_bytes: u32,
    _min_round_trip_us: u32,
}

const _: () = assert!(offset_of!(TcpInfo, last_data_sent_ms) == 44 && offset_of!(TcpInfo, round_trip_us) == 68);
const _: () = assert!(offset_of!(TcpInfo, bytes_acked) == 120 && offset_of!(TcpInfo, not_sent_bytes) == 144);

/// Of one connection, since it was made.
#[derive(Clone, Copy, Debug)]
pub struct TcpFigures {
    pub received_bytes: u64,
    /// That the peer has acknowledged.
    pub acknowledged_bytes: u64,
    /// For how long no data has come or left.
    pub idle: Duration,
    pub round_trip: Duration,
}

/// `None` for what is no TCP socket, or where the kernel does not tell.
pub fn tcp_figures(socket: impl AsFd) -> Option<TcpFigures> {
    let mut info = TcpInfo::default();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the structure is plain numbers, as long as its length says.
    let outcome =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) };
    let told: io::Result<_> = checked(outcome);
    let is_whole = told.is_ok() && length as usize >= offset_of!(TcpInfo, not_sent_bytes);
    is_whole.then(|| TcpFigures {
        received_bytes: info.bytes_received,
        acknowledged_bytes: info.bytes_acked,
        idle: Duration::from_millis(u64::from(info.last_data_sent_ms.min(info.last_data_received_ms))),
        round_trip: Duration::from_micros(u64::from(info.round_trip_us)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_has_come_and_left_is_counted_and_other_sockets_tell_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        peer.write_all(&[1; 100]).unwrap();
        accepted.read_exact(&mut [0; 100]).unwrap();
        accepted.write_all(&[2; 50]).unwrap();
        peer.read_exact(&mut [0; 50]).unwrap();
        peer.write_all(&[3]).unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        let figures = tcp_figures(&accepted).unwrap();
        assert_eq!((figures.received_bytes, figures.acknowledged_bytes), (101, 50));
        assert!(figures.idle < Duration::from_secs(20), "{figures:?}");
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(tcp_figures(&unix).is_none());
    }
}
