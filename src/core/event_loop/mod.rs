//! The EventLoop turns: flush, wait, dispatch. It owns the poller, the channels, the timer wheel and the mailbox,
//! and nobody else touches them.
//!
//! It is split in two so that a service can act while it is being told: `Io` is what a service may use, and
//! `EventLoop` adds what only the loop needs (the list of completions, the mailbox). What `Io` does with connections
//! and with listeners has a file each; what a service is, a third.

mod connections;
mod listening;
mod service;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::buffer::{BufferPool, Lease, Owner, SegmentQueue};
use crate::core::channel::{Channel, ChannelKind};
use crate::core::mailbox::{MailSender, Mailbox};
use crate::core::poller::{Completion, Poller, Readiness};
use crate::core::shared::SharedRow;
use crate::core::slab::Slab;
use crate::core::timer::{Links, TICK, TimerLink, TimerWheel};
use crate::core::token::Token;
use crate::core::wide_sockets::WideSockets;
use crate::metrics::{Gauge, ReactorCounters};

/// So many output queues let go of within a turn (a frame to everybody) leave the allocator with more than all those
/// connections cost otherwise, in pieces that it keeps: they are given back.
const CROWD_OF_QUEUES: usize = 4096;
/// What one turn takes out of the mailbox, so that busy senders do not hold up the connections.
const MAX_MAIL_PER_TURN: usize = 1024;
/// What a listener that is removed may leave in the kernel's queue: the largest backlog there is.
const MAX_BACKLOG: usize = 65_535;

pub use self::service::{Cause, CloseReason, Glance, HIGH_WATERMARK_BYTES, Hold, LOW_WATERMARK_BYTES, Service};

/// A reactor's counters, in memory that other processes may share.
pub type Shard = SharedRow<ReactorCounters>;

/// What a service may do with its reactor.
pub struct Io<C> {
    poller: Box<dyn Poller>,
    channels: Slab<Channel<C>>,
    wheel: TimerWheel,
    dirty: Vec<Token>,
    closed: VecDeque<(Token, CloseReason)>,
    buffers: BufferPool,
    /// Boxed, as channels hold them: a slot has room for a pointer only.
    #[expect(clippy::vec_box)]
    free_queues: Vec<Box<SegmentQueue>>,
    /// Queues dropped since the turn before flushed, and when memory was given back.
    dropped_queues: usize,
    gave_back: Option<Instant>,
    released: Vec<Owner>,
    wide: WideSockets,
    connections: usize,
    lingering: usize,
    resting_listeners: Vec<Token>,
    /// Removed listeners, to be closed at the end of the next turn.
    leaving_listeners: Vec<Token>,
    /// Listeners whose gate is shut, before they leave.
    shut_listeners: usize,
    reserve: Option<OwnedFd>,
    /// The kernel hands out the lowest free number, so one from here on tells that few are left.
    short_from: RawFd,
    is_short: bool,
    started: Instant,
    now: Instant,
    /// Within a turn, between the wait and its end, `now` is as good as the clock.
    now_is_fresh: bool,
    load: Arc<Gauge>,
    /// The end of the last wait.
    woke: Instant,
    /// Durations are measured, and levels told.
    pub measures: bool,
    pub counters: Shard,
}

impl<C> Links for Slab<Channel<C>> {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        &mut self.at_mut(index).expect("only present channels hang in the wheel").timer
    }
}

impl<C: Default> Io<C> {
    const FITS: () = assert!(Slab::<Channel<C>>::SLOT_BYTES <= 128, "an idle connection's slot is at most 128 bytes");

    fn new(poller: Box<dyn Poller>, counters: Shard) -> Self {
        let () = Self::FITS;
        let now = poller.now();
        Io {
            poller,
            channels: Slab::default(),
            wheel: TimerWheel::default(),
            dirty: Vec::new(),
            closed: VecDeque::new(),
            buffers: BufferPool::default(),
            free_queues: Vec::new(),
            dropped_queues: 0,
            gave_back: None,
            released: Vec::new(),
            wide: WideSockets::default(),
            connections: 0,
            lingering: 0,
            resting_listeners: Vec::new(),
            leaving_listeners: Vec::new(),
            shut_listeners: 0,
            reserve: listening::reserve_descriptor(),
            short_from: listening::short_from(),
            is_short: false,
            started: now,
            now,
            now_is_fresh: false,
            load: Arc::default(),
            woke: now,
            measures: false,
            counters,
        }
    }

    /// The time of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The time of this very moment, at the cost of a look at the clock.
    pub fn clock(&self) -> Instant {
        self.poller.now()
    }

    /// The time that has passed on the wheel's clock.
    fn elapsed(&self) -> Duration {
        self.now.duration_since(self.started)
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Open connections that have said everything and only wait for the peer to notice.
    pub fn lingering(&self) -> usize {
        self.lingering
    }

    /// Open connections, for other threads to look at. Whoever sends one here counts it from then on.
    pub fn load(&self) -> &Arc<Gauge> {
        &self.load
    }

    pub fn poller_name(&self) -> &'static str {
        self.poller.name()
    }

    /// Be told when somebody else's descriptor is ready. It must stay open until `unwatch`.
    pub fn watch(&mut self, fd: RawFd, interest: Readiness) -> io::Result<Token> {
        let token = self.channels.insert(Channel::new(fd, ChannelKind::Watch, C::default()));
        self.poller.watch(token, fd, interest).inspect_err(|_| {
            self.channels.remove(token);
        })?;
        Ok(token)
    }

    /// Replace what a watch waits for.
    pub fn rewatch(&mut self, token: Token, interest: Readiness) -> io::Result<()> {
        match self.channels.get(token) {
            Some(channel) => self.poller.watch(token, channel.fd, interest),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    pub fn unwatch(&mut self, token: Token) {
        if let Some(fd) = self.fd(token) {
            self.poller.forget(token, fd);
            self.wheel.unlink(&mut self.channels, token.index);
            self.channels.remove(token);
        }
    }

    /// The descriptor of a present channel.
    pub fn fd(&self, token: Token) -> Option<RawFd> {
        self.channels.get(token).map(|channel| channel.fd)
    }

    /// Call `expired` when `after` has passed, unless set anew or cleared before.
    pub fn set_deadline(&mut self, token: Token, after: Duration) {
        if self.channels.get(token).is_some() {
            if !self.now_is_fresh {
                // Whoever acts between turns may have been at it for long, and the peer is not to pay for that.
                self.now = self.poller.now();
            }
            let tick = TimerWheel::tick_after(self.elapsed().saturating_add(after));
            self.wheel.set(&mut self.channels, token.index, tick);
        }
    }

    /// How long until `expired`, to the tick; `None` without a deadline.
    pub fn time_left(&mut self, token: Token) -> Option<Duration> {
        self.channels.get(token)?;
        let tick = self.wheel.deadline(&mut self.channels, token.index)?;
        Some((TICK * tick).saturating_sub(self.elapsed()))
    }

    pub fn clear_deadline(&mut self, token: Token) {
        if self.channels.get(token).is_some() {
            self.wheel.clear(&mut self.channels, token.index);
        }
    }

    /// About to wait: what the reactor has. Returns the time.
    fn tell_levels(&mut self) -> Instant {
        let (now, counters) = (self.poller.now(), &*self.counters);
        let worked = now.saturating_duration_since(self.woke);
        counters.turn_ns.record_duration(worked);
        counters.busy_ns.add(worked.as_nanos() as u64);
        counters.connections.set(self.connections as u64);
        counters.lingering.set(self.lingering as u64);
        counters.timers.set(self.wheel.len() as u64);
        counters.spare_buffers.set(self.buffers.len() as u64);
        now
    }
}

impl<C> Drop for Io<C> {
    fn drop(&mut self) {
        self.load.subtract(self.connections);
        for token in self.channels.tokens() {
            if let Some(channel) = self.channels.remove(token) {
                self.poller.forget(token, channel.fd);
                if matches!(channel.kind, ChannelKind::Connection | ChannelKind::Listener) {
                    close_descriptor(channel.fd);
                }
            }
        }
    }
}

fn close_descriptor(fd: RawFd) {
    // SAFETY: called once for a descriptor that its channel owned.
    unsafe { libc::close(fd) };
}

/// A reactor's loop around one service.
pub struct EventLoop<S: Service> {
    pub io: Io<S::Connection>,
    pub service: S,
    completions: Vec<Completion>,
    due: Vec<u32>,
    mailbox: Mailbox<S::Mail>,
}

impl<S: Service> EventLoop<S> {
    pub fn new(poller: Box<dyn Poller>, service: S) -> io::Result<Self> {
        Self::counting_in(poller, service, Shard::alone())
    }

    /// The same, with counters that somebody else can see.
    pub fn counting_in(poller: Box<dyn Poller>, service: S, counters: Shard) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        let mut io = Io::new(poller, counters);
        let channel = Channel::new(mailbox.fd(), ChannelKind::Mailbox, S::Connection::default());
        let token = io.channels.insert(channel);
        io.poller.watch(token, mailbox.fd(), Readiness { readable: true, writable: false })?;
        Ok(EventLoop { io, service, completions: Vec::new(), due: Vec::new(), mailbox })
    }

    /// How other threads reach this loop.
    pub fn mail_sender(&self) -> MailSender<S::Mail> {
        self.mailbox.sender()
    }

    /// One turn: flush what is dirty, sleep until something happens (at most `timeout`), tell the service.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush();
        self.io.counters.turns.add(1);
        let mut timeout = self.bounded(timeout);
        if self.service.settle(&mut self.io) {
            self.io.poller.recycle();
        } else {
            timeout = Some(Duration::ZERO);
        }
        if std::mem::take(&mut self.io.dropped_queues) >= CROWD_OF_QUEUES {
            self.io.give_memory_back();
        }
        let leaving_listeners = std::mem::take(&mut self.io.leaving_listeners);
        let rests = self.io.measures.then(|| self.io.tell_levels());
        if rests.is_some() {
            self.service.flushed(&mut self.io, rests);
        }
        let mut completions = std::mem::take(&mut self.completions);
        let waited = self.io.poller.wait(timeout, &mut completions);
        (self.io.now, self.io.now_is_fresh) = (self.io.poller.now(), true);
        if let Some(rests) = rests {
            self.io.woke = self.io.now;
            self.io.counters.waiting_ns.add(self.io.now.saturating_duration_since(rests).as_nanos() as u64);
        }
        self.io.counters.completions.add(completions.len() as u64);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        for listener in leaving_listeners {
            self.see_off(listener);
        }
        self.sweep();
        self.flush();
        if self.io.measures {
            self.service.flushed(&mut self.io, None);
        }
        self.io.now_is_fresh = false;
        waited
    }

    /// Sleep no longer than to the next deadline, and not at all when the last flush left work.
    fn bounded(&self, timeout: Option<Duration>) -> Option<Duration> {
        let io = &self.io;
        if !io.dirty.is_empty() || !io.closed.is_empty() || !io.leaving_listeners.is_empty() || io.poller.has_left() {
            return Some(Duration::ZERO);
        }
        let next = self.io.wheel.next_tick().map(|tick| (TICK * tick).saturating_sub(self.io.elapsed()));
        match (timeout, next) {
            (Some(timeout), Some(next)) => Some(timeout.min(next)),
            (timeout, next) => timeout.or(next),
        }
    }

    /// Send what is dirty and bury what is closed.
    pub fn flush(&mut self) {
        if !self.io.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.io.dirty);
            for token in dirty.drain(..) {
                self.flush_one(token);
            }
            // What was made dirty meanwhile keeps its place in the new list; else keep the larger allocation.
            if self.io.dirty.is_empty() {
                self.io.dirty = dirty;
            }
        }
        while let Some((token, reason)) = self.io.closed.pop_front() {
            if let Some(state) = self.io.remove(token, reason) {
                self.service.closed(&mut self.io, token, state, reason);
            }
        }
    }

    fn flush_one(&mut self, token: Token) {
        if self.io.send_output(token) {
            self.service.blocked(&mut self.io, token);
        }
        self.tell_if_drained(token);
    }

    fn tell_if_drained(&mut self, token: Token) {
        if self.io.take_drained(token) {
            self.service.drained(&mut self.io, token);
        }
    }

    /// Close everything, telling nobody; returns the owners of what was never sent.
    pub fn shut_down(&mut self) -> Vec<Owner> {
        for token in self.io.connection_tokens() {
            // What the kernel has of a response may still arrive; what we have never will.
            let is_whole = self.io.queued_bytes(token) == 0;
            self.io.end(token, if is_whole { CloseReason::Finished } else { CloseReason::Aborted });
        }
        while let Some((token, reason)) = self.io.closed.pop_front() {
            self.io.remove(token, reason);
        }
        std::mem::take(&mut self.io.released)
    }

    /// What becomes readable when a turn would find something: the poller's own descriptor, if it has one.
    pub fn poll_fd(&self) -> Option<RawFd> {
        self.io.poller.poll_fd()
    }

    /// How long a turn has nothing to do, unless `poll_fd` says so before; `None`: for ever.
    pub fn patience(&mut self) -> Option<Duration> {
        self.io.now = self.io.poller.now();
        self.bounded(None)
    }

    /// In a forked child, whose loop it is not: close its descriptors, and touch nothing that the parent has, too.
    pub fn abandon(self) {
        let EventLoop { mut io, mailbox, .. } = self;
        let own = |kind| matches!(kind, ChannelKind::Connection | ChannelKind::Listener);
        for token in io.channels.tokens() {
            if let Some(channel) = io.channels.remove(token).filter(|channel| own(channel.kind)) {
                close_descriptor(channel.fd);
            }
        }
        io.reserve = None;
        if let Some(fd) = io.poller.poll_fd() {
            close_descriptor(fd);
        }
        drop(mailbox);
        // Its poller would close its descriptor once more.
        std::mem::forget(io);
    }

    /// The last of a listener: what peers believe accepted is taken, and the descriptor closed.
    fn see_off(&mut self, listener: Token) {
        let Some(raw) = self.io.fd(listener) else { return };
        for fd in std::iter::from_fn(|| listening::accept_waiting(raw)).take(MAX_BACKLOG) {
            self.dispatch(Completion::Accepted { listener, fd });
        }
        self.io.close_listener(listener);
    }

    fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { listener, fd } => {
                self.io.counters.connections_accepted.add(1);
                self.io.look_at_descriptor(fd.as_raw_fd());
                self.service.accepted(&mut self.io, listener, fd);
            }
            Completion::AcceptFailed { listener, .. } => {
                self.io.counters.accept_failures.add(1);
                self.io.rest_listener(listener);
            }
            Completion::Received { token, lease } => self.dispatch_received(token, lease),
            Completion::Ended { token } => self.dispatch_ended(token),
            Completion::Sent { token, bytes } => self.dispatch_sent(token, bytes),
            Completion::Failed { token, errno } => match self.io.channels.get_mut(token) {
                Some(channel) if channel.flags.lingering => self.io.end(token, CloseReason::Finished),
                Some(_) => self.io.end(token, CloseReason::Failed(errno)),
                None => self.io.counters.stale_completions.add(1),
            },
            Completion::Ready { token, readiness } => self.dispatch_ready(token, readiness),
        }
    }

    fn dispatch_received(&mut self, token: Token, lease: Lease) {
        match self.io.channels.get_mut(token) {
            Some(channel) if channel.flags.closed || channel.flags.closing => {}
            Some(_) => {
                self.io.counters.bytes_received.add(lease.len() as u64);
                self.service.received(&mut self.io, token, lease);
            }
            None => self.io.counters.stale_completions.add(1),
        }
    }

    fn dispatch_ended(&mut self, token: Token) {
        match self.io.channels.get_mut(token) {
            Some(channel) if channel.flags.closed => {}
            Some(channel) => {
                channel.flags.ended = true;
                if channel.flags.lingering {
                    self.io.end(token, CloseReason::Finished);
                } else if !channel.flags.closing {
                    self.service.ended(&mut self.io, token);
                }
            }
            None => self.io.counters.stale_completions.add(1),
        }
    }

    fn dispatch_sent(&mut self, token: Token, bytes: usize) {
        let Some(channel) = self.io.channels.get_mut(token) else { return self.io.counters.stale_completions.add(1) };
        channel.flags.sending = false;
        channel.count_progress(bytes);
        if let Some(queue) = &mut channel.output {
            self.io.counters.bytes_sent.add(bytes as u64);
            queue.advance(bytes, &mut self.io.buffers, &mut self.io.released);
            if let Some((sent, left)) = queue.file_under_way() {
                self.io.wide.sent(token, channel.fd, sent, left);
            }
        }
        let is_still_blocked = self.io.send_output(token);
        self.tell_if_drained(token);
        if !is_still_blocked && !self.io.is_closing(token) {
            self.service.unblocked(&mut self.io, token);
        }
    }

    fn dispatch_ready(&mut self, token: Token, readiness: Readiness) {
        match self.io.channels.get(token).map(|channel| channel.kind) {
            Some(ChannelKind::Mailbox) => {
                self.mailbox.heard();
                self.take_mail();
            }
            Some(_) => self.service.ready(&mut self.io, token, readiness),
            None => self.io.counters.stale_completions.add(1),
        }
    }

    /// Tell the service what other threads have sent by now, up to a turn's share.
    pub fn take_mail(&mut self) {
        for _ in 0..MAX_MAIL_PER_TURN {
            let Some(mail) = self.mailbox.take() else { return };
            self.service.mail(&mut self.io, mail);
        }
        self.mailbox.sender().wake();
    }

    fn sweep(&mut self) {
        let now = TimerWheel::tick_at(self.io.elapsed());
        let mut due = std::mem::take(&mut self.due);
        self.io.wheel.sweep(&mut self.io.channels, now, &mut due);
        for index in due.drain(..) {
            let Some(token) = self.io.channels.token_at(index) else { continue };
            let Some(channel) = self.io.channels.get(token) else { continue };
            match channel.kind {
                ChannelKind::Listener if channel.flags.closing => self.io.end_of_shut(token),
                ChannelKind::Listener => self.io.wake_listeners(),
                _ if channel.flags.lingering => self.io.end(token, CloseReason::Finished),
                _ if channel.flags.closed => {}
                _ => {
                    self.service.expired(&mut self.io, token);
                    let has_closed = self.io.is_closing(token);
                    self.io.counters.connections_expired.add(u64::from(has_closed));
                }
            }
        }
        self.due = due;
    }
}
