//! The EventLoop turns: flush, wait, dispatch. It owns the poller, the channels, the timer wheel and the mailbox,
//! and nobody else touches them.
//!
//! It is split in two so that a service can act while it is being told: `Io` is what a service may use, and
//! `EventLoop` adds what only the loop needs (the list of completions, the mailbox).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffer::{BufferPool, Lease, Owner, SegmentQueue};
use super::channel::{Channel, ChannelKind, Opened};
use super::gate;
use super::mailbox::{MailSender, Mailbox};
use super::poller::{Completion, Poller, Readiness, SendOutcome};
use super::shared::SharedRow;
use super::slab::Slab;
use super::timer::{Links, TICK, TimerLink, TimerWheel};
use super::token::Token;
use super::wide_sockets::WideSockets;
use crate::metrics::{Gauge, ReactorCounters};

/// Above this a service should stop producing for a connection ...
pub const HIGH_WATERMARK_BYTES: usize = 64 * 1024;
/// ... until `drained` tells it that this little is left.
pub const LOW_WATERMARK_BYTES: usize = 16 * 1024;
/// How long a politely closed connection may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// How long a listener rests after the process ran out of descriptors, unless a connection closes before.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long a listener whose gate is shut waits for the rest of handshakes that were under way: a round trip.
const HANDSHAKE_TIME: Duration = Duration::from_millis(100);
/// Descriptors below a process's limit that are not for connections where others can have those: what the application
/// opens is to find some, and what one turn accepts is not to meet the limit.
const SPARED_DESCRIPTORS: RawFd = 64;
/// So many output queues let go of within a turn (a frame to everybody) leave the allocator with more than all those
/// connections cost otherwise, in pieces that it keeps: they are given back.
const CROWD_OF_QUEUES: usize = 4096;
/// How often that is worth looking through the heap: a few milliseconds, but tens of them where an application has half
/// a gigabyte there.
const GIVES_BACK_EVERY: Duration = Duration::from_secs(60);
/// What one turn takes out of the mailbox, so that busy senders do not hold up the connections.
const MAX_MAIL_PER_TURN: usize = 1024;
/// What a listener that is removed may leave in the kernel's queue: the largest backlog there is.
const MAX_BACKLOG: usize = 65_535;

/// Why a connection came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The service closed it, and its output has left.
    Finished,
    /// The service cut it off: the peer is sent a reset, so that it takes nothing cut short for whole.
    Aborted,
    /// The peer reset it or vanished, with this errno.
    Failed(i32),
}

/// A reactor's counters, in memory that other processes may share.
pub type Shard = SharedRow<ReactorCounters>;

/// Why a connection was closed, where the way in which it was does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cause {
    #[default]
    Untold,
    /// It was silent for too long.
    Silent,
    /// Its peer did not take what was sent.
    Stalled,
}

/// Who has a listener's socket when it is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Perhaps another process: it goes on letting peers in.
    Shared,
    /// This reactor alone: nobody is let in any more.
    Last,
}

/// What a reactor serves: told what happened, it acts through [`Io`]. All calls are on the reactor's thread,
/// while the interpreter (if any) is detached.
pub trait Service {
    /// Its state in an idle connection's slot; small, see `Channel`.
    type Connection: Default;
    /// What other threads may send it.
    type Mail: Send;

    /// A listener of this reactor accepted a connection. (`listener` may be one just removed.)
    fn accepted(&mut self, io: &mut Io<Self::Connection>, listener: Token, fd: OwnedFd);
    /// Bytes arrived; the lease is good until `settle` gives it up. Not told after `Io::close`.
    fn received(&mut self, io: &mut Io<Self::Connection>, token: Token, lease: Lease);
    /// The peer will send no more. Not told after `Io::close`.
    fn ended(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// The output fell to the low watermark, after `Io::want_drained`.
    fn drained(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// A send could not take everything: the peer does not read, or not as fast. Told once until `unblocked`.
    fn blocked(&mut self, _io: &mut Io<Self::Connection>, _token: Token) {}
    /// What was blocked has left, all of it. Not told after `Io::close`.
    fn unblocked(&mut self, _io: &mut Io<Self::Connection>, _token: Token) {}
    /// The deadline passed.
    fn expired(&mut self, io: &mut Io<Self::Connection>, token: Token);
    /// The connection is gone; the last call for it. `token` is stale already.
    fn closed(&mut self, io: &mut Io<Self::Connection>, token: Token, state: Self::Connection, reason: CloseReason);
    /// A watched descriptor is ready.
    fn ready(&mut self, io: &mut Io<Self::Connection>, token: Token, readiness: Readiness);
    fn mail(&mut self, io: &mut Io<Self::Connection>, mail: Self::Mail);
    /// Give up the leases of earlier turns, copying what must outlive them; false while some are still wanted, or there
    /// is other unfinished business (the arena then fills on, and the turn does not sleep).
    fn settle(&mut self, io: &mut Io<Self::Connection>) -> bool;
    /// What was flushed has been given to the kernel: time to measure what began long ago. `now`, if somebody has looked;
    /// `Io::clock` tells otherwise. Only while `Io::measures`.
    fn flushed(&mut self, _io: &mut Io<Self::Connection>, _now: Option<Instant>) {}
}

/// One connection, for whoever looks at many.
pub struct Glance<'a, C> {
    pub token: Token,
    pub fd: RawFd,
    /// To the second.
    pub age: Duration,
    pub queued_bytes: usize,
    /// The kernel has no room for what is to be sent.
    pub is_sending: bool,
    pub is_closing: bool,
    pub state: &'a C,
}

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
    const MAX_FREE_QUEUES: usize = 256;
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
            reserve: reserve_descriptor(),
            short_from: short_from(),
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
    fn end_of_shut(&mut self, token: Token) {
        self.shut_listeners -= 1;
        self.begin_leaving(token);
    }

    /// Accept no more; what the poller has accepted by now comes with the next turn.
    fn begin_leaving(&mut self, token: Token) {
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

    fn look_at_descriptor(&mut self, newest: RawFd) {
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

    fn close_listener(&mut self, token: Token) {
        if let Some(fd) = self.fd(token) {
            self.poller.forget(token, fd);
            // It may hang there since it rested.
            self.wheel.unlink(&mut self.channels, token.index);
            self.channels.remove(token);
            close_descriptor(fd);
        }
    }

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

    fn end(&mut self, token: Token, reason: CloseReason) {
        if let Some(channel) = self.channels.get_mut(token).filter(|channel| !channel.flags.closed) {
            channel.flags.closed = true;
            self.closed.push_back((token, reason));
        }
    }

    /// Offer a connection's output to the kernel, in one system call. True: it could not take everything.
    fn send_output(&mut self, token: Token) -> bool {
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
        if self.free_queues.len() < Self::MAX_FREE_QUEUES {
            self.free_queues.push(queue);
        } else {
            self.dropped_queues += 1;
        }
    }

    #[cold]
    fn give_memory_back(&mut self) {
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
    fn take_drained(&mut self, token: Token) -> bool {
        let Some(channel) = self.channels.get_mut(token) else { return false };
        let drained =
            channel.flags.wants_drained && !channel.flags.closed && channel.queued_bytes() <= LOW_WATERMARK_BYTES;
        if drained {
            channel.flags.wants_drained = false;
        }
        drained
    }

    /// Take a closed channel out of everything it is in.
    fn remove(&mut self, token: Token, reason: CloseReason) -> Option<C> {
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

    /// Out of descriptors: refuse one waiting peer with the reserve (it learns at once instead of hanging), then
    /// let the listener rest, or its level-triggered readiness would spin.
    fn rest_listener(&mut self, listener: Token) {
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

    fn wake_listeners(&mut self) {
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

/// A descriptor kept in reserve for the moment there is no other (see `rest_listener`).
fn reserve_descriptor() -> Option<OwnedFd> {
    // SAFETY: a literal path; the result is checked.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first descriptor that is one of the process's last.
fn short_from() -> RawFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local of the right type.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    match RawFd::try_from(limit.rlim_cur) {
        // A process that may have few keeps fewer back.
        Ok(most) if outcome == 0 => most - SPARED_DESCRIPTORS.min(most / 8),
        _ => RawFd::MAX,
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

/// One connection out of the kernel's queue of a listener that accepts no more, if there is one.
fn accept_waiting(listener: RawFd) -> Option<OwnedFd> {
    const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers ask for no address.
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), FLAGS) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
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
        for fd in std::iter::from_fn(|| accept_waiting(raw)).take(MAX_BACKLOG) {
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
