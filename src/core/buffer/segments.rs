//! A SegmentQueue is what one connection still has to send. It owns its bytes until the kernel took them.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Something outside the core that keeps borrowed bytes alive (for Python: a strong reference).
///
/// The core never interprets it: when the bytes have left, or never will, it comes back through `released`.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner(pub usize);

#[derive(Debug)]
enum Segment {
    /// Copied bytes in a pooled buffer.
    Copied(Vec<u8>),
    /// Bytes of a foreign object, held by its owner.
    Borrowed { start: *const u8, len: usize, owner: Owner },
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Copied(bytes) => bytes,
            // SAFETY: push_borrowed's caller vouched that the owner keeps these bytes alive and unchanged.
            Segment::Borrowed { start, len, .. } => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }
}

/// Empty buffers of a reactor, to be used again while still in the processor's cache.
#[derive(Default)]
pub struct BufferPool {
    free: Vec<Vec<u8>>,
}

impl BufferPool {
    pub const BUFFER_BYTES: usize = 4096;
    const MAX_FREE: usize = 256;
    const MAX_KEPT_BYTES: usize = 64 * 1024;

    pub fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(Self::BUFFER_BYTES))
    }

    /// Keep `buffer` for its next use, unless enough are kept or it has grown too large.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if self.free.len() < Self::MAX_FREE && buffer.capacity() <= Self::MAX_KEPT_BYTES {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

/// Segments in order, sent with one system call a turn.
///
/// While a send is in flight (`begin_flight`), the segments of that flight neither move nor grow.
#[derive(Default, Debug)]
pub struct SegmentQueue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have already left.
    sent_of_first: usize,
    bytes: usize,
    /// The last segment may take no more bytes: the kernel may be reading it.
    sealed: bool,
}

// SAFETY: borrowed bytes are kept alive by their owner wherever the queue is.
unsafe impl Send for SegmentQueue {}

impl SegmentQueue {
    /// At most this many segments are offered to one system call (`IOV_MAX` is 1024).
    pub const MAX_IOVECS: usize = 64;

    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that have not left yet.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Let `write` append to the last copied segment (or a new one), and count what it wrote.
    pub fn append_with<R>(&mut self, pool: &mut BufferPool, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        const FULL: usize = 64 * 1024;
        let open = !self.sealed && matches!(self.segments.back(), Some(Segment::Copied(bytes)) if bytes.len() < FULL);
        if !open {
            self.segments.push_back(Segment::Copied(pool.take()));
            self.sealed = false;
        }
        let Some(Segment::Copied(buffer)) = self.segments.back_mut() else { unreachable!("just made open") };
        let before = buffer.len();
        let result = write(buffer);
        self.bytes += buffer.len() - before;
        result
    }

    pub fn push_copy(&mut self, pool: &mut BufferPool, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.append_with(pool, |buffer| buffer.extend_from_slice(bytes));
        }
    }

    /// Send `bytes` without copying them.
    ///
    /// # Safety
    /// `owner` must keep `bytes` alive and unchanged until it comes back through `advance` or `clear`.
    pub unsafe fn push_borrowed(&mut self, bytes: &[u8], owner: Owner) {
        self.bytes += bytes.len();
        self.segments.push_back(Segment::Borrowed { start: bytes.as_ptr(), len: bytes.len(), owner });
    }

    /// What to hand to the kernel next: up to `MAX_IOVECS` slices, in order.
    pub fn io_slices<'a>(&'a self, into: &mut [IoSlice<'a>; Self::MAX_IOVECS]) -> usize {
        let mut count = 0;
        for segment in &self.segments {
            if count == Self::MAX_IOVECS {
                break;
            }
            let skip = if count == 0 { self.sent_of_first } else { 0 };
            into[count] = IoSlice::new(&segment.as_slice()[skip..]);
            count += 1;
        }
        count
    }

    /// The one slice that is left, if one `send` can carry everything (the common case).
    pub fn as_single(&self) -> Option<&[u8]> {
        (self.segments.len() == 1).then(|| &self.segments[0].as_slice()[self.sent_of_first..])
    }

    /// The kernel may read the present segments until the send completes: none of them grows.
    pub fn begin_flight(&mut self) {
        self.sealed = true;
    }

    /// `sent` bytes have left: let go of what is whole, and hand back its owners.
    pub fn advance(&mut self, mut sent: usize, pool: &mut BufferPool, released: &mut Vec<Owner>) {
        assert!(sent <= self.bytes, "{sent} bytes sent of {} queued", self.bytes);
        self.bytes -= sent;
        while let Some(first) = self.segments.front() {
            let left = first.as_slice().len() - self.sent_of_first;
            if sent < left {
                self.sent_of_first += sent;
                return;
            }
            sent -= left;
            self.sent_of_first = 0;
            self.release_first(pool, released);
        }
        self.sealed = false;
    }

    /// Nothing of this will be sent: hand everything back.
    pub fn clear(&mut self, pool: &mut BufferPool, released: &mut Vec<Owner>) {
        while !self.segments.is_empty() {
            self.release_first(pool, released);
        }
        (self.bytes, self.sent_of_first, self.sealed) = (0, 0, false);
    }

    fn release_first(&mut self, pool: &mut BufferPool, released: &mut Vec<Owner>) {
        match self.segments.pop_front() {
            Some(Segment::Copied(buffer)) => pool.give(buffer),
            Some(Segment::Borrowed { owner, .. }) => released.push(owner),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(queue: &SegmentQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        let count = queue.io_slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn small_copies_share_one_segment() {
        let (mut queue, mut pool) = (SegmentQueue::new(), BufferPool::default());
        queue.push_copy(&mut pool, b"head");
        queue.push_copy(&mut pool, b"body");
        assert_eq!(queue.as_single(), Some(&b"headbody"[..]));
    }

    #[test]
    fn a_partial_send_leaves_the_rest_in_order_and_returns_owners_once() {
        let (mut queue, mut pool, mut released) = (SegmentQueue::new(), BufferPool::default(), Vec::new());
        let body = b"borrowed bytes".to_vec();
        queue.push_copy(&mut pool, b"head ");
        // SAFETY: body outlives the queue.
        unsafe { queue.push_borrowed(&body, Owner(42)) };
        queue.push_copy(&mut pool, b" tail");
        queue.advance(8, &mut pool, &mut released);
        assert_eq!((flat(&queue).as_slice(), released.len()), (&b"rowed bytes tail"[..], 0));
        queue.advance(11, &mut pool, &mut released);
        assert_eq!((flat(&queue).as_slice(), released.as_slice()), (&b" tail"[..], &[Owner(42)][..]));
        queue.clear(&mut pool, &mut released);
        assert!(queue.is_empty() && released.len() == 1);
    }

    #[test]
    fn a_flight_s_segments_do_not_grow() {
        let (mut queue, mut pool) = (SegmentQueue::new(), BufferPool::default());
        queue.push_copy(&mut pool, b"in flight");
        let before = queue.as_single().map(<[u8]>::as_ptr);
        queue.begin_flight();
        queue.push_copy(&mut pool, b"later");
        assert!(queue.as_single().is_none());
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        assert_eq!(queue.io_slices(&mut slices), 2);
        assert_eq!(Some(slices[0].as_ptr()), before);
    }
}
