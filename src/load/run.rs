//! A load: connections that ask the same few things for a while, and how long each answer took. What is asked, and where
//! an answer ends, is a [`Dialogue`]'s business: HTTP's, or an echo's.
//!
//! One thread, one poller. In a *closed* loop each connection asks again as soon as it was answered. In an *open*
//! loop requests are due at a fixed rate, whatever the server does, and each latency counts from when its request
//! was due: a stall is charged to every request that it delayed, not only to the one that met it.
//!
//! A run owns its connections. Each belongs to one lane for good, and one that breaks is opened again.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::LoadError;
use super::latency::Latencies;
use super::patience::Patience;
use super::plan::{Pace, Schedule};
use super::report::{ErrorKind, Errors, LoadReport, TargetReport, TlsReport};
use super::secure::{Refusal, handshake};
use crate::core::buffer::{BufferPool, Owner, SegmentQueue};
use crate::core::poller::{self, Completion, Poller, PollerKind, SendOutcome};
use crate::core::token::Token;
use crate::protocol::tls::{Client, Session};

/// One whole answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP's; 0 where there is none.
    pub status: u16,
    pub body_bytes: u64,
    /// The server said that it will close the connection.
    pub last: bool,
}

/// The bytes are no answer, or one of a length that the client cannot know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What the connections of one lane ask, and how they know an answer. It takes bytes and knows no socket.
pub(super) trait Dialogue {
    /// Where one connection stands in its present answer.
    type Reader: Default;

    fn request(&self) -> &[u8];

    /// Take bytes: how many, and the answer that they complete. Called again with the rest.
    fn read(&mut self, reader: &mut Self::Reader, bytes: &[u8]) -> Result<(usize, Option<Answer>), Malformed>;

    /// What is wrong with a whole answer.
    fn objection(&self, answer: &Answer) -> Option<(ErrorKind, String)>;
}

/// A lane before it runs: its name in the report, and its share of the connections.
pub(super) struct LanePlan<D> {
    pub name: String,
    pub connections: usize,
    pub dialogue: D,
}

/// Make the load, over TLS if it is said with whom, and wait for its end, telling `watch` about ten times a second how far
/// it is; if that says so, the end is at once. The plan has been checked.
pub(super) fn run_lanes<D: Dialogue>(
    schedule: &Schedule,
    tls: Option<&Client>,
    lanes: Vec<LanePlan<D>>,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<LoadReport, LoadError> {
    let mut poller =
        poller::open(PollerKind::Auto).map_err(|source| LoadError::Kernel { doing: "making a poller", source })?;
    let mut run = Run::open(schedule, tls, lanes, poller.as_mut())?;
    run.turn_until_done(watch)?;
    Ok(run.into_report())
}

/// How far a run is, since its first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub elapsed: Duration,
    pub answers: u64,
    pub errors: u64,
}

/// How often the run looks for answers that take too long and for lost connections.
const SWEEP_NS: u64 = 100_000_000;
/// How long opening a lost connection again may hold up the others.
const RECONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A request on its way: when it was due, and when, by the run's patience, it was handed to its connection.
#[derive(Clone, Copy)]
struct Asked {
    due_ns: u64,
    sent_ns: u64,
}

struct Connection<R> {
    lane: usize,
    token: Token,
    /// None while it is lost.
    stream: Option<TcpStream>,
    /// Over TLS, and as long as the stream.
    session: Option<Box<Session>>,
    output: SegmentQueue,
    /// The poller will say when the rest of `output` may go.
    blocked: bool,
    /// It stands in its lane's queue of connections that may ask.
    queued: bool,
    reader: R,
    asked: VecDeque<Asked>,
    answers: u64,
}

/// A lane's side of the run.
struct Lane<D> {
    dialogue: D,
    /// Connections that may ask. The one answered last asks first: its socket is still in the processor's cache, so
    /// at a low rate the server's own cost is not drowned by the kernel's misses.
    free: Vec<usize>,
    /// Nanoseconds between two requests; 0 in a closed loop.
    interval_ns: f64,
    /// Requests handed to connections, in an open loop.
    begun: u64,
    report: TargetReport,
}

impl<D> Lane<D> {
    fn next_due_ns(&self) -> u64 {
        (self.begun as f64 * self.interval_ns) as u64
    }
}

struct Run<'a, D: Dialogue> {
    schedule: &'a Schedule,
    tls: Option<&'a Client>,
    /// What a session has read, and what it has to say to that.
    plain: Vec<u8>,
    sealed: Vec<u8>,
    made: Option<TlsReport>,
    poller: &'a mut dyn Poller,
    pool: BufferPool,
    released: Vec<Owner>,
    lanes: Vec<Lane<D>>,
    connections: Vec<Connection<D::Reader>>,
    reconnects: u64,
    /// Since when no connection at all is open.
    all_lost_since_ns: Option<u64>,
    started: Instant,
    patience: Patience,
    /// Requests due from here on are measured, and none is due after `ends_ns`.
    begins_ns: u64,
    ends_ns: u64,
}

impl<'a, D: Dialogue> Run<'a, D> {
    fn open(
        schedule: &'a Schedule,
        tls: Option<&'a Client>,
        plans: Vec<LanePlan<D>>,
        poller: &'a mut dyn Poller,
    ) -> Result<Self, LoadError> {
        let shares: Vec<usize> = plans.iter().map(|plan| plan.connections).collect();
        let lanes = plans.into_iter().map(|plan| lane(schedule, plan)).collect();
        let owners = shares.iter().enumerate().flat_map(|(lane, share)| std::iter::repeat_n(lane, *share));
        let connections = owners.enumerate().map(|(index, lane)| Connection::new(index, lane)).collect();
        let begins_ns = schedule.warm_up.as_nanos() as u64;
        let mut run = Run {
            schedule,
            tls,
            plain: Vec::new(),
            sealed: Vec::new(),
            made: None,
            poller,
            pool: BufferPool::default(),
            released: Vec::new(),
            lanes,
            connections,
            reconnects: 0,
            all_lost_since_ns: None,
            started: Instant::now(),
            patience: Patience::default(),
            begins_ns,
            ends_ns: begins_ns + schedule.duration.as_nanos() as u64,
        };
        for index in 0..run.connections.len() {
            let (address, opened, wanted) = (schedule.address, index, schedule.connections);
            run.connect(index, schedule.answer_timeout).map_err(|refusal| match refusal {
                Refusal::Kernel(source) => LoadError::Connect { address, opened, wanted, source },
                Refusal::Handshake(problem) => LoadError::Handshake { address, opened, wanted, problem },
            })?;
        }
        run.started = Instant::now();
        Ok(run)
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn turn_until_done(&mut self, watch: &mut dyn FnMut(Progress) -> bool) -> Result<(), LoadError> {
        let (mut completions, mut next_sweep_ns) = (Vec::with_capacity(1024), SWEEP_NS);
        let mut drain = Drain::default();
        loop {
            let now_ns = self.now_ns();
            self.ask_all(now_ns);
            if now_ns >= self.ends_ns && (drain.is_over(self.schedule.answer_timeout) || !self.anything_due()) {
                self.give_up_rest(now_ns);
                return Ok(());
            }
            let timeout = self.patience(now_ns);
            self.poller
                .wait(Some(timeout), &mut completions)
                .map_err(|source| LoadError::Kernel { doing: "waiting for answers", source })?;
            let now_ns = self.now_ns();
            if now_ns >= self.ends_ns {
                drain.looked(self.patience.now_ns(), completions.is_empty());
            }
            for completion in completions.drain(..) {
                self.complete(completion, now_ns);
            }
            self.poller.recycle();
            if now_ns >= next_sweep_ns {
                next_sweep_ns = now_ns + SWEEP_NS;
                self.sweep(now_ns)?;
                if watch(self.progress(now_ns)) {
                    return Err(LoadError::Interrupted);
                }
            }
            self.patience.turned(now_ns);
        }
    }

    fn progress(&self, now_ns: u64) -> Progress {
        Progress {
            elapsed: Duration::from_nanos(now_ns),
            answers: self.lanes.iter().map(|lane| lane.report.answers).sum(),
            errors: self.lanes.iter().map(|lane| lane.report.errors.total()).sum(),
        }
    }

    /// How long the run may sleep. An open loop does not while requests are to come, unless it is told to: waking up
    /// late would be charged to the server, and a server pays for waking a client that sleeps.
    fn patience(&self, now_ns: u64) -> Duration {
        match self.schedule.pace {
            Pace::PerSecond(_) if now_ns >= self.ends_ns => Duration::from_nanos(SWEEP_NS),
            Pace::PerSecond(_) if self.schedule.sleeps => {
                let due_ns = self.lanes.iter().map(Lane::next_due_ns).min().unwrap_or(0);
                Duration::from_nanos(due_ns.saturating_sub(now_ns).min(SWEEP_NS))
            }
            Pace::PerSecond(_) => Duration::ZERO,
            Pace::Closed => Duration::from_nanos(SWEEP_NS),
        }
    }

    /// Whether an answer is still to come, or a request of the schedule still to be sent.
    fn anything_due(&self) -> bool {
        self.connections.iter().any(|connection| !connection.asked.is_empty())
            || self.lanes.iter().any(|lane| lane.interval_ns > 0.0 && lane.next_due_ns() < self.ends_ns)
    }

    /// Let every connection that may ask do so, as far as the pace has requests.
    fn ask_all(&mut self, now_ns: u64) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].interval_ns > 0.0 {
                self.ask_what_is_due(lane, now_ns);
            } else if now_ns < self.ends_ns {
                self.ask_again(lane);
            }
        }
    }

    fn ask_what_is_due(&mut self, lane: usize, now_ns: u64) {
        loop {
            let due_ns = self.lanes[lane].next_due_ns();
            if due_ns > now_ns || due_ns >= self.ends_ns {
                return;
            }
            let Some(index) = self.take_free(lane) else { return };
            self.lanes[lane].begun += 1;
            self.put_request(index, due_ns);
            self.flush(index, now_ns);
            self.queue_if_free(index);
        }
    }

    /// Closed loop: fill every connection that has room.
    fn ask_again(&mut self, lane: usize) {
        // Those that are free now: one that breaks while it asks comes again in the next turn.
        for _ in 0..self.lanes[lane].free.len() {
            let Some(index) = self.take_free(lane) else { return };
            let now_ns = self.now_ns();
            while self.connections[index].asked.len() < self.schedule.pipeline {
                self.put_request(index, now_ns);
            }
            self.flush(index, now_ns);
        }
    }

    fn take_free(&mut self, lane: usize) -> Option<usize> {
        while let Some(index) = self.lanes[lane].free.pop() {
            self.connections[index].queued = false;
            if self.connections[index].may_ask(self.schedule.pipeline) {
                return Some(index);
            }
        }
        None
    }

    fn queue_if_free(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.queued && connection.may_ask(self.schedule.pipeline) {
            connection.queued = true;
            self.lanes[connection.lane].free.push(index);
        }
    }

    fn put_request(&mut self, index: usize, due_ns: u64) {
        let sent_ns = self.patience.now_ns();
        let connection = &mut self.connections[index];
        let request = self.lanes[connection.lane].dialogue.request();
        match &mut connection.session {
            None => connection.output.push_copy(&mut self.pool, request),
            // What cannot be sealed, as in a session that has ended, is not sent; the end is told by the connection's own.
            Some(session) => drop(connection.output.append_with(&mut self.pool, |out| session.send(request, out))),
        }
        connection.asked.push_back(Asked { due_ns, sent_ns });
    }

    fn flush(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.connections[index];
        let Some(stream) = connection.stream.as_ref() else { return };
        if connection.blocked || connection.output.is_empty() {
            return;
        }
        match self.poller.send(connection.token, stream.as_raw_fd(), &mut connection.output) {
            Ok(SendOutcome::Done(bytes)) => connection.output.advance(bytes, &mut self.pool, &mut self.released),
            Ok(SendOutcome::Blocked(bytes)) => {
                connection.output.advance(bytes, &mut self.pool, &mut self.released);
                connection.blocked = true;
            }
            Err(error) => self.lose(index, ErrorKind::Broken, now_ns, || format!("sending failed: {error}")),
        }
    }

    fn complete(&mut self, completion: Completion, now_ns: u64) {
        let token = match completion {
            Completion::Received { token, .. }
            | Completion::Ended { token }
            | Completion::Sent { token, .. }
            | Completion::Failed { token, .. } => token,
            Completion::Accepted { .. } | Completion::AcceptFailed { .. } | Completion::Ready { .. } => return,
        };
        let index = token.index as usize;
        if self.connections[index].token != token {
            return; // meant for a connection that was lost earlier in this turn
        }
        match completion {
            Completion::Received { lease, .. } => {
                // SAFETY: the lease is of this turn, and `recycle` comes after all of its completions.
                self.received(index, unsafe { lease.as_slice() }, now_ns);
            }
            Completion::Sent { bytes, .. } => {
                let connection = &mut self.connections[index];
                connection.blocked = false;
                connection.output.advance(bytes, &mut self.pool, &mut self.released);
                self.flush(index, now_ns);
                self.queue_if_free(index);
            }
            Completion::Failed { errno, .. } => self.lose(index, ErrorKind::Broken, now_ns, || {
                format!("the connection broke: {}", std::io::Error::from_raw_os_error(errno))
            }),
            _ => {
                let within = self.connections[index].session.as_ref().is_some_and(|session| session.is_within_record());
                self.lose(index, ErrorKind::Closed, now_ns, || closed(within));
            }
        }
    }

    fn received(&mut self, index: usize, bytes: &[u8], now_ns: u64) {
        match self.connections[index].session {
            None => self.read(index, bytes, now_ns),
            Some(_) => self.unseal(index, bytes, now_ns),
        }
    }

    /// What was said before a session's end counts, whatever ended it.
    fn unseal(&mut self, index: usize, bytes: &[u8], now_ns: u64) {
        let (mut plain, mut sealed) = (std::mem::take(&mut self.plain), std::mem::take(&mut self.sealed));
        let connection = &mut self.connections[index];
        let token = connection.token;
        let session = connection.session.as_mut().expect("it is asked of those that have one");
        let outcome = session.receive(bytes, &mut plain, &mut sealed);
        let is_ended = session.is_ended();
        connection.output.push_copy(&mut self.pool, &sealed);
        self.read(index, &plain, now_ns);
        if self.connections[index].token == token {
            match outcome {
                Err(error) => self.lose(index, ErrorKind::Broken, now_ns, || error.to_string()),
                Ok(()) if is_ended => self.lose(index, ErrorKind::Closed, now_ns, || closed(false)),
                Ok(()) => self.flush(index, now_ns),
            }
        }
        plain.clear();
        sealed.clear();
        (self.plain, self.sealed) = (plain, sealed);
    }

    fn read(&mut self, index: usize, mut bytes: &[u8], now_ns: u64) {
        while !bytes.is_empty() {
            let connection = &mut self.connections[index];
            let dialogue = &mut self.lanes[connection.lane].dialogue;
            let answer = match dialogue.read(&mut connection.reader, bytes) {
                Ok((taken, answer)) => {
                    bytes = &bytes[taken..];
                    answer
                }
                Err(malformed) => return self.lose(index, ErrorKind::Malformed, now_ns, || malformed.0),
            };
            let Some(answer) = answer else { continue };
            if !self.answered(index, answer, now_ns) {
                return;
            }
        }
        self.queue_if_free(index);
    }

    /// Count one whole answer; false if the connection is done with.
    fn answered(&mut self, index: usize, answer: Answer, now_ns: u64) -> bool {
        let connection = &mut self.connections[index];
        let lane = &mut self.lanes[connection.lane];
        let report = &mut lane.report;
        let Some(asked) = connection.asked.pop_front() else {
            report.errors.add(ErrorKind::Malformed, 1, || "an answer that nobody asked for".to_owned());
            self.reopen(index);
            return false;
        };
        if let Some((kind, what)) = lane.dialogue.objection(&answer) {
            report.errors.add(kind, 1, || what);
        } else {
            connection.answers += 1;
            report.answers += 1;
            report.body_bytes += answer.body_bytes;
            report.answers_in_time += u64::from((self.begins_ns..self.ends_ns).contains(&now_ns));
        }
        if asked.due_ns >= self.begins_ns {
            report.latencies.record_ns(now_ns.saturating_sub(asked.due_ns));
        }
        if answer.last {
            self.lose(index, ErrorKind::Closed, now_ns, || closed(false));
        }
        !answer.last
    }

    /// The connection is no more: what it had asked failed, and another takes its place.
    fn lose(&mut self, index: usize, kind: ErrorKind, now_ns: u64, what: impl FnOnce() -> String) {
        let connection = &mut self.connections[index];
        let report = &mut self.lanes[connection.lane].report;
        // A server may close a connection that has asked nothing, but not speak on it.
        let least = usize::from(kind == ErrorKind::Malformed);
        report.errors.add(kind, connection.asked.len().max(least), what);
        for asked in connection.asked.drain(..).filter(|asked| asked.due_ns >= self.begins_ns) {
            report.latencies.record_ns(now_ns.saturating_sub(asked.due_ns));
        }
        self.reopen(index);
    }

    fn reopen(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.let_go(self.poller);
        connection.output.clear(&mut self.pool, &mut self.released);
        connection.asked.clear();
        connection.reader = D::Reader::default();
        connection.blocked = false;
        connection.token.generation = connection.token.generation.wrapping_add(1);
        self.reconnect(index);
    }

    fn reconnect(&mut self, index: usize) {
        match self.connect(index, RECONNECT_TIMEOUT.min(self.schedule.answer_timeout)) {
            Ok(()) => self.reconnects += 1,
            Err(error) => {
                let report = &mut self.lanes[self.connections[index].lane].report;
                report.errors.add(ErrorKind::Connect, 1, || format!("connecting again failed: {error}"));
            }
        }
    }

    fn connect(&mut self, index: usize, timeout: Duration) -> Result<(), Refusal> {
        let stream = TcpStream::connect_timeout(&self.schedule.address, timeout)?;
        stream.set_nodelay(true)?;
        let session = match self.tls {
            Some(client) => Some(Box::new(handshake(&stream, client, timeout)?)),
            None => None,
        };
        stream.set_nonblocking(true)?;
        let connection = &mut self.connections[index];
        self.poller.receive(connection.token, stream.as_raw_fd())?;
        connection.stream = Some(stream);
        if let Some(agreed) = session.as_ref().and_then(|session| session.agreed()) {
            self.made.get_or_insert(TlsReport { agreed, sessions: 0 }).sessions += 1;
        }
        connection.session = session;
        self.all_lost_since_ns = None;
        self.queue_if_free(index);
        Ok(())
    }

    /// Find answers that take too long, and open lost connections again.
    fn sweep(&mut self, now_ns: u64) -> Result<(), LoadError> {
        let timeout_ns = self.schedule.answer_timeout.as_nanos() as u64;
        let looked_ns = self.patience.now_ns();
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.stream.is_none() {
                self.reconnect(index);
            } else if connection.asked.front().is_some_and(|asked| looked_ns - asked.sent_ns > timeout_ns) {
                let timeout_s = self.schedule.answer_timeout.as_secs_f64();
                self.lose(index, ErrorKind::TimedOut, now_ns, || format!("no whole answer within {timeout_s} s"));
            }
        }
        if self.connections.iter().any(|connection| connection.stream.is_some()) {
            return Ok(());
        }
        let waited_ns = now_ns - *self.all_lost_since_ns.get_or_insert(now_ns);
        if waited_ns < timeout_ns {
            return Ok(());
        }
        Err(LoadError::ServerGone { address: self.schedule.address, waited: Duration::from_nanos(waited_ns) })
    }

    /// The run's end: what was not answered has waited this long and failed.
    fn give_up_rest(&mut self, now_ns: u64) {
        for connection in &mut self.connections {
            let report = &mut self.lanes[connection.lane].report;
            let what = || "no whole answer by the run's end".to_owned();
            report.errors.add(ErrorKind::TimedOut, connection.asked.len(), what);
            for asked in connection.asked.drain(..).filter(|asked| asked.due_ns >= self.begins_ns) {
                report.latencies.record_ns(now_ns - asked.due_ns);
            }
            report.fewest_on_one = report.fewest_on_one.min(connection.answers);
            report.most_on_one = report.most_on_one.max(connection.answers);
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.interval_ns > 0.0) {
            while lane.next_due_ns() < self.ends_ns {
                let due_ns = lane.next_due_ns();
                lane.begun += 1;
                let what = || "due, but every connection was busy until the run's end".to_owned();
                lane.report.errors.add(ErrorKind::NeverSent, 1, what);
                if due_ns >= self.begins_ns {
                    lane.report.latencies.record_ns(now_ns - due_ns);
                }
            }
        }
    }

    fn into_report(mut self) -> LoadReport {
        LoadReport {
            duration: self.schedule.duration,
            reconnects: self.reconnects,
            targets: std::mem::take(&mut self.lanes).into_iter().map(|lane| lane.report).collect(),
            tls: self.made.take(),
        }
    }
}

/// The time after the load's end in which the last answers come, by the run's patience.
#[derive(Default)]
struct Drain {
    /// When the first wait and the last one began, and whether the last one found nothing.
    first_ns: Option<u64>,
    last_ns: u64,
    found_nothing: bool,
}

impl Drain {
    fn looked(&mut self, began_ns: u64, found_nothing: bool) {
        self.first_ns.get_or_insert(began_ns);
        (self.last_ns, self.found_nothing) = (began_ns, found_nothing);
    }

    /// It is over with a wait that begins after its time and finds nothing: answers that lie in the sockets are not late.
    /// A server that never stops sending is waited for once more as long.
    fn is_over(&self, timeout: Duration) -> bool {
        let (timeout_ns, waited_ns) = (timeout.as_nanos() as u64, self.last_ns - self.first_ns.unwrap_or(self.last_ns));
        waited_ns >= timeout_ns && (self.found_nothing || waited_ns >= 2 * timeout_ns)
    }
}

impl<D: Dialogue> Drop for Run<'_, D> {
    fn drop(&mut self) {
        for connection in &mut self.connections {
            connection.let_go(self.poller);
        }
    }
}

fn closed(within_record: bool) -> String {
    let before = if within_record { "within a TLS record" } else { "before the whole answer" };
    format!("the server closed {before}")
}

impl<R: Default> Connection<R> {
    fn new(index: usize, lane: usize) -> Self {
        Connection {
            lane,
            token: Token::new(index as u32, 0),
            stream: None,
            session: None,
            output: SegmentQueue::new(),
            blocked: false,
            queued: false,
            reader: R::default(),
            asked: VecDeque::new(),
            answers: 0,
        }
    }

    /// Close it; a session says so, if all that it said before has left.
    fn let_go(&mut self, poller: &mut dyn Poller) {
        let (Some(mut stream), session) = (self.stream.take(), self.session.take()) else { return };
        poller.forget(self.token, stream.as_raw_fd());
        if let Some(mut session) = session.filter(|_| self.output.is_empty()) {
            let mut farewell = Vec::new();
            session.close(&mut farewell);
            let _ = stream.write(&farewell);
        }
    }

    fn may_ask(&self, pipeline: usize) -> bool {
        self.stream.is_some() && !self.blocked && self.asked.len() < pipeline
    }
}

fn lane<D>(schedule: &Schedule, plan: LanePlan<D>) -> Lane<D> {
    let connections = plan.connections;
    let interval_ns = match schedule.pace {
        Pace::Closed => 0.0,
        Pace::PerSecond(rate) => 1e9 * schedule.connections as f64 / (rate * connections as f64),
    };
    Lane {
        dialogue: plan.dialogue,
        free: Vec::with_capacity(connections),
        interval_ns,
        begun: 0,
        report: TargetReport {
            name: plan.name,
            connections,
            answers: 0,
            answers_in_time: 0,
            body_bytes: 0,
            errors: Errors::default(),
            latencies: Latencies::default(),
            fewest_on_one: u64::MAX,
            most_on_one: 0,
        },
    }
}
