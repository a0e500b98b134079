//! SharedWords are numbers in memory that a process and the children it forks have in common. They own the mapping.
//!
//! Words, and nothing else: a plain atomic number means the same in every process, whatever one of them was in the
//! middle of when it was killed.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

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
