//! The end of a process whose supervisor is gone, whatever else it is in the middle of.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// End this process, `grace` after the other end of the stream `fd` is closed by everybody who has it.
///
/// A thread of its own waits for that: it needs no event loop that turns, and no interpreter.
pub fn exit_after_hang_up(fd: OwnedFd, grace: Duration, status: i32) -> io::Result<()> {
    let wait = move || {
        wait_for_hang_up(&fd);
        std::thread::sleep(grace);
        // SAFETY: ends the process at once, as it would be by a signal: nothing of it is to run any more.
        unsafe { libc::_exit(status) }
    };
    std::thread::Builder::new().name("penstock-hang-up".into()).stack_size(64 * 1024).spawn(wait).map(drop)
}

fn wait_for_hang_up(fd: &OwnedFd) {
    loop {
        // A hang-up is told unasked, and bytes that arrive wake nobody.
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one live pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } == 1 {
            return;
        }
    }
}
