//! Penstock's own errors (python/penstock/errors.py), raised from here.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

/// An error of `penstock.errors`, by name.
pub fn raise<'py>(py: Python<'py>, name: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    let make = || py.import("penstock.errors")?.getattr(name)?.call1(arguments);
    make().map_or_else(|error| error, PyErr::from_value)
}
