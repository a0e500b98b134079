//! A Mailbox is how other threads reach a reactor: a lock-free queue and a coalesced wake-up.
//!
//! The reactor owns the receiving end and the eventfd; senders share both. A sender wakes the reactor only when
//! nobody has since the reactor last looked, so a burst of mail costs one system call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Ends a reactor's sleep from any thread, or from a signal handler.
pub struct Waker {
    eventfd: OwnedFd,
    pending: AtomicBool,
}

impl Waker {
    fn new() -> io::Result<Self> {
        // SAFETY: eventfd has no preconditions; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Waker { eventfd: unsafe { OwnedFd::from_raw_fd(fd) }, pending: AtomicBool::new(false) })
    }

    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            let one = 1_u64;
            // SAFETY: writes eight bytes of a live integer. It can only fail when the counter is full, and then
            // the reactor is awake already.
            unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// The reactor is awake: later wakes must be heard anew. Call before looking at what they announced.
    fn heard(&self) {
        let mut count = 0_u64;
        // SAFETY: reads eight bytes into a live integer; EAGAIN is harmless.
        unsafe { libc::read(self.eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
        // A swap, not a store: it acquires what a sender queued before finding `pending` set.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// A sending end; clones may go to any thread.
pub struct MailSender<M> {
    queue: Sender<M>,
    waker: Arc<Waker>,
}

impl<M> Clone for MailSender<M> {
    fn clone(&self) -> Self {
        MailSender { queue: self.queue.clone(), waker: self.waker.clone() }
    }
}

impl<M> MailSender<M> {
    /// Hand `mail` to the reactor; gives it back when the reactor is gone.
    pub fn send(&self, mail: M) -> Result<(), M> {
        self.queue.send(mail).map_err(|refused| refused.0)?;
        self.waker.wake();
        Ok(())
    }

    pub fn wake(&self) {
        self.waker.wake();
    }
}

pub struct Mailbox<M> {
    queue: Receiver<M>,
    sender: MailSender<M>,
}

impl<M> Mailbox<M> {
    pub fn new() -> io::Result<Self> {
        let (queue_in, queue) = channel();
        Ok(Mailbox { queue, sender: MailSender { queue: queue_in, waker: Arc::new(Waker::new()?) } })
    }

    pub fn sender(&self) -> MailSender<M> {
        self.sender.clone()
    }

    /// The descriptor that becomes readable when mail or a wake-up is there.
    pub fn fd(&self) -> RawFd {
        self.sender.waker.eventfd.as_raw_fd()
    }

    /// Take note of the wake-up; mail sent from now on wakes again.
    pub fn heard(&self) {
        self.sender.waker.heard();
    }

    pub fn take(&self) -> Option<M> {
        self.queue.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn a_burst_of_mail_wakes_once_and_all_of_it_is_there() {
        let mailbox = Mailbox::new().unwrap();
        let senders: Vec<_> = (0..4)
            .map(|thread| {
                let sender = mailbox.sender();
                std::thread::spawn(move || (0..100).for_each(|n| sender.send(thread * 100 + n).unwrap()))
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(readable(mailbox.fd()));
        mailbox.heard();
        assert!(!readable(mailbox.fd()));
        let mut got: Vec<_> = std::iter::from_fn(|| mailbox.take()).collect();
        got.sort_unstable();
        assert_eq!(got, (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn mail_to_a_reactor_that_is_gone_comes_back() {
        let mailbox = Mailbox::new().unwrap();
        let sender = mailbox.sender();
        drop(mailbox);
        assert_eq!(sender.send("lost?"), Err("lost?"));
    }
}
