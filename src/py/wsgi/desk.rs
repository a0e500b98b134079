//! The Desk is the loop's side of the thread pool: requests go out over it, responses come in, and it never waits.
//!
//! It works between two turns, detached. So a loop that serves WSGI needs the interpreter for nothing that a request
//! needs, and goes on with files, refusals and everybody's bytes while all threads are busy.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::job::{Job, ReplyBody, ReplyHead};
use super::pool::{Failure, Message, Pool};
use super::spool::{Piece, Spooler};
use crate::core::buffer::Owner;
use crate::core::event_loop::HIGH_WATERMARK_BYTES;
use crate::core::{Io, Token};
use crate::metrics::ReactorCounters;
use crate::protocol::http1::ResponseError;
use crate::server::Connection;
use crate::server::http::{Gathered, HttpEvent, HttpServer, RespondError, Take};

/// A body is gathered in memory up to here; then it goes to a file, a piece as large at a time.
const GATHERED_BYTES: usize = 64 * 1024;
/// How long replies that no thread announced may wait.
const LOOK_AFTER: Duration = Duration::from_millis(1);
const MAX_SPARE_JOBS: usize = 256;

pub struct Desk {
    pool: Arc<Pool>,
    /// Whom the events of a connection are for, beyond its request.
    conversations: HashMap<Token, Arc<Conversation>>,
    /// Requests whose bodies go to files until they are whole. No thread has them.
    spooling: HashMap<Token, Box<Job>>,
    spooler: Spooler,
    messages: Vec<Message>,
    jobs: VecDeque<Box<Job>>,
    /// Boxed, as they travel.
    #[expect(clippy::vec_box)]
    spare: Vec<Box<Job>>,
    look_at: Option<Instant>,
    is_quiet: bool,
    /// Of the pool's figures, what has been counted.
    told_taken: u64,
    told_waited: Duration,
}

type HttpIo = Io<Connection>;

impl Desk {
    /// `spool_limit_bytes`: of bodies in files at once.
    pub fn new(pool: Arc<Pool>, spool_limit_bytes: u64) -> Self {
        Desk {
            spooler: Spooler::new(pool.clone(), spool_limit_bytes),
            pool,
            conversations: HashMap::new(),
            spooling: HashMap::new(),
            messages: Vec::new(),
            jobs: VecDeque::new(),
            spare: Vec::new(),
            look_at: None,
            is_quiet: false,
            told_taken: 0,
            told_waited: Duration::ZERO,
        }
    }

    /// How long the loop may sleep without looking here.
    pub fn may_sleep(&self, now: Instant) -> Option<Duration> {
        self.look_at.map(|at| at.saturating_duration_since(now))
    }

    /// Whether the server has become quiet since this was last asked.
    pub fn take_quiet(&mut self) -> bool {
        std::mem::take(&mut self.is_quiet)
    }

    /// What can be seen of its pool.
    pub fn tell_levels(&mut self, counters: &ReactorCounters) {
        let figures = self.pool.figures();
        counters.wsgi_threads.set(figures.threads as u64);
        counters.wsgi_busy.set(figures.busy as u64);
        counters.wsgi_queued.set(figures.queued as u64);
        counters.wsgi_most_queued.set(figures.most_queued as u64);
        counters.wsgi_taken.add(figures.taken - self.told_taken);
        counters.wsgi_waited_ns.add((figures.waited.saturating_sub(self.told_waited)).as_nanos() as u64);
        (self.told_taken, self.told_waited) = (figures.taken, figures.waited);
    }

    pub fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Pass on what either side has for the other.
    pub fn work(&mut self, http: &mut HttpServer, io: &mut HttpIo) {
        if self.look_at.is_some_and(|at| at <= io.now()) {
            let again = self.pool.hurry();
            self.look_at = again.then(|| io.now() + LOOK_AFTER);
        }
        self.take_messages(http, io);
        self.hand_over(http, io);
        while http.has_events() {
            while let Some(event) = http.next_event() {
                self.handle(http, io, event);
            }
            self.hand_over(http, io);
        }
        if self.look_at.is_some() && self.pool.is_idle() && self.messages.is_empty() {
            self.look_at = None;
        }
        self.pool.release(io.take_released());
    }

    fn take_messages(&mut self, http: &mut HttpServer, io: &mut HttpIo) {
        let mut messages = std::mem::take(&mut self.messages);
        self.pool.take_messages(&mut messages);
        for message in messages.drain(..) {
            match message {
                Message::Answer(job) => self.answer(http, io, job),
                Message::Piece { conversation, head, body, more } => {
                    self.send_piece(http, io, conversation, (head, body, more));
                }
                Message::Read(conversation) => self.feed(http, io, conversation),
                Message::Spooled(piece) => self.see_spooled(http, io, piece),
                Message::Fail(failure) => self.fail(http, io, failure),
            }
        }
        self.messages = messages;
    }

    fn handle(&mut self, http: &mut HttpServer, io: &mut HttpIo, event: HttpEvent) {
        match event {
            HttpEvent::Request(token) => self.receive(http, io, token),
            HttpEvent::Body(token) => match self.conversations.get(&token) {
                Some(conversation) => self.feed(http, io, conversation.clone()),
                None => self.receive(http, io, token),
            },
            HttpEvent::Drained(token) => {
                if let Some(conversation) = self.conversations.get(&token) {
                    conversation.drained();
                }
            }
            HttpEvent::Disconnected(token) => {
                // A peer that has only ended its side still gets its answer.
                if !http.is_connected(io, token) {
                    self.forget(token);
                }
            }
            HttpEvent::LogTrouble => {
                http.take_log_trouble().into_iter().for_each(|trouble| self.pool.complain(trouble))
            }
            HttpEvent::Quiet => self.is_quiet = true,
        }
    }

    fn forget(&mut self, token: Token) {
        if let Some(conversation) = self.conversations.remove(&token) {
            conversation.end();
        }
        if let Some(job) = self.spooling.remove(&token) {
            self.keep(job);
        }
    }

    /// A request for a thread, once its body is there.
    fn receive(&mut self, http: &mut HttpServer, io: &mut HttpIo, token: Token) {
        let gathered = http.gather_body(io, token, GATHERED_BYTES, self.spooler.is_on());
        if matches!(gathered, Gathered::NotYet | Gathered::Gone) {
            return;
        }
        let begun = if self.spooling.is_empty() { None } else { self.spooling.remove(&token) };
        let Some(mut job) = begun.or_else(|| self.begin(http, io, token)) else { return };
        job.queued_at = io.now();
        job.is_body_whole = !job.head.framing.has_body();
        if gathered == Gathered::Some {
            let body = &mut job.body;
            let taken = http.take_body(io, token, |data, more| {
                body.extend_from_slice(data);
                more
            });
            if let Take::Taken(more) = taken {
                job.is_body_whole = !more;
            }
        }
        if gathered == Gathered::None || job.is_body_whole || !self.spooler.is_on() {
            self.jobs.push_back(job);
        } else {
            self.spool(job);
        }
    }

    fn begin(&mut self, http: &mut HttpServer, io: &mut HttpIo, token: Token) -> Option<Box<Job>> {
        let mut job = self.spare.pop().unwrap_or_else(|| Box::new(Job::new(token, io.now())));
        job.token = token;
        job.peer = http.peer(io, token);
        job.local = http.local_address(io, token);
        job.listener = http.listener(io, token);
        match http.request(io, token) {
            Some(view) => job.fill(&view),
            None => {
                self.keep(job);
                return None;
            }
        }
        Some(job)
    }

    /// Take what has come of a body out of memory, and wait for the rest. With no room left it is a thread that waits.
    fn spool(&mut self, mut job: Box<Job>) {
        let body = job.spooled.take().unwrap_or_else(|| self.spooler.begin());
        match self.spooler.write(job.token, body, std::mem::take(&mut job.body)) {
            Ok(()) => drop(self.spooling.insert(job.token, job)),
            Err((body, bytes)) => {
                (job.spooled, job.body) = (Some(body), bytes);
                self.jobs.push_back(job);
            }
        }
    }

    /// A piece of a body is in its file, or was not taken by the disk.
    fn see_spooled(&mut self, http: &mut HttpServer, io: &mut HttpIo, piece: Piece) {
        let Piece { token, body, bytes, written } = piece;
        let Some(job) = self.spooling.get_mut(&token) else { return self.spooler.discard(body) };
        job.spooled = Some(body);
        match written {
            Ok(()) => self.receive(http, io, token),
            Err(error) => {
                self.spooler.trouble(&error, io.now()).into_iter().for_each(|trouble| self.pool.complain(trouble));
                if let Some(mut job) = self.spooling.remove(&token) {
                    job.body = bytes;
                    self.jobs.push_back(job);
                }
            }
        }
    }

    /// Leave this turn's requests to the threads.
    fn hand_over(&mut self, http: &mut HttpServer, io: &mut HttpIo) {
        if self.jobs.is_empty() {
            return;
        }
        self.pool.offer(&mut self.jobs);
        self.look_at.get_or_insert(io.now() + LOOK_AFTER);
        while let Some(job) = self.jobs.pop_front() {
            io.counters.requests_not_queued.add(1);
            http.refuse_overload(io, job.token);
            self.keep(job);
        }
    }

    fn keep(&mut self, mut job: Box<Job>) {
        if let Some(body) = job.spooled.take() {
            self.spooler.discard(body);
        }
        if self.spare.len() < MAX_SPARE_JOBS {
            job.recycle();
            self.spare.push(job);
        }
    }

    fn answer(&mut self, http: &mut HttpServer, io: &mut HttpIo, mut job: Box<Job>) {
        if !self.conversations.is_empty() {
            self.conversations.remove(&job.token);
        }
        let reply = &mut job.reply;
        let bytes = reply.body.bytes();
        let begun = http.start_response::<ResponseError>(io, job.token, reply.head.status, bytes, true, |head| {
            reply.head.write(head)
        });
        match begun {
            Ok(()) => {
                let sent = http.send_body(io, job.token, reply.body.as_body(), false);
                self.see(http, io, job.token, sent.map(drop));
            }
            Err(error) => {
                io.take_released().extend(std::mem::take(&mut reply.body).into_owner());
                self.see(http, io, job.token, Err(RespondError::Invalid(error)));
            }
        }
        self.keep(job);
    }

    fn send_piece(
        &mut self,
        http: &mut HttpServer,
        io: &mut HttpIo,
        conversation: Arc<Conversation>,
        (head, mut body, more): (Option<ReplyHead>, ReplyBody, bool),
    ) {
        let (token, bytes) = (conversation.token, body.bytes());
        if conversation.is_over() {
            // The connection is gone, or has gone on to its next request.
            return io.take_released().extend(body.into_owner());
        }
        if let Some(head) = head {
            let begun =
                http.start_response::<ResponseError>(io, token, head.status, bytes, !more, |lines| head.write(lines));
            if let Err(error) = begun {
                io.take_released().extend(body.into_owner());
                conversation.end();
                return self.see(http, io, token, Err(RespondError::Invalid(error)));
            }
        }
        let sent = http.send_body(io, token, body.as_body(), more);
        match sent {
            Ok(queued) if more => {
                let is_full = queued > HIGH_WATERMARK_BYTES;
                conversation.took(bytes, is_full);
                if is_full {
                    io.want_drained(token);
                }
                self.conversations.insert(token, conversation);
            }
            Ok(_) => {
                conversation.end();
                self.conversations.remove(&token);
            }
            Err(error) => {
                conversation.end();
                self.see(http, io, token, Err(error));
            }
        }
    }

    /// Give a thread what there is of the body, or what comes next.
    fn feed(&mut self, http: &mut HttpServer, io: &mut HttpIo, conversation: Arc<Conversation>) {
        let token = conversation.token;
        if conversation.is_over() {
            return;
        }
        match http.take_body(io, token, |data, more| conversation.feed(data, more)) {
            Take::Taken(()) => {}
            Take::Wait => drop(self.conversations.insert(token, conversation)),
            Take::Disconnected => {
                conversation.end();
                self.conversations.remove(&token);
            }
        }
    }

    fn fail(&mut self, http: &mut HttpServer, io: &mut HttpIo, failure: Failure) {
        io.counters.handler_errors.add(1);
        let token = match failure {
            Failure::Unanswered(token) => token,
            Failure::Answering(conversation) if !conversation.is_over() => conversation.token,
            // The connection is gone, or has gone on to its next request.
            Failure::Answering(_) | Failure::Answered => return,
        };
        self.conversations.remove(&token);
        http.fail(io, token);
    }

    /// A response that cannot be sent ends as a failed one does.
    fn see(&mut self, http: &mut HttpServer, io: &mut HttpIo, token: Token, sent: Result<(), RespondError>) {
        if let Err(error) = sent {
            self.conversations.remove(&token);
            if let RespondError::Invalid(error) = error {
                self.pool.complain(format!("WSGI application broke its response: {error}"));
                self.fail(http, io, Failure::Unanswered(token));
            }
        }
    }

    /// The loop ends: threads that wait for it go on without. What must be released by somebody who is attached.
    pub fn shut_down(self) -> Vec<Owner> {
        self.conversations.into_values().for_each(|conversation| conversation.end());
        self.pool.close_outbox()
    }
}
