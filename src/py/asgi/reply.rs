//! What `receive()` and `send()` return: something to be awaited, which is ready most of the time.
//!
//! A ready one completes within the interpreter's SEND, without a StopIteration (PEP 492's protocol, PyIter_Send). One
//! that must wait yields a future and looks again when it is woken, so nothing is taken for a caller that was
//! cancelled meanwhile. Each is also a coroutine by interface: `asyncio.create_task(receive())` works.

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::cycle::{HttpCycle, Look};
use crate::py::guarded::Guarded;
use crate::py::task::{send_none, send_result, set_am_send};

#[pyclass(frozen, module = "penstock._core")]
pub struct Reply {
    state: Guarded<State>,
}

enum State {
    /// `None`, as often as one likes: what a `send` that need not wait returns.
    Done,
    Value(Py<PyAny>),
    Waiting {
        cycle: Py<HttpCycle>,
        what: Awaited,
        steps: Option<Py<PyAny>>,
    },
    Spent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The next message of `receive`.
    Message,
    /// Room for more output.
    Room,
}

impl Reply {
    /// The one reply of every `send` that need not wait.
    pub fn done(py: Python<'_>) -> PyResult<Py<Reply>> {
        static DONE: PyOnceLock<Py<Reply>> = PyOnceLock::new();
        DONE.get_or_try_init(py, || Py::new(py, Reply { state: Guarded::new(State::Done) }))
            .map(|done| done.clone_ref(py))
    }

    pub fn value(py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<Reply>> {
        Py::new(py, Reply { state: Guarded::new(State::Value(value)) })
    }

    pub fn waiting(py: Python<'_>, cycle: Py<HttpCycle>, what: Awaited) -> PyResult<Py<Reply>> {
        Py::new(py, Reply { state: Guarded::new(State::Waiting { cycle, what, steps: None }) })
    }

    fn is_done(&self) -> bool {
        self.state.enter().is_ok_and(|state| matches!(*state, State::Done))
    }

    /// `Ok(Ok)`: wait for this future. `Ok(Err)`: the result.
    fn step(&self, py: Python<'_>) -> PyResult<Result<Py<PyAny>, Py<PyAny>>> {
        let mut entered = self.state.enter()?;
        match std::mem::replace(&mut *entered, State::Spent) {
            State::Done => {
                *entered = State::Done;
                Ok(Err(py.None()))
            }
            State::Value(value) => Ok(Err(value)),
            State::Waiting { cycle, what, steps } => {
                drop(entered);
                self.step_waiting(py, cycle, what, steps)
            }
            State::Spent => Err(PyRuntimeError::new_err("cannot reuse already awaited receive() or send()")),
        }
    }

    fn step_waiting(
        &self,
        py: Python<'_>,
        cycle: Py<HttpCycle>,
        what: Awaited,
        mut steps: Option<Py<PyAny>>,
    ) -> PyResult<Result<Py<PyAny>, Py<PyAny>>> {
        loop {
            if let Some(waiting) = steps.take()
                && let Some(future) = send_none(py, waiting.bind(py))?
            {
                *self.state.enter()? = State::Waiting { cycle, what, steps: Some(waiting) };
                return Ok(Ok(future));
            }
            match HttpCycle::look(cycle.bind(py), what)? {
                Look::Ready(value) => return Ok(Err(value)),
                Look::Wait(future) => steps = Some(future.bind(py).try_iter()?.into_any().unbind()),
            }
        }
    }
}

#[pymethods]
impl Reply {
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
            return Err(PyTypeError::new_err("only None can be sent to receive() or send()"));
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
        let mut entered = self.state.enter()?;
        let gone = match &*entered {
            State::Done => None,
            _ => Some(std::mem::replace(&mut *entered, State::Spent)),
        };
        drop(entered);
        drop(gone);
        Ok(())
    }
}

/// `am_send`: a ready reply completes here.
unsafe extern "C" fn reply_send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: called by the interpreter, attached, for an object of this type, with a place for the result.
    unsafe {
        let py = Python::assume_attached();
        if Borrowed::from_ptr(py, slf).cast_unchecked::<Reply>().get().is_done() {
            *result = py.None().into_ptr();
            return ffi::PySendResult::PYGEN_RETURN;
        }
    }
    // The interpreter is attached already; this tells the binding so, for what it may have to release.
    Python::attach(|py| {
        // SAFETY: called by the interpreter for an object of this type, with a place for the result.
        unsafe {
            let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<Reply>();
            send_result(py, slf.get().step(py), result)
        }
    })
}

pub fn prepare_type(py: Python<'_>) {
    set_am_send::<Reply>(py, reply_send);
}
