//! An Exchange is one request and its response while they last. It owns the bytes that wait for either side.

use std::borrow::Cow;
use std::time::Instant;

use super::access_log::LogRecord;
use super::error_page::PageStyle;
use super::input::Took;
use crate::core::buffer::Lease;
use crate::protocol::http1::forwarded::Forwarded;
use crate::protocol::http1::{
    BodyDecoder, BodyFraming, BodyMode, BodyWriter, HeadScanner, HttpError, Limits, RequestHead,
};

/// What the connection's input is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Head,
    Body,
    /// The request is whole; what arrives now belongs to the next one.
    Whole,
}

/// Where the head's bytes are.
#[derive(Clone, Copy)]
pub(super) enum HeadPlace {
    Leased(Lease),
    /// In `Exchange::head_bytes`: it arrived in parts, or behind another request.
    Owned,
    /// It was leased, and its turn is over; or it never was right.
    Gone,
}

/// How far the response is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Unstarted,
    Started,
    Complete,
}

pub(super) struct Exchange {
    pub stage: Stage,
    /// Input not yet understood: a partial head, a pipelined request. `at` is where it begins.
    pub raw: Vec<u8>,
    pub at: usize,
    pub scanner: HeadScanner,
    pub head: RequestHead,
    pub head_place: HeadPlace,
    pub head_bytes: Vec<u8>,
    /// What the head said of it, once it is gone.
    page_style: PageStyle,
    pub decoder: BodyDecoder,
    /// Body bytes that nobody has taken yet: a slice of this turn's arena, or a copy.
    pub body_lease: Option<Lease>,
    pub body: Vec<u8>,
    /// Body bytes in all, and since the deadline was last looked at.
    pub body_received: u64,
    pub body_received_in_window: u64,
    /// In the server's list of exchanges with a leased head or body.
    pub listed_as_leased: bool,
    /// The application was given the last of the body.
    pub body_delivered: bool,
    /// The application waits for body bytes, or for the end of the connection.
    pub receive_waiting: bool,
    /// The client was told to send its body, or began by itself.
    pub is_continued: bool,
    /// Body bytes thrown away after the response.
    pub unread: u64,
    pub is_head: bool,
    pub is_get: bool,
    /// A subscription to events: answered with them, to a GET, as EventSource asks.
    pub is_subscription: bool,
    pub keep_alive: bool,
    pub peer_ended: bool,
    /// The next request waits until the peer has taken more of the last responses.
    pub held_back: bool,
    /// When its head was whole; only while durations are measured.
    pub began: Option<Instant>,
    pub answer: Answer,
    pub status: u16,
    pub writer: BodyWriter,
    /// The application has trailers to send after the body.
    pub trailers_follow: bool,
    /// What a trusted proxy says of the request.
    pub forwarded: Option<Box<Forwarded>>,
    /// What the access log will say of it, if there is one.
    pub log: LogRecord,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            stage: Stage::Head,
            raw: Vec::new(),
            at: 0,
            scanner: HeadScanner::default(),
            head: RequestHead::default(),
            head_place: HeadPlace::Owned,
            head_bytes: Vec::new(),
            page_style: PageStyle::Plain,
            decoder: BodyDecoder::new(BodyFraming::None),
            body_lease: None,
            body: Vec::new(),
            body_received: 0,
            body_received_in_window: 0,
            listed_as_leased: false,
            body_delivered: false,
            receive_waiting: false,
            is_continued: false,
            unread: 0,
            is_head: false,
            is_get: false,
            is_subscription: false,
            keep_alive: true,
            peer_ended: false,
            held_back: false,
            began: None,
            answer: Answer::Unstarted,
            status: 0,
            writer: BodyWriter::new(BodyMode::Forbidden),
            trailers_follow: false,
            forwarded: None,
            log: LogRecord::default(),
        }
    }
}

/// Of a body that the application left unread, so much is read out to keep the connection.
const MAX_UNREAD_BYTES: u64 = 64 * 1024;
/// A buffer larger than this is not kept for the next request.
const KEPT_BYTES: usize = 16 * 1024;

/// As much is remembered of what a request asks for, when its turn is over.
const ASKS_BYTES: usize = 128;

fn write_asks(out: &mut Vec<u8>, head: &RequestHead, bytes: &[u8]) {
    out.extend_from_slice(head.method.of(bytes));
    out.push(b' ');
    let path = head.path.of(bytes);
    out.extend_from_slice(&path[..path.len().min(ASKS_BYTES.saturating_sub(out.len()))]);
}

fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Find and parse a head at the start of `bytes`; how long it is, once it is whole.
fn read_head(
    scanner: &mut HeadScanner,
    head: &mut RequestHead,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<usize>, HttpError> {
    let Some(end) = scanner.find_end(bytes, limits)? else { return Ok(None) };
    head.parse(&bytes[..end], limits)?;
    Ok(Some(end))
}

impl Exchange {
    /// Ready for the next request of the same connection; input that is there already stays.
    pub fn next(&mut self) {
        self.stage = Stage::Head;
        self.scanner = HeadScanner::default();
        self.head_place = HeadPlace::Gone;
        self.body_lease = None;
        empty(&mut self.body);
        (self.body_received, self.body_received_in_window) = (0, 0);
        (self.body_delivered, self.receive_waiting, self.is_continued) = (false, false, false);
        (self.is_head, self.is_get, self.is_subscription) = (false, false, false);
        (self.keep_alive, self.unread) = (true, 0);
        (self.answer, self.status) = (Answer::Unstarted, 0);
        (self.trailers_follow, self.forwarded) = (false, None);
        self.log.clear();
        self.compact();
    }

    /// Ready for another connection.
    pub fn recycle(&mut self) {
        self.next();
        empty(&mut self.raw);
        empty(&mut self.head_bytes);
        (self.at, self.peer_ended, self.held_back, self.listed_as_leased) = (0, false, false, false);
    }

    /// Input not yet understood.
    pub fn pending(&self) -> &[u8] {
        &self.raw[self.at..]
    }

    fn compact(&mut self) {
        if self.at == self.raw.len() {
            empty(&mut self.raw);
            self.at = 0;
        } else if self.at > KEPT_BYTES {
            self.raw.drain(..self.at);
            self.at = 0;
        }
    }

    /// Whether the rest of the request, if the response ended now, would be worth reading for the next one's sake.
    pub fn can_be_read_out(&self) -> bool {
        match self.stage {
            Stage::Head => false,
            Stage::Whole => true,
            // A client that waits for `100 Continue` may send the body or not: what comes next could be either.
            Stage::Body if self.head.expect_continue && !self.is_continued => false,
            Stage::Body => match self.decoder {
                BodyDecoder::Length { remaining } => remaining <= MAX_UNREAD_BYTES,
                BodyDecoder::Chunked(_) => true,
            },
        }
    }

    /// Whether the client is to be told to go on, by whoever wants its body. Once.
    pub fn invites_body(&mut self) -> bool {
        let is_waiting = self.head.expect_continue && !self.is_continued;
        self.is_continued |= is_waiting;
        is_waiting && self.answer == Answer::Unstarted
    }

    /// Whether it may still become so, if the response goes on (`whole`: it does not).
    pub fn may_be_followed(&self, whole: bool) -> bool {
        self.can_be_read_out() || !whole && (self.is_continued || !self.head.expect_continue)
    }

    /// The response is complete and nobody wants the rest of the body: read it out, within bounds.
    pub fn throw_body_away(&mut self) -> Result<Took, HttpError> {
        self.unread += self.body_bytes() as u64;
        self.body_lease = None;
        self.body.clear();
        match self.stage {
            Stage::Whole => Ok(Took::LastUnread),
            _ if self.unread > MAX_UNREAD_BYTES => Err(HttpError::CONTENT_TOO_LARGE),
            _ => Ok(Took::All),
        }
    }

    /// The application has trailers, and the client wants them.
    pub fn sends_trailers(&self) -> bool {
        self.trailers_follow && self.head.accepts_trailers
    }

    /// How the server's own pages about this request should look.
    pub fn page_style(&self) -> PageStyle {
        match self.head_slice() {
            Some(bytes) => PageStyle::accepted(self.head.header(bytes, "accept")),
            None => self.page_style,
        }
    }

    /// A request was parsed, and its response is not complete.
    pub fn in_progress(&self) -> bool {
        self.stage != Stage::Head && self.answer != Answer::Complete
    }

    /// Find and parse a head at the start of `bytes`; how long it is, once it is whole.
    pub fn parse_head(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HttpError> {
        let outcome = read_head(&mut self.scanner, &mut self.head, bytes, limits);
        outcome.inspect_err(|_| self.give_up(PageStyle::told_in(bytes)))
    }

    /// The same, in the input that waits.
    pub fn parse_pending_head(&mut self, limits: &Limits) -> Result<bool, HttpError> {
        let outcome = read_head(&mut self.scanner, &mut self.head, &self.raw[self.at..], limits);
        let Some(end) = outcome.inspect_err(|_| self.give_head_up())? else { return Ok(false) };
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(&self.raw[self.at..self.at + end]);
        self.at += end;
        self.head_place = HeadPlace::Owned;
        Ok(true)
    }

    /// The head that waits will never be whole, or right: all that is wanted of it is how a page about that should look.
    pub fn give_head_up(&mut self) {
        self.give_up(PageStyle::told_in(self.pending()));
    }

    fn give_up(&mut self, style: PageStyle) {
        (self.head_place, self.page_style) = (HeadPlace::Gone, style);
    }

    /// The head's bytes, unless they were leased in a turn that is over.
    pub fn head_slice(&self) -> Option<&[u8]> {
        match self.head_place {
            // SAFETY: `settle` is called before the poller recycles, and no head is leased after it.
            HeadPlace::Leased(lease) => Some(unsafe { lease.as_slice() }),
            HeadPlace::Owned => Some(&self.head_bytes),
            HeadPlace::Gone => None,
        }
    }

    /// Keep the head for as long as the request lasts, wherever its bytes came from.
    pub fn own_head(&mut self) {
        if let HeadPlace::Leased(lease) = self.head_place {
            self.head_bytes.clear();
            // SAFETY: a lease is given up (`settle`) before the poller recycles.
            self.head_bytes.extend_from_slice(unsafe { lease.as_slice() });
            self.head_place = HeadPlace::Owned;
        }
    }

    pub fn view(&self) -> Option<RequestView<'_>> {
        let forwarded = self.forwarded.as_deref();
        self.head_slice().map(|bytes| RequestView { bytes, head: &self.head, forwarded })
    }

    /// Decode body bytes that arrived just now; what is left belongs to the next request.
    pub fn decode_lease(&mut self, lease: Lease) -> Result<Lease, HttpError> {
        // SAFETY: the lease is of this turn.
        let bytes = unsafe { lease.as_slice() };
        let mut at = 0;
        while at < bytes.len() && self.stage == Stage::Body {
            let decoded = self.decoder.decode(&bytes[at..])?;
            let data = at + decoded.data.start..at + decoded.data.end;
            self.is_continued |= decoded.consumed > 0;
            self.keep_body(lease.slice(data));
            at += decoded.consumed;
            if decoded.finished {
                self.stage = Stage::Whole;
            }
        }
        Ok(lease.slice(at..bytes.len()))
    }

    /// Decode body bytes out of the input that waits.
    pub fn decode_pending(&mut self) -> Result<(), HttpError> {
        while self.at < self.raw.len() && self.stage == Stage::Body {
            let decoded = self.decoder.decode(&self.raw[self.at..])?;
            self.settle_body();
            self.count_body(decoded.data.len());
            self.is_continued |= decoded.consumed > 0;
            self.body.extend_from_slice(&self.raw[self.at + decoded.data.start..self.at + decoded.data.end]);
            self.at += decoded.consumed;
            if decoded.finished {
                self.stage = Stage::Whole;
            }
        }
        self.compact();
        Ok(())
    }

    fn keep_body(&mut self, data: Lease) {
        self.count_body(data.len());
        if data.is_empty() {
        } else if self.body_lease.is_none() && self.body.is_empty() {
            self.body_lease = Some(data);
        } else {
            self.settle_body();
            // SAFETY: the lease is of this turn.
            self.body.extend_from_slice(unsafe { data.as_slice() });
        }
    }

    fn count_body(&mut self, bytes: usize) {
        self.body_received += bytes as u64;
        self.body_received_in_window += bytes as u64;
    }

    /// Keep what is still wanted of what is leased: the arena is about to be used again.
    pub fn settle(&mut self) {
        self.settle_body();
        if let HeadPlace::Leased(lease) = self.head_place {
            self.page_style = self.page_style();
            self.head_place = HeadPlace::Gone;
            // SAFETY: called before the poller recycles.
            let bytes = unsafe { lease.as_slice() };
            self.head_bytes.clear();
            write_asks(&mut self.head_bytes, &self.head, bytes);
        }
    }

    /// Method and path of the request that is under way, without its query, and at most `ASKS_BYTES` of it.
    pub fn asks(&self) -> Option<Cow<'_, [u8]>> {
        if !self.in_progress() {
            return None;
        }
        match self.head_slice() {
            Some(bytes) => {
                let mut asks = Vec::new();
                write_asks(&mut asks, &self.head, bytes);
                Some(asks.into())
            }
            None => (!self.head_bytes.is_empty()).then(|| (&self.head_bytes[..]).into()),
        }
    }

    fn settle_body(&mut self) {
        if let Some(lease) = self.body_lease.take() {
            // SAFETY: called before the poller recycles.
            self.body.extend_from_slice(unsafe { lease.as_slice() });
        }
    }

    pub fn is_leased(&self) -> bool {
        self.body_lease.is_some() || matches!(self.head_place, HeadPlace::Leased(_))
    }

    /// Body bytes that nobody has taken yet.
    pub fn body_bytes(&self) -> usize {
        self.body.len() + self.body_lease.map_or(0, Lease::len)
    }

    /// Hand over what there is of the body.
    pub fn take_body<R>(&mut self, deliver: impl FnOnce(&[u8], bool) -> R) -> R {
        let more = self.stage == Stage::Body;
        self.body_delivered = !more;
        let result = match self.body_lease.take() {
            // SAFETY: still leased, so the poller has not recycled.
            Some(lease) => deliver(unsafe { lease.as_slice() }, more),
            None => deliver(&self.body, more),
        };
        empty(&mut self.body);
        result
    }
}

/// A request's head, as it came.
pub struct RequestView<'a> {
    pub bytes: &'a [u8],
    pub head: &'a RequestHead,
    /// What a trusted proxy says of it.
    pub forwarded: Option<&'a Forwarded>,
}

impl RequestView<'_> {
    /// # Safety
    /// The caller sees to it that the exchange is neither changed nor dropped, and the poller not recycled, while
    /// the longer-lived view is in use.
    pub unsafe fn outlive<'a>(self) -> RequestView<'a> {
        // SAFETY: only the lifetime changes; the caller vouches for it.
        unsafe { std::mem::transmute(self) }
    }
}

/// What there is of a request's body.
pub enum Take<R> {
    Taken(R),
    /// Nothing yet; an event follows.
    Wait,
    /// The peer is gone, or has its whole answer.
    Disconnected,
}
