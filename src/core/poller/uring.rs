//! The UringPoller speaks to Linux's io_uring, whose completions the contract is made after: one multishot
//! accept a listener, one multishot receive a connection into buffers that the kernel picks from a ring, sends
//! that complete later. One `io_uring_enter` a turn submits everything and waits.
//!
//! It owns the ring, the buffers and every operation in flight. An operation lives until its last completion
//! has come; what is forgotten before is cancelled, and told apart by its descriptor's epoch. Operations take
//! hold of their file when they are submitted, at the latest by the next `wait` or `forget`, and only their
//! last completion lets go of it: so a descriptor must be forgotten before it is closed.
//!
//! The ring is bound to the thread that first waits. It needs Linux 6.0: the flag for a single issuer came
//! with multishot receives, so a kernel that takes the one has the other.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::calls::{concerns_one_connection, read_file, refuse_files};
use super::{Completion, Poller, Readiness, SendOutcome};
use crate::core::buffer::{Lease, Run, SegmentQueue};
use crate::core::token::Token;

/// Submissions that one system call can carry; more make another.
const SUBMISSIONS: u32 = 1024;
/// Completions that the ring holds; the kernel keeps more aside.
const COMPLETIONS: u32 = 4096;
/// What one turn can receive is this many buffers of this size.
const BUFFERS: u16 = 128;
const BUFFER_BYTES: usize = 16 * 1024;
const BUFFER_GROUP: u16 = 0;

/// The user data of cancellations, whose completions say nothing.
const CANCELLATION: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Accept,
    Receive,
    Send,
    Watch,
}

/// Something the kernel is doing.
struct Operation {
    kind: Kind,
    fd: RawFd,
    /// The channel's epoch when it began. A later one says that nobody waits for it any more.
    epoch: u32,
    /// What a send refers to besides the queue: only the kernel reads it.
    _flight: Flight,
}

enum Flight {
    /// One slice of the queue's, or no send at all.
    Plain,
    Message {
        _slices: Box<Message>,
    },
    /// Bytes of a file, read so that they can be sent.
    Read {
        _bytes: Vec<u8>,
    },
}

/// What a `sendmsg` in flight refers to.
struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; SegmentQueue::MAX_IOVECS],
}

// SAFETY: the pointers are the kernel's to follow; this side never does.
unsafe impl Send for Message {}

/// What a descriptor is wanted for, and what is in flight for it.
#[derive(Clone, Copy)]
struct Channel {
    token: Token,
    epoch: u32,
    /// The accept, receive or watch in flight.
    inward: u32,
    /// The send in flight.
    outward: u32,
    wants: Option<Kind>,
    interest: Readiness,
    has_ended: bool,
    has_failed: bool,
    /// A failure that waits for the send in flight to end, so that it is the last completion.
    held_failure: i32,
    is_open: bool,
}

impl Channel {
    const CLOSED: Channel = Channel {
        token: Token::new(0, 0),
        epoch: 0,
        inward: NONE,
        outward: NONE,
        wants: None,
        interest: Readiness { readable: false, writable: false },
        has_ended: false,
        has_failed: false,
        held_failure: 0,
        is_open: false,
    };
}

/// A completion as the kernel wrote it.
struct Told {
    user_data: u64,
    result: i32,
    flags: u32,
}

impl Told {
    fn is_last(&self) -> bool {
        !cqueue::more(self.flags)
    }
}

pub struct UringPoller {
    ring: IoUring,
    is_bound: bool,
    buffers: BufferRing,
    operations: Operations,
    /// By descriptor number.
    channels: Vec<Channel>,
    /// Told by the kernel, and not looked at yet.
    backlog: VecDeque<Told>,
    /// Descriptors (and their epochs) whose accept, receive or watch the next wait begins again ...
    renewals: Vec<(RawFd, u32)>,
    /// ... or the next recycle, because there was no buffer left.
    starved: Vec<(RawFd, u32)>,
}

impl UringPoller {
    pub fn new() -> io::Result<Self> {
        let ring = Self::set_up().map_err(|error| {
            let why = "io_uring is not to be had here (Linux before 6.0, or forbidden by a sandbox): use epoll";
            io::Error::new(error.kind(), format!("{why}: {error}"))
        })?;
        let buffers = BufferRing::register(&ring)?;
        Ok(UringPoller {
            ring,
            is_bound: false,
            buffers,
            operations: Operations::default(),
            channels: Vec::new(),
            backlog: VecDeque::new(),
            renewals: Vec::new(),
            starved: Vec::new(),
        })
    }

    /// A ring that runs its work only when its thread waits (Linux 6.1), or else only interrupts it less.
    fn set_up() -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_submit_all().setup_single_issuer().setup_r_disabled();
        let mut fallback = builder.clone();
        match builder.setup_defer_taskrun().build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                fallback.setup_coop_taskrun().build(SUBMISSIONS)
            }
            outcome => outcome,
        }
    }

    /// From now on the ring is this thread's.
    fn bind(&mut self) -> io::Result<()> {
        if !self.is_bound {
            self.ring.submitter().register_enable_rings()?;
            self.is_bound = true;
        }
        Ok(())
    }

    fn channel(&mut self, token: Token, fd: RawFd) -> Option<&mut Channel> {
        let channel = self.channels.get_mut(usize::try_from(fd).ok()?)?;
        (channel.is_open && channel.token == token).then_some(channel)
    }

    /// The channel of `fd` as `token`'s. What another token had in flight there is given up.
    fn open(&mut self, token: Token, fd: RawFd) -> io::Result<&mut Channel> {
        let number = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if number >= self.channels.len() {
            self.channels.resize(number + 1, Channel::CLOSED);
        }
        if self.channels[number].is_open && self.channels[number].token != token {
            self.close(number)?;
        }
        let channel = &mut self.channels[number];
        (channel.token, channel.is_open) = (token, true);
        Ok(channel)
    }

    /// Cancel what is in flight; nothing of this epoch is told any more.
    fn close(&mut self, number: usize) -> io::Result<()> {
        let Channel { inward, outward, epoch, .. } = self.channels[number];
        self.channels[number] = Channel { epoch: epoch.wrapping_add(1), ..Channel::CLOSED };
        self.cancel(inward)?;
        self.cancel(outward)
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: what the entry refers to is kept by its operation, the buffer ring, or the caller of `send`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.bind()?;
            match self.ring.submit().map_err(|error| (error.raw_os_error(), error)) {
                // The kernel keeps completions aside, and takes submissions when there is room for those.
                Err((Some(libc::EBUSY | libc::EAGAIN), _)) => self.take_completions(),
                outcome => drop(outcome.map_err(|(_, error)| error)?),
            }
        }
        Ok(())
    }

    /// Begin an operation and return its number.
    fn begin(&mut self, operation: Operation, entry: squeue::Entry) -> io::Result<u32> {
        let (number, user_data) = self.operations.insert(operation);
        match self.push(entry.user_data(user_data)) {
            Ok(()) => Ok(number),
            Err(error) => {
                self.operations.remove(number);
                Err(error)
            }
        }
    }

    fn cancel(&mut self, operation: u32) -> io::Result<()> {
        if operation == NONE {
            return Ok(());
        }
        let entry = opcode::AsyncCancel::new(self.operations.user_data(operation)).build();
        self.push(entry.user_data(CANCELLATION).flags(Flags::SKIP_SUCCESS))
    }

    /// Begin what the channel wants, unless it is in flight.
    fn begin_inward(&mut self, fd: RawFd) -> io::Result<()> {
        let Channel { inward, wants, interest, epoch, .. } = self.channels[fd as usize];
        let (Some(kind), NONE) = (wants, inward) else { return Ok(()) };
        let entry = match kind {
            Kind::Accept => opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).build(),
            Kind::Watch => {
                let readable = if interest.readable { libc::POLLIN } else { 0 };
                let writable = if interest.writable { libc::POLLOUT } else { 0 };
                opcode::PollAdd::new(Fd(fd), (readable | writable) as u32).build()
            }
            Kind::Receive | Kind::Send => opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build(),
        };
        let operation = self.begin(Operation { kind, fd, epoch, _flight: Flight::Plain }, entry)?;
        self.channels[fd as usize].inward = operation;
        Ok(())
    }

    fn want(&mut self, token: Token, fd: RawFd, kind: Kind) -> io::Result<()> {
        let channel = self.open(token, fd)?;
        if channel.has_ended || channel.has_failed {
            return Ok(());
        }
        channel.wants = Some(kind);
        self.begin_inward(fd)
    }

    /// What is in flight may still come, by the wait that submits the cancellation.
    fn want_no_more(&mut self, token: Token, fd: RawFd) {
        let Some(channel) = self.channel(token, fd) else { return };
        channel.wants = None;
        let inward = std::mem::replace(&mut channel.inward, NONE);
        // It fails only if the ring takes no submissions at all, which the next wait will say.
        let _ = self.cancel(inward);
    }

    fn take_completions(&mut self) {
        let told = self.ring.completion().map(|entry| Told {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        });
        self.backlog.extend(told.filter(|told| told.user_data != CANCELLATION));
    }

    /// Submit, and sleep until something completes or the timeout is over. False: interrupted or over.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let outcome = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout.min(Duration::from_secs(i32::MAX as u64)));
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        self.take_completions();
        match outcome.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(true),
            // Busy: the kernel keeps completions aside, and there is room for them now.
            Err((Some(libc::EBUSY | libc::EAGAIN), _)) => Ok(true),
            Err((Some(libc::ETIME | libc::EINTR), _)) => Ok(false),
            Err((_, error)) => Err(error),
        }
    }

    /// Begin again what has come to an end of itself.
    fn renew(&mut self) -> io::Result<()> {
        for (fd, epoch) in std::mem::take(&mut self.renewals) {
            if self.channels[fd as usize].epoch == epoch {
                self.begin_inward(fd)?;
            }
        }
        Ok(())
    }

    fn settle_backlog(&mut self, completions: &mut Vec<Completion>) {
        while let Some(told) = self.backlog.pop_front() {
            self.settle(told, completions);
        }
    }

    fn settle(&mut self, told: Told, completions: &mut Vec<Completion>) {
        let number = told.user_data as u32;
        let Operation { kind, fd, epoch, .. } = *self.operations.get(number);
        let is_last = told.is_last();
        if is_last {
            self.operations.remove(number);
        }
        let channel = &mut self.channels[fd as usize];
        let is_wanted = channel.epoch == epoch && !channel.has_failed;
        let was_current = is_last && channel.epoch == epoch && channel.inward == number;
        if was_current {
            channel.inward = NONE;
        }
        match kind {
            Kind::Accept => self.settle_accept(fd, is_wanted, &told, completions),
            Kind::Receive => self.settle_receive(fd, is_wanted, &told, completions),
            Kind::Send if channel.epoch == epoch => self.settle_send(fd, &told, completions),
            Kind::Watch if is_wanted => self.settle_watch(fd, &told, completions),
            Kind::Send | Kind::Watch => {}
        }
        if was_current && self.channels[fd as usize].wants.is_some() {
            let is_starved = kind == Kind::Receive && told.result == -libc::ENOBUFS && self.buffers.are_lent();
            if is_starved { &mut self.starved } else { &mut self.renewals }.push((fd, epoch));
        }
    }

    fn settle_accept(&mut self, listener_fd: RawFd, is_wanted: bool, told: &Told, completions: &mut Vec<Completion>) {
        let listener = self.channels[listener_fd as usize].token;
        if told.result >= 0 {
            // SAFETY: the descriptor is new, and nobody else's. If nobody wants it, it is closed.
            let fd = unsafe { OwnedFd::from_raw_fd(told.result) };
            if is_wanted {
                completions.push(Completion::Accepted { listener, fd });
            }
        } else if is_wanted && told.result != -libc::ECANCELED && !concerns_one_connection(-told.result) {
            completions.push(Completion::AcceptFailed { listener, errno: -told.result });
        }
    }

    fn settle_receive(&mut self, fd: RawFd, is_wanted: bool, told: &Told, completions: &mut Vec<Completion>) {
        let buffer = cqueue::buffer_select(told.flags);
        let channel = &mut self.channels[fd as usize];
        let token = channel.token;
        match (told.result, buffer) {
            (received @ 1.., Some(buffer)) if is_wanted => {
                let lease = self.buffers.lend(buffer, received as usize);
                return completions.push(Completion::Received { token, lease });
            }
            (0, _) if is_wanted && !channel.has_ended => {
                (channel.has_ended, channel.wants) = (true, None);
                completions.push(Completion::Ended { token });
            }
            (errno @ ..0, _) if is_wanted && !matches!(-errno, libc::ECANCELED | libc::ENOBUFS | libc::EINTR) => {
                self.fail(fd, -errno, completions);
            }
            _ => {}
        }
        if let Some(buffer) = buffer {
            self.buffers.give_back(buffer);
        }
    }

    fn settle_send(&mut self, fd: RawFd, told: &Told, completions: &mut Vec<Completion>) {
        let channel = &mut self.channels[fd as usize];
        let token = channel.token;
        channel.outward = NONE;
        match (channel.held_failure, usize::try_from(told.result)) {
            (0, Ok(bytes)) => completions.push(Completion::Sent { token, bytes }),
            (0, Err(_)) => self.fail(fd, -told.result, completions),
            (errno, _) => completions.push(Completion::Failed { token, errno }),
        }
    }

    fn settle_watch(&mut self, fd: RawFd, told: &Told, completions: &mut Vec<Completion>) {
        let Channel { token, interest, .. } = self.channels[fd as usize];
        if told.result < 0 {
            // It was closed without a word: there is nothing to watch.
            self.channels[fd as usize].wants = None;
            return;
        }
        let ready = told.result as i16;
        let broken = ready & (libc::POLLERR | libc::POLLHUP) != 0;
        let readiness = Readiness {
            readable: interest.readable && (broken || ready & libc::POLLIN != 0),
            writable: interest.writable && (broken || ready & libc::POLLOUT != 0),
        };
        if readiness != Readiness::default() {
            completions.push(Completion::Ready { token, readiness });
        }
    }

    fn fail(&mut self, fd: RawFd, errno: i32, completions: &mut Vec<Completion>) {
        let channel = &mut self.channels[fd as usize];
        let Channel { token, inward, outward, .. } = *channel;
        (channel.has_failed, channel.wants, channel.inward) = (true, None, NONE);
        if outward == NONE {
            completions.push(Completion::Failed { token, errno });
        } else {
            channel.held_failure = errno;
        }
        // If the ring takes no submissions the next wait will say so.
        let _ = self.cancel(inward).and_then(|()| self.cancel(outward));
    }

    /// Sleep until the kernel has let go of an operation.
    fn wait_for_last(&mut self, operation: u32) -> io::Result<()> {
        let user_data = self.operations.user_data(operation);
        while !self.backlog.iter().any(|told| told.user_data == user_data && told.is_last()) {
            self.enter(None)?;
        }
        Ok(())
    }

    fn send_entry(&mut self, fd: RawFd, output: &SegmentQueue) -> io::Result<(squeue::Entry, Flight)> {
        if let Some(bytes) = output.as_single() {
            return Ok((send_one(fd, bytes), Flight::Plain));
        }
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        match output.run(0, &mut slices) {
            Run::Slices { count, before_file, .. } => Ok(send_several(fd, &slices[..count], before_file)),
            Run::File(range) => {
                let bytes = read_file(range)?;
                // The vector moves, what it holds does not.
                Ok((send_one(fd, &bytes), Flight::Read { _bytes: bytes }))
            }
            Run::Nothing => unreachable!("an empty queue is not sent"),
        }
    }
}

fn send_one(fd: RawFd, bytes: &[u8]) -> squeue::Entry {
    let len = bytes.len().min(u32::MAX as usize) as u32;
    opcode::Send::new(Fd(fd), bytes.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build()
}

fn send_several(fd: RawFd, slices: &[IoSlice<'_>], before_file: bool) -> (squeue::Entry, Flight) {
    let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    // SAFETY: all zero is a valid, empty msghdr.
    let header: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut message = Box::new(Message { header, slices: [empty; SegmentQueue::MAX_IOVECS] });
    for (slot, slice) in message.slices.iter_mut().zip(slices) {
        *slot = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
    }
    (message.header.msg_iov, message.header.msg_iovlen) = (message.slices.as_mut_ptr(), slices.len() as _);
    let flags = libc::MSG_NOSIGNAL | if before_file { libc::MSG_MORE } else { 0 };
    let entry = opcode::SendMsg::new(Fd(fd), &raw const message.header).flags(flags as u32).build();
    (entry, Flight::Message { _slices: message })
}

impl Poller for UringPoller {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn accept(&mut self, listener: Token, fd: RawFd) -> io::Result<()> {
        self.want(listener, fd, Kind::Accept)
    }

    fn stop_accept(&mut self, listener: Token, fd: RawFd) {
        self.want_no_more(listener, fd);
    }

    fn receive(&mut self, token: Token, fd: RawFd) -> io::Result<()> {
        self.want(token, fd, Kind::Receive)
    }

    fn pause(&mut self, token: Token, fd: RawFd) {
        self.want_no_more(token, fd);
    }

    /// Nothing leaves at once: the send goes to the kernel with the next wait, which may bring its completion.
    fn send(&mut self, token: Token, fd: RawFd, output: &mut SegmentQueue) -> io::Result<SendOutcome> {
        let Channel { epoch, outward, has_failed, .. } = *self.open(token, fd)?;
        assert!(outward == NONE, "send was called again before its Sent or Failed");
        if has_failed {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        if output.is_empty() {
            return Ok(SendOutcome::Done(0));
        }
        output.begin_flight();
        let (entry, flight) = self.send_entry(fd, output)?;
        let operation = self.begin(Operation { kind: Kind::Send, fd, epoch, _flight: flight }, entry)?;
        self.channels[fd as usize].outward = operation;
        Ok(SendOutcome::Blocked(0))
    }

    fn watch(&mut self, token: Token, fd: RawFd, interest: Readiness) -> io::Result<()> {
        if interest == Readiness::default() {
            self.forget(token, fd);
            return Ok(());
        }
        refuse_files(fd)?;
        self.open(token, fd)?;
        // Begun anew in any case: the number may be another file's by now.
        self.close(fd as usize)?;
        self.open(token, fd)?.interest = interest;
        self.want(token, fd, Kind::Watch)
    }

    /// Returns when the kernel neither reads the flight nor holds on to the descriptor.
    fn forget(&mut self, token: Token, fd: RawFd) {
        let Some(channel) = self.channel(token, fd) else { return };
        let outward = channel.outward;
        let outcome = (self.close(fd as usize))
            .and_then(|()| self.bind())
            .and_then(|()| self.enter(Some(Duration::ZERO)))
            .and_then(|_| if outward == NONE { Ok(()) } else { self.wait_for_last(outward) });
        if let Err(error) = outcome {
            // Going on would free memory that the kernel reads.
            panic!("io_uring takes no cancellation: {error}");
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.bind()?;
        let before = completions.len();
        let deadline = timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| (Instant::now(), timeout));
        self.settle_backlog(completions);
        let mut left = if completions.len() > before { Some(Duration::ZERO) } else { timeout };
        loop {
            self.renew()?;
            let goes_on = self.enter(left)?;
            self.settle_backlog(completions);
            // What nobody was waiting for does not end the wait.
            if completions.len() > before || !goes_on || left == Some(Duration::ZERO) {
                return Ok(());
            }
            left = deadline.map(|(start, timeout)| timeout.saturating_sub(start.elapsed()));
        }
    }

    fn recycle(&mut self) {
        self.buffers.recycle();
        self.renewals.append(&mut self.starved);
    }
}

impl Drop for UringPoller {
    /// The kernel must let go of the buffers and of what sends refer to before they are freed.
    fn drop(&mut self) {
        if !self.is_bound {
            return;
        }
        // Submissions that never were are nothing to the kernel; what was submitted is cancelled here and now.
        let outcome = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let is_idle = match outcome {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_idle {
            // Connections that were accepted and not told are closed.
            self.take_completions();
            self.settle_backlog(&mut Vec::new());
        } else {
            // (On another thread, for one.) Closing the ring will end it all, but who knows when.
            self.buffers.leak();
            std::mem::take(&mut self.operations).leak();
        }
    }
}

/// Operations in flight, by number. A number's generation tells its successive tenants apart.
#[derive(Default)]
struct Operations {
    slots: Vec<(u32, Option<Operation>)>,
    free: Vec<u32>,
}

impl Operations {
    fn insert(&mut self, operation: Operation) -> (u32, u64) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        self.slots[number as usize].1 = Some(operation);
        (number, self.user_data(number))
    }

    fn user_data(&self, number: u32) -> u64 {
        u64::from(self.slots[number as usize].0) << 32 | u64::from(number)
    }

    fn get(&self, number: u32) -> &Operation {
        self.slots[number as usize].1.as_ref().expect("an operation lives until its last completion")
    }

    fn remove(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        *slot = (slot.0.wrapping_add(1) & (u32::MAX >> 1), None);
        self.free.push(number);
    }

    fn leak(self) {
        std::mem::forget(self);
    }
}

/// The buffers that receives are laid into: lent to the kernel by a ring in shared memory, then to the loop.
struct BufferRing {
    memory: *mut u8,
    tail: u16,
    /// Lent to the loop since the last recycle.
    lent: Vec<u16>,
}

// SAFETY: the mapping is this value's alone, but for the kernel.
unsafe impl Send for BufferRing {}

impl BufferRing {
    /// The ring itself comes first, on pages of its own; then the buffers.
    const RING_BYTES: usize = (BUFFERS as usize * size_of::<BufRingEntry>()).next_multiple_of(4096);
    const BYTES: usize = Self::RING_BYTES + BUFFERS as usize * BUFFER_BYTES;

    fn register(ring: &IoUring) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping.
        let memory = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut buffers = BufferRing { memory: memory.cast(), tail: 0, lent: Vec::with_capacity(BUFFERS as usize) };
        // SAFETY: the mapping outlives the ring's operations (see UringPoller's drop) and has BUFFERS entries.
        unsafe { ring.submitter().register_buf_ring_with_flags(memory as u64, BUFFERS, BUFFER_GROUP, 0)? };
        for buffer in 0..BUFFERS {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    fn start(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < BUFFERS);
        // SAFETY: inside the mapping.
        unsafe { self.memory.add(Self::RING_BYTES + usize::from(buffer) * BUFFER_BYTES) }
    }

    fn lend(&mut self, buffer: u16, len: usize) -> Lease {
        assert!(len <= BUFFER_BYTES);
        self.lent.push(buffer);
        // SAFETY: the kernel wrote `len` bytes there, and gets the buffer again only by recycle.
        unsafe { Lease::from_raw(self.start(buffer), len) }
    }

    fn are_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// The kernel may write to `buffer` from now on.
    fn give_back(&mut self, buffer: u16) {
        let (start, entries) = (self.start(buffer), self.memory.cast::<BufRingEntry>());
        // SAFETY: the index is below BUFFERS, a power of two; the kernel reads no entry beyond the tail.
        let entry = unsafe { &mut *entries.add(usize::from(self.tail & (BUFFERS - 1))) };
        entry.set_addr(start as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned, and is written by this side only.
        let tail = unsafe { &*BufRingEntry::tail(entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn recycle(&mut self) {
        while let Some(buffer) = self.lent.pop() {
            self.give_back(buffer);
        }
    }

    fn leak(&mut self) {
        self.memory = ptr::null_mut();
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if !self.memory.is_null() {
            // SAFETY: mapped in `register` with this size; no operation is in flight (see UringPoller's drop).
            unsafe { libc::munmap(self.memory.cast(), Self::BYTES) };
        }
    }
}
