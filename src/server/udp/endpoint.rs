//! An Endpoint is one datagram socket: its peers, what arrived and waits for its owner, what must leave.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::gather::{Gather, Look};
use super::sessions::{Heard, PeerEnd, SessionLimits, Sessions};
use crate::core::Token;
use crate::core::poller::Readiness;
use crate::metrics::ReactorCounters;
use crate::net::datagram::{Abilities, Destination, Outbox, PeerAddress, ReceiveBatch, SendFailure, segments};
use crate::net::{SocketAddress, peer_address};

/// How an endpoint is run.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// A datagram of more bytes is not handed over, but told as too long.
    pub max_datagram_bytes: usize,
    /// What may wait to be sent. Beyond half of it nothing is received.
    pub max_queued_bytes: usize,
    /// How long a busy socket is left alone, so that a look at it finds more.
    pub gather: Duration,
    /// Peers, of a socket that is not connected.
    pub sessions: SessionLimits,
}

impl EndpointSettings {
    /// What a slot for arriving datagrams holds.
    pub const MAX_DATAGRAM_BYTES: usize = 65_535;
}

/// Something for the endpoint's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A datagram of a peer's: where it is in the inbox's batch. The first of a peer makes it known.
    Datagram {
        peer: Token,
        start: u32,
        bytes: u32,
    },
    /// A datagram that was longer than is allowed, of so many bytes.
    TooLong {
        peer: Token,
        bytes: u32,
    },
    PeerEnded {
        peer: Token,
        end: PeerEnd,
    },
    /// The network, or the kernel, refused something: so many datagrams were lost by it.
    Failed {
        peer: Option<Token>,
        errno: i32,
        lost: usize,
    },
    /// The output is low again, after `want_drained`.
    Drained,
    /// The endpoint is closed; its last event.
    Gone,
}

/// Events in order, and the bytes that they speak of.
#[derive(Default)]
pub struct Inbox {
    pub batch: Option<ReceiveBatch>,
    pub events: Vec<Event>,
    /// Those before have been seen.
    pub at: usize,
}

impl Inbox {
    pub fn is_done(&self) -> bool {
        self.at == self.events.len()
    }

    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.get(self.at).copied()?;
        self.at += 1;
        Some(event)
    }

    pub fn bytes(&self, start: u32, bytes: u32) -> &[u8] {
        self.batch.as_ref().map_or(&[], |batch| batch.bytes(start as usize, bytes as usize))
    }
}

/// Why a datagram was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendRefused {
    TooLong {
        limit: usize,
    },
    /// So many bytes wait already.
    QueueFull {
        queued_bytes: usize,
    },
    /// The peer would get more than its share before it has been verified.
    Amplified {
        received_bytes: u64,
        sent_bytes: u64,
        factor: u32,
    },
    /// The peer has no address that could be sent to.
    Unnamed,
    /// The peer's session has ended.
    PeerEnded,
    Closed,
}

pub struct Endpoint {
    pub(super) fd: OwnedFd,
    /// Of its watch.
    pub(super) watch: Token,
    pub(super) interest: Readiness,
    pub(super) abilities: Abilities,
    settings: EndpointSettings,
    pub(super) gather: Gather,
    pub sessions: Sessions,
    /// Of a connected socket.
    pub peer: Option<Token>,
    pub(super) outbox: Outbox,
    pub(super) inbox: Option<Inbox>,
    /// What happened besides receiving, and has not been put into an inbox yet.
    pub(super) events: Vec<Event>,
    dropped: u32,
    wants_drained: bool,
    pub(super) is_dirty: bool,
    pub(super) is_blocked: bool,
    pub(super) is_paused: bool,
    pub(super) is_starved: bool,
    /// In the list of those that have something for their owner.
    pub(super) is_listed: bool,
    pub(super) is_taken: bool,
    pub(super) is_closing: bool,
}

impl Endpoint {
    pub(super) fn new(fd: OwnedFd, watch: Token, abilities: Abilities, settings: EndpointSettings) -> io::Result<Self> {
        let mut sessions = Sessions::new(settings.sessions.clone());
        let peer = if abilities.connected { Some(sessions.add_permanent(peer_address(&fd)?.into())) } else { None };
        Ok(Endpoint {
            fd,
            watch,
            interest: Readiness { readable: true, writable: false },
            abilities,
            gather: Gather::new(settings.gather),
            settings,
            sessions,
            peer,
            outbox: Outbox::default(),
            inbox: None,
            events: Vec::new(),
            dropped: 0,
            wants_drained: false,
            is_dirty: false,
            is_blocked: false,
            is_paused: false,
            is_starved: false,
            is_listed: false,
            is_taken: false,
            is_closing: false,
        })
    }

    /// Bytes that one datagram may have.
    pub fn max_sent_bytes(&self) -> usize {
        self.abilities.max_bytes
    }

    pub fn queued_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    pub fn want_drained(&mut self) {
        self.wants_drained = true;
    }

    /// Whether it has a say in what arrives now.
    pub(super) fn may_receive(&self) -> bool {
        !self.is_paused && !self.is_closing && self.outbox.bytes() <= self.settings.max_queued_bytes / 2
    }

    pub(super) fn wanted(&self) -> Readiness {
        Readiness { readable: self.may_receive(), writable: self.is_blocked }
    }

    /// What its owner may see now.
    pub(super) fn has_events(&self) -> bool {
        !self.is_paused && !self.is_taken && (self.inbox.is_some() || !self.events.is_empty())
    }

    /// Take what has arrived into `batch`, and make events of it. False: the batch is not needed.
    pub(super) fn receive(
        &mut self,
        mut batch: ReceiveBatch,
        elapsed: Duration,
        counters: &ReactorCounters,
    ) -> Option<ReceiveBatch> {
        debug_assert!(self.inbox.is_none());
        match batch.receive(&self.fd) {
            Ok(messages) => {
                let mut events = std::mem::take(&mut self.events);
                let look = self.sort(&batch, messages, elapsed, counters, &mut events);
                self.gather.found(look, elapsed);
                if events.is_empty() {
                    self.events = events;
                    return Some(batch);
                }
                self.inbox = Some(Inbox { batch: Some(batch), events, at: 0 });
                None
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                if !matches!(errno, libc::EAGAIN | libc::EINTR) {
                    self.events.push(Event::Failed { peer: self.peer, errno, lost: 0 });
                }
                Some(batch)
            }
        }
    }

    /// Make events of a batch's messages, in order.
    fn sort(
        &mut self,
        batch: &ReceiveBatch,
        messages: usize,
        elapsed: Duration,
        counters: &ReactorCounters,
        events: &mut Vec<Event>,
    ) -> Look {
        let mut look = Look { messages, ..Look::default() };
        // Who sent the message before: mostly the same.
        let mut last: Option<(usize, Token)> = None;
        for at in 0..messages {
            let message = batch.message(at);
            if let Some(dropped) = message.control.dropped {
                let lost = dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped));
                counters.datagrams_dropped.add(lost.into());
            }
            let is_same = |&(before, _): &(usize, Token)| {
                let before = batch.message(before);
                before.name == message.name && before.control.local == message.control.local
            };
            let peer = match last.filter(is_same) {
                Some((_, peer)) => {
                    look.together += 1;
                    peer
                }
                None => match self.sender(batch, at, elapsed, counters, events) {
                    Some(peer) => peer,
                    None => {
                        last = None;
                        continue;
                    }
                },
            };
            last = Some((at, peer));
            look.are_joined |= message.control.segment_bytes.is_some();
            counters.bytes_received.add(message.whole_bytes as u64);
            if let Some(session) = self.sessions.open(peer) {
                session.received_bytes += message.whole_bytes as u64;
            }
            self.cut(message, peer, counters, events);
        }
        look
    }

    fn cut(
        &self,
        message: crate::net::datagram::Message<'_>,
        peer: Token,
        counters: &ReactorCounters,
        events: &mut Vec<Event>,
    ) {
        for part in segments(message.whole_bytes, message.control.segment_bytes) {
            counters.datagrams_received.add(1);
            if part.len() > self.settings.max_datagram_bytes || part.end > message.bytes.len() {
                counters.datagrams_too_long.add(1);
                events.push(Event::TooLong { peer, bytes: part.len() as u32 });
            } else {
                let start = (message.start + part.start) as u32;
                events.push(Event::Datagram { peer, start, bytes: part.len() as u32 });
            }
        }
    }

    /// The peer that a message came from; `None` if there is no room for it.
    fn sender(
        &mut self,
        batch: &ReceiveBatch,
        at: usize,
        elapsed: Duration,
        counters: &ReactorCounters,
        events: &mut Vec<Event>,
    ) -> Option<Token> {
        if self.peer.is_some() {
            return self.peer;
        }
        // A family that is none of ours cannot arrive at a socket that is.
        let address = batch.sender(at).ok()?;
        match self.sessions.hear(PeerAddress { address, local: batch.message(at).control.local }, elapsed) {
            Heard::Known(token) => Some(token),
            Heard::New { token, evicted } => {
                if let Some(peer) = evicted {
                    counters.datagram_peers_evicted.add(1);
                    events.push(Event::PeerEnded { peer, end: PeerEnd::Evicted });
                }
                Some(token)
            }
            Heard::Refused => {
                counters.datagrams_refused.add(1);
                None
            }
        }
    }

    /// Queue a datagram for a peer of the table.
    pub fn send(&mut self, peer: Token, datagram: &[u8]) -> Result<(), SendRefused> {
        self.refuse(datagram)?;
        let factor = self.sessions.amplification();
        let is_connected = self.peer.is_some();
        let Some(session) = self.sessions.open(peer) else { return Err(SendRefused::PeerEnded) };
        if session.allowance(factor) < datagram.len() as u64 {
            let (received_bytes, sent_bytes) = (session.received_bytes, session.sent_bytes);
            return Err(SendRefused::Amplified { received_bytes, sent_bytes, factor: factor.unwrap_or_default() });
        }
        session.sent_bytes += datagram.len() as u64;
        let (outbox, peer_address) = (&mut self.outbox, &session.peer);
        let queued = outbox.push(datagram, peer.to_u64(), || match is_connected {
            true => Ok(Destination::connected()),
            false => destination(peer_address, peer.to_u64()),
        });
        queued.map_err(|_| SendRefused::Unnamed)
    }

    /// Queue a datagram for whoever is at an address. `tag` tells one such address from another.
    pub fn send_to(&mut self, address: &PeerAddress, tag: u64, datagram: &[u8]) -> Result<(), SendRefused> {
        self.refuse(datagram)?;
        self.outbox.push(datagram, tag, || destination(address, tag)).map_err(|_| SendRefused::Unnamed)
    }

    fn refuse(&self, datagram: &[u8]) -> Result<(), SendRefused> {
        if self.is_closing {
            return Err(SendRefused::Closed);
        }
        if datagram.len() > self.abilities.max_bytes {
            return Err(SendRefused::TooLong { limit: self.abilities.max_bytes });
        }
        let queued_bytes = self.outbox.bytes();
        // Empty datagrams take room, too.
        let is_full = queued_bytes + datagram.len() > self.settings.max_queued_bytes
            || self.outbox.len() >= self.settings.max_queued_bytes / 16;
        if is_full { Err(SendRefused::QueueFull { queued_bytes }) } else { Ok(()) }
    }

    /// What did not leave becomes events.
    pub(super) fn fail(&mut self, failures: Vec<SendFailure>, counters: &ReactorCounters) {
        for SendFailure { tag, errno, lost } in failures {
            counters.datagrams_failed.add(lost as u64);
            let peer =
                self.peer.or_else(|| Some(Token::from_u64(tag)).filter(|&peer| self.sessions.get(peer).is_some()));
            self.events.push(Event::Failed { peer, errno, lost });
        }
    }

    /// After a flush: whether the owner waits for it is told.
    pub(super) fn tell_if_drained(&mut self) {
        if self.wants_drained && self.outbox.bytes() <= self.settings.max_queued_bytes / 4 {
            self.wants_drained = false;
            self.events.push(Event::Drained);
        }
    }

    /// End the sessions that are due.
    pub(super) fn sweep(&mut self, elapsed: Duration, counters: &ReactorCounters) {
        let events = &mut self.events;
        self.sessions.sweep(elapsed, |peer| {
            counters.datagram_peers_idled_out.add(1);
            events.push(Event::PeerEnded { peer, end: PeerEnd::Idle });
        });
    }

    /// Forget a peer.
    pub(super) fn end_peer(&mut self, peer: Token) {
        if self.sessions.end(peer) {
            self.events.push(Event::PeerEnded { peer, end: PeerEnd::Closed });
        }
    }
}

fn destination(peer: &PeerAddress, tag: u64) -> io::Result<Destination> {
    if peer.address == SocketAddress::Unix(crate::net::UnixAddress::Unnamed) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Destination::peer(peer, tag)
}
