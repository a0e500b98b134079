//! Python objects whose bytes wait in an output queue. The core holds them as an opaque `Owner`.
//!
//! An owner is one strong reference. It comes back when its bytes have left, and is released here, attached: never on
//! the detached side of a turn.

use pyo3::prelude::*;

use crate::core::buffer::Owner;

/// Turn a reference into an owner.
pub fn keep(object: Bound<'_, PyAny>) -> Owner {
    Owner(object.into_ptr() as usize)
}

/// Release what has come back.
pub fn release(py: Python<'_>, owners: &mut Vec<Owner>) {
    for owner in owners.drain(..) {
        // SAFETY: `keep` made it from a strong reference, and each owner comes back once.
        drop(unsafe { Bound::from_owned_ptr(py, owner.0 as *mut pyo3::ffi::PyObject) });
    }
}
