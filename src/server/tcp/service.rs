//! The streams of one reactor, from their first byte to their last.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use super::connection::{Ending, Marks, StreamConnection};
use super::settings::{Beat, Beats, Endpoint, Shown, StreamSettings};
use crate::core::buffer::{Lease, Owner};
use crate::core::event_loop::HIGH_WATERMARK_BYTES;
use crate::core::{Cause, CloseReason, Io, Token};
use crate::metrics::ReactorCounters;
use crate::protocol::framing::{FrameError, FrameErrorKind, Framing, Scan};
use crate::server::{Connection, FILL_SHARE};

pub type StreamIo = Io<Connection>;

/// Something for the application.
#[derive(Debug)]
pub enum StreamEvent {
    Connected(Token),
    /// At least one whole frame, or what is none, is in these bytes (and in what was held before them).
    Received(Token, Lease),
    /// Held bytes can be looked at again.
    Held(Token),
    /// The peer sends no more.
    Ended(Token),
    /// The peer has read what was sent, nearly.
    Drained(Token),
    /// The connection is gone. `object` is the application's again.
    Closed {
        token: Token,
        endpoint: u16,
        object: usize,
        ending: Ending,
    },
}

/// Why something cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The connection is closed, or about to be.
    Closed,
    /// The peer does not read: so many bytes wait already.
    Full {
        unsent: usize,
        most: usize,
    },
    Frame(FrameError),
}

impl From<FrameError> for StreamError {
    fn from(error: FrameError) -> Self {
        StreamError::Frame(error)
    }
}

/// Bytes to cut frames from, taken out of a connection until `give_back`.
#[derive(Debug)]
pub struct Input {
    bytes: InputBytes,
    at: usize,
    scan: Scan,
    /// Pings that were passed over; they are answered when the rest is given back.
    pings: usize,
}

#[derive(Debug)]
enum InputBytes {
    Leased(Lease),
    #[expect(clippy::box_collection)] // as connections hold it
    Held(Box<Vec<u8>>),
}

impl Input {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            InputBytes::Leased(lease) => leased(lease),
            InputBytes::Held(held) => held,
        }
    }

    /// The next whole frame that is no heartbeat. Behind an error there is none.
    #[inline]
    pub fn next(&mut self, framing: &Framing, beats: Option<&Beats>) -> Result<Option<&[u8]>, FrameError> {
        loop {
            let mut scan = self.scan;
            let Some(cut) = framing.cut(&self.bytes()[self.at..], &mut scan)? else {
                self.scan = scan;
                return Ok(None);
            };
            let start = self.at;
            (self.at, self.scan) = (start + cut.taken, Scan::default());
            match beats.and_then(|beats| beats.of(&self.bytes()[start..self.at])) {
                None => return Ok(Some(&self.bytes()[start + cut.frame.start..start + cut.frame.end])),
                Some(beat) => self.pings += usize::from(beat == Beat::Ping),
            }
        }
    }

    pub fn rest_bytes(&self) -> usize {
        self.bytes().len() - self.at
    }
}

fn leased(lease: &Lease) -> &[u8] {
    // SAFETY: on the reactor's thread; a lease is looked at within the turn that brought it, or in the batch of an event
    // that `settle` kept it for.
    unsafe { lease.as_slice() }
}

fn add(all: &mut Shown, some: Shown) {
    all.iter_mut().zip(some).for_each(|(all, some)| *all += some);
}

#[derive(Default)]
pub struct Streams {
    /// By number; an endpoint that is gone leaves its place to the next.
    endpoints: Vec<Option<Endpoint>>,
    events: VecDeque<StreamEvent>,
    connections: usize,
    /// Of the endpoints that are gone, and what `tell` has told of all.
    gone: Shown,
    told: Shown,
}

impl Streams {
    /// `None` if there are 256 already.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> Option<u16> {
        let free = self.endpoints.iter().position(Option::is_none).unwrap_or(self.endpoints.len());
        let number = u16::from(u8::try_from(free).ok()?);
        if free == self.endpoints.len() {
            self.endpoints.push(None);
        }
        self.endpoints[free] = Some(endpoint);
        Some(number)
    }

    /// Forget an endpoint that has no connection left.
    pub fn remove_endpoint(&mut self, number: u16) {
        debug_assert!(self.endpoint(number).is_none_or(|endpoint| endpoint.counts.connections == 0));
        if let Some(endpoint) = self.endpoints[usize::from(number)].take() {
            add(&mut self.gone, endpoint.counts.shown());
        }
    }

    pub fn endpoint(&self, number: u16) -> Option<&Endpoint> {
        self.endpoints.get(usize::from(number))?.as_ref()
    }

    pub fn endpoint_mut(&mut self, number: u16) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(usize::from(number))?.as_mut()
    }

    /// Whether an endpoint has connections, or their ends are still to be told.
    pub fn has_connections(&self, number: u16) -> bool {
        let is_its = |event: &StreamEvent| matches!(event, StreamEvent::Closed { endpoint, .. } if *endpoint == number);
        self.endpoint(number).is_some_and(|endpoint| endpoint.counts.connections > 0) || self.events.iter().any(is_its)
    }

    /// Count what its endpoints have counted since this was last asked.
    pub fn tell(&mut self, counters: &ReactorCounters) {
        let mut all = self.gone;
        self.endpoints.iter().flatten().for_each(|endpoint| add(&mut all, endpoint.counts.shown()));
        let told = std::mem::replace(&mut self.told, all);
        let targets = [
            &counters.frames_received,
            &counters.frames_sent,
            &counters.frames_too_long,
            &counters.frames_malformed,
            &counters.frames_truncated,
            &counters.connections_over_limit,
            &counters.pings_answered,
        ];
        for (counter, (now, before)) in targets.into_iter().zip(all.into_iter().zip(told)) {
            counter.add(now - before);
        }
    }

    pub fn connections(&self) -> usize {
        self.connections
    }

    pub fn next_event(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// The endpoint that an event concerns.
    pub fn endpoint_of(&self, io: &mut StreamIo, event: &StreamEvent) -> Option<u16> {
        match *event {
            StreamEvent::Connected(token)
            | StreamEvent::Received(token, _)
            | StreamEvent::Held(token)
            | StreamEvent::Ended(token)
            | StreamEvent::Drained(token) => io.stream(token).map(|connection| connection.endpoint),
            StreamEvent::Closed { endpoint, .. } => Some(endpoint),
        }
    }

    /// Whether nothing of the last turn is wanted any more.
    pub fn settle(&mut self) -> bool {
        self.events.is_empty()
    }

    fn settings(&self, connection: &StreamConnection) -> &StreamSettings {
        let endpoint = self.endpoint(connection.endpoint);
        &endpoint.expect("an endpoint stays while it has connections").settings
    }

    /// Take a connection for an endpoint, which has accepted or made it; `None` if there is no room for it.
    pub fn add(&mut self, io: &mut StreamIo, fd: OwnedFd, number: u16) -> Option<Token> {
        let endpoint = self.endpoint_mut(number)?;
        if endpoint.is_stopping || endpoint.counts.connections >= endpoint.settings.max_connections as u64 {
            endpoint.counts.refused_over_limit += u64::from(!endpoint.is_stopping);
            return None;
        }
        let state = StreamConnection { endpoint: number, ..StreamConnection::default() };
        let token = io.add_connection(fd, state.into()).ok()?;
        let endpoint = self.endpoint_mut(number)?;
        endpoint.counts.connections += 1;
        endpoint.counts.accepted += 1;
        if let Some(heartbeat) = &endpoint.settings.heartbeat {
            io.set_deadline(token, heartbeat.interval);
        }
        if endpoint.settings.tell_connected {
            self.events.push_back(StreamEvent::Connected(token));
        }
        self.connections += 1;
        Some(token)
    }

    pub fn received(&mut self, io: &mut StreamIo, token: Token, lease: Lease) {
        let Some(connection) = io.stream(token) else { return };
        let number = connection.endpoint;
        let Some(endpoint) = self.endpoints.get(usize::from(number)).and_then(Option::as_ref) else { return };
        connection.marks.set(Marks::PINGED, false);
        if let Some(heartbeat) = &endpoint.settings.heartbeat {
            io.set_deadline(token, heartbeat.interval);
        }
        let Some(connection) = io.stream(token) else { return };
        // Between two frames a heartbeat alone needs no application, whatever that is busy with.
        if connection.queued == 0
            && connection.held.is_none()
            && let Some(beats) = endpoint.settings.heartbeat.as_ref().and_then(|heartbeat| heartbeat.beats.as_ref())
            && let Some(pings) = beats.alone_in(leased(&lease))
        {
            return self.answer_pings(io, token, pings);
        }
        if connection.queued > 0 {
            // In order behind those.
            return self.queue(io, token, lease);
        }
        if connection.marks.has(Marks::HELD_BACK) {
            connection.hold(leased(&lease));
            let is_full = connection.held_bytes() > endpoint.settings.max_held_bytes;
            if is_full {
                io.pause(token);
            }
            return;
        }
        let mut scan = connection.scan;
        match &mut connection.held {
            None => match endpoint.framing.cut(leased(&lease), &mut scan) {
                Ok(None) => {
                    connection.scan = scan;
                    connection.hold(leased(&lease));
                }
                Ok(Some(_)) | Err(_) => self.queue(io, token, lease),
            },
            Some(held) => {
                held.extend_from_slice(leased(&lease));
                match endpoint.framing.cut(held, &mut scan) {
                    Ok(None) => connection.scan = scan,
                    Ok(Some(_)) | Err(_) => self.events.push_back(StreamEvent::Held(token)),
                }
            }
        }
    }

    /// A peer that does not read has no answer: it knows by itself what it has left unread.
    fn answer_pings(&mut self, io: &mut StreamIo, token: Token, pings: usize) {
        let number = io.stream(token).map(|connection| usize::from(connection.endpoint));
        let endpoint = number.and_then(|number| self.endpoints.get(number)).and_then(Option::as_ref);
        let beats = endpoint.and_then(|endpoint| endpoint.settings.heartbeat.as_ref()?.beats.as_ref());
        let (Some(beats), 1..) = (beats, pings) else { return };
        if self.check_room(io, token, pings * beats.pong().len()).is_err() {
            return;
        }
        (0..pings).for_each(|_| io.append_shared(token, beats.pong()));
        self.after_send(io, token, 0);
        if let Some(endpoint) = number.and_then(|number| self.endpoints.get_mut(number)).and_then(Option::as_mut) {
            endpoint.counts.pings_answered += pings as u64;
        }
    }

    fn queue(&mut self, io: &mut StreamIo, token: Token, lease: Lease) {
        if let Some(connection) = io.stream(token) {
            connection.queued += 1;
            self.events.push_back(StreamEvent::Received(token, lease));
        }
    }

    pub fn ended(&mut self, io: &mut StreamIo, token: Token) {
        if let Some(connection) = io.stream(token) {
            connection.marks.set(Marks::ENDED, true);
            self.events.push_back(StreamEvent::Ended(token));
        }
    }

    pub fn drained(&mut self, io: &mut StreamIo, token: Token) {
        if let Some(connection) = io.stream(token) {
            connection.marks.set(Marks::BEHIND, false);
            self.events.push_back(StreamEvent::Drained(token));
            self.update_reading(io, token);
        }
    }

    pub fn blocked(&mut self, io: &mut StreamIo, token: Token) {
        let Some(connection) = io.stream(token) else { return };
        connection.marks.set(Marks::FILLS, true);
        let timeout = self.settings(connection).write_timeout;
        io.set_deadline(token, timeout / FILL_SHARE);
    }

    pub fn unblocked(&mut self, io: &mut StreamIo, token: Token) {
        let Some(connection) = io.stream(token) else { return };
        match &self.settings(connection).heartbeat {
            Some(heartbeat) => io.set_deadline(token, heartbeat.interval),
            None => io.clear_deadline(token),
        }
    }

    /// Silence, or a peer that reads nothing.
    pub fn expired(&mut self, io: &mut StreamIo, token: Token) {
        let (is_blocked, is_paused) = (io.is_blocked(token), io.is_paused(token));
        let Some(connection) = io.stream(token) else { return };
        let Some(endpoint) = self.endpoints.get_mut(usize::from(connection.endpoint)).and_then(Option::as_mut) else {
            return;
        };
        if is_blocked {
            let fills = connection.marks.has(Marks::FILLS);
            connection.marks.set(Marks::FILLS, false);
            if io.take_progress_bytes(token) == 0 && !fills {
                endpoint.counts.closed_slow_readers += 1;
                io.counters.writes_timed_out.add(1);
                io.note_cause(token, Cause::Stalled);
                return self.abort(io, token, Ending::SlowReader);
            }
            return io.set_deadline(token, endpoint.settings.write_timeout);
        }
        let Some(heartbeat) = &endpoint.settings.heartbeat else { return };
        let left = heartbeat.timeout.saturating_sub(heartbeat.interval);
        if is_paused || connection.queued > 0 || connection.marks.has(Marks::HELD_BACK) {
            // It is we who do not listen.
            io.set_deadline(token, heartbeat.interval);
        } else if connection.marks.has(Marks::PINGED) || left.is_zero() {
            endpoint.counts.closed_silent += 1;
            io.counters.connections_idled_out.add(1);
            io.note_cause(token, Cause::Silent);
            self.close(io, token, Ending::Silent);
        } else {
            connection.marks.set(Marks::PINGED, true);
            if let Some(ping) = &heartbeat.ping {
                io.append_shared(token, ping);
            }
            io.set_deadline(token, left);
        }
    }

    pub fn closed(&mut self, token: Token, connection: StreamConnection, reason: CloseReason) {
        self.connections -= 1;
        let Some(endpoint) = self.endpoint_mut(connection.endpoint) else { return };
        endpoint.counts.connections -= 1;
        let ending = match (connection.ending, reason) {
            (Some(ending), _) => ending,
            (None, CloseReason::Failed(_)) => Ending::Lost,
            (None, CloseReason::Aborted) => Ending::Aborted,
            (None, CloseReason::Finished) if connection.marks.has(Marks::ENDED) => Ending::PeerClosed,
            (None, CloseReason::Finished) => Ending::Closed,
        };
        if connection.object != 0 || endpoint.settings.tell_closed {
            let (endpoint, object) = (connection.endpoint, connection.object);
            self.events.push_back(StreamEvent::Closed { token, endpoint, object, ending });
        }
    }

    /// What there is to cut frames from: what was held, and behind it `lease`. `None` if frames are held back, or there
    /// is nothing. Until `give_back` the connection holds nothing.
    pub fn take_input(&mut self, io: &mut StreamIo, token: Token, lease: Option<Lease>) -> Option<Input> {
        let connection = io.stream(token)?;
        connection.queued -= u16::from(lease.is_some());
        let is_held_back = connection.marks.has(Marks::HELD_BACK);
        match (lease, connection.held.take()) {
            (Some(lease), None) if !is_held_back => {
                Some(Input { bytes: InputBytes::Leased(lease), at: 0, scan: Scan::default(), pings: 0 })
            }
            (lease, held) => {
                connection.held = held;
                connection.hold(lease.as_ref().map_or(&[], leased));
                if is_held_back {
                    self.update_reading(io, token);
                    return None;
                }
                let scan = connection.scan;
                connection.held.take().map(|held| Input { bytes: InputBytes::Held(held), at: 0, scan, pings: 0 })
            }
        }
    }

    /// Keep what was not cut.
    pub fn give_back(&mut self, io: &mut StreamIo, token: Token, input: Input) {
        let Some(connection) = io.stream(token) else { return };
        debug_assert!(connection.held.is_none(), "nothing arrives within a batch");
        connection.scan = input.scan;
        let (at, pings) = (input.at, input.pings);
        match input.bytes {
            InputBytes::Leased(lease) => connection.hold(&leased(&lease)[at..]),
            InputBytes::Held(mut held) => {
                held.drain(..at);
                if !held.is_empty() {
                    connection.held = Some(held);
                }
            }
        }
        self.answer_pings(io, token, pings);
        self.update_reading(io, token);
    }

    /// Whether the application is to be shown no more for now: it asked for that, it is busy, or the peer is behind; or
    /// the connection is on its way out.
    pub fn is_held_back(&self, io: &mut StreamIo, token: Token) -> bool {
        io.is_closing(token) || io.stream(token).is_none_or(|connection| connection.marks.has(Marks::HELD_BACK))
    }

    /// Whether the peer sends no more, and all that it sent has been seen but for part of a frame.
    pub fn has_ended(&self, io: &mut StreamIo, token: Token) -> bool {
        io.stream(token).is_some_and(|connection| {
            connection.queued == 0 && connection.marks.has(Marks::ENDED) && !connection.marks.has(Marks::HELD_BACK)
        })
    }

    /// Whether the peer sends no more.
    pub fn peer_has_ended(&self, io: &mut StreamIo, token: Token) -> bool {
        io.stream(token).is_none_or(|connection| connection.marks.has(Marks::ENDED))
    }

    /// The application's handler is at work on a frame, or has finished with it.
    pub fn set_busy(&mut self, io: &mut StreamIo, token: Token, busy: bool) {
        self.mark(io, token, Marks::BUSY, busy);
    }

    /// The application wants no more frames, or some again.
    pub fn set_paused(&mut self, io: &mut StreamIo, token: Token, paused: bool) {
        self.mark(io, token, Marks::PAUSED, paused);
    }

    fn mark(&mut self, io: &mut StreamIo, token: Token, mark: Marks, whether: bool) {
        let Some(connection) = io.stream(token) else { return };
        let before = connection.marks;
        connection.marks.set(mark, whether);
        let may_go_on = before.has(Marks::HELD_BACK) && !connection.marks.has(Marks::HELD_BACK);
        if may_go_on {
            self.events.push_back(StreamEvent::Held(token));
        }
        self.update_reading(io, token);
    }

    /// Read as long as there is room for what comes; not for a peer that does not read itself.
    fn update_reading(&mut self, io: &mut StreamIo, token: Token) {
        let Some(connection) = io.stream(token) else { return };
        let is_full = connection.held_bytes() > self.settings(connection).max_held_bytes;
        let marks = connection.marks;
        let pauses = marks.has(Marks::PAUSED) || marks.has(Marks::BEHIND) || is_full && marks.has(Marks::HELD_BACK);
        match (pauses, io.is_paused(token)) {
            (true, false) => io.pause(token),
            (false, true) => io.resume(token),
            _ => {}
        }
    }

    /// Whether `bytes` more can wait for the peer.
    fn check_room(&self, io: &mut StreamIo, token: Token, bytes: usize) -> Result<(), StreamError> {
        if io.is_closing(token) || io.has_output_ended(token) {
            return Err(StreamError::Closed);
        }
        let unsent = io.queued_bytes(token);
        let connection = io.stream(token).ok_or(StreamError::Closed)?;
        let most = self.settings(connection).max_unsent_bytes;
        // A frame may be larger than the bound, alone.
        if unsent > 0 && unsent + bytes > most {
            return Err(StreamError::Full { unsent, most });
        }
        Ok(())
    }

    /// Send bytes as they are. True while the peer keeps up.
    pub fn write(&mut self, io: &mut StreamIo, token: Token, bytes: &[u8]) -> Result<bool, StreamError> {
        self.check_room(io, token, bytes.len())?;
        io.append_with(token, |out| out.extend_from_slice(bytes)).ok_or(StreamError::Closed)?;
        Ok(self.after_send(io, token, 1))
    }

    /// Send a frame, copied.
    pub fn send(&mut self, io: &mut StreamIo, token: Token, frame: &[u8]) -> Result<bool, StreamError> {
        self.check_room(io, token, frame.len())?;
        let number = io.stream(token).ok_or(StreamError::Closed)?.endpoint;
        let framing = &self.endpoint(number).ok_or(StreamError::Closed)?.framing;
        io.append_with(token, |out| framing.encode(frame, out)).ok_or(StreamError::Closed)??;
        Ok(self.after_send(io, token, 1))
    }

    /// Send several frames, copied. After an error none of them is sent.
    pub fn send_all(&mut self, io: &mut StreamIo, token: Token, frames: &[&[u8]]) -> Result<bool, StreamError> {
        self.check_room(io, token, frames.iter().map(|frame| frame.len()).sum())?;
        let number = io.stream(token).ok_or(StreamError::Closed)?.endpoint;
        let framing = &self.endpoint(number).ok_or(StreamError::Closed)?.framing;
        let encode = |out: &mut Vec<u8>| {
            let before = out.len();
            let encoded = frames.iter().try_for_each(|frame| framing.encode(frame, out));
            encoded.inspect_err(|_| out.truncate(before))
        };
        io.append_with(token, encode).ok_or(StreamError::Closed)??;
        Ok(self.after_send(io, token, frames.len()))
    }

    /// Send a frame out of the object that holds it.
    ///
    /// # Safety
    /// As for [`Io::append_borrowed`].
    pub unsafe fn send_borrowed(
        &mut self,
        io: &mut StreamIo,
        token: Token,
        frame: &[u8],
        owner: Owner,
    ) -> Result<bool, (StreamError, Owner)> {
        if let Err(error) = self.check_room(io, token, frame.len()) {
            return Err((error, owner));
        }
        let number = io.stream(token).map(|connection| connection.endpoint);
        let Some(endpoint) = number.and_then(|number| self.endpoint(number)) else {
            return Err((StreamError::Closed, owner));
        };
        let head = match endpoint.framing.before(frame) {
            Ok(head) => head,
            Err(error) => return Err((error.into(), owner)),
        };
        if !head.as_ref().is_empty() {
            io.append_with(token, |out| out.extend_from_slice(head.as_ref()));
        }
        // SAFETY: the caller's promise.
        unsafe { io.append_borrowed(token, frame, owner) };
        let after = endpoint.framing.after();
        if !after.is_empty() {
            io.append_with(token, |out| out.extend_from_slice(after));
        }
        Ok(self.after_send(io, token, 1))
    }

    /// Send bytes that are framed already out of the object that holds them, which other connections may send, too. With
    /// `ends_slow` a peer that has no room for them is cut off: the others are not to wait for it.
    ///
    /// # Safety
    /// As for [`Io::append_borrowed`].
    pub unsafe fn send_shared(
        &mut self,
        io: &mut StreamIo,
        token: Token,
        bytes: &[u8],
        owner: Owner,
        ends_slow: bool,
    ) -> Result<bool, (StreamError, Owner)> {
        if let Err(error) = self.check_room(io, token, bytes.len()) {
            if let (StreamError::Full { .. }, true) = (&error, ends_slow) {
                self.close_slow(io, token);
            }
            return Err((error, owner));
        }
        // SAFETY: the caller's promise.
        unsafe { io.append_borrowed(token, bytes, owner) };
        Ok(self.after_send(io, token, 1))
    }

    fn close_slow(&mut self, io: &mut StreamIo, token: Token) {
        let number = io.stream(token).map(|connection| connection.endpoint);
        if let Some(endpoint) = number.and_then(|number| self.endpoint_mut(number)) {
            endpoint.counts.closed_slow_readers += 1;
        }
        self.abort(io, token, Ending::SlowReader);
    }

    fn after_send(&mut self, io: &mut StreamIo, token: Token, frames: usize) -> bool {
        let keeps_up = io.queued_bytes(token) <= HIGH_WATERMARK_BYTES;
        let Some(connection) = io.stream(token) else { return false };
        let number = connection.endpoint;
        if !keeps_up && !connection.marks.has(Marks::BEHIND) {
            connection.marks.set(Marks::BEHIND, true);
            io.want_drained(token);
        }
        if let Some(endpoint) = self.endpoint_mut(number) {
            endpoint.counts.frames_sent += frames as u64;
        }
        keeps_up
    }

    /// Close once what was sent has left. The first reason is the one that is told.
    pub fn close(&mut self, io: &mut StreamIo, token: Token, ending: Ending) {
        if let Some(connection) = io.stream(token) {
            connection.ending.get_or_insert(ending);
            connection.held = None;
            io.close(token);
        }
    }

    pub fn abort(&mut self, io: &mut StreamIo, token: Token, ending: Ending) {
        if let Some(connection) = io.stream(token) {
            connection.ending.get_or_insert(ending);
            connection.held = None;
            io.abort(token);
        }
    }

    /// The application takes frames of a connection that it had left alone; it looks for itself at what is held.
    pub fn want_more(&mut self, io: &mut StreamIo, token: Token) {
        if let Some(connection) = io.stream(token) {
            connection.marks.set(Marks::BUSY, false);
            // A receiver is not kept from reading by what it has not sent yet; sending waits by itself.
            connection.marks.set(Marks::PAUSED, false);
        }
    }

    /// Throw away part of a frame whose rest will never come; how many bytes it was.
    pub fn drop_rest(&mut self, io: &mut StreamIo, token: Token) -> usize {
        io.stream(token).and_then(|connection| connection.held.take()).map_or(0, |held| held.len())
    }

    pub fn count_frames(&mut self, number: u16, frames: u64) {
        if let Some(endpoint) = self.endpoint_mut(number) {
            endpoint.counts.frames_received += frames;
        }
    }

    pub fn count_frame_error(&mut self, number: u16, kind: FrameErrorKind) {
        if let Some(endpoint) = self.endpoint_mut(number) {
            endpoint.counts.frame_error(kind);
        }
    }

    pub fn count_handler_error(&mut self, number: u16) {
        if let Some(endpoint) = self.endpoint_mut(number) {
            endpoint.counts.handler_errors += 1;
        }
    }

    /// Cut off every connection of an endpoint.
    pub fn abort_endpoint(&mut self, io: &mut StreamIo, number: u16, ending: Ending) {
        for token in self.tokens_of(io, number) {
            self.abort(io, token, ending);
        }
    }

    /// The reactor closes: every object that its connections, and events, still have.
    pub fn take_objects(&mut self, io: &mut StreamIo) -> Vec<usize> {
        let of_events = self.events.drain(..).filter_map(|event| match event {
            StreamEvent::Closed { object, .. } => Some(object),
            _ => None,
        });
        let mut objects: Vec<_> = of_events.collect();
        for token in io.connection_tokens() {
            objects.extend(io.stream(token).map(|connection| std::mem::take(&mut connection.object)));
        }
        objects.retain(|&object| object != 0);
        objects
    }

    fn tokens_of(&self, io: &mut StreamIo, number: u16) -> Vec<Token> {
        let mut tokens = io.connection_tokens();
        tokens.retain(|&token| io.stream(token).is_some_and(|connection| connection.endpoint == number));
        tokens
    }

    /// Close every connection of an endpoint but those that are at work, and take no more.
    pub fn stop(&mut self, io: &mut StreamIo, number: u16, ending: Ending, is_at_work: impl Fn(Token) -> bool) {
        if let Some(endpoint) = self.endpoint_mut(number) {
            endpoint.is_stopping = true;
        }
        for token in self.tokens_of(io, number) {
            if !is_at_work(token) {
                self.close(io, token, ending);
            }
        }
    }

    pub fn is_stopping(&self, number: u16) -> bool {
        self.endpoint(number).is_some_and(|endpoint| endpoint.is_stopping)
    }
}
