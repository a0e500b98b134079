//! A Bell wakes every process that listens for it, with one write. It owns an eventfd that is never read.
//!
//! An Ear is one reactor's side: an epoll descriptor of its own in which the bell hangs edge-triggered, so that each
//! listener hears each ring for itself, and none takes it from another.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

pub struct Bell {
    eventfd: Arc<OwnedFd>,
}

impl Bell {
    /// Children that are forked after this hear it, too.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd has no preconditions; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Ok(Bell { eventfd: Arc::new(owned(fd)?) })
    }

    pub fn ring(&self) {
        let one = 1_u64;
        // SAFETY: writes eight bytes of a live integer. It would fail only after 2^64 rings.
        unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Listen for it from now on.
    pub fn listen(&self) -> io::Result<Ear> {
        // SAFETY: no pointers are passed; the result is checked.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        // SAFETY: the event lives through the call; both descriptors are open.
        let outcome =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, self.eventfd.as_raw_fd(), &mut event) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(Ear { epoll, _bell: self.eventfd.clone() }) }
    }
}

pub struct Ear {
    epoll: OwnedFd,
    /// Keeps the bell in the set.
    _bell: Arc<OwnedFd>,
}

impl Ear {
    /// Readable when the bell has rung since it was last heard.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Take note; a ring from now on is a new one.
    pub fn heard(&self) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, which lives through the call; it does not wait.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, 0) };
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(ear: &Ear) -> bool {
        let mut poll = libc::pollfd { fd: ear.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn every_ear_hears_every_ring_for_itself() {
        let bell = Bell::new().unwrap();
        let (one, other) = (bell.listen().unwrap(), bell.listen().unwrap());
        one.heard();
        other.heard();
        assert!(!rings(&one) && !rings(&other));
        bell.ring();
        assert!(rings(&one) && rings(&other));
        one.heard();
        assert!(!rings(&one) && rings(&other));
        bell.ring();
        assert!(rings(&one));
        other.heard();
        assert!(!rings(&other));
    }
}
