//! The datagram service of one reactor: endpoints, each a socket with its peers.
//!
//! It hears of readiness by watches and makes the calls itself, detached: one `recvmmsg` an endpoint and turn, and
//! `sendmmsg` for all that a turn has produced, right before the reactor sleeps. What arrives is handed over as one inbox;
//! until that has been seen nothing more is received, so what one endpoint can have in flight is bounded, and the kernel
//! drops (and counts) what is too much.
//!
//! Buffers belong to the service and not to its endpoints: an idle endpoint has none.

mod endpoint;
mod gather;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::core::poller::Readiness;
use crate::core::slab::Slab;
use crate::core::{Io, Token};
use crate::net::datagram::{FlushEnd, ReceiveBatch, Sender, pause, prepare};

pub use endpoint::{Endpoint, EndpointSettings, Event, Inbox, SendRefused};
pub use sessions::{PeerEnd, Session, SessionLimits};

/// Messages that one turn takes from one endpoint; with GRO each may be up to 64 datagrams.
const BATCH_MESSAGES: usize = 64;
/// Endpoints that can have received in one turn. Others wait for the next, and then come first.
const MAX_BATCHES: usize = 8;
/// How long a closed endpoint may try to send what is queued.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// An endpoint of a service.
pub type EndpointId = Token;

#[derive(Default)]
pub struct UdpService {
    endpoints: Slab<Box<Endpoint>>,
    by_watch: HashMap<Token, EndpointId>,
    /// Batches that nobody uses, and how many there are in all.
    batches: Vec<ReceiveBatch>,
    batches_made: usize,
    /// Endpoints that found no batch.
    starved: VecDeque<EndpointId>,
    /// Endpoints that have something for their owners.
    listed: VecDeque<EndpointId>,
    /// Endpoints that have something to send, or whose wishes have changed.
    dirty: Vec<EndpointId>,
    sender: Sender,
    started: Option<Instant>,
    /// The turn, by when it began, that has waited for more to come: one pause is enough for all of its sockets.
    paused_in: Option<Instant>,
}

impl UdpService {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Take a bound or connected datagram socket.
    pub fn add<C: Default>(
        &mut self,
        io: &mut Io<C>,
        fd: OwnedFd,
        settings: EndpointSettings,
    ) -> io::Result<EndpointId> {
        let abilities = prepare(&fd)?;
        self.started.get_or_insert_with(|| io.now());
        let watch = io.watch(fd.as_raw_fd(), Readiness { readable: true, writable: false })?;
        let endpoint = Endpoint::new(fd, watch, abilities, settings).inspect_err(|_| io.unwatch(watch))?;
        let id = self.endpoints.insert(Box::new(endpoint));
        self.by_watch.insert(watch, id);
        Ok(id)
    }

    pub fn endpoint(&mut self, id: EndpointId) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(id).map(|endpoint| &mut **endpoint)
    }

    /// The socket of an endpoint, for its options.
    pub fn socket(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        self.endpoints.get(id).map(|endpoint| endpoint.fd.as_fd())
    }

    fn elapsed<C: Default>(&self, io: &Io<C>) -> Duration {
        self.started.map_or(Duration::ZERO, |started| io.now().saturating_duration_since(started))
    }

    /// A watch is ready: true if it is an endpoint's.
    pub fn ready<C: Default>(&mut self, io: &mut Io<C>, watch: Token, readiness: Readiness) -> bool {
        if self.by_watch.is_empty() {
            return false;
        }
        let Some(&id) = self.by_watch.get(&watch) else { return false };
        if readiness.writable
            && let Some(endpoint) = self.endpoints.get_mut(id)
        {
            endpoint.is_blocked = false;
            self.touch(id);
        }
        if readiness.readable {
            self.receive(io, id);
        }
        true
    }

    fn receive<C: Default>(&mut self, io: &mut Io<C>, id: EndpointId) {
        let elapsed = self.elapsed(io);
        let Some(endpoint) = self.endpoints.get_mut(id) else { return };
        if endpoint.inbox.is_some() || endpoint.is_taken || !endpoint.may_receive() {
            return;
        }
        let batch = self.batches.pop().or_else(|| {
            (self.batches_made < MAX_BATCHES).then(|| {
                self.batches_made += 1;
                ReceiveBatch::new(BATCH_MESSAGES, EndpointSettings::MAX_DATAGRAM_BYTES)
            })
        });
        let Some(batch) = batch else {
            if !std::mem::replace(&mut endpoint.is_starved, true) {
                self.starved.push_back(id);
            }
            return;
        };
        let turn = io.now();
        if let Some(wanted) = endpoint.gather.wanted()
            && self.paused_in.replace(turn) != Some(turn)
        {
            pause(wanted);
            endpoint.gather.paused();
            io.counters.datagram_pauses.add(1);
        }
        let unused = endpoint.receive(batch, elapsed, &io.counters);
        if io.time_left(endpoint.watch).is_none()
            && let Some(next) = endpoint.sessions.next_sweep(elapsed)
        {
            io.set_deadline(endpoint.watch, next);
        }
        self.batches.extend(unused);
        self.list(id);
    }

    /// A deadline has passed: true if it is an endpoint's.
    pub fn expired<C: Default>(&mut self, io: &mut Io<C>, watch: Token) -> bool {
        if self.by_watch.is_empty() {
            return false;
        }
        let Some(&id) = self.by_watch.get(&watch) else { return false };
        let elapsed = self.elapsed(io);
        let Some(endpoint) = self.endpoints.get_mut(id) else { return true };
        if endpoint.is_closing {
            // It had its time.
            let lost = endpoint.outbox.len();
            if lost > 0 {
                io.counters.datagrams_failed.add(lost as u64);
                endpoint.events.push(Event::Failed { peer: None, errno: libc::ETIMEDOUT, lost });
            }
            self.bury(io, id);
            return true;
        }
        endpoint.sweep(elapsed, &io.counters);
        if let Some(next) = endpoint.sessions.next_sweep(elapsed) {
            io.set_deadline(watch, next);
        }
        self.list(id);
        true
    }

    /// Before the reactor sleeps: send what waits. False if the turn is not to sleep.
    pub fn settle<C: Default>(&mut self, io: &mut Io<C>) -> bool {
        while !self.batches.is_empty() || self.batches_made < MAX_BATCHES {
            let Some(id) = self.starved.pop_front() else { break };
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                endpoint.is_starved = false;
                self.receive(io, id);
            }
        }
        let mut is_settled = true;
        for id in std::mem::take(&mut self.dirty) {
            is_settled &= self.flush(io, id);
        }
        // What a flush found out is to be told now, and not after the sleep.
        is_settled && self.listed.is_empty()
    }

    fn flush<C: Default>(&mut self, io: &mut Io<C>, id: EndpointId) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(id) else { return true };
        endpoint.is_dirty = false;
        let mut end = FlushEnd::Blocked;
        if !endpoint.is_blocked {
            let Endpoint { fd, outbox, abilities, .. } = &mut **endpoint;
            end = self.sender.flush(&*fd, outbox, abilities.connected, &mut abilities.gso);
            io.counters.datagrams_sent.add(std::mem::take(&mut self.sender.sent));
            io.counters.bytes_sent.add(std::mem::take(&mut self.sender.sent_bytes));
            if end == FlushEnd::Blocked {
                io.counters.sends_blocked.add(1);
            }
            endpoint.is_blocked = end == FlushEnd::Blocked;
            if self.sender.has_failures() {
                endpoint.fail(self.sender.take_failures(), &io.counters);
            }
            endpoint.tell_if_drained();
        }
        let wanted = endpoint.wanted();
        if wanted != endpoint.interest && io.rewatch(endpoint.watch, wanted).is_ok() {
            endpoint.interest = wanted;
        }
        if endpoint.is_closing && end == FlushEnd::Empty {
            self.bury(io, id);
            return true;
        }
        self.list(id);
        if end == FlushEnd::Share {
            self.touch(id);
        }
        end != FlushEnd::Share
    }

    /// The endpoint has something to send, or its wishes have changed.
    pub fn touch(&mut self, id: EndpointId) {
        if let Some(endpoint) = self.endpoints.get_mut(id)
            && !std::mem::replace(&mut endpoint.is_dirty, true)
        {
            self.dirty.push(id);
        }
    }

    fn list(&mut self, id: EndpointId) {
        if let Some(endpoint) = self.endpoints.get_mut(id)
            && endpoint.has_events()
            && !std::mem::replace(&mut endpoint.is_listed, true)
        {
            self.listed.push_back(id);
        }
    }

    /// Whether something waits for an owner.
    pub fn has_events(&self) -> bool {
        !self.listed.is_empty()
    }

    /// The next endpoint's inbox, which is to be given back.
    pub fn take_inbox(&mut self) -> Option<(EndpointId, Inbox)> {
        loop {
            let id = self.listed.pop_front()?;
            let Some(endpoint) = self.endpoints.get_mut(id) else { continue };
            endpoint.is_listed = false;
            if !endpoint.has_events() {
                continue;
            }
            let events = &mut endpoint.events;
            let inbox =
                (endpoint.inbox.take()).unwrap_or_else(|| Inbox { events: std::mem::take(events), ..Inbox::default() });
            endpoint.is_taken = true;
            return Some((id, inbox));
        }
    }

    /// Give an inbox back, seen or not: what was not waits for the next time.
    pub fn give_back(&mut self, id: EndpointId, mut inbox: Inbox) {
        let Some(endpoint) = self.endpoints.get_mut(id) else {
            self.batches.extend(inbox.batch);
            return;
        };
        endpoint.is_taken = false;
        if inbox.is_done() {
            self.batches.extend(inbox.batch.take());
            if endpoint.events.is_empty() {
                // Its room serves again.
                inbox.events.clear();
                endpoint.events = inbox.events;
            }
        } else {
            endpoint.inbox = Some(inbox);
        }
        self.list(id);
    }

    /// Its owner wants to see nothing for now, or again.
    pub fn set_paused(&mut self, id: EndpointId, is_paused: bool) {
        if let Some(endpoint) = self.endpoints.get_mut(id)
            && endpoint.is_paused != is_paused
        {
            endpoint.is_paused = is_paused;
            self.touch(id);
            self.list(id);
        }
    }

    /// Forget a peer.
    pub fn end_peer(&mut self, id: EndpointId, peer: Token) {
        if let Some(endpoint) = self.endpoints.get_mut(id) {
            endpoint.end_peer(peer);
            self.list(id);
        }
    }

    /// Receive no more, send what is queued, and go. `Event::Gone` is told at the end.
    pub fn close<C: Default>(&mut self, io: &mut Io<C>, id: EndpointId) {
        if let Some(endpoint) = self.endpoints.get_mut(id).filter(|endpoint| !endpoint.is_closing) {
            endpoint.is_closing = true;
            // What its owner has not seen, it will; nothing may be in the way of the end.
            endpoint.is_paused = false;
            io.set_deadline(endpoint.watch, CLOSE_WITHIN);
            self.touch(id);
        }
    }

    /// The socket goes; the endpoint stays until its owner has seen the last of it.
    fn bury<C: Default>(&mut self, io: &mut Io<C>, id: EndpointId) {
        if let Some(endpoint) = self.endpoints.get_mut(id)
            && self.by_watch.remove(&endpoint.watch).is_some()
        {
            io.unwatch(endpoint.watch);
            endpoint.events.push(Event::Gone);
            self.list(id);
        }
    }

    /// Its owner has seen `Event::Gone`: the socket is closed.
    pub fn remove(&mut self, id: EndpointId) {
        self.endpoints.remove(id);
    }
}
