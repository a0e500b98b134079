//! The UDP load: flows, each a connected socket that keeps a window of datagrams under way to a server that echoes.
//!
//! Every datagram carries when it was sent, so a latency is read off its echo; and its flow's epoch, so that what comes
//! after a flow has given its window up as lost counts for nothing. Nothing is sent again: what is lost is counted.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::LoadError;
use super::latency::Latencies;
use crate::core::Token;
use crate::core::poller::{self, Completion, Poller, PollerKind, Readiness};
use crate::net::datagram::{Destination, Outbox, ReceiveBatch, Sender, prepare, segments};

const MAX_FLOWS: usize = 10_000;
const MAX_WINDOW: usize = 1_024;
/// A time, an epoch and a flow's number.
const STAMP_BYTES: usize = 16;
const MAX_DATAGRAM_BYTES: usize = 65_000;
/// How often flows that are silent are looked for.
const SWEEP_NS: u64 = 20_000_000;
/// Datagrams that wait in the load's own sockets, while it is busy.
const RECEIVE_BUFFER_BYTES: u32 = 1 << 20;

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub struct UdpPlan {
    pub address: SocketAddr,
    pub flows: usize,
    /// Datagrams that each flow has under way.
    pub window: usize,
    pub datagram_bytes: usize,
    /// Let a flow's datagrams leave as one where they can (GSO); else each is a packet of its own.
    pub gso: bool,
    pub warm_up: Duration,
    pub duration: Duration,
    /// A flow that is silent for so long has lost its window.
    pub answer_timeout: Duration,
}

impl UdpPlan {
    fn check(&self) -> Result<(), LoadError> {
        let ranges = [
            ("flows", self.flows, 1, MAX_FLOWS),
            ("window", self.window, 1, MAX_WINDOW),
            ("datagram_bytes", self.datagram_bytes, STAMP_BYTES, MAX_DATAGRAM_BYTES),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(LoadError::Plan(format!("{name} is {value}, expected {least} to {most}")));
            }
        }
        if self.duration.is_zero() || self.answer_timeout.is_zero() {
            return Err(LoadError::Plan("duration and answer_timeout must be more than nothing".into()));
        }
        Ok(())
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct UdpReport {
    pub duration: Duration,
    /// Echoes within the measured time.
    pub answers: u64,
    /// Datagrams sent, warm-up included.
    pub sent: u64,
    /// Datagrams without an echo.
    pub lost: u64,
    /// What came back and was not what was sent.
    pub wrong: u64,
    pub latencies: Latencies,
}

impl UdpReport {
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.duration.as_secs_f64()
    }
}

struct Flow {
    socket: UdpSocket,
    outbox: Outbox,
    connected: bool,
    gso: bool,
    in_flight: usize,
    epoch: u32,
    heard_ns: u64,
}

/// Carry a plan out; `stop` is asked now and then whether to end early.
pub fn run_until(plan: &UdpPlan, stop: &mut dyn FnMut() -> bool) -> Result<UdpReport, LoadError> {
    plan.check()?;
    let poller = poller::open(PollerKind::Auto);
    let poller = poller.map_err(|source| LoadError::Kernel { doing: "opening a poller", source })?;
    let mut run = Run::open(plan, poller)?;
    run.turn_until_done(stop)?;
    Ok(run.report)
}

struct Run<'a> {
    plan: &'a UdpPlan,
    poller: Box<dyn Poller>,
    flows: Vec<Flow>,
    batch: ReceiveBatch,
    sender: Sender,
    datagram: Vec<u8>,
    started: Instant,
    begins_ns: u64,
    ends_ns: u64,
    report: UdpReport,
}

impl<'a> Run<'a> {
    fn open(plan: &'a UdpPlan, mut poller: Box<dyn Poller>) -> Result<Self, LoadError> {
        let mut flows = Vec::with_capacity(plan.flows);
        for number in 0..plan.flows {
            let flow = open_flow(plan).map_err(|source| LoadError::Connect {
                address: plan.address,
                opened: number,
                wanted: plan.flows,
                source,
            })?;
            let interest = Readiness { readable: true, writable: false };
            poller
                .watch(Token::new(number as u32, 0), flow.socket.as_raw_fd(), interest)
                .map_err(|source| LoadError::Kernel { doing: "watching a socket", source })?;
            flows.push(flow);
        }
        let begins_ns = plan.warm_up.as_nanos() as u64;
        Ok(Run {
            plan,
            poller,
            flows,
            batch: ReceiveBatch::new(64, 65_535),
            sender: Sender::default(),
            datagram: vec![0x5a; plan.datagram_bytes],
            started: Instant::now(),
            begins_ns,
            ends_ns: begins_ns + plan.duration.as_nanos() as u64,
            report: UdpReport { duration: plan.duration, ..UdpReport::default() },
        })
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn turn_until_done(&mut self, stop: &mut dyn FnMut() -> bool) -> Result<(), LoadError> {
        let (mut completions, mut next_sweep_ns) = (Vec::with_capacity(1024), 0);
        loop {
            let now_ns = self.now_ns();
            if now_ns >= next_sweep_ns {
                next_sweep_ns = now_ns + SWEEP_NS;
                if stop() {
                    return Err(LoadError::Interrupted);
                }
                self.sweep(now_ns);
            }
            if now_ns >= self.ends_ns && self.flows.iter().all(|flow| flow.in_flight == 0) {
                return Ok(());
            }
            let timeout = Duration::from_nanos(SWEEP_NS);
            self.poller
                .wait(Some(timeout), &mut completions)
                .map_err(|source| LoadError::Kernel { doing: "waiting for echoes", source })?;
            for completion in completions.drain(..) {
                if let Completion::Ready { token, .. } = completion {
                    self.receive(token.index as usize)?;
                }
            }
            self.poller.recycle();
        }
    }

    /// Begin, or begin anew, where nothing is under way or all of it is lost.
    fn sweep(&mut self, now_ns: u64) {
        for at in 0..self.flows.len() {
            let flow = &mut self.flows[at];
            let is_lost = now_ns.saturating_sub(flow.heard_ns) >= self.plan.answer_timeout.as_nanos() as u64;
            if flow.in_flight > 0 && is_lost {
                self.report.lost += flow.in_flight as u64;
                flow.in_flight = 0;
                flow.epoch += 1;
            }
            if flow.in_flight == 0 {
                self.flows[at].heard_ns = now_ns;
                self.send(at, self.plan.window, now_ns);
            }
        }
    }

    fn send(&mut self, at: usize, count: usize, now_ns: u64) {
        if now_ns >= self.ends_ns {
            return;
        }
        let flow = &mut self.flows[at];
        self.datagram[..8].copy_from_slice(&now_ns.to_be_bytes());
        self.datagram[8..12].copy_from_slice(&flow.epoch.to_be_bytes());
        self.datagram[12..16].copy_from_slice(&(at as u32).to_be_bytes());
        for _ in 0..count {
            // A connected destination cannot be wrong.
            let _ = flow.outbox.push(&self.datagram, 0, || Ok(Destination::connected()));
        }
        flow.in_flight += count;
        // What the kernel has no room for now leaves with the flow's next datagrams.
        self.sender.flush(&flow.socket, &mut flow.outbox, flow.connected, &mut flow.gso);
        self.report.sent += std::mem::take(&mut self.sender.sent);
    }

    fn receive(&mut self, at: usize) -> Result<(), LoadError> {
        match self.batch.receive(&self.flows[at].socket) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                let waited = self.started.elapsed();
                return Err(LoadError::ServerGone { address: self.plan.address, waited });
            }
            Err(_) => return Ok(()),
        }
        let now_ns = self.now_ns();
        let is_measured = (self.begins_ns..self.ends_ns).contains(&now_ns);
        let mut heard = 0_usize;
        for message in 0..self.batch.len() {
            let message = self.batch.message(message);
            for part in segments(message.bytes.len(), message.control.segment_bytes) {
                let flow = &self.flows[at];
                match sent_ns(&message.bytes[part], self.plan.datagram_bytes, flow.epoch, at as u32) {
                    Stamp::Mine(sent_ns) => {
                        heard += 1;
                        if is_measured {
                            self.report.answers += 1;
                            self.report.latencies.record_ns(now_ns.saturating_sub(sent_ns));
                        }
                    }
                    Stamp::Late => {}
                    Stamp::Wrong => self.report.wrong += 1,
                }
            }
        }
        let flow = &mut self.flows[at];
        flow.heard_ns = now_ns;
        // More than was sent is the server's mistake.
        self.report.wrong += heard.saturating_sub(flow.in_flight) as u64;
        let heard = heard.min(flow.in_flight);
        flow.in_flight -= heard;
        if heard > 0 {
            self.send(at, heard, now_ns);
        }
        Ok(())
    }
}

fn open_flow(plan: &UdpPlan) -> std::io::Result<Flow> {
    let any = if plan.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // As much as is granted.
    let _ = crate::net::options::RECEIVE_BUFFER.set(&socket, crate::net::options::Bytes(RECEIVE_BUFFER_BYTES));
    socket.connect(plan.address)?;
    let abilities = prepare(&socket)?;
    let (gso, connected) = (abilities.gso && plan.gso, abilities.connected);
    Ok(Flow { socket, outbox: Outbox::default(), connected, gso, in_flight: 0, epoch: 0, heard_ns: 0 })
}

enum Stamp {
    Mine(u64),
    /// Of a window that was given up.
    Late,
    Wrong,
}

fn sent_ns(datagram: &[u8], bytes: usize, epoch: u32, flow: u32) -> Stamp {
    if datagram.len() != bytes {
        return Stamp::Wrong;
    }
    let words: [u32; 4] =
        std::array::from_fn(|at| datagram[at * 4..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word)));
    let [high, low, sent_epoch, sent_flow] = words;
    match sent_flow == flow {
        true if sent_epoch == epoch => Stamp::Mine(u64::from(high) << 32 | u64::from(low)),
        true => Stamp::Late,
        false => Stamp::Wrong,
    }
}
