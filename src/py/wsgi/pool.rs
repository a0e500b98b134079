//! The Pool between one loop and its threads: requests wait here for a thread, messages for the loop. It knows no Python.
//!
//! Handing over is what a thread pool costs, so it is done by the batch. The loop leaves all requests of a turn at once
//! and wakes one thread, which works them off and wakes the loop once, when nothing is left. What keeps that from delaying
//! anybody: while there may be replies that nobody announced the loop sleeps for a millisecond at most, then looks by
//! itself, and wakes further threads if requests still wait; and threads whose requests take longer than a hand-over costs
//! wake each other without being asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::job::{Job, ReplyBody, ReplyHead};
use super::spool::Piece;
use crate::core::Token;
use crate::core::buffer::Owner;
use crate::core::mailbox::MailSender;
use crate::reactor::Mail;

/// While requests take less than this on average, one thread works off what waits without waking another.
const QUICK: Duration = Duration::from_micros(50);
/// Replies wait this long for others to leave with.
const ANNOUNCE_AFTER: Duration = Duration::from_micros(200);
/// A full queue is told to the log this often.
const TELL_FULL_EVERY: Duration = Duration::from_secs(10);
/// Complaints that wait for somebody to log them.
const MAX_COMPLAINTS: usize = 16;

/// From a thread to the loop.
pub enum Message {
    /// A whole response, in the request that it answers.
    Answer(Box<Job>),
    Piece {
        conversation: Arc<Conversation>,
        head: Option<ReplyHead>,
        body: ReplyBody,
        more: bool,
    },
    /// The application wants more of the body.
    Read(Arc<Conversation>),
    /// A piece of a body has been written to its file, or not.
    Spooled(Piece),
    Fail(Failure),
}

/// The application failed.
pub enum Failure {
    Unanswered(Token),
    /// While it was answering in pieces.
    Answering(Arc<Conversation>),
    /// Its response is whole; only its own ending went wrong.
    Answered,
}

impl Message {
    /// Nobody will do what it asks for.
    fn drop_unsent(self, owners: &mut Vec<Owner>) {
        match self {
            Message::Answer(job) => owners.extend(job.reply.body.into_owner()),
            Message::Piece { conversation, body, .. } => {
                conversation.end();
                owners.extend(body.into_owner());
            }
            Message::Read(conversation) => conversation.end(),
            Message::Spooled(_) | Message::Fail(_) => {}
        }
    }
}

pub struct Pool {
    state: Mutex<State>,
    work: Condvar,
    outbox: Mutex<Outbox>,
    /// Replies are to be announced one by one.
    prompt: AtomicBool,
    /// There is something to be released.
    has_released: AtomicBool,
    /// Wakes the loop.
    mail: MailSender<Mail>,
    queue_limit: usize,
    /// How many threads it is to have.
    size: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Box<Job>>,
    threads: usize,
    sleeping: usize,
    /// Of the sleeping, those who have been told to wake.
    waking: usize,
    running: usize,
    closing: bool,
    /// How long a request takes, smoothed. At first nobody knows: long.
    average: Option<Duration>,
    figures: Figures,
    unreported: usize,
    reported_at: Option<Instant>,
    complaints: Vec<String>,
}

impl State {
    fn is_quick(&self) -> bool {
        self.average.is_some_and(|average| average < QUICK)
    }

    fn count(&mut self, took: Duration) {
        self.average = Some(self.average.map_or(took, |average| (average * 7 + took) / 8));
    }

    fn has_news(&self) -> bool {
        !self.queue.is_empty() || self.has_complaints()
    }

    fn has_complaints(&self) -> bool {
        let is_time = || self.reported_at.is_none_or(|at| at.elapsed() >= TELL_FULL_EVERY);
        !self.complaints.is_empty() || self.unreported > 0 && is_time()
    }

    /// Whether one more of the sleeping should be woken; it counts as told.
    fn wake_one(&mut self) -> bool {
        let is_there_one = self.sleeping > self.waking;
        self.waking += usize::from(is_there_one);
        is_there_one
    }
}

/// What can be seen of the pool.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    pub threads: usize,
    pub busy: usize,
    pub queued: usize,
    pub most_queued: usize,
    pub taken: u64,
    pub rejected: u64,
    pub waited: Duration,
}

#[derive(Default)]
struct Outbox {
    messages: Vec<Message>,
    /// Objects whose bytes have left, to be released by a thread that is attached.
    released: Vec<Owner>,
    is_closed: bool,
}

/// What a thread remembers from one request to the next.
#[derive(Default)]
pub struct Worker {
    began: Option<Instant>,
    /// Since when it has replies that it has not announced.
    unannounced: Option<Instant>,
    /// There is something to be logged.
    pub has_complaints: bool,
}

impl Pool {
    pub fn new(mail: MailSender<Mail>, size: usize, queue_limit: usize) -> Self {
        Pool {
            state: Mutex::default(),
            work: Condvar::new(),
            outbox: Mutex::default(),
            prompt: AtomicBool::new(false),
            has_released: AtomicBool::new(false),
            mail,
            queue_limit,
            size,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("nobody panics while holding it")
    }

    /// A thread begins or ends its service.
    pub fn enter(&self) {
        self.lock().threads += 1;
    }

    pub fn leave(&self) {
        self.lock().threads -= 1;
    }

    /// A thread, attached: the request before is done; the next one, if there is one.
    pub fn take(&self, worker: &mut Worker) -> Option<Box<Job>> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(began) = worker.began.take() {
            state.running -= 1;
            state.count(now.saturating_duration_since(began));
        }
        let job = state.queue.pop_front();
        let mut wakes_another = false;
        if let Some(job) = &job {
            worker.began = Some(now);
            state.running += 1;
            state.figures.taken += 1;
            state.figures.waited += now.saturating_duration_since(job.queued_at);
            wakes_another = !state.queue.is_empty() && !state.is_quick() && state.wake_one();
        }
        worker.has_complaints = state.has_complaints();
        drop(state);
        if wakes_another {
            self.work.notify_one();
        }
        if worker
            .unannounced
            .is_some_and(|since| job.is_none() || now.saturating_duration_since(since) > ANNOUNCE_AFTER)
        {
            worker.unannounced = None;
            self.mail.wake();
        }
        job
    }

    /// A thread, detached: sleep until there is something to do. False: the pool is closed.
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.has_news() {
                return true;
            }
            if state.closing {
                return false;
            }
            state.sleeping += 1;
            state = self.work.wait(state).expect("nobody panics while holding it");
            state.sleeping -= 1;
            state.waking = state.waking.saturating_sub(1);
        }
    }

    /// A thread: a whole response. It is announced with those that follow it.
    pub fn answer(&self, job: Box<Job>, worker: &mut Worker) {
        self.push(Message::Answer(job));
        if self.prompt.load(Ordering::Acquire) {
            self.mail.wake();
        } else if worker.unannounced.is_none() {
            worker.unannounced = worker.began;
        }
    }

    /// A thread: something that the loop should know at once.
    pub fn send(&self, message: Message) {
        self.push(message);
        self.mail.wake();
    }

    fn push(&self, message: Message) {
        let mut outbox = self.outbox();
        if outbox.is_closed {
            message.drop_unsent(&mut outbox.released);
        } else {
            outbox.messages.push(message);
        }
    }

    /// A thread, attached: what it should release.
    pub fn take_released(&self) -> Vec<Owner> {
        if !self.has_released.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.has_released.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.outbox().released)
    }

    /// A thread, attached: what it should log.
    pub fn take_complaints(&self) -> Vec<String> {
        let mut state = self.lock();
        if !state.has_complaints() {
            return Vec::new();
        }
        let mut complaints = std::mem::take(&mut state.complaints);
        if state.unreported > 0 && state.reported_at.is_none_or(|at| at.elapsed() >= TELL_FULL_EVERY) {
            complaints.push(format!(
                "All {} threads are busy and {} requests wait: {} were answered 503 (--threads, --limit-queue)",
                state.threads, self.queue_limit, state.unreported
            ));
            (state.unreported, state.reported_at) = (0, Some(Instant::now()));
        }
        complaints
    }

    /// The loop: what threads have sent.
    pub fn take_messages(&self, to: &mut Vec<Message>) {
        debug_assert!(to.is_empty());
        std::mem::swap(&mut self.outbox().messages, to);
    }

    /// The loop: leave requests. Those that find no room stay in `jobs`.
    pub fn offer(&self, jobs: &mut VecDeque<Box<Job>>) {
        let mut state = self.lock();
        // What a free thread will take does not wait, even if it has not come for it yet.
        let free = self.size.saturating_sub(state.running);
        let room = (self.queue_limit + free).saturating_sub(state.queue.len());
        let taken = jobs.len().min(room);
        state.queue.extend(jobs.drain(..taken));
        state.figures.most_queued = state.figures.most_queued.max(state.queue.len());
        state.figures.rejected += jobs.len() as u64;
        state.unreported += jobs.len();
        let is_being_seen_to = state.waking > 0 || state.running > 0 && state.is_quick();
        let wakes_one = taken > 0 && !is_being_seen_to && state.wake_one();
        drop(state);
        self.prompt.store(false, Ordering::Release);
        if wakes_one {
            self.work.notify_one();
        }
    }

    /// The loop: have its replies announced one by one from now on, and waiting requests seen to by more threads. Whether
    /// to look again.
    pub fn hurry(&self) -> bool {
        self.prompt.store(true, Ordering::Release);
        let mut state = self.lock();
        let mut wanted = state.queue.len();
        let mut woken = 0;
        while wanted > 0 && state.wake_one() {
            (wanted, woken) = (wanted - 1, woken + 1);
        }
        drop(state);
        (0..woken).for_each(|_| self.work.notify_one());
        woken > 0
    }

    /// The loop: whether there is no request in any thread's hands, or waiting for one.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.running == 0 && state.queue.is_empty()
    }

    /// The loop: leave it to the threads to release these, unless they have nothing else to do.
    pub fn release(&self, owners: &mut Vec<Owner>) {
        if !owners.is_empty() && !self.is_idle() {
            self.outbox().released.append(owners);
            self.has_released.store(true, Ordering::Relaxed);
        }
    }

    /// The loop: something is to be logged, by somebody who is attached.
    pub fn complain(&self, text: String) {
        let mut state = self.lock();
        if state.complaints.len() < MAX_COMPLAINTS {
            state.complaints.push(text);
        }
        let wakes_one = state.wake_one();
        drop(state);
        if wakes_one {
            self.work.notify_one();
        }
    }

    /// Let threads go that have nothing to do, and the others when they are done.
    pub fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// The loop is gone: nothing more is sent. What must be released by somebody who is attached.
    pub fn close_outbox(&self) -> Vec<Owner> {
        let mut outbox = self.outbox();
        outbox.is_closed = true;
        let messages = std::mem::take(&mut outbox.messages);
        let mut owners = std::mem::take(&mut outbox.released);
        messages.into_iter().for_each(|message| message.drop_unsent(&mut owners));
        owners
    }

    pub fn figures(&self) -> Figures {
        let state = self.lock();
        Figures { threads: state.threads, busy: state.running, queued: state.queue.len(), ..state.figures }
    }
}
