//! A Job is one request on its way to a thread, and its response on the way back: plain memory that any thread may hold.
//!
//! It is used again for the next request, so a small request and its answer allocate nothing of their own.

use std::time::Instant;

use super::spool::SpooledBody;
use crate::core::Token;
use crate::core::buffer::Owner;
use crate::protocol::http1::forwarded::Forwarded;
use crate::protocol::http1::{RequestHead, ResponseError, ResponseHead, reason_phrase};
use crate::server::http::{Body, FileBody, LocalAddress, PeerAddress, RequestView};

/// A buffer larger than this is not kept for the next request.
const KEPT_BYTES: usize = 16 * 1024;

pub struct Job {
    pub token: Token,
    /// The head's spans, and the bytes that they are of.
    pub head: RequestHead,
    pub head_bytes: Vec<u8>,
    pub peer: PeerAddress,
    pub local: Option<LocalAddress>,
    pub listener: u16,
    /// What a trusted proxy says of the request.
    pub forwarded: Option<Box<Forwarded>>,
    /// What had arrived of the body, its beginning in a file; and whether that was all of it.
    pub spooled: Option<SpooledBody>,
    pub body: Vec<u8>,
    pub is_body_whole: bool,
    pub queued_at: Instant,
    pub reply: Reply,
}

impl Job {
    pub fn new(token: Token, now: Instant) -> Self {
        Job {
            token,
            head: RequestHead::default(),
            head_bytes: Vec::new(),
            peer: PeerAddress::Unknown,
            local: None,
            listener: 0,
            forwarded: None,
            spooled: None,
            body: Vec::new(),
            is_body_whole: true,
            queued_at: now,
            reply: Reply::default(),
        }
    }

    /// Take a request over; its bytes are copied.
    pub fn fill(&mut self, view: &RequestView<'_>) {
        let mut headers = std::mem::take(&mut self.head.headers);
        headers.clone_from(&view.head.headers);
        self.head = RequestHead { headers, ..*view.head };
        self.head_bytes.clear();
        self.head_bytes.extend_from_slice(view.bytes);
        self.forwarded = view.forwarded.map(|forwarded| Box::new(forwarded.clone()));
    }

    /// Ready for another request.
    pub fn recycle(&mut self) {
        empty(&mut self.body);
        self.reply.head.clear();
        match &mut self.reply.body {
            ReplyBody::Copied(bytes) => empty(bytes),
            other => *other = ReplyBody::default(),
        }
    }

    pub fn is_method(&self, name: &[u8]) -> bool {
        self.head.method.of(&self.head_bytes) == name
    }
}

fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// The whole of a response.
#[derive(Default)]
pub struct Reply {
    pub head: ReplyHead,
    pub body: ReplyBody,
}

/// What `start_response` was told.
#[derive(Default)]
pub struct ReplyHead {
    pub status: u16,
    /// The reason phrase, if it is not the status's own; names and values, one behind the other; and how long each is.
    bytes: Vec<u8>,
    reason_bytes: usize,
    fields: Vec<(u32, u32)>,
}

impl ReplyHead {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.reason_bytes = 0;
        self.fields.clear();
    }

    /// Before the first header.
    pub fn begin(&mut self, status: u16, reason: &[u8]) {
        self.clear();
        self.status = status;
        if !reason.is_empty() && reason != reason_phrase(status).as_bytes() {
            self.bytes.extend_from_slice(reason);
            self.reason_bytes = reason.len();
        }
    }

    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.fields.push((name.len() as u32, value.len() as u32));
    }

    pub fn write(&self, head: &mut ResponseHead<'_>) -> Result<(), ResponseError> {
        let (reason, mut rest) = self.bytes.split_at(self.reason_bytes);
        if !reason.is_empty() {
            head.reason(reason)?;
        }
        for &(name_bytes, value_bytes) in &self.fields {
            let (name, after) = rest.split_at(name_bytes as usize);
            let (value, after) = after.split_at(value_bytes as usize);
            head.header(name, value)?;
            rest = after;
        }
        Ok(())
    }
}

/// A piece of a response's body.
pub enum ReplyBody {
    Copied(Vec<u8>),
    /// Sent from where it is.
    Borrowed(BorrowedBytes),
    File(FileBody),
}

impl Default for ReplyBody {
    fn default() -> Self {
        ReplyBody::Copied(Vec::new())
    }
}

impl ReplyBody {
    pub fn bytes(&self) -> usize {
        match self {
            ReplyBody::Copied(bytes) => bytes.len(),
            ReplyBody::Borrowed(borrowed) => borrowed.len,
            ReplyBody::File(file) => file.bytes(),
        }
    }

    /// For the output, which takes over what keeps borrowed bytes alive.
    pub fn as_body(&mut self) -> Body<'_> {
        match self {
            ReplyBody::Copied(bytes) => Body::Copied(bytes),
            ReplyBody::Borrowed(borrowed) => borrowed.as_body(),
            ReplyBody::File(file) => file.as_body(),
        }
    }

    /// What must be let go of by somebody who is attached, if the body was not sent.
    pub fn into_owner(self) -> Option<Owner> {
        match self {
            ReplyBody::Borrowed(borrowed) => borrowed.owner,
            ReplyBody::Copied(_) | ReplyBody::File(_) => None,
        }
    }
}

/// Bytes of an object that its owner keeps alive.
pub struct BorrowedBytes {
    start: *const u8,
    len: usize,
    owner: Option<Owner>,
}

// SAFETY: the bytes are immutable and kept alive by the owner, which is a number until somebody attached releases it.
unsafe impl Send for BorrowedBytes {}

impl BorrowedBytes {
    /// # Safety
    /// `owner` must keep `bytes` alive and unchanged until it is released.
    pub unsafe fn new(bytes: &[u8], owner: Owner) -> Self {
        BorrowedBytes { start: bytes.as_ptr(), len: bytes.len(), owner: Some(owner) }
    }

    fn as_body(&mut self) -> Body<'_> {
        match self.owner.take() {
            // SAFETY: `new`'s caller vouched for it.
            Some(owner) => Body::Borrowed(unsafe { std::slice::from_raw_parts(self.start, self.len) }, owner),
            None => Body::Copied(&[]),
        }
    }
}
