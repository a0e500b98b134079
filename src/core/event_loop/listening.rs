//! Listeners: how they begin, rest while there are no descriptors, and leave without losing whom they let in.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{Hold, Io, close_descriptor};
use crate::core::channel::{Channel, ChannelKind};
use crate::core::gate;
use crate::core::token::Token;

/// How long a listener rests after the process ran out of descriptors, unless a connection closes before.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long a listener whose gate is shut waits for the rest of handshakes that were under way: a round trip.
const HANDSHAKE_TIME: Duration = Duration::from_millis(100);
/// Descriptors below a process's limit that are not for connections where others can have those: what the application
/// opens is to find some, and what one turn accepts is not to meet the limit.
const SPARED_DESCRIPTORS: RawFd = 64;

impl<C: Default> Io<C> {
    /// Start accepting. The descriptor is the reactor's from now on.
    pub fn add_listener(&mut self, fd: OwnedFd) -> io::Result<Token> {
        let raw = fd.as_raw_fd();
        let token = self.channels.insert(Channel::new(raw, ChannelKind::Listener, C::default()));
        match self.poller.accept(token, raw) {
            Ok(()) => {
                let _ = fd.into_raw_fd();
                Ok(token)
            }
            Err(error) => {
                self.channels.remove(token);
                Err(error)
            }
        }
    }

    /// Stop accepting, and close this reactor's descriptor of the listener. Until then `accepted` is told what peers
    /// believe accepted: whatever waits in the poller or in the kernel's queue.
    ///
    /// As one of several holders that is done with the next turn. The last one lets nobody new in at once, and waits
    /// `HANDSHAKE_TIME` for those on their way: no peer that saw its connect succeed is reset.
    pub fn remove_listener(&mut self, token: Token, hold: Hold) {
        let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.closing) else { return };
        debug_assert_eq!(channel.kind, ChannelKind::Listener);
        channel.flags.closing = true;
        // Without a gate that the kernel knows (simulated listeners have none), what arrives at the last moment is reset.
        if hold == Hold::Last && gate::shut(channel.fd).is_ok() {
            self.shut_listeners += 1;
            self.resting_listeners.retain(|&resting| resting != token);
            self.set_deadline(token, HANDSHAKE_TIME);
        } else {
            self.begin_leaving(token);
        }
    }

    /// Whoever was on the way has arrived at a listener whose gate is shut.
    pub(super) fn end_of_shut(&mut self, token: Token) {
        self.shut_listeners -= 1;
        self.begin_leaving(token);
    }

    /// Accept no more; what the poller has accepted by now comes with the next turn.
    pub(super) fn begin_leaving(&mut self, token: Token) {
        if let Some(fd) = self.fd(token) {
            self.poller.stop_accept(token, fd);
            self.resting_listeners.retain(|&resting| resting != token);
            self.leaving_listeners.push(token);
        }
    }

    /// Close this reactor's descriptor of a listener that others hold, too: whoever waits there is theirs.
    pub fn leave_listener(&mut self, token: Token) {
        if self.channels.get(token).is_some_and(|channel| !channel.flags.closing) {
            self.resting_listeners.retain(|&resting| resting != token);
            self.close_listener(token);
        }
    }

    /// Leave what comes to a listener to others that hold it, too, until `go_on_listening`.
    pub fn hold_listener(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token).filter(|c| !c.flags.closing && !c.flags.paused) {
            channel.flags.paused = true;
            self.poller.stop_accept(token, channel.fd);
        }
    }

    /// Undo `hold_listener`.
    pub fn go_on_listening(&mut self, token: Token) {
        let Some(channel) = self.channels.get_mut(token).filter(|c| !c.flags.closing && c.flags.paused) else { return };
        channel.flags.paused = false;
        if !self.resting_listeners.contains(&token) && self.poller.accept(token, channel.fd).is_err() {
            self.resting_listeners.push(token);
            self.set_deadline(token, ACCEPT_BACK_OFF);
        }
    }

    /// Whether the newest connection has one of the last descriptors that this process may have, and none has closed since.
    pub fn is_short_of_descriptors(&self) -> bool {
        self.is_short
    }

    pub(super) fn look_at_descriptor(&mut self, newest: RawFd) {
        if newest >= self.short_from {
            // The limit may have been raised.
            self.short_from = short_from();
            self.is_short = newest >= self.short_from;
        }
    }

    /// How many connections a turn takes of each listener, at most; a poller that is told of them one by one may pass
    /// it by.
    pub fn limit_accepts(&mut self, per_turn: usize) {
        self.poller.limit_accepts(per_turn);
    }

    /// Whether a removed listener's last connections are still to be told.
    pub fn has_leaving_listeners(&self) -> bool {
        self.shut_listeners > 0 || !self.leaving_listeners.is_empty()
    }

    pub(super) fn close_listener(&mut self, token: Token) {
        if let Some(fd) = self.fd(token) {
            self.poller.forget(token, fd);
            // It may hang there since it rested.
            self.wheel.unlink(&mut self.channels, token.index);
            self.channels.remove(token);
            close_descriptor(fd);
        }
    }

    /// Out of descriptors: refuse one waiting peer with the reserve (it learns at once instead of hanging), then
    /// let the listener rest, or its level-triggered readiness would spin.
    pub(super) fn rest_listener(&mut self, listener: Token) {
        let Some(channel) = self.channels.get(listener) else { return };
        let fd = channel.fd;
        if channel.flags.closing {
            // `see_off` tries once more.
            return self.poller.stop_accept(listener, fd);
        }
        if self.reserve.take().is_some() {
            // SAFETY: accepts on a listener we own; a refused connection is closed at once.
            let refused = unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
            if refused >= 0 {
                close_descriptor(refused);
                self.counters.connections_refused.add(1);
            }
            self.reserve = reserve_descriptor();
        }
        if !self.resting_listeners.contains(&listener) {
            self.poller.stop_accept(listener, fd);
            self.resting_listeners.push(listener);
            self.set_deadline(listener, ACCEPT_BACK_OFF);
        }
    }

    pub(super) fn wake_listeners(&mut self) {
        for listener in std::mem::take(&mut self.resting_listeners) {
            self.clear_deadline(listener);
            if let Some(fd) = self.fd(listener) {
                if self.reserve.is_none() {
                    self.reserve = reserve_descriptor();
                }
                if self.is_paused(listener) {
                    continue;
                }
                if self.poller.accept(listener, fd).is_err() {
                    self.resting_listeners.push(listener);
                    self.set_deadline(listener, ACCEPT_BACK_OFF);
                }
            }
        }
    }
}

/// A descriptor kept in reserve for the moment there is no other (see `rest_listener`).
pub(super) fn reserve_descriptor() -> Option<OwnedFd> {
    // SAFETY: a literal path; the result is checked.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first descriptor that is one of the process's last.
pub(super) fn short_from() -> RawFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local of the right type.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    match RawFd::try_from(limit.rlim_cur) {
        // A process that may have few keeps fewer back.
        Ok(most) if outcome == 0 => most - SPARED_DESCRIPTORS.min(most / 8),
        _ => RawFd::MAX,
    }
}

/// One connection out of the kernel's queue of a listener that accepts no more, if there is one.
pub(super) fn accept_waiting(listener: RawFd) -> Option<OwnedFd> {
    const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers ask for no address.
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), FLAGS) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
