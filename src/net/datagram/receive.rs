//! A ReceiveBatch takes what has arrived at a socket, up to a bound, with one `recvmmsg`. It owns the bytes, the senders'
//! addresses and the arrays that the kernel fills; nothing is allocated once it is made.
//!
//! Its pages become resident as datagrams are first written to them: small datagrams in large slots cost a page each.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::{io, mem, ptr, slice};

use super::super::inet_address::{RawAddress, SocketAddress, UnixAddress};
use super::control::{Control, RECEIVED_BYTES};

#[repr(C, align(8))]
struct ControlBytes([u8; RECEIVED_BYTES]);

pub struct ReceiveBatch {
    slots: Slots,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[ControlBytes]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    received: usize,
}

// SAFETY: the pointers in the arrays are to the batch's own boxes, which move with it.
unsafe impl Send for ReceiveBatch {}

/// One message of a batch.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// What there was room for.
    pub bytes: &'a [u8],
    /// Where it begins among all the bytes of the batch.
    pub start: usize,
    /// What it had when it was sent.
    pub whole_bytes: usize,
    /// The sender's address, as the kernel has it.
    pub name: &'a [u8],
    pub control: Control,
}

impl ReceiveBatch {
    /// Room for so many messages, of so many bytes each.
    pub fn new(messages: usize, slot_bytes: usize) -> Self {
        // SAFETY: these are plain data of the kernel's, for which zeroes are a value.
        let (name, iovec, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut batch = ReceiveBatch {
            slots: Slots::new(messages, slot_bytes),
            names: vec![name; messages].into(),
            controls: (0..messages).map(|_| ControlBytes([0; RECEIVED_BYTES])).collect(),
            iovecs: vec![iovec; messages].into(),
            headers: vec![header; messages].into(),
            received: 0,
        };
        for at in 0..messages {
            batch.iovecs[at] = libc::iovec { iov_base: batch.slots.pointer(at).cast(), iov_len: slot_bytes };
            let header = &mut batch.headers[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut batch.names[at]).cast();
            header.msg_iov = &mut batch.iovecs[at];
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(&mut batch.controls[at]).cast();
        }
        batch.received = messages;
        batch.prepare();
        batch
    }

    /// Undo what the kernel wrote over lengths and flags the last time.
    fn prepare(&mut self) {
        for header in &mut self.headers[..self.received] {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = RECEIVED_BYTES as _;
            header.msg_hdr.msg_flags = 0;
        }
        self.received = 0;
    }

    /// Take what is there, instead of what was taken before. At least one message, or an error: `WouldBlock` when there
    /// is none, or what a connected socket heard of its peer.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.prepare();
        let (headers, count) = (self.headers.as_mut_ptr(), self.headers.len() as libc::c_uint);
        // With MSG_TRUNC a length is what was sent, not what there was room for.
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: `count` headers, each with room for a name, a control message and the slot that it points to.
        let received =
            unsafe { libc::recvmmsg(socket.as_fd().as_raw_fd(), headers, count, flags as _, ptr::null_mut()) };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    pub fn len(&self) -> usize {
        self.received
    }

    pub fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// Messages that one call can take.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// One of those received.
    pub fn message(&self, at: usize) -> Message<'_> {
        let header = &self.headers[..self.received][at];
        let whole_bytes = header.msg_len as usize;
        let kept = whole_bytes.min(self.slots.slot_bytes);
        let name_bytes = (header.msg_hdr.msg_namelen as usize).min(mem::size_of::<libc::sockaddr_storage>());
        // SAFETY: the name is plain data, initialised when it was made.
        let name = unsafe { slice::from_raw_parts(ptr::from_ref(&self.names[at]).cast::<u8>(), name_bytes) };
        let told = header.msg_hdr.msg_controllen.min(RECEIVED_BYTES);
        let start = at * self.slots.slot_bytes;
        let control = Control::parse(&self.controls[at].0[..told]);
        Message { bytes: self.bytes(start, kept), start, whole_bytes, name, control }
    }

    /// The sender of a message, parsed.
    pub fn sender(&self, at: usize) -> io::Result<SocketAddress> {
        let length = self.headers[..self.received][at].msg_hdr.msg_namelen;
        if length == 0 {
            // A Unix socket that was never bound.
            return Ok(SocketAddress::Unix(UnixAddress::Unnamed));
        }
        RawAddress::from_storage(self.names[at], length).try_into()
    }

    /// Bytes of a message, by where it `start`s.
    pub fn bytes(&self, start: usize, length: usize) -> &[u8] {
        self.slots.bytes(start, length)
    }
}

/// One zeroed allocation, which the system maps when it is written to.
struct Slots {
    start: NonNull<u8>,
    layout: Layout,
    slot_bytes: usize,
}

impl Slots {
    fn new(count: usize, slot_bytes: usize) -> Self {
        let layout = Layout::array::<u8>((count * slot_bytes).max(1)).expect("a batch is far from half of all memory");
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Slots { start, layout, slot_bytes }
    }

    fn pointer(&self, at: usize) -> *mut u8 {
        assert!((at + 1) * self.slot_bytes <= self.layout.size());
        // SAFETY: within the allocation, as asserted.
        unsafe { self.start.as_ptr().add(at * self.slot_bytes) }
    }

    fn bytes(&self, start: usize, length: usize) -> &[u8] {
        assert!(start.checked_add(length).is_some_and(|end| end <= self.layout.size()));
        // SAFETY: within the allocation, as asserted; zeroed when it was made, and written only through `&mut` batches.
        unsafe { slice::from_raw_parts(self.start.as_ptr().add(start), length) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
