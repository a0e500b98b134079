//! Penstock's own errors (python/penstock/errors.py), raised from here.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

/// An error of `penstock.errors`, by name.
pub fn raise<'py>(py: Python<'py>, name: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    let make = || py.import("penstock.errors")?.getattr(name)?.call1(arguments);
    make().map_or_else(|error| error, PyErr::from_value)
}

/// Whether it is one of `penstock.errors`, by name.
pub fn is(py: Python<'_>, error: &PyErr, name: &str) -> bool {
    let kind = py.import("penstock.errors").and_then(|errors| errors.getattr(name));
    kind.is_ok_and(|kind| error.matches(py, kind).unwrap_or(false))
}
