//! The TurnArena holds what one turn received. It owns the memory; a Lease is a slice of it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::slice;

/// Bytes that a poller received: a slice of its arena or of a buffer it lent to the kernel.
///
/// A lease is valid until the poller's `recycle`, which the loop calls only when nothing received earlier is
/// still wanted. It is a plain pointer and length so that it can wait in a batch without borrowing the loop.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    start: *const u8,
    len: u32,
}

// SAFETY: a Lease is only read (as_slice) on its reactor's thread, by contract of `as_slice`.
unsafe impl Send for Lease {}

impl Lease {
    pub const EMPTY: Lease = Lease { start: std::ptr::NonNull::dangling().as_ptr(), len: 0 };

    /// # Safety
    /// `start` must be valid for `len` bytes until the owning poller's next `recycle`.
    pub unsafe fn from_raw(start: *const u8, len: usize) -> Self {
        debug_assert!(len <= u32::MAX as usize);
        Lease { start, len: len as u32 }
    }

    pub fn len(self) -> usize {
        self.len as usize
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A part of it, good for as long as the whole.
    pub fn slice(self, range: std::ops::Range<usize>) -> Lease {
        assert!(range.start <= range.end && range.end <= self.len());
        // SAFETY: the range is inside, so the pointer is inside the leased memory or one past its end.
        Lease { start: unsafe { self.start.add(range.start) }, len: (range.end - range.start) as u32 }
    }

    /// # Safety
    /// Only before the owning poller's next `recycle`, on its reactor's thread.
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        // SAFETY: the caller vouches for the lease; from_raw's caller vouched for the memory.
        unsafe { slice::from_raw_parts(self.start, self.len as usize) }
    }
}

/// One fixed allocation that receives are laid into, one after another, until it is reset.
///
/// Pages that no receive has touched are never resident.
pub struct TurnArena {
    memory: *mut u8,
    capacity: usize,
    used: usize,
}

// SAFETY: the arena owns its memory; the pointer is not shared.
unsafe impl Send for TurnArena {}

/// Leases start on this boundary, so that two connections' bytes do not share a word.
const ALIGN: usize = 16;

impl TurnArena {
    pub fn with_capacity(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size of at least one page.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        TurnArena { memory, capacity, used: 0 }
    }

    fn layout(capacity: usize) -> Layout {
        assert!(capacity >= 4096, "an arena of {capacity} bytes cannot hold one receive");
        Layout::from_size_align(capacity, 4096).expect("capacity fits the address space")
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.capacity - self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Where the next receive may write, and how much at the most (`limit` or what is free).
    pub fn spare(&mut self, limit: usize) -> (*mut u8, usize) {
        // SAFETY: used <= capacity, so the pointer is inside the allocation or one past its end.
        (unsafe { self.memory.add(self.used) }, self.room().min(limit))
    }

    /// Take the first `len` bytes of `spare` as received.
    ///
    /// # Safety
    /// `len` bytes at `spare` must have been written since the last commit or reset.
    pub unsafe fn commit(&mut self, len: usize) -> Lease {
        assert!(len <= self.room());
        // SAFETY: inside the allocation, and written by the caller's word.
        let lease = unsafe { Lease::from_raw(self.memory.add(self.used), len) };
        self.used = (self.used + len).next_multiple_of(ALIGN).min(self.capacity);
        lease
    }

    /// Write over what every lease shows, for tests of who still looks.
    pub fn wipe(&mut self) {
        // SAFETY: `used` bytes of the allocation are ours to write; whoever reads them reads an ended lease.
        unsafe { self.memory.write_bytes(0xdb, self.used) }
    }

    /// Forget every lease. The memory is reused from its start, so its pages stay warm.
    pub fn reset(&mut self) {
        self.used = 0;
    }
}

impl Drop for TurnArena {
    fn drop(&mut self) {
        // SAFETY: allocated in with_capacity by the same layout.
        unsafe { dealloc(self.memory, Self::layout(self.capacity)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(arena: &mut TurnArena, bytes: &[u8]) -> Lease {
        let (start, room) = arena.spare(bytes.len());
        assert!(room >= bytes.len());
        // SAFETY: room was checked, and the bytes are written before the commit.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
            arena.commit(bytes.len())
        }
    }

    #[test]
    fn leases_of_one_turn_do_not_overlap() {
        let mut arena = TurnArena::with_capacity(4096);
        let (a, b) = (receive(&mut arena, b"first"), receive(&mut arena, b"second"));
        // SAFETY: nothing was recycled.
        unsafe {
            assert_eq!(a.as_slice(), b"first");
            assert_eq!(b.as_slice(), b"second");
        }
    }

    #[test]
    fn a_full_arena_has_no_room_until_it_is_reset() {
        let mut arena = TurnArena::with_capacity(4096);
        receive(&mut arena, &[7; 4090]);
        assert_eq!(arena.room(), 0);
        arena.reset();
        assert_eq!(arena.room(), 4096);
    }
}
