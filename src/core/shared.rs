//! SharedWords are numbers in memory that a process and the children it forks have in common. They own the mapping.
//!
//! Words, and nothing else: a plain atomic number means the same in every process, whatever one of them was in the
//! middle of when it was killed. A [`SharedRow`] is a structure of such words, one of several in one mapping.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::metrics::ReactorCounters;

pub struct SharedWords {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping is shared memory of atomics, good for any thread, and lives until the value is dropped.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// `count` zeroes. Pages that nobody touches cost nothing.
    pub fn new(count: usize) -> io::Result<Self> {
        assert!(count > 0, "a mapping has at least one word");
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), count * size_of::<AtomicU64>(), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(SharedWords { start: NonNull::new(start.cast()).expect("a mapping is not at zero"), count })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, page-aligned; zeroes are an AtomicU64.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size. Other processes keep their own mapping.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

/// Structures made of atomic 64-bit words alone, for which zeroes are a value.
///
/// # Safety
/// Every byte of the type belongs to an `AtomicU64`, or is padding that nobody reads.
pub unsafe trait Words: Sync + 'static {}

// SAFETY: its fields are counters, levels and arrays of them, each a transparent AtomicU64.
unsafe impl Words for ReactorCounters {}

/// One of several equal structures in shared memory. Clones are handles of the same one; the last of any unmaps all.
pub struct SharedRow<T: Words> {
    words: Arc<SharedWords>,
    row: NonNull<T>,
}

// SAFETY: what it points to is atomic numbers, good for any thread, in a mapping that it keeps.
unsafe impl<T: Words> Send for SharedRow<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for SharedRow<T> {}

impl<T: Words> SharedRow<T> {
    /// `count` rows of zeroes. Pages of rows that nobody touches cost nothing.
    pub fn several(count: usize) -> io::Result<Vec<Self>> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<AtomicU64>()) && align_of::<T>() <= 4096) };
        let row_words = size_of::<T>() / size_of::<AtomicU64>();
        let words = Arc::new(SharedWords::new(count * row_words)?);
        let row_at = |at: usize| NonNull::from(&words[at * row_words]).cast();
        Ok((0..count).map(|at| SharedRow { words: words.clone(), row: row_at(at) }).collect())
    }

    /// One row of one's own. Panics if the kernel has no page left.
    pub fn alone() -> Self {
        Self::several(1).expect("a few pages of memory").remove(0)
    }
}

impl<T: Words> Clone for SharedRow<T> {
    fn clone(&self) -> Self {
        SharedRow { words: self.words.clone(), row: self.row }
    }
}

impl<T: Words> Deref for SharedRow<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: inside the mapping, which is page-aligned and made of rows of this size; words make the type up, and
        // the mapping lives as long as `words`.
        unsafe { self.row.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_forked_child_writes_what_its_parent_reads() {
        let words = SharedWords::new(4).unwrap();
        // SAFETY: the child stores a word and leaves; it calls nothing that another thread may have locked.
        let child = unsafe { libc::fork() };
        if child == 0 {
            words[3].store(7, Ordering::SeqCst);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        let values: Vec<_> = words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        assert_eq!(values, [0, 0, 0, 7]);
    }
}
