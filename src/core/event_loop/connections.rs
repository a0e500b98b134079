//! Connections: what they are sent, how they are paused and timed, and how they end.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Cause, CloseReason, Glance, Io, LOW_WATERMARK_BYTES, close_descriptor};
use crate::core::buffer::{BufferPool, Owner, SegmentQueue};
use crate::core::channel::{Channel, ChannelKind, Opened};
use crate::core::poller::SendOutcome;
use crate::core::token::Token;

/// How long a politely closed connection may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// How often that is worth looking through the heap: a few milliseconds, but tens of them where an application has half
/// a gigabyte there.
const GIVES_BACK_EVERY: Duration = Duration::from_secs(60);
/// Output queues that are kept for the next who need one.
const MAX_FREE_QUEUES: usize = 256;

impl<C: Default> Io<C> {
    /// Take a connected, non-blocking stream socket, and start receiving from it.
    pub fn add_connection(&mut self, fd: OwnedFd, state: C) -> io::Result<Token> {
        let raw = fd.as_raw_fd();
        let opened = Opened::at(self.elapsed());
        let token = self.channels.insert(Channel { opened, ..Channel::new(raw, ChannelKind::Connection, state) });
        match self.poller.receive(token, raw) {
            Ok(()) => {
                let _ = fd.into_raw_fd();
                self.connections += 1;
                self.load.add(1);
                Ok(token)
            }
            Err(error) => {
                self.channels.remove(token);
                Err(error)
            }
        }
    }

    /// The service's state of an open connection; `None` once it is closed.
    pub fn state(&mut self, token: Token) -> Option<&mut C> {
        self.channels.get_mut(token).filter(|channel| !channel.flags.closed).map(|channel| &mut channel.state)
    }

    /// Every open connection, for the rare sweeps.
    pub fn connection_tokens(&self) -> Vec<Token> {
        let mut tokens = self.channels.tokens();
        tokens.retain(|&token| {
            self.channels.get(token).is_some_and(|c| c.kind == ChannelKind::Connection && !c.flags.closed)
        });
        tokens
    }

    /// Slots that connections can have, by their index: all are below this.
    pub fn slots(&self) -> u32 {
        self.channels.touched()
    }

    /// The open connection in this slot, if there is one, as it is now.
    pub fn glance(&self, index: u32) -> Option<Glance<'_, C>> {
        let token = self.channels.token_at(index)?;
        let channel = self.channels.get(token)?;
        let is_open = channel.kind == ChannelKind::Connection && !channel.flags.closed;
        is_open.then(|| Glance {
            token,
            fd: channel.fd,
            age: channel.opened.age(self.elapsed()),
            queued_bytes: channel.queued_bytes(),
            is_sending: channel.flags.sending,
            is_closing: channel.flags.closing || channel.flags.lingering,
            state: &channel.state,
        })
    }

    /// Append to a connection's output; it leaves with this turn's flush. `None`: the connection is closed.
    pub fn append_with<R>(&mut self, token: Token, write: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
        let (queue, buffers) = self.output(token)?;
        Some(queue.append_with(buffers, write))
    }

    /// Append foreign bytes without copying them. Hands the owner back when the connection takes nothing.
    ///
    /// # Safety
    /// `owner` must keep `bytes` alive and unchanged until it comes back through `take_released`.
    pub unsafe fn append_borrowed(&mut self, token: Token, bytes: &[u8], owner: Owner) {
        match self.output(token) {
            // SAFETY: the caller's promise is the queue's.
            Some((queue, _)) => unsafe { queue.push_borrowed(bytes, owner) },
            None => self.released.push(owner),
        }
    }

    /// Append bytes that many connections are sent, without copying them.
    pub fn append_shared(&mut self, token: Token, bytes: &Arc<[u8]>) {
        if let Some((queue, _)) = self.output(token) {
            queue.push_shared(bytes.clone());
        }
    }

    /// Append a range of a regular file; its descriptor is closed when the range has left, or never will.
    pub fn append_file(&mut self, token: Token, file: Arc<OwnedFd>, offset: u64, bytes: usize) {
        if let Some((queue, _)) = self.output(token) {
            queue.push_file(file, offset, bytes);
        }
    }

    fn output(&mut self, token: Token) -> Option<(&mut SegmentQueue, &mut BufferPool)> {
        let channel =
            self.channels.get_mut(token).filter(|channel| !channel.flags.closed && !channel.flags.output_ends)?;
        mark_dirty(&mut self.dirty, token, channel);
        let queue = channel.output.get_or_insert_with(|| self.free_queues.pop().unwrap_or_default());
        Some((queue, &mut self.buffers))
    }

    /// Bytes that a connection still has to send.
    pub fn queued_bytes(&self, token: Token) -> usize {
        self.channels.get(token).map_or(0, Channel::queued_bytes)
    }

    /// Bytes sent since this was last asked (at most 4 GiB are counted).
    pub fn take_progress_bytes(&mut self, token: Token) -> u64 {
        self.channels.get_mut(token).map_or(0, |channel| u64::from(std::mem::take(&mut channel.progress_bytes)))
    }

    /// Whether a send is waiting for the peer to make room.
    pub fn is_blocked(&self, token: Token) -> bool {
        self.channels.get(token).is_some_and(|channel| channel.flags.sending)
    }

    /// Whether reading was paused.
    pub fn is_paused(&self, token: Token) -> bool {
        self.channels.get(token).is_some_and(|channel| channel.flags.paused)
    }

    /// Tell the service once, through `drained`, when the output is low again; with the next flush if it is already.
    pub fn want_drained(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token) {
            channel.flags.wants_drained = true;
            mark_dirty(&mut self.dirty, token, channel);
        }
    }

    /// Ask for no more bytes of a connection; some may still be on their way.
    pub fn pause(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.paused) {
            channel.flags.paused = true;
            if !channel.flags.ended && !channel.flags.closed {
                self.poller.pause(token, channel.fd);
            }
        }
    }

    /// Undo `pause`.
    pub fn resume(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| channel.flags.paused) {
            channel.flags.paused = false;
            if !channel.flags.ended
                && !channel.flags.closed
                && let Err(error) = self.poller.receive(token, channel.fd)
            {
                self.end(token, CloseReason::Failed(error.raw_os_error().unwrap_or(libc::EIO)));
            }
        }
    }

    /// Close once the output has left. With unread input on its way, politely: see `flags.lingering`.
    pub fn close(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.closed) {
            channel.flags.closing = true;
            mark_dirty(&mut self.dirty, token, channel);
        }
    }

    /// End our side once the output has left, and go on receiving. What is appended from now on is refused.
    pub fn end_output(&mut self, token: Token) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.closed) {
            channel.flags.output_ends = true;
            mark_dirty(&mut self.dirty, token, channel);
        }
    }

    /// Whether `end_output` was called, or nothing can be sent anyway.
    pub fn has_output_ended(&self, token: Token) -> bool {
        self.channels.get(token).is_none_or(|channel| channel.flags.output_ends || channel.flags.closed)
    }

    /// Whether `close` was called, or the connection is gone.
    pub fn is_closing(&self, token: Token) -> bool {
        self.channels.get(token).is_none_or(|channel| channel.flags.closing || channel.flags.closed)
    }

    /// Have a connection that is about to be closed counted under this cause.
    pub fn note_cause(&mut self, token: Token, cause: Cause) {
        if let Some(channel) = self.channels.get_mut(token) {
            channel.flags.cause = cause;
        }
    }

    /// Close an idle connection, on which nothing is unsent and nothing on its way.
    pub fn close_idle(&mut self, token: Token) {
        self.end(token, CloseReason::Finished);
    }

    /// Cut the connection off: what is unsent is thrown away.
    pub fn abort(&mut self, token: Token) {
        self.end(token, CloseReason::Aborted);
    }

    /// Owners whose bytes have left, or never will.
    pub fn take_released(&mut self) -> &mut Vec<Owner> {
        &mut self.released
    }

    pub(super) fn end(&mut self, token: Token, reason: CloseReason) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.closed) {
            channel.flags.closed = true;
            self.closed.push_back((token, reason));
        }
    }

    /// Offer a connection's output to the kernel, in one system call. True: it could not take everything.
    pub(super) fn send_output(&mut self, token: Token) -> bool {
        let Some(channel) = self.channels.get_mut(token) else { return false };
        channel.flags.dirty = false;
        if channel.flags.closed || channel.flags.sending {
            return false;
        }
        if let Some(mut queue) = channel.output.take_if(|queue| queue.is_empty()) {
            self.wide.emptied(token, channel.fd);
            queue.clear(&mut self.buffers, &mut self.released);
            self.keep_queue(queue);
        } else if let Some(queue) = &mut channel.output {
            match self.poller.send(token, channel.fd, queue) {
                Ok(SendOutcome::Done(bytes)) => {
                    self.counters.bytes_sent.add(bytes as u64);
                    queue.advance(bytes, &mut self.buffers, &mut self.released);
                    self.wide.emptied(token, channel.fd);
                    if let Some(queue) = channel.output.take() {
                        self.keep_queue(queue);
                    }
                }
                Ok(SendOutcome::Blocked(bytes)) => {
                    self.counters.bytes_sent.add(bytes as u64);
                    self.counters.sends_blocked.add(1);
                    queue.advance(bytes, &mut self.buffers, &mut self.released);
                    queue.begin_flight();
                    channel.flags.sending = true;
                    channel.count_progress(bytes);
                    return true;
                }
                // A file became shorter: the peer must not take what it got for whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.end(token, CloseReason::Aborted),
                Err(error) => self.end(token, CloseReason::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
        self.close_if_flushed(token);
        false
    }

    fn keep_queue(&mut self, queue: Box<SegmentQueue>) {
        if self.free_queues.len() < MAX_FREE_QUEUES {
            self.free_queues.push(queue);
        } else {
            self.dropped_queues += 1;
        }
    }

    #[cold]
    pub(super) fn give_memory_back(&mut self) {
        let is_due = |at: Instant| self.now.saturating_duration_since(at) >= GIVES_BACK_EVERY;
        if self.gave_back.is_none_or(is_due) {
            self.gave_back = Some(self.now);
            trim_heap();
        }
    }

    fn close_if_flushed(&mut self, token: Token) {
        let Some(channel) = self.channels.get_mut(token) else { return };
        if channel.flags.sending || channel.flags.lingering || channel.queued_bytes() > 0 {
            return;
        }
        if channel.flags.output_ends && !channel.flags.output_ended {
            channel.flags.output_ended = true;
            end_sending(channel.fd);
        }
        if !channel.flags.closing {
            return;
        }
        if channel.flags.ended {
            return self.end(token, CloseReason::Finished);
        }
        // A plain close with input unread makes the kernel send a reset, which can destroy the response on its
        // way (RFC 9112 section 9.6). So end our side, and read on until the peer ends its own.
        (channel.flags.lingering, channel.flags.output_ends) = (true, true);
        self.lingering += 1;
        if !std::mem::replace(&mut channel.flags.output_ended, true) {
            end_sending(channel.fd);
        }
        self.set_deadline(token, LINGER);
        self.resume(token);
    }

    /// Whether the service is to be told, now, that the output is low again.
    pub(super) fn take_drained(&mut self, token: Token) -> bool {
        let Some(channel) = self.channels.get_mut(token) else { return false };
        let drained =
            channel.flags.wants_drained && !channel.flags.closed && channel.queued_bytes() <= LOW_WATERMARK_BYTES;
        if drained {
            channel.flags.wants_drained = false;
        }
        drained
    }

    /// Take a closed channel out of everything it is in.
    pub(super) fn remove(&mut self, token: Token, reason: CloseReason) -> Option<C> {
        let fd = self.fd(token)?;
        self.poller.forget(token, fd);
        self.wide.emptied(token, fd);
        if reason == CloseReason::Aborted {
            reset_on_close(fd);
        }
        self.wheel.unlink(&mut self.channels, token.index);
        let mut channel = self.channels.remove(token)?;
        if let Some(mut queue) = channel.output.take() {
            queue.clear(&mut self.buffers, &mut self.released);
            self.keep_queue(queue);
        }
        close_descriptor(fd);
        self.is_short = false;
        self.connections -= 1;
        self.load.subtract(1);
        self.lingering -= usize::from(channel.flags.lingering);
        self.count_closed(channel.flags.cause, reason);
        self.wake_listeners();
        Some(channel.state)
    }

    fn count_closed(&self, cause: Cause, reason: CloseReason) {
        self.counters.connections_closed.add(1);
        let counter = match (cause, reason) {
            (_, CloseReason::Failed(_)) => &self.counters.connections_failed,
            (Cause::Silent, _) => &self.counters.connections_silent,
            (Cause::Stalled, _) => &self.counters.connections_stalled,
            (Cause::Untold, CloseReason::Aborted) => &self.counters.connections_aborted,
            (Cause::Untold, CloseReason::Finished) => &self.counters.connections_finished,
        };
        counter.add(1);
    }
}

/// Have a connection's output offered to the kernel by the next flush, unless it is listed, or waits for room.
fn mark_dirty<C>(dirty: &mut Vec<Token>, token: Token, channel: &mut Channel<C>) {
    if !channel.flags.dirty && !channel.flags.sending {
        channel.flags.dirty = true;
        dirty.push(token);
    }
}

/// Give free pages within the heap back to the system; what other allocators than glibc's do by themselves.
fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, and may be called at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn end_sending(fd: RawFd) {
    // SAFETY: a descriptor that its channel owns. It fails only if the connection is broken, which is told elsewhere.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Let a close send a reset. A plain one ends the stream in good order, and where the end of the connection is the end
/// of the message (HTTP/1.0) the peer would take a part for the whole.
fn reset_on_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: an open descriptor, and a live option of the length told. Other than TCP sockets know no reset.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length) };
}
