//! Datagrams, many to a system call: `recvmmsg` and `sendmmsg` with arrays that are kept, GRO and GSO where there are any.
//!
//! A [`ReceiveBatch`] owns what arrived until it receives again; an [`Outbox`] owns what must leave until the kernel took
//! it. Neither owns a socket, and neither sleeps.

mod control;
mod pause;
mod receive;
mod send;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use libc::c_int;

use super::error::{checked, during};
use super::inet_address::SocketAddress;
use super::options::{self, Bytes, Count};
use super::socket::{local_address, peer_address};

pub use control::{Control, segments};
pub use pause::pause;
pub use receive::{Message, ReceiveBatch};
pub use send::{Destination, FlushEnd, Outbox, SendFailure, Sender};

/// Somebody datagrams come from and go to, and the address of this machine that they came to, where that is not given by
/// the socket: an answer must leave from there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    pub address: SocketAddress,
    pub local: Option<IpAddr>,
}

impl From<SocketAddress> for PeerAddress {
    fn from(address: SocketAddress) -> Self {
        PeerAddress { address, local: None }
    }
}

/// What a datagram socket can do, found out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It has one peer only, and hears of ICMP errors.
    pub connected: bool,
    /// Several datagrams may arrive as one.
    pub gro: bool,
    /// Several datagrams may leave as one.
    pub gso: bool,
    /// Bytes that one datagram may have.
    pub max_bytes: usize,
}

/// Datagrams over IP have a length of 16 bits, with UDP's header; over IPv4 with that of IP, too.
const MAX_OVER_IPV4: usize = 65_535 - 8 - 20;
const MAX_OVER_IPV6: usize = 65_535 - 8;
/// What the kernel keeps of a Unix socket's send buffer for itself.
const UNIX_OVERHEAD: usize = 32;

/// Make a bound or connected datagram socket ready: non-blocking, closed on exec, with everything told that the kernel
/// can tell.
pub fn prepare(socket: impl AsFd) -> io::Result<Abilities> {
    let socket = socket.as_fd();
    if !is_datagram(socket)? {
        let message = "this is no datagram socket; expected one of SOCK_DGRAM";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    super::socket::set_non_blocking(socket)?;
    let local = local_address(socket)?;
    let connected = peer_address(socket).is_ok();
    let is_ip = !local.is_unix();
    if is_ip && !connected && local.is_unspecified() {
        // Where one of the two is not to be had, nothing can be told, and answers leave by the way that routing takes.
        let _ = options::PACKET_INFO.set(socket, true);
        let _ = options::PACKET_INFO_V6.set(socket, true);
    }
    // Kernels without these (and Unix sockets) do without.
    let _ = options::TELL_DROPS.set(socket, true);
    let gro = is_ip && options::UDP_GRO.set(socket, true).is_ok();
    let gso = is_ip && options::UDP_SEGMENT.get(socket).is_ok();
    Ok(Abilities { connected, gro, gso, max_bytes: max_bytes(socket, &local)? })
}

fn is_datagram(socket: impl AsFd) -> io::Result<bool> {
    Ok(options::TYPE.get(socket)? == Count(libc::SOCK_DGRAM as u32))
}

fn max_bytes(socket: impl AsFd, local: &SocketAddress) -> io::Result<usize> {
    Ok(match local {
        SocketAddress::V4(_) => MAX_OVER_IPV4,
        SocketAddress::V6(_) => MAX_OVER_IPV6,
        SocketAddress::Unix(_) => {
            let Bytes(buffer) = options::SEND_BUFFER.get(socket)?;
            (buffer as usize).saturating_sub(UNIX_OVERHEAD)
        }
    })
}

/// Join, or leave, a multicast group on one interface (0: the one that routing finds).
pub fn set_membership(socket: impl AsFd, group: IpAddr, interface: u32, joined: bool) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let outcome = match group {
        IpAddr::V4(group) => {
            // Hear of the groups that this socket has joined, and of no other's.
            set_raw(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &0)?;
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(group.octets()) },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: interface.cast_signed(),
            };
            let number = if joined { libc::IP_ADD_MEMBERSHIP } else { libc::IP_DROP_MEMBERSHIP };
            set_raw(fd, libc::IPPROTO_IP, number, &request)
        }
        IpAddr::V6(group) => {
            let request = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
                ipv6mr_interface: interface,
            };
            let number = if joined { libc::IPV6_ADD_MEMBERSHIP } else { libc::IPV6_DROP_MEMBERSHIP };
            set_raw(fd, libc::IPPROTO_IPV6, number, &request)
        }
    };
    outcome.map_err(|error| during(if joined { "join" } else { "leave" }, group, error))
}

/// How multicast datagrams leave: how far, whether to this machine, too, and through which interface.
pub fn set_multicast(
    socket: impl AsFd,
    hops: Option<u32>,
    looped: Option<bool>,
    interface: Option<u32>,
) -> io::Result<()> {
    let socket = socket.as_fd();
    let is_v6 = matches!(local_address(socket)?, SocketAddress::V6(_));
    if let Some(hops) = hops {
        if is_v6 { &options::MULTICAST_HOPS } else { &options::MULTICAST_TTL }.set(socket, Count(hops))?;
    }
    if let Some(looped) = looped {
        if is_v6 { &options::MULTICAST_LOOP_V6 } else { &options::MULTICAST_LOOP }.set(socket, looped)?;
    }
    match interface {
        Some(interface) if is_v6 => options::MULTICAST_INTERFACE_V6.set(socket, Count(interface)),
        Some(interface) => {
            let none = libc::in_addr { s_addr: 0 };
            let request =
                libc::ip_mreqn { imr_multiaddr: none, imr_address: none, imr_ifindex: interface.cast_signed() };
            set_raw(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
                .map_err(|error| during("setsockopt", "IP_MULTICAST_IF", error))
        }
        None => Ok(()),
    }
}

fn set_raw<T>(fd: c_int, level: c_int, number: c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is `size` readable bytes; a wrong descriptor is an error of the call.
    checked(unsafe { libc::setsockopt(fd, level, number, std::ptr::from_ref(value).cast(), size) }).map(drop)
}
