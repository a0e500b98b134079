//! A UDP load: datagrams that the server is to send back, each told by its number. One that has not come back within the
//! timeout is lost: nothing else says so.
//!
//! The loops are those of [`run`](super::run), over sockets instead of connections. An open loop sends when a datagram is
//! due, whatever is still on its way; what is on its way is bounded. Many are sent and received with one call, or the load
//! would cost more than the server.

use std::collections::VecDeque;
use std::io::{self, ErrorKind as IoErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::LoadError;
use super::latency::Latencies;
use super::patience::Patience;
pub use super::plan::{DatagramPlan, Pace, Schedule};
use super::report::Errors;
pub use super::report::{ErrorKind, LoadReport, TargetReport};
pub use super::run::Progress;
use crate::core::poller::{self, Completion, Poller, PollerKind, Readiness};
use crate::core::token::Token;
use crate::net::datagram::{Destination, Outbox, ReceiveBatch, Sender, prepare, segments};
use crate::net::options::{Bytes, RECEIVE_BUFFER};

/// How often the run looks for what is lost.
const SWEEP_NS: u64 = 10_000_000;
const WATCH_EVERY: u64 = 10;
/// Datagrams of one socket that may be on their way in an open loop.
const MOST_ON_THEIR_WAY: usize = 65_536;
/// Messages taken from one socket before the others' turn; as many may wait for the kernel to have room.
const BATCH: usize = 64;
const RECEIVE_BUFFER_BYTES: u32 = 1 << 20;
/// The number comes first.
pub(super) const NUMBER_BYTES: usize = 8;

/// Make the load and wait for its end, telling `watch` about ten times a second how far it is; it ends at once if that
/// says so.
pub fn run_until(plan: &DatagramPlan, watch: &mut dyn FnMut(Progress) -> bool) -> Result<LoadReport, LoadError> {
    plan.check()?;
    let mut poller =
        poller::open(PollerKind::Auto).map_err(|source| LoadError::Kernel { doing: "making a poller", source })?;
    let mut run = Run::open(plan, poller.as_mut())?;
    run.turn_until_done(watch)?;
    Ok(run.into_report())
}

struct OnItsWay {
    number: u64,
    due_ns: u64,
    /// By the run's patience.
    sent_ns: u64,
}

struct Peer {
    socket: UdpSocket,
    outbox: Outbox,
    gso: bool,
    next: u64,
    /// In the order of their numbers.
    on_their_way: VecDeque<OnItsWay>,
    answers: u64,
}

struct Run<'a> {
    schedule: &'a Schedule,
    poller: &'a mut dyn Poller,
    peers: Vec<Peer>,
    /// What is sent, but for its number.
    message: Vec<u8>,
    sender: Sender,
    /// Nanoseconds between two datagrams; 0 in a closed loop.
    interval_ns: f64,
    begun: u64,
    /// Peers that have room.
    with_room: Vec<usize>,
    /// Peers that have something queued.
    with_outbox: Vec<usize>,
    report: TargetReport,
    started: Instant,
    patience: Patience,
    begins_ns: u64,
    ends_ns: u64,
}

impl<'a> Run<'a> {
    fn open(plan: &'a DatagramPlan, poller: &'a mut dyn Poller) -> Result<Self, LoadError> {
        let schedule = &plan.schedule;
        let failed = |opened| {
            move |source| LoadError::Connect { address: schedule.address, opened, wanted: schedule.connections, source }
        };
        let message: Vec<u8> = (0..plan.bytes).map(|at| b'a' + (at % 26) as u8).collect();
        first_echo(schedule, &message).map_err(failed(0))?;
        let mut peers = Vec::with_capacity(schedule.connections);
        for index in 0..schedule.connections {
            let socket = connected(schedule.address).map_err(failed(index))?;
            // As much as is granted, for what comes while the load is busy with others.
            let _ = RECEIVE_BUFFER.set(&socket, Bytes(RECEIVE_BUFFER_BYTES));
            let gso = prepare(&socket).map_err(failed(index))?.gso && plan.gso;
            let token = Token::new(index as u32, 0);
            poller
                .watch(token, socket.as_raw_fd(), Readiness { readable: true, writable: false })
                .map_err(failed(index))?;
            let outbox = Outbox::default();
            peers.push(Peer { socket, outbox, gso, next: 0, on_their_way: VecDeque::new(), answers: 0 });
        }
        let begins_ns = schedule.warm_up.as_nanos() as u64;
        Ok(Run {
            schedule,
            poller,
            with_room: (0..peers.len()).collect(),
            with_outbox: Vec::new(),
            report: TargetReport {
                name: schedule.address.to_string(),
                connections: peers.len(),
                answers: 0,
                answers_in_time: 0,
                body_bytes: 0,
                errors: Errors::default(),
                latencies: Latencies::default(),
                fewest_on_one: 0,
                most_on_one: 0,
            },
            peers,
            sender: Sender::default(),
            message,
            interval_ns: match schedule.pace {
                Pace::Closed => 0.0,
                Pace::PerSecond(rate) => 1e9 / rate,
            },
            begun: 0,
            started: Instant::now(),
            patience: Patience::default(),
            begins_ns,
            ends_ns: begins_ns + schedule.duration.as_nanos() as u64,
        })
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn turn_until_done(&mut self, watch: &mut dyn FnMut(Progress) -> bool) -> Result<(), LoadError> {
        let (mut completions, mut next_sweep_ns, mut sweeps) = (Vec::with_capacity(1024), SWEEP_NS, 0);
        // Room for runs of datagrams, which come as one (GRO).
        let mut batch = ReceiveBatch::new(BATCH, 65_535);
        loop {
            let now_ns = self.now_ns();
            if now_ns < self.ends_ns {
                self.send_what_may_go(now_ns);
            } else if self.peers.iter().all(|peer| peer.on_their_way.is_empty()) {
                return Ok(());
            }
            for index in std::mem::take(&mut self.with_outbox) {
                self.flush(index);
            }
            let timeout = Duration::from_nanos(if self.interval_ns > 0.0 { 0 } else { SWEEP_NS });
            self.poller
                .wait(Some(timeout), &mut completions)
                .map_err(|source| LoadError::Kernel { doing: "waiting for echoes", source })?;
            for completion in completions.drain(..) {
                if let Completion::Ready { token, .. } = completion {
                    self.receive(token.index as usize, &mut batch);
                }
            }
            self.poller.recycle();
            let now_ns = self.now_ns();
            if now_ns >= next_sweep_ns {
                next_sweep_ns = now_ns + SWEEP_NS;
                self.give_up_lost(now_ns);
                sweeps += 1;
                if sweeps % WATCH_EVERY == 0 && watch(self.progress(now_ns)) {
                    return Err(LoadError::Interrupted);
                }
            }
            self.patience.turned(now_ns);
        }
    }

    fn progress(&self, now_ns: u64) -> Progress {
        Progress {
            elapsed: Duration::from_nanos(now_ns),
            answers: self.report.answers,
            errors: self.report.errors.total(),
        }
    }

    fn send_what_may_go(&mut self, now_ns: u64) {
        match self.interval_ns == 0.0 {
            true => std::mem::take(&mut self.with_room).into_iter().for_each(|index| self.fill(index)),
            false => self.queue_what_is_due(now_ns),
        }
    }

    fn queue_what_is_due(&mut self, now_ns: u64) {
        loop {
            let due_ns = (self.begun as f64 * self.interval_ns) as u64;
            if due_ns > now_ns || due_ns >= self.ends_ns {
                return;
            }
            let index = (self.begun % self.peers.len() as u64) as usize;
            self.begun += 1;
            let peer = &self.peers[index];
            if peer.on_their_way.len() < MOST_ON_THEIR_WAY && peer.outbox.len() < BATCH {
                self.queue(index, due_ns);
                continue;
            }
            self.report.errors.add(ErrorKind::NeverSent, 1, || "no room to send what was due".to_owned());
            if due_ns >= self.begins_ns {
                self.report.latencies.record_ns(self.schedule.answer_timeout.as_nanos() as u64);
            }
        }
    }

    /// Closed loop: as many on their way as may be.
    fn fill(&mut self, index: usize) {
        let now_ns = self.now_ns();
        while self.peers[index].on_their_way.len() < self.schedule.pipeline {
            self.queue(index, now_ns);
        }
    }

    fn queue(&mut self, index: usize, due_ns: u64) {
        let sent_ns = self.patience.now_ns();
        let peer = &mut self.peers[index];
        if peer.outbox.is_empty() {
            self.with_outbox.push(index);
        }
        self.message[..NUMBER_BYTES].copy_from_slice(&peer.next.to_be_bytes());
        let queued = peer.outbox.push(&self.message, 0, || Ok(Destination::connected()));
        queued.expect("whom a socket is connected to is an address");
        peer.on_their_way.push_back(OnItsWay { number: peer.next, due_ns, sent_ns });
        peer.next += 1;
    }

    /// Offer the kernel what is queued. What it has no room for is offered again with the next turn.
    fn flush(&mut self, index: usize) {
        let Peer { socket, outbox, gso, .. } = &mut self.peers[index];
        self.sender.flush(&*socket, outbox, true, gso);
        if !outbox.is_empty() {
            self.with_outbox.push(index);
        }
        // The server is gone for a moment, or for good: what is sent then is lost, as the timeout will tell.
        for failure in self.sender.take_failures() {
            let error = io::Error::from_raw_os_error(failure.errno);
            self.report.errors.add(ErrorKind::Broken, 1, || format!("sending failed: {error}"));
        }
    }

    fn receive(&mut self, index: usize, batch: &mut ReceiveBatch) {
        match batch.receive(&self.peers[index].socket) {
            Ok(_) => self.take_echoes(index, batch),
            Err(error) if matches!(error.kind(), IoErrorKind::WouldBlock | IoErrorKind::Interrupted) => {}
            Err(error) => self.report.errors.add(ErrorKind::Broken, 1, || format!("receiving failed: {error}")),
        }
        if self.interval_ns == 0.0 && self.now_ns() < self.ends_ns {
            self.fill(index);
        }
    }

    fn take_echoes(&mut self, index: usize, batch: &ReceiveBatch) {
        let now_ns = self.now_ns();
        for message in (0..batch.len()).map(|at| batch.message(at)) {
            for part in segments(message.bytes.len(), message.control.segment_bytes) {
                self.take_echo(index, &message.bytes[part], now_ns);
            }
        }
    }

    fn take_echo(&mut self, index: usize, echo: &[u8], now_ns: u64) {
        let length = echo.len();
        if length != self.message.len() || echo[NUMBER_BYTES..] != self.message[NUMBER_BYTES..] {
            let wanted = self.message.len();
            let what = || format!("{length} bytes that are no echo of the {wanted} that were sent");
            return self.report.errors.add(ErrorKind::Malformed, 1, what);
        }
        let number = u64::from_be_bytes(echo[..NUMBER_BYTES].try_into().expect("it has eight bytes"));
        let peer = &mut self.peers[index];
        let Ok(at) = peer.on_their_way.binary_search_by_key(&number, |sent| sent.number) else {
            let what = || format!("echo {number} came again, or after it was given up");
            return self.report.errors.add(ErrorKind::Repeated, 1, what);
        };
        let sent = peer.on_their_way.remove(at).expect("it was found there");
        peer.answers += 1;
        self.report.answers += 1;
        self.report.body_bytes += length as u64;
        self.report.answers_in_time += u64::from((self.begins_ns..self.ends_ns).contains(&now_ns));
        if sent.due_ns >= self.begins_ns {
            self.report.latencies.record_ns(now_ns.saturating_sub(sent.due_ns));
        }
    }

    fn give_up_lost(&mut self, now_ns: u64) {
        let timeout_ns = self.schedule.answer_timeout.as_nanos() as u64;
        let looked_ns = self.patience.now_ns();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let before = peer.on_their_way.len();
            while peer.on_their_way.front().is_some_and(|sent| looked_ns - sent.sent_ns > timeout_ns) {
                let sent = peer.on_their_way.pop_front().expect("there is one");
                let what = || format!("no echo within {} s", self.schedule.answer_timeout.as_secs_f64());
                self.report.errors.add(ErrorKind::TimedOut, 1, what);
                if sent.due_ns >= self.begins_ns {
                    self.report.latencies.record_ns(now_ns.saturating_sub(sent.due_ns));
                }
            }
            if self.interval_ns == 0.0 && peer.on_their_way.len() < before {
                self.with_room.push(index);
            }
        }
    }

    fn into_report(mut self) -> LoadReport {
        self.report.fewest_on_one = self.peers.iter().map(|peer| peer.answers).min().unwrap_or(0);
        self.report.most_on_one = self.peers.iter().map(|peer| peer.answers).max().unwrap_or(0);
        for (index, peer) in self.peers.iter().enumerate() {
            self.poller.forget(Token::new(index as u32, 0), peer.socket.as_raw_fd());
        }
        LoadReport { duration: self.schedule.duration, reconnects: 0, targets: vec![self.report], tls: None }
    }
}

fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Whether anybody is there at all: a socket alone does not tell. A few attempts, since datagrams get lost.
fn first_echo(schedule: &Schedule, message: &[u8]) -> io::Result<()> {
    const ATTEMPTS: u32 = 4;
    let socket = connected(schedule.address)?;
    socket.set_read_timeout(Some((schedule.answer_timeout / ATTEMPTS).max(Duration::from_millis(1))))?;
    let mut buffer = vec![0; message.len() + 1];
    for _ in 0..ATTEMPTS {
        socket.send(message)?;
        match socket.recv(&mut buffer) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), IoErrorKind::WouldBlock | IoErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(IoErrorKind::TimedOut, format!("{ATTEMPTS} datagrams were not answered")))
}
