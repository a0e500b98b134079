//! A wide socket may hold megabytes unsent: it has a large file for somebody who reads it.
//!
//! [`UNSENT_BYTES`] are what any other socket holds, so that thousands of peers who never read cost the kernel little.
//! For a large file that means a wake-up and a system call every few packets: twice nginx's CPU time per byte. So
//! where a peer has taken more of a file than fits into its own window unread, and much is left, the kernel takes more
//! of it, and acknowledgements send it without us. Few sockets are wide at once, and none longer than its file.

use std::os::fd::RawFd;

use super::token::Token;

/// What the kernel may hold, unsent, for a peer that does not read; by itself it would grow to megabytes for each, and
/// a few thousand such peers would put TCP under memory pressure for everybody.
pub const UNSENT_BYTES: u32 = 64 * 1024;
/// As much as the kernel gives a socket's buffer by itself, usually (tcp_wmem).
const WIDE_BYTES: u32 = 4 << 20;
/// With less than this left of a file it is not worth while.
const WORTH_BYTES: usize = 1 << 20;
/// A peer that has taken so much reads it: a window is a fraction of that until it is read from.
const READ_BYTES: usize = 512 * 1024;
const MAX_WIDE: usize = 64;

#[derive(Default)]
pub struct WideSockets {
    wide: Vec<Token>,
}

impl WideSockets {
    /// Of a file, so many bytes have been sent, and so many are left.
    #[inline]
    pub fn sent(&mut self, token: Token, fd: RawFd, sent: usize, left: usize) {
        let is_worth_it = left >= WORTH_BYTES && sent >= READ_BYTES;
        if is_worth_it
            && self.wide.len() < MAX_WIDE
            && !self.wide.contains(&token)
            && unsent_limit(fd) == Some(UNSENT_BYTES)
        {
            set_unsent_limit(fd, WIDE_BYTES);
            self.wide.push(token);
        }
    }

    /// Everything has left, or the connection is going.
    #[inline]
    pub fn emptied(&mut self, token: Token, fd: RawFd) {
        if let Some(at) = self.wide.iter().position(|&wide| wide == token) {
            self.wide.swap_remove(at);
            set_unsent_limit(fd, UNSENT_BYTES);
        }
    }
}

/// None: no TCP socket. Another than ours is somebody's choice.
fn unsent_limit(fd: RawFd) -> Option<u32> {
    let (mut bytes, mut length) = (0u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: an open descriptor, and a live option of the length told.
    let outcome = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw mut bytes).cast(), &raw mut length)
    };
    (outcome == 0).then_some(bytes)
}

fn set_unsent_limit(fd: RawFd, bytes: u32) {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: an open descriptor, and a live option of the length told. A socket that does not take it stays as it is.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw const bytes).cast(), length) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn sockets(count: usize) -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |_| TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let made: Vec<_> = (0..count).map(connect).collect();
        made.iter().for_each(|socket| set_unsent_limit(socket.as_raw_fd(), UNSENT_BYTES));
        made
    }

    #[test]
    fn a_socket_is_wide_while_a_reader_has_much_of_a_file_to_come() {
        let (sockets, mut wide) = (sockets(1), WideSockets::default());
        let (token, fd) = (Token::new(1, 1), sockets[0].as_raw_fd());
        wide.sent(token, fd, 100, 1 << 30);
        wide.sent(token, fd, 1 << 20, 1000);
        assert_eq!(unsent_limit(fd), Some(UNSENT_BYTES));
        wide.sent(token, fd, 1 << 20, 1 << 30);
        assert_eq!(unsent_limit(fd), Some(WIDE_BYTES));
        wide.emptied(token, fd);
        assert_eq!(unsent_limit(fd), Some(UNSENT_BYTES));
    }

    #[test]
    fn another_limit_is_somebody_s_choice_and_stays() {
        let (sockets, mut wide) = (sockets(1), WideSockets::default());
        let (token, fd) = (Token::new(1, 1), sockets[0].as_raw_fd());
        set_unsent_limit(fd, 5000);
        wide.sent(token, fd, 1 << 20, 1 << 30);
        wide.emptied(token, fd);
        assert_eq!(unsent_limit(fd), Some(5000));
        wide.sent(token, -1, 1 << 20, 1 << 30);
    }

    #[test]
    fn few_are_wide_at_once_and_whoever_leaves_makes_room() {
        let (sockets, mut wide) = (sockets(MAX_WIDE + 1), WideSockets::default());
        let all: Vec<_> = (0..).map(|n| Token::new(n, 1)).zip(sockets.iter().map(AsRawFd::as_raw_fd)).collect();
        all.iter().for_each(|&(token, fd)| wide.sent(token, fd, 1 << 20, 1 << 30));
        let (last, last_fd) = all[MAX_WIDE];
        assert_eq!(unsent_limit(last_fd), Some(UNSENT_BYTES));
        wide.emptied(all[0].0, all[0].1);
        wide.sent(last, last_fd, 1 << 20, 1 << 30);
        assert_eq!(unsent_limit(last_fd), Some(WIDE_BYTES));
    }
}
