//! A Guarded value is entered by one caller at a time; a second one is told so instead of waiting.
//!
//! A reactor belongs to one thread, yet Python can hand its objects to any. While the loop's thread is inside (in a
//! turn, detached), another thread's call must fail with a clear word and never touch the value. Waiting would be
//! wrong: it would hide the mistake and could deadlock.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::PyErr;
use pyo3::exceptions::PyRuntimeError;

pub struct Guarded<T> {
    busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through `enter`, which lets one caller in at a time. T: Send makes it sound that
// the callers are on different threads.
unsafe impl<T: Send> Sync for Guarded<T> {}

pub struct Busy;

impl From<Busy> for PyErr {
    fn from(_: Busy) -> PyErr {
        PyRuntimeError::new_err(
            "this event loop is at work in another thread: use loop.call_soon_threadsafe() or \
             asyncio.run_coroutine_threadsafe() to reach it",
        )
    }
}

impl<T> Guarded<T> {
    pub const fn new(value: T) -> Self {
        Guarded { busy: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[inline]
    pub fn enter(&self) -> Result<Entered<'_, T>, Busy> {
        if self.take() { Ok(Entered { guarded: self }) } else { Err(Busy) }
    }

    /// With the interpreter's global lock a load and a store suffice: nobody else runs between them.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    fn take(&self) -> bool {
        let free = !self.busy.load(Ordering::Relaxed);
        if free {
            self.busy.store(true, Ordering::Relaxed);
        }
        free
    }

    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    fn take(&self) -> bool {
        !self.busy.swap(true, Ordering::Acquire)
    }
}

pub struct Entered<'a, T> {
    guarded: &'a Guarded<T>,
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this is the one Entered there is.
        unsafe { &*self.guarded.value.get() }
    }
}

impl<T> DerefMut for Entered<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the one Entered there is, and it is borrowed mutably.
        unsafe { &mut *self.guarded.value.get() }
    }
}

impl<T> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        self.guarded.busy.store(false, Ordering::Release);
    }
}
