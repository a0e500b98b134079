//! What readiness backends do when told that they may: one non-blocking system call, and its outcome.
//!
//! None of these owns a descriptor it is given, sleeps, or raises SIGPIPE.

use std::io::{self, IoSlice};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::Completion;
use crate::core::buffer::{Lease, SegmentQueue, TurnArena};
use crate::core::token::Token;

pub(super) enum Received {
    Bytes(Lease),
    /// It was a false alarm.
    Nothing,
    /// The peer will send no more.
    End,
    Error(i32),
}

/// One `recv` of at most `limit` bytes into the arena, which must have room.
pub(super) fn receive(fd: RawFd, arena: &mut TurnArena, limit: usize) -> Received {
    let (start, room) = arena.spare(limit);
    debug_assert!(room > 0, "a receive into no room looks like the peer's end");
    // SAFETY: the arena has `room` bytes there.
    let received = unsafe { libc::recv(fd, start.cast(), room, libc::MSG_DONTWAIT) };
    match usize::try_from(received) {
        Ok(0) => Received::End,
        // SAFETY: the kernel wrote that many bytes there.
        Ok(received) => Received::Bytes(unsafe { arena.commit(received) }),
        Err(_) => match last_errno() {
            libc::EAGAIN | libc::EINTR => Received::Nothing,
            errno => Received::Error(errno),
        },
    }
}

/// Send from the front: `send` for one slice, `sendmsg` for several. Returns the bytes that have left.
pub(super) fn send(fd: RawFd, output: &SegmentQueue) -> io::Result<usize> {
    const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    if output.is_empty() {
        return Ok(0);
    }
    let sent = if let Some(bytes) = output.as_single() {
        // SAFETY: the slice lives through the call.
        unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), FLAGS) }
    } else {
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        let count = output.io_slices(&mut slices);
        // SAFETY: all zero is a valid, empty msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = slices.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: IoSlice has iovec's layout; the slices and what they show live through the call.
        unsafe { libc::sendmsg(fd, &message, FLAGS) }
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Accept what is waiting, at most `limit` connections. A failure of the listener's ends the burst.
pub(super) fn accept_burst(listener: Token, fd: RawFd, limit: usize, completions: &mut Vec<Completion>) {
    const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    for _ in 0..limit {
        // SAFETY: null pointers ask for no address.
        let accepted = unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), FLAGS) };
        if accepted >= 0 {
            // SAFETY: the descriptor is new, and nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(accepted) };
            completions.push(Completion::Accepted { listener, fd });
            continue;
        }
        match last_errno() {
            libc::EAGAIN => return,
            errno if concerns_one_connection(errno) => {}
            errno => return completions.push(Completion::AcceptFailed { listener, errno }),
        }
    }
}

/// Errors of the connection that was to be accepted, not of the listener: the next one may be well (accept(2)).
pub(super) fn concerns_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
    )
}

/// The error that waits on a socket (0: none), which is hereby told and gone.
pub(super) fn socket_error(fd: RawFd) -> i32 {
    let mut errno: i32 = 0;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the sizes told.
    let outcome = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut errno).cast(), &mut len) };
    if outcome < 0 { last_errno() } else { errno }
}

/// Refuse, as epoll does, what is always ready and can never be waited for.
pub(super) fn refuse_files(fd: RawFd) -> io::Result<()> {
    // SAFETY: all zero is a valid stat, and it lives through the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    check(unsafe { libc::fstat(fd, &mut status) })?;
    match status.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EPERM)),
        _ => Ok(()),
    }
}

pub(super) fn check(outcome: i32) -> io::Result<i32> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

pub(super) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
