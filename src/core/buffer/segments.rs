//! A SegmentQueue is what one connection still has to send. It owns its bytes until the kernel took them; of a file it
//! owns the descriptor and knows the range, and the bytes go from the kernel to the kernel.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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
    /// A range of a regular file, which is closed when its last range has left.
    File { file: Arc<OwnedFd>, offset: u64, len: usize },
}

impl Segment {
    /// The bytes, unless they are in a file.
    fn as_slice(&self) -> Option<&[u8]> {
        match self {
            Segment::Copied(bytes) => Some(bytes),
            // SAFETY: push_borrowed's caller vouched that the owner keeps these bytes alive and unchanged.
            Segment::Borrowed { start, len, .. } => Some(unsafe { std::slice::from_raw_parts(*start, *len) }),
            Segment::File { .. } => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Segment::Copied(bytes) => bytes.len(),
            Segment::Borrowed { len, .. } | Segment::File { len, .. } => *len,
        }
    }
}

/// A part of a file that is to leave next.
#[derive(Clone, Copy, Debug)]
pub struct FileRange<'a> {
    pub file: BorrowedFd<'a>,
    pub offset: u64,
    pub len: usize,
}

/// What is to leave next by one system call.
#[derive(Debug)]
pub enum Run<'a> {
    Nothing,
    /// The first `count` slices, `bytes` in all. Whether a file follows them at once: then they need not travel alone.
    Slices {
        count: usize,
        bytes: usize,
        before_file: bool,
    },
    File(FileRange<'a>),
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

    /// Buffers kept.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

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
    /// How many of the segments are files.
    files: usize,
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

    /// Send a range of a regular file, by the kernel alone where it can. If the file turns out to be shorter when its
    /// turn comes, the send fails: what was promised cannot be kept.
    pub fn push_file(&mut self, file: Arc<OwnedFd>, offset: u64, len: usize) {
        if len > 0 {
            (self.bytes, self.files) = (self.bytes + len, self.files + 1);
            self.segments.push_back(Segment::File { file, offset, len });
        }
    }

    /// Whether it takes more than slices to send this.
    pub fn has_files(&self) -> bool {
        self.files > 0
    }

    /// What to hand to the kernel next, after the first `skip` bytes: a file's range, or up to `MAX_IOVECS` slices.
    pub fn run<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>; Self::MAX_IOVECS]) -> Run<'a> {
        let (mut skip, mut count, mut bytes) = (self.sent_of_first + skip, 0, 0);
        for segment in &self.segments {
            let skipped = skip.min(segment.len());
            skip -= skipped;
            let len = segment.len() - skipped;
            match segment {
                _ if len == 0 => {}
                _ if count == Self::MAX_IOVECS => break,
                Segment::File { .. } if count > 0 => return Run::Slices { count, bytes, before_file: true },
                Segment::File { file, offset, .. } => {
                    return Run::File(FileRange { file: file.as_fd(), offset: offset + skipped as u64, len });
                }
                Segment::Copied(_) | Segment::Borrowed { .. } => {
                    into[count] = IoSlice::new(&segment.as_slice().unwrap_or_default()[skipped..]);
                    (count, bytes) = (count + 1, bytes + len);
                }
            }
        }
        if count == 0 { Run::Nothing } else { Run::Slices { count, bytes, before_file: false } }
    }

    /// The one slice that is left, if one `send` can carry everything (the common case).
    pub fn as_single(&self) -> Option<&[u8]> {
        match self.segments.len() {
            1 => self.segments[0].as_slice().map(|bytes| &bytes[self.sent_of_first..]),
            _ => None,
        }
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
            let left = first.len() - self.sent_of_first;
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
            Some(Segment::File { .. }) => self.files -= 1,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(queue: &SegmentQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        match queue.run(0, &mut slices) {
            Run::Slices { count, .. } => slices[..count].iter().flat_map(|slice| slice.to_vec()).collect(),
            _ => Vec::new(),
        }
    }

    fn file() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
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
        assert!(matches!(queue.run(0, &mut slices), Run::Slices { count: 2, bytes: 14, before_file: false }));
        assert_eq!(Some(slices[0].as_ptr()), before);
    }

    #[test]
    fn runs_alternate_between_memory_and_files() {
        let (mut queue, mut pool, mut released) = (SegmentQueue::new(), BufferPool::default(), Vec::new());
        let file = file();
        queue.push_copy(&mut pool, b"head");
        queue.push_file(file.clone(), 1000, 50);
        queue.push_file(file.clone(), 0, 0);
        queue.push_copy(&mut pool, b"tail");
        assert_eq!((queue.bytes(), queue.has_files(), Arc::strong_count(&file)), (58, true, 2));
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        assert!(matches!(queue.run(0, &mut slices), Run::Slices { count: 1, bytes: 4, before_file: true }));
        assert!(matches!(queue.run(4, &mut slices), Run::File(FileRange { offset: 1000, len: 50, .. })));
        assert!(matches!(queue.run(54, &mut slices), Run::Slices { bytes: 4, before_file: false, .. }));
        assert!(matches!(queue.run(58, &mut slices), Run::Nothing));
        queue.advance(14, &mut pool, &mut released);
        let mut slices = [IoSlice::new(&[]); SegmentQueue::MAX_IOVECS];
        assert!(matches!(queue.run(0, &mut slices), Run::File(FileRange { offset: 1010, len: 40, .. })));
        assert!(queue.as_single().is_none());
        queue.advance(42, &mut pool, &mut released);
        assert_eq!((flat(&queue).as_slice(), queue.has_files(), Arc::strong_count(&file)), (&b"il"[..], false, 1));
    }
}
