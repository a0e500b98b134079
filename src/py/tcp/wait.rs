//! What `receive()`, `drain()` and `wait_closed()` return: something to be awaited, which looks when it is stepped.
//!
//! Nothing is taken before it is awaited, nor for a caller that was cancelled: a wait that was woken looks again.

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::connection::StreamConnection;
use crate::py::guarded::Guarded;
use crate::py::task::{send_none, send_result, set_am_send};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The next frame; `None` at the end of the stream.
    Frame,
    /// The same, with StopAsyncIteration at the end.
    NextFrame,
    /// Room for more output.
    Room,
    /// The end of the connection: its reason.
    Closed,
}

/// What a wait finds when it looks.
pub enum Look {
    Ready(Py<PyAny>),
    Wait(Py<PyAny>),
}

#[pyclass(frozen, module = "penstock._core")]
pub struct StreamWait {
    state: Guarded<State>,
}

enum State {
    Waiting { connection: Py<StreamConnection>, what: Awaited, steps: Option<Py<PyAny>> },
    Spent,
}

impl StreamWait {
    pub fn new(py: Python<'_>, connection: Py<StreamConnection>, what: Awaited) -> PyResult<Py<Self>> {
        Py::new(py, StreamWait { state: Guarded::new(State::Waiting { connection, what, steps: None }) })
    }

    /// `Ok(Ok)`: wait for this future. `Ok(Err)`: the result.
    fn step(&self, py: Python<'_>) -> PyResult<Result<Py<PyAny>, Py<PyAny>>> {
        let state = std::mem::replace(&mut *self.state.enter()?, State::Spent);
        let State::Waiting { connection, what, mut steps } = state else {
            return Err(PyRuntimeError::new_err("cannot reuse what was already awaited"));
        };
        loop {
            if let Some(waiting) = steps.take()
                && let Some(future) = send_none(py, waiting.bind(py))?
            {
                *self.state.enter()? = State::Waiting { connection, what, steps: Some(waiting) };
                return Ok(Ok(future));
            }
            match StreamConnection::look(connection.bind(py), what)? {
                Look::Ready(value) => return Ok(Err(value)),
                Look::Wait(future) => steps = Some(future.bind(py).try_iter()?.into_any().unbind()),
            }
        }
    }
}

#[pymethods]
impl StreamWait {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.step(py)? {
            Ok(future) => Ok(future),
            Err(value) => Err(PyStopIteration::new_err((value,))),
        }
    }

    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if !value.is_none() {
            return Err(PyTypeError::new_err("only None can be sent to what is awaited"));
        }
        self.__next__(py)
    }

    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw(
        &self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        self.close()?;
        Err(match value {
            Some(value) => PyErr::from_value(value),
            None => PyErr::from_value(kind),
        })
    }

    fn close(&self) -> PyResult<()> {
        let gone = std::mem::replace(&mut *self.state.enter()?, State::Spent);
        drop(gone);
        Ok(())
    }
}

/// `am_send`: what is ready completes here, without a StopIteration.
unsafe extern "C" fn wait_send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // The interpreter is attached already; this tells the binding so.
    Python::attach(|py| {
        // SAFETY: called by the interpreter for an object of this type, with a place for the result.
        unsafe {
            let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<StreamWait>();
            send_result(py, slf.get().step(py), result)
        }
    })
}

pub fn prepare_type(py: Python<'_>) {
    set_am_send::<StreamWait>(py, wait_send);
}
