//! What readiness backends do when told that they may: one non-blocking system call, and its outcome.
//!
//! None of these owns a descriptor it is given or sleeps, but for a file's bytes that are not in memory: the kernel
//! has no way of reading those that does not wait for the disk, so what one call may read is bounded. None raises
//! SIGPIPE where that can be asked for; sendfile has no such flag, and relies on the process ignoring the signal, as
//! CPython's and Rust's runtimes make it do.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::Completion;
use crate::core::buffer::{FileRange, Lease, Run, SegmentQueue, TurnArena};
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

/// Others (Unix sockets with descriptors passed along) let a receive end early though more is there.
pub(super) fn is_tcp(fd: RawFd) -> bool {
    let mut protocol: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both are locals of the types that the kernel writes.
    let outcome = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, (&raw mut protocol).cast(), &raw mut length)
    };
    outcome == 0 && protocol == libc::IPPROTO_TCP
}

/// What one connection may send out of files in one turn, so that a large one leaves room for the others.
const MAX_FILE_BYTES: usize = 1 << 20;
/// System calls that one connection's queue of slices and files may take in one turn.
const MAX_RUNS: usize = 8;
/// What is read at a time of a file that the kernel cannot send by itself.
pub(super) const FILE_READ_BYTES: usize = 64 * 1024;

const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// Send from the front: `send` for one slice, `sendmsg` for several, `sendfile`. Returns the bytes that have left.
pub(super) fn send(fd: RawFd, output: &SegmentQueue) -> io::Result<usize> {
    if output.is_empty() {
        return Ok(0);
    }
    if let Some(bytes) = output.as_single() {
        // SAFETY: the slice lives through the call.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), SEND_FLAGS) };
        return usize::try_from(sent).map_err(|_| io::Error::last_os_error());
    }
    if output.has_files() {
        return send_runs(fd, output);
    }
    let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
    match output.run(0, &mut slices) {
        Run::Slices { count, .. } => send_slices(fd, &slices[..count], SEND_FLAGS),
        Run::Nothing | Run::File(_) => Ok(0),
    }
}

fn send_slices(fd: RawFd, slices: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
    // SAFETY: all zero is a valid, empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: IoSlice has iovec's layout, and is only read; the slices and what they show live through the call.
    let sent = unsafe { libc::sendmsg(fd, &message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Slices and files by turns, until the socket takes no more or this connection has had its share.
fn send_runs(fd: RawFd, output: &SegmentQueue) -> io::Result<usize> {
    let (mut sent, mut file_budget) = (0, MAX_FILE_BYTES);
    for _ in 0..MAX_RUNS {
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        let (outcome, wanted) = match output.run(sent, &mut slices) {
            Run::Nothing => break,
            Run::Slices { count, bytes, before_file } => {
                // A head and the file behind it share their packets.
                let flags = if before_file { SEND_FLAGS | libc::MSG_MORE } else { SEND_FLAGS };
                (send_slices(fd, &slices[..count], flags), bytes)
            }
            Run::File(range) => {
                let wanted = range.len.min(file_budget);
                if wanted == 0 {
                    break;
                }
                (send_file(fd, FileRange { len: wanted, ..range }), range.len)
            }
        };
        match outcome {
            Ok(bytes) => {
                sent += bytes;
                file_budget = file_budget.saturating_sub(bytes);
                if bytes < wanted {
                    break;
                }
            }
            Err(error) if sent > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// One `sendfile`. A file that ends before its range does is an error: the peer was promised more.
fn send_file(fd: RawFd, range: FileRange<'_>) -> io::Result<usize> {
    let mut offset = file_offset(range.offset)?;
    // SAFETY: the offset is a local; both descriptors are open.
    let sent = unsafe { libc::sendfile(fd, range.file.as_raw_fd(), &mut offset, range.len) };
    match usize::try_from(sent) {
        Ok(0) => Err(file_truncated()),
        Ok(sent) => Ok(sent),
        Err(_) => match last_errno() {
            libc::EINTR => Err(io::ErrorKind::WouldBlock.into()),
            // A file system that cannot hand its pages over.
            libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP => send_file_by_reading(fd, range),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
    }
}

fn send_file_by_reading(fd: RawFd, range: FileRange<'_>) -> io::Result<usize> {
    let bytes = read_file(range)?;
    send_slices(fd, &[IoSlice::new(&bytes)], SEND_FLAGS)
}

/// At least one byte and at most `FILE_READ_BYTES` of a range.
pub(super) fn read_file(range: FileRange<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; range.len.min(FILE_READ_BYTES)];
    let offset = file_offset(range.offset)?;
    loop {
        // SAFETY: the buffer is as long as told; the descriptor is open.
        let read = unsafe { libc::pread(range.file.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), offset) };
        match usize::try_from(read) {
            Ok(0) => return Err(file_truncated()),
            Ok(read) => {
                bytes.truncate(read);
                return Ok(bytes);
            }
            Err(_) => match last_errno() {
                libc::EINTR => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

fn file_truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was being sent")
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
