//! `MainReactor`: the main reactor as Python sees it. Its thread is Rust's own and knows no interpreter.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::guarded::Guarded;
use super::reactor::{ReactorHandle, counters_as_dict, hold, listener_of};
use super::scoreboard::{Scoreboard, shard_of};
use crate::core::Shard;
use crate::core::poller::{self, PollerKind};
use crate::reactor;

/// Accepts on a thread of its own, and hands each connection to the reactor with the fewest.
#[pyclass(frozen, module = "penstock._core")]
pub struct MainReactor {
    inner: Guarded<Option<reactor::MainReactor>>,
    counters: Shard,
    deserted: Arc<AtomicBool>,
}

impl MainReactor {
    fn with<R>(&self, act: impl FnOnce(&reactor::MainReactor) -> R) -> PyResult<R> {
        match self.inner.enter()?.as_ref() {
            Some(inner) => Ok(act(inner)),
            None => Err(PyRuntimeError::new_err("the main reactor has stopped")),
        }
    }
}

#[pymethods]
impl MainReactor {
    #[new]
    #[pyo3(signature = (reactors, poller = "auto", scoreboard = None, slot = 0))]
    fn new(
        py: Python<'_>,
        reactors: Vec<Py<ReactorHandle>>,
        poller: &str,
        scoreboard: Option<&Scoreboard>,
        slot: usize,
    ) -> PyResult<Self> {
        if reactors.is_empty() {
            return Err(PyValueError::new_err("a main reactor hands connections over to at least one reactor"));
        }
        let kind: PollerKind = poller.parse().map_err(PyValueError::new_err)?;
        let handles = reactors.iter().map(|handle| handle.get().0.clone()).collect();
        let open = move || poller::open(kind);
        let deserted = Arc::new(AtomicBool::new(false));
        let say = deserted.clone();
        let say = Box::new(move || say.store(true, Ordering::Release));
        let shard = shard_of(scoreboard, slot)?;
        let inner = py.detach(|| reactor::MainReactor::start_counting_in(shard, open, handles, say))?;
        let counters = inner.counters().clone();
        Ok(MainReactor { inner: Guarded::new(Some(inner)), counters, deserted })
    }

    /// Accept from a listening socket, whose connections have this number in the applications' lists of listeners. The
    /// descriptor is duplicated: the caller keeps its own.
    fn add_listener(&self, fd: RawFd, number: u16) -> PyResult<()> {
        let own = listener_of(fd)?;
        self.with(|inner| inner.add_listener(own, number))?.map_err(order_error)
    }

    /// Accept no more from this listener; `last` as for `Reactor.remove_listeners`. On return all that its clients believe
    /// accepted has been handed over.
    #[pyo3(signature = (number, last = false))]
    fn remove_listener(&self, py: Python<'_>, number: u16, last: bool) -> PyResult<()> {
        self.with(|inner| py.detach(|| inner.remove_listener(number, hold(last))))?.map_err(order_error)
    }

    /// Remove every listener and end the thread. Idempotent; an OSError if the thread had ended by one.
    #[pyo3(signature = (last = false))]
    fn stop(&self, py: Python<'_>, last: bool) -> PyResult<()> {
        let inner = self.inner.enter()?.take();
        match inner {
            Some(inner) => Ok(py.detach(|| inner.stop(hold(last)))?),
            None => Ok(()),
        }
    }

    /// Whether a connection had to be closed because no reactor was left to take it.
    #[getter]
    fn deserted(&self) -> bool {
        self.deserted.load(Ordering::Acquire)
    }

    /// Its counters, by name. From any thread.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counters_as_dict(py, &self.counters)
    }
}

fn order_error(error: reactor::MainReactorError) -> PyErr {
    match error {
        reactor::MainReactorError::Refused(error) => PyOSError::new_err(error),
        error @ reactor::MainReactorError::Gone => PyRuntimeError::new_err(error.to_string()),
        error => PyValueError::new_err(error.to_string()),
    }
}
