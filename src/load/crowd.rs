//! A Crowd is very many connections that say nothing most of the time. It opens them, asks them now and then, and counts
//! exactly how many answer; one that is lost is told with its reason, and not opened again.
//!
//! A member is its descriptor and when it was asked: twelve bytes. What an answer needs while it arrives in parts is
//! elsewhere, and only then. One thread, one poller; a process holds as many as it may have descriptors.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::LoadError;
use super::http::{self, Requests};
use super::latency::Latencies;
use super::patience::Patience;
use super::report::{ErrorKind, Errors};
use super::response::ResponseReader;
use super::run::{Answer, Dialogue, Malformed};
use super::tcp::difference;
use crate::core::poller::{self, Completion, Poller, PollerKind, Readiness};
use crate::core::token::Token;
use crate::net::{self, options};

/// How many are begun before it is made sure that the server has accepted them: fewer than any listener's backlog.
const BATCH: usize = 256;
/// How often those who hold are asked what is due, and how often anybody is told how far it is.
const TICK: Duration = Duration::from_millis(50);
const TELL: Duration = Duration::from_millis(100);
/// The descriptor whose readiness ends a hold has the index that no member has.
const CONTROL: Token = Token::new(u32::MAX, 0);

#[derive(Clone, Debug)]
pub struct CrowdPlan {
    pub address: SocketAddr,
    /// The addresses to connect from, by turns: each has so many ports.
    pub sources: Vec<IpAddr>,
    pub connections: usize,
    /// A connection that takes longer to open, or to answer, is lost.
    pub answer_timeout: Duration,
}

impl CrowdPlan {
    pub const MAX_CONNECTIONS: usize = 1 << 24;

    fn check(&self) -> Result<(), LoadError> {
        let (connections, most) = (self.connections, Self::MAX_CONNECTIONS);
        if connections == 0 || connections > most {
            return Err(LoadError::Plan(format!("{connections} connections; expected 1 to {most}")));
        }
        if self.sources.is_empty() || self.sources.iter().any(|source| source.is_ipv4() != self.address.is_ipv4()) {
            let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(LoadError::Plan(format!("expected at least one source address, all of them {family}")));
        }
        if self.answer_timeout.is_zero() {
            return Err(LoadError::Plan("answer_timeout must be longer than 0".to_owned()));
        }
        Ok(())
    }
}

/// What members are asked, and what each is to answer.
pub enum Question {
    /// These bytes, and those. Asking nothing is waiting for what the server says by itself.
    Bytes { ask: Vec<u8>, answer: Vec<u8> },
    /// A GET, with a response of status 200.
    Http(Box<Requests>),
}

impl Question {
    pub fn get(address: SocketAddr, path: &str) -> Result<Self, LoadError> {
        Ok(Question::Http(Box::new(http::get(address, path)?)))
    }
}

/// Where a member stands in an answer that has come in part.
#[derive(Default)]
pub struct Reader {
    at: usize,
    response: ResponseReader,
}

impl Dialogue for Question {
    type Reader = Reader;

    fn request(&self) -> &[u8] {
        match self {
            Question::Bytes { ask, .. } => ask,
            Question::Http(requests) => requests.request(),
        }
    }

    fn read(&mut self, reader: &mut Reader, bytes: &[u8]) -> Result<(usize, Option<Answer>), Malformed> {
        match self {
            Question::Bytes { answer, .. } => {
                let expected = &answer[reader.at..];
                let taken = expected.len().min(bytes.len());
                if bytes[..taken] != expected[..taken] {
                    return Err(difference(reader.at, &bytes[..taken], &expected[..taken]));
                }
                reader.at += taken;
                let is_whole = reader.at == answer.len();
                Ok((taken, is_whole.then_some(Answer { status: 0, body_bytes: taken as u64, last: false })))
            }
            Question::Http(requests) => requests.read(&mut reader.response, bytes),
        }
    }

    fn objection(&self, answer: &Answer) -> Option<(ErrorKind, String)> {
        match self {
            Question::Bytes { .. } => None,
            Question::Http(requests) => requests.objection(answer),
        }
    }
}

/// How far it is: connections that are open, answers of this phase, connections lost since the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Far {
    pub open: usize,
    pub answered: u64,
    pub lost: u64,
}

pub type Watch<'a> = &'a mut dyn FnMut(Far) -> bool;

/// What one phase came to. `lost` are the connections that it cost.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub open: usize,
    pub asked: u64,
    pub answered: u64,
    pub lost: Errors,
    pub latencies: Latencies,
    pub elapsed: Duration,
}

struct Member {
    /// None once it is lost.
    stream: Option<TcpStream>,
    asked_us: u32,
    is_asked: bool,
}

struct Asked {
    index: u32,
    at_us: u32,
    /// The same time by the crowd's patience.
    sent_ms: u32,
}

pub struct Crowd {
    plan: CrowdPlan,
    poller: Box<dyn Poller>,
    completions: Vec<Completion>,
    members: Vec<Member>,
    /// Answers that have come in part.
    partial: HashMap<u32, Reader>,
    /// Who was asked, in order; those that have answered since stay until they come to the front.
    asked: VecDeque<Asked>,
    waiting: usize,
    open: usize,
    lost_before: u64,
    tally: Tally,
    is_called: bool,
    started: Instant,
    patience: Patience,
    phase_began: Instant,
    told: Instant,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(plan: CrowdPlan) -> Result<Self, LoadError> {
        plan.check()?;
        let poller =
            poller::open(PollerKind::Auto).map_err(|source| LoadError::Kernel { doing: "making a poller", source })?;
        let now = Instant::now();
        Ok(Crowd {
            members: Vec::with_capacity(plan.connections),
            plan,
            poller,
            completions: Vec::new(),
            partial: HashMap::new(),
            asked: VecDeque::new(),
            waiting: 0,
            open: 0,
            lost_before: 0,
            tally: Tally::default(),
            is_called: false,
            started: now,
            patience: Patience::default(),
            phase_began: now,
            told: now,
        })
    }

    pub fn open_connections(&self) -> usize {
        self.open
    }

    /// Open all of them. The last of each batch asks, and its answer tells that those before it were accepted, too: so no
    /// backlog overflows, and nobody waits for a segment that is sent again.
    pub fn open(&mut self, question: &mut Question, watch: Watch<'_>) -> Result<Tally, LoadError> {
        self.begin();
        while self.members.len() < self.plan.connections {
            let first = self.members.len();
            for _ in 0..BATCH.min(self.plan.connections - first) {
                self.connect();
            }
            self.wait_for_connections(first)?;
            if let Some(last) = (first..self.members.len()).rev().find(|&index| self.members[index].stream.is_some()) {
                self.ask(question, last);
            }
            while self.waiting > 0 {
                self.turn(question, Some(TELL))?;
            }
            self.tell(watch)?;
        }
        self.end(watch)
    }

    /// Ask every one, so many at a time, and wait for the last answer.
    pub fn ask_all(&mut self, question: &mut Question, at_a_time: usize, watch: Watch<'_>) -> Result<Tally, LoadError> {
        self.begin();
        let mut next = 0;
        while next < self.members.len() || self.waiting > 0 {
            while next < self.members.len() && self.waiting < at_a_time.max(1) {
                self.ask(question, next);
                next += 1;
            }
            if self.waiting > 0 {
                self.turn(question, Some(TELL))?;
            }
            self.tell(watch)?;
        }
        self.end(watch)
    }

    /// Wait until the server has said something to every one.
    pub fn expect(&mut self, question: &mut Question, watch: Watch<'_>) -> Result<Tally, LoadError> {
        self.begin();
        (0..self.members.len()).for_each(|index| self.mark_asked(index));
        while self.waiting > 0 {
            self.turn(question, Some(TELL))?;
            self.tell(watch)?;
        }
        self.asked = VecDeque::new();
        self.end(watch)
    }

    /// Hold them until `control` is readable, asking each once an interval if there is one: evenly, a few at a tick. The
    /// answers are looked at with the next tick, so that one wake-up serves them all.
    pub fn hold(
        &mut self,
        control: RawFd,
        question: &mut Question,
        interval: Option<Duration>,
        watch: Watch<'_>,
    ) -> Result<Tally, LoadError> {
        self.begin();
        let interest = Readiness { readable: true, writable: false };
        self.poller
            .watch(CONTROL, control, interest)
            .map_err(|source| LoadError::Kernel { doing: "watching who is in control", source })?;
        self.is_called = false;
        let mut begun = 0;
        while !self.is_called {
            match interval {
                None => self.turn(question, Some(Duration::from_secs(1)))?,
                Some(interval) => {
                    let due = self.phase_began.elapsed().as_secs_f64() / interval.as_secs_f64();
                    begun = self.ask_up_to(question, begun, (due * self.members.len() as f64) as u64);
                    std::thread::sleep(TICK);
                    self.turn(question, Some(Duration::ZERO))?;
                }
            }
            self.tell(watch)?;
        }
        self.poller.forget(CONTROL, control);
        while self.waiting > 0 {
            self.turn(question, Some(TELL))?;
        }
        self.end(watch)
    }

    /// Those whose turn it is, of all in their order, again and again.
    fn ask_up_to(&mut self, question: &Question, begun: u64, due: u64) -> u64 {
        // Who has been held up for longer than a round owes no more than one.
        for number in begun.max(due.saturating_sub(self.members.len() as u64))..due {
            self.ask(question, (number % self.members.len() as u64) as usize);
        }
        due
    }

    /// Close all, with a reset: nothing of them is left in the kernel.
    pub fn close(self) {
        // It watches them all, and goes at once.
        drop(self.poller);
        for stream in self.members.into_iter().filter_map(|member| member.stream) {
            let _ = options::LINGER.set(&stream, options::Linger(Some(Duration::ZERO)));
        }
    }

    fn begin(&mut self) {
        self.lost_before += self.tally.lost.total();
        self.tally = Tally::default();
        self.phase_began = Instant::now();
    }

    fn end(&mut self, watch: Watch<'_>) -> Result<Tally, LoadError> {
        self.tell_now(watch)?;
        self.tally.open = self.open;
        self.tally.elapsed = self.phase_began.elapsed();
        Ok(self.tally.clone())
    }

    fn now_us(&self) -> u32 {
        self.started.elapsed().as_micros() as u32
    }

    fn tell(&mut self, watch: Watch<'_>) -> Result<(), LoadError> {
        if self.told.elapsed() < TELL {
            return Ok(());
        }
        self.tell_now(watch)
    }

    fn tell_now(&mut self, watch: Watch<'_>) -> Result<(), LoadError> {
        self.told = Instant::now();
        let lost = self.lost_before + self.tally.lost.total();
        match watch(Far { open: self.open, answered: self.tally.answered, lost }) {
            true => Err(LoadError::Interrupted),
            false => Ok(()),
        }
    }

    /// One more member, on its way.
    fn connect(&mut self) {
        let index = self.members.len();
        let source = self.plan.sources[index % self.plan.sources.len()];
        self.members.push(Member { stream: None, asked_us: 0, is_asked: false });
        let begun = net::connect_from(source, &self.plan.address.into()).and_then(|(fd, _)| {
            self.poller.receive(Token::new(index as u32, 0), fd.as_raw_fd())?;
            Ok(fd)
        });
        match begun {
            Ok(fd) => {
                self.members[index].stream = Some(fd.into());
                self.open += 1;
            }
            Err(error) => self.tally.lost.add(ErrorKind::Connect, 1, || format!("from {source}: {error}")),
        }
    }

    /// On loopback the handshake is over when `connect` returns, unless a queue is full.
    fn wait_for_connections(&mut self, first: usize) -> Result<(), LoadError> {
        let began = Instant::now();
        let mut at = first;
        loop {
            let is_there = |member: &Member| member.stream.as_ref().is_none_or(|stream| stream.peer_addr().is_ok());
            while self.members.get(at).is_some_and(is_there) {
                at += 1;
            }
            if at == self.members.len() {
                return Ok(());
            }
            if began.elapsed() > self.plan.answer_timeout {
                let timeout_s = self.plan.answer_timeout.as_secs_f64();
                self.lose(at, ErrorKind::Connect, || format!("not connected within {timeout_s} s"));
                continue;
            }
            // A refusal is told by the poller.
            let nothing = &mut Question::Bytes { ask: Vec::new(), answer: Vec::new() };
            self.turn(nothing, Some(Duration::from_millis(1)))?;
        }
    }

    fn mark_asked(&mut self, index: usize) {
        let now_us = self.now_us();
        let member = &mut self.members[index];
        if member.stream.is_some() && !member.is_asked {
            (member.asked_us, member.is_asked) = (now_us, true);
            let sent_ms = (self.patience.now_ns() / 1_000_000) as u32;
            self.asked.push_back(Asked { index: index as u32, at_us: now_us, sent_ms });
            self.waiting += 1;
            self.tally.asked += 1;
        }
    }

    /// Ask one, unless it is lost or has not answered yet.
    fn ask(&mut self, question: &Question, index: usize) {
        let member = &self.members[index];
        let Some(mut stream) = member.stream.as_ref().filter(|_| !member.is_asked) else { return };
        let request = question.request();
        // So little fits into a socket's buffer, or the peer has not read for long.
        match stream.write(request) {
            Ok(written) if written == request.len() => self.mark_asked(index),
            Ok(written) => self.lose(index, ErrorKind::Broken, || format!("{written} bytes of a question fit")),
            Err(error) => self.lose(index, ErrorKind::Broken, || format!("asking failed: {error}")),
        }
    }

    fn turn(&mut self, question: &mut Question, timeout: Option<Duration>) -> Result<(), LoadError> {
        let mut completions = std::mem::take(&mut self.completions);
        let waited = self.poller.wait(timeout, &mut completions);
        let now_us = self.now_us();
        for completion in completions.drain(..) {
            self.complete(question, completion, now_us);
        }
        self.completions = completions;
        self.poller.recycle();
        self.expire();
        self.patience.turned(self.started.elapsed().as_nanos() as u64);
        waited.map_err(|source| LoadError::Kernel { doing: "waiting for answers", source })
    }

    fn complete(&mut self, question: &mut Question, completion: Completion, now_us: u32) {
        match completion {
            Completion::Received { token, lease } => {
                // SAFETY: the lease is of this turn, and `recycle` comes after all of its completions.
                self.received(question, token.index as usize, unsafe { lease.as_slice() }, now_us);
            }
            Completion::Ended { token } => {
                self.lose(token.index as usize, ErrorKind::Closed, || "the server closed it".to_owned());
            }
            Completion::Failed { token, errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.lose(token.index as usize, ErrorKind::Broken, || format!("the connection broke: {error}"));
            }
            Completion::Ready { .. } => self.is_called = true,
            Completion::Sent { .. } | Completion::Accepted { .. } | Completion::AcceptFailed { .. } => {}
        }
    }

    fn received(&mut self, question: &mut Question, index: usize, bytes: &[u8], now_us: u32) {
        let Some(member) = self.members.get_mut(index).filter(|member| member.stream.is_some()) else { return };
        if !member.is_asked {
            return self.lose(index, ErrorKind::Malformed, || "it said what nobody had asked for".to_owned());
        }
        let mut reader = self.partial.remove(&(index as u32)).unwrap_or_default();
        match question.read(&mut reader, bytes) {
            Ok((_, None)) => {
                self.partial.insert(index as u32, reader);
            }
            Ok((taken, Some(_))) if taken < bytes.len() => {
                self.lose(index, ErrorKind::Malformed, || "it went on behind its answer".to_owned());
            }
            Ok((_, Some(answer))) => match question.objection(&answer) {
                Some((kind, what)) => self.lose(index, kind, || what),
                None => {
                    member.is_asked = false;
                    self.waiting -= 1;
                    self.tally.answered += 1;
                    self.tally.latencies.record_ns(u64::from(now_us.wrapping_sub(member.asked_us)) * 1000);
                }
            },
            Err(malformed) => self.lose(index, ErrorKind::Malformed, || malformed.0),
        }
    }

    /// Who was asked too long ago is lost.
    fn expire(&mut self) {
        let looked_ms = (self.patience.now_ns() / 1_000_000) as u32;
        while let Some(&Asked { index, at_us, sent_ms }) = self.asked.front() {
            let member = &self.members[index as usize];
            if member.is_asked && member.asked_us == at_us {
                if u128::from(looked_ms.wrapping_sub(sent_ms)) <= self.plan.answer_timeout.as_millis() {
                    return;
                }
                let timeout_s = self.plan.answer_timeout.as_secs_f64();
                self.lose(index as usize, ErrorKind::TimedOut, || format!("no whole answer within {timeout_s} s"));
            }
            self.asked.pop_front();
        }
    }

    fn lose(&mut self, index: usize, kind: ErrorKind, what: impl FnOnce() -> String) {
        let Some(member) = self.members.get_mut(index) else { return };
        let Some(stream) = member.stream.take() else { return };
        self.waiting -= usize::from(std::mem::take(&mut member.is_asked));
        self.open -= 1;
        self.partial.remove(&(index as u32));
        self.poller.forget(Token::new(index as u32, 0), stream.as_raw_fd());
        self.tally.lost.add(kind, 1, what);
    }
}
